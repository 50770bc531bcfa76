//! Pure. What clusters, routes and tables are made of, per service: everything but endpoints and health. An endpoint
//! change leaves the facts equal, and nothing that is made of them is encoded again.

use std::collections::{BTreeMap, BTreeSet};

use meshfed_model::export::ExportTo;
use meshfed_model::identity::SpiffeId;
use meshfed_model::import::Import;
use meshfed_model::names::{ClusterName, ServiceName, SubsetName};
use meshfed_model::service::{InternalTrafficPolicy, Preference, ServicePort, ServiceTraits};

use crate::index::LocalService;

use super::names::{Domain, OutboundName};

/// One port of a service as a client sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortFacts {
    /// The port; of several clusters that expose it, as the oldest export describes it.
    pub port: ServicePort,
    /// Whom a client must find there, by the cluster that exposes the port.
    pub identities: BTreeMap<ClusterName, BTreeSet<SpiffeId>>,
}

/// Which of its endpoints a client is given, as the service asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Manner {
    /// One client stays on one endpoint.
    pub sticky: bool,
    /// Only endpoints on the client's node.
    pub local: bool,
    /// Which are preferred.
    pub preference: Option<Preference>,
}

impl Manner {
    /// What these traits ask for.
    #[must_use]
    pub fn of(traits: &ServiceTraits) -> Self {
        Self {
            sticky: traits.is_sticky(),
            local: traits.internal_traffic_policy == InternalTrafficPolicy::Local,
            preference: traits.preference(),
        }
    }
    /// Whether clients on different nodes are given different endpoints.
    #[must_use]
    pub fn by_node(self) -> bool {
        self.local || self.preference == Some(Preference::SameNode)
    }
}

/// Everything about one service that is not an endpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServiceFacts {
    /// Ports under the clusterset host: of all clusters that export to us, the own one included if it exports.
    pub clusterset: BTreeMap<u16, PortFacts>,
    /// Ports under the cluster host.
    pub cluster: BTreeMap<u16, PortFacts>,
    /// What the import asks of its clients.
    pub clusterset_manner: Manner,
    /// What the own Service asks of its clients.
    pub cluster_manner: Manner,
    /// To whom the own cluster exports it.
    pub export_to: Option<ExportTo>,
    /// Ports that the own cluster exports.
    pub exported: BTreeSet<u16>,
    /// Names of ready endpoints that the own cluster offers one by one, with their port: of a headless service.
    pub names: BTreeSet<(u16, SubsetName)>,
}

impl ServiceFacts {
    /// The facts of a service of our own, of others', or of both: `import` is what all exports that this cluster sees
    /// make together, `identities` who is behind those of other clusters. Gateways are nobody's service, and ports that
    /// nobody serves yet are nobody's routes.
    #[must_use]
    pub fn new<'a>(
        own_cluster: &ClusterName,
        own: Option<&LocalService>,
        import: Option<&Import>,
        identities: impl Fn(&ClusterName) -> Option<&'a BTreeSet<SpiffeId>>,
    ) -> Self {
        let mut facts = Self::default();
        let own = own.filter(|s| !s.gateway);
        if let Some(own) = own {
            let identities: BTreeSet<SpiffeId> = own.identities().cloned().collect();
            for port in own.ports.iter().filter(|p| p.is_served()) {
                add(&mut facts.cluster, port, own_cluster, &identities);
                if own.export_to.is_some() {
                    facts.exported.insert(port.port);
                }
            }
            facts.cluster_manner = Manner::of(&own.traits);
            facts.export_to.clone_from(&own.export_to);
            if own.export_to.is_some() && own.is_headless() {
                facts.names = own.names().map(|(name, endpoint)| (endpoint.port, name)).collect();
            }
        }
        facts.clusterset_manner = import.map(|import| Manner::of(&import.traits)).unwrap_or_default();
        let served = import.into_iter().flat_map(|import| &import.ports).filter(|p| p.port.is_served());
        for merged in served {
            for cluster in &merged.clusters {
                let known = if cluster == own_cluster {
                    own.map(|own| own.identities().cloned().collect())
                } else {
                    identities(cluster).cloned()
                };
                add(&mut facts.clusterset, &merged.port, cluster, &known.unwrap_or_default());
            }
        }
        facts
    }

    /// Whether nobody can call it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.clusterset.is_empty() && self.cluster.is_empty()
    }

    /// The ports under a domain.
    #[must_use]
    pub const fn ports(&self, domain: Domain) -> &BTreeMap<u16, PortFacts> {
        match domain {
            Domain::Clusterset => &self.clusterset,
            Domain::Cluster => &self.cluster,
        }
    }

    /// What is asked of clients under a domain.
    #[must_use]
    pub const fn manner(&self, domain: Domain) -> Manner {
        match domain {
            Domain::Clusterset => self.clusterset_manner,
            Domain::Cluster => self.cluster_manner,
        }
    }

    /// The outbound names of the service.
    pub fn outbound(&self, service: &ServiceName) -> impl Iterator<Item = (OutboundName, &PortFacts)> {
        Domain::ALL.into_iter().flat_map(move |domain| {
            self.ports(domain)
                .iter()
                .map(move |(port, facts)| (OutboundName::new(service.clone(), *port, domain), facts))
        })
    }

    /// The hosts under which it is known.
    pub fn domains(&self) -> impl Iterator<Item = Domain> {
        Domain::ALL.into_iter().filter(|d| !self.ports(*d).is_empty())
    }

    /// Whether routes made of `other` equal those made of these facts.
    #[must_use]
    pub fn same_routes(&self, other: &Self) -> bool {
        self.clusterset.keys().eq(other.clusterset.keys()) && self.cluster.keys().eq(other.cluster.keys())
    }
}

fn add(
    ports: &mut BTreeMap<u16, PortFacts>,
    port: &ServicePort,
    cluster: &ClusterName,
    identities: &BTreeSet<SpiffeId>,
) {
    let facts = ports.entry(port.port).or_insert_with(|| PortFacts { port: port.clone(), identities: BTreeMap::new() });
    facts.identities.insert(cluster.clone(), identities.clone());
}
