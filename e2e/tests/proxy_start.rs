//! How a proxy begins: every address in use is told at once, and `addresses.json` is that of one living process.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod world;

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use meshfed_e2e::binary::meshfed;
use meshfed_e2e::objects;
use meshfed_e2e::process::{Output, Process, run};
use meshfed_e2e::wait::until;
use world::World;

/// How long a daemon may take to begin or to end.
const SOON: Duration = Duration::from_secs(20);

fn holder(at: impl Into<SocketAddr>) -> (TcpListener, String) {
    let socket = TcpListener::bind(at.into()).unwrap();
    let address = socket.local_addr().unwrap().to_string();
    (socket, address)
}

/// The lines that a start with addresses in use is to end with: one each, in any order, and exit 65.
fn assert_told(output: &Output, expected: &[(&str, &str)]) {
    let text = &output.stderr;
    assert_eq!(output.code, 65, "{text}");
    let told: Vec<&str> = text.lines().filter(|l| l.contains(": error[")).collect();
    for (flag, address) in expected {
        let line = format!("{flag}:0:0: error[MF0102]: {address} is in use");
        assert!(told.iter().any(|l| l.starts_with(&line)), "no '{line}' in\n{text}");
    }
    assert_eq!(told.len(), expected.len(), "{text}");
    assert!(!text.contains("cannot listen"), "it is told once: {text}");
}

/// A proxy that no agent answers.
fn proxy(dir: &Path, flags: &[&str]) -> Command {
    let mut command = Command::new(meshfed());
    command.args(["proxy", "--workload", "shop/a", "--agent"]).arg(format!("unix:{}", dir.join("xds.sock").display()));
    command.arg("--run-dir").arg(dir.join("run")).args(flags);
    command
}

/// 1.2: what the flags name is looked at before the agent is asked for anything, although only readiness is bound.
///
/// Mutations seen to fail: `check_known` not called; its `--metrics-listen` left out.
#[test]
fn busy_ports_that_flags_name_are_told_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let any = || holder(([127, 0, 0, 1], 0));
    let held = [any(), any(), any(), any(), any(), any()];
    let [ready, metrics, admin, outbound, inbound, tcp] = held.each_ref().map(|(_, address)| address.as_str());
    let one = format!("{tcp}=db.shop.svc.clusterset.local:5432");
    let flags = [
        ["--ready-listen", ready],
        ["--metrics-listen", metrics],
        ["--admin-listen", admin],
        ["--outbound-listen", outbound],
        ["--inbound-listen", inbound],
        ["--outbound", &one],
    ];
    let output = run(&mut proxy(dir.path(), flags.concat().as_slice()));
    let expected = [
        ("--ready-listen", ready),
        ("--metrics-listen", metrics),
        ("--admin-listen", admin),
        ("--outbound-listen", outbound),
        ("--inbound-listen", inbound),
        ("--outbound", tcp),
    ];
    assert_told(&output, &expected);
}

/// The same of addresses that only the agent knows: listeners that wait for their routes, and the process's own ports.
///
/// Mutations seen to fail: `started` does not bind before it looks at `failed`; `install` ends at the first busy listener
/// (`self.unbound` told in `settle` without `answers`); what `install` cannot bind is logged before the start, too.
#[test]
fn busy_ports_that_the_agent_names_are_told_at_once() {
    let world = World::start_without_a();
    let host = world.west_range.host(15);
    // A port of raw TCP needs no routes, that of outbound requests does: they are ready at different times.
    let service = objects::service("shop", "t", "tcp", 9000);
    let workload = objects::workload(&objects::Workload {
        name: "t-west-1",
        namespace: "shop",
        app: "t",
        service_account: "t",
        addresses: &[host],
        port: ("tcp", 9000),
        network: "net-west",
        locality: "us/us-1",
        annotations: &[],
    });
    world.west.write("t.yaml", &[service, workload].concat());
    let held = [9000, 15001, 15000, 15020, 15021].map(|port| holder((host, port)));
    let [inbound, outbound, admin, metrics, ready] = held.each_ref().map(|(_, address)| address.as_str());
    let mut command = Command::new(meshfed());
    command.args(["proxy", "--workload", "shop/t", "--app-probe", "off"]);
    command.arg("--agent").arg(format!("unix:{}", world.west.socket().display()));
    let output = run(&mut command);
    let expected = [
        ("--inbound-listen", inbound),
        ("--outbound-listen", outbound),
        ("--admin-listen", admin),
        ("--metrics-listen", metrics),
        ("--ready-listen", ready),
    ];
    assert_told(&output, &expected);
}

/// After `kill -9` the file stays, since nobody is left to remove it; the next start does before it binds anything.
/// A second proxy of the same directory leaves the first's alone.
///
/// Mutations seen to fail: `forget` not called by `RunDir::take`; `RunDir::write` does not look at the lock; an agent that
/// was never there is told as lost (`this.started` not asked).
#[test]
fn the_addresses_of_a_killed_proxy_are_forgotten_and_those_of_a_living_one_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (logs, file) = (dir.path().join("logs"), dir.path().join("run/addresses.json"));
    let read = || std::fs::read_to_string(&file).map_err(|e| e.to_string());
    let ready = ["--ready-listen", "127.0.0.1:0"];
    let mut first = Process::start("first", &logs, &mut proxy(dir.path(), &ready));
    let told = until("the first is there", SOON, read);

    let mut second = Process::start("second", &logs, &mut proxy(dir.path(), &ready));
    until("the second says whose the directory is", SOON, || {
        if second.log().contains("belongs to a process that runs") { Ok(()) } else { Err(second.log()) }
    });
    // It waits for its agent, for which it has looked once.
    until("the second asks its agent", SOON, || {
        if second.log().contains("no agent yet") { Ok(()) } else { Err(second.log()) }
    });
    assert!(!second.log().contains("agent lost"), "it never had one: {}", second.log());
    assert_eq!(read().unwrap(), told);
    second.kill();
    assert_eq!(read().unwrap(), told);

    first.kill();
    assert_eq!(read().unwrap(), told, "nobody is left to remove it");
    // This one binds nothing before it is attested.
    let mut third = Process::start("third", &logs, &mut proxy(dir.path(), &[]));
    until("it is forgotten", SOON, || if file.exists() { Err("there") } else { Ok(()) });
    third.assert_alive();

    // Two addresses of one kind are told with what is wrong with the directory.
    let (_socket, busy) = holder(([127, 0, 0, 1], 0));
    let output = run(&mut proxy(dir.path(), &["--ready-listen", &busy]));
    assert_eq!(output.code, 65);
    assert!(output.stderr.contains("--run-dir:0:0: error[MF0111]: "), "{}", output.stderr);
    assert!(output.stderr.contains(&format!("--ready-listen:0:0: error[MF0102]: {busy}")), "{}", output.stderr);
}
