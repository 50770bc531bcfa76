//! Edge. kubectl, with one kubeconfig, from one network namespace.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::process::{Output, run};
use crate::wait;

/// How a test talks to an API server.
#[derive(Debug, Clone)]
pub struct Client {
    bin: PathBuf,
    kubeconfig: PathBuf,
    /// A named network namespace; none is the test's own.
    namespace: Option<String>,
}

impl Client {
    pub(super) fn new(bin: PathBuf, kubeconfig: PathBuf, namespace: Option<String>) -> Self {
        Self { bin, kubeconfig, namespace }
    }
    /// The kubeconfig.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }
    /// The same server, with another kubeconfig.
    #[must_use]
    pub fn with(&self, kubeconfig: PathBuf) -> Self {
        Self { kubeconfig, ..self.clone() }
    }
    /// A command that runs where the API server can be reached, with `KUBECONFIG` set.
    #[must_use]
    pub fn command(&self, program: &Path) -> Command {
        let mut command = match &self.namespace {
            // nsenter, not `ip netns exec`: that one would mount another /sys.
            Some(namespace) => {
                let mut command = Command::new("nsenter");
                command.arg(format!("--net=/run/netns/{namespace}")).arg(program);
                command
            }
            None => Command::new(program),
        };
        command.env("KUBECONFIG", &self.kubeconfig);
        // Discovery is cached beside the kubeconfig, not in somebody's home.
        command.env("KUBECACHEDIR", self.kubeconfig.with_extension("cache"));
        command
    }
    /// Runs kubectl.
    #[must_use]
    pub fn kubectl(&self, args: &[&str]) -> Output {
        run(self.command(&self.bin.join("kubectl")).args(args))
    }
    /// Runs kubectl and gives what it printed; fails the test when it fails.
    pub fn ok(&self, args: &[&str]) -> String {
        self.kubectl(args).ok(&format!("kubectl {}", args.join(" ")))
    }
    /// Runs kubectl with a text as standard input.
    #[must_use]
    pub fn kubectl_with(&self, args: &[&str], input: &str) -> Output {
        let mut command = self.command(&self.bin.join("kubectl"));
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("kubectl starts");
        let mut stdin = child.stdin.take().expect("a pipe");
        let text = input.to_owned();
        let writer = std::thread::spawn(move || stdin.write_all(text.as_bytes()));
        let output = child.wait_with_output().expect("kubectl ends");
        // A kubectl that refused its flags has not read to the end.
        let _written = writer.join();
        Output {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
    /// Applies YAML by server-side apply, as a user's pipeline does.
    pub fn apply(&self, yaml: &str) {
        let args = ["apply", "--server-side", "--field-manager=test", "-f", "-"];
        let _printed = self.kubectl_with(&args, yaml).ok("kubectl apply");
    }
    /// Waits until a kubectl command prints exactly this, and fails with what it printed last.
    pub fn until(&self, args: &[&str], wanted: &str, deadline: Duration) {
        wait::until(&format!("kubectl {} prints {wanted:?}", args.join(" ")), deadline, || {
            let output = self.kubectl(args);
            if output.code == 0 && output.stdout.trim() == wanted {
                return Ok(());
            }
            Err(format!("{}{}", output.stdout, output.stderr))
        });
    }
    /// A token of a service account, for an audience (the API server's own when there is none).
    #[must_use]
    pub fn token(&self, namespace: &str, account: &str, audience: Option<&str>) -> String {
        let audience = audience.map(|a| format!("--audience={a}"));
        let mut args = vec!["-n", namespace, "create", "token", account, "--duration=1h"];
        args.extend(audience.as_deref());
        self.ok(&args).trim().to_owned()
    }
    /// A client that is this service account, with its token in a kubeconfig of its own.
    #[must_use]
    pub fn as_account(&self, namespace: &str, account: &str) -> Self {
        let own = self.kubeconfig.with_file_name(format!("{namespace}.{account}.conf"));
        std::fs::copy(&self.kubeconfig, &own).expect("a kubeconfig can be copied");
        let account_client = self.with(own);
        let token = self.token(namespace, account, None);
        let _set = account_client.ok(&["config", "set-credentials", "account", &format!("--token={token}")]);
        let _used = account_client.ok(&["config", "set-context", "--current", "--user=account"]);
        account_client
    }
}
