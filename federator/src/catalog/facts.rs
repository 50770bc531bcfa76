//! Pure. What the catalog says about one service over all its exporters (KEP-1645: the first seen wins).

use std::collections::BTreeMap;

use meshfed_model::import::Import;
use meshfed_model::names::{ClusterName, NetworkName, ServiceName, SubsetName};
use meshfed_model::offer::{GatewayKey, GatewayOffer, GroupKey, GroupOffer, OfferKey, OfferValue, ServiceOffer};
use meshfed_model::version::Version;

use super::Catalog;

/// One exporter of one port that is not exported to somebody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortFacts {
    /// The network of the groups.
    pub network: NetworkName,
    /// Ready endpoints there.
    pub ready: u32,
}

impl Catalog {
    /// What one cluster says of a service.
    #[must_use]
    pub fn offer(&self, cluster: &ClusterName, service: &ServiceName) -> Option<&ServiceOffer> {
        match self.history(cluster)?.get(&OfferKey::Service(service.clone()))? {
            OfferValue::Service(offer) => Some(offer),
            OfferValue::Group(_) | OfferValue::Endpoint(_) | OfferValue::Gateway(_) => None,
        }
    }

    /// The groups of one cluster's service, in order.
    pub fn groups(
        &self,
        cluster: &ClusterName,
        service: &ServiceName,
    ) -> impl Iterator<Item = (&GroupKey, &GroupOffer)> {
        let resources = self.history(cluster).into_iter().flat_map(move |h| h.of_service(Some(service)));
        resources.filter_map(|(key, value)| match (key, value) {
            (OfferKey::Group(key), OfferValue::Group(value)) => Some((key, value)),
            (OfferKey::Service(_) | OfferKey::Group(_) | OfferKey::Endpoint(_) | OfferKey::Gateway(_), _) => None,
        })
    }

    /// The gateways of one cluster, in order.
    pub fn gateways_of(&self, cluster: &ClusterName) -> impl Iterator<Item = (&GatewayKey, &GatewayOffer)> {
        let resources = self.history(cluster).into_iter().flat_map(|h| h.of_service(None));
        resources.filter_map(|(key, value)| match (key, value) {
            (OfferKey::Gateway(key), OfferValue::Gateway(value)) => Some((key, value)),
            (OfferKey::Service(_) | OfferKey::Group(_) | OfferKey::Endpoint(_) | OfferKey::Gateway(_), _) => None,
        })
    }

    /// Who exports a service, first seen first; those whose claim is not durable yet come last, by name.
    #[must_use]
    pub fn by_seniority(&self, service: &ServiceName) -> Vec<ClusterName> {
        let exporters = self.exporters.get(service);
        let mut clusters: Vec<ClusterName> = exporters.into_iter().flatten().cloned().collect();
        clusters.sort_by_key(|c| (self.first_seen(service, c).unwrap_or(u64::MAX), c.clone()));
        clusters
    }

    /// A service over all its exporters; `None` when nobody exports it.
    #[must_use]
    pub fn merged(&self, service: &ServiceName) -> Option<Import> {
        let clusters = self.by_seniority(service);
        let offers: Vec<(&ClusterName, &ServiceOffer)> =
            clusters.iter().filter_map(|c| Some((c, self.offer(c, service)?))).collect();
        Import::merge(&offers)
    }

    /// Who of those that `sees` picks exports a service, first seen first, as far as that is durable; empty where there
    /// are not two of them. `None`: one that had an export before has not offered since this hub started, and what was
    /// said before stands.
    #[must_use]
    pub fn order(
        &self,
        service: &ServiceName,
        sees: impl Fn(&ClusterName, &ServiceOffer) -> bool,
    ) -> Option<Vec<ClusterName>> {
        let claims = self.claims.get(service)?;
        let silent = |c: &ClusterName| self.history(c).is_some_and(|h| h.version() == Version::default());
        if claims.keys().any(silent) {
            return None;
        }
        let mut clusters: Vec<(u64, &ClusterName)> = claims.iter().map(|(c, revision)| (*revision, c)).collect();
        clusters.retain(|(_, c)| self.offer(c, service).is_some_and(|offer| sees(c, offer)));
        clusters.sort();
        if clusters.len() < 2 {
            clusters.clear();
        }
        Some(clusters.into_iter().map(|(_, c)| c.clone()).collect())
    }

    /// Whether several clusters have a claim to the name.
    #[must_use]
    pub fn is_shared(&self, service: &ServiceName) -> bool {
        self.claims.get(service).is_some_and(|claims| claims.len() > 1)
    }
    /// Services that several clusters have a claim to, in order.
    pub fn shared_names(&self) -> impl Iterator<Item = &ServiceName> {
        self.claims.iter().filter(|(_, claims)| claims.len() > 1).map(|(service, _)| service)
    }

    /// Claims of clusters that are not among these.
    #[must_use]
    pub fn claims_of_others(&self, live: impl Fn(&ClusterName) -> bool) -> BTreeMap<ClusterName, Vec<ServiceName>> {
        let mut others: BTreeMap<ClusterName, Vec<ServiceName>> = BTreeMap::new();
        for (service, claims) in &self.claims {
            for cluster in claims.keys().filter(|c| !live(c)) {
                others.entry(cluster.clone()).or_default().push(service.clone());
            }
        }
        others
    }

    /// Ready and listed endpoints of one cluster's service: over all localities of its busiest port.
    #[must_use]
    pub fn endpoints(&self, cluster: &ClusterName, service: &ServiceName) -> (u64, u64) {
        let mut ports: BTreeMap<u16, (u64, u64)> = BTreeMap::new();
        for (key, group) in self.groups(cluster, service).filter(|(k, _)| k.subset == SubsetName::all()) {
            let count = ports.entry(key.port).or_default();
            count.0 += u64::from(group.ready);
            count.1 += u64::from(group.total);
        }
        ports.into_values().max_by_key(|(ready, total)| (*total, *ready)).unwrap_or_default()
    }

    /// Ready endpoints of a port per network, for those who do not see them.
    #[must_use]
    pub fn ready_by_network(&self, cluster: &ClusterName, service: &ServiceName, port: u16) -> Vec<PortFacts> {
        let mut networks: BTreeMap<NetworkName, u32> = BTreeMap::new();
        for (key, group) in self.groups(cluster, service) {
            if key.port == port && key.subset == SubsetName::all() {
                let ready = networks.entry(key.network.clone()).or_default();
                *ready = ready.saturating_add(group.ready);
            }
        }
        networks
            .into_iter()
            .filter(|(_, ready)| *ready > 0)
            .map(|(network, ready)| PortFacts { network, ready })
            .collect()
    }
}
