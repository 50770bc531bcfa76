//! Pure. Which candidates a client can reach, and why it cannot reach the others.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::{Candidates, Client, DropReason, Dropped, EndpointCandidate, GatewayCandidate};
use crate::failover::{Count, Slot, slot};
use crate::locality::Locality;
use crate::names::{ClusterName, NetworkName};
use crate::policy::FailoverSpec;

/// Endpoints that are reached in the same way and belong to the same place of the policy.
pub(super) struct Unit<'a> {
    pub(super) cluster: &'a ClusterName,
    pub(super) network: &'a NetworkName,
    pub(super) locality: &'a Locality,
    pub(super) slot: Slot,
    pub(super) ready: u64,
    pub(super) total: u64,
    /// Sum of the weights of the ready endpoints.
    pub(super) weight: u64,
    pub(super) reach: Reach<'a>,
}

pub(super) enum Reach<'a> {
    /// A single endpoint.
    Direct(&'a EndpointCandidate),
    /// Gateways in [`Admitted::gateways`] under the unit's cluster and network.
    Gateways,
}

/// What a client can reach, in order: endpoints by (cluster, network, locality, address), then groups.
pub(super) struct Admitted<'a> {
    pub(super) units: Vec<Unit<'a>>,
    /// Gateways that the client can dial, never empty, in order of their addresses.
    pub(super) gateways: BTreeMap<(&'a ClusterName, &'a NetworkName), Vec<&'a GatewayCandidate>>,
    pub(super) dropped: Vec<Dropped>,
}

#[derive(Default)]
struct Group {
    ready: u64,
    total: u64,
    weight: u64,
}

/// Counts per tier of the policy.
pub(crate) fn tier_counts(client: &Client, spec: &FailoverSpec, candidates: &Candidates) -> Vec<Count> {
    counts(spec, &admit(client, spec, candidates).units)
}

pub(super) fn counts(spec: &FailoverSpec, units: &[Unit<'_>]) -> Vec<Count> {
    let mut counts = vec![Count::default(); spec.tiers.len()];
    for unit in units {
        if let Some(count) = counts.get_mut(unit.slot.tier) {
            count.ready = count.ready.saturating_add(unit.ready);
            count.total = count.total.saturating_add(unit.total);
        }
    }
    counts
}

/// Sorts candidates into what the client can reach and what is left out. What no tier selects is neither.
pub(super) fn admit<'a>(client: &Client, spec: &FailoverSpec, candidates: &'a Candidates) -> Admitted<'a> {
    let mut dropped: BTreeMap<(&ClusterName, &NetworkName, DropReason), u64> = BTreeMap::new();
    let mut direct: Vec<&EndpointCandidate> = Vec::new();
    let mut groups: BTreeMap<(&ClusterName, &NetworkName, &Locality), Group> = BTreeMap::new();
    direct.reserve(candidates.endpoints.len());
    for e in candidates.endpoints.iter().filter(|e| e.network == client.network) {
        match local_refusal(client, candidates, e) {
            Some(Refusal::Silent) => {}
            Some(Refusal::Reported(reason)) => {
                *dropped.entry((&e.cluster, &e.network, reason)).or_default() += u64::from(e.ready);
            }
            None => direct.push(e),
        }
    }
    let direct = once_each(client, direct);
    let gateways = Gateways::of(client, candidates, &direct);
    let far = candidates.endpoints.iter().filter(|e| e.network != client.network).map(|e| {
        let weight = if e.ready { u64::from(e.weight) } else { 0 };
        let group = Group { ready: e.ready.into(), total: 1, weight };
        (&e.cluster, &e.network, &e.locality, e.mtls, group)
    });
    // Groups of the client's own network are known to it as single endpoints.
    let folded = candidates.groups.iter().filter(|g| g.network != client.network).map(|g| {
        let group = Group { ready: g.ready.min(g.total).into(), total: g.total.into(), weight: g.weight };
        (&g.cluster, &g.network, &g.locality, true, group)
    });
    for (cluster, network, locality, mtls, group) in far.chain(folded) {
        match far_refusal(client, candidates, &gateways, cluster, network, mtls) {
            Some(Refusal::Silent) => {}
            Some(Refusal::Reported(reason)) => {
                *dropped.entry((cluster, network, reason)).or_default() += group.ready;
            }
            None => {
                let sum = groups.entry((cluster, network, locality)).or_default();
                sum.ready = sum.ready.saturating_add(group.ready);
                sum.total = sum.total.saturating_add(group.total);
                sum.weight = sum.weight.saturating_add(group.weight);
            }
        }
    }
    let units = units(client, spec, direct, groups);
    let report = |((cluster, network, reason), ready): ((&ClusterName, &NetworkName, DropReason), u64)| Dropped {
        cluster: cluster.clone(),
        network: network.clone(),
        ready: u32::try_from(ready).unwrap_or(u32::MAX),
        reason,
    };
    let mut dropped: Vec<Dropped> = dropped.into_iter().filter(|(_, ready)| *ready > 0).map(report).collect();
    dropped.sort();
    Admitted { units, gateways: gateways.dialable, dropped }
}

fn units<'a>(
    client: &Client,
    spec: &FailoverSpec,
    direct: Vec<&'a EndpointCandidate>,
    groups: BTreeMap<(&'a ClusterName, &'a NetworkName, &'a Locality), Group>,
) -> Vec<Unit<'a>> {
    let mut units = Vec::with_capacity(direct.len() + groups.len());
    // Endpoints come sorted, so the policy is asked once for each cluster and locality.
    let mut last: Option<(&ClusterName, &Locality, Option<Slot>)> = None;
    for e in direct {
        let place = match last {
            Some((cluster, locality, place)) if *cluster == e.cluster && *locality == e.locality => place,
            Some(_) | None => slot(client, spec, &e.cluster, &e.locality),
        };
        last = Some((&e.cluster, &e.locality, place));
        let Some(slot) = place else { continue };
        units.push(Unit {
            cluster: &e.cluster,
            network: &e.network,
            locality: &e.locality,
            slot,
            ready: e.ready.into(),
            total: 1,
            weight: if e.ready { e.weight.into() } else { 0 },
            reach: Reach::Direct(e),
        });
    }
    for ((cluster, network, locality), g) in groups {
        let Some(slot) = slot(client, spec, cluster, locality) else { continue };
        let Group { ready, total, weight } = g;
        units.push(Unit { cluster, network, locality, slot, ready, total, weight, reach: Reach::Gateways });
    }
    units
}

/// An address once: Envoy keeps the first of several and drops the rest. The client's own cluster comes first, then
/// a ready endpoint, then the order of names.
fn once_each<'a>(client: &Client, mut endpoints: Vec<&'a EndpointCandidate>) -> Vec<&'a EndpointCandidate> {
    endpoints.sort_by_key(|e| (e.address, e.port, e.cluster != client.cluster, !e.ready, *e));
    endpoints.dedup_by_key(|e| (e.address, e.port));
    endpoints.sort();
    endpoints
}

enum Refusal {
    /// Not known outside its cluster.
    Silent,
    Reported(DropReason),
}

fn refusal(client: &Client, candidates: &Candidates, cluster: &ClusterName, mtls: bool) -> Option<Refusal> {
    let foreign = *cluster != client.cluster;
    if foreign && !mtls {
        return Some(Refusal::Silent);
    }
    if candidates.drained.contains(cluster) {
        return Some(Refusal::Reported(DropReason::Drained));
    }
    let hidden = foreign && candidates.not_exported.contains(cluster);
    hidden.then_some(Refusal::Reported(DropReason::NotExported))
}

fn local_refusal(client: &Client, candidates: &Candidates, e: &EndpointCandidate) -> Option<Refusal> {
    refusal(client, candidates, &e.cluster, e.mtls)
        .or_else(|| (!client.families.has(e.address)).then_some(Refusal::Reported(DropReason::AddressFamily)))
}

fn far_refusal(
    client: &Client,
    candidates: &Candidates,
    gateways: &Gateways<'_>,
    cluster: &ClusterName,
    network: &NetworkName,
    mtls: bool,
) -> Option<Refusal> {
    if let Some(refusal) = refusal(client, candidates, cluster, mtls) {
        return Some(refusal);
    }
    let reason = if !mtls {
        DropReason::NoMtls
    } else if !gateways.known.contains(&(cluster, network)) {
        DropReason::NoReachableGateway
    } else if !gateways.dialable.contains_key(&(cluster, network)) {
        DropReason::AddressFamily
    } else {
        return None;
    };
    Some(Refusal::Reported(reason))
}

struct Gateways<'a> {
    /// Clusters that have a gateway into a network.
    known: BTreeSet<(&'a ClusterName, &'a NetworkName)>,
    /// Those of the client's families.
    dialable: BTreeMap<(&'a ClusterName, &'a NetworkName), Vec<&'a GatewayCandidate>>,
}

impl<'a> Gateways<'a> {
    /// An address belongs to one cluster; the hub refuses it to a second, and so does this.
    fn of(client: &Client, candidates: &'a Candidates, direct: &[&EndpointCandidate]) -> Self {
        let mut sorted: Vec<&GatewayCandidate> = candidates.gateways.iter().collect();
        sorted.sort();
        // Where there is no gateway, nothing needs to be compared with it.
        let sorting = if sorted.is_empty() { &[] } else { direct };
        let endpoints: BTreeSet<(IpAddr, u16)> = sorting.iter().map(|e| (e.address, e.port)).collect();
        let mut owners: BTreeMap<(IpAddr, u16), &ClusterName> = BTreeMap::new();
        let mut gateways = Self { known: BTreeSet::new(), dialable: BTreeMap::new() };
        for g in sorted {
            let owner = *owners.entry((g.address, g.port)).or_insert(&g.cluster);
            if *owner != g.cluster || endpoints.contains(&(g.address, g.port)) {
                continue;
            }
            gateways.known.insert((&g.cluster, &g.network));
            if client.families.has(g.address) {
                let same: &mut Vec<&GatewayCandidate> = gateways.dialable.entry((&g.cluster, &g.network)).or_default();
                if !same.iter().any(|s| (s.address, s.port) == (g.address, g.port)) {
                    same.push(g);
                }
            }
        }
        gateways
    }
}
