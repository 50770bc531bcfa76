//! Edge. What is kept of proxies over a restart of the agent, so that workloads do not seem to vanish while their proxies
//! come back, and a proxy comes back as what it was.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use meshfed_model::names::Namespace;
use meshfed_runtime::{files, tasks};
use tokio::sync::watch;

use super::{Admission, Kept, Numbers};
use crate::index::WorkloadKey;
use crate::uplink::journal::boot_id;

/// The largest file that is read: 100,000 workloads.
const FILE_MAX: usize = 64 << 20;

#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct File {
    /// Only on the same boot of the machine are the proxies likely still there, and processes what they were.
    boot: String,
    ready: BTreeSet<String>,
    #[serde(default)]
    admitted: BTreeMap<String, Admission>,
}

/// What was kept when the agent ended, on this boot of the machine.
#[must_use]
pub fn load(path: &Path) -> Kept {
    let boot = boot_id();
    let Ok(bytes) = files::read_limited(path, FILE_MAX) else { return Kept::default() };
    let Ok(file) = serde_json::from_slice::<File>(&bytes) else { return Kept::default() };
    if file.boot != boot || boot.is_empty() {
        return Kept::default();
    }
    let key = |text: &str| {
        let (namespace, name) = text.split_once('/')?;
        Some(WorkloadKey { namespace: Namespace::new(namespace).ok()?, name: name.into() })
    };
    Kept {
        ready: file.ready.iter().filter_map(|text| key(text)).collect(),
        admitted: file.admitted.into_iter().filter_map(|(text, admission)| Some((key(&text)?, admission))).collect(),
    }
}

/// Writes what is to be kept whenever it changes, the latest only. It counts for this boot alone, so nothing waits for
/// the disk: an fsync here would hold up the journals beside it.
///
/// # Errors
/// Never: a file that cannot be written is logged, and costs a pause after the next restart.
pub async fn keep(path: PathBuf, mut kept: watch::Receiver<Kept>) -> Result<(), std::convert::Infallible> {
    let (boot, path) = (boot_id(), Arc::new(path));
    while kept.changed().await.is_ok() {
        let file = {
            let kept = kept.borrow_and_update();
            let admitted = kept.admitted.iter().map(|(key, admission)| (key.to_string(), admission.clone()));
            let ready = kept.ready.iter().map(ToString::to_string).collect();
            File { boot: boot.clone(), ready, admitted: admitted.collect() }
        };
        let path = Arc::clone(&path);
        let written = tasks::spawn_blocking("ready-file", move || {
            let bytes = serde_json::to_vec(&file).unwrap_or_default();
            files::write_volatile(&path, &bytes, files::MODE_SECRET)
        })
        .await;
        match written {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "what is known of proxies could not be kept"),
            Err(error) => tracing::warn!(%error, "what is known of proxies could not be kept"),
        }
    }
    // The core has ended: the drain.
    std::future::pending().await
}

/// The file of the numbers of imports' own addresses.
#[derive(Debug)]
pub struct ImportsFile(PathBuf);

impl ImportsFile {
    /// The file, and what it holds. A file that cannot be read is told of, set aside, and its imports get other addresses.
    #[must_use]
    pub fn open(path: PathBuf) -> (Self, Numbers) {
        let read = match files::read_limited(&path, FILE_MAX) {
            Ok(bytes) => serde_json::from_slice::<BTreeMap<String, u16>>(&bytes).map_err(|e| e.to_string()),
            Err(_) if !path.exists() => Ok(BTreeMap::new()),
            Err(error) => Err(meshfed_runtime::telemetry::chain(&error)),
        };
        let numbers = read.unwrap_or_else(|error| {
            let aside = path.with_extension("damaged");
            let kept = std::fs::rename(&path, &aside).is_ok();
            tracing::error!(file = %path.display(), error, kept, aside = %aside.display(), "the addresses of imports cannot be read: they get others");
            BTreeMap::new()
        });
        (Self(path), numbers.into_iter().filter_map(|(text, number)| Some((text.parse().ok()?, number))).collect())
    }

    /// Writes the numbers so that they outlive the machine: what a client was told must stay true. A file that cannot be
    /// written is logged, and the addresses hold until the agent ends.
    pub async fn keep(&self, numbers: Numbers) {
        let path = self.0.clone();
        let written = tasks::spawn_blocking("imports-file", move || {
            let texts: BTreeMap<String, u16> = numbers.iter().map(|(s, number)| (s.to_string(), *number)).collect();
            let bytes = serde_json::to_vec(&texts).unwrap_or_default();
            files::write_atomic(&path, &bytes, files::MODE_SECRET)
        })
        .await;
        match written {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "the addresses of imports could not be kept"),
            Err(error) => tracing::error!(%error, "the addresses of imports could not be kept"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mutations seen to fail: `boot` is not compared; `admitted` is not written.
    #[tokio::test]
    async fn what_is_kept_is_there_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("proxies.json");
        let key = WorkloadKey { namespace: Namespace::new("shop").unwrap(), name: "a-1".into() };
        let node = crate::translate::Node {
            process: Some(42),
            ..crate::translate::Node::of_claim("x", crate::translate::Claim::Workload("shop/a".parse().unwrap()))
        };
        let admission = Admission::of(&crate::identity::Peer::Unix { uid: 7 }, &node).unwrap();
        let kept = Kept { ready: BTreeSet::from([key.clone()]), admitted: BTreeMap::from([(key, admission)]) };
        let (sender, receiver) = watch::channel(Kept::default());
        let keeping = tasks::spawn("keep", keep(path.clone(), receiver));
        sender.send_replace(kept.clone());
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
        while load(&path) != kept {
            assert!(tokio::time::Instant::now() < deadline, "{:?}", load(&path));
            tokio::task::yield_now().await;
        }
        keeping.abort();
        let text = std::fs::read_to_string(&path).unwrap().replace(&boot_id(), "another boot");
        std::fs::write(&path, text).unwrap();
        assert_eq!(load(&path), Kept::default());
    }
}
