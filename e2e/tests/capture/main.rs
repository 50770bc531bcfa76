//! Captured sidecars in network namespaces, without Kubernetes: an unmodified client dials virtual addresses, in both
//! families, over a gateway; nothing goes past the proxies. Needs root, `iproute2`, nftables, `setpriv` and veth devices.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod programs;
mod unsaid;

use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use meshfed_e2e::binary::meshfed;
use meshfed_e2e::fleet::{Cluster, ClusterSpec, Fleet, application};
use meshfed_e2e::netns::{Namespace, Wan};
use meshfed_e2e::objects;
use meshfed_e2e::process::{Process, run};
use meshfed_e2e::wait::until;
use serde_json::Value;

use programs::{ASK, BANNER, LISTENER, MUTE, RAW, RESOLVER};
use unsaid::{forged_by_mesh_clients, forged_by_strangers};

const LONG: Duration = Duration::from_secs(30);
const PROXY_UID: u32 = 1337;

/// A cluster: a namespace with its agent and gateway, which routes for the pods in theirs.
struct Site {
    node: Namespace,
    pod: Namespace,
    cluster: Cluster,
    octet: u8,
    proxy: Option<Process>,
    _gateway: Process,
}

struct World {
    east: Site,
    west: Site,
    _others: Vec<Process>,
    fleet: Fleet,
    hub: Namespace,
    _wan: Wan,
}

fn entry(octet: u8, name: &str, last: u8, network: &str, ports: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata:
  name: {name}
  namespace: shop
  annotations: {{federation.meshfed.io/unix-uid: \"{PROXY_UID}\", federation.meshfed.io/addresses: \"fd0{octet}::{last}\"}}
spec: {{address: 10.{octet}.0.{last}, ports: {{{ports}}}, labels: {{app: {name}}}, serviceAccount: {name}, network: {network}, locality: r{octet}/r{octet}-1}}
---
"
    )
}

fn service(name: &str, cluster_ips: &str) -> String {
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: shop}}
spec:
  {cluster_ips}
  selector: {{app: {name}}}
  ports: [{{name: http, port: 8080}}, {{name: words, port: 2525}}, {{name: any, port: 2526}}]
---
"
    )
}

fn site(wan: &Wan, octet: u8) -> (Namespace, Namespace) {
    let (node, pod) = (Namespace::new("n"), Namespace::new("p"));
    wan.join(&node, &[&format!("10.8.0.{octet}/24"), &format!("fd08::{octet}/64")]);
    let (v4, v6) = (format!("10.{octet}.0"), format!("fd0{octet}:"));
    node.connect(
        &pod,
        &[&format!("{v4}.1/24"), &format!("{v6}:1/64")],
        &[&format!("{v4}.10/24"), &format!("{v6}:10/64")],
    );
    // `ip netns exec` shows it as /etc/resolv.conf.
    let etc = Path::new("/etc/netns").join(pod.name());
    std::fs::create_dir_all(&etc).unwrap();
    let resolv_conf = format!("nameserver {v4}.1\nsearch shop.svc.cluster.local svc.cluster.local\n");
    std::fs::write(etc.join("resolv.conf"), resolv_conf).unwrap();
    pod.ip(&["route", "add", "default", "via", &format!("{v4}.1")]);
    pod.ip(&["-6", "route", "add", "default", "via", &format!("{v6}:1")]);
    // Pods reach the WAN as their node, and nobody on the WAN reaches them.
    let rules = "table inet wan { chain post { type nat hook postrouting priority 100; \
                 ip daddr 10.8.0.0/24 masquerade; ip6 daddr fd08::/64 masquerade; }; }";
    drop(run(node.command(Path::new("nft")).arg(rules)).ok("nft"));
    for setting in ["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"] {
        drop(run(node.command(Path::new("sysctl")).args(["-q", "-w", setting])).ok("sysctl"));
    }
    (node, pod)
}

impl Site {
    fn start(fleet: &Fleet, hub: &Namespace, wan: &Wan, name: &'static str, octet: u8, rest: &str) -> Self {
        let (node, pod) = site(wan, octet);
        let network = format!("net-{name}");
        let own: IpAddr = format!("10.{octet}.0.1").parse().unwrap();
        let advertised = [format!("10.8.0.{octet}:15443")];
        let mut objects = objects::gateway("eastwest", &network, &[own], &advertised, &format!("r{octet}/r{octet}-1"));
        objects.push_str(rest);
        let spec = ClusterSpec {
            name,
            networks: &[format!("{network}=10.{octet}.0.0/16,fd0{octet}::/64,10.8.0.0/24")],
            region: &format!("r{octet}"),
            bind: "127.0.0.1".parse().unwrap(),
            objects,
        };
        let cluster = Cluster::start(fleet, Some(hub), Some(&node), &spec);
        let flags = ["--mode", "gateway", "--admin-listen", "127.0.0.1:0"];
        let gateway = cluster.proxy(Some(&node), "meshfed-system/eastwest", &flags);
        Self { node, pod, cluster, octet, proxy: None, _gateway: gateway }
    }
    /// Rules, and the sidecar as the user that they know.
    fn capture(&mut self, fleet: &Fleet, workload: &str, flags: &[&str]) {
        let mut init = self.pod.command(meshfed());
        drop(run(init.args(["proxy", "init"])).ok("proxy init"));
        self.start_proxy(fleet, workload, flags);
    }
    fn start_proxy(&mut self, fleet: &Fleet, workload: &str, flags: &[&str]) {
        let run_dir = fleet.path(&format!("run-{}", self.octet));
        std::fs::create_dir_all(&run_dir).unwrap();
        std::os::unix::fs::chown(&run_dir, Some(PROXY_UID), Some(PROXY_UID)).unwrap();
        let uid = PROXY_UID.to_string();
        let mut start = self.pod.command(Path::new("setpriv"));
        start.args(["--reuid", &uid, "--regid", &uid, "--clear-groups"]).arg(meshfed());
        start.args(["proxy", "--agent"]).arg(format!("unix:{}", self.cluster.socket().display()));
        start.args(["--workload", workload, "--capture", "redirect", "--run-dir"]).arg(run_dir).args(flags);
        self.proxy = Some(Process::start(&format!("{}-sidecar", self.cluster.name), &fleet.path("logs"), &mut start));
    }
    fn metrics(&self) -> String {
        // Loopback is not captured.
        self.pod.curl(&["http://127.0.0.1:15020/metrics"]).1
    }
    fn listen(&self, address: &str, port: u16) -> String {
        let mut command = self.pod.command(Path::new("python3"));
        let output = run(command.args(["-c", LISTENER, address, &port.to_string()]));
        format!("{}{}", output.stdout.trim(), output.stderr.lines().last().unwrap_or_default())
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _already_gone = std::fs::remove_dir_all(Path::new("/etc/netns").join(self.pod.name()));
    }
}

/// What a name server says over a transport.
fn ask(namespace: &Namespace, server: &str, port: u16, over: &str, name: &str, kind: u16) -> String {
    let mut command = namespace.command(Path::new("python3"));
    let output = run(command.args(["-c", ASK, server, &port.to_string(), over, name, &kind.to_string()]));
    format!("{}{}", output.stdout.trim(), output.stderr.lines().last().unwrap_or_default())
}

impl World {
    fn start() -> Self {
        let wan = Wan::new();
        let hub = Namespace::new("h");
        wan.join(&hub, &["10.8.0.100/24", "fd08::100/64"]);
        let fleet = Fleet::start_at(Some(&hub), "10.8.0.100", &[]);
        std::fs::set_permissions(fleet.dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let b = entry(1, "b", 10, "net-east", "http: 8080, words: 2525, any: 2526")
            + &service("b", "")
            + &objects::export("shop", "b");
        let a = entry(2, "a", 10, "net-west", "http: 8080, words: 2525, any: 2526")
            + &service("a", "clusterIPs: [10.96.0.7, fd96::7]");
        let mut east = Site::start(&fleet, &hub, &wan, "east", 1, &b);
        let mut west = Site::start(&fleet, &hub, &wan, "west", 2, &a);
        let mut others = Vec::new();
        for site in [&east, &west] {
            let name = if site.octet == 1 { "b" } else { "a" };
            let listen = "0.0.0.0:8080".parse().unwrap();
            others.push(application(&fleet, Some(&site.pod), &site.cluster.name, name, listen));
            let mut resolver = site.node.command(Path::new("python3"));
            resolver.args(["-c", RESOLVER, &format!("10.{}.0.1", site.octet)]);
            others.push(Process::start(&format!("{name}-resolver"), &fleet.path("logs"), &mut resolver));
            let mut banner = site.pod.command(Path::new("python3"));
            others.push(Process::start(
                &format!("{name}-banner"),
                &fleet.path("logs"),
                banner.args(["-c", BANNER, "2525"]),
            ));
            let mut raw = site.pod.command(Path::new("python3"));
            raw.args(["-c", RAW, "2526", "9101"]);
            others.push(Process::start(&format!("{name}-raw"), &fleet.path("logs"), &mut raw));
        }
        east.capture(&fleet, "shop/b", &[]);
        west.capture(&fleet, "shop/a", &[]);
        let world = Self { east, west, _others: others, fleet, hub, _wan: wan };
        world.fleet.wait_ready(Some(&world.hub));
        world
    }
    /// The virtual addresses of the import `shop/b` in west.
    fn virtual_addresses(&self) -> [String; 2] {
        until("west has an address for the import", LONG, || {
            let text =
                std::fs::read(self.west.cluster.data_dir().join("state/imports.json")).map_err(|e| e.to_string())?;
            let numbers: Value = serde_json::from_slice(&text).map_err(|e| e.to_string())?;
            let number = numbers.get("shop/b").and_then(Value::as_u64).ok_or("none")?;
            Ok::<_, String>([format!("240.240.0.{number}"), format!("[fd6d:6573:6866:6564::{number:x}]")])
        })
    }
}

fn answer(namespace: &Namespace, args: &[&str]) -> Value {
    until(&format!("an answer for {args:?}"), LONG, || {
        let (status, body) = namespace.curl(args);
        if status == "200" {
            serde_json::from_str(&body).map_err(|e| format!("{e}: {body}"))
        } else {
            Err(format!("{status} {body}"))
        }
    })
}

/// One world for all, since making it takes long.
///
/// Mutations seen to fail: see the parts.
#[test]
fn an_unmodified_client_is_served_by_address() {
    let mut world = World::start();
    let [v4, v6] = world.virtual_addresses();
    by_virtual_address(&world, &v4, &v6);
    server_first(&world, &v4, &v6);
    listeners_alone(&world, &v4, &v6);
    told_by_its_first_bytes(&world, &v4);
    by_name(&world, &v4, &v6);
    own_services(&world);
    what_is_unknown(&world);
    direct_dials(&world);
    direct_dials_are_counted(&world);
    strangers(&world);
    forged_by_mesh_clients(&world, true);
    permissive(&world, true);
    registry_only(&world);
    without_its_proxy(&mut world, &v4);
    addresses_stay(&mut world, &v4);
    an_envoy_in_its_place(&mut world, &v4, &v6);
}

/// Mutations seen to fail: `at()` of the state answers nothing; the route configuration of the listener names no `*`.
fn by_virtual_address(world: &World, v4: &str, v6: &str) {
    for host in [v4, v6] {
        let url = format!("http://{host}:8080/");
        // The authority is neither asked nor changed: also that of another service that is known here.
        for authority in ["b.shop.svc.clusterset.local:8080", "something.example", "a.shop.svc.cluster.local:8080"] {
            let body = answer(&world.west.pod, &["-H", &format!("Host: {authority}"), &url]);
            assert_eq!(body["service"], "b", "{body}");
            assert_eq!(body["peerIdentity"], "spiffe://west.mesh.example/ns/shop/sa/a", "{body}");
        }
    }
    let gateway = world.east.node.curl(&["http://10.1.0.1:15020/metrics"]).1;
    assert!(
        gateway
            .lines()
            .any(|l| l.starts_with("meshfed_gateway_connections_total{result=\"forwarded\"") && !l.ends_with(" 0")),
        "{gateway}"
    );
}

const A: u16 = 1;
const TXT: u16 = 16;
const AAAA: u16 = 28;
const SRV: u16 = 33;

/// The client asks its resolver as always.
///
/// Mutations seen to fail: the resolvers' rules left out; `whose` answers `None`; search domains not looked at.
fn by_name(world: &World, v4: &str, v6: &str) {
    let (pod, resolver) = (&world.west.pod, "10.2.0.1");
    let host = "b.shop.svc.clusterset.local";
    let body = answer(pod, &[&format!("http://{host}:8080/")]);
    assert_eq!(
        (&body["service"], &body["peerIdentity"]),
        (&"b".into(), &"spiffe://west.mesh.example/ns/shop/sa/a".into())
    );
    let searched = format!("{host}.shop.svc.cluster.local");
    let services = format!("_words._tcp.{host}");
    let expected = [
        (host, A, format!("NOERROR {v4}/5")),
        ("B.Shop.svc.clusterset.local", AAAA, format!("NOERROR {}/5", v6.trim_matches(['[', ']']))),
        (host, TXT, "NOERROR".to_owned()),
        (&services, SRV, "NOERROR 2525/5".to_owned()),
        ("dns-version.clusterset.local", TXT, "NOERROR 1.0.0/5".to_owned()),
        ("nobody.shop.svc.clusterset.local", A, "NXDOMAIN".to_owned()),
        (&searched, A, "NXDOMAIN".to_owned()),
        ("elsewhere.example", A, "NOERROR 192.0.2.7/5".to_owned()),
    ];
    until("the resolver answers", LONG, || match ask(pod, resolver, 53, "udp", "ready.example", A).as_str() {
        "NOERROR 192.0.2.7/5" => Ok(()),
        other => Err(other.to_owned()),
    });
    for over in ["udp", "tcp"] {
        for (name, kind, said) in &expected {
            assert_eq!(&ask(pod, resolver, 53, over, name, *kind), said, "{over} {name}");
        }
    }
    let asked = std::fs::read_to_string(world.fleet.path("logs/a-resolver.log")).unwrap();
    assert!(asked.contains("elsewhere.example") && !asked.contains("clusterset"), "{asked}");
}

/// Mutation seen to fail: the client's first bytes are waited for without limit.
fn server_first(world: &World, v4: &str, v6: &str) {
    for host in [v4, v6.trim_matches(['[', ']'])] {
        until("the server's word comes first", LONG, || {
            let heard = world.west.listen(host, 2525);
            if heard == "220 ready EHLO x" { Ok(()) } else { Err(heard) }
        });
    }
}

/// A client that ends its direction at once hears the server all the same. (An Envoy closes it: what looks at its first bytes
/// finds their end.)
fn listeners_alone(world: &World, v4: &str, v6: &str) {
    for host in [v4, v6.trim_matches(['[', ']'])] {
        assert_eq!(mute(&world.west.pod, host), "220 ready");
    }
}

/// What a client hears at port 2525 of a host that ends its direction at once.
fn mute(from: &Namespace, host: &str) -> String {
    let mut client = from.command(Path::new("python3"));
    run(client.args(["-c", MUTE, host, "2525"])).ok("who says nothing hears the server").trim().to_owned()
}

/// Mutation seen to fail: `OutboundAny` is given to TCP alone.
fn told_by_its_first_bytes(world: &World, v4: &str) {
    // The same port speaks HTTP where the client does: it is told by its first bytes, and so measured by request.
    let counted = || -> f64 {
        let metrics = world.west.metrics();
        let of_b = |l: &&str| {
            l.starts_with("istio_requests_total{") && l.contains("destination_service=\"b.shop.svc.clusterset.local\"")
        };
        metrics.lines().filter(of_b).filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    };
    let before = counted();
    let _no_answer_of_http = world.west.pod.curl(&[&format!("http://{v4}:2525/")]);
    until("the request is counted as one", LONG, || match counted() {
        now if now > before => Ok(()),
        now => Err(now.to_string()),
    });
}

/// Its own service by ClusterIP, and its own pod by name of nobody: hairpins.
///
/// Mutation seen to fail: the proxy's connections to the application do not come from loopback.
fn own_services(world: &World) {
    for host in ["10.96.0.7", "[fd96::7]"] {
        let body = answer(&world.west.pod, &[&format!("http://{host}:8080/")]);
        assert_eq!(
            (&body["service"], &body["peerIdentity"]),
            (&"a".into(), &"spiffe://west.mesh.example/ns/shop/sa/a".into())
        );
    }
    assert_eq!(answer(&world.west.pod, &["http://10.2.0.10:8080/"])["service"], "a");
}

/// Mutation seen to fail: `PassthroughCluster` is the black hole.
fn what_is_unknown(world: &World) {
    let mut server = world.west.node.command(Path::new("python3"));
    let dir = world.fleet.path("plain");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("word"), "plain").unwrap();
    server.args(["-m", "http.server", "9999", "--directory"]).arg(&dir);
    let _server = Process::start("plain", &world.fleet.path("logs"), &mut server);
    until("an address outside the mesh answers", LONG, || {
        let (status, body) = world.west.pod.curl(&["http://10.2.0.1:9999/word"]);
        if (status.as_str(), body.as_str()) == ("200", "plain") { Ok(()) } else { Err(format!("{status} {body}")) }
    });
}

/// Mutation seen to fail: `destination` compares the address alone.
fn direct_dials(world: &World) {
    for (from, host) in [(&world.west.pod, "127.0.0.1"), (&world.west.pod, "[::1]"), (&world.west.pod, "10.2.0.10")] {
        for port in [15001, 15006] {
            let (status, body) = from.curl(&[&format!("http://{host}:{port}/")]);
            assert_eq!(status, "000", "{host}:{port} {body}");
        }
    }
}

/// Mutation seen to fail: `denied` left out of `capture::outbound::serve`.
fn direct_dials_are_counted(world: &World) {
    let metrics = world.west.metrics();
    for listener in ["inbound", "outbound"] {
        let labels = format!("listener=\"{listener}\",reason=\"not_captured\"");
        assert!(metrics.lines().any(|l| l.contains(&labels) && !l.ends_with(" 0")), "{listener}: {metrics}");
    }
    let (status, _) = world.west.node.curl(&["http://10.2.0.10:15021/healthz/ready"]);
    assert_eq!(status, "200");
}

/// STRICT is the default without Kubernetes: plaintext is not taken on any port.
///
/// Mutation seen to fail: `is_strict` is false.
fn strangers(world: &World) {
    for port in [8080, 2525, 15001, 9] {
        let (status, body) = world.west.node.curl(&[&format!("http://10.2.0.10:{port}/")]);
        assert_eq!(status, "000", "{port} {body}");
    }
}

/// With PERMISSIVE plaintext is taken, and nobody's identity comes with it; the application's own TLS passes; a mesh client's
/// hello is terminated all the same, and needs a certificate.
///
/// Mutations seen to fail: `Begins::Mesh` is given to `raw`; `serve_plain` believes `x-forwarded-client-cert`;
/// `Some(Begins::End)` of `begins` replaced by `None`.
fn permissive(world: &World, is_ours: bool) {
    let (west, pod) = (&world.west, "10.2.0.10");
    let text = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: default, namespace: shop}\n\
                spec: {mtls: {mode: PERMISSIVE}}\n";
    west.cluster.write("peer.yaml", text);
    let forged = "x-forwarded-client-cert: URI=spiffe://west.mesh.example/ns/shop/sa/root";
    for host in [pod, "[fd02::10]"] {
        let body = answer(&west.node, &["-H", forged, &format!("http://{host}:8080/")]);
        assert_eq!((&body["service"], &body["peerIdentity"]), (&"a".into(), &Value::Null), "{body}");
    }
    let mut words = west.node.command(Path::new("python3"));
    let heard = run(words.args(["-c", LISTENER, pod, "2525"])).ok("the server's word comes first");
    assert_eq!(heard.trim(), "220 ready EHLO x");
    if is_ours {
        assert_eq!(mute(&west.node, pod), "220 ready", "an Envoy closes it");
    }
    forged_by_strangers(world, is_ours);
    // The application's own TLS, on a port that its workload does not declare.
    let (key, certificate) = (world.fleet.path("app.key"), world.fleet.path("app.pem"));
    let mut make = std::process::Command::new("openssl");
    make.args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-subj",
        "/CN=own.example",
    ]);
    drop(run(make.arg("-keyout").arg(&key).arg("-out").arg(&certificate)).ok("openssl req"));
    let mut own = west.pod.command(Path::new("openssl"));
    own.args(["s_server", "-accept", "9443", "-www", "-key"]).arg(&key).arg("-cert").arg(&certificate);
    let _own = Process::start("own-tls", &world.fleet.path("logs"), &mut own);
    let client = |port: u16, name: &str| {
        let at = format!("{pod}:{port}");
        let script = format!(
            "printf 'GET / HTTP/1.0\r\n\r\n' | openssl s_client -connect {at} -servername {name} -ign_eof 2>&1"
        );
        let output = run(west.node.command(Path::new("sh")).args(["-c", &format!("timeout 10 sh -c \"{script}\"")]));
        output.stdout + &output.stderr
    };
    until("the application's own TLS passes", LONG, || {
        let seen = client(9443, "own.example");
        if seen.contains("CN = own.example") || seen.contains("CN=own.example") { Ok(()) } else { Err(seen) }
    });
    for (port, name) in
        [(8080, "outbound_.8080_._.a.shop.svc.cluster.local"), (9443, "outbound_.9443_._.x.y.svc.cluster.local")]
    {
        let seen = client(port, name);
        assert!(!seen.contains("HTTP/1.") && !seen.contains("own.example\n"), "{seen}");
        assert!(seen.contains("alert"), "{seen}");
    }
    // Mesh clients are known as before.
    assert_eq!(
        answer(&west.pod, &["http://10.96.0.7:8080/"])["peerIdentity"],
        "spiffe://west.mesh.example/ns/shop/sa/a"
    );
    std::fs::remove_file(west.cluster.source().join("peer.yaml")).unwrap();
    until("plaintext is refused again", LONG, || {
        let (status, _) = west.node.curl(&[&format!("http://{pod}:8080/")]);
        if status == "000" { Ok(()) } else { Err(status) }
    });
}

/// Mutation seen to fail: `registry_only` is false.
fn registry_only(world: &World) {
    let west = &world.west;
    let text = "apiVersion: federation.meshfed.io/v1alpha1\nkind: Mesh\nmetadata: {name: local}\n\
                spec: {outboundTrafficPolicy: REGISTRY_ONLY}\n";
    west.cluster.write("mesh.yaml", text);
    until("what is outside the mesh cannot be reached", LONG, || {
        // Readiness of a gateway is plain HTTP on the node.
        let (status, _) = west.pod.curl(&["http://10.2.0.1:15021/healthz/ready"]);
        if status == "000" { Ok(()) } else { Err(status) }
    });
    assert_eq!(answer(&west.pod, &["http://10.96.0.7:8080/"])["service"], "a");
    std::fs::remove_file(west.cluster.source().join("mesh.yaml")).unwrap();
    until("what is outside the mesh can be reached again", LONG, || {
        let (status, _) = west.pod.curl(&["http://10.2.0.1:15021/healthz/ready"]);
        if status == "200" { Ok(()) } else { Err(status) }
    });
}

/// Mutation seen to fail: `proxy init` adds its rules while a process of the proxy lives (said by hand: rules removed).
fn without_its_proxy(world: &mut World, v4: &str) {
    let mut proxy = world.west.proxy.take().unwrap();
    proxy.kill();
    let refused = |namespace: &Namespace, url: &str| {
        let output = run(namespace.command(Path::new("curl")).args(["-sS", "--max-time", "5", url]));
        assert_eq!(output.code, 7, "{url}: {output:?}");
    };
    refused(&world.west.pod, &format!("http://{v4}:8080/"));
    refused(&world.west.pod, "http://10.2.0.1:15020/metrics");
    refused(&world.west.node, "http://10.2.0.10:8080/");
}

/// The import keeps its address over a restart of the agent.
///
/// Mutation seen to fail: `restore_imports` left out, with the file written anew.
fn addresses_stay(world: &mut World, v4: &str) {
    world.west.start_proxy(&world.fleet, "shop/a", &[]);
    let host = "b.shop.svc.clusterset.local";
    until("the sidecar knows the names", LONG, || {
        let said = ask(&world.west.pod, "10.2.0.1", 53, "udp", host, A);
        if said.starts_with("NOERROR") { Ok(()) } else { Err(said) }
    });
    assert_eq!(world.west.cluster.agent.stop(), 0);
    // Without its agent it answers and passes on as before.
    assert_eq!(ask(&world.west.pod, "10.2.0.1", 53, "udp", host, A), format!("NOERROR {v4}/5"));
    assert_eq!(ask(&world.west.pod, "10.2.0.1", 53, "tcp", "other.example", A), "NOERROR 192.0.2.7/5");
    let (place, loopback) = (Some(&world.west.node), "127.0.0.1".parse().unwrap());
    let flags = ["--dns-listen", "127.0.0.1:15053"];
    world.west.cluster = Cluster::restart_with(&world.fleet, place, "west", loopback, &flags);
    // The agent says the same itself, to those without a sidecar.
    until("the agent knows the names", LONG, || {
        let said = ask(&world.west.node, "127.0.0.1", 15053, "udp", host, A);
        if said == format!("NOERROR {v4}/5") { Ok(()) } else { Err(said) }
    });
    assert_eq!(ask(&world.west.node, "127.0.0.1", 15053, "tcp", &format!("_http._tcp.{host}"), SRV), "NOERROR 8080/5");
    assert_eq!(ask(&world.west.node, "127.0.0.1", 15053, "udp", "other.example", A), "REFUSED");
    let body = answer(&world.west.pod, &[&format!("http://{v4}:8080/")]);
    assert_eq!(body["service"], "b");
    assert_eq!(world.virtual_addresses()[0], v4);
}

/// The same listeners from the same agent, and the same rules: a stock Envoy serves the same.
///
/// Mutations seen to fail, by our own proxy before it: `bind_to_port` left out; the chain of HTTP/1 has no protocols; no
/// source address for the application.
fn an_envoy_in_its_place(world: &mut World, v4: &str, v6: &str) {
    let mut proxy = world.west.proxy.take().unwrap();
    assert_eq!(proxy.stop(), 0);
    let west = &world.west;
    let agent = format!("unix:{}", west.cluster.socket().display());
    let mut print = std::process::Command::new(meshfed());
    print.args(["bootstrap", "envoy", "--agent", &agent, "--workload", "shop/a", "--bind", "0.0.0.0", "--bind", "::"]);
    let bootstrap = run(&mut print).ok("bootstrap envoy");
    assert!(bootstrap.contains("capture: none") && bootstrap.contains("clientOnly: true"), "{bootstrap}");
    let bootstrap =
        bootstrap.replace("capture: none", "capture: redirect").replace("clientOnly: true", "clientOnly: false");
    let (file, binary) = (world.fleet.path("envoy.yaml"), world.fleet.path("envoy"));
    std::fs::write(&file, bootstrap).unwrap();
    // The user of the rules cannot read another user's cache, and what lies beside it there is a script that looks for it.
    let _installed = meshfed_e2e::envoy::binary();
    let mut find = std::process::Command::new("find");
    find.arg(meshfed_e2e::envoy::cache().join("envoy-venv")).args(["-name", "envoy", "-type", "f", "-size", "+1M"]);
    let found = run(&mut find).ok("find envoy");
    std::fs::copy(found.lines().next().expect("Envoy's binary"), &binary).unwrap();
    let uid = PROXY_UID.to_string();
    let mut start = west.pod.command(Path::new("setpriv"));
    start.args(["--reuid", &uid, "--regid", &uid, "--clear-groups"]).arg(&binary).arg("-c").arg(&file);
    start.args(["--concurrency", "1", "--disable-hot-restart", "-l", "warning"]);
    let _envoy = Process::start("envoy", &world.fleet.path("logs"), &mut start);
    by_virtual_address(world, v4, v6);
    server_first(world, v4, v6);
    own_services(world);
    let name = "b.shop.svc.clusterset.local";
    // No Envoy takes a shorter life.
    assert_eq!(ask(&world.west.pod, "10.2.0.1", 53, "udp", name, A), format!("NOERROR {v4}/30"));
    what_is_unknown(world);
    direct_dials(world);
    strangers(world);
    forged_by_mesh_clients(world, false);
    permissive(world, false);
    registry_only(world);
}
