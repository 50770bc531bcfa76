//! Edge. Watches the kinds of an API server and hands on each object that came, changed or went, as a file of a
//! directory would be: under the path `Kind/namespace/name`, for the same reader and the same last good state.
//!
//! ```text
//! kube-runtime, one watcher a kind → reduce (what is used) → kinds (Pure: what is listed, gone, at fault) ⇒ FileChange
//! ```
//! A stream with no task of its own. What is listed again is compared with what was known: only what the complete list
//! does not have is gone. Whatever fails is tried again, and takes nothing away.

mod connect;
mod kinds;
mod ledger;
mod reduce;
mod standing;
pub mod statuses;

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::stream::{ReadyChunks, SelectAll};
use futures::{Stream, StreamExt as _};
use kube::api::{ApiResource, DynamicObject};
use kube::runtime::utils::{Backoff, ResetTimerBackoff};
use kube::runtime::watcher;
use kube::runtime::{WatchStreamExt as _, watcher::Event};
use kube::{Api, Client};

use crate::object::{Kind, Scope};
pub use connect::{ConnectError, Connected, connect, reach, said};
use kinds::Step;
pub use kinds::{Counts, Kinds, Watched};
pub use standing::Standing;

/// The objects of one page of a list. A page is held in memory whole, before it is reduced.
const PAGE: u32 = 500;
/// Likewise of kinds whose objects may be as large as the API server's store takes, and are made by whoever has a namespace.
const CUSTOM_PAGE: u32 = 50;
/// The events that are taken together, so that a rollout is few revisions and a flood keeps nobody from being heard.
const TOGETHER: usize = 256;
/// How long a watch lasts before it is asked for again, in seconds. A connection that died without a word is noticed
/// within this and five more.
const WATCH_SECONDS: u32 = 60;
/// How long the API server may say nothing while it answers: more than a watch lasts.
const READ_WITHIN: Duration = Duration::from_secs(75);
/// How long a connection may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// The first pause after a failure, doubled with each to [`PAUSE_MAX`]: a kind whose definition appears is watched within
/// that, and an API server that is back is heard within it.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(3);

/// How a kind is listed and watched, everywhere: a page at a time, and asked for again before a client of [`connect`] takes
/// silence for the end of its connection.
#[must_use]
pub fn watch_config() -> watcher::Config {
    watcher::Config::default().page_size(PAGE).timeout(WATCH_SECONDS)
}

/// Likewise of a kind that is not Kubernetes' own: in smaller pages.
#[must_use]
pub fn custom_watch_config() -> watcher::Config {
    watch_config().page_size(CUSTOM_PAGE)
}

/// How long nothing fails before pauses are short again.
const WELL_AFTER: Duration = Duration::from_secs(10);

/// Pauses that double.
#[derive(Debug)]
struct Pauses(Duration);

impl Iterator for Pauses {
    type Item = Duration;
    fn next(&mut self) -> Option<Duration> {
        let pause = self.0;
        self.0 = (pause * 2).min(PAUSE_MAX);
        Some(pause)
    }
}
impl Backoff for Pauses {
    fn reset(&mut self) {
        self.0 = PAUSE_MIN;
    }
}

/// Pauses that are short again once nothing has failed for [`WELL_AFTER`]. Each try begins with a word of the watcher
/// itself, which is no sign that anything is well: only time is. A kind that is missing would else be asked for ten times
/// a second.
pub struct Steady(ResetTimerBackoff<Pauses>);

impl std::fmt::Debug for Steady {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Steady").finish_non_exhaustive()
    }
}

impl Default for Steady {
    fn default() -> Self {
        Self(ResetTimerBackoff::new(Pauses(PAUSE_MIN), WELL_AFTER))
    }
}
impl Iterator for Steady {
    type Item = Duration;
    fn next(&mut self) -> Option<Duration> {
        self.0.next()
    }
}
impl Backoff for Steady {
    fn reset(&mut self) {}
}

type Events = Pin<Box<dyn Stream<Item = (Kind, Result<Event<DynamicObject>, watcher::Error>)> + Send>>;

/// What is watched, and how far.
pub struct ApiServer {
    events: ReadyChunks<SelectAll<Events>>,
    kinds: Kinds,
}

impl std::fmt::Debug for ApiServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiServer").field("kinds", &self.kinds).finish_non_exhaustive()
    }
}

/// Which objects are watched.
#[derive(Debug, Clone)]
pub struct Selection {
    /// [`Scope::Member`]: all kinds, in all namespaces. [`Scope::Hub`]: the fleet's.
    pub scope: Scope,
    /// [`Scope::Hub`]: the namespace of the fleet's policies, and no other is watched. [`Scope::Member`]: the same
    /// namespace, whose policies are passed over.
    pub fleet_namespace: Option<Arc<str>>,
}

impl ApiServer {
    /// Begins with the paths that were known before a restart: those that the first complete list does not have are gone.
    #[must_use]
    pub fn new(client: &Client, selection: &Selection, known: impl IntoIterator<Item = Arc<str>>) -> Self {
        let fleet = selection.scope.is_fleet();
        let wanted = |kind: &Kind| !fleet || matches!(kind, Kind::FailoverPolicy | Kind::ExportPolicy | Kind::Mesh);
        let kinds: Vec<Kind> = Kind::ALL.into_iter().filter(wanted).collect();
        let all = kinds.iter().map(|kind| {
            let resource = resource_of(*kind);
            let namespace = selection.fleet_namespace.as_deref().filter(|_| fleet && !kind.is_cluster_scoped());
            let api: Api<DynamicObject> = match namespace {
                Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
                None => Api::all_with(client.clone(), &resource),
            };
            let kind = *kind;
            let config = if kind.is_custom() { custom_watch_config() } else { watch_config() };
            let events = watcher(api, config).backoff(Steady::default());
            Box::pin(events.map(move |event| (kind, event))) as Events
        });
        let events = futures::stream::select_all(all).ready_chunks(TOGETHER);
        Self { events, kinds: Kinds::new(selection.clone(), kinds, known) }
    }

    /// Waits for what comes next, and takes it. Nothing is lost when the future is dropped before it is ready.
    ///
    /// `now` is asked once something came.
    pub async fn next(&mut self, now: impl FnOnce() -> Instant) -> Vec<crate::FileChange> {
        // Watchers never end.
        let events = self.events.next().await.unwrap_or_default();
        let now = now();
        let mut changes = Vec::new();
        for (kind, event) in events {
            let step = match event {
                Ok(Event::Init) => Step::Begin,
                Ok(Event::InitApply(object)) => Step::Listed(object),
                Ok(Event::InitDone) => Step::Complete,
                Ok(Event::Apply(object)) => Step::Put(object),
                Ok(Event::Delete(object)) => Step::Gone(object),
                Err(error) => Step::Failed(error),
            };
            self.kinds.take(kind, step, now, &mut changes);
        }
        changes
    }

    /// What is known of each kind.
    #[must_use]
    pub fn kinds(&self) -> &Kinds {
        &self.kinds
    }
}

/// As Kubernetes names it in paths. All these are regular.
fn resource_of(kind: Kind) -> ApiResource {
    let (group, version) = kind.api_version().split_once('/').unwrap_or_else(|| ("", kind.api_version()));
    let lower = kind.as_str().to_ascii_lowercase();
    let plural = match kind {
        Kind::WorkloadEntry | Kind::ExportPolicy | Kind::FailoverPolicy => {
            format!("{}ies", lower.strip_suffix('y').unwrap_or(&lower))
        }
        Kind::Mesh => format!("{lower}es"),
        Kind::Namespace
        | Kind::Service
        | Kind::ServiceExport
        | Kind::EndpointSlice
        | Kind::Pod
        | Kind::Node
        | Kind::PeerAuthentication => format!("{lower}s"),
    };
    ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version: kind.api_version().to_owned(),
        kind: kind.as_str().to_owned(),
        plural,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mutation seen to fail: `reset` of `Steady` hands on to `ResetTimerBackoff` (ten tries a second for each kind that is
    /// missing).
    #[test]
    fn a_try_that_begins_is_no_reason_to_hurry() {
        let mut pauses = Steady::default();
        let mut all = Vec::new();
        for _ in 0..8 {
            all.extend(pauses.next());
            pauses.reset();
        }
        assert_eq!((all.first(), all.last()), (Some(&PAUSE_MIN), Some(&PAUSE_MAX)), "{all:?}");
    }

    /// Mutation seen to fail: `Kind::Mesh` given one `s` alone.
    #[test]
    fn every_kind_has_the_plural_of_its_definition() {
        let plurals: Vec<String> = Kind::ALL.into_iter().map(|kind| resource_of(kind).plural).collect();
        assert_eq!(
            plurals,
            [
                "namespaces",
                "services",
                "workloadentries",
                "serviceexports",
                "exportpolicies",
                "failoverpolicies",
                "endpointslices",
                "pods",
                "nodes",
                "peerauthentications",
                "meshes"
            ]
        );
        assert_eq!(resource_of(Kind::Pod).group, "");
        assert_eq!(
            (&*resource_of(Kind::Mesh).group, &*resource_of(Kind::Mesh).version),
            ("federation.meshfed.io", "v1alpha1")
        );
    }
}
