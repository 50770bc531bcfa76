//! Pure. Assignments: what each class of clients is handed, encoded when it is asked for or has changed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use meshfed_model::horizon::{
    Assignment, Candidates, Client, DropReason, Dropped, EndpointCandidate, GatewayCandidate, GroupCandidate, Via,
    assign,
};
use meshfed_model::names::{ClusterName, NetworkName, ServiceName, SubsetName};
use meshfed_model::offer::EndpointKey;
use meshfed_model::service::Preference;

use crate::index::{OF_SERVICE, names_endpoint};
use crate::translate::{Domain, Kind, Manner, Mode, OutboundName, PortFacts, Resource, endpoints};

use super::Core;
use super::nearby::first_else;
use super::policies::behind_gateway;
use super::store::{Class, Scope, StreamId};

/// Assignments of one class that are kept before those that nobody wants any more are looked for: twice what one stream
/// may subscribe to.
const DEMAND_MAX: usize = 2 * crate::xds::stream::NAMES_PER_STREAM;

/// An assignment that was looked at again; without resource there is no such service port for the class.
struct Made {
    class: Arc<Class>,
    name: Arc<str>,
    resource: Option<Arc<Resource>>,
}

impl Core {
    /// Encodes the assignments of these services again, once per class that asked for them.
    pub(super) fn refresh_endpoints(&mut self, services: &BTreeSet<ServiceName>) {
        for service in services {
            self.demand_by_node(service);
        }
        let mut made = Vec::new();
        for (class, asked) in &self.demanded {
            for names in services.iter().filter_map(|service| asked.by_service.get(service)) {
                self.encode_assignments(class, names.iter(), &mut made);
            }
        }
        self.put_assignments(made);
    }

    /// Makes sure that an assignment is there, if the service is known: for a client's class, and for that on its node where
    /// the service's clients are told apart by node.
    pub(super) fn demand(&mut self, [class, on_node]: &[Arc<Class>; 2], name: &Arc<str>) {
        let Some(outbound) = OutboundName::parse(name) else { return };
        self.demand_of(class, name, &outbound);
        if self.is_by_node(class.mode, &outbound) {
            self.demand_of(on_node, name, &outbound);
        }
    }

    pub(super) fn demand_of(&mut self, class: &Arc<Class>, name: &Arc<str>, outbound: &OutboundName) {
        let demand = self.demanded.entry(Arc::clone(class)).or_default();
        let names = demand.by_service.entry(outbound.service.clone()).or_default();
        if names.insert(Arc::clone(name), outbound.clone()).is_none() {
            demand.names += 1;
            if demand.names > DEMAND_MAX {
                self.sweep(class);
            }
            let mut made = Vec::new();
            self.encode_assignments(class, std::iter::once((name, outbound)), &mut made);
            self.put_assignments(made);
        }
    }

    /// Forgets assignments that nobody of the class is subscribed to any more.
    fn sweep(&mut self, class: &Arc<Class>) {
        let scope = Scope::Class(Arc::clone(class));
        let readers: Vec<StreamId> = self.store.readers(&scope).collect();
        let Some(demand) = self.demanded.get_mut(class) else { return };
        let streams = &self.streams;
        let wanted =
            |name: &str| readers.iter().filter_map(|id| streams.get(id)).any(|e| e.machine.wants(Kind::Endpoint, name));
        for names in demand.by_service.values_mut() {
            names.retain(|name, _| {
                let keep = wanted(name);
                if !keep {
                    self.store.remove(&scope, Kind::Endpoint, name);
                }
                keep
            });
        }
        demand.by_service.retain(|_, names| !names.is_empty());
        demand.names = demand.by_service.values().map(BTreeMap::len).sum();
    }

    /// Encodes assignments of one service; what is the same under both domains is computed and encoded once.
    fn encode_assignments<'a>(
        &self,
        class: &Arc<Class>,
        names: impl Iterator<Item = (&'a Arc<str>, &'a OutboundName)>,
        made: &mut Vec<Made>,
    ) {
        let mut computed: Vec<(OutboundName, Option<endpoints::Encoded>)> = Vec::new();
        for (name, outbound) in names {
            if self.is_by_node(class.mode, outbound) != class.node.is_some() {
                // The other of the two classes that each client has is told.
                made.push(Made { class: Arc::clone(class), name: Arc::clone(name), resource: None });
                continue;
            }
            let of = if self.is_own_alone(outbound) {
                OutboundName { domain: Domain::Cluster, ..outbound.clone() }
            } else {
                outbound.clone()
            };
            let at = computed.iter().position(|(known, _)| *known == of).unwrap_or_else(|| {
                let assignment = self.assignment(class, &of);
                computed.push((of, assignment.map(|a| endpoints::encode(&outbound.service, &a))));
                computed.len() - 1
            });
            let encoded = computed.get(at).and_then(|(_, encoded)| encoded.as_ref());
            made.push(Made {
                class: Arc::clone(class),
                name: Arc::clone(name),
                resource: encoded.map(|e| e.named(name)),
            });
        }
    }

    fn put_assignments(&mut self, made: Vec<Made>) {
        for Made { class, name, resource } in made {
            let scope = Scope::Class(class);
            match resource {
                Some(resource) => self.store.put(&scope, resource),
                None => self.store.remove(&scope, Kind::Endpoint, &name),
            }
        }
    }

    /// Whether a port under the clusterset host is the own cluster's and nobody else's: then it is what it is under the
    /// cluster host.
    fn is_own_alone(&self, outbound: &OutboundName) -> bool {
        outbound.domain == Domain::Clusterset
            && self.index.service(&outbound.service).is_some_and(|s| s.export_to.is_some())
            && self.facts.get(&outbound.service).is_some_and(|f| {
                let alone = |port: &PortFacts| port.identities.keys().eq([&self.settings.cluster]);
                f.clusterset_manner == f.cluster_manner
                    && f.cluster.contains_key(&outbound.port)
                    && f.clusterset.get(&outbound.port).is_some_and(alone)
            })
    }

    /// What a class of clients is handed; `None`: there is no such service port for it.
    #[must_use]
    pub fn assignment(&self, class: &Class, outbound: &OutboundName) -> Option<Assignment> {
        let facts = self.facts.get(&outbound.service)?;
        let port = facts.ports(outbound.domain).get(&outbound.port)?;
        // The only subsets of this version are the names of a headless service's endpoints.
        if !outbound.subset.is_all() && self.index.service(&outbound.service).is_some_and(|s| !s.is_headless()) {
            return None;
        }
        match class.mode {
            Mode::Gateway => {
                let mut candidates = Candidates { endpoints: self.own_endpoints(outbound), ..Candidates::default() };
                candidates.endpoints.retain(|e| e.mtls && e.network == class.client.network);
                let policy = self.policy(outbound);
                Some(assign(&class.client, &behind_gateway(&policy.spec), &candidates))
            }
            Mode::Sidecar => {
                let candidates = self.identified(outbound, port);
                let policy = self.policy(outbound);
                let near = |candidates| self.part_by_node(class, outbound, candidates);
                Some(match facts.manner(outbound.domain) {
                    Manner { local: true, .. } => assign(&class.client, &policy.spec, &near(candidates).0),
                    Manner { preference: Some(Preference::SameNode), .. } if policy.source == OF_SERVICE => {
                        let (here, elsewhere) = near(candidates);
                        let first = assign(&class.client, &policy.spec, &here);
                        first_else(first, assign(&class.client, &policy.spec, &elsewhere))
                    }
                    Manner { .. } => assign(&class.client, &policy.spec, &candidates),
                })
            }
        }
    }

    /// Ready endpoints that a sidecar could reach and that no tier of the policy selects, by cluster and network.
    #[must_use]
    pub fn unselected(&self, client: &Client, outbound: &OutboundName) -> Vec<Dropped> {
        let port = self.facts.get(&outbound.service).and_then(|f| f.ports(outbound.domain).get(&outbound.port));
        let Some(port) = port else { return Vec::new() };
        let policy = self.policy(outbound);
        // What `internalTrafficPolicy: Local` leaves out no tier selects either.
        let local = self.facts.get(&outbound.service).is_some_and(|f| f.manner(outbound.domain).local);
        let last = u32::try_from(policy.spec.tiers.len()).unwrap_or(u32::MAX);
        // The tier that is added selects all that the others leave.
        let all = assign(client, &behind_gateway(&policy.spec), &self.identified(outbound, port));
        let mut left: BTreeMap<(ClusterName, NetworkName), u32> = BTreeMap::new();
        for item in all.items.into_iter().filter(|item| local || item.tier == last) {
            let ready = match item.via {
                Via::Direct => 1,
                Via::Gateway => item.groups.iter().map(|g| g.ready).fold(0, u32::saturating_add),
            };
            // Every gateway of a network stands for the same endpoints.
            let known = left.entry((item.cluster, item.network)).or_default();
            *known = if item.via == Via::Direct { known.saturating_add(ready) } else { ready.max(*known) };
        }
        let row = |((cluster, network), ready)| Dropped { cluster, network, ready, reason: DropReason::NotSelected };
        left.into_iter().map(row).collect()
    }

    /// What a sidecar may call under the name: only clusters that say whom to find there.
    fn identified(&self, outbound: &OutboundName, port: &PortFacts) -> Candidates {
        let mut candidates = self.candidates(outbound);
        // A port's traffic goes only to clusters that expose it.
        candidates.endpoints.retain(|e| port.identities.contains_key(&e.cluster));
        let identified = port.identities.iter().filter(|(_, ids)| !ids.is_empty());
        endpoints::keep_identified(&mut candidates, &identified.map(|(c, _)| c.clone()).collect());
        candidates
    }

    pub(super) fn own_endpoints(&self, outbound: &OutboundName) -> Vec<EndpointCandidate> {
        let own = self.index.service(&outbound.service);
        let mut all = own.map(|s| s.candidates(outbound.port, &self.settings.cluster)).unwrap_or_default();
        if !outbound.subset.is_all() {
            all.retain(|e| names_endpoint(&outbound.subset, e.address));
        }
        all
    }

    /// Everything that is known of one service port, own and foreign.
    fn candidates(&self, outbound: &OutboundName) -> Candidates {
        let own = &self.settings.cluster;
        let mut all = Candidates::default();
        let exported = self.index.service(&outbound.service).is_some_and(|s| s.export_to.is_some());
        if outbound.domain == Domain::Cluster || exported {
            all.endpoints = self.own_endpoints(outbound);
        }
        all.gateways.extend(self.own_gateways());
        if outbound.domain == Domain::Cluster {
            // A drain is about what the fleet sends here; what a cluster calls by its own names stays in it.
            return all;
        }
        if self.view.is_leaving(own) && all.endpoints.iter().any(|e| e.ready) {
            // What its own clients are told now they go on with when it is no member any more, and nobody else serves them then.
            return all;
        }
        if self.view.is_drained(own) {
            all.drained.insert(own.clone());
        }
        for (cluster, shown) in self.view.service(&outbound.service) {
            if shown.offer.as_ref().is_none_or(|o| o.ports.iter().all(|p| p.port != outbound.port)) {
                continue;
            }
            if self.view.is_drained(cluster) {
                all.drained.insert(cluster.clone());
            }
            let here = |port: u16, subset: &SubsetName| port == outbound.port && *subset == outbound.subset;
            // Single endpoints carry no name of their own: it follows from their address.
            let meant = |key: &EndpointKey| {
                here(key.port, &key.subset)
                    || (key.port == outbound.port && names_endpoint(&outbound.subset, key.address))
            };
            for (key, endpoint) in shown.endpoints.iter().filter(|(k, e)| meant(k) && !e.draining) {
                all.endpoints.push(EndpointCandidate {
                    cluster: cluster.clone(),
                    network: key.network.clone(),
                    locality: endpoint.locality.clone(),
                    address: key.address,
                    port: key.target_port,
                    weight: endpoint.weight,
                    ready: endpoint.ready,
                    mtls: true,
                });
            }
            for (key, group) in shown.groups.iter().filter(|(k, _)| here(k.port, &k.subset)) {
                all.groups.push(GroupCandidate {
                    cluster: cluster.clone(),
                    network: key.network.clone(),
                    locality: key.locality.clone(),
                    ready: group.ready,
                    total: group.total,
                    weight: group.weight,
                });
            }
            all.gateways.extend(self.view.gateways(cluster).filter(|(_, g)| g.ready).map(|(key, gateway)| {
                GatewayCandidate {
                    cluster: cluster.clone(),
                    network: key.network.clone(),
                    address: key.address,
                    port: key.port,
                    locality: gateway.locality.clone(),
                }
            }));
        }
        all
    }

    fn own_gateways(&self) -> impl Iterator<Item = GatewayCandidate> {
        self.index.gateways().flat_map(|gateway| {
            gateway.addresses.iter().filter(|a| a.ready).map(|a| GatewayCandidate {
                cluster: self.settings.cluster.clone(),
                network: gateway.network.clone(),
                address: a.address.ip(),
                port: a.address.port(),
                locality: a.locality.clone(),
            })
        })
    }
}
