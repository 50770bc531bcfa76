//! Pure. From facts to resources: what is encoded anew when something changed, and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use meshfed_model::horizon::{
    Assignment, Candidates, Client, EndpointCandidate, GatewayCandidate, GroupCandidate, assign,
};
use meshfed_model::identity::TrustDomain;
use meshfed_model::names::{Namespace, ServiceName};
use meshfed_model::service::PortProtocol;
use meshfed_model::sni::SNI_MAX;

use crate::translate::facts::Foreign;
use crate::translate::names::OUTBOUND_PORT;
use crate::translate::{
    Domain, Kind, Mode, Node, OutboundName, PortFacts, Resource, ServiceFacts, clusters, endpoints, listeners, routes,
    secrets,
};

use super::Core;
use super::policies::behind_gateway;
use super::proxies::{Admitted, Phase};
use super::store::{Class, Scope, StreamId};

/// Assignments of one class that are kept before those that nobody wants any more are looked for: twice what one stream
/// may subscribe to.
const DEMAND_MAX: usize = 2 * crate::xds::stream::NAMES_PER_STREAM;

/// Host names that inbound ports of one namespace refuse, by the services that the workload is behind.
type OthersCache = BTreeMap<(Namespace, BTreeSet<ServiceName>), Vec<String>>;

/// An assignment that was looked at again; without resource there is no such service port for the class.
struct Made {
    class: Arc<Class>,
    name: Arc<str>,
    resource: Option<Arc<Resource>>,
}

impl Core {
    /// Looks again at the facts of `shapes`, and at the assignments of `assignments`.
    pub(super) fn refresh(&mut self, shapes: &BTreeSet<ServiceName>, assignments: &BTreeSet<ServiceName>) {
        self.revision += 1;
        let mut changed = BTreeSet::new();
        let (mut routes_changed, mut table_changed) = (false, false);
        for service in shapes {
            let new = self.facts_of(service);
            let old = self.facts.remove(service).unwrap_or_default();
            if new != old {
                changed.insert(service.clone());
                routes_changed |= !new.same_routes(&old);
                table_changed |= new.exported != old.exported || !new.cluster.keys().eq(old.cluster.keys());
                self.refresh_clusters(service, &new, &old);
            }
            if !new.is_empty() {
                self.facts.insert(service.clone(), new);
            }
        }
        self.refresh_endpoints(assignments);
        if routes_changed {
            self.refresh_routes();
        }
        if table_changed {
            self.refresh_gateway_clusters();
            self.rebuild_gateways();
        }
        if !changed.is_empty() {
            let holding: Vec<StreamId> = self
                .admitted()
                .filter(|(_, a)| routes_changed || !a.workload.services.is_disjoint(&changed))
                .map(|(id, _)| id)
                .collect();
            self.rebuild(&holding);
        }
    }

    fn facts_of(&self, service: &ServiceName) -> ServiceFacts {
        let foreign = self.view.service(service).filter_map(|(cluster, shown)| {
            let offer = shown.offer.as_ref()?;
            Some(Foreign { cluster, ports: &offer.ports, identities: &offer.identities })
        });
        ServiceFacts::new(&self.settings.cluster, self.index.service(service), foreign)
    }

    fn refresh_clusters(&mut self, service: &ServiceName, new: &ServiceFacts, old: &ServiceFacts) {
        for (name, _) in old.outbound(service) {
            if !new.ports(name.domain).contains_key(&name.port) {
                self.store.remove(&Scope::Sidecars, Kind::Cluster, &name.to_string());
            }
        }
        for (name, facts) in new.outbound(service) {
            if old.ports(name.domain).get(&name.port) != Some(facts) {
                self.store.put(&Scope::Sidecars, clusters::outbound(&name, facts));
            }
        }
    }

    // ---- assignments ----

    /// Encodes the assignments of these services again, once per class that asked for them.
    pub(super) fn refresh_endpoints(&mut self, services: &BTreeSet<ServiceName>) {
        let mut made = Vec::new();
        for (class, asked) in &self.demanded {
            for names in services.iter().filter_map(|service| asked.by_service.get(service)) {
                self.encode_assignments(class, names.iter(), &mut made);
            }
        }
        self.put_assignments(made);
    }

    /// Makes sure that an assignment is there, if the service is known.
    pub(super) fn demand(&mut self, class: &Arc<Class>, name: &Arc<str>) {
        let Some(outbound) = OutboundName::parse(name) else { return };
        let demand = self.demanded.entry(Arc::clone(class)).or_default();
        let names = demand.by_service.entry(outbound.service.clone()).or_default();
        if names.insert(Arc::clone(name), outbound.clone()).is_none() {
            demand.names += 1;
            if demand.names > DEMAND_MAX {
                self.sweep(class);
            }
            let mut made = Vec::new();
            self.encode_assignments(class, std::iter::once((name, &outbound)), &mut made);
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
                let foreign = |port: &PortFacts| port.identities.keys().any(|c| *c != self.settings.cluster);
                f.cluster.contains_key(&outbound.port) && !f.clusterset.get(&outbound.port).is_none_or(foreign)
            })
    }

    /// What a class of clients is handed; `None`: there is no such service port for it.
    #[must_use]
    pub fn assignment(&self, class: &Class, outbound: &OutboundName) -> Option<Assignment> {
        let facts = self.facts.get(&outbound.service)?;
        let port = facts.ports(outbound.domain).get(&outbound.port)?;
        if !outbound.subset.is_all() {
            return None;
        }
        match class.mode {
            Mode::Gateway => {
                let mut candidates = Candidates { endpoints: self.own_endpoints(outbound), ..Candidates::default() };
                candidates.endpoints.retain(|e| e.mtls && e.network == class.client.network);
                let policy = self.index.policy_for(&outbound.service);
                Some(assign(&class.client, &behind_gateway(&policy.spec), &candidates))
            }
            Mode::Sidecar => {
                let mut candidates = self.candidates(outbound);
                let identified = port.identities.iter().filter(|(_, ids)| !ids.is_empty());
                endpoints::keep_identified(&mut candidates, &identified.map(|(c, _)| c.clone()).collect());
                let policy = self.index.policy_for(&outbound.service);
                Some(assign(&class.client, &policy.spec, &candidates))
            }
        }
    }

    fn own_endpoints(&self, outbound: &OutboundName) -> Vec<EndpointCandidate> {
        let own = self.index.service(&outbound.service);
        own.map(|s| s.candidates(outbound.port, &self.settings.cluster)).unwrap_or_default()
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
        if self.view.is_drained(own) {
            all.drained.insert(own.clone());
        }
        if outbound.domain == Domain::Cluster {
            return all;
        }
        for (cluster, shown) in self.view.service(&outbound.service) {
            if shown.offer.as_ref().is_none_or(|o| o.ports.iter().all(|p| p.port != outbound.port)) {
                continue;
            }
            if self.view.is_drained(cluster) {
                all.drained.insert(cluster.clone());
            }
            let here = |port: u16, subset: &meshfed_model::names::SubsetName| {
                port == outbound.port && *subset == outbound.subset
            };
            for (key, endpoint) in shown.endpoints.iter().filter(|(k, e)| here(k.port, &k.subset) && !e.draining) {
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

    // ---- routes and tables ----

    /// Routes of one namespace's clients, when its first client comes.
    pub(super) fn demand_routes(&mut self, namespace: &Namespace) {
        let scope = Scope::Namespace(namespace.clone());
        if self.store.names(&scope, Kind::Route).next().is_none() {
            self.store.put(&scope, routes::outbound(namespace, &self.facts));
        }
    }

    fn refresh_routes(&mut self) {
        let read: Vec<Scope> = self.store.read_scopes().filter(|s| matches!(s, Scope::Namespace(_))).cloned().collect();
        for scope in read {
            if let Scope::Namespace(namespace) = &scope {
                self.store.put(&scope, routes::outbound(namespace, &self.facts));
            }
        }
    }

    /// What gateways forward: exported ports, and the own services where the cluster spans networks.
    fn table(&self) -> Vec<OutboundName> {
        let spans = self.settings.networks.len() > 1;
        let mut table = Vec::new();
        for (service, facts) in &self.facts {
            table.extend(facts.exported.iter().map(|p| OutboundName::new(service.clone(), *p, Domain::Clusterset)));
            if spans {
                table.extend(facts.cluster.keys().map(|p| OutboundName::new(service.clone(), *p, Domain::Cluster)));
            }
        }
        table.retain(|name| name.sni().len() <= SNI_MAX);
        table
    }

    fn refresh_gateway_clusters(&mut self) {
        let resources: Vec<Arc<Resource>> = self.table().iter().map(clusters::gateway).collect();
        self.store.replace(&Scope::Gateways, Kind::Cluster, resources);
    }

    /// Listeners of all gateways.
    pub(super) fn rebuild_gateways(&mut self) {
        let gateways: Vec<StreamId> =
            self.admitted().filter(|(_, a)| a.class.mode == Mode::Gateway).map(|(id, _)| id).collect();
        self.rebuild(&gateways);
    }

    // ---- one proxy's own resources ----

    pub(super) fn admitted(&self) -> impl Iterator<Item = (StreamId, &Admitted)> {
        self.streams.iter().filter_map(|(id, e)| match &e.phase {
            Phase::Admitted(a) => Some((*id, a.as_ref())),
            Phase::Waiting(_) => None,
        })
    }

    /// Encodes what belongs to single proxies. What proxies have in common is encoded once.
    pub(super) fn rebuild(&mut self, streams: &[StreamId]) {
        if streams.is_empty() {
            return;
        }
        let mut others = OthersCache::new();
        let mut inbound_routes: BTreeMap<(Namespace, BTreeSet<ServiceName>, u16), Arc<Resource>> = BTreeMap::new();
        let table = self.table();
        for id in streams {
            let Some(entry) = self.streams.get(id) else { continue };
            let Phase::Admitted(admitted) = &entry.phase else { continue };
            if entry.secrets_only {
                continue;
            }
            let (workload, node) = (&admitted.workload, &entry.node);
            let bind: Vec<IpAddr> = if node.bind.is_empty() { workload.addresses.to_vec() } else { node.bind.clone() };
            let mut built: BTreeMap<Kind, Vec<Arc<Resource>>> = BTreeMap::new();
            match admitted.class.mode {
                Mode::Gateway => {
                    let at = self.gateway_addresses(admitted, node, &bind);
                    built
                        .entry(Kind::Listener)
                        .or_default()
                        .extend(at.into_iter().filter_map(|a| listeners::gateway(&bind, a, &table)));
                }
                Mode::Sidecar => {
                    built.entry(Kind::Listener).or_default().extend(outbound_listeners(node, &bind));
                    let ports = if node.client_only { BTreeMap::new() } else { self.index.inbound(&workload.key) };
                    let source =
                        if let [one] = bind.as_slice() { Some(*one).filter(|a| !a.is_unspecified()) } else { None };
                    for (port, inbound) in ports {
                        let at: Vec<SocketAddr> = bind.iter().map(|a| SocketAddr::new(*a, port)).collect();
                        built.entry(Kind::Listener).or_default().extend(listeners::inbound(
                            port,
                            &bind,
                            &at,
                            inbound.protocol,
                            &self.hosts_of(&inbound.services),
                        ));
                        let target = node.inbound.get(&port).copied();
                        let target = target.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], port)));
                        built.entry(Kind::Cluster).or_default().push(clusters::inbound(port, target, source));
                        if inbound.protocol == PortProtocol::Http {
                            let key = (workload.key.namespace.clone(), workload.services.clone());
                            let shared = (key.0.clone(), key.1.clone(), port);
                            let route = inbound_routes.entry(shared).or_insert_with(|| {
                                let hosts = others
                                    .entry(key)
                                    .or_insert_with_key(|(ns, holding)| routes::other_hosts(ns, holding, &self.facts));
                                routes::inbound(port, hosts)
                            });
                            built.entry(Kind::Route).or_default().push(Arc::clone(route));
                        }
                    }
                }
            }
            let scope = Scope::Stream(*id);
            for kind in [Kind::Cluster, Kind::Listener, Kind::Route] {
                self.store.replace(&scope, kind, built.remove(&kind).unwrap_or_default());
            }
        }
        self.rebuild_trust_of(streams);
    }

    /// The hosts of the services that hold a port, their own cluster's names first: what the proxy's metrics name.
    fn hosts_of(&self, services: &[(ServiceName, u16)]) -> Vec<String> {
        let names: BTreeSet<&ServiceName> = services.iter().map(|(service, _)| service).collect();
        let hosts = |service: &ServiceName| {
            let known = self.facts.get(service).into_iter().flat_map(ServiceFacts::domains);
            let mut domains: Vec<Domain> = known.collect();
            domains.reverse();
            domains.into_iter().map(|domain| service.host(domain.as_str())).collect::<Vec<_>>()
        };
        names.into_iter().flat_map(hosts).collect()
    }

    fn gateway_addresses(&self, admitted: &Admitted, node: &Node, bind: &[IpAddr]) -> Vec<SocketAddr> {
        if let Some(at) = &node.listen_gateway {
            return at.clone();
        }
        let Some(listen) = self.index.gateway_listen(&admitted.workload.key) else { return Vec::new() };
        if !listen.own.is_empty() {
            return listen.own;
        }
        let shared: Vec<SocketAddr> =
            listen.shared.into_iter().filter(|a| node.host_addresses.contains(&a.ip())).collect();
        if shared.is_empty() { bind.iter().map(|a| SocketAddr::new(*a, listen.port)).collect() } else { shared }
    }

    /// Who may call each port: depends on exports, members and bundles.
    pub(super) fn rebuild_trust(&mut self) {
        let all: Vec<StreamId> = self.admitted().map(|(id, _)| id).collect();
        self.rebuild_trust_of(&all);
    }

    fn rebuild_trust_of(&mut self, streams: &[StreamId]) {
        for id in streams {
            let Some(entry) = self.streams.get(id) else { continue };
            let Phase::Admitted(admitted) = &entry.phase else { continue };
            if admitted.class.mode == Mode::Gateway || entry.node.client_only {
                continue;
            }
            let ports = self.index.inbound(&admitted.workload.key);
            let built: Vec<Arc<Resource>> = ports
                .iter()
                .map(|(port, inbound)| {
                    let mut allowed: BTreeSet<TrustDomain> = BTreeSet::from([self.settings.trust_domain.clone()]);
                    for member in self.view.members().members.values() {
                        if inbound.export_to.iter().any(|e| e.includes(&member.cluster, &member.labels)) {
                            allowed.insert(member.trust_domain.clone());
                        }
                    }
                    secrets::inbound_trust(*port, &self.bundles, &allowed)
                })
                .collect();
            self.store.replace(&Scope::Stream(*id), Kind::Secret, built);
        }
    }

    /// The class of a workload's clients.
    #[must_use]
    pub fn class_of(&self, workload: &crate::index::Workload, mode: Mode) -> Class {
        let families = meshfed_model::horizon::Families {
            v4: workload.addresses.iter().any(IpAddr::is_ipv4),
            v6: workload.addresses.iter().any(IpAddr::is_ipv6),
        };
        Class {
            mode,
            client: Client {
                cluster: self.settings.cluster.clone(),
                network: workload.network.clone(),
                locality: workload.locality.clone(),
                families,
            },
        }
    }
}

fn outbound_listeners(node: &Node, bind: &[IpAddr]) -> Vec<Arc<Resource>> {
    let at = match &node.listen_outbound {
        Some(at) => at.clone(),
        None => bind.iter().map(|a| SocketAddr::new(*a, OUTBOUND_PORT)).collect(),
    };
    let tcp = node.outbound.iter().filter_map(|(listen, target)| listeners::outbound_tcp(bind, *listen, target));
    listeners::outbound(bind, &at).into_iter().chain(tcp).collect()
}
