//! A token works once, whoever tries at the same time, and whatever dies in between.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::collections::BTreeSet;
use std::process::{Command, Stdio};

use meshfed_e2e::binary::meshfed;
use meshfed_e2e::fleet::Fleet;
use rustix::process::Signal;

/// How many processes try the same token at once.
const RACERS: usize = 24;

/// Concurrent joins from several processes: exactly one wins, the others are told the one sentence.
///
/// Mutation seen to fail: the token is read in one transaction and consumed in another.
#[test]
fn concurrent_joins_have_one_winner() {
    let fleet = Fleet::start();
    let token = fleet.token(None, "east", &["--region", "eu", "--network", "net-east=10.1.0.0/16"]);
    let racers: Vec<_> = (0..RACERS)
        .map(|i| {
            let mut join = Command::new(meshfed());
            join.args(["join", &fleet.grpc(), "--token-file"])
                .arg(&token)
                .arg("--data-dir")
                .arg(fleet.path(&format!("racer-{i}")));
            join.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    let ends: Vec<_> = racers.into_iter().map(|r| r.wait_with_output().unwrap()).collect();
    let winners: Vec<usize> = (0..RACERS).filter(|i| ends[*i].status.success()).collect();
    let told: BTreeSet<String> =
        ends.iter().filter(|e| !e.status.success()).map(|e| String::from_utf8_lossy(&e.stderr).into_owned()).collect();
    assert_eq!(winners.len(), 1, "{told:?}");
    let left: Vec<usize> = (0..RACERS).filter(|i| fleet.path(&format!("racer-{i}")).exists()).collect();
    assert_eq!(left, winners, "a loser left a directory");
    let list = fleet.cli(None, &["clusters"]).ok("clusters");
    assert!(list.contains("east"), "{list}");
}

/// Check 8: the federator is killed while tokens are made; every token that was printed works afterwards.
///
/// Mutation seen to fail: the store commits without waiting for the disk, and the answer comes first.
#[test]
fn printed_tokens_survive_a_kill() {
    let mut fleet = Fleet::start();
    let mut printed = Vec::new();
    for i in 0..12 {
        printed.push(fleet.token(
            None,
            &format!("c{i}"),
            &["--region", "eu", "--network", &format!("net-{i}=10.{i}.0.0/16")],
        ));
    }
    // One more is on its way when the kill comes; whether it was printed decides whether it must work.
    let mut last = Command::new(meshfed());
    last.args(["token", "create", "--cluster", "last", "--region", "eu", "--network", "net-last=10.99.0.0/16"]);
    last.env("MESHFED_CONFIG", fleet.path("federator/admin.yaml"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let last = last.spawn().unwrap();
    fleet.federator().signal(Signal::KILL);
    let text = last.wait_with_output().unwrap().stdout;
    if text.starts_with(b"mf1.") {
        let file = fleet.path("last.token");
        std::fs::write(&file, text).unwrap();
        printed.push(file);
    }
    fleet.federator().kill();
    fleet.start_federator(None, &[]);
    for (i, token) in printed.iter().enumerate() {
        let output = fleet.join(None, token, &format!("member-{i}"));
        assert_eq!(output.code, 0, "printed token {i} does not work: {output:?}");
    }
}

/// A network of one name must mean the same addresses everywhere: what `--plan` blocks, `join` refuses, and the token
/// stays unused.
///
/// Mutation seen to fail: `check_networks` left out of the join.
#[test]
fn a_network_with_other_ranges_is_refused() {
    let fleet = Fleet::start();
    let east = fleet.token(None, "east", &["--region", "eu", "--network", "net-a=10.1.0.0/16"]);
    assert_eq!(fleet.join(None, &east, "east").code, 0);
    let clash = fleet.token(None, "clash", &["--region", "eu", "--network", "net-a=10.2.0.0/16"]);
    let plan = meshfed_e2e::process::run(
        Command::new(meshfed())
            .args(["join", &fleet.grpc(), "--plan", "--token-file"])
            .arg(&clash)
            .arg("--data-dir")
            .arg(fleet.path("clash")),
    );
    assert_eq!(plan.code, 79, "{plan:?}");
    let refused = fleet.join(None, &clash, "clash");
    assert_eq!((refused.code, fleet.path("clash").exists()), (1, false), "{refused:?}");
    assert!(refused.stderr.contains("net-a") && refused.stderr.contains("east"), "{refused:?}");
    assert!(
        fleet
            .cli(None, &["token", "list"])
            .ok("token list")
            .lines()
            .any(|l| l.contains("clash") && l.contains("unused"))
    );
}
