//! Two clusters on loopback ranges: what contracts part 4 asserts from outside.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod world;

use std::time::Duration;

use meshfed_e2e::process::run;
use meshfed_e2e::wait::until;
use meshfed_e2e::{http, objects, tls};
use serde_json::Value;
use world::{B_URL, World};

/// Changes are promised within a second; a test of a loaded machine waits longer, and asserts no time.
const SOON: Duration = Duration::from_secs(60);

/// Check 1: part 2 ends with 200, twice in a row, each time on other ports and addresses.
///
/// Mutation seen to fail: the agent's split horizon hands out the workload's own address instead of the gateway's.
#[test]
fn a_request_crosses_two_clusters() {
    for _ in 0..2 {
        let world = World::start();
        let endpoints = world.fleet.endpoints(None, "shop/b:8080", "west");
        let items = endpoints["items"].as_array().unwrap();
        assert_eq!(items.len(), 1, "{endpoints}");
        assert_eq!(items[0]["via"], "gateway");
        assert_eq!(items[0]["cluster"], "east");
        assert_eq!(items[0]["address"], world.east_range.host(1).to_string());
        assert_eq!(items[0]["sni"], "outbound_.8080_._.b.shop.svc.clusterset.local");
        assert_eq!(items[0]["identities"][0], "spiffe://east.mesh.example/ns/shop/sa/b");
        let before = world.forwarded();
        let answer = http::via(world.outbound(), B_URL).unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(world.forwarded() > before, "the gateway of east forwarded nothing");
    }
}

/// Check 2: the application behind b sees its own sidecar, and whom its sidecar verified.
///
/// Mutation seen to fail: the inbound side does not set `x-forwarded-client-cert`.
#[test]
fn the_receiver_knows_its_caller() {
    let world = World::start();
    let answer = http::via(world.outbound(), B_URL).unwrap();
    let body: Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(body["peerIdentity"], "spiffe://west.mesh.example/ns/shop/sa/a", "{body}");
    assert_eq!(body["identity"], "spiffe://east.mesh.example/ns/shop/sa/b", "{body}");
    let plain = http::get((world.east_range.host(11), 8080).into(), "/");
    assert!(plain.is_err(), "b's mesh port answered plaintext: {plain:?}");
}

/// Check 5: an export that is taken back is gone within a second, everywhere.
///
/// Mutation seen to fail: the gateway keeps names that left its listener.
#[test]
fn an_export_taken_back_is_gone() {
    let world = World::start();
    assert_eq!(http::via(world.outbound(), B_URL).unwrap().status, 200);
    world.east.write("objects.yaml", &world.east_objects(false));
    until("west sees no endpoint", SOON, || {
        let endpoints = world.fleet.cli(None, &["endpoints", "shop/b:8080", "--from", "west", "-o", "json"]);
        let items =
            serde_json::from_str::<Value>(&endpoints.stdout).ok().and_then(|e| Some(e["items"].as_array()?.len()));
        if items.is_none() || items == Some(0) { Ok(()) } else { Err(endpoints.stdout) }
    });
    let answer = until("the client is refused", SOON, || {
        let answer = http::via(world.outbound(), B_URL)?;
        if answer.status == 200 { Err(format!("{answer:?}")) } else { Ok(answer) }
    });
    assert!([404, 503].contains(&answer.status), "{answer:?}");
    assert!(["no_route", "no_endpoints"].contains(&answer.header("x-meshfed-reason").unwrap()), "{answer:?}");
    let alert = until("the gateway forgets the name", SOON, || {
        let alert =
            tls::alert(world.gateway(), "outbound_.8080_._.b.shop.svc.clusterset.local").map_err(|e| e.to_string())?;
        alert.ok_or_else(|| "no alert".to_owned())
    });
    assert_eq!(alert, 112);
}

/// Unknown names are refused with `unrecognized_name` and never dialled.
///
/// Mutation seen to fail: the alert's description is 40.
#[test]
fn an_unknown_name_is_refused() {
    let world = World::start();
    let name = "outbound_.8080_._.nope.shop.svc.clusterset.local";
    assert_eq!(tls::alert(world.gateway(), name).unwrap(), Some(112));
    let refused = http::metric(
        (world.east_range.host(1), 15020).into(),
        "meshfed_gateway_connections_total",
        &["result=\"refused\"", "reason=\"unknown_sni\""],
    );
    assert_eq!(refused.unwrap(), 1.0);
}

/// Check 3: used, foreign, altered and unknown tokens end alike, and leave nothing.
///
/// Mutation seen to fail: the hub answers a used token with another text than an unknown one.
#[test]
fn refused_tokens_are_told_nothing() {
    let world = World::start();
    let fleet = &world.fleet;
    let used = std::fs::read_to_string(fleet.path("east.token")).unwrap();
    let mut parts: Vec<String> = used.trim().split('.').map(str::to_owned).collect();
    let altered = |i: usize| {
        let mut parts = parts.clone();
        let first = if parts[i].starts_with('a') { "b" } else { "a" };
        parts[i].replace_range(0..1, first);
        parts.join(".")
    };
    let mut refused = vec![used, altered(1), altered(2), altered(3), "mf1.nonsense".to_owned()];
    parts.truncate(3);
    refused.push(parts.join("."));
    let short = ["--region", "eu", "--network", "net-x=127.99.0.0/16", "--ttl", "1s"];
    let expired = std::fs::read_to_string(fleet.token(None, "late", &short)).unwrap();
    let id = expired.split('.').nth(1).unwrap().to_owned();
    until("the token expires", Duration::from_secs(60), || {
        let list = fleet.cli(None, &["token", "list"]).ok("token list");
        list.lines().find(|l| l.starts_with(&id) && l.contains("expired")).map(|_| ()).ok_or(list)
    });
    refused.push(expired);
    let mut sentences = std::collections::BTreeSet::new();
    for (i, token) in refused.iter().enumerate() {
        let file = fleet.path(&format!("refused-{i}"));
        std::fs::write(&file, token).unwrap();
        let output = fleet.join(None, &file, "thief");
        assert_eq!(output.code, 1, "token {i}: {output:?}");
        assert_eq!(output.stdout, "", "token {i}");
        assert!(!fleet.path("thief").exists() && !fleet.path("thief.pending").exists(), "token {i} left something");
        let secret = token.split('.').nth(2).unwrap_or("-");
        assert!(!output.stderr.contains(secret) || secret.is_empty(), "token {i} is printed");
        sentences.insert(output.stderr);
    }
    assert_eq!(sentences.len(), 1, "{sentences:?}");
    // West's own directory with a token that is another cluster's.
    let other = fleet.token(None, "north", &["--region", "no", "--network", "net-north=127.98.0.0/16"]);
    let output = fleet.join(None, &other, "west");
    assert_eq!((output.code, &output.stderr), (1, sentences.first().unwrap()), "{output:?}");
    // The same directory again with its own token changes nothing.
    let before = std::fs::read(fleet.path("west/agent.yaml")).unwrap();
    let again = fleet.join(None, &fleet.path("west.token"), "west");
    assert_eq!(again.code, 0, "{again:?}");
    assert_eq!(std::fs::read(fleet.path("west/agent.yaml")).unwrap(), before);
}

/// Check 10: one broken file keeps its last good objects, everything else still changes, and the error has a place.
///
/// Mutation seen to fail: a file that does not parse is taken as empty.
#[test]
fn broken_yaml_harms_only_itself() {
    let world = World::start();
    world.east.write("broken.yaml", "apiVersion: v1\nkind: Service\nmetadata:\n  name: [unclosed\n");
    let agent: std::net::SocketAddr = world.fleet.address("east", "admin").parse().unwrap();
    let error = until("the error is shown", SOON, || {
        let answer = http::get(agent, "/debug/source")?;
        let body: Value = serde_json::from_str(&answer.body).map_err(|e| e.to_string())?;
        body["errors"].as_array().and_then(|e| e.first().cloned()).ok_or(answer.body)
    });
    assert!(error["file"].as_str().unwrap().ends_with("broken.yaml"), "{error}");
    assert!(error["line"].as_u64().unwrap() >= 1 && error["column"].as_u64().unwrap() >= 1, "{error}");
    assert!(!error["remedy"].as_str().unwrap_or_default().is_empty(), "{error}");
    assert_eq!(http::via(world.outbound(), B_URL).unwrap().status, 200);
    // Something else changes meanwhile.
    let more = [objects::service("shop", "b2", "http", 8080), objects::export("shop", "b2")].concat();
    world.east.write("more.yaml", &more);
    until("the new export is seen", SOON, || {
        let services = world.fleet.cli(None, &["services"]).stdout;
        if services.contains("b2") { Ok(()) } else { Err(services) }
    });
    // The objects of a file that breaks later stay.
    world.east.write("objects.yaml", "kind: [");
    until("the second error is shown", SOON, || {
        let answer = http::get(agent, "/debug/source")?;
        if answer.body.contains("objects.yaml") { Ok(()) } else { Err(answer.body) }
    });
    assert_eq!(http::via(world.outbound(), B_URL).unwrap().status, 200);
}

/// Check 12: `-o json` is the API's body, seen by another client. A table without a row is told beside it.
///
/// Mutations seen to fail: `show` prints a re-serialised body with a field left out; `is_empty` negated there.
#[test]
fn json_output_is_the_api_body() {
    let world = World::start();
    for (args, path) in [
        (&["clusters"][..], "clusters"),
        (&["clusters", "east"], "clusters/east"),
        (&["services"], "services"),
        (&["services", "shop/b"], "services/shop/b"),
        (&["endpoints", "shop/b:8080", "--from", "west"], "services/shop/b/endpoints?from=west&port=8080"),
        (&["trust", "status"], "trust"),
    ] {
        let ours = world.fleet.cli(None, &[args, &["-o", "json"]].concat()).ok(path);
        let api = world.fleet.curl_api(path).ok(path);
        let strip = |text: &str| {
            let mut value: Value = serde_json::from_str(text).unwrap();
            still(&mut value);
            value
        };
        assert_eq!(strip(&ours), strip(&api), "{path}");
    }
    let bare = run(std::process::Command::new("curl")
        .args(["-sk", "-o", "/dev/null", "-w", "%{http_code}"])
        .arg(format!("https://{}/api/v1/clusters", world.fleet.address("federator", "http"))));
    assert_eq!(bare.stdout, "401", "the API answered without credentials");
    let none = world.fleet.cli(None, &["services", "-n", "nowhere"]);
    assert_eq!((none.code, none.stdout.lines().count(), &*none.stderr), (0, 1, "nothing found\n"), "{none:?}");
}

/// Times and skews differ between two calls.
fn still(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for key in ["lastSeenAt", "clockSkew"] {
                map.remove(key);
            }
            map.values_mut().for_each(still);
        }
        Value::Array(items) => items.iter_mut().for_each(still),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
