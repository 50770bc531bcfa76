"""A workload that knows SPIFFE and nothing of meshfed: the PyPI package `spiffe`, Python's ssl and cryptography.

Prints one JSON object per line.
"""
import argparse
import json
import socket
import ssl
import sys
import tempfile
import threading

import grpc
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509 import SubjectAlternativeName, UniformResourceIdentifier, load_der_x509_certificate
from cryptography.x509.verification import PolicyBuilder, Store
from spiffe import TrustDomain, WorkloadApiClient
from spiffe._proto import workload_pb2, workload_pb2_grpc


def say(**what):
    print(json.dumps(what), flush=True)


def anchors(bundle):
    return sorted(bundle.x509_authorities, key=lambda c: c.public_bytes(Encoding.DER))


def verified(svid, bundle):
    """Whether the chain leads to the bundle that came with it, by a verifier of its own."""
    verifier = PolicyBuilder().store(Store(anchors(bundle))).build_client_verifier()
    verifier.verify(svid.leaf, list(svid.cert_chain[1:]))
    return True


def shown(context):
    bundles = context.x509_bundle_set
    svids = []
    for svid in context.x509_svids:
        bundle = bundles.get_bundle_for_trust_domain(svid.spiffe_id.trust_domain)
        svids.append({
            "id": str(svid.spiffe_id),
            "serial": str(svid.leaf.serial_number),
            "chain": len(svid.cert_chain),
            "verified": verified(svid, bundle),
        })
    return {"svids": svids, "trustDomains": sorted(b.trust_domain.name for b in bundles.bundles)}


def fetch(client, _args):
    say(**shown(client.fetch_x509_context(timeout=10)))


def bundles(client, _args):
    say(trustDomains=sorted(b.trust_domain.name for b in client.fetch_x509_bundles(timeout=10).bundles))


def watch(client, _args):
    client.stream_x509_contexts(lambda context: say(**shown(context)), lambda error: say(error=str(error)))
    threading.Event().wait()


def call(client, args):
    """One HTTP request over mutual TLS, with the SVID, to a peer of --trust."""
    context = client.fetch_x509_context(timeout=10)
    svid = context.default_svid
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # A SPIFFE ID is no host name: whose certificate it is, is checked below.
    tls.check_hostname = False
    trusted = context.x509_bundle_set.get_bundle_for_trust_domain(TrustDomain(args.trust))
    tls.load_verify_locations(cadata=b"".join(c.public_bytes(Encoding.DER) for c in anchors(trusted)))
    tls.set_alpn_protocols(["http/1.1"])
    with tempfile.NamedTemporaryFile() as pem:
        pem.write(svid.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        for certificate in svid.cert_chain:
            pem.write(certificate.public_bytes(Encoding.PEM))
        pem.flush()
        tls.load_cert_chain(pem.name)
    host, port = args.address.rsplit(":", 1)
    try:
        raw = socket.create_connection((host, int(port)), timeout=10)
        with tls.wrap_socket(raw, server_hostname=args.sni) as stream:
            peer = load_der_x509_certificate(stream.getpeercert(binary_form=True))
            names = peer.extensions.get_extension_for_class(SubjectAlternativeName).value
            peers = names.get_values_for_type(UniformResourceIdentifier)
            stream.sendall(f"GET / HTTP/1.1\r\nHost: {args.host}\r\nConnection: close\r\n\r\n".encode())
            answer = b""
            while chunk := stream.recv(65536):
                answer += chunk
        head, _, body = answer.partition(b"\r\n\r\n")
        say(peers=peers, status=int(head.split(b" ")[1]), body=body.decode())
    except OSError as error:
        say(refused=str(error))


def raw(stub, args):
    """The bare stub: every message of a stream, and how it ended."""
    metadata = [] if args.no_header else [("workload.spiffe.io", "true")]
    try:
        for message in stub.FetchX509SVID(workload_pb2.X509SVIDRequest(), metadata=metadata):
            say(ids=[svid.spiffe_id for svid in message.svids], hints=[svid.hint for svid in message.svids])
        say(end="OK")
    except grpc.RpcError as error:
        say(end=error.code().name, details=error.details())


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--socket", required=True)
    verbs = parser.add_subparsers(required=True)
    for verb in (fetch, bundles, watch, call, raw):
        sub = verbs.add_parser(verb.__name__)
        sub.set_defaults(verb=verb)
        if verb is call:
            for name in ("--address", "--sni", "--host", "--trust"):
                sub.add_argument(name, required=True)
        if verb is raw:
            sub.add_argument("--no-header", action="store_true")
    args = parser.parse_args()
    if args.verb is raw:
        client = workload_pb2_grpc.SpiffeWorkloadAPIStub(grpc.insecure_channel("unix:" + args.socket))
    else:
        client = WorkloadApiClient("unix:" + args.socket)
    try:
        args.verb(client, args)
    except Exception as error:  # pylint: disable=broad-except
        say(error=str(error))
        sys.exit(1)


main()
