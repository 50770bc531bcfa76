//! What comes back resumes instead of resending, and what is away is shown as away; the minute without a federator is
//! in `hub_away.rs`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod world;

use std::time::Duration;

use meshfed_e2e::fleet::Cluster;
use meshfed_e2e::http;
use meshfed_e2e::wait::until;
use world::World;

/// Deadline of a step on a busy machine; none is meant to take it.
const STEP: Duration = Duration::from_secs(60);

/// Delta: with many services offered, one change and one reconnect move only what changed.
///
/// Mutation seen to fail: the hello's `view` empty (the view comes again); `held_offer` left out of the welcome (the
/// offer goes again).
#[test]
fn one_change_and_a_reconnect_are_small() {
    const SERVICES: usize = 1000;
    let mut world = World::start();
    let mut many = String::new();
    for i in 0..SERVICES {
        // Of the workload that is there: a port without one would be in every status report.
        let service = meshfed_e2e::objects::service("shop", &format!("s{i}"), "http", 8080);
        many.push_str(&service.replace(&format!("selector: {{app: s{i}}}"), "selector: {app: b}"));
        many.push_str(&meshfed_e2e::objects::export("shop", &format!("s{i}")));
    }
    world.east.write("many.yaml", &many);
    let seen = |name: &str| {
        until(name, STEP, || {
            let output = world.fleet.cli(None, &["services", &format!("shop/{name}")]);
            if output.code == 0 { Ok(()) } else { Err(output.stderr) }
        });
    };
    seen("s999");
    let west_admin: std::net::SocketAddr = world.fleet.address("west", "admin").parse().unwrap();
    let received = || http::metric(west_admin, "meshfed_session_bytes_total", &["direction=\"in\""]).unwrap();
    // The hub shows a service once it is offered; the importer hears of it next.
    let imported = |count: usize| {
        until("the importer has them all", STEP, || {
            let cluster = world.fleet.cli(None, &["clusters", "west", "-o", "json"]).stdout;
            let body: serde_json::Value = serde_json::from_str(&cluster).map_err(|e| e.to_string())?;
            let seen = body["services"]["imported"].as_u64().unwrap_or_default();
            if seen >= count as u64 { Ok(()) } else { Err(format!("{seen} imported")) }
        });
    };
    imported(SERVICES + 1);
    let full = received();
    assert!(full > 30_000.0, "a view of {SERVICES} services cannot be {full} bytes");
    let more = [
        meshfed_e2e::objects::service("shop", "one-more", "http", 8080),
        meshfed_e2e::objects::export("shop", "one-more"),
    ];
    world.east.write("one.yaml", &more.concat());
    seen("one-more");
    imported(SERVICES + 2);
    let change = received() - full;
    assert!(change < full / 20.0, "one change of {SERVICES} services took {change} bytes, the whole view {full}");
    // The importer restarts: it resumes at the version it saved, and is not sent the view again.
    let host = world.west_range.host(1);
    assert_eq!(world.west.agent.stop(), 0);
    world.west = Cluster::restart(&world.fleet, None, "west", host);
    until("the restarted agent is connected", STEP, || {
        let admin: std::net::SocketAddr = world.fleet.admin("west").ok_or("no address yet")?;
        let connected = http::metric(admin, "meshfed_session_connected", &[])?;
        if connected >= 1.0 { Ok(()) } else { Err("not connected".to_owned()) }
    });
    imported(SERVICES + 2);
    let west_admin: std::net::SocketAddr = world.fleet.address("west", "admin").parse().unwrap();
    let resumed = http::metric(west_admin, "meshfed_session_bytes_total", &["direction=\"in\""]).unwrap();
    assert!(resumed < full / 20.0, "a reconnect took {resumed} bytes, the whole view {full}");
    // The exporter restarts, without a farewell: the hub still holds its offer, and is sent none of it again.
    world.east.agent.kill();
    world.east = Cluster::restart(&world.fleet, None, "east", world.east_range.host(1));
    let last =
        [meshfed_e2e::objects::service("shop", "last", "http", 8080), meshfed_e2e::objects::export("shop", "last")];
    world.east.write("last.yaml", &last.concat());
    seen("last");
    let east_admin = until("the agent listens", STEP, || world.fleet.admin("east").ok_or("no address yet"));
    let offered = http::metric(east_admin, "meshfed_session_bytes_total", &["direction=\"out\""]).unwrap();
    assert!(offered < full / 20.0, "a reconnect took {offered} bytes up, the whole view {full}");
}

/// A gateway is what its Service declares: one whose proxy has died stays listed, not ready, and the status says that it
/// is waited for. Nobody dials it meanwhile. When its Service is gone, it is gone.
///
/// Mutation seen to fail: the filter `a.ready` in `gateway_offers` (it vanishes).
#[test]
fn a_gateway_without_its_proxy_is_listed_as_not_ready() {
    let mut world = World::start();
    let address = world.gateway();
    let listed = |world: &World| -> serde_json::Value {
        let text = world.fleet.cli(None, &["clusters", "east", "-o", "json"]).ok("clusters");
        serde_json::from_str::<serde_json::Value>(&text).unwrap()["gateways"].clone()
    };
    let ready = serde_json::json!([
        {"network": "net-east", "address": address.ip().to_string(), "port": address.port(), "ready": true}
    ]);
    assert_eq!(listed(&world), ready);

    // East's gateway is the second process of the world.
    world.processes[1].kill();
    let mut away = ready;
    away[0]["ready"] = false.into();
    until("the gateway is not ready", STEP, || {
        let listed = listed(&world);
        if listed == away { Ok(()) } else { Err(listed.to_string()) }
    });
    let table = world.fleet.cli(None, &["clusters"]).ok("clusters");
    let row = table.lines().find(|l| l.starts_with("east ")).unwrap_or_default();
    assert!(row.contains(" 0/1 "), "{table}");
    until("the status waits for it", STEP, || {
        let text = world.fleet.cli(None, &["status", "-o", "json"]).stdout;
        let status: serde_json::Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
        let of = |w: &&serde_json::Value| w["cluster"] == "east" && w["kind"] == "gateway";
        let waits = status["waitingFor"].as_array().into_iter().flatten().find(of);
        if waits.is_some() && status["ready"] == false { Ok(()) } else { Err(text) }
    });
    let endpoints = world.fleet.endpoints(None, "shop/b:8080", "west");
    assert_eq!(endpoints["items"].as_array().map(Vec::len), Some(0), "{endpoints}");
    assert_eq!(endpoints["dropped"][0]["reason"], "NoReachableGateway", "{endpoints}");

    let without =
        world.east_objects(true).split("---\n").filter(|o| !o.contains("eastwest")).collect::<Vec<_>>().join("---\n");
    world.east.write("objects.yaml", &without);
    until("the gateway is gone", STEP, || {
        let listed = listed(&world);
        if listed.as_array().is_some_and(Vec::is_empty) { Ok(()) } else { Err(listed.to_string()) }
    });
}
