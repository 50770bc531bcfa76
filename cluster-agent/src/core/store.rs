//! Pure. Encoded resources by who may see them: every stream reads a few scopes, and a resource is held once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use meshfed_model::horizon::Client;
use meshfed_model::names::Namespace;

use crate::index::WorkloadKey;
use crate::translate::captured::DNS;
use crate::translate::{Kind, Mode, Resource, depends_on_view};
use crate::xds::stream::Resources;

/// Names a stream inside the agent.
pub type StreamId = u64;

/// Clients that are handed the same assignments.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Class {
    /// Gateways see other clusters (by name) than sidecars do.
    pub mode: Mode,
    /// Network, locality and families.
    pub client: Client,
    /// `None`: what is the same on every node; else what differs from node to node, on this one. Clients of no node are on
    /// the one with the empty name, where no endpoint is.
    pub node: Option<Arc<str>>,
}

/// Who may see a resource.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Every sidecar: outbound clusters, the bundles.
    Sidecars,
    /// Every sidecar to which connections are captured: services at their virtual addresses.
    Captured,
    /// Every gateway: its table's clusters.
    Gateways,
    /// Everybody: the bundles.
    Everybody,
    /// Clients of one class: assignments.
    Class(Arc<Class>),
    /// Clients of one namespace: their routes.
    Namespace(Namespace),
    /// One workload: its certificate.
    Workload(WorkloadKey),
    /// One proxy: its listeners, its inbound clusters, routes and trust.
    Stream(StreamId),
}

type ByName = BTreeMap<Arc<str>, Arc<Resource>>;

/// All resources.
#[derive(Debug, Default)]
pub struct Store {
    scopes: BTreeMap<Scope, BTreeMap<Kind, ByName>>,
    readers: BTreeMap<Scope, BTreeSet<StreamId>>,
    /// What changed since it was last taken.
    changed: Vec<(Scope, Kind, Arc<str>)>,
    encoded: BTreeMap<Kind, u64>,
}

impl Store {
    /// Sets a resource; the same body again is no change.
    pub fn put(&mut self, scope: &Scope, resource: Arc<Resource>) {
        *self.encoded.entry(resource.kind).or_default() += resource.body.len() as u64;
        let names = self.scopes.entry(scope.clone()).or_default().entry(resource.kind).or_default();
        if names.get(&resource.name).is_some_and(|old| old.version == resource.version) {
            return;
        }
        self.changed.push((scope.clone(), resource.kind, Arc::clone(&resource.name)));
        names.insert(Arc::clone(&resource.name), resource);
    }
    /// Takes a resource away.
    pub fn remove(&mut self, scope: &Scope, kind: Kind, name: &str) {
        let names = self.scopes.get_mut(scope).and_then(|k| k.get_mut(&kind));
        if let Some((name, _)) = names.and_then(|n| n.remove_entry(name)) {
            self.changed.push((scope.clone(), kind, name));
        }
    }
    /// Makes `resources` all of one kind in a scope.
    pub fn replace(&mut self, scope: &Scope, kind: Kind, resources: impl IntoIterator<Item = Arc<Resource>>) {
        let mut stale: BTreeSet<Arc<str>> = self.names(scope, kind).cloned().collect();
        for resource in resources {
            stale.remove(&resource.name);
            self.put(scope, resource);
        }
        for name in stale {
            self.remove(scope, kind, &name);
        }
    }
    /// One resource.
    #[must_use]
    pub fn get(&self, scope: &Scope, kind: Kind, name: &str) -> Option<&Arc<Resource>> {
        self.scopes.get(scope)?.get(&kind)?.get(name)
    }
    /// The names of one kind in a scope.
    pub fn names(&self, scope: &Scope, kind: Kind) -> impl Iterator<Item = &Arc<str>> {
        self.scopes.get(scope).and_then(|k| k.get(&kind)).into_iter().flat_map(BTreeMap::keys)
    }
    /// Forgets a scope that nobody reads any more.
    pub fn drop_scope(&mut self, scope: &Scope) {
        self.scopes.remove(scope);
    }
    /// Notes that a stream reads a scope.
    pub fn add_reader(&mut self, scope: &Scope, stream: StreamId) {
        self.readers.entry(scope.clone()).or_default().insert(stream);
    }
    /// Notes that a stream reads a scope no more; `true`: nobody does.
    pub fn remove_reader(&mut self, scope: &Scope, stream: StreamId) -> bool {
        let Some(readers) = self.readers.get_mut(scope) else { return true };
        readers.remove(&stream);
        let none = readers.is_empty();
        if none {
            self.readers.remove(scope);
        }
        none
    }
    /// The streams that read a scope.
    pub fn readers(&self, scope: &Scope) -> impl Iterator<Item = StreamId> {
        self.readers.get(scope).into_iter().flatten().copied()
    }
    /// Whether anybody reads a scope.
    #[must_use]
    pub fn is_read(&self, scope: &Scope) -> bool {
        self.readers.contains_key(scope)
    }
    /// The scopes that somebody reads.
    pub fn read_scopes(&self) -> impl Iterator<Item = &Scope> {
        self.readers.keys()
    }
    /// Takes the list of changes.
    pub fn take_changed(&mut self) -> Vec<(Scope, Kind, Arc<str>)> {
        std::mem::take(&mut self.changed)
    }
    /// Takes the bytes encoded per kind.
    pub fn take_encoded(&mut self) -> BTreeMap<Kind, u64> {
        std::mem::take(&mut self.encoded)
    }
}

/// What one stream sees.
#[derive(Debug)]
pub struct Seen<'a> {
    /// Where.
    pub store: &'a Store,
    /// Which scopes.
    pub scopes: &'a [Scope],
    /// Whether only secrets are shown (the SDS service).
    pub secrets_only: bool,
    /// Whether the view is not whole, so that what is made of it may lack something.
    pub view_unknown: bool,
}

impl Resources for Seen<'_> {
    fn get(&self, kind: Kind, name: &str) -> Option<Arc<Resource>> {
        if self.secrets_only && kind != Kind::Secret {
            return None;
        }
        self.scopes.iter().find_map(|s| self.store.get(s, kind, name)).cloned()
    }
    fn names(&self, kind: Kind) -> Vec<Arc<str>> {
        if self.secrets_only && kind != Kind::Secret {
            return Vec::new();
        }
        let mut all: Vec<Arc<str>> = self.scopes.iter().flat_map(|s| self.store.names(s, kind)).cloned().collect();
        all.sort();
        all.dedup();
        all
    }
    fn is_unknown(&self, kind: Kind, name: &str) -> bool {
        // The names come a moment after the view is whole: without them a captured client would know none at all.
        let names_to_come = || kind == Kind::Listener && name == DNS && self.get(kind, name).is_none();
        (self.view_unknown && depends_on_view(kind, name)) || names_to_come()
    }
}
