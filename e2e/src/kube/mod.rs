//! Edge. Real Kubernetes: API servers alone ([`ApiServer`], some four seconds, as many side by side as wanted) and whole
//! one-node clusters ([`Cluster`], some ten seconds), all from unmodified upstream programs. `e2e/kube/` builds them into
//! a cache outside the work tree, on first use. [`Fleet`] is the product on two of those clusters.

mod api_server;
mod client;
mod cluster;
pub mod fleet;
pub mod health;
mod ledger;
mod raw;

pub use api_server::ApiServer;
pub use client::Client;
pub use cluster::Cluster;
pub use fleet::Fleet;
pub use health::{Health, health};
pub use ledger::Ledger;
pub use raw::Raw;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::binary::{meshfed, target_dir, workspace};
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

/// Helm, where a client stands, or without any cluster. Its own files go to `scratch`.
#[must_use]
pub fn helm(client: Option<&Client>, scratch: &Path) -> Command {
    let program = programs(&["helm"]).join("helm");
    let mut command = client.map_or_else(|| Command::new(&program), |client| client.command(&program));
    for (variable, folder) in [("HELM_CACHE_HOME", "cache"), ("HELM_CONFIG_HOME", "config"), ("HELM_DATA_HOME", "data")]
    {
        command.env(variable, scratch.join("helm").join(folder));
    }
    command
}

/// Packs the binary under test as an image archive, once per test run, and gives its path and reference.
///
/// # Panics
/// When it cannot be packed.
#[must_use]
pub fn image() -> (&'static Path, String) {
    static ARCHIVE: OnceLock<PathBuf> = OnceLock::new();
    let archive = ARCHIVE.get_or_init(|| {
        // A file per process: test binaries may run at the same time.
        let archive = target_dir().join(format!("image-{}.tar", std::process::id()));
        remove_archives_of_ended_tests();
        let mut pack = Command::new(workspace().join("image/build.sh"));
        let _silent = run(pack.arg(meshfed()).arg(&archive)).ok("image/build.sh");
        archive
    });
    (archive, format!("localhost/meshfed:{}", env!("CARGO_PKG_VERSION")))
}

/// Each is as large as the binary; nobody else removes them.
fn remove_archives_of_ended_tests() {
    for entry in std::fs::read_dir(target_dir()).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let process = name.to_str().and_then(|name| name.strip_prefix("image-")?.split_once('.').map(|(id, _)| id));
        if process.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
            let _another_test_was_first = std::fs::remove_file(entry.path());
        }
    }
}
