//! Who gets in, and how refusals look.

use super::*;

/// Mutation seen to fail: the second `authorization` header not looked for; the token read once for all.
#[tokio::test]
async fn nobody_without_the_token() {
    let room = plain();
    for bearer in ["", "Bearer", "Bearer ", "Bearer wrong", "Basic the-administrator", "the-administrator"] {
        for path in ["status", "clusters", "tokens", "no/such/path", "openapi.json", "joins%2Fplan"] {
            let got = send(&room, Method::GET, path, &[("authorization", bearer)], "").await;
            assert_eq!(got.code(), (401, "MF1401"), "{bearer} {path}");
            assert!(got.header("www-authenticate").unwrap().starts_with("Bearer"));
            assert_eq!(got.header("content-type"), Some("application/problem+json"));
        }
    }
    let twice = [("authorization", "Bearer the-administrator"), ("authorization", "Bearer x")];
    assert_eq!(send(&room, Method::GET, "status", &twice, "").await.status, 401);
    let right = [("authorization", "bearer the-administrator")];
    assert_eq!(send(&room, Method::GET, "status", &right, "").await.status, 200);
    // A reset is taken up by requests of connections that stand.
    room.token.send_replace(sha256(b"another"));
    assert_eq!(send(&room, Method::GET, "status", &right, "").await.status, 401);
    assert_eq!(send(&room, Method::GET, "status", &[("authorization", "bearer another")], "").await.status, 200);
}

/// Mutation seen to fail: `HEADERS_MAX` not looked at in `admit`.
#[tokio::test]
async fn a_head_has_so_many_fields() {
    let room = plain();
    let names: Vec<String> = (0..120).map(|n| format!("x-{n}")).collect();
    let many = |count: usize| names.iter().take(count).map(|n| (n.as_str(), "v")).collect::<Vec<_>>();
    assert_eq!(send(&room, Method::GET, "status", &many(99), "").await.status, 200);
    assert_eq!(send(&room, Method::GET, "status", &many(100), "").await.code(), (431, "MF1431"));
}

/// Mutation seen to fail: `method_not_allowed_fallback` left out.
#[tokio::test]
async fn problems_are_of_one_form() {
    let room = plain();
    let got = get(&room, "clusters/esat").await;
    let remedy = got.body["errors"][0]["remedy"].as_str().unwrap_or_default();
    assert!(remedy.contains("east, ") && !remedy.contains("old"), "the live clusters are named: {remedy}");
    let detail = "no cluster 'esat' in this fleet";
    assert_eq!(
        got.body,
        json!({"type":"https://meshfed.io/problems/unknown-cluster","title":"Unknown cluster","status":404,
               "detail":detail,"instance":"/api/v1/clusters/esat","code":"MF1404",
               "errors":[{"field":"name","reason":"NotFound","message":detail,"remedy":remedy}]})
    );
    assert_eq!((got.header("server"), got.header("cache-control")), (None, Some("no-store")));
    let got = get(&room, "clusters?colour=red").await;
    assert_eq!(got.code(), (400, "MF1410"));
    assert_eq!(got.body["errors"][0]["field"], "colour");
    for (path, code) in [
        ("nothing", (404, "MF1440")),
        ("services/shop/zzz", (404, "MF1444")),
        ("clusters/%FF", (400, "MF1400")),
        ("status?x=1", (400, "MF1410")),
        ("clusters/east?limit=1", (400, "MF1410")),
        ("trust?a", (400, "MF1410")),
        ("clusters?limit=0", (400, "MF1420")),
        ("clusters?limit=501", (400, "MF1420")),
        ("clusters?limit=1&limit=1", (400, "MF1420")),
        ("clusters?continue=%zz", (400, "MF1420")),
        ("clusters?continue=AAAA", (400, "MF1420")),
    ] {
        assert_eq!(get(&room, path).await.code(), code, "{path}");
    }
    let got = send(&room, Method::DELETE, "tokens", &[], "").await;
    assert_eq!(got.code(), (405, "MF1405"));
    assert!(got.header("allow").unwrap().contains("POST"));
    for (method, path) in [
        ("GET", "failover"),
        ("PUT", "failover"),
        ("GET", "services/shop/b/failover"),
        ("POST", "failover/simulate"),
        ("GET", "overrides"),
        ("POST", "overrides"),
        ("DELETE", "overrides/1"),
        ("GET", "explain?client=a&host=b"),
        ("GET", "events"),
        ("GET", "topology"),
        ("POST", "clusters/east/drain"),
        ("POST", "clusters/east/undrain"),
        ("DELETE", "clusters/east"),
        ("GET", "openapi.json"),
    ] {
        let got = send(&room, method.parse().unwrap(), path, &[], "").await;
        assert_eq!(got.code(), (501, "MF1501"), "{method} {path}");
    }
    let metrics = room.metrics.encode();
    assert!(metrics.contains("meshfed_http_requests_total{code=\"501\"} 14"), "{metrics}");
}

/// Mutation seen to fail: one limiter for the administrator and strangers.
#[tokio::test]
async fn too_many_requests_are_told_when_to_come_back() {
    let room = plain();
    let mut refused = 0;
    for _ in 0..300 {
        let got = send(&room, Method::GET, "status", &[("authorization", "Bearer x")], "").await;
        if got.status == 429 {
            assert_eq!((got.code(), got.header("retry-after")), ((429, "MF1429"), Some("1")));
            refused += 1;
        }
    }
    assert!(refused > 100, "{refused}");
    assert_eq!(get(&room, "status").await.status, 200, "strangers do not use up what the administrator may ask");
    let mut statuses = BTreeSet::new();
    for _ in 0..300 {
        statuses.insert(get(&room, "status").await.status);
    }
    assert_eq!(statuses, BTreeSet::from([200, 429]));
}
