//! Peers that are slow on purpose (L7-7, L7-16), and answers that take as long as they need: the coarse clock is moved ahead,
//! nothing is waited for.

use super::*;

fn hurry(proxy: &Proxy, seconds: u64) {
    proxy.telemetry.hurry(Duration::from_secs(seconds));
}

/// Mutation seen to fail: `IDLE_TICKS` of two minutes.
#[test]
fn an_idle_connection_is_closed_after_a_minute() {
    let proxy = Proxy::outbound(&[("b", to(&[Backend::ok().address]))]);
    let (mut used, mut unused) = (proxy.client(), proxy.client());
    used.get("/");
    hurry(&proxy, 61);
    assert_eq!((used.rest(), unused.rest()), (Vec::new(), Vec::new()));
}

/// Mutation seen to fail: `BODY_RATE` 0; `REQUEST_TICKS` as `u32::MAX`.
#[test]
fn a_body_that_dribbles_or_never_ends_is_given_up() {
    // Far below 1 KiB/s, and above it for longer than 300 s.
    for (sent, seconds) in [(3usize, 30), (400_000, 301)] {
        let taken = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&taken);
        let backend = Backend::start(move |c, _| {
            c.head().unwrap();
            while c.byte().is_some() {
                seen.fetch_add(1, Ordering::SeqCst);
            }
        });
        let proxy = Proxy::outbound(&[("b", to(&[backend.address]))]);
        let mut client = proxy.client();
        client.send("POST / HTTP/1.1\r\nHost: b\r\nContent-Length: 1000000\r\n\r\n");
        client.send(vec![b'x'; sent]);
        until("it went on", || taken.load(Ordering::SeqCst) == sent);
        hurry(&proxy, seconds);
        let answer = String::from_utf8(client.rest()).unwrap();
        assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("x-meshfed-reason: timeout"), "{answer}");
    }
}

/// Mutation seen to fail: `STALL_TICKS` as `u32::MAX`.
#[test]
fn a_client_that_takes_nothing_of_its_answer_is_given_up() {
    const BYTES: usize = 64 * 1024 * 1024;
    let backend = Backend::start(|c, _| {
        c.head().unwrap();
        c.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {BYTES}\r\n\r\n"));
        let _cut = c.0.write_all(&vec![0; BYTES]);
    });
    let proxy = Proxy::outbound(&[("b", to(&[backend.address]))]);
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: b\r\n\r\n");
    assert!(client.head().unwrap().starts_with("HTTP/1.1 200 "));
    let given_up = || proxy.metrics.encode().contains("response_flags=\"DC\"");
    // The first looks find that something has moved since the one before.
    for _ in 0..5 {
        hurry(&proxy, 70);
        proxy.until_trust_is_seen();
    }
    assert!(given_up(), "{}", proxy.metrics.encode());
}

/// Mutation seen to fail: `HANDSHAKE_TIMEOUT` of a minute.
#[test]
fn a_handshake_that_does_not_begin_is_given_up() {
    let mesh = mutual::Mesh::new();
    let mut silent = Client(connect(mesh.inbound.address));
    assert_eq!(silent.rest(), b"");
    let line = "meshfed_tls_failures_total{listener=\"inbound\",reason=\"timeout\"} 1";
    until(line, || mesh.inbound.metrics.encode().contains(line));
}

fn with_timeout(address: SocketAddr, timeout: Option<Duration>) -> Proxy {
    let cluster = cell_of(Some(cluster_with(BTreeMap::from([(0, vec![endpoint(address, Transport::Plaintext)])]))));
    Proxy::outbound(&[("b", RouteAction::Cluster(cluster, RoutePolicy { timeout, ..RoutePolicy::default() }))])
}

/// Without a route timeout an answer may take as long as it needs; with one it ends there, begun or not.
///
/// Mutation seen to fail: `End::Timeout` of `look` answered with `None`; the 300 s of before brought back.
#[test]
fn the_time_for_an_answer_is_the_routes_to_say() {
    let answers = Arc::new(AtomicUsize::new(0));
    let go = Arc::clone(&answers);
    let backend = Backend::answering(move |head, _| {
        let mut seen = go.load(Ordering::SeqCst);
        while seen == 0 && head.contains("/slow") {
            std::thread::yield_now();
            seen = go.load(Ordering::SeqCst);
        }
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec()
    });
    let patient = with_timeout(backend.address, None);
    let mut waits = patient.client();
    waits.send("GET /slow HTTP/1.1\r\nHost: b\r\n\r\n");
    let hasty = with_timeout(backend.address, Some(Duration::from_secs(20)));
    let mut gives_up = hasty.client();
    gives_up.send("GET /slow HTTP/1.1\r\nHost: b\r\n\r\n");
    until("both are under way", || backend.connections() == 2);
    // The first look finds that the request has moved, the second one that nothing has since.
    for seconds in [15, 3600] {
        hurry(&patient, seconds);
        patient.until_trust_is_seen();
    }
    hurry(&hasty, 21);
    let (head, _) = gives_up.read_message().unwrap();
    assert!(head.starts_with("HTTP/1.1 504 ") && head.contains("x-meshfed-reason: timeout"), "{head}");
    until("it is counted", || hasty.metrics.encode().contains("response_flags=\"UT\""));
    answers.store(1, Ordering::SeqCst);
    assert!(waits.read_message().unwrap().0.starts_with("HTTP/1.1 200 "));
    let stuck = Backend::start(|c, _| {
        c.head().unwrap();
        c.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc");
        c.rest();
    });
    let hasty = with_timeout(stuck.address, Some(Duration::from_secs(20)));
    let mut cut = hasty.client();
    cut.send("GET / HTTP/1.1\r\nHost: b\r\n\r\n");
    cut.head().unwrap();
    hurry(&hasty, 21);
    assert_eq!(cut.rest(), b"abc");
}
