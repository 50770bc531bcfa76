//! Edge. Real Kubernetes: API servers alone ([`ApiServer`], some four seconds, as many side by side as wanted), from
//! unmodified upstream programs. `e2e/kube/` builds them into a cache outside the work tree, on first use.

mod api_server;
mod client;

pub use api_server::ApiServer;
pub use client::Client;

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::binary::workspace;
use crate::process::run;

/// A script of `e2e/kube/`.
fn script(name: &str) -> Command {
    Command::new(workspace().join("e2e/kube").join(name))
}

/// Builds programs unless they are there, and says where they lie. `e2e/kube/build.sh` knows their names.
///
/// # Panics
/// When one does not build.
#[must_use]
pub fn programs(names: &[&str]) -> PathBuf {
    PathBuf::from(run(script("build.sh").args(names)).ok("e2e/kube/build.sh").trim())
}

/// A command that runs Helm with a kubeconfig, which may be several, joined by `:`. Its own files go to `scratch`.
#[must_use]
pub fn helm(kubeconfig: &Path, scratch: &Path) -> Command {
    let mut command = Command::new(programs(&["helm"]).join("helm"));
    command.env("KUBECONFIG", kubeconfig);
    for (variable, folder) in [("HELM_CACHE_HOME", "cache"), ("HELM_CONFIG_HOME", "config"), ("HELM_DATA_HOME", "data")]
    {
        command.env(variable, scratch.join("helm").join(folder));
    }
    command
}
