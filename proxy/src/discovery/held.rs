//! Pure. What the proxy holds of the agent's resources, and what becomes usable when something arrives.
//!
//! A resource that cannot be used is refused by name and its last good version stays. A cluster is usable when its
//! endpoints and secrets are here, a listener when its routes and secrets are; what is used is never taken away for
//! something that is still coming (make before break).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use meshfed_api::proto::envoy::service::discovery::v3::{DeltaDiscoveryResponse, Resource};
use meshfed_runtime::tls::{IdentityStore, TrustStore};
use prost::Message as _;

use super::Kind;
use super::build;
use super::convert::{
    self, ActionSpec, Assignment, ClusterSpec, EndpointSource, ListenerSpec, ListenerSpecKind, RouteSpec, SecretSpec,
};
use super::listeners::references;
use super::nowhere::nowhere;
use super::sni::SniRoutes;
use crate::state::{
    Cell, ClusterCell, ClusterCounters, Listener, ListenerCell, RouteAction, RouteCell, RouteTable, StateHandle,
};

/// The secret with our identity.
pub const IDENTITY_SECRET: &str = "default";
/// The secret with all bundles.
pub const TRUST_SECRET: &str = "trust";

/// What a response changed.
#[derive(Debug, Default)]
pub struct Applied {
    /// Refused resources with the reason.
    pub refused: Vec<(String, String)>,
}

/// A change that the sockets have to follow.
#[derive(Debug, Clone)]
pub enum ListenerChange {
    /// Listen (again) with this version.
    Install(Arc<ListenerCell>, Arc<Listener>),
    /// Stop.
    Remove(Arc<str>),
}

#[derive(Debug)]
struct HeldCluster {
    spec: ClusterSpec,
    built: Option<build::Transports>,
    counters: Arc<ClusterCounters>,
}

/// All that is held.
#[derive(Debug)]
pub struct Held {
    pub(super) state: Arc<StateHandle>,
    pub(super) identity: Arc<IdentityStore>,
    /// Replaces the addresses of inbound listeners (`--inbound-listen`).
    inbound_listen: Vec<SocketAddr>,
    /// Whether connections are captured, so that endpoints are looked up by address.
    captures: bool,
    trusts: BTreeMap<Arc<str>, Arc<TrustStore>>,
    pub(super) secrets: BTreeSet<Arc<str>>,
    clusters: BTreeMap<Arc<str>, HeldCluster>,
    assignments: BTreeMap<Arc<str>, Arc<Assignment>>,
    pub(super) routes: BTreeSet<Arc<str>>,
    pub(super) listeners: BTreeMap<Arc<str>, ListenerSpec>,
    /// Listeners whose newest version was not handed to the sockets yet.
    waiting: BTreeSet<Arc<str>>,
    removed: BTreeSet<Arc<str>>,
    cluster_cells: BTreeMap<Arc<str>, Arc<ClusterCell>>,
    route_cells: BTreeMap<Arc<str>, Arc<RouteCell>>,
    pub(super) listener_cells: BTreeMap<Arc<str>, Arc<ListenerCell>>,
    pub(super) sni_routes: SniRoutes,
    versions: BTreeMap<Kind, BTreeMap<String, String>>,
    maps_changed: bool,
    /// Our identity comes from elsewhere: it is neither asked for nor taken here.
    own_identity: bool,
}

impl Held {
    /// Nothing yet.
    #[must_use]
    pub fn new(
        state: Arc<StateHandle>,
        identity: Arc<IdentityStore>,
        trust: Arc<TrustStore>,
        inbound_listen: Vec<SocketAddr>,
    ) -> Self {
        Self {
            state,
            identity,
            inbound_listen,
            captures: false,
            trusts: BTreeMap::from([(TRUST_SECRET.into(), trust)]),
            secrets: BTreeSet::new(),
            clusters: BTreeMap::new(),
            assignments: BTreeMap::new(),
            routes: BTreeSet::new(),
            listeners: BTreeMap::new(),
            waiting: BTreeSet::new(),
            removed: BTreeSet::new(),
            cluster_cells: BTreeMap::new(),
            route_cells: BTreeMap::new(),
            listener_cells: BTreeMap::new(),
            sni_routes: SniRoutes::default(),
            versions: BTreeMap::new(),
            maps_changed: false,
            own_identity: false,
        }
    }

    /// With an identity that is made in this process: no secret of the agent is one.
    #[must_use]
    pub fn with_own_identity(mut self) -> Self {
        self.own_identity = true;
        self.secrets.insert(IDENTITY_SECRET.into());
        self
    }

    /// Connections are captured.
    #[must_use]
    pub fn capturing(self, captures: bool) -> Self {
        Self { captures, ..self }
    }

    /// Applies a response: what is good of it at once, the rest is refused by name.
    pub fn apply(&mut self, kind: Kind, response: &DeltaDiscoveryResponse) -> Applied {
        let mut applied = Applied::default();
        for resource in &response.resources {
            match self.take(kind, resource) {
                Ok(()) => {
                    self.versions.entry(kind).or_default().insert(resource.name.clone(), resource.version.clone());
                }
                Err(why) => applied.refused.push((resource.name.clone(), why)),
            }
        }
        for name in &response.removed_resources {
            if let Some(held) = self.versions.get_mut(&kind) {
                held.remove(name);
            }
            self.remove(kind, name);
        }
        self.publish();
        applied
    }

    fn take(&mut self, kind: Kind, resource: &Resource) -> Result<(), String> {
        let Some(any) = &resource.resource else { return Err("has no body".to_owned()) };
        if any.type_url != kind.type_url() {
            return Err(format!("is a {}", any.type_url));
        }
        let name: Arc<str> = resource.name.as_str().into();
        let body = any.value.clone();
        let broken = |e: prost::DecodeError| e.to_string();
        let refused = |e: convert::Invalid| e.to_string();
        match kind {
            Kind::Secret => {
                let message = envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::Secret::decode(body)
                    .map_err(broken)?;
                self.take_secret(&name, convert::secret(&message).map_err(refused)?)
            }
            Kind::Cluster => {
                let message = envoy_types::pb::envoy::config::cluster::v3::Cluster::decode(body).map_err(broken)?;
                self.take_cluster(&name, convert::cluster(&message).map_err(refused)?);
                Ok(())
            }
            Kind::Endpoint => {
                let message = envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment::decode(body)
                    .map_err(broken)?;
                self.take_assignment(&name, convert::assignment(&message).map_err(refused)?);
                Ok(())
            }
            Kind::Listener => {
                let message = envoy_types::pb::envoy::config::listener::v3::Listener::decode(body).map_err(broken)?;
                if &*name == convert::NAMES {
                    self.state.publish_names(Some(convert::names(&message).map_err(refused)?));
                    return Ok(());
                }
                let mut spec = convert::listener(&message).map_err(refused)?;
                let moved =
                    name.starts_with("inbound|") || matches!(spec.kind, ListenerSpecKind::CapturedInbound { .. });
                if !self.inbound_listen.is_empty() && moved {
                    spec.addresses.clone_from(&self.inbound_listen);
                }
                self.removed.remove(&name);
                self.listeners.insert(Arc::clone(&name), spec);
                self.waiting.insert(name);
                Ok(())
            }
            Kind::Route => {
                let message =
                    envoy_types::pb::envoy::config::route::v3::RouteConfiguration::decode(body).map_err(broken)?;
                let spec = convert::route(&message).map_err(refused)?;
                self.take_route(&name, &spec);
                Ok(())
            }
        }
    }

    fn take_secret(&mut self, name: &Arc<str>, secret: SecretSpec) -> Result<(), String> {
        match secret {
            SecretSpec::Identity(_) if self.own_identity => return Err("our identity is made here".to_owned()),
            SecretSpec::Identity(identity) if name.as_ref() == IDENTITY_SECRET => self.identity.replace(*identity),
            SecretSpec::Identity(_) => return Err(format!("only '{IDENTITY_SECRET}' is our identity")),
            SecretSpec::Trust(bundles) => {
                let store = self.trust(name);
                store.replace(bundles.as_ref().clone()).map_err(|e| meshfed_runtime::telemetry::chain(&e))?;
            }
        }
        if self.secrets.insert(Arc::clone(name)) {
            // Clusters that waited for it.
            let names: Vec<Arc<str>> = self
                .clusters
                .iter()
                .filter(|(_, c)| c.spec.secrets().contains(&&**name))
                .map(|(n, _)| Arc::clone(n))
                .collect();
            for waiting in names {
                self.refresh_cluster(&waiting);
            }
        }
        Ok(())
    }

    pub(super) fn trust(&mut self, name: &Arc<str>) -> Arc<TrustStore> {
        Arc::clone(self.trusts.entry(Arc::clone(name)).or_insert_with(|| Arc::new(TrustStore::new())))
    }

    fn take_cluster(&mut self, name: &Arc<str>, spec: ClusterSpec) {
        let counters = self.clusters.get(name).map_or_else(Arc::default, |c| Arc::clone(&c.counters));
        self.maps_changed |= !self.clusters.contains_key(name);
        // Transports that stay the same stay the same objects: their connections may be used on.
        let built = self.clusters.remove(name).filter(|old| old.spec.same_transports(&spec)).and_then(|old| old.built);
        self.clusters.insert(Arc::clone(name), HeldCluster { spec, built, counters });
        let _published_while_empty = self.cluster_cell(name);
        self.refresh_cluster(name);
    }

    fn take_assignment(&mut self, name: &Arc<str>, assignment: Assignment) {
        self.assignments.insert(Arc::clone(name), Arc::new(assignment));
        // Nearly always the cluster has the name of its assignment.
        if self.clusters.get(name).is_some_and(|c| c.spec.assignment() == Some(name.as_ref())) {
            return self.refresh_cluster(name);
        }
        let users: Vec<Arc<str>> = self
            .clusters
            .iter()
            .filter(|(_, c)| c.spec.assignment() == Some(name.as_ref()))
            .map(|(n, _)| Arc::clone(n))
            .collect();
        for user in users {
            self.refresh_cluster(&user);
        }
    }

    fn take_route(&mut self, name: &Arc<str>, spec: &RouteSpec) {
        let table = self.route_table(spec);
        let cell = self.route_cell(name);
        cell.set(Some(Arc::new(table)));
        self.maps_changed |= self.routes.insert(Arc::clone(name));
    }

    pub(super) fn route_table(&mut self, spec: &RouteSpec) -> RouteTable {
        let action = |this: &mut Self, a: &ActionSpec| match a {
            ActionSpec::Cluster(cluster, policy) => RouteAction::Cluster(this.cluster_cell(cluster), *policy),
            ActionSpec::Respond(status) => RouteAction::Respond(*status),
        };
        let hosts = spec.hosts.iter().map(|(host, a)| (host.as_str().into(), action(self, a))).collect();
        let fallback = spec.fallback.as_ref().map(|a| action(self, a));
        RouteTable { ignore_port: spec.ignore_port, hosts, fallback }
    }

    fn remove(&mut self, kind: Kind, name: &str) {
        match kind {
            Kind::Secret => {
                // An identity or bundle that is gone must not be used on; the listeners that need it refuse everybody.
                if let Some(trust) = self.trusts.get(name) {
                    let _emptied = trust.replace(BTreeMap::new());
                }
                self.secrets.remove(name);
            }
            Kind::Cluster => {
                if self.clusters.remove(name).is_some() {
                    self.maps_changed = true;
                    if let Some(cell) = self.cluster_cells.get(name) {
                        let old = cell.get();
                        self.state.pods().moved(cell, old.as_ref().map(|o| &*o.endpoints), None);
                        cell.set(None);
                    }
                }
            }
            Kind::Endpoint => {
                // The agent says that there are none: known, and empty.
                let name: Arc<str> = name.into();
                self.take_assignment(&name, Assignment::default());
            }
            Kind::Listener if name == convert::NAMES => self.state.publish_names(None),
            Kind::Listener => {
                self.listeners.remove(name);
                self.waiting.remove(name);
                self.removed.insert(name.into());
            }
            Kind::Route => {
                if self.routes.remove(name) {
                    self.maps_changed = true;
                    if let Some(cell) = self.route_cells.get(name) {
                        cell.set(Some(Arc::new(RouteTable::default())));
                    }
                }
            }
        }
    }

    /// Makes the newest version of a cluster usable, if everything that it needs is here.
    fn refresh_cluster(&mut self, name: &Arc<str>) {
        let Some(held) = self.clusters.get(name) else { return };
        if !held.spec.secrets().iter().all(|s| self.secrets.contains(*s)) {
            return;
        }
        let assignment = match &held.spec.endpoints {
            EndpointSource::Fixed(assignment) => Arc::new(assignment.clone()),
            EndpointSource::OriginalDestination => Arc::new(Assignment::default()),
            EndpointSource::Discovered(from) => match self.assignments.get(from.as_str()) {
                Some(found) => Arc::clone(found),
                None => return,
            },
        };
        let identity = Arc::clone(&self.identity);
        let Some(held) = self.clusters.get_mut(name) else { return };
        if held.built.is_none() {
            let trusts = &self.trusts;
            match build::transports(&held.spec, &identity, |secret| trusts.get(secret).cloned()) {
                Ok(built) => held.built = Some(built),
                Err(error) => {
                    tracing::error!(cluster = %name, error = %error, "discovery: TLS of a cluster cannot be set up");
                    return;
                }
            }
        }
        let Some(built) = held.built.clone() else { return };
        let (spec, counters) = (held.spec.clone(), Arc::clone(&held.counters));
        let cell = self.cluster_cell(name);
        let old = cell.get();
        let cluster = build::cluster(name, &spec, &built, &assignment, old.as_deref(), counters);
        if self.captures && name.starts_with("outbound|") {
            self.state.pods().moved(&cell, old.as_ref().map(|o| &*o.endpoints), Some(&cluster.endpoints));
        }
        cell.set(Some(Arc::new(cluster)));
    }

    pub(super) fn cluster_cell(&mut self, name: &str) -> Arc<ClusterCell> {
        if let Some(cell) = self.cluster_cells.get(name) {
            return Arc::clone(cell);
        }
        let cell = Arc::new(Cell::new(name));
        self.cluster_cells.insert(Arc::clone(cell.name()), Arc::clone(&cell));
        cell
    }

    pub(super) fn route_cell(&mut self, name: &str) -> Arc<RouteCell> {
        if let Some(cell) = self.route_cells.get(name) {
            return Arc::clone(cell);
        }
        let cell = Arc::new(Cell::new(name));
        self.route_cells.insert(Arc::clone(cell.name()), Arc::clone(&cell));
        cell
    }

    /// Listeners that became ready to be listened on, and those that are gone. What is handed out is done with, unless
    /// [`Self::failed`] says otherwise.
    pub fn listener_changes(&mut self) -> Vec<ListenerChange> {
        let mut changes: Vec<ListenerChange> = Vec::new();
        for name in std::mem::take(&mut self.removed) {
            self.withdraw_names(&name, &BTreeSet::new());
            if self.listener_cells.remove(&name).is_some() {
                changes.push(ListenerChange::Remove(name));
            }
        }
        let ready: Vec<Arc<str>> = self.waiting.iter().filter(|n| self.missing(n).is_none()).cloned().collect();
        for name in ready {
            self.waiting.remove(&name);
            let Some(spec) = self.listeners.get(&name).cloned() else { continue };
            match self.build_listener(&name, &spec) {
                Ok(listener) => {
                    let cell = Arc::clone(
                        self.listener_cells
                            .entry(Arc::clone(&name))
                            .or_insert_with(|| Arc::new(Cell::new(Arc::clone(&name)))),
                    );
                    changes.push(ListenerChange::Install(cell, Arc::new(listener)));
                }
                Err(error) => {
                    tracing::error!(listener = %name, error = %error, "discovery: TLS of a listener cannot be set up")
                }
            }
        }
        changes
    }

    /// The sockets of a listener's newest version could not be had: it is not held, so the agent sends it again.
    pub fn failed(&mut self, name: &str) {
        if let Some(held) = self.versions.get_mut(&Kind::Listener) {
            held.remove(name);
        }
        // A listener that never listened is not in use.
        if self.listener_cells.get(name).is_some_and(|c| c.load().is_none()) {
            self.listener_cells.remove(name);
            self.withdraw_names(name, &BTreeSet::new());
        }
    }

    /// Whether a listener is one that has to be installed.
    #[must_use]
    pub fn is_installed(&self, name: &str) -> bool {
        self.listeners.contains_key(name)
    }

    /// Listeners that wait for something.
    #[must_use]
    pub fn waiting(&self) -> &BTreeSet<Arc<str>> {
        &self.waiting
    }

    fn publish(&mut self) {
        if !std::mem::take(&mut self.maps_changed) {
            return;
        }
        let clusters = self
            .clusters
            .keys()
            .filter_map(|n| Some((Arc::clone(n), Arc::clone(self.cluster_cells.get(n)?))))
            .collect();
        let routes =
            self.routes.iter().filter_map(|n| Some((Arc::clone(n), Arc::clone(self.route_cells.get(n)?)))).collect();
        self.state.publish(Some(clusters), Some(routes), None);
        // Cells that nothing refers to any more: one reference is the map's own, one the published state's.
        let held = &self.clusters;
        self.cluster_cells.retain(|n, cell| held.contains_key(n) || Arc::strong_count(cell) > 1);
        let held = &self.routes;
        self.route_cells.retain(|n, cell| held.contains(n) || Arc::strong_count(cell) > 1);
    }

    /// Whether there is a listener that listens.
    #[must_use]
    pub fn has_listeners(&self) -> bool {
        self.listener_cells.values().any(|c| c.load().is_some())
    }

    /// Publishes the listeners in use, after the sockets followed.
    pub fn publish_listeners(&self) {
        let listeners = self.listener_cells.iter().filter(|(_, c)| c.load().is_some());
        self.state.publish(None, None, Some(listeners.map(|(n, c)| (Arc::clone(n), Arc::clone(c))).collect()));
        self.publish_addresses();
    }

    /// The names to subscribe to.
    #[must_use]
    pub fn wanted(&self, kind: Kind) -> BTreeSet<String> {
        match kind {
            Kind::Cluster | Kind::Listener => BTreeSet::new(),
            Kind::Endpoint => self.clusters.values().filter_map(|c| c.spec.assignment().map(str::to_owned)).collect(),
            Kind::Secret => {
                let mut names: BTreeSet<String> = [IDENTITY_SECRET, TRUST_SECRET].map(str::to_owned).into();
                names.extend(self.clusters.values().flat_map(|c| c.spec.secrets()).map(str::to_owned));
                for spec in self.listeners.values() {
                    let (tls, _) = references(&spec.kind);
                    names.extend(tls.into_iter().flat_map(|t| [t.identity.clone(), t.trust.clone()]));
                }
                if self.own_identity {
                    names.remove(IDENTITY_SECRET);
                }
                names
            }
            Kind::Route => {
                let routes = |spec| references(spec).1.into_iter().map(str::to_owned).collect::<Vec<_>>();
                self.listeners.values().flat_map(|spec| routes(&spec.kind)).collect()
            }
        }
    }

    /// Forgets what is no longer subscribed to: the agent will not tell about it any more.
    pub fn unsubscribed(&mut self, kind: Kind, names: &[String]) {
        for name in names {
            if let Some(held) = self.versions.get_mut(&kind) {
                held.remove(name);
            }
            match kind {
                Kind::Endpoint => {
                    self.assignments.remove(name.as_str());
                }
                Kind::Route => {
                    self.maps_changed |= self.routes.remove(name.as_str());
                }
                Kind::Secret => {
                    self.secrets.remove(name.as_str());
                    if name != TRUST_SECRET {
                        self.trusts.remove(name.as_str());
                    }
                }
                Kind::Cluster | Kind::Listener => {}
            }
        }
        self.publish();
    }

    /// What the command line asks for and the agent does not have, in words.
    #[must_use]
    pub fn nowhere(&self, inbound: &BTreeSet<u16>) -> BTreeSet<String> {
        let (mut ports, mut outbound) = (BTreeSet::new(), Vec::new());
        for spec in self.listeners.values() {
            match &spec.kind {
                ListenerSpecKind::InboundHttp { port, .. } | ListenerSpecKind::InboundTcp { port, .. } => {
                    ports.insert(*port);
                }
                ListenerSpecKind::CapturedInbound { ports: declared, .. } => ports.extend(declared.keys()),
                ListenerSpecKind::OutboundTcp { cluster } if spec.bound => {
                    outbound.extend(spec.addresses.iter().map(|listen| (*listen, cluster.as_str())));
                }
                ListenerSpecKind::OutboundHttp { .. }
                | ListenerSpecKind::OutboundTcp { .. }
                | ListenerSpecKind::OutboundAny { .. }
                | ListenerSpecKind::CapturedOutbound { .. }
                | ListenerSpecKind::Gateway { .. } => {}
            }
        }
        nowhere(inbound, &ports, outbound.into_iter(), |cluster| self.clusters.contains_key(cluster))
    }

    /// The versions held, for a reconnect.
    #[must_use]
    pub fn versions(&self, kind: Kind) -> BTreeMap<String, String> {
        self.versions.get(&kind).cloned().unwrap_or_default()
    }

    /// Whether all clusters known so far can be used: listeners are asked for after that.
    #[must_use]
    pub fn clusters_are_warm(&self) -> bool {
        self.clusters.iter().all(|(n, _)| self.cluster_cells.get(n).is_some_and(|c| c.load().is_some()))
    }

    /// The bind addresses of the workload: what the agent says, else where its listeners are.
    #[must_use]
    pub fn bind(&self) -> Vec<IpAddr> {
        let mut told: Vec<IpAddr> = self.listeners.values().flat_map(|l| l.bind.iter().copied()).collect();
        let of = |prefix: &str| -> Vec<IpAddr> {
            let chosen = self.listeners.iter().filter(|(n, _)| n.starts_with(prefix) && !n.starts_with("outbound-tcp"));
            chosen.flat_map(|(_, l)| l.addresses.iter().map(SocketAddr::ip)).collect()
        };
        for prefix in ["inbound|", "gateway|", "outbound"] {
            if told.is_empty() {
                told = of(prefix);
            }
        }
        let mut seen = BTreeSet::new();
        told.retain(|ip| seen.insert(*ip));
        told
    }
}
