//! Pure. Which cluster has which gateway address (`contracts.md` 1.9, INV-5): the first that offered it, for as long as
//! it does, over restarts of the hub and its own absence.
//!
//! An address that its cluster offers no more is kept for it for a while: a gateway that restarts is withdrawn and
//! offered again, and nobody may take its address in between. Who is no member any more has nothing.

use std::collections::{BTreeMap, BTreeSet};

use meshfed_model::names::ClusterName;

use super::{Catalog, gateway_at};
use crate::fleet::GatewayAddress;

/// The owners of addresses.
#[derive(Debug, Default)]
pub(super) struct Gateways(BTreeMap<GatewayAddress, ClusterName>);

impl Gateways {
    pub(super) const fn new(owners: BTreeMap<GatewayAddress, ClusterName>) -> Self {
        Self(owners)
    }
    pub(super) fn owner(&self, at: &GatewayAddress) -> Option<&ClusterName> {
        self.0.get(at)
    }
    /// Addresses that a cluster has, offered or not.
    pub(super) fn of<'a>(&'a self, cluster: &'a ClusterName) -> impl Iterator<Item = &'a GatewayAddress> {
        self.0.iter().filter(move |(_, owner)| *owner == cluster).map(|(at, _)| at)
    }
    /// Gives a free address to a cluster; whether it was free.
    pub(super) fn claim(&mut self, at: GatewayAddress, cluster: &ClusterName) -> bool {
        let free = !self.0.contains_key(&at);
        if free {
            self.0.insert(at, cluster.clone());
        }
        free
    }
}

impl Catalog {
    /// Who has which gateway address, whether it is offered now or not.
    #[must_use]
    pub const fn gateway_owners(&self) -> &BTreeMap<GatewayAddress, ClusterName> {
        &self.gateways.0
    }

    /// Addresses that a cluster has and does not offer.
    pub(super) fn idle_gateways(&self, cluster: &ClusterName) -> Vec<GatewayAddress> {
        let resources = self.origins.get(cluster).into_iter().flat_map(|o| o.history.of_service(None));
        let offered: BTreeSet<GatewayAddress> = resources.filter_map(|(key, _)| gateway_at(key)).collect();
        self.gateways.of(cluster).filter(|at| !offered.contains(*at)).copied().collect()
    }

    /// Takes an address away from the cluster that does not offer it any more, and gives it to the first that waits for
    /// it. `None`: it is offered, or nobody's. The cluster inside: who has it now.
    pub fn free_idle_gateway(&mut self, at: GatewayAddress) -> Option<Option<ClusterName>> {
        let owner = self.gateways.owner(&at)?;
        if self.origins.get(owner).is_some_and(|origin| origin.has_gateway(at)) {
            return None;
        }
        Some(self.free_gateway(at))
    }

    /// Takes away what clusters have that are not among these; gives those who have waited for it.
    pub fn free_gateways_of_others(&mut self, live: impl Fn(&ClusterName) -> bool) -> BTreeSet<ClusterName> {
        let gone: Vec<GatewayAddress> =
            self.gateways.0.iter().filter(|(_, owner)| !live(owner)).map(|(at, _)| *at).collect();
        gone.into_iter().filter_map(|at| self.free_gateway(at)).collect()
    }

    fn free_gateway(&mut self, at: GatewayAddress) -> Option<ClusterName> {
        self.gateways.0.remove(&at);
        let (cluster, origin) = self.origins.iter_mut().find(|(_, o)| o.waits_for(at))?;
        origin.retake(at);
        self.gateways.0.insert(at, cluster.clone());
        Some(cluster.clone())
    }
}
