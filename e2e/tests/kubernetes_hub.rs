//! The hub beside a real API server.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use meshfed_e2e::binary::meshfed;
use meshfed_e2e::kube::ApiServer;
use meshfed_e2e::process::{Process, run};
use meshfed_e2e::wait::until;

const SOON: Duration = Duration::from_secs(60);
const SERVER: &str = "https://hub.example:31580";

/// What the Secret's `admin.yaml` is, when it is the data directory's file but for the server.
fn kept(server: &ApiServer, data_dir: &Path) -> Result<String, String> {
    let path = "go-template={{index .data \"admin.yaml\" | base64decode}}";
    let output = server.kubectl(&["get", "secret", "meshfed-admin", "-o", path]);
    let own = std::fs::read_to_string(data_dir.join("admin.yaml")).map_err(|e| e.to_string())?;
    let expected: String = own
        .lines()
        .map(|line| if line.starts_with("server:") { format!("server: \"{SERVER}\"\n") } else { format!("{line}\n") })
        .collect();
    if output.stdout == expected { Ok(expected) } else { Err(format!("{}{}", output.stdout, output.stderr)) }
}

/// The chart's Secret gets the administrator's credentials with the server that others reach, once it is there; renewed
/// credentials follow; an API server that is away keeps the hub from nothing.
///
/// Mutations seen to fail: `token.changed()` in `keep` replaced by a future that never ends; `starts_with("server:")`
/// negated.
#[test]
fn the_secret_for_people_outside_follows_the_credentials() {
    let mut server = ApiServer::start();
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("hub");
    let mut hub = Command::new(meshfed());
    hub.arg("federator").arg("--data-dir").arg(&data_dir).env("KUBECONFIG", server.kubeconfig()).args([
        "--fleet=mesh.example",
        "--grpc-listen=127.0.0.1:0",
        "--http-listen=127.0.0.1:0",
        "--admin-listen=off",
        "--admin-secret=meshfed-admin",
        "--namespace=default",
        &format!("--admin-server={SERVER}"),
    ]);
    let mut hub = Process::start("hub", dir.path(), &mut hub);
    until("the hub says that there is no Secret", SOON, || {
        hub.assert_alive();
        if hub.log().contains("Secret default/meshfed-admin must be there") { Ok(()) } else { Err(hub.tail()) }
    });
    let _made = server.ok(&["create", "secret", "generic", "meshfed-admin"]);
    let before = until("the Secret is written", SOON, || kept(&server, &data_dir));

    server.kill();
    let _renewed = run(Command::new(meshfed()).args(["credential", "reset", "--data-dir"]).arg(&data_dir)).ok("reset");
    until("the hub tries to write what was renewed", SOON, || {
        if hub.log().matches("is not written").count() >= 2 { Ok(()) } else { Err(hub.tail()) }
    });
    server.start_again();
    let after = until("the Secret follows", SOON, || kept(&server, &data_dir));
    assert_ne!(before, after);
    assert_eq!(hub.stop(), 0);
}

/// A server that could not stand in the file is refused at the start.
///
/// Mutation seen to fail: `is_server` gives `true`.
#[test]
fn a_server_that_is_no_address_is_refused() {
    for server in ["hub.example:15680", "https://hub.example", "https://hub.example:1/\"x", "https://:15680"] {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new(meshfed());
        command.arg("federator").arg("--data-dir").arg(dir.path().join("hub")).args(["--fleet=mesh.example"]);
        command.args(["--grpc-listen=127.0.0.1:0", "--http-listen=off", "--admin-listen=off", "--admin-secret=x"]);
        let mut hub = Process::start("hub", dir.path(), command.arg(format!("--admin-server={server}")));
        let code = until("the hub ends", SOON, || hub.ended().ok_or("it runs"));
        assert!(code != 0 && hub.log().contains("MF0217"), "{server}: {code} {}", hub.log());
    }
}
