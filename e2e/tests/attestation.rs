//! Who may be which workload on the agent's socket: peer credentials decide, not words.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod world;

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::Duration;

use meshfed_e2e::binary::meshfed;
use meshfed_e2e::process::Process;
use meshfed_e2e::wait::until;
use meshfed_e2e::{http, objects};
use world::World;

/// A uid that no workload of the fixture names.
const STRANGER: u32 = 4242;

/// Another uid is refused as a workload that does not name it, and admitted as one that does.
///
/// Mutation seen to fail: attestation compares the uid with the peer's claim instead of the annotation.
#[test]
fn a_second_uid_is_not_our_workload() {
    let world = World::start();
    let dir = world.fleet.path("stranger");
    std::fs::create_dir(&dir).unwrap();
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o777)).unwrap();
    std::fs::set_permissions(world.fleet.dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let binary = dir.join("meshfed");
    std::fs::copy(meshfed(), &binary).unwrap();
    std::fs::set_permissions(&binary, std::fs::Permissions::from_mode(0o755)).unwrap();
    let start = |workload: &str, name: &str| {
        let mut command = Command::new(&binary);
        command.args(["proxy", "--agent"]).arg(format!("unix:{}", world.west.socket().display()));
        command
            .args(["--workload", workload, "--app-probe", "off", "--run-dir"])
            .arg(dir.join(name))
            .uid(STRANGER)
            .gid(STRANGER);
        Process::start(name, &world.fleet.path("logs"), &mut command)
    };
    let mut thief = start("shop/a", "thief");
    let log = until("the refusal is logged", Duration::from_secs(60), || {
        let log = thief.log();
        if log.contains("PermissionDenied") || log.contains("PERMISSION_DENIED") || log.contains("permission") {
            Ok(log)
        } else {
            Err(log)
        }
    });
    assert!(!log.contains("PRIVATE KEY"), "{log}");
    thief.kill();
    let own = objects::workload(&objects::Workload {
        name: "d-west-1",
        namespace: "shop",
        app: "d",
        service_account: "d",
        addresses: &[world.west_range.host(14)],
        port: ("http", 8080),
        network: "net-west",
        locality: "us/us-1",
        annotations: &[("federation.meshfed.io/unix-uid", "4242")],
    });
    world.west.write("d.yaml", &own);
    let mut owner = start("shop/d", "owner");
    until("the named uid is admitted", Duration::from_secs(60), || {
        owner.assert_alive();
        let answer = http::get((world.west_range.host(14), 15021).into(), "/healthz/ready")?;
        if answer.status == 200 { Ok(()) } else { Err(format!("{answer:?}")) }
    });
}
