//! Part 3: answers and problems of the HTTP API.

use std::process::Command;

use meshfed_e2e::process::run;
use serde_json::Value;

use super::keys;
use super::world::World;

/// Part 3: status, headers and fields of answers and problems, as another client than ours sees them.
///
/// Mutations seen to fail: an unknown query parameter is passed over; `ETag` left out of `shown`.
#[test]
fn the_api_keeps_its_shapes() {
    let world = World::start();
    let token = std::fs::read_to_string(world.fleet.path("federator/admin.token")).unwrap();
    let call = |method: &str, path: &str, headers: &[&str], body: Option<&str>| {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--http1.1", "-i", "--max-time", "10", "-X", method, "--cacert"]);
        curl.arg(world.fleet.path("federator/api-ca.pem")).args(["-H", &format!("Authorization: Bearer {token}")]);
        for header in headers {
            curl.args(["-H", header]);
        }
        if let Some(body) = body {
            curl.args(["-H", "Expect:", "-H", "Content-Type: application/json", "--data-binary", body]);
        }
        let url = format!("https://{}/api/v1/{path}", world.fleet.address("federator", "http"));
        let text = run(curl.arg(url)).ok(path);
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let status: u16 = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, head.to_ascii_lowercase(), serde_json::from_str::<Value>(body).unwrap_or_default())
    };
    let get = |path: &str| call("GET", path, &[], None);
    for path in ["status", "clusters", "clusters/east", "services", "services/shop/b", "trust", "tokens"] {
        let (status, head, body) = get(path);
        let revision = body["revision"].as_str().unwrap_or_else(|| panic!("{path}: a revision is text: {body}"));
        assert_eq!(status, 200, "{path}");
        assert!(head.contains(&format!("etag: \"{revision}\"")), "{path}: {head}");
        let (status, head, body) = get(&format!("{path}?x=1"));
        assert_eq!(status, 400, "{path}");
        assert!(head.contains("content-type: application/problem+json"), "{path}: {head}");
        assert_eq!(keys(&body), ["code", "detail", "errors", "instance", "status", "title", "type"], "{path}");
        assert_eq!(keys(&body["errors"][0]), ["field", "message", "reason", "remedy"], "{path}");
    }
    let (_, _, east) = get("clusters/east");
    let fields = [
        "agents",
        "bundle",
        "connection",
        "endpoints",
        "freshness",
        "gateways",
        "joinedAt",
        "lastSeenAt",
        "name",
        "networks",
        "overrides",
        "regions",
        "revision",
        "services",
        "source",
        "state",
        "trustDomain",
        "zones",
    ];
    assert_eq!(keys(&east), fields);
    assert_eq!(keys(&east["source"]), ["epoch", "errors", "objects", "revision"]);
    assert!(east["agents"][0]["clockSkew"].as_str().is_some_and(|s| s.ends_with("ms") || s.ends_with('s')), "{east}");
    let (_, _, services) = get("services");
    assert_eq!(keys(&services), ["continue", "items", "revision"]);
    assert!(services["continue"].is_null() && services["items"][0]["conflict"].is_null(), "{services}");
    assert!(services["items"][0].get("exports").is_none(), "list items have no exports: {services}");
    let (_, _, b) = get("services/shop/b");
    assert_eq!(keys(&b["exports"][0]), ["cluster", "exportTo", "firstSeenRevision", "groups", "identities"]);
    let (_, _, first) = get("clusters?limit=1");
    let next = first["continue"].as_str().expect("a second page");
    let (_, _, second) = get(&format!("clusters?limit=1&continue={next}"));
    assert_eq!((&first["items"][0]["name"], &second["items"][0]["name"]), (&"east".into(), &"west".into()));
    assert!(second["continue"].is_null());
    for (path, status, code) in [
        ("clusters?limit=501", 400, "MF1420"),
        ("clusters/esat", 404, "MF1404"),
        ("services/shop/nope", 404, "MF1444"),
        ("services/shop/b/endpoints?from=esat&port=8080", 404, "MF1404"),
        ("services/shop/b/endpoints?from=west&port=8080&client=shop/zz", 400, "MF1420"),
        ("explain", 501, "MF1501"),
    ] {
        let (got, _, body) = get(path);
        assert_eq!(
            (u64::from(got), body["status"].as_u64(), body["code"].as_str()),
            (status, Some(status), Some(code)),
            "{body}"
        );
    }
    assert!(get("clusters/esat").2["errors"][0]["remedy"].as_str().unwrap().contains("east, west"));
    let id = get("tokens").2["items"][0]["id"].as_str().unwrap().to_owned();
    let path = format!("tokens/{id}");
    assert_eq!(call("DELETE", &path, &[], None).0, 428);
    assert_eq!(call("DELETE", &path, &["If-Match: \"1\""], None).0, 412);
    assert_eq!(call("DELETE", "tokens/aaaaaaaaaa", &["If-Match: *"], None).0, 404);
    let wanted = r#"{"cluster":"n","networks":[{"name":"net-n","cidrs":[]}],"regions":["r"],"zones":[],"gatewayCidrs":[],"ttl":"15m"}"#;
    let (status, head, body) = call("POST", "tokens?dryRun=true", &[], Some(wanted));
    assert!(status == 200 && head.contains("x-meshfed-dry-run: true") && body["token"].is_null(), "{head} {body}");
    assert_eq!(call("POST", "tokens", &[], Some(wanted)).0, 201);
    let large = world.fleet.path("large");
    std::fs::write(&large, vec![b' '; 3 << 20]).unwrap();
    let (status, _, body) = call("POST", "tokens", &[], Some(&format!("@{}", large.display())));
    assert_eq!((status, body["code"].as_str()), (413, Some("MF1413")));
}
