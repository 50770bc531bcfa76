//! Requests and answers that are not served: malformed ones never reach anybody, and every refusal says why.

use super::*;

/// Mutation seen to fail: `find_head_end` without its check for CR; `LengthAndChunked` not refused.
#[test]
fn smuggling_is_refused_and_nobody_is_contacted() {
    let backend = Backend::ok();
    let proxy = Proxy::outbound(&[("b", to(&[backend.address]))]);
    let smuggled = "GET /evil HTTP/1.1\r\nHost: b\r\n\r\n";
    for head in [
        "POST / HTTP/1.1\r\nHost: b\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: b\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: b\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: b\r\nContent-Length: 1\r\nContent-Length: 0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: b\r\nContent-Length: 1, 0\r\n\r\n",
        "POST / HTTP/1.0\r\nHost: b\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: b\r\nContent-Length: 0\r\nContent_Length: 36\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: b\r\nTransfer_Encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET / HTTP/1.1\nHost: b\n\n",
        "GET / HTTP/1.1\r\nHost: b\r\nX: a\0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: b\r\nHost: c\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: b\r\n X: folded\r\n\r\n",
        "GET /#x HTTP/1.1\r\nHost: b\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: b\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        "\x16\x03\x01\x02\x00\x01\x00\x01",
        "\u{1}garbage",
    ] {
        let answer = once(&proxy, format!("{head}{smuggled}"));
        assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{head:?}: {answer}");
        assert!(
            answer.contains("connection: close\r\n") && answer.contains("x-meshfed-reason: denied\r\n"),
            "{answer}"
        );
        assert_eq!(answer.matches("x-meshfed-reason").count(), 1, "{head:?}: {answer}");
    }
    for (head, status) in [
        ("CONNECT b:80 HTTP/1.1\r\nHost: b:80\r\n\r\n", 501),
        ("GET / HTTP/3.0\r\nHost: b\r\n\r\n", 505),
        ("GET / HTTP/1.1\r\nHost: b\r\nExpect: x\r\n\r\n", 417),
        (&format!("GET /{} HTTP/1.1\r\nHost: b\r\n\r\n", "a".repeat(9000)), 414),
        (&format!("GET / HTTP/1.1\r\nHost: b\r\n{}\r\n", "X: y\r\n".repeat(100)), 431),
        (&format!("GET / HTTP/1.1\r\nHost: b\r\n{}", format!("X: {}\r\n", "y".repeat(4000)).repeat(9)), 431),
    ] {
        let answer = once(&proxy, head);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{status}: {answer}");
    }
    assert_eq!(backend.connections(), 0);
    assert!(proxy.metrics.encode().contains("meshfed_http_refused_total{side=\"downstream\",reason=\"malformed\"}"));
}

/// A body that turns out malformed after the request went on its way.
#[test]
fn a_malformed_body_ends_the_request() {
    let backend = Backend::start(|c, _| {
        c.head().unwrap();
        let rest = c.rest();
        assert!(!String::from_utf8_lossy(&rest).contains("evil"), "{rest:?}");
    });
    let proxy = Proxy::outbound(&[("b", to(&[backend.address]))]);
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nHost: b\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
    until("the head went on", || backend.connections() == 1);
    client.send("3\r\nabcdGET /evil HTTP/1.1\r\nHost: b\r\n\r\n");
    let answer = String::from_utf8(client.rest()).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
}

/// The body of a request that goes nowhere is no next request. Mutation seen to fail: `reply.close` false in `plan`.
#[test]
fn a_body_that_nobody_reads_ends_the_connection() {
    let proxy = Proxy::outbound(&[]);
    let smuggled = "GET /evil HTTP/1.1\r\nHost: b\r\n\r\n";
    let length = smuggled.len();
    let answer = once(&proxy, format!("POST / HTTP/1.1\r\nHost: b\r\nContent-Length: {length}\r\n\r\n{smuggled}"));
    assert!(answer.starts_with("HTTP/1.1 404 ") && answer.contains("connection: close"), "{answer}");
    assert_eq!(answer.matches("x-meshfed-reason").count(), 1, "{answer}");
}

/// Mutation seen to fail: the words of `Reason::as_str` exchanged.
#[test]
fn every_refusal_says_why() {
    let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let rude = Backend::start(|c, _| {
        c.head();
    });
    let mut tiny = cluster_with(BTreeMap::from([(0, vec![endpoint(rude.address, Transport::Plaintext)])]));
    tiny.circuit_breakers.max_requests = 0;
    let proxy = Proxy::outbound(&[
        ("empty", RouteAction::Cluster(cell_of(Some(cluster_with(BTreeMap::new()))), RoutePolicy::default())),
        ("unknown", RouteAction::Cluster(cell_of(None), RoutePolicy::default())),
        ("dead", to(&[dead])),
        ("rude", to(&[rude.address])),
        ("full", RouteAction::Cluster(cell_of(Some(tiny)), RoutePolicy::default())),
        ("other", RouteAction::Respond(421)),
    ]);
    let mut client = proxy.client();
    for (host, status, reason, closes) in [
        ("nobody", 404, "no_route", false),
        ("empty", 503, "no_endpoints", false),
        ("unknown", 503, "no_endpoints", false),
        ("dead", 503, "upstream_connect", false),
        ("full", 503, "overload", false),
        ("other", 421, "no_route", false),
        ("rude", 503, "upstream_reset", true),
    ] {
        client.send(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        let (head, body) = client.read_message().expect(host);
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{host}: {head}");
        assert!(head.contains(&format!("x-meshfed-reason: {reason}\r\n")), "{host}: {head}");
        assert_eq!(head.contains("connection: close"), closes, "{host}: {head}");
        assert!(body.starts_with(b"meshfed"), "{host}");
    }
    for flags in ["NR", "UH", "UF", "UC", "UO"] {
        until(flags, || proxy.metrics.encode().contains(&format!("response_flags=\"{flags}\"")));
    }
}

/// Mutation seen to fail: `ResponseBody::Close` taken where the length is missing its bytes (`Ok(0)` not an error).
#[test]
fn a_cut_answer_is_cut_for_the_client_too() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    ] {
        let backend = Backend::start(move |c, _| {
            c.head().unwrap();
            c.send(answer);
        });
        let proxy = Proxy::outbound(&[("b", to(&[backend.address]))]);
        let mut client = proxy.client();
        client.send("GET / HTTP/1.1\r\nHost: b\r\n\r\n");
        let got = String::from_utf8(client.rest()).unwrap();
        assert!(got.contains("abc") && !got.ends_with("0\r\n\r\n"), "{got}");
    }
}

#[test]
fn malformed_answers_are_not_forwarded() {
    for answer in [
        "HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
        "HTTP/1.1 200 OK\r\nSet-Cookie: a\r\n b\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        "SSH-2.0-OpenSSH_9\r\n\r\n",
    ] {
        let backend = Backend::start(move |c, _| {
            c.head().unwrap();
            c.send(answer);
            c.rest();
        });
        let proxy = Proxy::outbound(&[("b", to(&[backend.address]))]);
        let mut client = proxy.client();
        let (head, _) = client.get("/");
        assert!(head.starts_with("HTTP/1.1 502 ") && head.contains("upstream_reset"), "{answer:?}: {head}");
    }
}

/// Mutation seen to fail: `self.timer.set(HEAD_TICKS)` left out.
#[test]
fn a_head_that_dribbles_is_given_up() {
    let backend = Backend::ok();
    let proxy = Proxy::outbound(&[("b", to(&[backend.address]))]);
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: b\r\nX: ");
    let answer = String::from_utf8(client.rest()).unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("x-meshfed-reason: timeout"), "{answer}");
    assert_eq!(backend.connections(), 0);
}

/// Mutation seen to fail: `Kind::MeshIdentity` kept in requests.
#[test]
fn identity_headers_of_the_application_go_nowhere() {
    let backend = Backend::answering(|head, _| {
        let lower = head.to_ascii_lowercase();
        assert!(
            !lower.contains("client-cert") && !lower.contains("x-meshfed") && lower.contains("x-forwarded-for"),
            "{head}"
        );
        b"HTTP/1.1 200 OK\r\nX-Meshfed-Reason: forged\r\nContent-Length: 2\r\n\r\nok".to_vec()
    });
    let proxy = Proxy::outbound(&[("b", to(&[backend.address]))]);
    let answer = once(
        &proxy,
        "GET / HTTP/1.1\r\nHost: b\r\nX-Forwarded-Client-Cert: URI=spiffe://x\r\nX-Meshfed-Y: 1\r\nX-Forwarded-For: z\r\n\r\n",
    );
    assert!(answer.contains("200 OK") && !answer.to_ascii_lowercase().contains("x-meshfed"), "{answer}");
}
