//! The demo as a stranger starts it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use meshfed_e2e::binary::meshfed;
use meshfed_e2e::process::run;

/// Where the demo's front is.
const FRONT: &str = "127.0.0.1:15790";

/// Asks the front for as long as the flag says, as somebody does who cannot wait for the demo.
fn ask_until(over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) {
        let asked =
            TcpStream::connect_timeout(&FRONT.parse().unwrap(), Duration::from_millis(200)).and_then(|mut s| {
                s.set_read_timeout(Some(Duration::from_secs(5)))?;
                s.write_all(b"GET / HTTP/1.1\r\nHost: front\r\nConnection: close\r\n\r\n")?;
                s.read_to_end(&mut Vec::new())
            });
        if asked.is_err() {
            std::thread::sleep(Duration::from_millis(20)); // Nothing listens yet: not a wait, a pace.
        }
    }
}

/// Contracts 1.15: one line per step, in order, exit 0, also when the front is asked before the demo asks it.
///
/// Mutations seen to fail: the step `unknown-sni` expects alert 40; the step `cross-cluster` wants a gateway's counter to
/// grow by its own request.
#[test]
fn the_demo_walks_all_its_steps() {
    let over = Arc::new(AtomicBool::new(false));
    let asking = std::thread::spawn({
        let over = Arc::clone(&over);
        move || ask_until(&over)
    });
    let output = run(Command::new(meshfed()).args(["demo", "--check", "--listen", FRONT]));
    over.store(true, Ordering::Relaxed);
    asking.join().unwrap();
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

/// An address that cannot be taken is bad input (65, as the help says), and the remedy is that of its cause.
///
/// Mutation seen to fail: `Failure::failed` for an address that cannot be bound; one remedy for both.
#[test]
fn an_address_that_cannot_be_taken_says_which_and_why() {
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap().to_string();
    let cases = [
        (taken.as_str(), "stop what listens there"),
        ("192.0.2.1:15791", "this host has no such address"),
        ("nohost.invalid:15791", "does not resolve"),
    ];
    for (listen, remedy) in cases {
        let output = run(Command::new(meshfed()).args(["demo", "--listen", listen]));
        assert_eq!(output.code, 65, "{}", output.stderr);
        assert!(output.stderr.contains(listen) && output.stderr.contains(remedy), "{}", output.stderr);
    }
}

/// A demo that fails leaves what its processes said, and says where that is.
///
/// Mutation seen to fail: `keep_logs` not called by `check`.
#[test]
fn a_failing_demo_says_where_its_logs_are() {
    let dir = tempfile::tempdir().unwrap();
    // West cannot join into a directory of somebody else.
    std::fs::create_dir(dir.path().join("west")).unwrap();
    std::fs::write(dir.path().join("west/somebody-elses"), "").unwrap();
    let output =
        run(Command::new(meshfed()).args(["demo", "--check", "--listen", "127.0.0.1:0", "--dir"]).arg(dir.path()));
    assert_eq!(output.code, 1, "{}{}", output.stdout, output.stderr);
    assert!(output.stdout.contains("FAIL join ") && output.stdout.contains("1 process drained"), "{}", output.stdout);
    let logs = dir.path().join("logs");
    assert!(output.stderr.contains(&format!("{}", logs.display())) && logs.is_dir(), "{}", output.stderr);
}
