//! A stock Envoy in the place of a's sidecar (check 9), and against our bundles (check 4).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod world;

use std::time::Duration;

use meshfed_e2e::objects::{self, Workload};
use meshfed_e2e::wait::until;
use meshfed_e2e::{envoy, fleet, http, tls};
use serde_json::Value;
use world::{B_URL, World};

/// Check 9: Envoy started from `meshfed bootstrap envoy` gives the same answers as our sidecar.
///
/// Mutation seen to fail: the SPIFFE validator's configuration has another type URL.
#[test]
fn a_stock_envoy_is_a_client_sidecar() {
    let world = World::start_without_a();
    let mut sidecar = envoy::start(&world.fleet.path("logs"), None, world.west.socket(), "shop/a");
    let outbound = world.outbound();
    let answer = until("Envoy answers", Duration::from_secs(60), || {
        sidecar.assert_alive();
        let answer = http::via(outbound, B_URL)?;
        if answer.status == 200 { Ok(answer) } else { Err(format!("{answer:?}")) }
    });
    let body: Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(body["peerIdentity"], "spiffe://west.mesh.example/ns/shop/sa/a", "{body}");
    assert!(world.forwarded() > 0.0);
    let unknown = http::via(outbound, "http://nope.shop.svc.clusterset.local:8080/").unwrap();
    assert_eq!(unknown.status, 404);
    world.fleet.wait_ready(None);
    let log = sidecar.log();
    assert!(!log.contains("rejected") && !log.contains("[error]"), "{log}");
}

/// Check 11: two localities behind one gateway are one entry, and Envoy keeps as many members as there are entries.
///
/// Mutation seen to fail: a gateway address is handed out once per locality group.
#[test]
fn two_localities_behind_one_gateway_are_one_member() {
    let world = World::start_without_a();
    let other_zone = objects::workload(&Workload {
        name: "b-east-2",
        namespace: "shop",
        app: "b",
        service_account: "b",
        addresses: &[world.east_range.host(12)],
        port: ("http", 8080),
        network: "net-east",
        locality: "eu/eu-2",
        annotations: &[],
    });
    world.east.write("other-zone.yaml", &other_zone);
    let app: std::net::SocketAddr = (world.east_range.host(12), 18080).into();
    let _other = [
        fleet::application(&world.fleet, None, "east", "b2", app),
        world.east.proxy(None, "shop/b/b-east-2", &["--inbound", &format!("8080={app}")]),
    ];
    let logs = world.fleet.path("logs");
    let mut sidecar = envoy::start(&logs, None, world.west.socket(), "shop/a");
    let entry = until("both localities are one entry", Duration::from_secs(60), || {
        sidecar.assert_alive();
        // Until west has a session, nobody can say what its clients are handed.
        let asked = world.fleet.cli(None, &["endpoints", "shop/b:8080", "--from", "west", "-o", "json"]);
        let body: Value = serde_json::from_str(&asked.stdout).map_err(|_no_json| asked.stderr)?;
        let items = body["items"].as_array().cloned().unwrap_or_default();
        let full = items.len() == 1 && items[0]["represents"]["ready"] == 2;
        if full { Ok(items[0].clone()) } else { Err(body.to_string()) }
    });
    assert_eq!(entry["address"], world.east_range.host(1).to_string(), "{entry}");
    let name = "cluster.outbound|8080||b.shop.svc.clusterset.local.membership_total";
    until("Envoy has one member", Duration::from_secs(60), || {
        let members = envoy::statistic(&logs, name)?;
        if members == 1 { Ok(()) } else { Err(format!("{members} members")) }
    });
}

/// Check 4 for Envoy with our bundles: a server with a certificate of another cluster's key is refused.
///
/// Mutation seen to fail: the `trust` secret is one flat list of anchors.
#[test]
fn envoy_refuses_another_clusters_key() {
    let mut world = World::start_without_a();
    let mut sidecar = envoy::start(&world.fleet.path("logs"), None, world.west.socket(), "shop/a");
    let outbound = world.outbound();
    until("Envoy answers", Duration::from_secs(60), || {
        sidecar.assert_alive();
        let answer = http::via(outbound, B_URL)?;
        if answer.status == 200 { Ok(()) } else { Err(format!("{answer:?}")) }
    });
    // The gateway's place is taken by an intruder: the address is right, the key is not.
    world.processes[1].kill();
    let b = "spiffe://east.mesh.example/ns/shop/sa/b";
    let intruder = tls::serve(world.gateway(), tls::mint(&world.fleet.path("west").join("ca"), b));
    let answer = http::via(outbound, B_URL).unwrap();
    assert_eq!(answer.status, 503, "Envoy took east's name with west's key: {answer:?}");
    assert!(intruder.handshakes() > 0, "Envoy did not try the intruder");
    drop(intruder);
    // With east's own key the same place works: what was refused is the key.
    let _genuine = tls::serve(world.gateway(), tls::mint(&world.fleet.path("east").join("ca"), b));
    until("the genuine key is taken", Duration::from_secs(60), || {
        let answer = http::via(outbound, B_URL)?;
        if answer.status == 200 { Ok(()) } else { Err(format!("{answer:?}")) }
    });
}
