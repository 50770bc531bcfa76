//! Edge. Writes to the API server: server-side apply under our own field manager, at most 50 a second.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource};
use meshfed_model::names::ServiceName;
use meshfed_model::service::IpFamily;
use meshfed_runtime::clock;
use meshfed_runtime::rate::{Bucket, Rate};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Mutex;

use super::names::{CONTROLLER, FIELD_MANAGER, IMPORT_NAME, MANAGED_BY, MESHFED};
use super::objects::{ServiceExport, ServiceImport};
use super::plan::{Deleted, Obstacle, Write, is_as_wanted};
use super::store::Owned as _;

/// Writes per second, and at once.
const WRITES: Rate = Rate { per_second: 50.0, burst: 20.0 };
/// How long a full bucket is waited for before it is asked again.
const REFILL: Duration = Duration::from_millis(20);
/// How long the API server has for one request.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a write has left behind.
pub(super) enum Written {
    /// The derived Service as it is now.
    Service(Box<Service>),
    /// The import as it is now.
    Import(Box<ServiceImport>),
    /// The export as it is now.
    Export(Box<ServiceExport>),
    /// The slice as it is now.
    Slice(Box<EndpointSlice>),
    /// The object is not there any more.
    Gone,
    /// A warning was given.
    Warned,
}

/// Why something was not written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unwritten {
    /// The API server does not answer, or says that it cannot now.
    #[error("the API server is away: {0}")]
    Away(String),
    /// This write had no answer; others may have one.
    #[error("no answer within {} s", PATIENCE.as_secs())]
    NoAnswer,
    /// The object is another one than the one that was seen.
    #[error("the object has changed: {0}")]
    Stale(String),
    /// An object of somebody else has the name.
    #[error("{0} is there and not ours")]
    InTheWay(String),
    /// This cluster has no addresses of these families.
    #[error("the cluster has no addresses of these families")]
    Families(Vec<IpFamily>),
    /// The address is somebody else's.
    #[error("the address is taken")]
    AddressTaken,
    /// The API server does not take it.
    #[error("the API server refuses it: {0}")]
    Refused(String),
    /// The API server fails on this object: others may pass.
    #[error("the API server fails on it: {0}")]
    Failed(String),
}

impl Unwritten {
    /// What the status of the import says of it; `None`: nothing, it passes.
    pub(super) fn obstacle(&self) -> Option<Obstacle> {
        match self {
            Self::InTheWay(what) => Some(Obstacle {
                reason: "NameTaken",
                message: format!("{what} is not ours, and its name is needed: delete or rename it"),
            }),
            Self::Refused(said) => {
                Some(Obstacle { reason: "Refused", message: format!("the API server refuses its Service: {said}") })
            }
            Self::Failed(said) => {
                Some(Obstacle { reason: "Failed", message: format!("the API server fails on its Service: {said}") })
            }
            Self::NoAnswer => Some(Obstacle {
                reason: "NoAnswer",
                message: format!(
                    "the API server does not answer to its Service within {} s; it is tried again. A webhook that \
                     admits Services may hang: look at the validating and mutating webhook configurations",
                    PATIENCE.as_secs()
                ),
            }),
            Self::Away(_) | Self::Stale(_) | Self::Families(_) | Self::AddressTaken => None,
        }
    }
}

/// Who writes; clones share the rate.
#[derive(Clone)]
pub(super) struct Writer {
    client: Client,
    recorder: Recorder,
    /// Held while a place is waited for, so that writes get theirs in the order in which they came.
    bucket: Arc<Mutex<Bucket>>,
}

impl Writer {
    pub(super) fn new(client: Client, instance: Option<String>) -> Self {
        let reporter = Reporter { controller: CONTROLLER.to_owned(), instance };
        Self { recorder: Recorder::new(client.clone(), reporter), client, bucket: Arc::default() }
    }

    fn api<K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>>(
        &self,
        namespace: &str,
    ) -> Api<K> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Writes one thing of `owner`; a warning is about `export`.
    pub(super) async fn write(
        &self,
        owner: &ServiceName,
        write: &Write,
        export: Option<&ServiceExport>,
    ) -> Result<Written, Unwritten> {
        Ok(match write {
            Write::Service { object, new } => Written::Service(self.service(owner, object, *new).await?.into()),
            Write::Import { object, new } => Written::Import(self.apply(owner, &**object, *new).await?.into()),
            Write::Slice { object, new } => Written::Slice(self.apply(owner, &**object, *new).await?.into()),
            Write::ImportStatus(object) => {
                let status = serde_json::json!(object.status);
                Written::Import(self.status(owner.namespace.as_str(), &**object, status).await?.into())
            }
            Write::ExportStatus(object) => {
                let status = serde_json::json!(object.status);
                Written::Export(self.status(owner.namespace.as_str(), &**object, status).await?.into())
            }
            Write::Delete { kind, name, uid } => {
                let uid = uid.clone();
                match kind {
                    Deleted::Service => self.delete::<Service>(owner, name, uid).await?,
                    Deleted::Import => self.delete::<ServiceImport>(owner, name, uid).await?,
                    Deleted::Slice => self.delete::<EndpointSlice>(owner, name, uid).await?,
                }
                Written::Gone
            }
            Write::Warn(note) => {
                if let Some(export) = export {
                    self.warn(export, note.clone()).await?;
                }
                Written::Warned
            }
        })
    }

    /// Writes the status of an export that belongs to no name.
    pub(super) async fn misnamed(&self, export: &ServiceExport) -> Result<(), Unwritten> {
        let namespace = export.metadata.namespace.as_deref().unwrap_or_default();
        self.status(namespace, export, serde_json::json!(export.status)).await.map(drop)
    }

    /// Waits until one more write is within the rate.
    async fn place(&self) {
        let mut bucket = self.bucket.lock().await;
        while !bucket.take(WRITES, clock::instant()) {
            tokio::time::sleep(REFILL).await;
        }
    }

    /// Applies an object in the namespace of `owner`; one that is `new` must not be somebody else's.
    async fn apply<K>(&self, owner: &ServiceName, object: &K, new: bool) -> Result<K, Unwritten>
    where
        K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
            + Clone
            + Debug
            + Serialize
            + DeserializeOwned,
    {
        let api = self.api::<K>(owner.namespace.as_str());
        let name = object.meta().name.clone().unwrap_or_default();
        let mut ours = !new;
        if new && let Some(there) = within(api.get_metadata_opt(&name)).await? {
            let has = |map: &Option<BTreeMap<String, String>>, key: &str, word: &str| {
                map.as_ref().and_then(|m| m.get(key)).is_some_and(|found| found == word)
            };
            let wanted = object.meta().annotations.as_ref().and_then(|a| a.get(IMPORT_NAME));
            // A derived Service names its import; the label alone is anybody's.
            ours = has(&there.metadata.labels, MANAGED_BY, MESHFED)
                && wanted.is_none_or(|import| has(&there.metadata.annotations, IMPORT_NAME, import));
            if !ours {
                return Err(Unwritten::InTheWay(format!("{} {}/{name}", K::kind(&()), owner.namespace)));
            }
        }
        let mut body = serde_json::to_value(object).map_err(|e| Unwritten::Refused(e.to_string()))?;
        if let Some(fields) = body.as_object_mut() {
            fields.insert("apiVersion".to_owned(), K::api_version(&()).into());
            fields.insert("kind".to_owned(), K::kind(&()).into());
        }
        self.place().await;
        // What is ours is ours alone. What was not there a moment ago is not taken from whoever made it since.
        let params = PatchParams { force: ours, ..PatchParams::apply(FIELD_MANAGER) };
        within(api.patch(&name, &params, &Patch::Apply(&body))).await
    }

    async fn service(&self, owner: &ServiceName, object: &Service, new: bool) -> Result<Service, Unwritten> {
        let families = object.spec.iter().flat_map(|s| s.ip_families.clone().unwrap_or_default()).collect::<Vec<_>>();
        let mut applied = self.apply(owner, object, new).await;
        // What somebody else has added stays in an apply, and the chart's policy refuses it of us: it goes first.
        if matches!(applied, Err(Unwritten::Refused(_))) && self.take_away(owner, object).await? {
            applied = self.apply(owner, object, false).await;
        }
        let written = match applied {
            Err(Unwritten::Refused(said)) => return Err(refused_service(&families, said)),
            applied => applied?,
        };
        if is_as_wanted(&written, object) { Ok(written) } else { self.clear(owner, &written, object).await }
    }

    /// Takes what no derived Service has out of the one that is there, if it is ours; whether there was anything.
    async fn take_away(&self, owner: &ServiceName, wanted: &Service) -> Result<bool, Unwritten> {
        let name = wanted.metadata.name.clone().unwrap_or_default();
        let api = self.api::<Service>(owner.namespace.as_str());
        let Some(there) = within(api.get_opt(&name)).await? else { return Ok(false) };
        if there.owner().as_ref() != Some(owner) || !has_more(&there, wanted) {
            return Ok(false);
        }
        self.clear(owner, &there, wanted).await.map(|_cleared| true)
    }

    /// Takes away what somebody else has added to a derived Service: an apply leaves the fields of others alone.
    async fn clear(&self, owner: &ServiceName, there: &Service, wanted: &Service) -> Result<Service, Unwritten> {
        let (name, version) = (there.metadata.name.clone().unwrap_or_default(), &there.metadata.resource_version);
        let ports = wanted.spec.as_ref().map(|spec| &spec.ports);
        let body = serde_json::json!({
            "metadata": {"resourceVersion": version},
            "spec": {
                "type": "ClusterIP", "externalName": null, "selector": null, "externalIPs": null,
                "trafficDistribution": null, "ports": ports,
            },
        });
        self.place().await;
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        within(self.api::<Service>(owner.namespace.as_str()).patch(&name, &params, &Patch::Merge(&body))).await
    }

    /// Applies a status; nothing else of the object is written.
    async fn status<K>(&self, namespace: &str, object: &K, status: serde_json::Value) -> Result<K, Unwritten>
    where
        K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        let name = object.meta().name.clone().unwrap_or_default();
        let body = serde_json::json!({
            "apiVersion": K::api_version(&()),
            "kind": K::kind(&()),
            "metadata": {"name": name, "namespace": namespace, "uid": object.meta().uid},
            "status": status,
        });
        self.place().await;
        let params = PatchParams::apply(FIELD_MANAGER).force();
        within(self.api::<K>(namespace).patch_status(&name, &params, &Patch::Apply(&body))).await
    }

    /// Takes an object away, if it still is the one that was seen.
    async fn delete<K>(&self, owner: &ServiceName, name: &str, uid: Option<String>) -> Result<(), Unwritten>
    where
        K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        self.place().await;
        let preconditions = Some(Preconditions { uid, resource_version: None });
        let params = DeleteParams { preconditions, ..DeleteParams::default() };
        let api = self.api::<K>(owner.namespace.as_str());
        let deleted = async {
            match api.delete(name, &params).await {
                Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
                other => other.map(drop),
            }
        };
        within(deleted).await
    }

    /// A warning event on an export.
    async fn warn(&self, export: &ServiceExport, note: String) -> Result<(), Unwritten> {
        self.place().await;
        let event = Event {
            type_: EventType::Warning,
            reason: "ProtocolNotServed".to_owned(),
            note: Some(note),
            action: "Export".to_owned(),
            secondary: None,
        };
        within(self.recorder.publish(&event, &export.object_ref(&()))).await
    }
}

/// Whether a Service has what an apply leaves there and an API server refuses beside ours: pods by their labels, addresses of
/// others, or a port with the name of one of ours.
fn has_more(there: &Service, wanted: &Service) -> bool {
    let Some(spec) = &there.spec else { return false };
    let port = |p: &ServicePort| (p.port, p.protocol.clone(), p.name.clone());
    let ours: Vec<_> = wanted.spec.iter().flat_map(|spec| spec.ports.iter().flatten()).map(port).collect();
    spec.selector.as_ref().is_some_and(|labels| !labels.is_empty())
        || spec.external_ips.as_ref().is_some_and(|all| !all.is_empty())
        || spec.ports.iter().flatten().any(|p| !ours.contains(&port(p)))
}

/// What the refusal of a derived Service means: a family that the cluster does not have, an address that is taken, or
/// something else.
fn refused_service(families: &[String], said: String) -> Unwritten {
    let refused = families.iter().enumerate().filter(|(at, _)| said.contains(&format!("spec.ipFamilies[{at}]")));
    let refused: Vec<IpFamily> = refused.filter_map(|(_, family)| family_of(family)).collect();
    if !refused.is_empty() {
        Unwritten::Families(refused)
    } else if said.contains("spec.clusterIP") {
        Unwritten::AddressTaken
    } else {
        Unwritten::Refused(said)
    }
}

/// A family by its name in Kubernetes.
pub(super) fn family_of(name: &str) -> Option<IpFamily> {
    match name {
        "IPv4" => Some(IpFamily::IPv4),
        "IPv6" => Some(IpFamily::IPv6),
        _ => None,
    }
}

/// One request, with an end.
async fn within<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, Unwritten> {
    match tokio::time::timeout(PATIENCE, request).await {
        Ok(answer) => answer.map_err(unwritten),
        Err(_elapsed) => Err(Unwritten::NoAnswer),
    }
}

fn unwritten(error: kube::Error) -> Unwritten {
    let kube::Error::Api(status) = error else { return Unwritten::Away(meshfed_runtime::telemetry::chain(&error)) };
    let causes = status.details.iter().flat_map(|d| &d.causes);
    let fields: Vec<&str> = causes.map(|c| c.field.as_str()).filter(|f| !f.is_empty()).collect();
    let said = format!("{} ({})", status.message, fields.join(", "));
    match status.code {
        404 | 409 => Unwritten::Stale(said),
        // Too large for its store, or a webhook of one namespace that is down: nobody else is to wait for that.
        500 => Unwritten::Failed(said),
        429 | 501..=599 => Unwritten::Away(said),
        _ => Unwritten::Refused(said),
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    /// An answer about one object is about that object; only what says that nobody is served makes everybody wait.
    ///
    /// Mutations seen to fail: 500 answered `Away`.
    #[test]
    fn a_failure_on_one_object_is_no_outage() {
        let of = |code: u16| {
            unwritten(kube::Error::Api(
                Status::failure("etcdserver: request is too large", "x").with_code(code).boxed(),
            ))
        };
        assert!(matches!(of(500), Unwritten::Failed(said) if said.contains("too large")));
        assert!(matches!(of(429), Unwritten::Away(_)) && matches!(of(503), Unwritten::Away(_)));
        assert!(matches!(of(422), Unwritten::Refused(_)) && matches!(of(409), Unwritten::Stale(_)));
    }
}
