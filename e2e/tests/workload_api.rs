//! The SPIFFE Workload API from outside, with a client that is not ours: who gets which identity, what it is worth at a
//! mesh sidecar, and what a standing stream is told.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod world;

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use meshfed_e2e::fleet::{Cluster, ClusterSpec, Fleet, Range};
use meshfed_e2e::http;
use meshfed_e2e::objects::{self, Workload};
use meshfed_e2e::process::Process;
use meshfed_e2e::spiffe::{Client, said};
use meshfed_e2e::wait::until;
use serde_json::{Value, json};
use world::World;

/// The user of workload c.
const OWNER: u32 = 4243;
/// A user that no object names.
const STRANGER: u32 = 4244;
const B_SNI: &str = "outbound_.8080_._.b.shop.svc.clusterset.local";
const B_HOST: &str = "b.shop.svc.clusterset.local:8080";
const PATIENCE: Duration = Duration::from_secs(20);

/// A workload of the owner's that speaks mutual TLS itself, without a sidecar.
fn owned(name: &str, range: &Range, last: u8) -> String {
    objects::workload(&Workload {
        name: &format!("{name}-1"),
        namespace: "shop",
        app: name,
        service_account: name,
        addresses: &[range.host(last)],
        port: ("http", 8080),
        network: "net-west",
        locality: "us/us-1",
        annotations: &[
            ("federation.meshfed.io/unix-uid", &OWNER.to_string()),
            ("federation.meshfed.io/sidecar", "none"),
        ],
    })
}

fn socket_of(cluster: &Cluster) -> PathBuf {
    cluster.data_dir().join("run/workload.sock")
}

/// Waits until a fetch is answered with these identities, the default first.
fn fetch_until(client: &Client<'_>, ids: &[&str]) -> Value {
    until("the identities are there", PATIENCE, || {
        let answer = client.say(&["fetch"])?;
        let got: Option<Vec<&str>> =
            answer["svids"].as_array().map(|svids| svids.iter().filter_map(|svid| svid["id"].as_str()).collect());
        if got.as_deref() == Some(ids) { Ok(answer) } else { Err(answer.to_string()) }
    })
}

/// A process of user 4243 gets its identity by being that user, verifies a peer of another cluster with a federated
/// bundle, and is served by that peer as itself; another user gets nothing.
///
/// Mutation seen to fail: the federated bundles are left out of the answer.
#[test]
fn a_foreign_client_is_served_as_what_it_is() {
    let world = World::start_without_a_on(Range::at(80), Range::at(81));
    let socket = socket_of(&world.west);
    world.west.write("c.yaml", &owned("c", &world.west_range, 12));
    let client = Client { socket: &socket, uid: OWNER };
    let id = "spiffe://west.mesh.example/ns/shop/sa/c";
    let answer = fetch_until(&client, &[id]);
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o666);
    let svid = &answer["svids"][0];
    assert_eq!((&svid["verified"], &svid["chain"]), (&json!(true), &json!(1)));
    let domains = json!(["east.mesh.example", "mesh.example", "west.mesh.example"]);
    assert_eq!(answer["trustDomains"], domains);
    assert_eq!(client.say(&["bundles"]).unwrap()["trustDomains"], domains);

    let gateway = world.gateway().to_string();
    let call = |trust: &str| {
        let peer = ["--address", &gateway, "--sni", B_SNI, "--host", B_HOST, "--trust", trust];
        client.say(&[&["call"], &peer[..]].concat())
    };
    let served = until("b answers c over east's gateway", PATIENCE, || {
        let answer = call("east.mesh.example")?;
        if answer["status"] == 200 { Ok(answer) } else { Err(answer.to_string()) }
    });
    assert_eq!(served["peers"], json!(["spiffe://east.mesh.example/ns/shop/sa/b"]));
    let body: Value = serde_json::from_str(served["body"].as_str().unwrap()).unwrap();
    assert_eq!(body["peerIdentity"], id, "b's sidecar knows the caller: {body}");
    let refused = call("west.mesh.example").unwrap();
    assert!(refused["refused"].as_str().unwrap().contains("certificate verify failed"), "{refused}");

    let stranger = Client { socket: &socket, uid: STRANGER };
    let denied = stranger.say(&["raw"]).unwrap();
    assert_eq!(denied["end"], "PERMISSION_DENIED", "{denied}");
    assert!(denied["details"].as_str().unwrap().contains("federation.meshfed.io/unix-uid: \"4244\""), "{denied}");
    let bare = client.say(&["raw", "--no-header"]).unwrap();
    assert_eq!(bare["end"], "INVALID_ARGUMENT", "{bare}");
    let admin: SocketAddr = (world.west_range.host(1), 15014).into();
    for reason in ["reason=\"no_identity\"", "reason=\"no_header\""] {
        let count = http::metric(admin, "meshfed_workload_refused_total", &[reason]).unwrap();
        assert!(count >= 1.0, "{reason}: {count}");
    }
}

/// Every serial and identity that a standing client was told, in order.
fn told(client: &Process) -> Vec<(Vec<String>, Vec<String>)> {
    let text = |svids: &Value, field: &str| -> Vec<String> {
        svids.as_array().into_iter().flatten().filter_map(|s| Some(s[field].as_str()?.to_owned())).collect()
    };
    said(client)
        .iter()
        .filter_map(|line| line.get("svids"))
        .map(|svids| (text(svids, "id"), text(svids, "serial")))
        .collect()
}

/// A client that only stands there is told of the next certificate, of more identities, and of their end.
///
/// Mutation seen to fail: `tick` does not call `Holders::renew`.
#[test]
fn a_standing_client_is_told_of_renewal_and_loss() {
    let range = Range::at(82);
    let fleet = Fleet::start();
    let spec = ClusterSpec {
        name: "west",
        networks: &[format!("net-west={}", range.cidr())],
        region: "us",
        bind: range.host(1),
        objects: owned("c", &range, 12),
    };
    let mut west = Cluster::start(&fleet, None, None, &spec);
    let socket = socket_of(&west);
    let client = Client { socket: &socket, uid: OWNER };
    let c = "spiffe://west.mesh.example/ns/shop/sa/c";
    fetch_until(&client, &[c]);
    assert_eq!(west.agent.stop(), 0);
    let west = Cluster::restart_with(&fleet, None, "west", range.host(1), &["--svid-ttl", "10s"]);
    fetch_until(&client, &[c]);
    let (logs, raw) = (fleet.path("logs"), ["raw"]);
    let watcher = client.start(&logs, "watcher", &["watch"]);
    let bare = client.start(&logs, "bare", &raw);
    let renewed = until("a second certificate is pushed", PATIENCE, || {
        let told = told(&watcher);
        if told.len() >= 2 { Ok(told) } else { Err(format!("{told:?}")) }
    });
    assert!(renewed.iter().all(|(ids, _)| *ids == [c]), "{renewed:?}");
    assert_ne!(renewed[0].1, renewed[1].1, "another serial number");

    west.write("d.yaml", &owned("d", &range, 13));
    let d = "spiffe://west.mesh.example/ns/shop/sa/d";
    until("the second identity is pushed", PATIENCE, || {
        let told = told(&watcher);
        if told.last().is_some_and(|(ids, _)| *ids == [c, d]) { Ok(()) } else { Err(format!("{told:?}")) }
    });
    std::fs::remove_file(west.source().join("d.yaml")).unwrap();
    std::fs::remove_file(west.source().join("objects.yaml")).unwrap();
    let end = until("the stream ends", PATIENCE, || {
        let said = said(&bare);
        said.iter().find(|line| line.get("end").is_some()).cloned().ok_or_else(|| format!("{said:?}"))
    });
    assert_eq!(end["end"], "PERMISSION_DENIED", "{end}");
    let both = said(&bare).into_iter().find(|line| line["ids"] == json!([c, d]));
    assert_eq!(both.expect("both identities were told")["hints"], json!(["shop/c", "shop/d"]));
}
