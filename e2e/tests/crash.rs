//! What was acknowledged survives: the federator is killed while it makes tokens and while it takes joins.
//!
//! The moments are drawn from a seed that a failure names; `MESHFED_SEED` replays it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use meshfed_e2e::binary::meshfed;
use meshfed_e2e::fleet::{Cluster, Fleet, Range};
use meshfed_e2e::process::{Output, run};
use meshfed_e2e::relay::{self, Judge};
use meshfed_e2e::wait::until;
use serde_json::Value;

/// Tokens of one round: the contract's number.
const TOKENS: usize = 100;
/// Processes that make them at the same time.
const MAKERS: usize = 4;
/// Kills among tokens.
const TOKEN_ROUNDS: usize = 4;
/// Kills among joins.
const JOIN_ROUNDS: usize = 8;
/// The longest wait between the chosen moment and the kill, in microseconds: about what one token takes.
const JITTER: u64 = 20_000;

#[expect(clippy::disallowed_methods, reason = "a seed is how a failure of this test is replayed")]
fn seed() -> u64 {
    std::env::var_os("MESHFED_SEED").and_then(|s| s.to_str()?.parse().ok()).unwrap_or(0x006d_6573_6866_6564)
}

/// Not a wait for a condition: the moment of a kill is meant to be any.
fn after_a_while(rng: &mut fastrand::Rng, most: u64) {
    std::thread::sleep(Duration::from_micros(rng.u64(0..most)));
}

fn token_command(credentials: &Path, cluster: &str) -> Command {
    let mut make = Command::new(meshfed());
    make.args(["token", "create", "--cluster", cluster, "--region", "eu", "--network", "net=10.0.0.0/8"]);
    make.env("MESHFED_CONFIG", credentials);
    make.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    make
}

/// Makes up to a hundred tokens with several processes at once, and kills the federator meanwhile. All that was printed.
fn tokens_until_the_kill(fleet: &mut Fleet, round: usize, rng: &mut fastrand::Rng) -> Vec<(String, String)> {
    let printed: Mutex<Vec<(String, String)>> = Mutex::default();
    let (next, dead) = (AtomicUsize::new(0), AtomicBool::new(false));
    let credentials = fleet.path("federator/admin.yaml");
    let moment = rng.usize(0..TOKENS - MAKERS);
    std::thread::scope(|scope| {
        for _ in 0..MAKERS {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= TOKENS || dead.load(Ordering::Relaxed) {
                        return;
                    }
                    let cluster = format!("c{round}-{number}");
                    let output = token_command(&credentials, &cluster).output().unwrap();
                    let text = String::from_utf8(output.stdout).unwrap();
                    // What a script could have read and used: a whole line, whatever became of the process.
                    if let Some(token) = text.strip_suffix('\n') {
                        printed.lock().unwrap().push((cluster, token.to_owned()));
                    }
                }
            });
        }
        until("enough tokens are printed", Duration::from_secs(60), || {
            let count = printed.lock().unwrap().len();
            if count >= moment { Ok(()) } else { Err(format!("{count} of {moment}")) }
        });
        after_a_while(rng, JITTER);
        fleet.federator().kill();
        dead.store(true, Ordering::Relaxed);
    });
    printed.into_inner().unwrap()
}

fn states(fleet: &Fleet) -> BTreeMap<String, String> {
    let list = fleet.cli(None, &["token", "list", "-o", "json"]).ok("token list");
    let body: Value = serde_json::from_str(&list).unwrap();
    let text = |item: &Value, key: &str| item[key].as_str().unwrap().to_owned();
    body["items"].as_array().unwrap().iter().map(|t| (text(t, "id"), text(t, "state"))).collect()
}

/// Check 8: the federator is killed while a hundred tokens are made by several processes; whatever was printed is
/// there afterwards, and opens the door.
///
/// Mutation seen to fail: the store's file opened with `Durability::None`.
#[test]
fn every_printed_token_survives_a_kill() {
    let mut rng = fastrand::Rng::with_seed(seed());
    let mut fleet = Fleet::start();
    let mut all: BTreeMap<String, String> = BTreeMap::new();
    for round in 0..TOKEN_ROUNDS {
        let printed = tokens_until_the_kill(&mut fleet, round, &mut rng);
        // It opens what it had written: ready within its deadline, or the test ends here.
        fleet.start_federator(None, &[]);
        let known = states(&fleet);
        for (cluster, token) in &printed {
            let id = token.split('.').nth(1).unwrap_or_default();
            let state = known.get(id).map(String::as_str);
            assert_eq!(state, Some("unused"), "seed {}, round {round}: {cluster}'s token {id} is lost", seed());
            all.insert(id.to_owned(), cluster.clone());
        }
        // The ones printed last are those that a lost write would take; the rate of joins is limited.
        for (cluster, token) in printed.iter().rev().take(2) {
            let file = fleet.path(&format!("{cluster}.token"));
            std::fs::write(&file, token).unwrap();
            let output = fleet.join(None, &file, cluster);
            assert_eq!(output.code, 0, "seed {}, round {round}: {output:?}", seed());
            all.remove(token.split('.').nth(1).unwrap());
        }
    }
    // Nor did a later kill take what an earlier round had printed.
    let known = states(&fleet);
    let lost: Vec<_> = all.iter().filter(|(id, _)| known.get(*id).is_none_or(|s| s != "unused")).collect();
    assert!(lost.is_empty(), "seed {}: {lost:?}", seed());
    assert!(all.len() > TOKEN_ROUNDS, "hardly any token was printed: {}", all.len());
}

fn join_over(federator: &str, token: &Path, data_dir: &Path) -> Command {
    let mut join = Command::new(meshfed());
    join.args(["join", federator, "--token-file"]).arg(token).arg("--data-dir").arg(data_dir);
    join.stdin(Stdio::null());
    join
}

fn key(dir: &Path) -> Option<String> {
    std::fs::read_to_string(dir.join("ca/key.pem")).ok()
}

/// Asks the API whether a cluster is a member, as an operator's script does.
fn membership(fleet: &Fleet) -> impl Fn(&str) -> bool + Send + Sync + use<> {
    let credentials = fleet.path("federator/admin.yaml");
    move |cluster| {
        let list = run(Command::new(meshfed()).args(["clusters", cluster]).env("MESHFED_CONFIG", &credentials));
        list.code == 0
    }
}

fn assert_refused(output: &Output, dir: &Path, when: &str) {
    assert_eq!(output.code, 1, "{when}: {output:?}");
    assert!(output.stderr.contains("the token is unknown, used, expired"), "{when}: {output:?}");
    assert!(!dir.exists() && !pending(dir).exists(), "{when}: a refused join left something");
}

fn pending(dir: &Path) -> PathBuf {
    let mut name = dir.as_os_str().to_owned();
    name.push(".pending");
    name.into()
}

/// JT3: the hub has bound the cluster and its answer never arrives, because the connection is cut, or because the
/// federator is killed at that moment. The joiner repeats with the key it kept and is the same member; another key is
/// refused, before and after.
///
/// Mutation seen to fail: the joiner asks for the plan of a used token before it repeats; it makes a new anchor for the
/// repetition.
#[test]
fn a_join_without_its_answer_is_repeated() {
    for kill in [false, true] {
        let when = if kill { "the federator is killed" } else { "the connection is cut" };
        let range = Range::take();
        let mut fleet = Fleet::start();
        let network = format!("net-east={}", range.cidr());
        let token = fleet.token(None, "east", &["--region", "eu", "--network", &network]);
        let is_member = membership(&fleet);
        let bound = Arc::new(AtomicBool::new(false));
        // Every piece that the hub sends is held until the API was asked: the answer to the join can only come after
        // the commit, so it never passes.
        let judge: Judge = {
            let (bound, is_member) = (Arc::clone(&bound), membership(&fleet));
            Arc::new(move |_| {
                let done = bound.load(Ordering::Relaxed) || is_member("east");
                bound.store(done, Ordering::Relaxed);
                !done
            })
        };
        let hub = fleet.address("federator", "grpc").parse().unwrap();
        let (relayed, relay) = relay::judged(hub, judge);
        let dir = fleet.path("east");
        let first = run(&mut join_over(&format!("https://{relayed}"), &token, &dir));
        assert!(bound.load(Ordering::Relaxed) && is_member("east"), "the join did not reach the hub: {first:?}");
        assert_eq!(first.code, 1, "{when}: {first:?}");
        assert!(first.stderr.contains("cannot be reached"), "{when}: {first:?}");
        let kept = key(&pending(&dir));
        assert!(kept.is_some() && !dir.exists(), "{when}: the joiner did not keep its key");
        drop(relay);
        if kill {
            fleet.federator().kill();
            fleet.start_federator(None, &[]);
        }
        let thief = fleet.path("thief");
        assert_refused(&run(&mut join_over(&fleet.grpc(), &token, &thief)), &thief, when);
        let again = run(&mut join_over(&fleet.grpc(), &token, &dir));
        assert_eq!(again.code, 0, "{when}: {again:?}");
        assert_eq!(key(&dir), kept, "{when}: the repetition used another key");
        assert!(!pending(&dir).exists() && !dir.join("asked").exists(), "{when}");
        assert_refused(&run(&mut join_over(&fleet.grpc(), &token, &thief)), &thief, when);
        assert_member(&fleet, &range, when);
    }
}

/// The member's agent is let in with what the join left it.
fn assert_member(fleet: &Fleet, range: &Range, when: &str) {
    std::fs::create_dir_all(fleet.path("fleet-east")).unwrap();
    let mut east = Cluster::restart(fleet, None, "east", range.host(1));
    until("the member's session stands", Duration::from_secs(60), || {
        east.agent.assert_alive();
        let output = fleet.cli(None, &["clusters", "east", "-o", "json"]);
        let body: Value = serde_json::from_str(&output.stdout).map_err(|error| error.to_string())?;
        if body["connection"] == "connected" { Ok(()) } else { Err(format!("{when}: {body}")) }
    });
}

/// The same at any moment: the federator is killed somewhere in a join. Whatever the joiner saw, it repeats, and is a
/// member with one key; the token opens nothing else.
///
/// Mutation seen to fail: the store's file opened with `Durability::None`.
#[test]
fn a_kill_at_any_moment_of_a_join_loses_nothing() {
    let mut rng = fastrand::Rng::with_seed(seed());
    let mut fleet = Fleet::start();
    let mut broken_off = 0;
    for round in 0..JOIN_ROUNDS {
        let cluster = format!("m{round}");
        let network = format!("net-{round}=10.{round}.0.0/16");
        let token = fleet.token(None, &cluster, &["--region", "eu", "--network", &network]);
        let dir = fleet.path(&cluster);
        let mut join = join_over(&fleet.grpc(), &token, &dir);
        let join = join.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        // From before it connects to after it has ended.
        after_a_while(&mut rng, 8 * JITTER);
        fleet.federator().kill();
        let first = join.wait_with_output().unwrap();
        let before = key(&dir).or_else(|| key(&pending(&dir)));
        fleet.start_federator(None, &[]);
        let again = fleet.join(None, &token, &cluster);
        let shown = format!("seed {}, round {round}: {first:?}, then {again:?}", seed());
        assert_eq!(again.code, 0, "{shown}");
        assert!(before.is_none() || before == key(&dir), "{shown}: another key");
        broken_off += usize::from(!first.status.success());
        let thief = fleet.path("thief");
        assert_refused(&fleet.join(None, &token, "thief"), &thief, &shown);
        let known = states(&fleet);
        let id = std::fs::read_to_string(&token).unwrap().split('.').nth(1).unwrap().to_owned();
        assert_eq!(known.get(&id).map(String::as_str), Some("used"), "{shown}");
    }
    let clusters = fleet.cli(None, &["clusters"]).ok("clusters");
    for round in 0..JOIN_ROUNDS {
        assert!(clusters.contains(&format!("m{round} ")), "{clusters}");
    }
    assert!(broken_off > 0, "no kill met a join: draw the moments earlier");
}
