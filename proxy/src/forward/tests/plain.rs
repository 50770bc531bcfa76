//! Requests that are served: framing, keep-alive, pools, tries.

use super::*;

/// Mutation seen to fail: `slot.give_back(…)` left out of `finish`.
#[test]
fn connections_are_kept_on_both_sides() {
    let backend = Backend::ok();
    let proxy = Proxy::outbound(&[("b", to(&[backend.address]))]);
    for _ in 0..2 {
        let mut client = proxy.client();
        for _ in 0..5 {
            let (head, body) = client.get("/");
            assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && !head.contains("connection"), "{head}");
            assert_eq!(body, b"ok");
        }
    }
    assert_eq!(backend.connections(), 1);
    let line = proxy.counted(10);
    for part in [
        "reporter=\"source\"",
        "source_workload=\"a\"",
        "destination_cluster=\"east\"",
        "destination_service=\"b.shop.svc.clusterset.local\"",
        "destination_service_namespace=\"shop\"",
        "response_code=\"200\"",
        "response_flags=\"-\"",
        "connection_security_policy=\"none\"",
    ] {
        assert!(line.contains(part), "{part} in {line}");
    }
    assert!(proxy.metrics.encode().contains("istio_request_duration_milliseconds_count{"));
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let backend = Backend::answering(|head, _| {
        let path = head.split(' ').nth(1).unwrap().to_owned();
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{path}", path.len()).into_bytes()
    });
    let proxy = Proxy::outbound(&[("b", to(&[backend.address]))]);
    let mut client = proxy.client();
    let one = |n: usize| format!("\r\nPOST /{n} HTTP/1.1\r\nHost: b\r\nContent-Length: 3\r\n\r\nabc");
    client.send((0..20).map(one).collect::<String>());
    for n in 0..20 {
        assert_eq!(client.read_message().unwrap().1, format!("/{n}").into_bytes());
    }
}

/// Mutation seen to fail: `self.request.chunk` left false (the body arrives without framing).
#[test]
fn chunks_are_framed_anew_both_ways() {
    let backend = Backend::start(|c, _| {
        let head = c.head().unwrap();
        assert!(head.contains("transfer-encoding: chunked\r\n") && !head.contains("railer"), "{head}");
        let body = c.body(&head).unwrap();
        assert_eq!(body, b"hello world");
        c.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n");
        c.send("4\r\ndefg\r\n0\r\nX-Trailer: 1\r\n\r\n");
    });
    let proxy = Proxy::outbound(&[("b", to(&[backend.address]))]);
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nHost: b\r\nTrailer: t\r\nTransfer-Encoding: chunked\r\n\r\n5;ext=1\r\nhel");
    client.send("lo\r\n6\r\n world\r\n0\r\nT: 1\r\n\r\n");
    assert_eq!(client.read_message().unwrap().1, b"abcdefg");
}

#[test]
fn answers_without_a_body_have_none() {
    let backend = Backend::answering(|head, _| {
        let status = if head.contains("/204") { "204 No Content" } else { "200 OK" };
        let length = if head.contains("/204") { "" } else { "Content-Length: 2\r\n" };
        let body = if head.starts_with("HEAD") || head.contains("/204") { "" } else { "ok" };
        format!("HTTP/1.1 {status}\r\n{length}\r\n{body}").into_bytes()
    });
    let proxy = Proxy::outbound(&[("b", to(&[backend.address]))]);
    let mut client = proxy.client();
    client.send(
        "HEAD / HTTP/1.1\r\nHost: b\r\n\r\nGET /204 HTTP/1.1\r\nHost: b\r\n\r\nGET / HTTP/1.1\r\nHost: b\r\n\r\n",
    );
    assert!(client.head().unwrap().contains("content-length: 2\r\n"));
    assert!(!client.head().unwrap().contains("content-length"));
    assert_eq!(client.read_message().unwrap().1, b"ok");
    assert_eq!(backend.connections(), 1);
}

/// Mutation seen to fail: `Decode::Close` ended without `CHUNK_END`.
#[test]
fn http_1_0_is_taken_on_both_sides() {
    let old = Backend::start(|c, _| {
        let head = c.head().unwrap();
        assert!(head.starts_with("GET / HTTP/1.1\r\n"), "{head}");
        c.send("HTTP/1.0 200 OK\r\nServer: old\r\n\r\nuntil the end");
    });
    let proxy = Proxy::outbound(&[("b", to(&[old.address]))]);
    let mut client = proxy.client();
    for _ in 0..2 {
        let (head, body) = client.get("/");
        assert!(head.contains("transfer-encoding: chunked"), "{head}");
        assert_eq!(body, b"until the end");
    }
    let new = Backend::answering(|_, _| {
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n".to_vec()
    });
    let proxy = Proxy::outbound(&[("b", to(&[new.address]))]);
    let answer = once(&proxy, "GET http://b/ HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert_eq!(answer, "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nabc");
    let sized = Backend::ok();
    let proxy = Proxy::outbound(&[("b", to(&[sized.address]))]);
    let answer =
        once(&proxy, "GET / HTTP/1.0\r\nHost: b\r\nConnection: keep-alive\r\n\r\nGET / HTTP/1.0\r\nHost: b\r\n\r\n");
    assert_eq!(answer.matches("ok").count(), 2);
    assert_eq!(answer.matches("connection: keep-alive").count(), 1);
}

fn pattern(n: usize) -> Vec<u8> {
    (0..n).map(|i| u8::try_from((i * 7 + i / 251) % 256).unwrap()).collect()
}

/// Mutation seen to fail: `*left -= n` left out of `poll_direct`.
#[test]
fn large_bodies_are_byte_exact() {
    const BYTES: usize = 10 * 1024 * 1024;
    let backend = Backend::answering(|head, body| {
        assert!(*body == pattern(BYTES), "request body differs");
        // Lower case is ours: the head was not carried over as part of a body.
        assert!(head.contains("\r\nhost: b\r\n"), "{head}");
        let mut out = Vec::new();
        if head.contains("/chunked") {
            out.extend_from_slice(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
            for part in body.chunks(70_001) {
                out.extend(format!("{:x}\r\n", part.len()).into_bytes());
                out.extend_from_slice(part);
                out.extend_from_slice(b"\r\n");
            }
            out.extend_from_slice(b"0\r\n\r\n");
        } else {
            out.extend(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes());
            out.extend_from_slice(body);
        }
        out
    });
    let proxy = Proxy::outbound(&[("b", to(&[backend.address]))]);
    let mut client = proxy.client();
    client.send(format!("POST /length HTTP/1.1\r\nHost: b\r\nContent-Length: {BYTES}\r\n\r\n"));
    client.send(pattern(BYTES));
    assert!(client.read_message().unwrap().1 == pattern(BYTES), "answer differs");
    client.send("POST /chunked HTTP/1.1\r\nHost: b\r\nTransfer-Encoding: chunked\r\n\r\n");
    for part in pattern(BYTES).chunks(33_333) {
        client.send(format!("{:x}\r\n", part.len()));
        client.send(part);
        client.send("\r\n");
    }
    client.send("0\r\n\r\n");
    assert!(client.read_message().unwrap().1 == pattern(BYTES), "chunked answer differs");
    proxy.counted(2);
    assert_eq!(backend.connections(), 1);
}

/// Mutation seen to fail: `self.retries >= self.policy.retries` always true.
#[test]
fn a_failed_connect_tries_another_endpoint() {
    let backend = Backend::ok();
    let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let proxy = Proxy::outbound(&[("b", to(&[dead, backend.address]))]);
    let mut client = proxy.client();
    for _ in 0..10 {
        client.send("POST / HTTP/1.1\r\nHost: b\r\nContent-Length: 3\r\n\r\nabc");
        assert_eq!(client.read_message().unwrap().1, b"ok");
    }
}

/// Mutation seen to fail: `by_weight` over reversed priorities.
#[test]
fn the_next_priority_is_used_only_when_the_first_fails() {
    let (near, far) = (Backend::ok(), Backend::ok());
    let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let plain = |a| endpoint(a, Transport::Plaintext);
    let cell =
        cell_of(Some(cluster_with(BTreeMap::from([(0, vec![plain(near.address)]), (1, vec![plain(far.address)])]))));
    let proxy = Proxy::outbound(&[("b", RouteAction::Cluster(Arc::clone(&cell), RoutePolicy::default()))]);
    let mut client = proxy.client();
    for _ in 0..4 {
        client.get("/");
    }
    assert_eq!((near.connections(), far.connections()), (1, 0));
    cell.set(Some(Arc::new(cluster_with(BTreeMap::from([(0, vec![plain(dead)]), (1, vec![plain(far.address)])])))));
    for _ in 0..4 {
        assert!(client.get("/").0.starts_with("HTTP/1.1 200"));
    }
    assert_eq!((near.connections(), far.connections()), (1, 1));
}

/// A server that ends a kept connection without an answer. Mutation seen to fail: `may_repeat` always false, and always
/// true (the POST is then done twice).
#[test]
fn a_stale_connection_is_replaced_when_that_is_safe() {
    let posts = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&posts);
    let backend = Backend::start(move |c, _| {
        let (head, _) = c.read_message().unwrap();
        if head.starts_with("POST") {
            seen.fetch_add(1, Ordering::SeqCst);
        }
        c.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        // The next request is read and never answered.
        if let Some((head, _)) = c.read_message()
            && head.starts_with("POST")
        {
            seen.fetch_add(1, Ordering::SeqCst);
        }
    });
    let proxy = Proxy::outbound(&[("b", to(&[backend.address]))]);
    let mut client = proxy.client();
    for _ in 0..2 {
        assert_eq!(client.get("/").1, b"ok");
    }
    assert_eq!(backend.connections(), 2);
    client.send("POST / HTTP/1.1\r\nHost: b\r\nContent-Length: 3\r\n\r\nabc");
    let (head, _) = client.read_message().unwrap();
    assert!(head.starts_with("HTTP/1.1 503") && head.contains("x-meshfed-reason: upstream_reset"), "{head}");
    assert_eq!(posts.load(Ordering::SeqCst), 1);
}

/// Mutation seen to fail: `self.response.input.is_empty()` left out of `is_reusable`.
#[test]
fn a_server_that_says_too_much_is_not_used_again() {
    let backend = Backend::start(|c, _| {
        while c.read_message().is_some() {
            c.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil");
        }
    });
    let proxy = Proxy::outbound(&[("b", to(&[backend.address]))]);
    let mut client = proxy.client();
    for n in 1..=3 {
        assert_eq!(client.get("/").1, b"ok");
        assert_eq!(backend.connections(), n);
    }
}

/// Mutation seen to fail: interim responses not forwarded.
#[test]
fn a_client_that_expects_100_continue_gets_it() {
    let backend = Backend::start(|c, _| {
        let head = c.head().unwrap();
        assert!(head.contains("Expect: 100-continue"), "{head}");
        c.send("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n");
        assert_eq!(c.body(&head).unwrap(), b"abc");
        c.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    });
    let proxy = Proxy::outbound(&[("b", to(&[backend.address]))]);
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nHost: b\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n");
    assert_eq!(client.head().unwrap(), "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n");
    assert_eq!(client.head().unwrap(), "HTTP/1.1 100 Continue\r\n\r\n");
    client.send("abc");
    assert_eq!(client.read_message().unwrap().1, b"ok");
}

/// A server that answers as soon as it has the head, and a proxy before it.
fn refuses_bodies() -> (Backend, Proxy) {
    let backend = Backend::start(|c, _| {
        c.head().unwrap();
        c.send("HTTP/1.1 413 Too Large\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbig!");
        c.rest();
    });
    let proxy = Proxy::outbound(&[("b", to(&[backend.address]))]);
    (backend, proxy)
}

/// The answer arrives although the server reads nothing of the body, and says that the connection ends (L7-4).
///
/// Mutation seen to fail: `request_done` left out of `take_head`.
#[test]
fn an_early_answer_reaches_the_client() {
    let (_backend, proxy) = refuses_bodies();
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nHost: b\r\nContent-Length: 1000000\r\n\r\nabc");
    let (head, body) = client.read_message().unwrap();
    assert!(head.contains("connection: close\r\n") && body == b"big!", "{head}");
    assert_eq!(client.rest(), b"");
}

/// Who reads the answer only once all of its body is sent gets it all the same: nothing is closed under it (L7-4).
///
/// Mutation seen to fail: `Unread::Noise` in `serve_one`.
#[test]
fn an_early_answer_reaches_a_client_that_sends_all_first() {
    const BYTES: usize = 16 * 1024 * 1024;
    let (_backend, proxy) = refuses_bodies();
    let mut client = proxy.client();
    client.send(format!("POST / HTTP/1.1\r\nHost: b\r\nContent-Length: {BYTES}\r\n\r\n"));
    assert_eq!(client.byte(), Some(b'H'), "the answer is there before the body is");
    client.send(vec![b'x'; BYTES]);
    let answer = [b"H".to_vec(), client.rest()].concat();
    assert!(answer.starts_with(b"HTTP/1.1 413 ") && answer.ends_with(b"\r\n\r\nbig!"), "{answer:?}");
}

/// Who begins HTTP/2 on a port of HTTP/1 is told so in its own words: SETTINGS, then GOAWAY with the error code 13 and a
/// sentence.
///
/// Mutation seen to fail: `refused_head` that answers as to everybody.
#[test]
fn who_begins_http_2_is_told_in_its_words() {
    let proxy = Proxy::outbound(&[]);
    let mut client = proxy.client();
    client.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    let said = client.rest();
    let (settings, away) = said.split_at(9);
    assert_eq!(settings, [0, 0, 0, 4, 0, 0, 0, 0, 0]);
    let (head, debug) = away.split_at(17);
    assert_eq!(usize::from(head[2]), debug.len() + 8);
    assert_eq!(head[3..], [7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 13]);
    assert!(String::from_utf8(debug.to_vec()).unwrap().contains("name it grpc or http2"), "{debug:?}");
}

/// Mutation seen to fail: `Core::watch` cloned but never given up (the drain then lasts its whole deadline).
#[test]
fn a_drain_ends_idle_connections_and_finishes_requests() {
    let gate = Arc::new(std::sync::Barrier::new(2));
    let inner = Arc::clone(&gate);
    let backend = Backend::answering(move |head, _| {
        if head.contains("/slow") {
            inner.wait();
            inner.wait();
        }
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec()
    });
    let proxy = Proxy::outbound(&[("b", to(&[backend.address]))]);
    let (mut idle, mut busy) = (proxy.client(), proxy.client());
    idle.get("/");
    busy.send("GET /slow HTTP/1.1\r\nHost: b\r\n\r\n");
    gate.wait();
    proxy.stop.send(()).unwrap();
    assert_eq!(idle.rest(), b"");
    gate.wait();
    let (head, body) = busy.read_message().unwrap();
    assert!(head.contains("connection: close\r\n"), "{head}");
    assert_eq!((body, busy.rest()), (b"ok".to_vec(), Vec::new()));
    drop((idle, busy));
    assert!(proxy.thread.join().unwrap());
}

/// Mutation seen to fail: `refused_head` left out of `plan`.
#[test]
fn the_access_log_says_who_answered_and_escapes_what_clients_wrote() {
    let backend = Backend::ok();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.log");
    let kind = ListenerKind::OutboundHttp { routes: table(&[("b", to(&[backend.address]))], None) };
    let proxy = Proxy::start(kind, state(), AccessLogTarget::File(path.clone()));
    let mut client = proxy.client();
    client.get("/x%22y?\"quoted\"");
    client.send("GET / HTTP/1.1\r\nHost: nobody\r\n\r\n");
    client.read_message().unwrap();
    client.send("GET /no%2fpath HTTP/1.1\r\nHost: b\r\n\r\n");
    assert!(client.read_message().unwrap().0.starts_with("HTTP/1.1 400"));
    let lines = || std::fs::read_to_string(&path).unwrap();
    until("three lines", || lines().lines().count() == 3);
    let lines: Vec<serde_json::Value> = lines().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines[0]["path"], "/x%22y?\"quoted\"");
    assert_eq!(lines[0]["upstream"], backend.address.to_string());
    assert_eq!((&lines[0]["status"], &lines[0]["bytesSent"]), (&200.into(), &2.into()));
    assert_eq!((&lines[0]["destinationCluster"], &lines[0]["reason"]), (&"east".into(), &serde_json::Value::Null));
    assert_eq!((&lines[1]["flags"], &lines[1]["reason"]), (&"NR".into(), &"no_route".into()));
    assert_eq!(lines[1]["authority"], "nobody");
    assert_eq!((&lines[2]["status"], &lines[2]["path"]), (&400.into(), &"/no%2fpath".into()));
    assert_eq!(lines[2]["authority"], "", "not that of the request before");
}

/// Mutation seen to fail: `Decode::Length` finished after its first piece (`fill`).
#[test]
fn many_clients_never_get_each_others_answers() {
    let backend = Backend::answering(|head, body| {
        let path = head.split(' ').nth(1).unwrap();
        let text = format!("{path}:{}", String::from_utf8_lossy(body)).repeat(1 + path.len() % 7 * 400);
        match path.len() % 3 {
            0 => {
                format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{text}\r\n0\r\n\r\n", text.len())
            }
            _ => format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len()),
        }
        .into_bytes()
    });
    let proxy = Proxy::outbound(&[("b", to(&[backend.address]))]);
    std::thread::scope(|scope| {
        for thread in 0..16usize {
            let proxy = &proxy;
            scope.spawn(move || {
                let mut client = proxy.client();
                for n in 0..50usize {
                    let path = format!("/{}", "x".repeat(thread % 5 + n % 9));
                    let body = format!("{thread}-{n}");
                    client.send(format!(
                        "PUT {path} HTTP/1.1\r\nHost: b\r\nContent-Length: {}\r\n\r\n{body}",
                        body.len()
                    ));
                    let got = String::from_utf8(client.read_message().unwrap().1).unwrap();
                    assert_eq!(got, format!("{path}:{body}").repeat(1 + path.len() % 7 * 400));
                    if n % 17 == 16 {
                        client = proxy.client();
                    }
                }
            });
        }
    });
    assert!(backend.connections() <= 16, "{}", backend.connections());
    proxy.counted(800);
}

/// Mutation seen to fail: `Ok(0)` of the client taken as the end of its body.
#[test]
fn a_client_that_leaves_in_the_middle_takes_its_upstream_along() {
    let ended = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&ended);
    let backend = Backend::start(move |c, _| {
        c.head().unwrap();
        assert_eq!(c.rest(), b"abc");
        seen.fetch_add(1, Ordering::SeqCst);
    });
    let proxy = Proxy::outbound(&[("b", to(&[backend.address]))]);
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nHost: b\r\nContent-Length: 10\r\n\r\nabc");
    drop(client);
    let begun = meshfed_runtime::clock::instant();
    until("the upstream is closed", || ended.load(Ordering::SeqCst) == 1);
    assert!(begun.elapsed() < Duration::from_secs(5), "only the next look at waiting exchanges found it");
    until("it is counted", || proxy.metrics.encode().contains("response_flags=\"DC\""));
}
