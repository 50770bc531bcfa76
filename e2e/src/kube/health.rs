//! Edge. How others judge our objects: the kstatus library, and the health script for Argo CD run by Argo CD's interpreter.

use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::script;
use crate::binary::workspace;
use crate::process::run;

/// What both say of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// `InProgress`, `Failed`, `Current`, `Terminating`, `NotFound` or `Unknown`.
    pub kstatus: String,
    /// `Progressing`, `Degraded`, `Healthy`, `Suspended`, `Missing` or `Unknown`.
    pub health: String,
    /// What Argo CD shows beside it.
    pub message: String,
}

/// Judges objects, in their order.
///
/// # Panics
/// When one cannot be judged.
#[must_use]
pub fn health(objects: &[Value]) -> Vec<Health> {
    let program = run(&mut script("health.sh")).ok("e2e/kube/health.sh");
    let mut command = Command::new(program.trim());
    command.arg(workspace().join("docs/kubernetes/argocd/health.lua"));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the judge starts");
    let mut input = child.stdin.take().expect("a pipe");
    let text: String = objects.iter().map(ToString::to_string).collect();
    // It answers at once, and a pipe holds only so much: it is fed beside.
    let feeder = std::thread::spawn(move || input.write_all(text.as_bytes()));
    let output = child.wait_with_output().expect("the judge ends");
    feeder.join().expect("no panic").expect("the judge reads all");
    assert!(output.status.success(), "the judge failed; what it said is above");
    let lines = String::from_utf8(output.stdout).expect("UTF-8");
    let all: Vec<Health> = lines.lines().map(verdict).collect();
    assert_eq!(all.len(), objects.len(), "one verdict for each");
    all
}

fn verdict(line: &str) -> Health {
    let found: Value = serde_json::from_str(line).expect("a verdict");
    let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
    Health { kstatus: text("kstatus"), health: text("health"), message: text("message") }
}
