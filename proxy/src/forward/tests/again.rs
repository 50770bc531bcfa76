//! Requests that reached no application go elsewhere; what may have reached one is never sent twice.

use super::mutual::{Mesh, PeerTls};
use super::*;

/// Reads a request of `length` bytes of body; gives the body.
fn take(tls: &mut PeerTls<'_>, length: usize) -> Option<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0u8; 1];
        if tls.read(&mut byte).ok()? == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    let mut body = vec![0; length];
    tls.read_exact(&mut body).ok()?;
    Some(body)
}

fn refuse(tls: &mut PeerTls<'_>, reason: &str) {
    let text =
        format!("HTTP/1.1 503 Service Unavailable\r\nx-meshfed-reason: {reason}\r\nContent-Length: 4\r\n\r\ndead");
    let _gone = tls.write_all(text.as_bytes());
}

/// An application that echoes bodies.
fn echo() -> Backend {
    Backend::answering(|_, body| {
        [format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes(), body].concat()
    })
}

fn post(length: usize) -> Vec<u8> {
    let head = format!("POST / HTTP/1.1\r\nHost: b\r\nContent-Length: {length}\r\n\r\n");
    [head.into_bytes(), vec![b'x'; length]].concat()
}

/// A sidecar whose application is dead.
fn dead(mesh: &Mesh) -> Backend {
    mesh.peer(|tls, _| {
        while take(tls, 0).is_some() {
            refuse(tls, "upstream_connect");
        }
    })
}

/// Check 6 at one client: the peer's word sends a request, body included, to another priority.
///
/// Mutation seen to fail: `heed` false; `self.sent = 0` left out of `rewind`.
#[test]
fn a_peer_that_reached_no_application_is_not_the_last_word() {
    for reason in ["upstream_connect", "no_endpoints"] {
        let mesh = Mesh::of(echo());
        let refusing = mesh.peer(move |tls, _| {
            while take(tls, 20_000).is_some() {
                refuse(tls, reason);
            }
        });
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("access.log");
        let places = [(0, refusing.address, false), (1, mesh.inbound.address, false)];
        let (proxy, _) = mesh.client_of(&places, AccessLogTarget::File(log.clone()));
        let mut client = proxy.client();
        client.send(post(20_000));
        let (head, body) = client.read_message().unwrap();
        assert!(head.starts_with("HTTP/1.1 200 ") && !head.contains("x-meshfed"), "{head}");
        assert_eq!(body, vec![b'x'; 20_000]);
        assert_eq!((refusing.connections(), mesh.backend.connections()), (1, 1));
        // For a moment the dead one is passed over, so the next request goes straight to the other.
        client.send(post(20_000));
        assert_eq!(client.read_message().unwrap().1.len(), 20_000);
        assert_eq!(refusing.connections(), 1);
        let metrics = proxy.metrics.encode();
        let service = "service=\"b.shop.svc.clusterset.local\"";
        assert!(
            metrics.contains(&format!("meshfed_upstream_retries_total{{{service},reason=\"peer\"}} 1")),
            "{metrics}"
        );
        assert!(
            metrics.contains(&format!("meshfed_upstream_retried_requests_total{{{service},result=\"success\"}} 1"))
        );
        until("two lines", || std::fs::read_to_string(&log).unwrap().lines().count() == 2);
        let lines = std::fs::read_to_string(&log).unwrap();
        let attempts: Vec<u64> = lines
            .lines()
            .map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap()["attempts"].as_u64().unwrap())
            .collect();
        assert_eq!(attempts, [2, 1]);
    }
}

/// The last answer is the client's, with its reason; `URX` says that more attempts were not allowed.
///
/// Mutation seen to fail: `self.retries >= self.policy.retries` with `>`; `exchange.poll` not gone on with.
#[test]
fn the_answer_of_the_last_attempt_is_passed_on() {
    let mesh = Mesh::new();
    let dead: Vec<Backend> = (0..4).map(|_| dead(&mesh)).collect();
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("access.log");
    for (places, flags, attempts) in [(&dead[..1], "-", 1), (&dead[..], "URX", 3)] {
        let places: Vec<_> = places.iter().map(|d| (0, d.address, false)).collect();
        let (proxy, _) = mesh.client_of(&places, AccessLogTarget::File(log.clone()));
        let (head, body) = proxy.client().get("/");
        assert!(head.starts_with("HTTP/1.1 503 ") && head.contains("x-meshfed-reason: upstream_connect"), "{head}");
        assert_eq!(body, b"dead");
        until("a line", || std::fs::read_to_string(&log).is_ok_and(|t| t.ends_with('\n')));
        let text = std::fs::read_to_string(&log).unwrap();
        let line: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        assert_eq!((&line["flags"], &line["attempts"]), (&flags.into(), &attempts.into()), "{line}");
        assert_eq!(line["reason"], "upstream_connect", "{line}");
        std::fs::remove_file(&log).unwrap();
    }
    let nobody: Vec<_> =
        (0..4).map(|n| (n, TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap(), false)).collect();
    let (proxy, _) = mesh.client_of(&nobody, AccessLogTarget::Off);
    let (head, _) = proxy.client().get("/");
    assert!(head.contains("x-meshfed-reason: upstream_connect"), "{head}");
    until("UF,URX", || proxy.metrics.encode().contains("response_flags=\"UF,URX\""));
    let (proxy, _) = mesh.client_of(&nobody[..1], AccessLogTarget::Off);
    proxy.client().get("/");
    until("UF", || proxy.metrics.encode().contains("response_flags=\"UF\""));
}

/// Only a mesh peer's word counts, not an application's, whether it speaks for itself or behind a sidecar.
///
/// Mutation seen to fail: `heed` true always; `strip_identity` false in `exchange`.
#[test]
fn an_application_cannot_send_a_request_elsewhere() {
    let liar = || {
        Backend::answering(|_, _| {
            b"HTTP/1.1 503 No\r\nx-meshfed-reason: upstream_connect\r\nContent-Length: 3\r\n\r\nlie".to_vec()
        })
    };
    let (plain, other) = (liar(), Backend::ok());
    let plaintext = |a| endpoint(a, Transport::Plaintext);
    let cluster =
        cluster_with(BTreeMap::from([(0, vec![plaintext(plain.address)]), (1, vec![plaintext(other.address)])]));
    let proxy = Proxy::outbound(&[("b", RouteAction::Cluster(cell_of(Some(cluster)), RoutePolicy::default()))]);
    let (head, body) = proxy.client().get("/");
    assert!(head.starts_with("HTTP/1.1 503 ") && !head.contains("x-meshfed"), "{head}");
    assert_eq!((body, other.connections()), (b"lie".to_vec(), 0));
    let mesh = Mesh::of(liar());
    let second = dead(&mesh);
    let (proxy, _) =
        mesh.client_of(&[(0, mesh.inbound.address, false), (1, second.address, false)], AccessLogTarget::Off);
    let (head, body) = proxy.client().get("/");
    assert!(!head.contains("x-meshfed"), "{head}");
    assert_eq!((body, second.connections()), (b"lie".to_vec(), 0));
}

/// Other reasons may mean that the application has it; so does a broken connection where the method says more than once.
///
/// Mutations seen to fail: `of_peer` with `Timeout` among its words; `is_repeatable` always true.
#[test]
fn what_may_have_been_served_is_not_sent_again() {
    let mesh = Mesh::new();
    for (request, reason) in [
        ("GET", "timeout"),
        ("GET", "overload"),
        ("GET", "denied"),
        ("POST", "upstream_reset"),
        ("PATCH", "upstream_reset"),
    ] {
        let peer = mesh.peer(move |tls, _| {
            while take(tls, 0).is_some() {
                refuse(tls, reason);
            }
        });
        let places = [(0, peer.address, false), (1, mesh.inbound.address, false)];
        let (proxy, _) = mesh.client_of(&places, AccessLogTarget::Off);
        let mut client = proxy.client();
        client.send(format!("{request} / HTTP/1.1\r\nHost: b\r\nContent-Length: 0\r\n\r\n"));
        let (head, _) = client.read_message().unwrap();
        assert!(head.contains(&format!("x-meshfed-reason: {reason}")), "{request}: {head}");
    }
    assert_eq!(mesh.backend.connections(), 0);
}

/// Reads one request and closes.
fn closing() -> Backend {
    Backend::start(|c, _| drop(c.read_message()))
}

fn plaintext(places: &[(u32, &Backend)], policy: RoutePolicy) -> Proxy {
    let mut priorities: BTreeMap<u32, Vec<Arc<Endpoint>>> = BTreeMap::new();
    for (priority, backend) in places {
        priorities.entry(*priority).or_default().push(endpoint(backend.address, Transport::Plaintext));
    }
    Proxy::outbound(&[("b", RouteAction::Cluster(cell_of(Some(cluster_with(priorities))), policy))])
}

/// An application that is told to end closes its connections, answered or not. What may be done twice is asked of another
/// endpoint (RFC 9110 9.2.2), with its body, whether the connection is ours or the proxy of its pod tells.
///
/// Mutations seen to fail: `after_reset` always false; `said.reached_nobody()` alone in `take_head`.
#[test]
fn what_may_be_done_twice_is_asked_of_another_when_nobody_answers() {
    let mesh = Mesh::of(echo());
    let told = mesh.peer(|tls, _| {
        while take(tls, 3).is_some() {
            refuse(tls, "upstream_reset");
        }
    });
    let (ours, other) = (closing(), echo());
    let (over_tls, _) =
        mesh.client_of(&[(0, told.address, false), (1, mesh.inbound.address, false)], AccessLogTarget::Off);
    let direct = plaintext(&[(0, &ours), (1, &other)], RoutePolicy::default());
    for (proxy, asked) in [(&over_tls, &told), (&direct, &ours)] {
        for (n, method) in (1..).zip(["GET", "PUT", "DELETE", "OPTIONS"]) {
            let mut client = proxy.client();
            client.send(format!("{method} / HTTP/1.1\r\nHost: b\r\nContent-Length: 3\r\n\r\nabc"));
            let (head, body) = client.read_message().unwrap();
            assert!(head.starts_with("HTTP/1.1 200 ") && !head.contains("x-meshfed"), "{method}: {head}");
            assert_eq!(body, b"abc", "{method}");
            let retries = format!("service=\"b.shop.svc.clusterset.local\",reason=\"reset\"}} {n}\n");
            until("it is counted", || proxy.metrics.encode().contains(&retries));
        }
        // It is asked first each time: one request that it ended says nothing about the others.
        assert!(asked.connections() > 0);
    }
    assert_eq!(ours.connections(), 4);
}

/// It is asked of one other and no more: what ends each application that gets it shall not get to all of them.
///
/// Mutation seen to fail: `self.resets >= RESET_MAX` with `>`.
#[test]
fn what_ends_two_applications_is_not_brought_to_a_third() {
    let mesh = Mesh::new();
    let all: Vec<Backend> = (0..4).map(|_| closing()).collect();
    let peers: Vec<Backend> = (0..4)
        .map(|_| {
            mesh.peer(|tls, _| {
                if take(tls, 0).is_some() {
                    refuse(tls, "upstream_reset");
                }
            })
        })
        .collect();
    let places: Vec<_> = all.iter().map(|b| (0, b)).collect();
    let direct = plaintext(&places, RoutePolicy::default());
    let places: Vec<_> = peers.iter().map(|b| (0, b.address, false)).collect();
    let (over_tls, _) = mesh.client_of(&places, AccessLogTarget::Off);
    for (proxy, asked) in [(direct, all), (over_tls, peers)] {
        let (head, _) = proxy.client().get("/");
        assert!(head.starts_with("HTTP/1.1 503 ") && head.contains("x-meshfed-reason: upstream_reset"), "{head}");
        assert_eq!(asked.iter().map(Backend::connections).sum::<usize>(), 2);
        until("it is counted", || proxy.metrics.encode().contains("result=\"failed\"} 1"));
    }
}

/// Not after the first byte of an answer, not where the route has no retries, and not by the server's own proxy: the one
/// who calls decides.
///
/// Mutations seen to fail: `response.input.is_empty()` left out of `is_unanswered`; `self.policy.retries == 0` left out of
/// `take`; `reporter == Reporter::Source` left out of `is_repeatable`.
#[test]
fn nobody_else_is_asked_where_another_decides_or_an_answer_began() {
    let other = Backend::ok();
    let begun = Backend::start(|c, _| {
        let _request = c.read_message();
        c.send("HTTP/1.1 20");
    });
    let ended = closing();
    let without = RoutePolicy { retries: 0, ..RoutePolicy::default() };
    for proxy in [
        plaintext(&[(0, &begun), (1, &other)], RoutePolicy::default()),
        plaintext(&[(0, &ended), (1, &other)], without),
    ] {
        let (head, _) = proxy.client().get("/");
        assert!(head.starts_with("HTTP/1.1 503 ") && head.contains("x-meshfed-reason: upstream_reset"), "{head}");
        let metrics = proxy.metrics.encode();
        assert!(
            !metrics.contains("meshfed_upstream_retried_requests_total{"),
            "no limit kept it from another: {metrics}"
        );
    }
    assert_eq!((begun.connections(), ended.connections(), other.connections()), (1, 1, 0));
    let twice = [closing(), closing()];
    let addresses = twice.each_ref().map(|b| b.address);
    let mesh = Mesh::in_front_of(closing(), &addresses);
    let (client, _) = mesh.client_of(&[(0, mesh.inbound.address, false)], AccessLogTarget::Off);
    let (head, _) = client.client().get("/");
    assert!(head.contains("x-meshfed-reason: upstream_reset"), "{head}");
    assert_eq!(twice.iter().map(Backend::connections).sum::<usize>(), 1);
}

/// Where nobody else can be asked after all, the client is told that an application may have had it, not that none did.
///
/// Mutation seen to fail: `may_have_been_served` always false.
#[test]
fn a_request_that_may_have_been_served_is_never_called_unserved() {
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let ended = closing();
    let of = |priority, address| (priority, vec![endpoint(address, Transport::Plaintext)]);
    let cluster = cluster_with(BTreeMap::from([of(0, ended.address), of(1, gone)]));
    let proxy = Proxy::outbound(&[("b", RouteAction::Cluster(cell_of(Some(cluster)), RoutePolicy::default()))]);
    let (head, _) = proxy.client().get("/");
    assert!(head.starts_with("HTTP/1.1 503 ") && head.contains("x-meshfed-reason: upstream_reset"), "{head}");
}

/// A body beyond the replay buffer is sent once, and the client gets the peer's answer; the next one goes elsewhere.
///
/// Mutations seen to fail: `self.lost = true` left out of `poll`; `after_answered_refusal` does nothing.
#[test]
fn a_body_too_long_to_keep_is_sent_once() {
    let mesh = Mesh::new();
    let refusing = mesh.peer(|tls, _| {
        if take(tls, 200_000).is_some() {
            refuse(tls, "upstream_connect");
        }
    });
    let places = [(0, refusing.address, false), (1, mesh.inbound.address, false)];
    let (proxy, _) = mesh.client_of(&places, AccessLogTarget::Off);
    let mut client = proxy.client();
    client.send(post(200_000));
    let (head, body) = client.read_message().unwrap();
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    assert_eq!((body, mesh.backend.connections()), (b"dead".to_vec(), 0));
    until("it is counted", || proxy.metrics.encode().contains("result=\"not_replayable\"} 1"));
    let mut next = proxy.client();
    next.send(post(200_000));
    assert!(next.read_message().unwrap().0.starts_with("HTTP/1.1 200 "));
}

/// A gateway stands for many: where it is the only address it is asked again, over a new connection.
///
/// Mutation seen to fail: `self.fresh = true` left out of `leave` together with `tried.pop()`.
#[test]
fn a_gateway_is_asked_again() {
    let mesh = Mesh::new();
    let behind = mesh.peer(|tls, n| {
        while take(tls, 0).is_some() {
            if n == 0 {
                refuse(tls, "upstream_connect");
            } else {
                let _gone = tls.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
            }
        }
    });
    let (proxy, _) = mesh.client_of(&[(0, behind.address, true)], AccessLogTarget::Off);
    assert_eq!(proxy.client().get("/").1, b"ok");
    assert_eq!(behind.connections(), 2);
}

/// Mutation seen to fail: `under_way >= …retries.at(all)` with `>`; `policy.retries == 0` not looked at.
#[test]
fn retries_keep_to_the_clusters_limit_and_the_routes() {
    let mesh = Mesh::new();
    let dead = dead(&mesh);
    let places = [(0, dead.address, false), (1, mesh.inbound.address, false)];
    let none = |mut cluster: Cluster| {
        cluster.circuit_breakers.retries = RetryLimit::Fixed(0);
        cluster
    };
    let (proxy, _) = mesh.client_with(&places, AccessLogTarget::Off, none, RoutePolicy::default());
    assert!(proxy.client().get("/").0.starts_with("HTTP/1.1 503 "));
    until("it is counted", || proxy.metrics.encode().contains("result=\"overflow\"} 1"));
    assert!(proxy.metrics.encode().contains("response_flags=\"UO\""), "as Envoy says it");
    let once = RoutePolicy { retries: 0, ..RoutePolicy::default() };
    let (proxy, _) = mesh.client_with(&places, AccessLogTarget::Off, |cluster| cluster, once);
    assert!(proxy.client().get("/").0.starts_with("HTTP/1.1 503 "));
    until("it is counted", || proxy.metrics.encode().contains("response_code=\"503\""));
    assert!(!proxy.metrics.encode().contains("meshfed_upstream_retried_requests_total{"), "nothing was to be retried");
    assert_eq!(mesh.backend.connections(), 0);
}

/// A share of what is under way, and three in any case.
///
/// Mutations seen to fail: `.max(least)` left out of `RetryLimit::at`; `Budget` read as no limit.
#[test]
fn retries_keep_to_their_budget() {
    assert_eq!([0, 15, 16, 20, 100].map(|n| RetryLimit::DEFAULT.at(n)), [3, 3, 3, 4, 20]);
    assert_eq!(RetryLimit::Budget { share: 10_000, least: 0 }.at(7), 7);
    assert_eq!(RetryLimit::Budget { share: 0, least: 0 }.at(1000), 0);
    assert_eq!(RetryLimit::Fixed(2).at(1000), 2);
    assert_eq!(RetryLimit::Budget { share: 10_000, least: 0 }.at(u32::MAX), u32::MAX);

    // All twelve wait at an endpoint whose application is dead; then all want to go elsewhere at once.
    const CLIENTS: usize = 12;
    let refused = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&refused);
    let mesh = Mesh::of(Backend::answering(move |_, _| {
        until("all others were refused", || seen.load(Ordering::SeqCst) == CLIENTS - 3);
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec()
    }));
    let together = std::sync::Barrier::new(CLIENTS);
    let dead = mesh.peer(move |tls, _| {
        while take(tls, 0).is_some() {
            together.wait();
            refuse(tls, "upstream_connect");
        }
    });
    let places = [(0, dead.address, false), (1, mesh.inbound.address, false)];
    let (proxy, _) = mesh.client_of(&places, AccessLogTarget::Off);
    let served = std::thread::scope(|scope| {
        let one = || {
            let answered = proxy.client().get("/").0.starts_with("HTTP/1.1 200 ");
            refused.fetch_add(usize::from(!answered), Ordering::SeqCst);
            answered
        };
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(one)).collect();
        clients.into_iter().map(|c| usize::from(c.join().unwrap())).sum::<usize>()
    });
    assert_eq!(served, 3);
    until("they are counted", || proxy.metrics.encode().contains("result=\"overflow\"} 9"));
    assert!(proxy.counted(9).contains("response_flags=\"UO\""));
}

/// A kept connection that ends: a request whose beginning is gone is not sent without it.
///
/// Mutation seen to fail: `is_replayable` always true (the rest alone would go out, and nobody answers).
#[test]
fn half_a_request_is_never_sent() {
    const LONG: usize = 100_000;
    let backend = Backend::start(|c, n| {
        c.read_message().unwrap();
        c.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        if let Some((head, body)) = c.read_message().filter(|_| n > 0 || !std::thread::panicking())
            && n > 0
        {
            assert!(head.starts_with("PUT"), "{head}");
            c.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()));
            c.send(body);
        }
    });
    let proxy = Proxy::outbound(&[("b", to(&[backend.address]))]);
    let mut client = proxy.client();
    client.get("/");
    client.send(format!("PUT / HTTP/1.1\r\nHost: b\r\nContent-Length: {LONG}\r\n\r\n"));
    client.send(vec![b'y'; LONG]);
    let (head, _) = client.read_message().unwrap();
    assert!(head.starts_with("HTTP/1.1 503 ") && head.contains("upstream_reset"), "{head}");
    assert_eq!(backend.connections(), 1);
}
