//! Pure. All cells by name: what discovery writes and the admin port shows.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use arc_swap::{ArcSwap, ArcSwapOption};
use meshfed_runtime::dns::Zone;
use meshfed_runtime::tls::{IdentityStore, TrustStore};
use serde::Serialize;

use super::cluster::ClusterCell;
use super::listener::ListenerCell;
use super::pods::Pods;
use super::route::RouteCell;

type Cells<T> = ArcSwap<BTreeMap<Arc<str>, Arc<T>>>;

/// The state of the process. Maps change only when a resource appears or goes; the data path reads cells, not maps.
#[derive(Debug, Default)]
pub struct StateHandle {
    clusters: Cells<ClusterCell>,
    routes: Cells<RouteCell>,
    listeners: Cells<ListenerCell>,
    virtual_addresses: ArcSwap<HashMap<SocketAddr, Arc<ListenerCell>>>,
    pods: Pods,
    names: ArcSwapOption<Zone>,
    identity: OnceLock<Arc<IdentityStore>>,
    trust: OnceLock<Arc<TrustStore>>,
}

/// Counts for logs and the admin port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Known clusters.
    pub clusters: usize,
    /// Known route configurations.
    pub routes: usize,
    /// Listeners in use.
    pub listeners: usize,
}

impl StateHandle {
    /// An empty state around the stores that secrets go to.
    #[must_use]
    pub fn new(identity: Arc<IdentityStore>, trust: Arc<TrustStore>) -> Arc<Self> {
        let state = Self::default();
        let _first = (state.identity.set(identity), state.trust.set(trust));
        Arc::new(state)
    }
    /// Our identity, once the agent attested us.
    #[must_use]
    pub fn identity(&self) -> Option<&Arc<IdentityStore>> {
        self.identity.get()
    }
    /// All bundles held (the secret `trust`).
    #[must_use]
    pub fn trust(&self) -> Option<&Arc<TrustStore>> {
        self.trust.get()
    }
    /// All cluster cells by name.
    #[must_use]
    pub fn clusters(&self) -> Arc<BTreeMap<Arc<str>, Arc<ClusterCell>>> {
        self.clusters.load_full()
    }
    /// All route cells by name.
    #[must_use]
    pub fn routes(&self) -> Arc<BTreeMap<Arc<str>, Arc<RouteCell>>> {
        self.routes.load_full()
    }
    /// All listener cells by name.
    #[must_use]
    pub fn listeners(&self) -> Arc<BTreeMap<Arc<str>, Arc<ListenerCell>>> {
        self.listeners.load_full()
    }
    /// The listener of a virtual address, where it is one.
    #[must_use]
    pub fn at(&self, address: &SocketAddr) -> Option<Arc<ListenerCell>> {
        self.virtual_addresses.load().get(address).cloned()
    }
    /// Endpoints that are dialled by their own address.
    #[must_use]
    pub const fn pods(&self) -> &Pods {
        &self.pods
    }
    /// What the services of the clusterset are called, once the agent has said.
    #[must_use]
    pub fn names(&self) -> Option<Arc<Zone>> {
        self.names.load_full()
    }
    /// Replaces the names.
    pub fn publish_names(&self, names: Option<Zone>) {
        self.names.store(names.map(Arc::new));
    }
    /// Replaces the virtual addresses.
    pub fn publish_addresses(&self, addresses: HashMap<SocketAddr, Arc<ListenerCell>>) {
        self.virtual_addresses.store(Arc::new(addresses));
    }
    /// Publishes the maps that changed.
    pub fn publish(
        &self,
        clusters: Option<BTreeMap<Arc<str>, Arc<ClusterCell>>>,
        routes: Option<BTreeMap<Arc<str>, Arc<RouteCell>>>,
        listeners: Option<BTreeMap<Arc<str>, Arc<ListenerCell>>>,
    ) {
        if let Some(map) = clusters {
            self.clusters.store(Arc::new(map));
        }
        if let Some(map) = routes {
            self.routes.store(Arc::new(map));
        }
        if let Some(map) = listeners {
            self.listeners.store(Arc::new(map));
        }
    }
    /// Counts.
    #[must_use]
    pub fn summary(&self) -> Summary {
        Summary {
            clusters: self.clusters.load().len(),
            routes: self.routes.load().len(),
            listeners: self.listeners.load().len(),
        }
    }
}
