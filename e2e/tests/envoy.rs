//! A stock Envoy in the place of a's sidecar (check 9), and against our bundles (check 4).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod world;

use std::time::Duration;

use meshfed_e2e::wait::until;
use meshfed_e2e::{envoy, http};
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
    let answer = until("Envoy answers", Duration::from_secs(20), || {
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
