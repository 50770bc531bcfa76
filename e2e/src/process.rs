//! Edge. Real processes: each with its log, killed with its test.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::wait;

/// A running process.
pub struct Process {
    name: String,
    log: PathBuf,
    child: Child,
}

/// What a command that ended printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Its exit code; -1 when a signal ended it.
    pub code: i32,
    /// Its stdout.
    pub stdout: String,
    /// Its stderr.
    pub stderr: String,
}

impl Process {
    /// Starts a command; stdout and stderr go to `logs/NAME.log`.
    pub fn start(name: &str, logs: &Path, command: &mut Command) -> Self {
        std::fs::create_dir_all(logs).expect("log directory");
        let log = logs.join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&log).expect("log file");
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("log file"))
            .stderr(file)
            .spawn()
            .unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        Self { name: name.to_owned(), log, child }
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }
    /// Everything it logged.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
    /// The end of its log.
    #[must_use]
    pub fn tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines.get(lines.len().saturating_sub(15)..).unwrap_or_default().join("\n")
    }
    /// Its exit code when it has ended.
    pub fn ended(&mut self) -> Option<i32> {
        self.child.try_wait().expect("wait").map(|status| status.code().unwrap_or(-1))
    }
    /// Fails the test when it has ended.
    pub fn assert_alive(&mut self) {
        if let Some(code) = self.ended() {
            panic!("{} ended with {code}:\n{}", self.name, self.tail());
        }
    }
    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a process id");
        let _already_gone = kill_process(pid, signal);
    }
    /// SIGTERM, then its exit code; fails the test when it does not drain.
    pub fn stop(&mut self) -> i32 {
        self.signal(Signal::TERM);
        let name = self.name.clone();
        wait::until(&format!("{name} drains"), Duration::from_secs(60), || self.ended().ok_or("still running"))
    }
    /// SIGKILL, and its end.
    pub fn kill(&mut self) {
        let _already_gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let tail = self.tail();
            let name = &self.name;
            let _closed = std::io::Write::write_all(
                &mut std::io::stderr().lock(),
                format!("---- {name} ----\n{tail}\n").as_bytes(),
            );
        }
    }
}

/// Runs a command to its end.
pub fn run(command: &mut Command) -> Output {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    Output {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

impl Output {
    /// Its stdout; fails the test when it did not exit 0.
    #[must_use]
    pub fn ok(self, what: &str) -> String {
        assert_eq!(self.code, 0, "{what}: {}{}", self.stdout, self.stderr);
        self.stdout
    }
}
