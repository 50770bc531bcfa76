//! Programs in Python that the tests of capture run in their namespaces: servers, clients, a resolver.

/// A server that says a word as soon as somebody connects, then sends back what it is told.
pub(crate) const BANNER: &str = r#"
import socket, sys, threading
s = socket.create_server(("", int(sys.argv[1])))
def serve(c):
    c.sendall(b"220 ready\r\n")
    while data := c.recv(1000):
        c.sendall(data)
    c.close()
while True:
    threading.Thread(target=serve, args=(s.accept()[0],), daemon=True).start()
"#;
/// Reads the word before it says anything, then speaks.
pub(crate) const LISTENER: &str = r#"
import socket, sys
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=10)
banner = s.recv(100)
s.sendall(b"EHLO x\r\n")
print(banner.decode().strip(), s.recv(100).decode().strip())
"#;

/// Ends its direction before it has said anything, and hears what there is.
pub(crate) const MUTE: &str = r#"
import socket, sys
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=10)
s.shutdown(socket.SHUT_WR)
heard = b""
while data := s.recv(100):
    heard += data
print(heard.decode().strip())
"#;

/// A server that shows a request as it got it, and answers `ruok` as ZooKeeper does, then with all that it was told.
pub(crate) const RAW: &str = r#"
import socket, sys, threading
def serve(c):
    got = b""
    while data := c.recv(10000):
        got += data
        if got.startswith(b"ruok"):
            c.sendall(b"imok" if got == b"ruok" else got)
        elif b"\r\n\r\n" in got:
            c.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(got) + got)
            break
    c.close()
def run(port):
    s = socket.create_server(("", port))
    while True:
        threading.Thread(target=serve, args=(s.accept()[0],), daemon=True).start()
for port in sys.argv[2:]:
    threading.Thread(target=run, args=(int(port),), daemon=True).start()
run(int(sys.argv[1]))
"#;
/// Speaks to HOST PORT in plaintext, or as a mesh client with the CERTIFICATE that offers ALPN: waits BEFORE, says the first
/// byte, waits BETWEEN, and says the rest. Prints all that it hears.
pub(crate) const SPEAK: &str = r#"
import socket, ssl, sys, time
host, port, certificate, alpn, before, between, words = sys.argv[1:]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
if certificate != "-":
    context.load_cert_chain(certificate)
if alpn != "-":
    context.set_alpn_protocols([alpn])
s = socket.create_connection((host, int(port)), timeout=20)
s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
if certificate != "-":
    s = context.wrap_socket(s, server_hostname=f"outbound_.{port}_._.a.shop.svc.cluster.local")
time.sleep(float(before))
if words == "ruok":
    answers = s.makefile("rb")
    s.sendall(b"ruok")
    print(answers.read(4).decode())
    s.sendall(b"next")
    print(answers.read(8).decode())
    sys.exit()
words = words.encode().decode("unicode_escape").encode()
first = 1 if float(between) else len(words)
s.sendall(words[:first])
time.sleep(float(between))
s.sendall(words[first:])
heard = b""
while data := s.recv(10000):
    heard += data
print(heard.decode())
"#;

/// A resolver that answers every question with 192.0.2.7, and remembers the names.
pub(crate) const RESOLVER: &str = r#"
import socket, sys, threading
def answer(q):
    end = q.index(0, 12) + 5
    labels, at = [], 12
    while q[at]:
        labels.append(q[at + 1:at + 1 + q[at]].decode()); at += q[at] + 1
    print(".".join(labels), flush=True)
    return q[:2] + b"\x81\x80\0\1\0\1\0\0\0\0" + q[12:end] + b"\xc0\x0c\0\1\0\1\0\0\0\x05\0\4\xc0\0\2\7"
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind((sys.argv[1], 53))
tcp = socket.create_server((sys.argv[1], 53))
def stream(c):
    while length := c.recv(2):
        a = answer(c.recv(int.from_bytes(length, "big")))
        c.sendall(len(a).to_bytes(2, "big") + a)
def streams():
    while True:
        threading.Thread(target=stream, args=(tcp.accept()[0],), daemon=True).start()
threading.Thread(target=streams, daemon=True).start()
while True:
    q, peer = udp.recvfrom(4096)
    udp.sendto(answer(q), peer)
"#;
/// Asks SERVER PORT udp|tcp NAME TYPE; prints the code and what the answers say.
pub(crate) const ASK: &str = r#"
import socket, struct, sys
server, port, kind, name, rtype = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4], int(sys.argv[5])
q = b"\x12\x34\1\0\0\1\0\0\0\0\0\0" + b"".join(bytes([len(l)]) + l.encode() for l in name.split(".")) + b"\0" + struct.pack("!HH", rtype, 1)
s = socket.socket(socket.AF_INET6 if ":" in server else socket.AF_INET, socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM)
s.settimeout(6)
s.connect((server, port))
if kind == "udp":
    s.send(q); a = s.recv(4096)
else:
    s.sendall(len(q).to_bytes(2, "big") + q); n = int.from_bytes(s.recv(2), "big"); a = s.recv(n)
def skip(at):
    while a[at] and a[at] < 192: at += a[at] + 1
    return at + (2 if a[at] else 1)
code, count, at = a[3] & 15, int.from_bytes(a[6:8], "big"), skip(12) + 4
found = []
for _ in range(count):
    at = skip(at)
    t, _, ttl, n = struct.unpack("!HHIH", a[at:at + 10]); d = a[at + 10:at + 10 + n]; at += 10 + n
    found.append({1: lambda: socket.inet_ntop(socket.AF_INET, d), 28: lambda: socket.inet_ntop(socket.AF_INET6, d),
                  33: lambda: str(struct.unpack("!H", d[4:6])[0]), 16: lambda: d[1:].decode()}[t]() + f"/{ttl}")
print({0: "NOERROR", 2: "SERVFAIL", 3: "NXDOMAIN", 5: "REFUSED"}.get(code, code), *found)
"#;
