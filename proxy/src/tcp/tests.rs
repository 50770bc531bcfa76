use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use meshfed_model::identity::{SpiffeId, TrustDomain};
use meshfed_runtime::tls::{ClientAuth, Identity, IdentityStore, TrustStore, server_config};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::while_trusted;
use crate::forward::Standing;
use crate::listen::Limits;
use crate::listen::tests::{Rig, any, cluster, eventually};
use crate::state::{
    Cell, ClusterCell, Endpoint, EndpointSet, Listener, ListenerKind, ServerTls, TlsTransport, Transport,
};

const A: &str = "spiffe://west.mesh.example/ns/shop/sa/a";
const B: &str = "spiffe://east.mesh.example/ns/shop/sa/b";

/// An SVID and the bundle of its trust domain.
fn issue(id: &str) -> (Arc<IdentityStore>, TrustDomain, rustls_pki_types::CertificateDer<'static>) {
    let parsed: SpiffeId = id.parse().unwrap();
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::default();
    ca.distinguished_name.push(DnType::OrganizationName, parsed.trust_domain.as_str());
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    ca.subject_alt_names = vec![SanType::URI(parsed.trust_domain.uri().try_into().unwrap())];
    let anchor = ca.self_signed(&ca_key).unwrap().der().clone();
    let key = KeyPair::generate().unwrap();
    let mut leaf = CertificateParams::default();
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    leaf.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
    let cert = leaf.signed_by(&key, &Issuer::new(ca, ca_key)).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let identity = IdentityStore::new(Identity::new(vec![cert.der().clone()], key).unwrap());
    (Arc::new(identity), parsed.trust_domain, anchor)
}

fn install(rig: &mut Rig, name: &str, kind: ListenerKind) -> SocketAddr {
    let listener = Arc::new(Listener { name: name.into(), addresses: vec![any()], bound: true, kind });
    let key = listener.kind.group().0;
    rig.listeners.install(&Arc::new(Cell::new(name)), &listener).unwrap();
    *rig.addresses(key).last().unwrap()
}

async fn upper_case() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    serve_upper_case(listener);
    address
}

fn serve_upper_case(listener: TcpListener) {
    let _for_the_test = meshfed_runtime::tasks::spawn("application", async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            let _for_the_test = meshfed_runtime::tasks::spawn("connection", async move {
                let mut all = Vec::new();
                let _end = tcp.read_to_end(&mut all).await;
                all.make_ascii_uppercase();
                let _gone = tcp.write_all(&all).await;
            });
        }
    });
}

/// The same peer at the same place, as a value of its own.
fn endpoint_like(other: &Endpoint) -> Endpoint {
    Endpoint {
        address: other.address,
        weight: other.weight,
        cluster: Arc::clone(&other.cluster),
        network: Arc::clone(&other.network),
        service: Arc::clone(&other.service),
        locality: Arc::clone(&other.locality),
        via_gateway: other.via_gateway,
        transport: Arc::clone(&other.transport),
        counters: Arc::clone(&other.counters),
    }
}

struct Mesh {
    rig: Rig,
    tls: ServerTls,
    entry: SocketAddr,
    to: Arc<ClusterCell>,
}

/// The application of a → a's `--outbound` → mTLS → b's inbound TCP port → the application of b.
async fn mesh(expected: &str, receiver_trusts_west: bool) -> Mesh {
    meshfed_runtime::tls::install_provider();
    let (a, west, west_anchor) = issue(A);
    let (b, east, east_anchor) = issue(B);
    let all = BTreeMap::from([(west.clone(), vec![west_anchor.clone()]), (east.clone(), vec![east_anchor.clone()])]);
    let mut accepted = all.clone();
    if !receiver_trusts_west {
        accepted.remove(&west);
    }
    let (all, accepted) = (Arc::new(TrustStore::with(all).unwrap()), Arc::new(TrustStore::with(accepted).unwrap()));
    let mut rig = Rig::new(Limits::new(100));
    let everybody = Arc::new(|_: &SpiffeId| true);
    let config = server_config(b, Arc::clone(&accepted), everybody, ClientAuth::Required, &[]).unwrap();
    let application = cluster("inbound|9000||", &[upper_case().await]);
    let tls = ServerTls { config, trust: accepted };
    let inbound = install(
        &mut rig,
        "inbound|9000",
        ListenerKind::InboundTcp {
            port: 9000,
            tls: tls.clone(),
            cluster: application,
            services: ["b.shop.svc.clusterset.local"].map(Arc::from).into(),
        },
    );
    let sni = ServerName::try_from("outbound_.9000_._.b.shop.svc.clusterset.local").unwrap();
    let expected = Arc::new(BTreeSet::from([expected.parse().unwrap()]));
    let transport = Arc::new(Transport::Tls(TlsTransport::new(sni, Vec::new(), expected, a, all).unwrap()));
    let to = cluster("outbound|9000||b.shop.svc.clusterset.local", &[]);
    let mut with = to.get().unwrap().as_ref().clone();
    let endpoint = Endpoint {
        address: inbound,
        weight: 1,
        cluster: "east".into(),
        network: "".into(),
        service: "shop/b".into(),
        locality: "".into(),
        via_gateway: false,
        transport,
        counters: Arc::default(),
    };
    with.endpoints = Arc::new(EndpointSet::new(BTreeMap::from([(0, vec![Arc::new(endpoint)])]), 1));
    to.set(Some(Arc::new(with)));
    let entry = install(&mut rig, "outbound-tcp|x", ListenerKind::OutboundTcp { cluster: Arc::clone(&to) });
    Mesh { rig, tls, entry, to }
}

async fn talk(entry: SocketAddr) -> std::io::Result<Vec<u8>> {
    let mut client = TcpStream::connect(entry).await?;
    client.write_all(&b"hello ".repeat(50_000)).await?;
    client.shutdown().await?;
    let mut got = Vec::new();
    timeout(Duration::from_secs(10), client.read_to_end(&mut got)).await??;
    Ok(got)
}

/// Mutation seen to fail: `parties.security = Security::of(…)` left out; `cell.bytes` left out of `poll_read` of `Metered`.
#[tokio::test]
async fn raw_tcp_crosses_with_mtls_and_is_counted_with_both_identities() {
    let mesh = mesh(B, true).await;
    assert_eq!(talk(mesh.entry).await.unwrap(), b"HELLO ".repeat(50_000));
    let counted = || {
        let text = mesh.rig.metrics.encode();
        let lines: Vec<String> =
            text.lines().filter(|l| l.starts_with("istio_tcp_connections_closed_total")).map(str::to_owned).collect();
        let both = |l: &String| l.contains(&format!("destination_principal=\"{B}\"")) && l.contains("mutual_tls");
        lines.len() == 2
            && lines.iter().any(both)
            && lines.iter().any(|l| l.contains(&format!("source_principal=\"{A}\"")))
    };
    eventually("both ends counted it", counted).await;
    let text = mesh.rig.metrics.encode();
    for name in ["istio_tcp_sent_bytes_total", "istio_tcp_received_bytes_total"] {
        let lines: Vec<&str> = text.lines().filter(|l| l.starts_with(name)).collect();
        assert!(lines.len() == 2 && lines.iter().all(|l| l.ends_with(" 300000")), "{lines:?}");
        let service = "destination_service=\"b.shop.svc.clusterset.local\"";
        assert!(lines.iter().all(|l| l.contains(service)), "{lines:?}");
    }
}

/// Mutation seen to fail: the policy of `TlsTransport::new` replaced by `|_| true`.
#[tokio::test]
async fn a_wrong_peer_gets_nothing_and_a_foreign_domain_is_refused() {
    let wrong = mesh("spiffe://east.mesh.example/ns/shop/sa/c", true).await;
    assert!(talk(wrong.entry).await.map_or(true, |got| got.is_empty()));
    let foreign = mesh(B, false).await;
    assert!(talk(foreign.entry).await.map_or(true, |got| got.is_empty()));
    eventually("the refusal is counted", || {
        foreign.rig.metrics.encode().contains("meshfed_tls_failures_total{listener=\"inbound\"")
    })
    .await;
    foreign.to.set(None);
    assert!(talk(foreign.entry).await.map_or(true, |got| got.is_empty()), "no cluster, no connection");
}

/// An application that dies takes the one connection with it that finds out; the next ones are served elsewhere, and it
/// is served again when it is back. Who shows no identity never makes a connection to it while it is well.
///
/// Mutations seen to fail: `reach.lose()` left out of `serve_inbound`; `known.find()` left out of `is_reachable`;
/// `is_reachable` connects whatever is known.
#[tokio::test]
async fn a_dead_application_is_no_connection() {
    let mut mesh = mesh(B, true).await;
    let near = mesh.to.get().unwrap().endpoints.iter().next().cloned().unwrap();
    // Another port of the same workload, with an application of its own that can be stopped.
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let application = cluster("inbound|9001||", &[address]);
    let tls = mesh.tls.clone();
    let kind = ListenerKind::InboundTcp { port: 9001, tls, cluster: Arc::clone(&application), services: [].into() };
    let inbound = install(&mut mesh.rig, "inbound|9001", kind);
    let first = Endpoint { address: inbound, counters: Arc::default(), ..endpoint_like(&near) };
    let mut with = mesh.to.get().unwrap().as_ref().clone();
    let priorities = BTreeMap::from([(0, vec![Arc::new(first)]), (1, vec![near])]);
    with.endpoints = Arc::new(EndpointSet::new(priorities, 2));
    mesh.to.set(Some(Arc::new(with)));

    // A stranger connects and says nothing that would prove who it is; a peer does.
    let mut stranger = TcpStream::connect(inbound).await.unwrap();
    stranger.write_all(&[22, 3, 1]).await.unwrap();
    let _peer = TcpStream::connect(mesh.entry).await.unwrap();
    let _of_the_peer = timeout(Duration::from_secs(10), socket.accept()).await.unwrap().unwrap();
    assert!(timeout(Duration::ZERO, socket.accept()).await.is_err(), "the stranger has shown no identity");
    drop(socket);

    assert!(talk(mesh.entry).await.map_or(true, |got| got.is_empty()), "nobody could know");
    for _ in 0..5 {
        assert_eq!(talk(mesh.entry).await.unwrap(), b"HELLO ".repeat(50_000), "the other one serves");
    }
    let refused = "reporter=\"destination\",source_workload=\"unknown\"";
    let text = mesh.rig.metrics.encode();
    let counted = text.lines().any(|l| l.contains(refused) && l.contains("response_flags=\"UF\""));
    assert!(counted, "{text}");
    assert!(application.get().unwrap().counters.reach.is_lost());

    serve_upper_case(TcpListener::bind(address).await.unwrap());
    eventually("the near one serves again", || {
        let _asks = std::net::TcpStream::connect(mesh.entry);
        !application.get().unwrap().counters.reach.is_lost()
    })
    .await;
}

/// A gateway stands for many: behind its address the next connection may find another, whose application lives.
///
/// Mutation seen to fail: `tried.pop()` of `reach` left out.
#[tokio::test]
async fn a_gateway_is_asked_again() {
    let mesh = mesh(B, true).await;
    let near = mesh.to.get().unwrap().endpoints.iter().next().cloned().unwrap();
    let gateway = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = gateway.local_addr().unwrap();
    let behind = near.address;
    let relay = meshfed_runtime::tasks::spawn("gateway", async move {
        drop(gateway.accept().await.unwrap());
        let (mut client, _) = gateway.accept().await.unwrap();
        let mut server = TcpStream::connect(behind).await.unwrap();
        let _ended = tokio::io::copy_bidirectional(&mut client, &mut server).await;
    });
    let endpoint = Endpoint { address, via_gateway: true, counters: Arc::default(), ..endpoint_like(&near) };
    let mut with = mesh.to.get().unwrap().as_ref().clone();
    with.endpoints = Arc::new(EndpointSet::new(BTreeMap::from([(0, vec![Arc::new(endpoint)])]), 1));
    mesh.to.set(Some(Arc::new(with)));
    assert_eq!(talk(mesh.entry).await.unwrap(), b"HELLO ".repeat(50_000));
    timeout(Duration::from_secs(10), relay).await.unwrap().unwrap();
}

/// A peer whose cluster may not come any more keeps no connection, however quiet or busy it is (SN12).
///
/// Mutation seen to fail: `Standing::Evicted` treated as `Standing::Withdrawn`; `for_now >= grace` never true.
#[tokio::test]
async fn a_connection_ends_when_its_peer_is_not_trusted_any_more() {
    let (tick, grace) = (Duration::from_millis(2), Duration::from_millis(2));
    let asked = std::cell::Cell::new(0);
    let ended = async |grace: Duration, trusted_at: fn(u32) -> bool, otherwise: Standing| {
        asked.set(0);
        let standing = || {
            asked.set(asked.get() + 1);
            if trusted_at(asked.get()) { Standing::Trusted } else { otherwise }
        };
        let never = std::future::pending::<()>();
        timeout(Duration::from_secs(5), while_trusted(never, standing, tick, grace)).await == Ok(None)
    };
    assert!(ended(grace, |n| n < 5, Standing::Withdrawn).await);
    assert!(ended(Duration::from_secs(100), |n| n < 5, Standing::Evicted).await, "an evicted peer has no grace");
    assert_eq!(asked.get(), 5);
    // Taken away and given back within the grace: nothing happens to it.
    assert!(ended(grace, |n| n != 2 && n < 9, Standing::Withdrawn).await);
    assert_eq!(asked.get(), 10);
    assert_eq!(while_trusted(std::future::ready(7), || Standing::Evicted, tick, grace).await, Some(7));
}
