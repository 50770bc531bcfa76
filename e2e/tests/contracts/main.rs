//! What scripts rely on, line by line: names, modes, exit codes, stdout and stderr, headers, JSON shapes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod api;
mod daemons;
mod output;
mod proxy;
mod tokens;
#[path = "../world/mod.rs"]
mod world;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use meshfed_e2e::binary::meshfed;
use meshfed_e2e::process::{Output, run};
use serde_json::Value;

/// How long a daemon may take to begin or to end.
const SOON: Duration = Duration::from_secs(15);

fn bare(args: &[&str]) -> Output {
    run(Command::new(meshfed()).args(args).env_remove("MESHFED_CONFIG"))
}

fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> = value.as_object().expect("an object").keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

/// Whether a line is `PLACE:LINE:COLUMN: error[CODE]: text`.
fn is_problem_line(line: &str) -> bool {
    let Some((place, text)) = line.split_once(": error[") else { return false };
    let mut parts = place.rsplitn(3, ':');
    let numbers = [parts.next(), parts.next()].iter().all(|p| p.is_some_and(|p| p.parse::<u32>().is_ok()));
    let code = text.split_once("]: ").filter(|(code, text)| code.starts_with("MF") && !text.trim().is_empty());
    numbers && parts.next().is_some_and(|p| !p.is_empty()) && code.is_some()
}

fn is_token(text: &str) -> bool {
    let part = |s: &str, len: usize, upper: bool| {
        let allowed = |b: u8| match b {
            b'a'..=b'z' | b'0'..=b'9' => true,
            b'A'..=b'Z' | b'_' | b'-' => upper,
            _ => false,
        };
        s.len() == len && s.bytes().all(allowed)
    };
    let parts: Vec<&str> = text.split('.').collect();
    let [version, id, secret, pin] = parts.as_slice() else { return false };
    *version == "mf1" && part(id, 10, false) && part(secret, 43, true) && part(pin, 43, true)
}

fn federator(dir: &Path, flags: &[&str]) -> Command {
    let mut command = Command::new(meshfed());
    command.args(["federator", "--data-dir"]).arg(dir).args(["--fleet", "mesh.example"]).args(flags);
    command
}

fn addresses(dir: &Path) -> Option<Value> {
    serde_json::from_slice(&std::fs::read(dir.join("run/addresses.json")).ok()?).ok()
}
