//! Edge. ConfigMap `meshfed-trust`: the cluster's anchors, by which injected proxies verify the agent, in the release
//! namespace and in every namespace with injection. A pod that mounts it is admitted only once it is there.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::TryStreamExt as _;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use kube::core::PartialObjectMeta;
use kube::runtime::{WatchStreamExt as _, watcher};
use meshfed_crds::api_server::{Steady, watch_config};
use meshfed_runtime::drain::Watch;
use meshfed_runtime::{clock, telemetry};
use serde_json::json;
use tokio::sync::watch;

use crate::inject::{InjectConfig, LABEL, NamespaceFacts, TRUST, selected};

/// The key of the anchors.
pub const KEY: &str = "anchors.pem";
/// How long one that was written counts as written: somebody may have changed or deleted it meanwhile.
const FRESH: Duration = Duration::from_secs(30);
/// How often all are written again.
const AGAIN: Duration = Duration::from_secs(60);
/// Time for one write.
const DEADLINE: Duration = Duration::from_secs(3);
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
    #[error("ConfigMap {TRUST} could not be written in namespace {0}")]
    Write(String, #[source] Box<kube::Error>),
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
        Self { client, anchors, known: Arc::default() }
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

    /// Has it in the release namespace and in every namespace with injection, where there is one, until the drain.
    ///
    /// # Errors
    /// Never.
    pub async fn keep(
        self,
        release: String,
        config: Option<Arc<InjectConfig>>,
        drain: Watch,
    ) -> Result<(), std::convert::Infallible> {
        let api: Api<PartialObjectMeta<Namespace>> = Api::all(self.client.clone());
        let watched = watcher(api, watch_config()).backoff(Steady::default()).applied_objects();
        let mut watched = std::pin::pin!(watched);
        let mut wanted: BTreeMap<String, String> = BTreeMap::new();
        let mut anchors = self.anchors.clone();
        let mut again = tokio::time::interval(AGAIN);
        loop {
            let due: Vec<(String, String)> = tokio::select! {
                () = drain.signaled() => return Ok(()),
                found = watched.try_next() => match found {
                    Ok(Some(namespace)) => note(&mut wanted, &namespace, &release, config.as_deref()).into_iter().collect(),
                    Ok(None) => Vec::new(),
                    Err(error) => {
                        tracing::warn!(reason = telemetry::chain(&error), "trust map: namespaces are not seen; trying again");
                        Vec::new()
                    }
                },
                changed = anchors.changed() => match changed {
                    Ok(()) => wanted.clone().into_iter().collect(),
                    // Who knows them has ended, and the process with it.
                    Err(_ended) => return Ok(()),
                },
                _tick = again.tick() => wanted.clone().into_iter().collect(),
            };
            for (namespace, uid) in due {
                let ensured = tokio::select! {
                    () = drain.signaled() => return Ok(()),
                    ensured = self.ensure(&namespace, &uid) => ensured,
                };
                match ensured {
                    Ok(()) | Err(TrustMapError::NotJoined) => {}
                    // Its end was not seen. Should it be there all the same, the next list says so.
                    Err(TrustMapError::Write(_, error)) if is_code(&error, 404) => drop(wanted.remove(&namespace)),
                    Err(error) => tracing::warn!(reason = telemetry::chain(&error), "trust map: trying again"),
                }
            }
        }
    }
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

/// Remembers whether a namespace is to have it; gives it where it is.
fn note(
    wanted: &mut BTreeMap<String, String>,
    namespace: &PartialObjectMeta<Namespace>,
    release: &str,
    config: Option<&InjectConfig>,
) -> Option<(String, String)> {
    let meta = &namespace.metadata;
    let (name, uid) = (meta.name.clone()?, meta.uid.clone()?);
    let injection = meta.labels.as_ref().and_then(|l| l.get(LABEL)).cloned();
    let facts = NamespaceFacts { name: name.clone(), injection, enforce: None };
    let is_wanted = name == release || config.is_some_and(|config| selected(&facts, config));
    if !is_wanted || meta.deletion_timestamp.is_some() {
        wanted.remove(&name);
        return None;
    }
    wanted.insert(name.clone(), uid.clone());
    Some((name, uid))
}
