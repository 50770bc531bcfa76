//! Pure. From facts to resources: what is encoded anew when something changed, and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use meshfed_model::horizon::Client;
use meshfed_model::identity::{SpiffeId, TrustDomain};
use meshfed_model::import::Import;
use meshfed_model::names::{ClusterName, Namespace, ServiceName};
use meshfed_model::service::PortProtocol;
use meshfed_model::sni::SNI_MAX;
use meshfed_model::sorted::SortedSet;

use crate::translate::names::{OUTBOUND_PORT, UNDECLARED_PORT};
use crate::translate::{
    Domain, Kind, Mode, Node, OutboundName, Resource, ServiceFacts, clusters, listeners, routes, secrets,
};

use super::Core;
use super::proxies::{Admitted, Phase};
use super::store::{Class, Scope, StreamId};

/// A workload's namespace, and the services that it is behind.
type Behind = (Namespace, SortedSet<ServiceName>);

impl Core {
    /// Looks again at the facts of `shapes`, and at the assignments of `assignments`.
    pub(super) fn refresh(&mut self, shapes: &BTreeSet<ServiceName>, assignments: &BTreeSet<ServiceName>) {
        self.revision += 1;
        self.effects.mirrored.extend(shapes.union(assignments).cloned());
        let mut changed = BTreeSet::new();
        let (mut routes_changed, mut table_changed) = (false, false);
        let mut assignments = assignments.clone();
        for service in shapes {
            let new = self.facts_of(service);
            let old = self.facts.remove(service).unwrap_or_default();
            if new != old {
                changed.insert(service.clone());
                if !new.same_routes(&old) {
                    routes_changed = true;
                    self.encode_routes(service, &new);
                }
                table_changed |= new.exported != old.exported
                    || new.names != old.names
                    || !new.cluster.keys().eq(old.cluster.keys())
                    || Domain::ALL.into_iter().any(|d| new.manner(d).sticky != old.manner(d).sticky);
                if Domain::ALL.into_iter().any(|d| new.manner(d) != old.manner(d)) {
                    assignments.insert(service.clone());
                }
                self.refresh_clusters(service, &new, &old);
            }
            if !new.is_empty() {
                self.facts.insert(service.clone(), new);
            }
            self.refresh_virtual(service);
        }
        self.refresh_endpoints(&assignments);
        if routes_changed {
            self.refresh_routes();
        }
        if table_changed {
            self.refresh_gateway_clusters();
            self.rebuild_gateways();
        }
        self.effects.names |= !changed.is_empty();
        if !changed.is_empty() {
            let (holding, others): (Vec<_>, Vec<_>) =
                self.admitted().partition(|(_, a)| !a.workload.services.is_disjoint(&changed));
            let ids = |streams: Vec<(StreamId, &Admitted)>| streams.into_iter().map(|(id, _)| id).collect::<Vec<_>>();
            let (holding, others) = (ids(holding), ids(others));
            self.rebuild(&holding);
            if routes_changed {
                // Of the others, only what inbound ports refuse is another.
                self.rebuild_inbound_routes(&others);
            }
        }
    }

    fn facts_of(&self, service: &ServiceName) -> ServiceFacts {
        let shown: BTreeMap<&ClusterName, &BTreeSet<SpiffeId>> = self
            .view
            .service(service)
            .filter_map(|(cluster, shown)| Some((cluster, &shown.offer.as_ref()?.identities)))
            .collect();
        let import = self.import(service);
        ServiceFacts::new(&self.settings.cluster, self.index.service(service), import.as_ref(), |cluster| {
            shown.get(cluster).copied()
        })
    }

    /// All exports of a service that this cluster sees, its own included, as one import.
    #[must_use]
    pub fn import(&self, service: &ServiceName) -> Option<Import> {
        self.view.import(service, self.index.export(service).as_ref())
    }

    fn refresh_clusters(&mut self, service: &ServiceName, new: &ServiceFacts, old: &ServiceFacts) {
        for (name, _) in old.outbound(service) {
            if !new.ports(name.domain).contains_key(&name.port) {
                self.store.remove(&Scope::Sidecars, Kind::Cluster, &name.to_string());
            }
        }
        for (name, facts) in new.outbound(service) {
            let (is, was) = (new.manner(name.domain).sticky, old.manner(name.domain).sticky);
            if old.ports(name.domain).get(&name.port) != Some(facts) || is != was {
                self.store.put(&Scope::Sidecars, clusters::outbound(&name, facts, is));
            }
        }
    }

    // ---- routes and tables ----

    /// Routes of one namespace's clients, when its first client comes.
    pub(super) fn demand_routes(&mut self, namespace: &Namespace) {
        let scope = Scope::Namespace(namespace.clone());
        if self.store.names(&scope, Kind::Route).next().is_none() {
            self.store.put(&scope, routes::outbound(namespace, &self.routes));
        }
    }

    /// The part of one service in all routes.
    fn encode_routes(&mut self, service: &ServiceName, facts: &ServiceFacts) {
        self.effects.routes_encoded += 1;
        if facts.is_empty() {
            self.routes.remove(service);
        } else {
            self.routes.insert(service.clone(), routes::ServiceRoutes::new(service, facts));
        }
    }

    fn refresh_routes(&mut self) {
        let read: Vec<Scope> = self.store.read_scopes().filter(|s| matches!(s, Scope::Namespace(_))).cloned().collect();
        let mut without_own: Option<Arc<Resource>> = None;
        for scope in read {
            let Scope::Namespace(namespace) = &scope else { continue };
            let resource = if routes::has_own(namespace, &self.routes) {
                routes::outbound(namespace, &self.routes)
            } else {
                Arc::clone(without_own.get_or_insert_with(|| routes::outbound(namespace, &self.routes)))
            };
            self.store.put(&scope, resource);
        }
    }

    /// What gateways forward: exported ports, and the own services where the cluster spans networks.
    fn table(&self) -> Vec<OutboundName> {
        let spans = self.settings.networks.len() > 1;
        let mut table = Vec::new();
        for (service, facts) in &self.facts {
            table.extend(facts.exported.iter().map(|p| OutboundName::new(service.clone(), *p, Domain::Clusterset)));
            table.extend(facts.names.iter().map(|(port, subset)| {
                let all = OutboundName::new(service.clone(), *port, Domain::Clusterset);
                OutboundName { subset: subset.clone(), ..all }
            }));
            if spans {
                table.extend(facts.cluster.keys().map(|p| OutboundName::new(service.clone(), *p, Domain::Cluster)));
            }
        }
        table.retain(|name| name.sni().len() <= SNI_MAX);
        table
    }

    fn refresh_gateway_clusters(&mut self) {
        let is_sticky =
            |name: &OutboundName| self.facts.get(&name.service).is_some_and(|f| f.manner(name.domain).sticky);
        let resources: Vec<Arc<Resource>> =
            self.table().iter().map(|name| clusters::gateway(name, is_sticky(name))).collect();
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
                Mode::Sidecar if node.captured => {
                    built.insert(Kind::Listener, self.captured_listeners(workload, node, &bind));
                    let ports = self.index.inbound(&workload.key).into_keys();
                    let target = |port| Self::captured_target(workload, node, port);
                    built.insert(Kind::Cluster, ports.map(target).collect());
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
                    }
                }
            }
            let scope = Scope::Stream(*id);
            for kind in [Kind::Cluster, Kind::Listener] {
                self.store.replace(&scope, kind, built.remove(&kind).unwrap_or_default());
            }
        }
        self.rebuild_inbound_routes(streams);
        self.rebuild_trust_of(streams);
    }

    /// The hosts of the services that hold a port, their own cluster's names first: what the proxy's metrics name.
    pub(super) fn hosts_of(&self, services: &[(ServiceName, u16)]) -> Vec<String> {
        let names: BTreeSet<&ServiceName> = services.iter().map(|(service, _)| service).collect();
        let hosts = |service: &ServiceName| {
            let known = self.facts.get(service).into_iter().flat_map(ServiceFacts::domains);
            let mut domains: Vec<Domain> = known.collect();
            domains.reverse();
            domains.into_iter().map(|domain| service.host(domain.as_str())).collect::<Vec<_>>()
        };
        names.into_iter().flat_map(hosts).collect()
    }

    /// Routes of inbound ports: what workloads behind the same services have in common is made once.
    fn rebuild_inbound_routes(&mut self, streams: &[StreamId]) {
        let mut others: BTreeMap<Behind, routes::OtherHosts> = BTreeMap::new();
        let mut made: BTreeMap<(Behind, u16, bool), Arc<Resource>> = BTreeMap::new();
        for id in streams {
            let Some(entry) = self.streams.get(id) else { continue };
            let Phase::Admitted(admitted) = &entry.phase else { continue };
            if entry.secrets_only || entry.node.client_only || admitted.class.mode == Mode::Gateway {
                continue;
            }
            let (workload, captured) = (&admitted.workload, entry.node.captured);
            let behind: Behind = (workload.key.namespace.clone(), workload.services.clone());
            let mut built = Vec::new();
            for (port, inbound) in self.index.inbound(&workload.key) {
                if inbound.protocol == PortProtocol::Http {
                    let route = made.entry((behind.clone(), port, captured)).or_insert_with(|| {
                        let hosts = others
                            .entry(behind.clone())
                            .or_insert_with_key(|(ns, holding)| routes::other_hosts(ns, holding, &self.routes));
                        routes::inbound(port, hosts, captured)
                    });
                    built.push(Arc::clone(route));
                }
            }
            self.store.replace(&Scope::Stream(*id), Kind::Route, built);
        }
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
            let undeclared = entry.node.captured.then(|| {
                let own = BTreeSet::from([self.settings.trust_domain.clone()]);
                secrets::inbound_trust(UNDECLARED_PORT, &self.bundles, &own)
            });
            let built: Vec<_> = built.into_iter().chain(undeclared).collect();
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
            node: None,
        }
    }

    /// The same class on the workload's node, for services of which each node's clients are given their own.
    #[must_use]
    pub fn class_on_node(&self, workload: &crate::index::Workload, mode: Mode) -> Class {
        let node = self.index.node_of(&workload.key).unwrap_or_default();
        Class { node: Some(node), ..self.class_of(workload, mode) }
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
