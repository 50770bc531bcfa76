//! Edge. Writes what the statuses of our kinds say: watches the objects, asks a [`Judge`] about each, and applies what
//! differs, at the pace of whoever runs it. A spec is never written.
//!
//! ```text
//! watches → ledger (Pure: which objects, whose turn is it) → Judge → policy_status (Pure) ⇒ server-side apply
//! ```

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{FuturesUnordered, SelectAll};
use futures::{FutureExt as _, Stream, StreamExt as _};
use k8s_openapi::jiff::Timestamp;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client};
use serde_json::json;

use super::ledger::{Key, Ledger};
use super::reduce::reduce;
use super::{Steady, custom_watch_config, resource_of};
use crate::custom::verdict::{Force, Verdict, policy_status};
use crate::custom::{PolicyStatus, say_the_same};
use crate::error::ObjectError;
use crate::object::{Kind, Object, ObjectKey, Scope};
use crate::read::read_object;

/// Writes that are on their way at a time.
const AT_ONCE: usize = 8;
/// How often a full pace is asked again.
const REFILL: Duration = Duration::from_millis(20);
/// How long nothing is written after a write that failed.
const PAUSE: Duration = Duration::from_secs(1);
/// How long the API server has for one write.
const PATIENCE: Duration = Duration::from_secs(10);

/// Says what is known of objects.
pub trait Judge: Send + 'static {
    /// None: the object is somebody else's to judge, and nothing is written. Objects are given by the number of their kind
    /// among those that are watched.
    fn judge(&self, kind: usize, object: &DynamicObject) -> Option<Verdict>;
    /// Comes back when verdicts may be others than before; it may be dropped and asked for again.
    fn news(&mut self) -> impl Future<Output = ()> + Send;
}

/// One kind that is watched.
#[derive(Debug, Clone)]
pub struct Watched {
    /// As Kubernetes names it.
    pub resource: ApiResource,
    /// Only in this namespace; none: in all of them, or a kind without namespaces.
    pub namespace: Option<String>,
}

impl Watched {
    /// One of the kinds that sources read.
    #[must_use]
    pub fn of(kind: Kind, namespace: Option<&str>) -> Self {
        Self { resource: resource_of(kind), namespace: namespace.map(str::to_owned) }
    }
}

/// Reads an object as a source does: what it says, unless it is refused, and its faults.
#[must_use]
pub fn read(kind: Kind, object: DynamicObject, scope: Scope) -> Option<(Option<Arc<Object>>, Vec<ObjectError>)> {
    match read_object(&Arc::from(""), reduce(kind, object), scope, None) {
        Err(fault) => Some((None, vec![*fault])),
        Ok(found) => match found.declared.into_values().next() {
            Some(declared) => Some((declared.object, found.errors)),
            None if found.errors.is_empty() => None,
            None => Some((None, found.errors)),
        },
    }
}

/// Kind, namespace and name of an object.
#[must_use]
pub fn key(kind: Kind, object: &DynamicObject) -> ObjectKey {
    let text = |part: &Option<String>| Arc::from(part.as_deref().unwrap_or_default());
    ObjectKey { kind, namespace: text(&object.metadata.namespace), name: text(&object.metadata.name) }
}

/// Whether what was read is what stands.
#[must_use]
pub fn force(read: Option<&Object>, standing: Option<&Object>) -> Force {
    match (read, standing) {
        (Some(read), Some(standing)) if read.body == standing.body => Force::InForce,
        (Some(_), _) => Force::Pending,
        (None, Some(_)) => Force::Earlier,
        (None, None) => Force::Nothing,
    }
}

/// Who writes, and how fast.
pub struct Means {
    /// The client.
    pub client: Client,
    /// The field manager.
    pub manager: &'static str,
    /// The wall clock, for transitions.
    pub now: fn() -> Timestamp,
    /// Takes one write from the pace, if there is one.
    pub permit: Box<dyn FnMut() -> bool + Send>,
    /// Whether this one writes; another replica does otherwise.
    pub leads: Box<dyn Fn() -> bool + Send>,
    /// Hears, once while it stays the same, what fails.
    pub tell: fn(&str),
}

type Events = Pin<Box<dyn Stream<Item = (usize, watcher::Result<Event<DynamicObject>>)> + Send>>;
type Write = Pin<Box<dyn Future<Output = (Key, Written)> + Send>>;
type Writes = FuturesUnordered<Write>;
/// The object as it was written; none: it is gone, or another one has its name.
type Written = Result<Option<DynamicObject>, String>;

/// Runs until it is dropped.
pub async fn run(watched: Vec<Watched>, mut judge: impl Judge, mut means: Means) {
    let mut events = watches(&watched, &means.client);
    let mut ledger = Ledger::default();
    let mut writes = Writes::new();
    let mut told: BTreeSet<String> = BTreeSet::new();
    let mut pause: Option<Duration> = None;
    loop {
        let wait = match pause {
            Some(pause) => Some(pause),
            None if writes.len() >= AT_ONCE || !ledger.has_next() => None,
            None => Some(Duration::ZERO),
        };
        let turn = async {
            match wait {
                Some(Duration::ZERO) => {}
                Some(pause) => tokio::time::sleep(pause).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            event = events.next() => match event {
                Some((kind, Ok(event))) => ledger.take(kind, event),
                Some((kind, Err(error))) => {
                    let name = watched.get(kind).map_or("objects", |w| w.resource.kind.as_str());
                    tell(&mut told, &means, format!("{name} cannot be watched for their statuses: {error}"));
                }
                None => return,
            },
            () = judge.news() => ledger.all_again(),
            Some((key, written)) = writes.next(), if !writes.is_empty() => match written {
                Ok(object) => {
                    told.clear();
                    ledger.written(&key, object);
                }
                Err(error) => {
                    tell(&mut told, &means, format!("a status is not written: {error}"));
                    ledger.failed(&key);
                    pause = Some(PAUSE);
                }
            },
            () = turn => {
                pause = None;
                if !(means.leads)() {
                    pause = Some(PAUSE);
                } else if (means.permit)() {
                    if let Some(write) = next(&watched, &judge, &means, &mut ledger) {
                        writes.push(write);
                    }
                } else {
                    pause = Some(REFILL);
                }
            }
        }
    }
}

fn tell(told: &mut BTreeSet<String>, means: &Means, text: String) {
    if !told.contains(&text) {
        (means.tell)(&text);
        // A server that says something else each time is told of once each while nothing is written.
        if told.len() < AT_ONCE {
            told.insert(text);
        }
    }
}

fn watches(watched: &[Watched], client: &Client) -> SelectAll<Events> {
    let all = watched.iter().enumerate().map(|(kind, watched)| {
        let events = watcher::watcher(api(client, watched, watched.namespace.as_deref()), custom_watch_config());
        events.backoff(Steady::default()).map(move |event| (kind, event)).boxed()
    });
    futures::stream::select_all(all)
}

fn api(client: &Client, watched: &Watched, namespace: Option<&str>) -> Api<DynamicObject> {
    match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &watched.resource),
        None => Api::all_with(client.clone(), &watched.resource),
    }
}

/// The write of the next object whose status is to say something else, if there is one.
fn next(watched: &[Watched], judge: &impl Judge, means: &Means, ledger: &mut Ledger) -> Option<Write> {
    loop {
        let (key, object) = ledger.next()?;
        let of = watched.get(key.kind)?;
        let Some(verdict) = judge.judge(key.kind, object) else { continue };
        let found: Option<PolicyStatus> =
            object.data.get("status").and_then(|status| serde_json::from_value(status.clone()).ok());
        let generation = object.metadata.generation.unwrap_or_default();
        let status = policy_status(&found.clone().unwrap_or_default(), generation, &verdict, (means.now)());
        let same = found.is_some_and(|found| {
            found.observed_generation == generation && say_the_same(&found.conditions, &status.conditions)
        });
        if same {
            continue;
        }
        let body = json!({
            "apiVersion": of.resource.api_version,
            "kind": of.resource.kind,
            "metadata": {"name": key.name, "namespace": object.metadata.namespace, "uid": object.metadata.uid},
            "status": status,
        });
        ledger.writing(&key);
        let api = api(&means.client, of, key.namespace.as_deref());
        let params = PatchParams::apply(means.manager).force();
        return Some(
            async move {
                let write = async { api.patch_status(&key.name, &params, &Patch::Apply(&body)).await };
                let timer = tokio::time::timeout(PATIENCE, write).await;
                let written = match timer {
                    Ok(Ok(object)) => Ok(Some(object)),
                    // It was deleted, or made again, since: the watch tells.
                    Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => Ok(None),
                    Ok(Err(error)) => Err(error.to_string()),
                    Err(_elapsed) => Err("the API server does not answer".to_owned()),
                };
                (key, written)
            }
            .boxed(),
        );
    }
}
