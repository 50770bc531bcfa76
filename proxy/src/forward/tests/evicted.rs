//! A trust domain that is dropped takes its connections and its requests with it (INV-12).

use std::sync::{Condvar, Mutex};

use super::mutual::Mesh;
use super::*;

/// A gate that requests wait at.
#[derive(Default)]
struct Gate {
    open: Mutex<bool>,
    opened: Condvar,
    waiting: AtomicUsize,
}

impl Gate {
    fn wait(&self) {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let mut open = self.open.lock().unwrap();
        while !*open {
            open = self.opened.wait(open).unwrap();
        }
    }
    fn open(&self) {
        *self.open.lock().unwrap() = true;
        self.opened.notify_all();
    }
}

/// An application that answers only once the gate is open.
fn gated() -> (Backend, Arc<Gate>) {
    let gate = Arc::new(Gate::default());
    let inner = Arc::clone(&gate);
    let backend = Backend::answering(move |_, _| {
        inner.wait();
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec()
    });
    (backend, gate)
}

/// The receiver drops the client's domain: the request under way ends, though the application never answers.
///
/// Mutation seen to fail: `Some(Standing::Evicted)` of `look_at_peers` answered with `None`.
#[test]
fn a_request_under_way_ends_with_its_clients_trust_domain() {
    let (backend, gate) = gated();
    let mesh = Mesh::of(backend);
    let (proxy, _) = mesh.client_of(&[(0, mesh.inbound.address, false)], AccessLogTarget::Off);
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: b\r\n\r\n");
    until("the application has it", || gate.waiting.load(Ordering::SeqCst) == 1);
    mesh.evict_west(&mesh.held);
    let (head, _) = client.read_message().unwrap();
    assert!(head.starts_with("HTTP/1.1 503 ") && head.contains("upstream_reset"), "{head}");
    let metrics = || mesh.inbound.metrics.encode();
    until("it is counted", || {
        metrics().contains("meshfed_connections_denied_total{listener=\"inbound\",reason=\"trust_withdrawn\"} 1")
            && metrics().contains("response_flags=\"LR\"")
    });
    gate.open();
}

/// The client drops the server's domain: its application does not wait for an answer that nobody may give.
///
/// Mutation seen to fail: `End::UpstreamUntrusted` of `look_at_peers` left out.
#[test]
fn a_request_under_way_ends_with_its_servers_trust_domain() {
    let (backend, gate) = gated();
    let mesh = Mesh::of(backend);
    let (proxy, held) = mesh.client_of(&[(0, mesh.inbound.address, false)], AccessLogTarget::Off);
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: b\r\n\r\n");
    until("the application has it", || gate.waiting.load(Ordering::SeqCst) == 1);
    mesh.evict_east(&held);
    let (head, body) = client.read_message().unwrap();
    assert!(head.starts_with("HTTP/1.1 503 ") && head.contains("x-meshfed-reason: denied"), "{head}");
    assert!(String::from_utf8_lossy(&body).contains("trust domain"), "{body:?}");
    gate.open();
}

/// An export that is taken back lets requests finish, for 30 s at most (SN12), and no new one in.
///
/// Mutation seen to fail: `Standing::Withdrawn` treated as `Evicted` in `look_at_peers`; `WITHDRAWN_TICKS` as `u32::MAX`.
#[test]
fn a_withdrawn_export_lets_requests_finish_for_a_while() {
    for (passes, finishes) in [(Duration::from_secs(1), true), (Duration::from_secs(60), false)] {
        let (backend, gate) = gated();
        let mesh = Mesh::of(backend);
        let (proxy, _) = mesh.client_of(&[(0, mesh.inbound.address, false)], AccessLogTarget::Off);
        let mut client = proxy.client();
        client.send("GET / HTTP/1.1\r\nHost: b\r\n\r\n");
        until("the application has it", || gate.waiting.load(Ordering::SeqCst) == 1);
        mesh.evict_west(&mesh.accepted);
        // Another connection of that peer is refused by the new bundles, so they are in force.
        let (other, _) = mesh.client_of(&[(0, mesh.inbound.address, false)], AccessLogTarget::Off);
        assert!(other.client().get("/").0.starts_with("HTTP/1.1 503 "));
        mesh.inbound.until_trust_is_seen();
        mesh.inbound.telemetry.hurry(passes);
        if finishes {
            gate.open();
        }
        let (head, _) = client.read_message().unwrap();
        assert_eq!(head.starts_with("HTTP/1.1 200 "), finishes, "{head}");
        gate.open();
        assert!(proxy.client().get("/").0.starts_with("HTTP/1.1 503 "), "a new request was let in");
    }
}

/// Idle connections of a domain that only the port dropped end, too.
///
/// Mutation seen to fail: `core.watch_port` left out of `inbound::serve`.
#[test]
fn an_idle_connection_ends_with_its_ports_trust() {
    let mesh = Mesh::new();
    let closed = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&closed);
    // A tunnel that shows when the far end closes.
    let far = mesh.inbound.address;
    let tunnel = Backend::start(move |c, _| {
        let mut up = connect(far);
        let (mut a, mut b) = (c.0.try_clone().unwrap(), up.try_clone().unwrap());
        let _detached = std::thread::spawn(move || std::io::copy(&mut a, &mut b));
        let _ended = std::io::copy(&mut up, &mut c.0);
        seen.fetch_add(1, Ordering::SeqCst);
    });
    let (proxy, _) = mesh.client_of(&[(0, tunnel.address, false)], AccessLogTarget::Off);
    assert!(proxy.client().get("/").0.starts_with("HTTP/1.1 200 "));
    assert_eq!(closed.load(Ordering::SeqCst), 0);
    mesh.evict_west(&mesh.accepted);
    until("the connection is closed", || closed.load(Ordering::SeqCst) == 1);
}
