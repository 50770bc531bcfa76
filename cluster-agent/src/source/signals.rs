//! Edge. From what the file system reports to what is to be looked at. The mailbox is bounded: what does not fit is
//! made good by a walk over everything.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use meshfed_crds::directory::Walker;
use notify::event::{AccessKind, AccessMode, CreateKind, ModifyKind, RenameMode};
use notify::{Event, EventKind};
use tokio::sync::watch;

/// Events that wait for the watching thread. A checkout of some hundred files fits; more is a full walk anyway.
const EVENTS_MAX: usize = 4096;

/// Sends events to the watching thread, and tells it to stop.
#[derive(Debug, Clone)]
pub(super) struct Sender {
    events: SyncSender<Option<Event>>,
    lost: Arc<AtomicBool>,
    stopped: watch::Sender<bool>,
}

/// Stops the watching thread when it is dropped.
pub(super) struct StopOnDrop(Sender);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stopped.send_replace(true);
        // A full mailbox wakes the thread as well.
        drop(self.0.events.try_send(None));
    }
}

impl Sender {
    pub(super) const fn on_drop(self) -> StopOnDrop {
        StopOnDrop(self)
    }
    /// Takes an event of the watcher; opening and reading are not passed on.
    pub(super) fn take(&self, event: notify::Result<Event>) {
        match event {
            Ok(event) if is_reading(&event.kind) => {}
            Ok(event) => {
                if self.events.try_send(Some(event)).is_err() {
                    self.lost.store(true, Ordering::SeqCst);
                }
            }
            Err(_) => self.lost.store(true, Ordering::SeqCst),
        }
    }
}

/// Receives the events.
#[derive(Debug)]
pub(super) struct Mailbox {
    events: Receiver<Option<Event>>,
    sender: Sender,
}

pub(super) fn channel() -> (Mailbox, Sender) {
    let (events, received) = sync_channel(EVENTS_MAX);
    let sender = Sender { events, lost: Arc::default(), stopped: watch::Sender::new(false) };
    (Mailbox { events: received, sender: sender.clone() }, sender)
}

impl Mailbox {
    /// Where the watcher's events go.
    pub(super) fn sender(&self) -> Sender {
        self.sender.clone()
    }
    /// Waits for the first event, at most `timeout`, and takes all that are there. `None`: stop.
    pub(super) fn receive(&self, timeout: Duration) -> Option<Vec<Event>> {
        let mut all = Vec::new();
        match self.events.recv_timeout(timeout) {
            Ok(Some(event)) => all.push(event),
            Ok(None) | Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
        all.extend(self.events.try_iter().flatten());
        if *self.sender.stopped.borrow() { None } else { Some(all) }
    }
    /// Waits until the thread is told to stop.
    pub(super) async fn stopped(&self) {
        let mut stopped = self.sender.stopped.subscribe();
        // Its sender is ours: it does not end before.
        let _told = stopped.wait_for(|told| *told).await;
    }
    /// Whether events were lost since the last time it was asked.
    pub(super) fn lost(&self) -> bool {
        self.sender.lost.swap(false, Ordering::SeqCst)
    }
}

fn is_reading(kind: &EventKind) -> bool {
    matches!(kind, EventKind::Access(access) if *access != AccessKind::Close(AccessMode::Write))
}

/// What is to be looked at.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Look {
    /// Files that were written and closed, or moved into place: read at once.
    pub(super) files: BTreeSet<Arc<str>>,
    /// Files that somebody is writing: not before they are closed.
    pub(super) writing: BTreeSet<Arc<str>>,
    /// Everything, because a directory or link was moved into place: what is seen is whole, and what is gone is gone.
    pub(super) swapped: bool,
    /// Everything, because something appeared or went: what changed may still be written, what is gone may come back.
    pub(super) walk: bool,
}

impl Look {
    /// Whether there is nothing to look at.
    pub(super) fn is_empty(&self) -> bool {
        self.files.is_empty() && !self.swapped && !self.walk
    }

    /// Adds what an event says. `roots` are the names that the watched directory has in event paths.
    pub(super) fn add(&mut self, event: &Event, roots: &[PathBuf]) {
        if event.need_rescan() {
            self.walk = true;
        }
        let paths = || event.paths.iter().filter_map(|p| relative(p, roots).map(|r| (p.as_path(), r)));
        // Opening and reading never come here; whatever else is unknown is a reason to look.
        #[allow(clippy::wildcard_enum_match_arm, reason = "the watcher's enums are open")]
        match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => paths().for_each(|(_, path)| self.written(path)),
            EventKind::Modify(ModifyKind::Data(_)) => self.writing.extend(paths().map(|(_, p)| Arc::from(p))),
            EventKind::Modify(ModifyKind::Metadata(_)) => {
                for (_, path) in paths().filter(|(_, p)| Walker::is_source_file(p)) {
                    if !self.writing.contains(path.as_str()) {
                        self.files.insert(path.into());
                    }
                }
            }
            EventKind::Modify(ModifyKind::Name(RenameMode::To)) => {
                paths().for_each(|(full, path)| self.moved(full, path))
            }
            EventKind::Modify(ModifyKind::Name(RenameMode::Both)) | EventKind::Access(_) => {}
            EventKind::Create(kind) if kind != CreateKind::Folder => {
                paths().for_each(|(full, path)| self.created(full, path));
            }
            // What happens under hidden names (a .git, say) is no reason to look, unless it is moved into place.
            _ => self.walk |= paths().any(|(_, path)| !is_hidden(&path)),
        }
    }

    fn written(&mut self, path: String) {
        self.writing.remove(path.as_str());
        if Walker::is_source_file(&path) {
            self.files.insert(path.into());
        } else if is_hidden(&path) {
            // A link may lead to it.
            self.swapped |= has_ending(&path);
        }
    }

    fn moved(&mut self, full: &Path, path: String) {
        self.writing.remove(path.as_str());
        let plain = full.symlink_metadata().is_ok_and(|m| m.is_file());
        if plain && Walker::is_source_file(&path) {
            self.files.insert(path.into());
        } else {
            // A directory or link came into place whole; a hidden file may be what a link leads to.
            self.swapped |= !plain || (is_hidden(&path) && has_ending(&path));
        }
    }

    fn created(&mut self, full: &Path, path: String) {
        use std::os::unix::fs::MetadataExt as _;
        let Ok(meta) = full.symlink_metadata() else { return };
        if meta.is_symlink() {
            self.swapped = true;
        } else if meta.nlink() > 1 && Walker::is_source_file(&path) {
            // A hard link appears whole, and is never closed.
            self.files.insert(path.into());
        } else {
            self.writing.insert(path.into());
        }
    }
}

fn has_ending(path: &str) -> bool {
    [".yaml", ".yml", ".json"].iter().any(|end| path.ends_with(end))
}

fn is_hidden(path: &str) -> bool {
    path.split('/').any(|part| part.starts_with('.'))
}

/// The path below the watched directory, with `/` between.
fn relative(path: &Path, roots: &[PathBuf]) -> Option<String> {
    let below = roots.iter().find_map(|root| path.strip_prefix(root).ok())?;
    below.to_str().map(str::to_owned).filter(|p| !p.is_empty())
}
