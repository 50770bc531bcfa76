//! Edge. The check of objects that nobody reads where they are: those who could read them may not say so there.

use k8s_openapi::api::apps::v1::Deployment;
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};
use meshfed_cluster_agent::membership::connect::Place;
use meshfed_crds::custom::{Cluster, Membership};
use serde::de::DeserializeOwned;

use super::{Found, id};
use crate::exit::Failure;
use crate::place::refused;

/// Objects of a kind that are looked at.
const LISTED_MAX: u32 = 500;
/// Names that a message holds.
const NAMED_MAX: usize = 10;

/// Memberships in namespaces without an agent, and Clusters in a cluster without a hub. None: whoever asks may not list them,
/// or there is nothing of the kind.
pub(super) async fn look(place: &Place) -> Result<Option<Found>, Failure> {
    let Some(agents) = namespaces_with(place, "meshfed-agent").await? else { return Ok(None) };
    let Some(hubs) = namespaces_with(place, "meshfed-hub").await? else { return Ok(None) };
    let Some(memberships) = all::<Membership>(place, Api::all(place.client.clone())).await? else { return Ok(None) };
    let Some(clusters) = all::<Cluster>(place, Api::all(place.client.clone())).await? else { return Ok(None) };
    let stray = memberships.iter().filter(|m| !m.namespace().is_some_and(|namespace| agents.contains(&namespace)));
    let stray: Vec<String> = stray.map(|m| format!("{}/{}", m.namespace().unwrap_or_default(), m.name_any())).collect();
    let homeless: Vec<String> = clusters.iter().filter(|_| hubs.is_empty()).map(kube::ResourceExt::name_any).collect();
    let mut messages = Vec::new();
    let mut remedies = Vec::new();
    if !stray.is_empty() {
        messages.push(format!("no agent reads Membership {}: their namespaces have none", some(&stray)));
        remedies.push("make Memberships in the namespace of the release of meshfed-cluster, and delete these");
    }
    if !homeless.is_empty() {
        messages.push(format!("no hub reads Cluster {}: this cluster has none", some(&homeless)));
        remedies.push("apply Clusters in the hub's cluster, and delete them here");
    }
    Ok(Some(if messages.is_empty() {
        Found::pass(id::MISPLACED, "every Membership has an agent, and every Cluster a hub")
    } else {
        Found::warn(id::MISPLACED, messages.join("; "), remedies.join("; "))
    }))
}

fn some(names: &[String]) -> String {
    let more = if names.len() > NAMED_MAX { ", …" } else { "" };
    names.iter().take(NAMED_MAX).map(String::as_str).collect::<Vec<_>>().join(", ") + more
}

/// The namespaces that have a Deployment of this name. None: whoever asks may not list them.
pub(super) async fn namespaces_with(place: &Place, deployment: &str) -> Result<Option<Vec<String>>, Failure> {
    let api: Api<Deployment> = Api::all(place.client.clone());
    let named = ListParams::default().limit(LISTED_MAX).fields(&format!("metadata.name={deployment}"));
    let found = listed(place, api.list(&named).await)?;
    Ok(found.map(|all| all.iter().filter_map(kube::ResourceExt::namespace).collect()))
}

async fn all<K>(place: &Place, api: Api<K>) -> Result<Option<Vec<K>>, Failure>
where
    K: Clone + DeserializeOwned + std::fmt::Debug,
{
    listed(place, api.list(&ListParams::default().limit(LISTED_MAX)).await)
}

/// What a list has given; none: the kind is not there, or not to be listed by whoever asks.
fn listed<K: Clone>(place: &Place, found: kube::Result<kube::core::ObjectList<K>>) -> Result<Option<Vec<K>>, Failure> {
    match found {
        Ok(list) => Ok(Some(list.items)),
        Err(kube::Error::Api(status)) if status.code == 403 || status.code == 404 => Ok(None),
        Err(error) => Err(refused(place, &error)),
    }
}
