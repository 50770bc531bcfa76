//! Edge. A foreign workload: `e2e/foreign/workload_client.py` over the PyPI package `spiffe`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::Value;

use crate::binary::workspace;
use crate::envoy::cache;
use crate::process::{Process, run};

/// The package that is installed; what it needs (grpcio, cryptography) comes with it.
const PACKAGE: &str = "spiffe";

/// Python with the package, in a virtual environment outside the work tree, installed when it is not there.
fn python() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| {
        let venv = cache().join("spiffe-venv");
        let python = venv.join("bin/python");
        if !python.exists() {
            let _made = run(Command::new("python3").args(["-m", "venv"]).arg(&venv)).ok("python3 -m venv");
        }
        let has = || run(Command::new(&python).args(["-c", "import spiffe, grpc, cryptography"])).code == 0;
        if !has() {
            let pip = run(Command::new(venv.join("bin/pip")).args(["install", "--quiet", PACKAGE]));
            assert_eq!(pip.code, 0, "pip install {PACKAGE}: {}", pip.stderr);
            assert!(has(), "{PACKAGE} is installed and cannot be imported");
        }
        python
    })
}

/// A workload that runs as a user.
pub struct Client<'a> {
    /// The agent's `workload.sock`.
    pub socket: &'a Path,
    /// Its user; changing to another than one's own needs root.
    pub uid: u32,
}

impl Client<'_> {
    fn command(&self, args: &[&str]) -> Command {
        // Another user may not be able to read Python or the package: it may read what root may, and is nothing else.
        let mut command = Command::new("setpriv");
        let uid = self.uid;
        command.args([&format!("--reuid={uid}"), &format!("--regid={uid}"), "--clear-groups"]);
        command.args(["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]);
        command.arg(python()).arg("-u").arg(workspace().join("e2e/foreign/workload_client.py"));
        command.arg("--socket").arg(self.socket).args(args);
        command
    }

    /// What it says at the end of one verb.
    ///
    /// # Errors
    /// What it printed instead of JSON.
    pub fn say(&self, args: &[&str]) -> Result<Value, String> {
        let output = run(&mut self.command(args));
        let last = output.stdout.lines().last().unwrap_or_default();
        serde_json::from_str(last).map_err(|error| format!("{error}: {}{}", output.stdout, output.stderr))
    }

    /// Starts a verb that goes on; its lines are read with [`said`].
    #[must_use]
    pub fn start(&self, logs: &Path, name: &str, args: &[&str]) -> Process {
        Process::start(name, logs, &mut self.command(args))
    }
}

/// What a started client has said until now.
#[must_use]
pub fn said(client: &Process) -> Vec<Value> {
    client.log().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}
