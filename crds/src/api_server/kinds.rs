//! Pure. What is known of each kind: which objects, whether its first list is complete, and what is wrong with it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::api::DynamicObject;
use kube::runtime::watcher;

use super::Selection;
use super::reduce::reduce;
use crate::error::{Code, ObjectError};
use crate::last_good::FileChange;
use crate::object::{Kind, Scope};

/// How long a failed watch is told of unless it fails again: that it goes on nobody says.
const TOLD_FOR: Duration = Duration::from_secs(15);

/// How long a kind has to be forbidden before nobody waits for it any more. An API server that has just started forbids
/// everything until it has read its roles, and a part of a cluster is nothing to begin with.
const FORBIDDEN_FOR: Duration = Duration::from_secs(30);

/// One thing that a watcher says.
#[derive(Debug)]
pub(super) enum Step {
    /// A list begins.
    Begin,
    /// An object of the list.
    Listed(DynamicObject),
    /// The list is complete.
    Complete,
    /// An object came or changed.
    Put(DynamicObject),
    /// An object is gone.
    Gone(DynamicObject),
    /// Something failed; it is tried again.
    Failed(watcher::Error),
}

/// What has happened with a kind, for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// How many of its objects are known.
    pub objects: usize,
    /// How often it was listed to the end; the first time counts.
    pub lists: u64,
    /// How often a list or a watch failed.
    pub errors: u64,
    /// When it was last heard of.
    pub last_event: Option<Instant>,
}

/// Why nothing is heard of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lack {
    /// The API server has no such kind.
    Missing,
    /// It may not be read.
    Forbidden,
    /// Its list failed.
    List,
    /// Its watch failed; what was listed stands.
    Watch,
}

/// One kind.
#[derive(Debug, Default)]
pub struct Watched {
    known: BTreeSet<Arc<str>>,
    listing: Option<BTreeSet<Arc<str>>>,
    complete: bool,
    fault: Option<Fault>,
    counts: Counts,
}

/// What is wrong with a kind.
#[derive(Debug)]
struct Fault {
    lack: Lack,
    why: String,
    /// When the same was said for the first time, and the last.
    first: Instant,
    last: Instant,
}

impl Watched {
    /// Whether nobody waits for it: its first list is complete, or the API server has said that there is none to have.
    #[must_use]
    pub fn is_settled(&self, now: Instant) -> bool {
        let given_up = |fault: &Fault| match fault.lack {
            Lack::Missing => true,
            Lack::Forbidden => now.saturating_duration_since(fault.first) >= FORBIDDEN_FOR,
            Lack::List | Lack::Watch => false,
        };
        self.complete || self.fault.as_ref().is_some_and(given_up)
    }
    /// Whether the API server has given an answer: a complete list, or that there is none to have or none to be read. For who
    /// asks once; who stays asks [`Self::is_settled`].
    #[must_use]
    pub fn is_answered(&self) -> bool {
        self.complete || self.fault.as_ref().is_some_and(|f| matches!(f.lack, Lack::Missing | Lack::Forbidden))
    }
    /// Whether the API server has said that it serves no such kind.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        self.fault.as_ref().is_some_and(|fault| fault.lack == Lack::Missing)
    }
    /// What has happened.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts { objects: self.known.len(), ..self.counts }
    }
}

/// All kinds.
#[derive(Debug)]
pub struct Kinds {
    selection: Selection,
    all: BTreeMap<Kind, Watched>,
}

impl Kinds {
    pub(super) fn new(
        selection: Selection,
        kinds: impl IntoIterator<Item = Kind>,
        known: impl IntoIterator<Item = Arc<str>>,
    ) -> Self {
        let mut all: BTreeMap<Kind, Watched> = kinds.into_iter().map(|kind| (kind, Watched::default())).collect();
        for path in known {
            let of = path.split('/').next().unwrap_or_default();
            if let Some((_, watched)) = all.iter_mut().find(|(kind, _)| kind.as_str() == of) {
                watched.known.insert(path);
            }
        }
        Self { selection, all }
    }

    /// What is known of each kind.
    pub fn iter(&self) -> impl Iterator<Item = (Kind, &Watched)> {
        self.all.iter().map(|(kind, watched)| (*kind, watched))
    }

    /// Whether no kind is waited for any more.
    #[must_use]
    pub fn is_settled(&self, now: Instant) -> bool {
        self.all.values().all(|watched| watched.is_settled(now))
    }

    /// What is wrong with kinds as a whole. Their objects stay.
    #[must_use]
    pub fn faults(&self, now: Instant) -> Vec<ObjectError> {
        let of = |(kind, watched): (&Kind, &Watched)| {
            let Fault { lack, why, last, .. } = watched.fault.as_ref()?;
            let expired = *lack == Lack::Watch && now.saturating_duration_since(*last) >= TOLD_FOR;
            (!expired).then(|| fault(*kind, *lack, why))
        };
        self.all.iter().filter_map(of).collect()
    }

    pub(super) fn take(&mut self, kind: Kind, step: Step, now: Instant, changes: &mut Vec<FileChange>) {
        let passed_over = |object: &DynamicObject| is_fleets(&self.selection, kind, object);
        let Some(watched) = self.all.get_mut(&kind) else { return };
        match step {
            Step::Failed(error) => {
                watched.counts.errors += 1;
                let lack = lack_of(&error);
                let first = watched.fault.as_ref().filter(|f| f.lack == lack).map_or(now, |f| f.first);
                watched.fault = Some(Fault { lack, why: text_of(&error), first, last: now });
                return;
            }
            Step::Begin => {
                watched.listing = Some(BTreeSet::new());
                // Nobody has answered yet.
                return;
            }
            Step::Listed(object) | Step::Put(object) if passed_over(&object) => {}
            Step::Listed(object) if is_ending(kind, &object) => {}
            Step::Listed(object) => {
                let path = path_of(kind, &object);
                if let Some(listing) = &mut watched.listing {
                    listing.insert(Arc::clone(&path));
                }
                put(watched, path, kind, object, changes);
            }
            Step::Put(object) if !is_ending(kind, &object) => {
                put(watched, path_of(kind, &object), kind, object, changes);
            }
            Step::Put(object) | Step::Gone(object) => {
                let path = path_of(kind, &object);
                if watched.known.remove(&path) {
                    changes.push(FileChange::Removed { path });
                }
            }
            Step::Complete => {
                watched.counts.lists += 1;
                watched.complete = true;
                if let Some(listed) = watched.listing.take() {
                    let gone = watched.known.difference(&listed).map(Arc::clone);
                    changes.extend(gone.map(|path| FileChange::Removed { path }));
                    watched.known = listed;
                }
            }
        }
        watched.fault = None;
        watched.counts.last_event = Some(now);
    }
}

fn put(watched: &mut Watched, path: Arc<str>, kind: Kind, object: DynamicObject, changes: &mut Vec<FileChange>) {
    // One text for each path: whoever has it already shares it.
    let path = watched.known.get(&path).map(Arc::clone).unwrap_or(path);
    watched.known.insert(Arc::clone(&path));
    changes.push(FileChange::Object { path, object: reduce(kind, object) });
}

fn path_of(kind: Kind, object: &DynamicObject) -> Arc<str> {
    let name = object.metadata.name.as_deref().unwrap_or_default();
    match object.metadata.namespace.as_deref() {
        Some(namespace) => format!("{kind}/{namespace}/{name}").into(),
        None => format!("{kind}/{name}").into(),
    }
}

/// A policy of the fleet, on the API server of a member that is the hub's cluster, too.
fn is_fleets(selection: &Selection, kind: Kind, object: &DynamicObject) -> bool {
    selection.scope == Scope::Member
        && matches!(kind, Kind::FailoverPolicy | Kind::ExportPolicy)
        && selection.fleet_namespace.is_some()
        && object.metadata.namespace.as_deref() == selection.fleet_namespace.as_deref()
}

/// An export that is being deleted exports nothing any more, whatever finalizer holds the object: who deleted it has said so. A
/// Service that is being deleted stays until it is gone, as its endpoints do in Kubernetes.
fn is_ending(kind: Kind, object: &DynamicObject) -> bool {
    kind == Kind::ServiceExport && object.metadata.deletion_timestamp.is_some()
}

fn lack_of(error: &watcher::Error) -> Lack {
    let list = |error: &kube::Error, other| {
        let kube::Error::Api(status) = error else { return other };
        match status.code {
            404 => Lack::Missing,
            403 => Lack::Forbidden,
            _ => other,
        }
    };
    match error {
        watcher::Error::InitialListFailed(error) => list(error, Lack::List),
        watcher::Error::WatchStartFailed(error) | watcher::Error::WatchFailed(error) => list(error, Lack::Watch),
        watcher::Error::WatchError(status) if status.code == 403 => Lack::Forbidden,
        watcher::Error::WatchError(_) | watcher::Error::NoResourceVersion => Lack::Watch,
    }
}

/// The chain of causes in one line.
fn text_of(error: &watcher::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text.chars().take(1000).collect()
}

fn fault(kind: Kind, lack: Lack, why: &str) -> ObjectError {
    let api_version = kind.api_version();
    let (message, remedy) = match lack {
        Lack::Missing => (
            format!("the API server has no kind {kind} ({api_version})"),
            "install the chart meshfed-crds; the kind is read as soon as it is there, and everything else goes on",
        ),
        Lack::Forbidden => (
            format!("{kind} ({api_version}) may not be listed and watched: {why}"),
            "give the service account the permissions of the chart; until then the last good objects stay",
        ),
        Lack::List => (
            format!("{kind} ({api_version}) cannot be listed: {why}"),
            "nothing to do if the API server is back soon; until then the last good objects stay",
        ),
        Lack::Watch => (
            format!("the watch of {kind} ({api_version}) failed and is tried again: {why}"),
            "nothing to do if the API server is back soon; until then the last good objects stay",
        ),
    };
    let mut error = ObjectError::new(Code::Unwatched, message).remedy(remedy);
    error.kind = Some(kind.as_str().to_owned());
    error
}

#[cfg(test)]
mod tests;
