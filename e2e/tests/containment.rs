//! A compromised cluster can only be itself: certificates minted with a cluster's real key, against everything.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod world;

use std::net::SocketAddr;
use std::time::Duration;

use meshfed_e2e::binary::meshfed;
use meshfed_e2e::http;
use meshfed_e2e::process::run;
use meshfed_e2e::tls::{self, ClientCertificate};
use meshfed_e2e::wait::until;
use world::World;

/// A certificate for any identity, signed with a cluster's CA key as an intruder on its node would.
fn minted(world: &World, cluster: &str, id: &str) -> ClientCertificate {
    tls::mint(&world.fleet.path(cluster).join("ca"), id)
}

const B_HOST: &str = "b.shop.svc.clusterset.local:8080";
const B_SNI: &str = "outbound_.8080_._.b.shop.svc.clusterset.local";

/// Check 4, the sidecar and the agent.
///
/// Mutation seen to fail: the verifier tries the anchors of all trust domains.
#[test]
fn a_cluster_key_makes_nobody_else() {
    let world = World::start();
    let b: SocketAddr = (world.east_range.host(11), 8080).into();
    // West is a member to whom b is exported: its genuine workload passes, so what follows is refused for its name.
    let genuine = minted(&world, "west", "spiffe://west.mesh.example/ns/shop/sa/a");
    let answer = tls::request(b, B_SNI, Some(genuine), B_HOST).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    for id in [
        "spiffe://east.mesh.example/ns/shop/sa/b",
        "spiffe://mesh.example/federator/1",
        "spiffe://mesh.example/cluster/east/agent/0",
        "spiffe://mesh.example/cluster/west/agent/0",
        "spiffe://north.mesh.example/ns/shop/sa/a",
        // Its own domain, but no workload.
        "spiffe://west.mesh.example/cluster/west/agent/0",
        "spiffe://west.mesh.example/federator/1",
    ] {
        let refused = tls::request(b, B_SNI, Some(minted(&world, "west", id)), B_HOST);
        assert!(refused.is_err(), "b's sidecar took west's {id}: {refused:?}");
        let through = tls::request(world.gateway(), B_SNI, Some(minted(&world, "west", id)), B_HOST);
        assert!(through.is_err(), "b's sidecar took west's {id} over the gateway: {through:?}");
    }
    let west_ca = world.fleet.path("west").join("ca");
    let two = ["spiffe://west.mesh.example/ns/shop/sa/a", "spiffe://east.mesh.example/ns/shop/sa/b"];
    let refused = tls::request(b, B_SNI, Some(tls::mint_uris(&west_ca, &two)), B_HOST);
    assert!(refused.is_err(), "b's sidecar took a certificate with two URI SANs: {refused:?}");
    assert!(tls::request(b, B_SNI, None, B_HOST).is_err(), "b's sidecar took a client without certificate");
    // The agent's port takes workloads of its own cluster only.
    let agent: SocketAddr = (world.east_range.host(1), 15012).into();
    for (cluster, id) in [
        ("west", "spiffe://west.mesh.example/ns/shop/sa/a"),
        ("west", "spiffe://east.mesh.example/ns/shop/sa/b"),
        ("west", "spiffe://mesh.example/federator/1"),
        ("east", "spiffe://mesh.example/federator/1"),
        ("east", "spiffe://east.mesh.example/cluster/east/agent/0"),
    ] {
        let refused = tls::request(agent, "agent", Some(minted(&world, cluster, id)), "agent");
        assert!(refused.is_err(), "east's agent took {cluster}'s {id}: {refused:?}");
    }
}

/// A genuine workload of a member to whom the service is not exported is refused by the receiver.
///
/// Mutation seen to fail: the receiver's bundle holds all trust domains of the fleet.
#[test]
fn a_genuine_workload_of_another_cluster_is_refused() {
    let world = World::start();
    let b: SocketAddr = (world.east_range.host(11), 8080).into();
    let genuine = || minted(&world, "west", "spiffe://west.mesh.example/ns/shop/sa/a");
    let answer = tls::request(b, B_SNI, Some(genuine()), B_HOST).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let policy = "apiVersion: federation.meshfed.io/v1alpha1
kind: ExportPolicy
metadata: {name: b, namespace: shop}
spec: {services: [{namespace: shop, name: b}], to: {clusters: [north]}}
";
    world.east.write("policy.yaml", policy);
    until("west's workload is refused", Duration::from_secs(60), || {
        let answer = tls::request(b, B_SNI, Some(genuine()), B_HOST);
        if answer.is_err() { Ok(()) } else { Err(format!("{answer:?}")) }
    });
}

/// Our own sidecar as the client: a server with east's name and west's key is refused, with east's key it is taken.
/// And `join` refuses a federator whose certificate a cluster's key made.
///
/// Mutation seen to fail: the client takes any certificate that chains to an anchor of the fleet.
#[test]
fn clients_and_joiners_refuse_another_clusters_key() {
    let mut world = World::start();
    let (outbound, url) = (world.outbound(), world::B_URL);
    assert_eq!(http::via(outbound, url).unwrap().status, 200);
    world.processes[1].kill();
    let b = "spiffe://east.mesh.example/ns/shop/sa/b";
    let intruder = tls::serve(world.gateway(), minted(&world, "west", b));
    let answer = http::via(outbound, url).unwrap();
    assert_eq!(answer.status, 503, "a's sidecar took east's name with west's key: {answer:?}");
    assert!(intruder.handshakes() > 0, "a's sidecar did not try the intruder");
    drop(intruder);
    let genuine = tls::serve(world.gateway(), minted(&world, "east", b));
    until("the genuine key is taken", Duration::from_secs(60), || {
        let answer = http::via(outbound, url)?;
        if answer.status == 200 { Ok(()) } else { Err(format!("{answer:?}")) }
    });
    drop(genuine);
    let place: SocketAddr = (world.east_range.host(99), 15600).into();
    let _intruder = tls::serve(place, minted(&world, "east", "spiffe://mesh.example/federator/1"));
    let token = world.fleet.token(None, "north", &["--region", "no", "--network", "net-north=10.9.0.0/16"]);
    let target = world.fleet.path("north");
    let output = run(std::process::Command::new(meshfed())
        .args(["join", &format!("https://{place}"), "--token-file"])
        .arg(&token)
        .arg("--data-dir")
        .arg(&target));
    assert_eq!((output.code, target.exists()), (1, false), "{output:?}");
    // The secret was never sent: the token still works at the real federator.
    assert_eq!(world.fleet.join(None, &token, "north").code, 0);
}
