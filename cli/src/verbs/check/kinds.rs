//! Edge. Which kinds an API server has, by its discovery, which everybody who is known to it may read.

use kube::Client;

use crate::exit::Failure;

/// One kind, at the version that meshfed reads.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kind {
    pub(super) group: &'static str,
    pub(super) version: &'static str,
    pub(super) kind: &'static str,
}

/// Kinds of others that the chart meshfed-crds brings unless a value of it is false.
#[derive(Debug)]
pub(super) struct Foreign {
    pub(super) value: &'static str,
    pub(super) kinds: [Kind; 2],
}

const fn kind(group: &'static str, version: &'static str, kind: &'static str) -> Kind {
    Kind { group, version, kind }
}

/// Of the Multi-Cluster Services API.
pub(super) const MCS: Foreign = Foreign {
    value: "mcs",
    kinds: [
        kind("multicluster.x-k8s.io", "v1beta1", "ServiceExport"),
        kind("multicluster.x-k8s.io", "v1beta1", "ServiceImport"),
    ],
};
/// Of Istio.
pub(super) const ISTIO: Foreign = Foreign {
    value: "istio",
    kinds: [kind("security.istio.io", "v1", "PeerAuthentication"), kind("networking.istio.io", "v1", "WorkloadEntry")],
};

/// Whether a kind is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Served {
    Yes,
    No,
    /// Its group has it, at these versions only.
    Otherwise(String),
}

/// Asks whether a kind is served.
pub(super) async fn served(client: &Client, wanted: Kind) -> Result<Served, Failure> {
    let has = async |version: &str| match client.list_api_group_resources(&format!("{}/{version}", wanted.group)).await
    {
        Ok(list) => Ok(list.resources.iter().any(|r| r.kind == wanted.kind)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
        Err(error) => Err(super::refused(&error)),
    };
    if has(wanted.version).await? {
        return Ok(Served::Yes);
    }
    let groups = client.list_api_groups().await.map_err(|error| super::refused(&error))?;
    let mut others = Vec::new();
    for version in groups.groups.into_iter().filter(|g| g.name == wanted.group).flat_map(|g| g.versions) {
        if version.version != wanted.version && has(&version.version).await? {
            others.push(version.version);
        }
    }
    Ok(if others.is_empty() { Served::No } else { Served::Otherwise(others.join(", ")) })
}
