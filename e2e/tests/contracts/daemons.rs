//! 1.2, 1.4: directories, listeners, locks and configuration errors of daemons.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use meshfed_e2e::binary::meshfed;
use meshfed_e2e::http;
use meshfed_e2e::process::{Process, run};
use meshfed_e2e::wait::until;
use serde_json::Value;

use super::world::{B_URL, World};
use super::{SOON, addresses, bare, federator, is_problem_line, keys};

fn modes(dir: &Path, found: &mut Vec<(String, u32, bool)>, base: &Path) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let kind = std::fs::symlink_metadata(&path).unwrap();
        let name = path.strip_prefix(base).unwrap().display().to_string();
        found.push((name, kind.permissions().mode() & 0o7777, kind.is_dir()));
        if kind.is_dir() {
            modes(&path, found, base);
        }
    }
}

/// 1.2: data directories 0711, `run/` 0755, sockets 0666, every other directory 0700; what is in those 0600.
/// 1.4: join's line, its files, and that a second join changes none of them.
///
/// Mutations seen to fail: `create_private_dir` with 0755; a second join writes `agent.yaml` again.
#[test]
fn directories_have_their_modes_and_join_its_line() {
    let world = World::start();
    for data_dir in ["federator", "east", "west"] {
        let base = world.fleet.path(data_dir);
        assert_eq!(std::fs::metadata(&base).unwrap().permissions().mode() & 0o7777, 0o711, "{data_dir}");
        let mut found = Vec::new();
        modes(&base, &mut found, &base);
        for (name, mode, is_dir) in found {
            let public = ["run/addresses.json", "api-ca.pem"].contains(&name.as_str());
            let want = match name.as_str() {
                "run" => 0o755,
                "run/xds.sock" | "run/workload.sock" => 0o666,
                _ if is_dir => 0o700,
                _ if public => 0o644,
                _ => 0o600,
            };
            assert_eq!(format!("{mode:o}"), format!("{want:o}"), "{data_dir}/{name}");
        }
    }
    let files = [
        "agent.yaml",
        "identity/cert.pem",
        "identity/key.pem",
        "ca/key.pem",
        "ca/anchor.pem",
        "ca/lineage.pem",
        "bundles/east.mesh.example.pem",
        "bundles/mesh.example.pem",
    ]
    .map(|name| world.fleet.path("east").join(name));
    let state =
        || files.clone().map(|f| (std::fs::read(&f).unwrap(), std::fs::metadata(&f).unwrap().modified().unwrap()));
    let before = state();
    assert!(before[3].0.starts_with(b"-----BEGIN PRIVATE KEY-----"), "the key is not PKCS#8");
    let again = world.fleet.join(None, &world.fleet.path("east.token"), "east");
    assert_eq!(again.code, 0, "{again:?}");
    assert_eq!(again.stdout, "joined cluster=east trustDomain=east.mesh.example networks=net-east\n");
    assert!(state() == before, "a second join changed a file");
}

/// 1.2: several listeners, IPv6, port 0 and `off`; the admin port off loopback shows three pages; logs are JSON on
/// stderr, stdout is empty; SIGTERM ends with 0, and `addresses.json` goes with the process.
///
/// Mutations seen to fail: the router of a listener off loopback has `/debug/config`, too; `Published` leaves its file.
#[test]
fn listeners_are_as_they_were_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("fed");
    let flags = [
        "--grpc-listen",
        "127.0.0.1:0",
        "--grpc-listen",
        "[::1]:0",
        "--http-listen",
        "127.0.0.1:0",
        "--http-listen",
        "[::1]:0",
        "--http-san",
        "hub.example",
        "--admin-listen",
        "0.0.0.0:0",
        "--admin-listen",
        "127.0.0.1:0",
        "--log-format",
        "json",
    ];
    let stdout = dir.path().join("stdout");
    let stderr = dir.path().join("stderr");
    let mut start = federator(&data, &flags);
    start.stdout(std::fs::File::create(&stdout).unwrap()).stderr(std::fs::File::create(&stderr).unwrap());
    let mut child = start.spawn().unwrap();
    let listed = until("the federator listens", SOON, || addresses(&data).ok_or("no addresses.json yet"));
    assert_eq!(keys(&listed), ["admin", "grpc", "http"]);
    let at = |key: &str, i: usize| listed[key][i].as_str().unwrap().parse::<SocketAddr>().unwrap();
    assert!(at("grpc", 1).is_ipv6() && at("http", 1).is_ipv6(), "{listed}");
    let open: SocketAddr = ([127, 0, 0, 1], at("admin", 0).port()).into();
    until("it is ready", SOON, || {
        http::get(open, "/readyz").and_then(|a| if a.status == 200 { Ok(()) } else { Err(a.body) })
    });
    for (address, pages) in [(open, [200, 200, 200, 404]), (at("admin", 1), [200; 4])] {
        let got = ["/livez", "/readyz", "/metrics", "/debug/config"].map(|p| http::get(address, p).unwrap().status);
        assert_eq!(got, pages, "{address}");
    }
    let token = std::fs::read_to_string(data.join("admin.token")).unwrap();
    for (host, address) in [("hub.example", at("http", 0)), ("localhost", at("http", 0)), ("[::1]", at("http", 1))] {
        let port = address.port();
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--max-time", "10", "--cacert"]).arg(data.join("api-ca.pem"));
        curl.args([
            "--resolve",
            &format!("hub.example:{port}:127.0.0.1"),
            "-H",
            &format!("Authorization: Bearer {token}"),
        ]);
        let body = run(curl.arg(format!("https://{host}:{port}/api/v1/clusters"))).ok(host);
        assert_eq!(body.trim().split(',').next_back(), Some("\"continue\":null}"), "{body}");
    }
    let pid = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let code = until("it drains", SOON, || child.try_wait().unwrap().ok_or("still running")).code();
    assert_eq!(code, Some(0));
    assert!(addresses(&data).is_none(), "addresses.json outlives the process");
    assert_eq!(std::fs::read_to_string(&stdout).unwrap(), "", "logs belong to stderr");
    for line in std::fs::read_to_string(&stderr).unwrap().lines() {
        assert!(serde_json::from_str::<Value>(line).is_ok_and(|v| v["level"].is_string()), "{line}");
    }
    let mut again = Process::start(
        "off",
        dir.path(),
        federator(&data, &["--grpc-listen", "127.0.0.1:0"]).args(["--http-listen", "off", "--admin-listen", "off"]),
    );
    let listed = until("it listens again", SOON, || addresses(&data).ok_or_else(|| again.tail()));
    assert_eq!(keys(&listed), ["grpc"], "what is off is not there");
    assert_eq!(again.stop(), 0);
}

/// The exit code of a command that is to end soon, and what it said.
fn ends(name: &str, world: &World, command: &mut Command) -> (i32, String) {
    let mut process = Process::start(name, &world.fleet.path("second"), command);
    let code = until(&format!("{name} ends"), SOON, || process.ended().ok_or("still running"));
    (code, process.log())
}

/// A second daemon on a data directory in use ends with 65 and names it; files and traffic of the first stay.
///
/// Mutations seen to fail: the agent's `lock` gives the lock also when another process holds it; the federator writes
/// credentials before it holds its directory; the line of a daemon that listens left out.
#[test]
fn a_second_daemon_leaves_the_first_alone() {
    let mut world = World::start();
    let data = world.fleet.path("federator");
    // What each one is and where it listens stands in its log.
    let (hub, agent) = (world.fleet.federator().log(), world.east.agent.log());
    let grpc = world.fleet.address("federator", "grpc");
    for said in ["fleet=mesh.example", grpc.as_str(), "admin.yaml", "root_sha256="] {
        assert!(hub.contains(said), "{said}: {hub}");
    }
    for said in ["cluster=east", world.fleet.address("east", "admin").as_str(), "run/xds.sock"] {
        assert!(agent.contains(said), "{said}: {agent}");
    }
    let read = || ["admin.yaml", "admin.token", "run/addresses.json"].map(|f| std::fs::read(data.join(f)).unwrap());
    let before = read();
    let free = ["--grpc-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
    let (code, said) = ends("second-federator", &world, &mut federator(&data, &free));
    assert_eq!(code, 65, "{said}");
    assert!(said.lines().all(is_problem_line) && said.contains("another federator"), "{said}");
    assert!(said.contains("error[MF0208]") && said.contains("stop it first"), "{said}");
    assert!(read() == before, "the second federator changed files of the first");
    let east = world.fleet.path("east");
    let mut agent = Command::new(meshfed());
    agent
        .args(["agent", "--data-dir"])
        .arg(&east)
        .arg("--source")
        .arg(format!("dir:{}", world.east.source().display()))
        .args(["--xds-listen", "off", "--admin-listen", "127.0.0.1:0", "--run-dir"])
        .arg(world.fleet.path("elsewhere"));
    let (code, said) = ends("second-agent", &world, &mut agent);
    assert_eq!(code, 65, "{said}");
    assert!(said.contains("error[MF0115]: another agent runs with this data directory; stop it first"), "{said}");
    world.east.agent.assert_alive();
    assert!(world.fleet.cli(None, &["status"]).ok("status").ends_with("\nready\n"));
    assert_eq!(http::via(world.outbound(), B_URL).unwrap().status, 200);
    assert_eq!(world.east.agent.stop(), 0);
    assert!(
        !["run/xds.sock", "run/workload.sock"].iter().any(|s| east.join(s).exists()) && addresses(&east).is_none(),
        "the agent left something in run/"
    );
}

/// 1.2: all wrong flags at once, those that cannot be parsed and those that make no sense, a line each; nothing else on
/// stderr, nothing on stdout, exit 64; wrong files alone are 65.
///
/// Mutation seen to fail: `all_errors` does not ask `rest`.
#[test]
fn configuration_errors_come_all_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("x").display().to_string();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let cases: [(&[&str], u8, &[&str]); 6] = [
        (
            &[
                "federator",
                "--data-dir",
                &data,
                "--fleet",
                "no domain",
                "--http-listen",
                "nowhere",
                "--store",
                "etcd:x",
                "--advertise",
                "x",
                "--http-san",
                "a b",
                "--prt",
                "1",
            ],
            64,
            &["--fleet", "--http-listen", "--store", "--advertise", "--http-san", "--prt"],
        ),
        (
            &["agent", "--data-dir", &data, "--source", "consul:x", "--dns-listen", "z", "--xds-listen", "y"],
            64,
            &["--source", "--dns-listen", "--xds-listen", &data],
        ),
        (
            &[
                "proxy",
                "--agent",
                "foo",
                "--workload",
                "one",
                "--inbound",
                "x",
                "--outbound",
                "y",
                "--app-probe",
                "z",
                "--workers",
                "0",
                "--mode",
                "what",
                "--capture",
                "tproxy",
            ],
            64,
            &["--agent", "--workload", "--inbound", "--outbound", "--app-probe", "--workers", "--mode", "--capture"],
        ),
        (
            &[
                "federator",
                "--data-dir",
                &data,
                "--fleet",
                "mesh.example",
                "--root-key",
                "/nonexistent/key",
                "--source",
                "dir:/nonexistent",
            ],
            65,
            &["/nonexistent/key", "/nonexistent"],
        ),
        (&["agent", "--data-dir", &data, "--source", "dir:/nonexistent"], 65, &[&data, "/nonexistent"]),
        (
            &[
                "federator",
                "--data-dir",
                file.to_str().unwrap(),
                "--fleet",
                "mesh.example",
                "--grpc-listen",
                "127.0.0.1:0",
            ],
            65,
            &[file.to_str().unwrap()],
        ),
    ];
    for (args, code, places) in cases {
        let output = bare(args);
        assert_eq!((output.code, output.stdout.as_str()), (i32::from(code), ""), "{args:?}: {output:?}");
        assert!(output.stderr.lines().all(is_problem_line), "{args:?}: {}", output.stderr);
        let told: BTreeSet<&str> = output.stderr.lines().map(|l| l.split(":0:0: ").next().unwrap()).collect();
        assert_eq!(told, places.iter().copied().collect(), "{args:?}: {}", output.stderr);
    }
    assert!(!Path::new(&data).exists(), "a refused start made its data directory");
}
