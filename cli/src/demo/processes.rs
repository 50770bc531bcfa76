//! Edge. The demo's processes: each a child of this one that ends with it, its log kept in a file.

use std::fs::File;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

/// How long a process may take to drain before it is killed.
const DRAIN: Duration = Duration::from_secs(8);

/// The processes of one demo, in the order they were started.
pub struct Processes {
    binary: PathBuf,
    logs: PathBuf,
    running: Vec<(String, Child)>,
}

/// What a command that ends printed.
pub struct Output {
    /// Its exit code.
    pub code: i32,
    /// Its stdout.
    pub stdout: String,
    /// Its stderr.
    pub stderr: String,
}

impl Processes {
    /// None yet; logs go to `root/logs`.
    pub fn new(root: &Path) -> anyhow::Result<Self> {
        let logs = root.join("logs");
        std::fs::create_dir_all(&logs).with_context(|| format!("cannot create {}", logs.display()))?;
        Ok(Self { binary: std::env::current_exe().context("where is this program?")?, logs, running: Vec::new() })
    }

    /// Starts a daemon; its stderr goes to `logs/NAME.log`.
    pub fn start(&mut self, name: &str, args: &[String]) -> anyhow::Result<()> {
        let log = File::create(self.logs.join(format!("{name}.log")))?;
        let child = Command::new(&self.binary)
            .arg("--die-with-parent")
            .args(args)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        self.running.push((name.to_owned(), child));
        Ok(())
    }

    /// Runs a command to its end.
    pub async fn run(&self, args: &[String], config: Option<&Path>) -> anyhow::Result<Output> {
        let mut command = Command::new(&self.binary);
        command.args(args).stdin(Stdio::null()).kill_on_drop(true);
        if let Some(config) = config {
            command.env("MESHFED_CONFIG", config);
        }
        let output = command.output().await?;
        Ok(Output {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// How many are running.
    pub fn count(&self) -> usize {
        self.running.len()
    }

    /// Fails, with the end of its log, when a daemon has ended.
    pub fn all_alive(&mut self) -> anyhow::Result<()> {
        for (name, child) in &mut self.running {
            if let Some(status) = child.try_wait()? {
                let log = std::fs::read_to_string(self.logs.join(format!("{name}.log"))).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                let tail = lines.get(lines.len().saturating_sub(5)..).unwrap_or_default().join("\n  ");
                bail!("{name} ended with {status}:\n  {tail}");
            }
        }
        Ok(())
    }

    /// Drains all, the last started first; kills what does not end in time. Names those that did not end well.
    pub async fn stop(&mut self) -> Vec<String> {
        let mut unwell = Vec::new();
        for (_, child) in self.running.iter().rev() {
            if let Some(pid) = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw) {
                let _already_gone = kill_process(pid, Signal::TERM);
            }
        }
        for (name, mut child) in self.running.drain(..).rev() {
            match tokio::time::timeout(DRAIN, child.wait()).await {
                // A process that had not come to listen for the signal has begun nothing, either.
                Ok(Ok(status)) if status.success() || status.signal() == Some(Signal::TERM.as_raw()) => {}
                Ok(Ok(status)) => unwell.push(format!("{name} ended with {status}")),
                Ok(Err(error)) => unwell.push(format!("{name}: {error}")),
                Err(_elapsed) => {
                    unwell.push(format!("{name} did not drain within {DRAIN:?}"));
                    let _already_gone = child.kill().await;
                }
            }
        }
        unwell
    }
}
