//! `meshfed proxy init|clean` in real namespaces: what is captured, what is not, and that nothing is left. Needs root,
//! `iproute2`, nftables and `setpriv`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::path::Path;
use std::process::Command;

use meshfed_e2e::binary::meshfed;
use meshfed_e2e::netns::Namespace;
use meshfed_e2e::process::{Output, run};

/// A server that says who it is to whoever connects: `listen(port, word)` on both families.
const SERVERS: &str = r#"
import socket, sys, threading
def serve(family, port, word):
    s = socket.socket(family, socket.SOCK_STREAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    s.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", port))
    s.listen(64)
    def run():
        while True:
            c, peer = s.accept()
            v6 = family == socket.AF_INET6
            try:
                raw = c.getsockopt(socket.IPPROTO_IPV6 if v6 else socket.SOL_IP, 80, 28 if v6 else 16)
                to, at = socket.inet_ntop(family, raw[8:24] if v6 else raw[4:8]), int.from_bytes(raw[2:4], "big")
            except OSError:
                to, at = c.getsockname()[:2]
            c.sendall(f"{word} {to} {at}".encode())
            c.close()
    threading.Thread(target=run, daemon=True).start()
def udp(port, word):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    # As the rules lead there; an answer from another address would be no answer.
    s.bind(("127.0.0.1" if port > 15000 else "0.0.0.0", port))
    def run():
        while True:
            _, peer = s.recvfrom(512)
            s.sendto(word.encode(), peer)
    threading.Thread(target=run, daemon=True).start()
for spec in sys.argv[1:]:
    kind, port, word = spec.split(":")
    if kind == "udp":
        udp(int(port), word)
    else:
        serve(socket.AF_INET, int(port), word)
        serve(socket.AF_INET6, int(port), word)
print("ready", flush=True)
threading.Event().wait()
"#;

/// Connects, from a port where one is named, and prints what it is told, `refused`, or `none` where nobody answers in time.
const DIAL: &str = r#"
import os, socket, sys
kind, host, port, uid = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
os.setuid(uid)
s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM)
s.settimeout(5)
if len(sys.argv) > 5:
    s.bind(("", int(sys.argv[5])))
try:
    s.connect((host, port))
    if kind == "udp":
        s.send(b"?")
    print(s.recv(512).decode())
except ConnectionRefusedError:
    print("refused")
except TimeoutError:
    print("none")
"#;

struct World {
    pod: Namespace,
    peer: Namespace,
    directory: tempfile::TempDir,
    servers: Vec<std::process::Child>,
}

impl Drop for World {
    fn drop(&mut self) {
        for server in &mut self.servers {
            let _already_gone = server.kill();
            let _reaped = server.wait();
        }
    }
}

impl World {
    fn new() -> Self {
        let (pod, peer) = (Namespace::new("p"), Namespace::new("q"));
        pod.connect(&peer, &["10.9.0.1/24", "fd09::1/64"], &["10.9.0.2/24", "fd09::2/64"]);
        for namespace in [&pod, &peer] {
            let via = if std::ptr::eq(namespace, &pod) { ["10.9.0.2", "fd09::2"] } else { ["10.9.0.1", "fd09::1"] };
            namespace.ip(&["route", "add", "default", "via", via[0]]);
            namespace.ip(&["-6", "route", "add", "default", "via", via[1]]);
        }
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("resolv.conf"), "nameserver 10.9.0.2\nnameserver fd09::2\n").unwrap();
        let mut world = Self { pod, peer, directory, servers: Vec::new() };
        let own = [
            "tcp:15001:outbound",
            "tcp:15006:inbound",
            "udp:15053:dns",
            "tcp:15053:dns",
            "tcp:15054:dns2",
            "tcp:8080:application",
            "tcp:22:ssh",
            "tcp:15021:ready",
        ];
        world.serve(true, &own);
        world.serve(
            false,
            &["tcp:80:peer", "tcp:5432:database", "udp:53:resolver", "tcp:53:resolver", "udp:5353:other"],
        );
        world
    }
    fn serve(&mut self, in_pod: bool, servers: &[&str]) {
        let namespace = if in_pod { &self.pod } else { &self.peer };
        let mut command = namespace.command(Path::new("python3"));
        command.args(["-c", SERVERS]).args(servers).stdout(std::process::Stdio::piped());
        let mut child = command.spawn().expect("python3");
        let mut line = String::new();
        let mut out = std::io::BufReader::new(child.stdout.take().expect("stdout"));
        std::io::BufRead::read_line(&mut out, &mut line).expect("the servers are ready");
        assert_eq!(line.trim(), "ready");
        self.servers.push(child);
    }
    fn proxy(&self, args: &[&str]) -> Output {
        run(self.pod.command(meshfed()).arg("proxy").args(args))
    }
    fn init(&self, more: &[&str]) -> Output {
        let file = self.directory.path().join("resolv.conf");
        self.proxy(&[&["init", "--resolv-conf", &file.display().to_string()], more].concat())
    }
    fn rules(&self) -> String {
        run(self.pod.command(Path::new("nft")).args(["list", "ruleset"])).ok("nft list ruleset")
    }
    fn dial(namespace: &Namespace, kind: &str, host: &str, port: u16, uid: u32) -> String {
        let mut command = namespace.command(Path::new("python3"));
        command.args(["-c", DIAL, kind, host, &port.to_string(), &uid.to_string()]);
        run(&mut command).ok("dial").trim().to_owned()
    }
    fn out(&self, kind: &str, host: &str, port: u16, uid: u32) -> String {
        Self::dial(&self.pod, kind, host, port, uid)
    }
    /// Asks the resolver over UDP from a port.
    fn ask_from(&self, port: u16, uid: u32) -> String {
        let mut command = self.pod.command(Path::new("python3"));
        command.args(["-c", DIAL, "udp", "10.9.0.2", "53", &uid.to_string(), &port.to_string()]);
        run(&mut command).ok("dial").trim().to_owned()
    }
    fn inward(&self, host: &str, port: u16) -> String {
        Self::dial(&self.peer, "tcp", host, port, 0)
    }
}

const APPLICATION: u32 = 1000;
const PROXY: u32 = 1337;

/// Mutations seen to fail, a rule of `install` left out each: the uid's, the own chain's redirect, `oifname lo`, the
/// resolvers', each of the exclusions.
#[test]
fn connections_are_led_as_documented_in_both_families() {
    let world = World::new();
    drop(
        world
            .init(&[
                "--exclude-inbound-ports",
                "22",
                "--exclude-outbound-ports",
                "5432,99",
                "--exclude-outbound-cidrs",
                "10.9.1.0/24,10.9.1.0/25",
            ])
            .ok("proxy init"),
    );
    for (own, peer) in [("10.9.0.1", "10.9.0.2"), ("fd09::1", "fd09::2")] {
        // The application's: captured with the destination that it meant; not what is excluded.
        assert_eq!(world.out("tcp", peer, 80, APPLICATION), format!("outbound {peer} 80"));
        assert_eq!(world.out("tcp", peer, 80, 0), format!("outbound {peer} 80"));
        assert_eq!(world.out("tcp", peer, 5432, APPLICATION), format!("database {peer} 5432"));
        // An address that nobody has is captured as well: that is what a virtual address is.
        let nobody = if own.contains(':') { "fd99::9" } else { "240.240.0.9" };
        assert_eq!(world.out("tcp", nobody, 8080, APPLICATION), format!("outbound {nobody} 8080"));
        // The proxy's: out as it is, to its own workload by the front door.
        assert_eq!(world.out("tcp", peer, 80, PROXY), format!("peer {peer} 80"));
        assert_eq!(world.out("tcp", own, 8080, PROXY), format!("inbound {own} 8080"));
        // Loopback and the own address are the application's own affair, and a direct dial of the proxy does not turn round.
        let loopback = if own.contains(':') { "::1" } else { "127.0.0.1" };
        assert!(world.out("tcp", loopback, 8080, APPLICATION).starts_with("application "));
        assert!(world.out("tcp", loopback, 8080, PROXY).starts_with("application "));
        assert!(world.out("tcp", own, 8080, APPLICATION).starts_with("application "));
        assert!(world.out("tcp", loopback, 15001, APPLICATION).starts_with("outbound "));
        // Peers'.
        assert_eq!(world.inward(own, 8080), format!("inbound {own} 8080"));
        assert_eq!(world.inward(own, 9999), format!("inbound {own} 9999"));
        assert_eq!(world.inward(own, 22), format!("ssh {own} 22"));
        assert_eq!(world.inward(own, 15021), format!("ready {own} 15021"));
        assert_eq!(world.inward(own, 15006), format!("inbound {own} 15006"));
    }
    // DNS: to the resolvers alone, each to its own port; the proxy's goes out.
    assert_eq!(world.out("udp", "10.9.0.2", 53, APPLICATION), "dns");
    assert_eq!(world.out("tcp", "10.9.0.2", 53, APPLICATION), "dns 10.9.0.2 53");
    assert_eq!(world.out("tcp", "fd09::2", 53, APPLICATION), "dns2 fd09::2 53");
    assert_eq!(world.out("udp", "10.9.0.2", 53, PROXY), "resolver");
    assert_eq!(world.out("udp", "10.9.0.2", 5353, APPLICATION), "other");
}

/// The kernel remembers for a while where datagrams between two sockets went: those of the application are captured also
/// from a port from which the proxy has just asked, and the other way round.
///
/// Mutation seen to fail: the chain `apart` of `install` left out.
#[test]
fn what_the_proxy_asked_does_not_lead_the_application_past_it() {
    let world = World::new();
    drop(world.init(&[]).ok("proxy init"));
    for (port, first, second) in [(40_001, PROXY, APPLICATION), (40_002, APPLICATION, PROXY)] {
        for uid in [first, second, first] {
            let wanted = if uid == PROXY { "resolver" } else { "dns" };
            assert_eq!(world.ask_from(port, uid), wanted, "uid {uid} from port {port}");
        }
    }
}

/// Mutations seen to fail: `install` does not begin with `remove`; nothing is said of what stands.
#[test]
fn init_is_idempotent_and_clean_leaves_nothing() {
    let world = World::new();
    // Somebody else's rules stay.
    let theirs = "table inet theirs {\n\tchain c {\n\t}\n}\n";
    let file = world.directory.path().join("theirs.nft");
    std::fs::write(&file, theirs).unwrap();
    drop(run(world.pod.command(Path::new("nft")).arg("-f").arg(&file)).ok("nft"));
    let before = world.rules();
    drop(world.proxy(&["clean"]).ok("clean without rules"));
    assert_eq!(world.rules(), before);
    let said = world.init(&[]);
    assert!(said.stderr.contains("table inet meshfed stands: inbound TCP goes to port 15006"), "{said:?}");
    drop(said.ok("init"));
    let once = world.rules();
    assert!(once.contains("table inet meshfed"), "{once}");
    drop(world.init(&[]).ok("init again"));
    assert_eq!(world.rules(), once);
    drop(world.init(&["--exclude-outbound-ports", "99"]).ok("init with other flags"));
    assert_ne!(world.rules(), once);
    // A dry run changes nothing, says what init does, and what clean does.
    let shown = world.init(&["--dry-run"]).ok("dry run");
    assert!(shown.contains("redirect to :15006"), "{shown}");
    let again = world.rules();
    assert!(world.proxy(&["clean", "--dry-run"]).ok("dry run").contains("delete table inet meshfed"));
    assert_eq!(world.rules(), again);
    drop(world.proxy(&["clean"]).ok("clean"));
    assert_eq!(world.rules(), before);
    assert_eq!(world.out("tcp", "10.9.0.2", 80, APPLICATION), "peer 10.9.0.2 80");
}

/// What is missing is said, and by which means it is mended; nothing is changed.
///
/// Mutations seen to fail: the checks of uid and capability left out.
#[test]
fn errors_say_what_is_missing() {
    let world = World::new();
    let before = world.rules();
    let file = world.directory.path().join("resolv.conf").display().to_string();
    let as_user = |wrap: &[&str]| {
        let (program, args) = wrap.split_first().expect("a program");
        let mut command = world.pod.command(Path::new(program));
        command.args(args).arg(meshfed()).args(["proxy", "init", "--resolv-conf", &file]);
        run(&mut command)
    };
    let user = as_user(&["setpriv", "--reuid", "65534", "--clear-groups", "--inh-caps=-all"]);
    assert!(user.stderr.contains("root only, and this is uid 65534"), "{user:?}");
    let bare = as_user(&["setpriv", "--bounding-set=-net_admin", "--inh-caps=-all"]);
    assert!(bare.stderr.contains("add NET_ADMIN to the container's capabilities"), "{bare:?}");
    let no_file = world.proxy(&["init", "--resolv-conf", "/nonexistent"]);
    assert!(no_file.stderr.contains("--resolv-conf /nonexistent"), "{no_file:?}");
    let twice = world.init(&["--inbound-port", "15054"]);
    assert!(twice.stderr.contains("ports of their own"), "{twice:?}");
    assert_eq!([user.code, bare.code, no_file.code, twice.code], [1, 1, 65, 64]);
    // Without nft, in a mount namespace where those places are empty.
    let empty = world.directory.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let script = format!(
        "mount -t tmpfs none /usr/sbin && PATH={} exec {} proxy init --resolv-conf {file}",
        empty.display(),
        meshfed().display()
    );
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", &script]);
    let missing = run(&mut command);
    assert!(missing.stderr.contains("there is no program 'nft'"), "{missing:?}");
    assert_eq!(world.rules(), before);
}
