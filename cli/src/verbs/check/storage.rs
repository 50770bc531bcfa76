//! Edge. The checks of what outlives a pod: the hub's volume, and what makes one.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::Api;
use kube::api::ListParams;
use meshfed_cluster_agent::membership::connect::Place;

use super::{Found, id};
use crate::exit::Failure;
use crate::place::refused;

/// Makes a StorageClass the one of claims that name none.
const DEFAULT: &str = "storageclass.kubernetes.io/is-default-class";
/// Classes that are looked at.
const CLASSES_MAX: u32 = 500;
/// What helps a claim that no class serves.
const CHOICE: &str = "persistence.storageClass or persistence.existingClaim of helm/meshfed-hub";

/// Whether what a hub knows outlives its pod.
pub(super) async fn hub_volume(place: &Place, hub: &Deployment, namespace: &str) -> Result<Found, Failure> {
    let pod = hub.spec.as_ref().and_then(|s| s.template.spec.as_ref());
    let data = pod.and_then(|p| p.volumes.as_ref()?.iter().find(|v| v.name == "data"));
    let Some(data) = data.filter(|v| v.empty_dir.is_none()) else {
        let message = "the hub's data is in its pod: root key, members and tokens, the whole fleet, end with it";
        let remedy = "for more than a trial: install helm/meshfed-hub with persistence.enabled=true, and join again";
        return Ok(Found::warn(id::HUB_VOLUME, message, remedy));
    };
    let Some(claim) = &data.persistent_volume_claim else {
        return Ok(Found::pass(id::HUB_VOLUME, "the hub's data is on a volume of its own"));
    };
    let name = &claim.claim_name;
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(place.client.clone(), namespace);
    let found = match claims.get_opt(name).await {
        Ok(found) => found,
        Err(kube::Error::Api(status)) if status.code == 403 => {
            let message = format!("the hub's data is on claim {name}, which may not be read by whom we are");
            return Ok(Found::warn(id::HUB_VOLUME, message, "allow it, or see to it that the claim is Bound"));
        }
        Err(error) => return Err(refused(place, &error)),
    };
    let Some(found) = found else {
        let message = format!("the hub's data is to be on claim {name}, which is not there: its pod does not start");
        return Ok(Found::fail(id::HUB_VOLUME, message, format!("make the claim, or set {CHOICE}")));
    };
    let phase = found.status.and_then(|s| s.phase).unwrap_or_else(|| "Pending".to_owned());
    if phase == "Bound" {
        return Ok(Found::pass(id::HUB_VOLUME, format!("the hub's data is on claim {name}, which is Bound")));
    }
    let class = found.spec.and_then(|s| s.storage_class_name).filter(|class| !class.is_empty());
    let of = class.map_or_else(|| "of no StorageClass".to_owned(), |class| format!("of StorageClass {class}"));
    let message = format!("the hub's data is to be on claim {name}, {of}, which is {phase}: its pod does not start");
    let remedy =
        format!("kubectl -n {namespace} describe pvc {name} says why; without a default StorageClass set {CHOICE}");
    Ok(Found::fail(id::HUB_VOLUME, message, remedy))
}

/// Whether a claim that names no class gets a volume. `None`: classes may not be listed by whom we are.
pub(super) async fn default_class(place: &Place) -> Result<Option<Found>, Failure> {
    let classes: Api<StorageClass> = Api::all(place.client.clone());
    let listed = match classes.list(&ListParams::default().limit(CLASSES_MAX)).await {
        Ok(list) => list.items,
        Err(kube::Error::Api(status)) if status.code == 403 => return Ok(None),
        Err(error) => return Err(refused(place, &error)),
    };
    let name = |class: &StorageClass| class.metadata.name.clone().unwrap_or_default();
    let is_default = |class: &&StorageClass| {
        class.metadata.annotations.as_ref().and_then(|a| a.get(DEFAULT)).is_some_and(|value| value == "true")
    };
    if let Some(class) = listed.iter().find(is_default) {
        return Ok(Some(Found::pass(id::CLASS, format!("StorageClass {} is the default", name(class)))));
    }
    let all: Vec<String> = listed.iter().map(name).collect();
    let has = if all.is_empty() { "none at all".to_owned() } else { all.join(", ") };
    let message = format!(
        "no StorageClass is the default (there is {has}): the claim of a hub in this cluster, or of an agent with \
         persistence, stays Pending"
    );
    let remedy = format!("for a hub set {CHOICE}; a member needs none");
    Ok(Some(Found::warn(id::CLASS, message, remedy)))
}
