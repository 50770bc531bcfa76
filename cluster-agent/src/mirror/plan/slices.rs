//! Pure. MCS EndpointSlices: one per import, source cluster and family, for those who read the MCS API.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use meshfed_model::import::{Import, ImportPort};
use meshfed_model::names::{ClusterName, ServiceName};
use meshfed_model::service::IpFamily;

use super::service::family_name;
use super::{Deleted, Seen, Write, meta, ports};
use crate::mirror::facts::{Backend, Facts};
use crate::mirror::names::{
    HEADLESS, SERVICE_NAME, SLICE_MANAGED_BY, SLICE_MANAGER, SOURCE_CLUSTER, slice as slice_name,
};

/// The label by which kube-proxy finds the endpoints of a Service.
const OF_SERVICE: &str = "kubernetes.io/service-name";
/// Endpoints of one slice (Kubernetes' limit); of more, those that are ready come first.
const ENDPOINTS_MAX: usize = 1000;

pub(super) fn plan(name: &ServiceName, facts: &Facts, seen: &Seen) -> Vec<Write> {
    let wanted: BTreeMap<String, EndpointSlice> = match &facts.import {
        Some(import) => all(name, import, facts, seen),
        None => BTreeMap::new(),
    };
    let gone = seen.slices.iter().filter(|(name, slice)| !wanted.contains_key(*name) || is_behind_a_service(slice));
    let gone = gone.map(|(name, slice)| Write::Delete {
        kind: Deleted::Slice,
        name: name.clone(),
        uid: slice.metadata.uid.clone(),
    });
    let gone: Vec<Write> = gone.collect();
    let put = wanted.into_iter().filter_map(|(name, slice)| {
        let there = seen.slices.get(&name);
        if there.is_some_and(is_behind_a_service) {
            // It is taken away first; the next look makes it anew.
            return None;
        }
        let write = Write::Slice { object: Box::new(slice), new: there.is_none() };
        match (&write, there) {
            (Write::Slice { object, .. }, Some(there)) if same(there, object) => None,
            _ => Some(write),
        }
    });
    gone.into_iter().chain(put).collect()
}

/// Whether somebody has labelled the slice as one of a Service of Kubernetes, whose traffic would go to where the import
/// leads. The label is another's field, so no apply takes it away, and the agent may not write it: only a new slice lacks it.
fn is_behind_a_service(slice: &EndpointSlice) -> bool {
    slice.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(OF_SERVICE))
}

fn all(name: &ServiceName, import: &Import, facts: &Facts, seen: &Seen) -> BTreeMap<String, EndpointSlice> {
    let none = Vec::new();
    let mut slices = BTreeMap::new();
    for cluster in &import.clusters {
        let backends = facts.backends.get(cluster).unwrap_or(&none);
        let mut families: BTreeSet<IpFamily> = import.traits.ip_families.iter().copied().collect();
        families.extend(backends.iter().map(|b| IpFamily::of(b.address)));
        if families.is_empty() {
            families.insert(IpFamily::IPv4);
        }
        for family in families {
            let of_family: Vec<&Backend> = backends.iter().filter(|b| IpFamily::of(b.address) == family).collect();
            let object_name = slice_name(name, cluster, family);
            let uid = seen.slices.get(&object_name).and_then(|s| s.metadata.uid.clone());
            slices.insert(object_name.clone(), one(name, import, cluster, (family, &of_family), object_name, uid));
        }
    }
    slices
}

fn one(
    name: &ServiceName,
    import: &Import,
    cluster: &ClusterName,
    (family, backends): (IpFamily, &[&Backend]),
    object_name: String,
    uid: Option<String>,
) -> EndpointSlice {
    // An address once, ready where any of its ports is.
    let mut addresses: BTreeMap<std::net::IpAddr, bool> = BTreeMap::new();
    for backend in backends {
        *addresses.entry(backend.address).or_default() |= backend.ready;
    }
    let mut sorted: Vec<(bool, std::net::IpAddr)> = addresses.into_iter().map(|(a, ready)| (!ready, a)).collect();
    sorted.sort();
    let endpoint = |(unready, address): (bool, std::net::IpAddr)| Endpoint {
        addresses: vec![address.to_string()],
        conditions: Some(EndpointConditions {
            ready: Some(!unready),
            serving: Some(!unready),
            terminating: Some(false),
        }),
        ..Endpoint::default()
    };
    let labels = [
        (SERVICE_NAME, name.name()),
        (SOURCE_CLUSTER, cluster.as_str()),
        (SLICE_MANAGED_BY, SLICE_MANAGER),
        (HEADLESS, ""),
    ];
    let labels = labels.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    let exposed: Vec<&ImportPort> =
        import.ports.iter().filter(|p| p.clusters.contains(cluster) && ports::is_known(&p.port)).collect();
    let names = ports::names(exposed.iter().map(|p| &p.port), ports::NAME_MAX);
    EndpointSlice {
        address_type: family_name(&family),
        endpoints: sorted.into_iter().take(ENDPOINTS_MAX).map(endpoint).collect(),
        metadata: meta::ours(name, object_name, uid, labels, BTreeMap::new()),
        ports: Some(exposed.into_iter().zip(names).map(|(p, name)| port(p, name, backends)).collect()),
    }
}

/// A port with the number that is dialled; none where that is not one number.
fn port(port: &ImportPort, name: String, backends: &[&Backend]) -> EndpointPort {
    let served = port.port.is_served();
    let dialled = backends.iter().filter(|b| served && b.port == port.port.port).map(|b| b.target);
    let targets: BTreeSet<u16> = dialled.collect();
    let number = if targets.is_empty() { Some(port.port.port) } else { targets.first().copied() };
    EndpointPort {
        name: Some(name),
        protocol: Some(port.port.protocol.clone()),
        app_protocol: ports::app_protocol(&port.port),
        port: number.filter(|_| targets.len() < 2).map(i32::from),
    }
}

fn same(seen: &EndpointSlice, wanted: &EndpointSlice) -> bool {
    meta::same(&seen.metadata, &wanted.metadata)
        && seen.address_type == wanted.address_type
        && seen.endpoints == wanted.endpoints
        && seen.ports.as_deref().unwrap_or_default() == wanted.ports.as_deref().unwrap_or_default()
}
