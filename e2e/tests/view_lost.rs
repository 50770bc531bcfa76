//! What an agent does that cannot read back what the hub told it, while there is no hub: sidecars keep what they import.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod world;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use meshfed_e2e::fleet::Cluster;
use meshfed_e2e::load::{Client, Load, Patience};
use meshfed_e2e::wait::until;
use meshfed_e2e::{http, objects};
use world::{B_URL, World};

/// Deadline of a step on a busy machine; none is meant to take it.
const STEP: Duration = Duration::from_secs(60);
/// Exchanges that every client must do between two steps.
const BETWEEN: u64 = 8;
/// Bytes of what is saved of east at least, so that there is a middle: changes are appended to it.
const CHANGES: u8 = 6;

fn saved(world: &World) -> PathBuf {
    world.west.data_dir().join("state/view/east.origin")
}

/// Lets east change what it shows, and west save it, so that the file has records before, in and after its middle.
fn grow(world: &World) {
    for n in 0..CHANGES {
        let before = std::fs::metadata(saved(world)).map_or(0, |m| m.len());
        let name = format!("s{n}");
        let service = objects::service("shop", &name, "http", 8080).replace(&format!("app: {name}"), "app: b");
        world.east.write(&format!("{name}.yaml"), &(service + &objects::export("shop", &name)));
        until("the importer has saved the change", STEP, || {
            let now = std::fs::metadata(saved(world)).map_err(|e| e.to_string())?.len();
            if now > before { Ok(()) } else { Err(format!("{now} bytes")) }
        });
    }
}

fn restart_west(world: &mut World, meanwhile: impl FnOnce(&World)) {
    world.west.agent.kill();
    meanwhile(world);
    let host = world.west_range.host(1);
    world.west = Cluster::restart(&world.fleet, None, "west", host);
}

/// Waits until the sidecar of a follows the restarted agent: an endpoint of a service of west's own comes.
fn follows(world: &World, number: u8) {
    let name = format!("m{number}");
    let entry = objects::workload(&objects::Workload {
        name: &format!("m-{number}"),
        namespace: "shop",
        app: "m",
        service_account: "m",
        addresses: &[world.west_range.host(20 + number)],
        port: ("http", 8080),
        network: "net-west",
        locality: "us/us-1",
        annotations: &[("federation.meshfed.io/sidecar", "none")],
    });
    world.west.write(&format!("{name}.yaml"), &entry);
    until("the sidecar follows the restarted agent", STEP, || {
        let metrics: SocketAddr = (world.west_range.host(10), 15020).into();
        let connected = http::metric(metrics, "meshfed_discovery_connected", &[])?;
        let answer = http::via(world.outbound(), "http://m.shop.svc.cluster.local:8080/")?;
        let reason = answer.header("x-meshfed-reason").unwrap_or_default().to_owned();
        if connected >= 1.0 && reason == "upstream_connect" { Ok(()) } else { Err(format!("{connected} {answer:?}")) }
    });
}

fn readiness(world: &World) -> (u16, String) {
    let answer = until("the admin port answers", STEP, || {
        let admin = world.fleet.admin("west").ok_or("no address yet")?;
        http::get(admin, "/readyz")
    });
    (answer.status, answer.body)
}

/// The federator is killed, what west has saved of east is damaged in the middle, and west's agent is restarted: its
/// sidecar calls b all the time and never misses, the agent says what it waits for, and goes on when the hub is back.
/// Then the same with a torn tail, which is no damage: the agent is ready without a hub.
///
/// Mutations seen to fail: `is_unknown` of `Seen` in the agent's core always false (404); `next_record` always `None`
/// (the damage is cut off as a tail, and the agent is ready with an older view).
#[test]
fn a_damaged_view_takes_no_import_from_a_sidecar() {
    let mut world = World::start();
    world.west.write("m.yaml", &objects::service("shop", "m", "http", 8080));
    grow(&world);
    let mut load = Load::default();
    for n in 0..2 {
        load.add(&format!("new {n}"), Client::HttpNew(world.outbound(), B_URL.to_owned()), Patience::None);
        load.add(&format!("kept {n}"), Client::HttpKept(world.outbound(), B_URL.to_owned()), Patience::None);
    }
    load.all_do(BETWEEN, STEP);

    world.fleet.federator().kill();
    let mut damaged = Vec::new();
    restart_west(&mut world, |world| {
        let mut bytes = std::fs::read(saved(world)).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x55;
        std::fs::write(saved(world), &bytes).unwrap();
        damaged = bytes;
    });
    follows(&world, 1);
    load.all_do(BETWEEN, STEP);
    let (status, waits) = readiness(&world);
    assert!(status == 503 && waits.contains("view: east.origin"), "{status} {waits}");
    let admin = world.fleet.admin("west").unwrap();
    assert!(http::metric(admin, "meshfed_view_missing_parts", &[]).unwrap() >= 1.0);
    let kept = world.west.data_dir().join("state/view/east.origin.damaged-1");
    assert_eq!(std::fs::read(kept).unwrap(), damaged, "the damaged file is kept");
    // Nor does another restart forget that something is missing.
    restart_west(&mut world, |_| {});
    follows(&world, 2);
    load.all_do(BETWEEN, STEP);
    assert_eq!(readiness(&world).0, 503);

    world.fleet.start_federator(None, &[]);
    until("the agent has its view again", STEP, || {
        let (status, waits) = readiness(&world);
        if status == 200 { Ok(()) } else { Err(waits) }
    });
    world.fleet.wait_ready(None);
    load.all_do(BETWEEN, STEP);

    world.fleet.federator().kill();
    restart_west(&mut world, |world| {
        let mut bytes = std::fs::read(saved(world)).unwrap();
        bytes.extend_from_slice(&[40, 0, 0, 0, 1, 2, 3, 4, 5]);
        std::fs::write(saved(world), &bytes).unwrap();
    });
    until("the agent is ready without a hub", STEP, || {
        let (status, waits) = readiness(&world);
        if status == 200 { Ok(()) } else { Err(waits) }
    });
    follows(&world, 3);
    load.all_do(BETWEEN, STEP);
    for report in load.stop() {
        assert_eq!((report.failed, report.done > 4 * BETWEEN), (0, true), "{report:?}");
    }
}
