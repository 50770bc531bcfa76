//! Losing the federator changes nothing for traffic; what comes back resumes instead of resending.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod world;

use std::time::Duration;

use meshfed_e2e::fleet::Cluster;
use meshfed_e2e::http;
use meshfed_e2e::wait::until;
use world::{B_URL, World};

/// Check 7 without the clock: the federator is gone, an agent and a proxy are restarted, and every request succeeds.
///
/// Mutation seen to fail: the agent starts with an empty view instead of the last good one.
#[test]
fn traffic_outlives_the_federator_and_restarts() {
    let mut world = World::start();
    let ask = |world: &World, when: &str| {
        let answer = http::via(world.outbound(), B_URL).unwrap_or_else(|error| panic!("{when}: {error}"));
        assert_eq!(answer.status, 200, "{when}: {answer:?}");
    };
    ask(&world, "before");
    world.fleet.federator().kill();
    ask(&world, "without the federator");
    assert_eq!(world.west.agent.stop(), 0);
    ask(&world, "without federator and agent");
    let host = world.west_range.host(1);
    world.west = Cluster::restart(&world.fleet, None, "west", host);
    let target = format!("8080={}:18080", world.west_range.host(10));
    let a = world.processes.last_mut().unwrap();
    assert_eq!(a.stop(), 0);
    *a = world.west.proxy(None, "shop/a", &["--inbound", &target, "--app-probe", "off"]);
    until("the restarted sidecar serves from the restarted agent", Duration::from_secs(15), || {
        let answer = http::via(world.outbound(), B_URL)?;
        if answer.status == 200 { Ok(()) } else { Err(format!("{answer:?}")) }
    });
    world.fleet.start_federator(None, &[]);
    world.fleet.wait_ready(None);
    ask(&world, "after");
}

/// Delta: with many services offered, one change and one reconnect move only what changed.
///
/// Mutation seen to fail: a reconnect sends the complete offer.
#[test]
fn one_change_and_a_reconnect_are_small() {
    const SERVICES: usize = 1000;
    let mut world = World::start();
    let mut many = String::new();
    for i in 0..SERVICES {
        many.push_str(&meshfed_e2e::objects::service("shop", &format!("s{i}"), "http", 8080));
        many.push_str(&meshfed_e2e::objects::export("shop", &format!("s{i}")));
    }
    world.east.write("many.yaml", &many);
    let seen = |name: &str| {
        until(name, Duration::from_secs(20), || {
            let output = world.fleet.cli(None, &["services", &format!("shop/{name}")]);
            if output.code == 0 { Ok(()) } else { Err(output.stderr) }
        });
    };
    seen("s999");
    let west_admin: std::net::SocketAddr = world.fleet.address("west", "admin").parse().unwrap();
    let received = || http::metric(west_admin, "meshfed_session_bytes_total", &["direction=\"in\""]).unwrap();
    // The hub shows a service once it is offered; the importer hears of it next.
    let imported = |count: usize| {
        until("the importer has them all", Duration::from_secs(20), || {
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
    until("the restarted agent is connected", Duration::from_secs(15), || {
        let admin: std::net::SocketAddr = world.fleet.address("west", "admin").parse().map_err(|_e| "no address")?;
        let connected = http::metric(admin, "meshfed_session_connected", &[])?;
        if connected >= 1.0 { Ok(()) } else { Err("not connected".to_owned()) }
    });
    imported(SERVICES + 2);
    let west_admin: std::net::SocketAddr = world.fleet.address("west", "admin").parse().unwrap();
    let resumed = http::metric(west_admin, "meshfed_session_bytes_total", &["direction=\"in\""]).unwrap();
    assert!(resumed < full / 20.0, "a reconnect took {resumed} bytes, the whole view {full}");
}
