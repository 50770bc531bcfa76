//! Pure. What the catalog says about one service over all its exporters (KEP-1645: the first seen wins).

use std::collections::{BTreeMap, BTreeSet};

use meshfed_model::names::{ClusterName, NetworkName, ServiceName, SubsetName};
use meshfed_model::offer::{GatewayKey, GatewayOffer, GroupKey, GroupOffer, OfferKey, OfferValue, ServiceOffer};
use meshfed_model::service::{ServicePort, ServiceType};

use super::Catalog;

/// A port with those who expose it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MergedPort {
    /// The port as the first seen of its exporters describes it.
    pub port: ServicePort,
    /// Its exporters.
    pub clusters: BTreeSet<ClusterName>,
}

/// A service over all its exporters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merged {
    /// The type as the first seen exporter says.
    pub service_type: ServiceType,
    /// The union of ports, by number.
    pub ports: Vec<MergedPort>,
    /// Who was seen first, when exporters contradict each other.
    pub winner: Option<ClusterName>,
    /// Contradicted fields: `type`, `ports`.
    pub fields: Vec<&'static str>,
    /// In words; empty without conflict.
    pub message: String,
}

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
    pub fn merged(&self, service: &ServiceName) -> Option<Merged> {
        let clusters = self.by_seniority(service);
        let offers: Vec<(&ClusterName, &ServiceOffer)> =
            clusters.iter().filter_map(|c| Some((c, self.offer(c, service)?))).collect();
        merge(service, &offers)
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

/// Merges what exporters say, the first seen first.
#[must_use]
pub(crate) fn merge(service: &ServiceName, offers: &[(&ClusterName, &ServiceOffer)]) -> Option<Merged> {
    let (winner, first) = offers.first()?;
    let mut ports: BTreeMap<u16, MergedPort> = BTreeMap::new();
    for (cluster, offer) in offers {
        for port in &offer.ports {
            let merged =
                ports.entry(port.port).or_insert_with(|| MergedPort { port: port.clone(), clusters: BTreeSet::new() });
            merged.clusters.insert((*cluster).clone());
        }
    }
    // What is shown is compared: `appProtocol: http` says no more than the name `http` does.
    let said = |p: &ServicePort| (p.port, p.name.clone(), p.protocol.clone(), p.shown_app_protocol().to_owned());
    let set = |o: &ServiceOffer| o.ports.iter().map(said).collect::<BTreeSet<_>>();
    let ports_differ = offers.iter().filter(|(_, o)| set(o) != set(first)).count();
    let types_differ = offers.iter().filter(|(_, o)| o.service_type != first.service_type).count();
    let mut fields = Vec::new();
    let mut reasons = Vec::new();
    for (field, count) in [("ports", ports_differ), ("type", types_differ)] {
        if count > 0 {
            fields.push(field);
            reasons.push(format!("{count} of {} exporters of {service} say otherwise about {field}", offers.len()));
        }
    }
    let message = if reasons.is_empty() {
        String::new()
    } else {
        format!("{}; cluster '{winner}' exported it first and wins", reasons.join(", "))
    };
    Some(Merged {
        service_type: first.service_type,
        ports: ports.into_values().collect(),
        winner: (!fields.is_empty()).then(|| (*winner).clone()),
        fields,
        message,
    })
}
