//! Edge. ConfigMap `meshfed-trust`: the cluster's anchors, by which injected proxies verify the agent, in the release
//! namespace and in every namespace with injection. A pod that mounts it is admitted only once it is there; where the pod's
//! own label asks, and not its namespace's, the pod is admitted first: nothing is written for what is not there, as
//! whoever reaches the webhook's port may say that it is.

mod foreign;
mod wanted;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::TryStreamExt as _;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use kube::core::PartialObjectMeta;
use kube::runtime::events::Recorder;
use kube::runtime::{WatchStreamExt as _, watcher};
use meshfed_crds::api_server::{Steady, said, watch_config};
use meshfed_runtime::drain::Watch;
use meshfed_runtime::{clock, telemetry};
use serde_json::json;
use tokio::sync::watch;

use crate::inject::{InjectConfig, LABEL, TRUST};
use wanted::{Wanted, is_injected};

/// The key of the anchors.
pub const KEY: &str = "anchors.pem";
/// How long one that was written counts as written: somebody may have changed or deleted it meanwhile.
const FRESH: Duration = Duration::from_secs(30);
/// How often all are written again.
const AGAIN: Duration = Duration::from_secs(60);
/// Time for one write.
const DEADLINE: Duration = Duration::from_secs(3);
/// The pause between two namespaces that are asked for what they had before this agent began.
const ASK: Duration = Duration::from_millis(100);
/// Pods of one page of a list.
const PAGE: u32 = 500;
/// Namespaces remembered; over it, all are forgotten, and written again.
const KNOWN_MAX: usize = 20_000;

/// Why it is not there.
#[derive(Debug, thiserror::Error)]
pub enum TrustMapError {
    /// There are no anchors yet.
    #[error(
        "this cluster has not joined; run 'meshfed join https://HUB --token-file FILE --kube', \
         and pods are admitted by themselves"
    )]
    NotJoined,
    /// The API server refused it, or is away.
    #[error(
        "ConfigMap {TRUST} could not be written in namespace {0}: {said}; where it is somebody else's, delete or rename it",
        said = said(.1)
    )]
    Write(String, Box<kube::Error>),
    /// In time.
    #[error("ConfigMap {TRUST} was not written in namespace {0} within {seconds} s", seconds = DEADLINE.as_secs())]
    Late(String),
}

/// Anchors as PEM; none before the cluster has joined.
pub type Anchors = watch::Receiver<Option<Arc<str>>>;

#[derive(Debug, Clone)]
struct Written {
    uid: String,
    anchors: Arc<str>,
    at: Instant,
}

/// The writer.
#[derive(Clone)]
pub struct TrustMap {
    client: kube::Client,
    anchors: Anchors,
    recorder: Recorder,
    known: Arc<Mutex<BTreeMap<String, Written>>>,
}

impl std::fmt::Debug for TrustMap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TrustMap").finish_non_exhaustive()
    }
}

impl TrustMap {
    /// A writer of these anchors.
    #[must_use]
    pub fn new(client: kube::Client, anchors: Anchors) -> Self {
        Self { recorder: foreign::recorder(client.clone()), client, anchors, known: Arc::default() }
    }

    /// The anchors.
    ///
    /// # Errors
    /// [`TrustMapError::NotJoined`].
    pub fn joined(&self) -> Result<Arc<str>, TrustMapError> {
        self.anchors.borrow().clone().ok_or(TrustMapError::NotJoined)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Written>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has it in a namespace, which has this uid; costs nothing where it was written a moment ago.
    ///
    /// # Errors
    /// [`TrustMapError`].
    pub async fn ensure(&self, namespace: &str, uid: &str) -> Result<(), TrustMapError> {
        let anchors = self.joined()?;
        let is_fresh = |w: &Written| w.uid == uid && w.anchors == anchors && clock::instant() - w.at < FRESH;
        if self.known().get(namespace).is_some_and(is_fresh) {
            return Ok(());
        }
        self.write(namespace, uid, anchors).await
    }

    /// Writes it. One that somebody has made immutable cannot be written, and would keep anchors that are not the cluster's
    /// any more: it is made anew.
    async fn write(&self, namespace: &str, uid: &str, anchors: Arc<str>) -> Result<(), TrustMapError> {
        let at = clock::instant();
        match self.apply(namespace, &anchors).await {
            Err(TrustMapError::Write(_, error)) if is_invalid(&error) => {
                self.delete(namespace).await?;
                self.apply(namespace, &anchors).await?;
            }
            written => written?,
        }
        let mut known = self.known();
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        known.insert(namespace.to_owned(), Written { uid: uid.to_owned(), anchors, at });
        Ok(())
    }

    async fn delete(&self, namespace: &str) -> Result<(), TrustMapError> {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
        in_time(namespace, api.delete(TRUST, &DeleteParams::default())).await
    }

    async fn apply(&self, namespace: &str, anchors: &str) -> Result<(), TrustMapError> {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
        let object = json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": { "name": TRUST, "labels": { "app.kubernetes.io/managed-by": "meshfed" } },
            "data": { KEY: anchors },
        });
        // By force: who changes the anchors decides whom the proxies of the namespace take for their agent.
        let params = PatchParams::apply("meshfed-agent").force();
        in_time(namespace, api.patch(TRUST, &params, &Patch::Apply(object))).await
    }

    /// Has it in the release namespace and in every namespace with injected pods, where there is one, until the drain; and
    /// takes it away where nobody needs it any more.
    ///
    /// # Errors
    /// Never.
    pub async fn keep(
        self,
        release: String,
        config: Option<Arc<InjectConfig>>,
        drain: Watch,
    ) -> Result<(), std::convert::Infallible> {
        tokio::select! {
            () = drain.signaled() => {}
            () = self.follow(release, config) => {}
        }
        Ok(())
    }

    async fn follow(self, release: String, config: Option<Arc<InjectConfig>>) {
        let api: Api<PartialObjectMeta<Namespace>> = Api::all(self.client.clone());
        let namespaces = watcher(api, watch_config()).backoff(Steady::default()).applied_objects();
        let mut namespaces = std::pin::pin!(namespaces);
        let api: Api<PartialObjectMeta<Pod>> = Api::all(self.client.clone());
        let by_label = watch_config().labels(&format!("{LABEL}=enabled"));
        let mut pods = std::pin::pin!(watcher(api, by_label).backoff(Steady::default()));
        let mut wanted = Wanted::new(release);
        let mut anchors = self.anchors.clone();
        let mut again = tokio::time::interval(AGAIN);
        let mut ask = tokio::time::interval(ASK);
        ask.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut answered = true;
        let mut looked: Vec<String> = Vec::new();
        let unseen = |what: &str, error: &watcher::Error| {
            tracing::warn!(reason = telemetry::chain(error), "trust map: {what} are not seen; trying again");
        };
        loop {
            let due: Vec<(String, String)> = tokio::select! {
                found = namespaces.try_next() => match found {
                    Ok(found) => found.and_then(|n| wanted.namespace(&n, config.as_deref())).into_iter().collect(),
                    Err(error) => {
                        unseen("namespaces", &error);
                        Vec::new()
                    }
                },
                found = pods.try_next() => match found {
                    Ok(found) => {
                        let new = found.and_then(|event| wanted.pod(event));
                        // Its pod waits for it, whatever was written into a namespace of that name before.
                        new.iter().for_each(|namespace| drop(self.known().remove(namespace)));
                        new.into_iter().map(|namespace| (namespace, String::new())).collect()
                    }
                    Err(error) => {
                        unseen("pods", &error);
                        Vec::new()
                    }
                },
                changed = anchors.changed() => match changed {
                    Ok(()) => wanted.all(),
                    // Who knows them has ended, and the process with it.
                    Err(_ended) => return,
                },
                _tick = ask.tick(), if answered && wanted.asks() => {
                    answered = self.ask(&mut wanted).await;
                    Vec::new()
                }
                _tick = again.tick() => {
                    looked.clear();
                    answered = true;
                    wanted.all()
                }
            };
            self.ensure_all(due, &mut wanted).await;
            let parting = wanted.parting();
            for namespace in parting.iter().filter(|namespace| !looked.contains(namespace)) {
                match self.part(namespace).await {
                    Ok(true) => wanted.forget(namespace),
                    Ok(false) => {}
                    Err(error) => tracing::warn!(reason = telemetry::chain(&error), "trust map: trying again"),
                }
            }
            looked = parting;
        }
    }

    /// Brings it into namespaces, each with its uid.
    async fn ensure_all(&self, due: Vec<(String, String)>, wanted: &mut Wanted) {
        for (namespace, uid) in due {
            match self.ensure(&namespace, &uid).await {
                Ok(()) | Err(TrustMapError::NotJoined) => {}
                // Its end was not seen. Should it be there all the same, the next list says so.
                Err(TrustMapError::Write(_, error)) if is_code(&error, 404) => wanted.forget(&namespace),
                Err(error) => {
                    tracing::warn!(reason = telemetry::chain(&error), "trust map: trying again");
                    self.tell_if_foreign(&namespace).await;
                }
            }
        }
    }

    /// Asks a namespace that is not wanted whether it has it from a time when no agent ran; false: it has not answered. By name,
    /// one after the other: the agent may not list what others have.
    async fn ask(&self, wanted: &mut Wanted) -> bool {
        let Some(namespace) = wanted.ask() else { return true };
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), &namespace);
        match tokio::time::timeout(DEADLINE, api.get_metadata_opt(TRUST)).await {
            Ok(Ok(found)) => {
                if found.is_some_and(|map| is_ours(&map)) {
                    wanted.has(&namespace);
                }
                true
            }
            Ok(Err(error)) => {
                tracing::debug!(
                    namespace,
                    reason = telemetry::chain(&error),
                    "trust map: not known yet who had it before"
                );
                wanted.ask_again(namespace);
                false
            }
            Err(_elapsed) => {
                wanted.ask_again(namespace);
                false
            }
        }
    }

    /// Takes it out of a namespace where no pod reads it any more; whether it is gone. It is kept up to date until then.
    async fn part(&self, namespace: &str) -> Result<bool, TrustMapError> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let mut page = ListParams::default().limit(PAGE);
        loop {
            let listed = tokio::time::timeout(DEADLINE, api.list_metadata(&page)).await;
            let listed = listed.map_err(|_elapsed| TrustMapError::Late(namespace.to_owned()))?;
            let listed = listed.map_err(|e| TrustMapError::Write(namespace.to_owned(), Box::new(e)))?;
            if listed.items.iter().any(is_injected) {
                return match self.ensure(namespace, "").await {
                    Ok(()) | Err(TrustMapError::NotJoined) => Ok(false),
                    Err(error) => Err(error),
                };
            }
            match listed.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => page.continue_token = Some(token),
                None => break,
            }
        }
        self.known().remove(namespace);
        match self.delete(namespace).await {
            Err(TrustMapError::Write(_, error)) if is_code(&error, 404) => Ok(true),
            deleted => deleted.map(|()| true),
        }
    }
}

/// Whether it is the agent's: anybody may have a ConfigMap of this name.
fn is_ours(map: &PartialObjectMeta<ConfigMap>) -> bool {
    let label = map.metadata.labels.as_ref().and_then(|labels| labels.get("app.kubernetes.io/managed-by"));
    label.is_some_and(|by| by == "meshfed")
}

async fn in_time<T>(namespace: &str, request: impl Future<Output = kube::Result<T>>) -> Result<(), TrustMapError> {
    let done = tokio::time::timeout(DEADLINE, request).await;
    let done = done.map_err(|_elapsed| TrustMapError::Late(namespace.to_owned()))?;
    done.map(drop).map_err(|e| TrustMapError::Write(namespace.to_owned(), Box::new(e)))
}

fn is_code(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

/// Whether the object itself is in the way (HTTP 422).
fn is_invalid(error: &kube::Error) -> bool {
    is_code(error, 422)
}
