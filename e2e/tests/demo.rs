//! The demo as a stranger starts it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::process::Command;

use meshfed_e2e::binary::meshfed;
use meshfed_e2e::process::run;

/// Contracts 1.15: one line per step, in order, exit 0.
///
/// Mutation seen to fail: the step `unknown-sni` expects alert 40.
#[test]
fn the_demo_walks_all_its_steps() {
    let output = run(Command::new(meshfed()).args(["demo", "--check", "--listen", "127.0.0.1:15790"]));
    let steps: Vec<(&str, &str)> = output
        .stdout
        .lines()
        .filter_map(|l| {
            let mut words = l.splitn(4, ' ');
            let (verdict, step, milliseconds) = (words.next()?, words.next()?, words.next()?);
            milliseconds.parse::<u64>().ok()?;
            Some((verdict, step))
        })
        .collect();
    let expected = ["start", "join", "cross-cluster", "unknown-sni", "replayed-token", "cleanup"];
    assert_eq!(steps, expected.map(|s| ("PASS", s)), "{}{}", output.stdout, output.stderr);
    assert_eq!(output.code, 0);
}
