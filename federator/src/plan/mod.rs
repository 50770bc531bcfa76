//! Pure. Who may see what: membership, labels, networks, interest and export policies, as a filter per importer.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use meshfed_api::stream::{Audience, Importer};
use meshfed_model::export::ExportTo;
use meshfed_model::member::Members;
use meshfed_model::names::{ClusterName, Namespace, NetworkName, ServiceName};
use meshfed_model::offer::OfferKey;
use meshfed_model::policy::ExportPolicy;

use crate::catalog::Fnv;

/// What one importer may see of every origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    importer: Importer,
    exports: Arc<Vec<ExportPolicy>>,
    id: u64,
}

impl Filter {
    /// The filter of a member with these announced namespaces; `None` when it is no member.
    #[must_use]
    pub fn new(
        members: &Members,
        cluster: &ClusterName,
        namespaces: BTreeSet<Namespace>,
        exports: Arc<Vec<ExportPolicy>>,
    ) -> Option<Self> {
        let member = members.members.get(cluster)?;
        let importer = Importer {
            cluster: cluster.clone(),
            labels: member.labels.clone(),
            networks: member.networks.iter().map(|n| n.name.clone()).collect(),
            namespaces,
        };
        let id = identify(&importer, &exports);
        Some(Self { importer, exports, id })
    }

    /// Stands for all that the filter depends on; the same on every hub.
    #[must_use]
    pub const fn id(&self) -> u64 {
        self.id
    }
    /// The namespaces that the importer announced.
    #[must_use]
    pub const fn namespaces(&self) -> &BTreeSet<Namespace> {
        &self.importer.namespaces
    }
    /// Whether a service with these targets is exported to the importer. A service that no policy of its own cluster
    /// names is bound by those of the fleet, also while its agent has not heard of them.
    #[must_use]
    pub fn is_exported(&self, service: &ServiceName, export_to: &ExportTo) -> bool {
        let (cluster, labels) = (&self.importer.cluster, &self.importer.labels);
        match export_to {
            ExportTo::Selected(_) => export_to.includes(cluster, labels),
            ExportTo::Everyone => {
                let mut policies =
                    self.exports.iter().filter(|p| p.services.iter().any(|s| s.matches(service))).peekable();
                policies.peek().is_none() || policies.any(|p| p.to.picks(cluster, labels))
            }
        }
    }
}

impl Audience for Filter {
    fn sees(&self, key: &OfferKey, export_to: &ExportTo) -> bool {
        self.importer.sees(key, &ExportTo::Everyone) && key.service().is_none_or(|s| self.is_exported(s, export_to))
    }
    /// Without the fleet's policies: "everyone" may stand for a union with a narrower audience of another time. Agents
    /// fold the fleet's policies into what they offer, so this tells too much only while they have not heard of one.
    fn saw(&self, key: &OfferKey, audience: &ExportTo) -> bool {
        self.importer.sees(key, audience)
    }
}

/// Over everything that decides; it need not resist anybody, only differ when the filter does.
fn identify(importer: &Importer, exports: &[ExportPolicy]) -> u64 {
    let mut hash = Fnv::new();
    for (label, value) in &importer.labels {
        hash.text("label").text(label).text(value);
    }
    for network in &importer.networks {
        hash.text("network").text(network.as_str());
    }
    for namespace in &importer.namespaces {
        hash.text("namespace").text(namespace.as_str());
    }
    for policy in exports {
        let picked = policy.to.picks(&importer.cluster, &importer.labels);
        hash.text("policy").text(if picked { "picked" } else { "" });
        for pattern in &policy.services {
            hash.text(&pattern.namespace).text(&pattern.name);
        }
    }
    hash.finish()
}

/// The networks of each member on which another member is, too: there it offers single endpoints.
#[must_use]
pub fn shared_networks(members: &Members) -> BTreeMap<ClusterName, BTreeSet<NetworkName>> {
    let mut on: BTreeMap<&NetworkName, BTreeSet<&ClusterName>> = BTreeMap::new();
    for member in members.members.values() {
        for network in &member.networks {
            on.entry(&network.name).or_default().insert(&member.cluster);
        }
    }
    let mut shared: BTreeMap<ClusterName, BTreeSet<NetworkName>> =
        members.members.keys().map(|c| (c.clone(), BTreeSet::new())).collect();
    for (network, clusters) in on.into_iter().filter(|(_, clusters)| clusters.len() > 1) {
        for cluster in clusters {
            shared.entry(cluster.clone()).or_default().insert(network.clone());
        }
    }
    shared
}

/// Which importers are interested in which namespaces: looking up one costs its importers, not the fleet.
#[derive(Debug, Clone)]
pub struct Interests<Id> {
    by_namespace: BTreeMap<Namespace, BTreeSet<Id>>,
}

impl<Id> Default for Interests<Id> {
    fn default() -> Self {
        Self { by_namespace: BTreeMap::new() }
    }
}

impl<Id: Ord + Copy> Interests<Id> {
    /// Replaces what one importer is interested in.
    pub fn set(&mut self, id: Id, before: &BTreeSet<Namespace>, after: &BTreeSet<Namespace>) {
        for namespace in before.difference(after) {
            if let Some(ids) = self.by_namespace.get_mut(namespace) {
                ids.remove(&id);
                if ids.is_empty() {
                    self.by_namespace.remove(namespace);
                }
            }
        }
        for namespace in after.difference(before) {
            self.by_namespace.entry(namespace.clone()).or_default().insert(id);
        }
    }
    /// Those interested in one of the services.
    #[must_use]
    pub fn in_services<'a>(&self, services: impl IntoIterator<Item = &'a ServiceName>) -> BTreeSet<Id> {
        let namespaces: BTreeSet<&Namespace> = services.into_iter().map(|s| &s.namespace).collect();
        namespaces.into_iter().filter_map(|n| self.by_namespace.get(n)).flatten().copied().collect()
    }
}
