//! A process may be told to end at any moment of its life, also before it has begun to serve.
//!
//! The moments are drawn from a seed that a failure names; `MESHFED_SEED` replays it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use meshfed_e2e::binary::meshfed;
use meshfed_e2e::fleet::{Cluster, ClusterSpec, Fleet, Range};
use meshfed_e2e::wait::until;
use rustix::process::{Pid, Signal, kill_process};

/// Moments for each daemon.
const MOMENTS: usize = 25;
/// The latest of them: a daemon serves by then.
const LATEST: u64 = 400_000;

#[expect(clippy::disallowed_methods, reason = "a seed is how a failure of this test is replayed")]
fn seed() -> u64 {
    std::env::var_os("MESHFED_SEED").and_then(|s| s.to_str()?.parse().ok()).unwrap_or(0x656e_6421)
}

fn terminate(child: &Child) {
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    let _already_gone = kill_process(pid, Signal::TERM);
}

/// Whether a process has a handler for SIGTERM: bit 14 of the mask in its status.
fn heeds(child: &Child) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
    let mask = status.lines().find_map(|l| l.strip_prefix("SigCgt:")).unwrap_or_default().trim().to_owned();
    u64::from_str_radix(&mask, 16).is_ok_and(|mask| mask >> 14 & 1 == 1)
}

fn ended(child: &mut Child, what: &str) -> ExitStatus {
    until(what, Duration::from_secs(60), || child.try_wait().unwrap().ok_or("it runs on"))
}

/// Starts a command again and again, ends it at random moments, and looks at what it leaves.
fn end_at_any_moment(what: &str, rng: &mut fastrand::Rng, start: impl Fn() -> Command, leaves: &[PathBuf]) {
    let mut heeded = 0;
    for moment in 0..MOMENTS {
        let mut child = start().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // The first moments are the earliest that can be met; not a wait for a condition: the moment is meant to be any.
        if moment < MOMENTS / 5 {
            until(&format!("{what} heeds SIGTERM"), Duration::from_secs(20), || {
                heeds(&child).then_some(()).ok_or("not yet")
            });
        } else {
            std::thread::sleep(Duration::from_micros(rng.u64(0..LATEST)));
        }
        let did_heed = heeds(&child);
        heeded += usize::from(did_heed);
        terminate(&child);
        let status = ended(&mut child, what);
        if did_heed {
            assert_eq!(status.code(), Some(0), "{what}, moment {moment}, seed {}: {status}", seed());
        } else {
            // The system had not come to our first line.
            assert!(status.code() == Some(0) || status.signal() == Some(15), "{what}, moment {moment}: {status}");
        }
        for left in leaves {
            assert!(!left.exists(), "{what}, moment {moment}, seed {}: {} is left", seed(), left.display());
        }
    }
    assert!(heeded >= MOMENTS / 5, "{heeded}");
}

fn published(run_dir: &Path) -> Vec<PathBuf> {
    ["addresses.json", "xds.sock", "workload.sock"].map(|name| run_dir.join(name)).into()
}

/// A daemon listens for SIGTERM before it does anything else: one that waits for its configuration heeds it already.
///
/// Mutation seen to fail: `Signals::early` left out of `main`.
#[test]
fn a_daemon_heeds_sigterm_before_it_reads_its_configuration() {
    let data_dir = tempfile::tempdir().unwrap();
    // Nobody writes into this pipe: the agent waits when it opens it.
    let made = Command::new("mkfifo").arg(data_dir.path().join("agent.yaml")).status().unwrap();
    assert!(made.success());
    let mut command = Command::new(meshfed());
    command.args(["agent", "--data-dir"]).arg(data_dir.path());
    command.arg("--source").arg(format!("dir:{}", data_dir.path().display()));
    let mut agent = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    until("the agent heeds SIGTERM", Duration::from_secs(20), || match agent.try_wait().unwrap() {
        Some(status) => panic!("it did not wait: {status}"),
        None => heeds(&agent).then_some(()).ok_or("not yet"),
    });
    agent.kill().unwrap();
    agent.wait().unwrap();
}

/// SIGTERM at any moment: exit 0, no address and no socket is left.
///
/// Mutation seen to fail: `Published` leaves its file.
#[test]
fn daemons_end_well_from_their_first_moment_on() {
    let fleet = Fleet::start();
    let range = Range::take();
    let own = range.host(1);
    let networks = [format!("net-east={}", range.cidr())];
    let objects = meshfed_e2e::objects::gateway("eastwest", "net-east", &[own], &[format!("{own}:15443")], "eu/eu-1");
    let spec = ClusterSpec { name: "east", networks: &networks, region: "eu", bind: own, objects };
    let mut east = Cluster::start(&fleet, None, None, &spec);
    let mut rng = fastrand::Rng::with_seed(seed());
    let data_dir = fleet.path("second");
    let federator = || {
        let mut command = Command::new(meshfed());
        command.args(["federator", "--fleet", "mesh.example", "--data-dir"]).arg(&data_dir);
        command.args(["--grpc-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
        command
    };
    end_at_any_moment("federator", &mut rng, federator, &published(&data_dir.join("run")));
    let run_dir = fleet.path("run-proxy");
    let proxy = || {
        let mut command = Command::new(meshfed());
        command.args(["proxy", "--mode", "gateway", "--workload", "meshfed-system/eastwest", "--agent"]);
        command.arg(format!("unix:{}", east.socket().display())).arg("--run-dir").arg(&run_dir);
        command
    };
    end_at_any_moment("proxy", &mut rng, proxy, &published(&run_dir));
    assert_eq!(east.agent.stop(), 0);
    let agent = || {
        let mut command = Command::new(meshfed());
        command.args(["agent", "--bind", &own.to_string(), "--data-dir"]).arg(east.data_dir());
        command.arg("--source").arg(format!("dir:{}", east.source().display()));
        command
    };
    end_at_any_moment("agent", &mut rng, agent, &published(&east.data_dir().join("run")));
}

/// Ctrl-C while the demo comes up: it says that it stops, and nothing is left; the check fails, and cleans up, too.
///
/// Mutation seen to fail: `status.signal()` not looked at in `Processes::stop`.
#[test]
fn the_demo_can_be_stopped_while_it_starts() {
    let mut rng = fastrand::Rng::with_seed(seed());
    for (check, code) in [(false, 0), (false, 0), (false, 0), (true, 1)] {
        let temporary = tempfile::Builder::new().prefix("mf").tempdir().unwrap();
        let mut command = Command::new(meshfed());
        command.args(["demo", "--listen", "127.0.0.1:0"]).env("TMPDIR", temporary.path());
        if check {
            command.arg("--check");
        }
        let mut demo = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        until("the demo heeds Ctrl-C", Duration::from_secs(20), || heeds(&demo).then_some(()).ok_or("not yet"));
        if !check {
            // Any moment of its start, or after it. A check that has ended cannot be stopped: it is told at once.
            std::thread::sleep(Duration::from_micros(rng.u64(0..2_000_000)));
        }
        let pid = Pid::from_raw(i32::try_from(demo.id()).unwrap()).unwrap();
        kill_process(pid, Signal::INT).unwrap();
        let status = ended(&mut demo, "the demo");
        let output = demo.wait_with_output().unwrap();
        let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(status.code(), Some(code), "seed {}: {said}{errors}", seed());
        if check {
            assert!(said.contains("PASS cleanup") && errors.contains("told to stop"), "{said}{errors}");
        } else {
            assert!(said.contains("stopping") && errors.is_empty(), "{said}{errors}");
        }
        let left: Vec<_> = std::fs::read_dir(temporary.path()).unwrap().flatten().map(|e| e.path()).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}
