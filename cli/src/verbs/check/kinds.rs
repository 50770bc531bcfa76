//! Edge. Which kinds an API server has, by its discovery, which everybody who is known to it may read.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Api;
use meshfed_cluster_agent::membership::connect::Place;

use crate::exit::Failure;
use crate::place::refused;

/// One kind, at the version that meshfed reads.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kind {
    pub(super) group: &'static str,
    pub(super) version: &'static str,
    pub(super) kind: &'static str,
    /// The name of its CustomResourceDefinition.
    pub(super) definition: &'static str,
}

/// Kinds of others that the chart meshfed-crds brings unless a value of it is false.
#[derive(Debug)]
pub(super) struct Foreign {
    pub(super) value: &'static str,
    pub(super) kinds: [Kind; 2],
}

const fn kind(group: &'static str, version: &'static str, kind: &'static str, definition: &'static str) -> Kind {
    Kind { group, version, kind, definition }
}

/// Of the Multi-Cluster Services API.
pub(super) const MCS: Foreign = Foreign {
    value: "mcs",
    kinds: [
        kind("multicluster.x-k8s.io", "v1beta1", "ServiceExport", "serviceexports.multicluster.x-k8s.io"),
        kind("multicluster.x-k8s.io", "v1beta1", "ServiceImport", "serviceimports.multicluster.x-k8s.io"),
    ],
};
/// Of Istio.
pub(super) const ISTIO: Foreign = Foreign {
    value: "istio",
    kinds: [
        kind("security.istio.io", "v1", "PeerAuthentication", "peerauthentications.security.istio.io"),
        kind("networking.istio.io", "v1", "WorkloadEntry", "workloadentries.networking.istio.io"),
    ],
};

/// One of our own kinds, which the chart meshfed-crds always brings.
const OWN: &str = "memberships.federation.meshfed.io";
/// Where Helm writes whose an object is.
const OWNER: [&str; 2] = ["meta.helm.sh/release-namespace", "meta.helm.sh/release-name"];

/// A release of Helm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Release {
    pub(super) namespace: String,
    pub(super) name: String,
}

/// The release that brought our own kinds; none: they are not there, are not Helm's, or may not be read by whom we are.
pub(super) async fn ours(place: &Place) -> Result<Option<Release>, Failure> {
    owner(place, OWN).await
}

/// The release that brought a kind of others, as [`ours`].
pub(super) async fn owner_of(place: &Place, kind: Kind) -> Result<Option<Release>, Failure> {
    owner(place, kind.definition).await
}

async fn owner(place: &Place, definition: &str) -> Result<Option<Release>, Failure> {
    let definitions: Api<CustomResourceDefinition> = Api::all(place.client.clone());
    let found = match definitions.get_metadata_opt(definition).await {
        Ok(found) => found,
        Err(kube::Error::Api(status)) if status.code == 403 => None,
        Err(error) => return Err(refused(place, &error)),
    };
    let said = found.and_then(|found| found.metadata.annotations).unwrap_or_default();
    let [namespace, name] = OWNER.map(|key| said.get(key).cloned());
    Ok(namespace.zip(name).map(|(namespace, name)| Release { namespace, name }))
}

/// Whether a kind is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Served {
    Yes,
    No,
    /// Its group has it, at these versions only.
    Otherwise(String),
}

/// Asks whether a kind is served.
pub(super) async fn served(place: &Place, wanted: Kind) -> Result<Served, Failure> {
    let has =
        async |version: &str| match place.client.list_api_group_resources(&format!("{}/{version}", wanted.group)).await
        {
            Ok(list) => Ok(list.resources.iter().any(|r| r.kind == wanted.kind)),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
            Err(error) => Err(refused(place, &error)),
        };
    if has(wanted.version).await? {
        return Ok(Served::Yes);
    }
    let groups = place.client.list_api_groups().await.map_err(|error| refused(place, &error))?;
    let mut others = Vec::new();
    for version in groups.groups.into_iter().filter(|g| g.name == wanted.group).flat_map(|g| g.versions) {
        if version.version != wanted.version && has(&version.version).await? {
            others.push(version.version);
        }
    }
    Ok(if others.is_empty() { Served::No } else { Served::Otherwise(others.join(", ")) })
}
