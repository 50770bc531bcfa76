//! Edge. Watches a directory or an API server and tells the core what changed, at once; keeps the last good objects over a
//! restart.
//!
//! ```text
//! inotify ─┐                                        ┌→ updates → core
//! timer  ──┴→ signals (Pure: what to look at) → watch → crds (walk, read, last good)
//!                                                   └→ state (Edge: E/state/source, off the hot path)
//! API server → api_server → crds (watch, reduce, read, last good) → the same two
//! ```

mod api_server;
mod signals;
mod state;
mod unserved;
mod watch;

use std::path::PathBuf;
use std::sync::Arc;

use meshfed_crds::{Bounds, Change, FileChange, LastGood, ObjectError, OutboundPolicy};
use meshfed_model::version::Version;
use meshfed_runtime::drain::Watch;
use meshfed_runtime::files::FileError;
use meshfed_runtime::tasks;
use tokio::sync::mpsc;

pub use api_server::{ApiServerConfig, SourceMetrics};
pub use unserved::Unserved;

/// Where the objects are.
#[derive(Debug, Clone)]
pub enum Place {
    /// In the files of a directory.
    Directory(PathBuf),
    /// In an API server.
    ApiServer(Box<ApiServerConfig>),
}

/// What the source is made of.
#[derive(Debug, Clone)]
pub struct SourceConfig {
    /// Where the objects are.
    pub place: Place,
    /// `E/state/source`.
    pub state: PathBuf,
    /// What the cluster's token allows.
    pub bounds: Bounds,
}

/// The changes of one scan, and all faults after it.
#[derive(Debug, Clone)]
pub struct SourceUpdate {
    /// Epoch: one per start of the agent. Revision: one per scan with changes; the first update is revision 1.
    pub version: Version,
    /// What changed; the first update holds everything. Empty where only faults changed.
    pub changes: Vec<Change>,
    /// How many objects stand.
    pub objects: usize,
    /// All faults of files and objects.
    pub errors: Arc<[ObjectError]>,
}

/// Why the source cannot run.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The state directory cannot be used.
    #[error("the source's state cannot be kept")]
    State(#[source] FileError),
    /// There is no client of the API server.
    #[error("the source is an API server, and there is no way to it")]
    Connect(#[source] meshfed_crds::api_server::ConnectError),
    /// The thread that watches ended with a panic.
    #[error("the watching thread panicked")]
    Panicked,
}

/// Looks at everything, sends it as revision 1, then what changes, until the drain starts or nobody listens.
///
/// # Errors
/// [`SourceError`]. A directory that is not there, or an API server that does not answer, is none: it is reported in the
/// update, and the last good objects stand.
pub async fn run(config: SourceConfig, updates: mpsc::Sender<SourceUpdate>, drain: Watch) -> Result<(), SourceError> {
    let root = match &config.place {
        Place::Directory(root) => root.clone(),
        Place::ApiServer(from) => {
            let from = ApiServerConfig::clone(from);
            return api_server::run(config, from, &updates, &drain).await;
        }
    };
    let (mailbox, stopper) = signals::channel();
    let watching = tasks::spawn_blocking("source", move || watch::run(root, &config, &updates, &mailbox));
    // Also stops the thread when this future is dropped.
    let stop = stopper.on_drop();
    tokio::pin!(watching);
    let ended = tokio::select! {
        ended = &mut watching => ended,
        () = drain.signaled() => {
            drop(stop);
            watching.await
        }
    };
    ended.unwrap_or(Err(SourceError::Panicked))
}

/// Sends an update, as long as nobody is told to stop: who listens may be at its end, and take nothing more. False: it was
/// not taken.
async fn send(update: SourceUpdate, updates: &mpsc::Sender<SourceUpdate>, stopped: impl Future<Output = ()>) -> bool {
    tokio::select! {
        sent = updates.send(update) => sent.is_ok(),
        () = stopped => false,
    }
}

/// The most new faults of one scan that are logged; all are in `/debug/source`.
const LOGGED_MAX: usize = 20;

/// Logs the faults that are new, and remembers all. Whether they are others than before.
fn tell_faults(last_good: &LastGood, told: &mut Arc<[ObjectError]>) -> bool {
    let errors = last_good.errors();
    if *errors == **told {
        return false;
    }
    for error in errors.iter().filter(|e| !told.contains(e)).take(LOGGED_MAX) {
        tracing::warn!("source: {error}");
    }
    *told = errors.into();
    true
}

fn path_of(change: &FileChange) -> Arc<str> {
    match change {
        FileChange::Content { path, .. }
        | FileChange::Object { path, .. }
        | FileChange::Unreadable { path, .. }
        | FileChange::Removed { path } => Arc::clone(path),
    }
}

/// The body of `GET /debug/source`: the source's own faults and those of the index, and the settings that hold with the
/// object that says so (null: nobody does).
#[must_use]
pub fn debug_body<'a>(
    version: Version,
    objects: usize,
    outbound: Option<(OutboundPolicy, &str)>,
    errors: impl Iterator<Item = &'a ObjectError>,
) -> serde_json::Value {
    let (policy, said_by) = outbound.unzip();
    serde_json::json!({
        "settings": {"outboundTrafficPolicy": {"value": policy.unwrap_or_default().as_str(), "saidBy": said_by}},
        "epoch": version.epoch.to_string(),
        "revision": version.revision.to_string(),
        "objects": objects,
        "errors": errors.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests;
