//! Edge. The last good objects, kept over a restart: one file per source file under `E/state/source`, written by a
//! thread of its own, the newest version of each file only.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use meshfed_crds::{LastGood, Object};
use meshfed_runtime::files::{self, FileError, MODE_SECRET};
use meshfed_runtime::{clock, tasks};
use serde::{Deserialize, Serialize};

/// The largest state file: objects as JSON take more room than as YAML.
const STATE_FILE_MAX: usize = 256 << 20;
/// The format of a state file.
const FORMAT: u32 = 1;
const EPOCH_FILE: &str = "epoch";

#[derive(Debug, Serialize)]
struct Written<'a> {
    format: u32,
    path: &'a str,
    objects: &'a [Arc<Object>],
}

#[derive(Debug, Deserialize)]
struct Read {
    format: u32,
    path: String,
    objects: Vec<Object>,
}

/// What of a file is to be written: its objects, or `None` for a file that is gone.
type Pending = BTreeMap<Arc<str>, Option<Vec<Arc<Object>>>>;

#[derive(Debug, Default)]
struct Queue {
    pending: Mutex<(Pending, bool)>,
    wake: Condvar,
}

/// Hands what is to be kept to the writing thread. One entry per file: memory follows the source, not its changes.
#[derive(Debug)]
pub(super) struct Keeper {
    queue: Arc<Queue>,
}

/// Takes up the state: the next epoch, and the objects of every file.
pub(super) fn load(dir: &Path, last_good: &mut LastGood) -> Result<u64, FileError> {
    files::create_private_dir(dir)?;
    let epoch = next_epoch(dir)?;
    let Ok(entries) = std::fs::read_dir(dir) else { return Ok(epoch) };
    for entry in entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "json")) {
        let read = files::read_limited(&entry, STATE_FILE_MAX).map_err(|e| e.to_string()).and_then(|bytes| {
            let read: Read = serde_json::from_slice(&bytes).map_err(|e| e.to_string())?;
            if read.format == FORMAT { Ok(read) } else { Err(format!("format {} is not known", read.format)) }
        });
        match read {
            Ok(read) if entry == file_of(dir, &read.path) => last_good.restore(&read.path.into(), read.objects),
            Ok(read) => {
                tracing::warn!(file = %entry.display(), path = read.path, "state file under another name is passed over")
            }
            Err(error) => tracing::warn!(file = %entry.display(), error, "state file cannot be used"),
        }
    }
    Ok(epoch)
}

/// Grows with every start. A file that cannot be read is replaced by the wall clock, which is above any count.
fn next_epoch(dir: &Path) -> Result<u64, FileError> {
    let path = dir.join(EPOCH_FILE);
    let epoch = match files::read_text(&path, 32) {
        Ok(text) => text.trim().parse().ok().map(|n: u64| n.saturating_add(1)),
        Err(e) if e.is_not_found() => Some(1),
        Err(_) => None,
    };
    let epoch = epoch.unwrap_or_else(|| clock::unix_seconds(clock::wall()));
    files::write_atomic(&path, format!("{epoch}\n").as_bytes(), MODE_SECRET)?;
    Ok(epoch)
}

/// A short name that any path fits in. Whoever names objects chooses paths: nobody is to find two with one name.
fn file_of(dir: &Path, path: &str) -> PathBuf {
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, path.as_bytes());
    dir.join(format!("{}.json", data_encoding::HEXLOWER.encode(hash.as_ref())))
}

impl Keeper {
    /// Starts the writing thread; it ends after the last write once the keeper is dropped.
    pub(super) fn start(dir: PathBuf) -> (Self, tokio::task::JoinHandle<()>) {
        let queue = Arc::new(Queue::default());
        let theirs = Arc::clone(&queue);
        let thread = tasks::spawn_blocking("source-state", move || theirs.write_all(&dir));
        (Self { queue }, thread)
    }

    /// Keeps what these files give now.
    pub(super) fn keep(&self, paths: impl Iterator<Item = Arc<str>>, last_good: &LastGood) {
        let mut pending = self.queue.pending.lock().unwrap_or_else(PoisonError::into_inner);
        for path in paths {
            let given = last_good.given_by(&path);
            pending.0.insert(path, given);
        }
        drop(pending);
        self.queue.wake.notify_one();
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.queue.pending.lock().unwrap_or_else(PoisonError::into_inner).1 = true;
        self.queue.wake.notify_one();
    }
}

impl Queue {
    fn write_all(&self, dir: &Path) {
        loop {
            let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
            while pending.0.is_empty() && !pending.1 {
                pending = self.wake.wait(pending).unwrap_or_else(PoisonError::into_inner);
            }
            let (batch, ended) = (std::mem::take(&mut pending.0), pending.1);
            drop(pending);
            for (path, objects) in &batch {
                if let Err(error) = write_one(dir, path, objects.as_deref()) {
                    tracing::warn!(path = &**path, error, "the last good objects of a file cannot be kept");
                }
            }
            if ended && batch.is_empty() {
                return;
            }
        }
    }
}

fn write_one(dir: &Path, path: &str, objects: Option<&[Arc<Object>]>) -> Result<(), String> {
    let file = file_of(dir, path);
    match objects {
        None | Some([]) => files::remove(&file).map(|_was_there| ()).map_err(|e| e.to_string()),
        Some(objects) => {
            let bytes = serde_json::to_vec(&Written { format: FORMAT, path, objects }).map_err(|e| e.to_string())?;
            // Written at every change, and refused when it is read damaged: an fsync would hold up the journals beside it,
            // and with them the change on its way to the hub.
            files::write_volatile(&file, &bytes, MODE_SECRET).map_err(|e| e.to_string())
        }
    }
}
