//! Bad input gets a clear error with place and remedy, and nothing that worked changes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod world;

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use meshfed_e2e::binary::meshfed;
use meshfed_e2e::fleet::Fleet;
use meshfed_e2e::http;
use meshfed_e2e::process::{Output, run};
use meshfed_e2e::wait::until;
use serde_json::Value;
use world::{B_URL, World};

fn meshfed_run(args: &[&str]) -> Output {
    run(Command::new(meshfed()).args(args))
}

/// Wrong usage exits 64; what is named but not there says so.
///
/// Mutation seen to fail: clap's own exit code 2.
#[test]
fn wrong_usage_exits_64() {
    for args in [
        &["frobnicate"][..],
        &["agent"],
        &["proxy", "--agent", "unix:x", "--workload", "one"],
        &["federator", "--data-dir", "/nonexistent/x", "--http-listen", "nowhere"],
        &["failover", "get", "shop/b"],
        &["cluster", "drain", "east", "--wait"],
        &["trust", "rotate", "east.mesh.example"],
        &["demo", "--mode", "netns"],
    ] {
        let output = meshfed_run(args);
        assert_eq!(output.code, 64, "{args:?}: {output:?}");
        assert_eq!(output.stdout, "", "{args:?}");
        assert!(!output.stderr.is_empty(), "{args:?}");
    }
    for args in [&["failover", "get", "shop/b"][..], &["events"], &["explain", "a", "b"]] {
        assert!(meshfed_run(args).stderr.contains("not in this version"), "{args:?}");
    }
}

/// A data directory of another fleet, a port in use, and an agent that never joined: exit 65, with the remedy.
///
/// Mutation seen to fail: the fleet's name is not compared with the stored one.
#[test]
fn wrong_files_and_ports_exit_65() {
    let mut fleet = Fleet::start();
    let grpc = fleet.address("federator", "grpc");
    let other = fleet.path("other");
    let start = |dir: &std::path::Path, name: &str, grpc: &str| {
        let mut command = Command::new(meshfed());
        command.args(["federator", "--data-dir"]).arg(dir).args(["--fleet", name, "--grpc-listen", grpc]);
        run(command.args(["--http-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]))
    };
    let busy = start(&other, "mesh.example", &grpc);
    assert_eq!(busy.code, 65, "{busy:?}");
    assert!(busy.stderr.contains(&grpc) && busy.stderr.contains("--grpc-listen"), "{busy:?}");
    assert_eq!(fleet.federator().stop(), 0);
    let foreign = start(&fleet.path("federator"), "another.example", "127.0.0.1:0");
    assert_eq!(foreign.code, 65, "{foreign:?}");
    assert!(foreign.stderr.contains("mesh.example"), "{foreign:?}");
    // A first start without a fleet, and with a source that is not there, leaves nothing.
    let fresh = fleet.path("fresh").display().to_string();
    let ports = ["--grpc-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
    let first = |more: &[&str]| meshfed_run(&[&["federator", "--data-dir", &fresh], &ports[..], more].concat());
    let unnamed = first(&[]);
    assert_eq!(unnamed.code, 64, "{unnamed:?}");
    let nowhere = first(&["--fleet", "mesh.example", "--source", "dir:/nonexistent/nope"]);
    assert_eq!(nowhere.code, 65, "{nowhere:?}");
    assert!(nowhere.stderr.starts_with("/nonexistent/nope:0:0: error[MF0214]: "), "{nowhere:?}");
    assert!(!fleet.path("fresh").exists());
    let source = format!("dir:{}", fleet.dir.path().display());
    let agent = meshfed_run(&["agent", "--data-dir", &fleet.path("nobody").display().to_string(), "--source", &source]);
    assert_eq!(agent.code, 65, "{agent:?}");
    assert!(agent.stderr.contains("meshfed join"), "{agent:?}");
    assert_eq!(agent.stderr.lines().count(), 1, "one cause is one line: {agent:?}");
}

/// The same proxy twice: the second ends with 65 and names the address; the first goes on.
///
/// Mutation seen to fail: the second shares the port by SO_REUSEPORT.
#[test]
fn the_same_proxy_twice() {
    let world = World::start();
    let mut twin = world.west.proxy(None, "shop/a", &["--app-probe", "off"]);
    let code = until("the twin ends", Duration::from_secs(60), || twin.ended().ok_or_else(|| twin.tail()));
    assert_eq!(code, 65, "{}", twin.log());
    assert!(twin.log().contains(&world.west_range.host(10).to_string()), "{}", twin.log());
    assert_eq!(http::via(world.outbound(), B_URL).unwrap().status, 200);
}

/// Garbage on every port of every part: each connection is ended, nothing else changes.
///
/// Mutation seen to fail: a parser panics on the first byte of the garbage.
#[test]
fn garbage_on_every_port() {
    let mut world = World::start();
    let mut ports: Vec<SocketAddr> = Vec::new();
    for key in ["grpc", "http", "admin"] {
        ports.push(world.fleet.address("federator", key).parse().unwrap());
    }
    for name in ["east", "west"] {
        for (_, list) in world.fleet.addresses(name).unwrap().as_object().unwrap() {
            ports.extend(list.as_array().unwrap().iter().filter_map(|a| a.as_str()?.parse::<SocketAddr>().ok()));
        }
    }
    ports.extend([world.gateway(), world.outbound(), (world.east_range.host(11), 8080).into()]);
    let garbage: [&[u8]; 5] = [
        b"\x00\x00\x00\x00\xff\xff\xff\xff",
        b"GET / HTTP/1.1\nHost: x\n\n",
        b"\x16\x03\x01\xff\xff\x01\x00\xff\xff",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        &[b'A'; 100_000],
    ];
    for port in &ports {
        for bytes in garbage {
            use std::io::{Read as _, Write as _};
            let mut stream = std::net::TcpStream::connect(port).unwrap_or_else(|error| panic!("{port}: {error}"));
            let _closed_early = stream.write_all(bytes);
            let _half = stream.shutdown(std::net::Shutdown::Write);
            stream.set_read_timeout(Some(Duration::from_secs(12))).unwrap();
            let mut answer = Vec::new();
            if let Err(error) = stream.read_to_end(&mut answer) {
                assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "{port} keeps a connection of garbage open");
            }
        }
    }
    world.east.agent.assert_alive();
    world.west.agent.assert_alive();
    world.fleet.federator().assert_alive();
    world.processes.iter_mut().for_each(meshfed_e2e::process::Process::assert_alive);
    assert_eq!(http::via(world.outbound(), B_URL).unwrap().status, 200);
    world.fleet.wait_ready(None);
}

/// Unknown fields, wrong types, dangling references, duplicates and foreign addresses: each named with its place.
///
/// Mutation seen to fail: unknown fields are ignored.
#[test]
fn faulty_objects_are_named() {
    let world = World::start();
    let text = "apiVersion: v1
kind: Service
metadata: {name: x, namespace: shop}
spec:
  selectr: {app: x}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: far, namespace: shop}
spec: {address: 8.8.8.8, ports: {http: 8080}, labels: {app: x}, serviceAccount: x}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: text, namespace: shop}
spec: {address: 127.0.0.1, ports: {http: eighty}, labels: {app: x}, serviceAccount: x}
---
apiVersion: multicluster.x-k8s.io/v1beta1
kind: ServiceExport
metadata: {name: nobody, namespace: shop}
---
apiVersion: v1
kind: Service
metadata: {name: b, namespace: shop}
spec: {selector: {app: b}, ports: [{name: http, port: 9}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: later, namespace: shop}
";
    world.east.write("zz.yaml", text);
    let agent: SocketAddr = world.fleet.address("east", "admin").parse().unwrap();
    let errors = until("all faults are shown", Duration::from_secs(60), || {
        let answer = http::get(agent, "/debug/source")?;
        let body: Value = serde_json::from_str(&answer.body).map_err(|e| e.to_string())?;
        let errors = body["errors"].as_array().cloned().unwrap_or_default();
        if errors.len() >= 6 { Ok(errors) } else { Err(answer.body) }
    });
    let of = |word: &str| {
        let found = errors.iter().find(|e| e["message"].as_str().unwrap_or_default().contains(word));
        found.unwrap_or_else(|| panic!("no fault names '{word}': {errors:#?}")).clone()
    };
    for (word, line) in [("selectr", 5), ("8.8.8.8", 10), ("eighty", 15), ("not in this version", 27)] {
        let error = of(word);
        assert!(error["file"].as_str().unwrap().ends_with("zz.yaml"), "{error}");
        assert_eq!(error["line"].as_u64(), Some(line), "{error}");
        assert!(!error["remedy"].as_str().unwrap_or_default().is_empty(), "{error}");
    }
    assert!(errors.iter().any(|e| e["name"] == "nobody"), "the dangling export is not named: {errors:#?}");
    let duplicate = errors.iter().find(|e| e["kind"] == "Service" && e["name"] == "b").expect("the duplicate is named");
    assert!(duplicate["message"].as_str().unwrap().contains("objects.yaml"), "{duplicate}");
    assert_eq!(http::via(world.outbound(), B_URL).unwrap().status, 200);
}

/// State files of an agent that were cut or emptied: it says so, finds the hub again, and serves as before.
///
/// Mutation seen to fail: a saved file is read without its checksum; a damaged proof drops the bundle.
#[test]
fn damaged_state_heals() {
    let mut world = World::start();
    assert_eq!(world.west.agent.stop(), 0);
    let state = world.fleet.path("west/state");
    let proof = state.join("bundles/mesh.example");
    let whole = std::fs::read(&proof).unwrap();
    std::fs::write(&proof, &whole[..whole.len() / 2]).unwrap();
    std::fs::write(state.join("view/members"), b"").unwrap();
    let host = world.west_range.host(1);
    world.west = meshfed_e2e::fleet::Cluster::restart(&world.fleet, None, "west", host);
    world.fleet.wait_ready(None);
    assert_eq!(http::via(world.outbound(), B_URL).unwrap().status, 200);
    let log = world.west.agent.log();
    assert!(log.contains("damaged"), "{log}");
}
