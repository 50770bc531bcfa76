//! Pure. Folds the objects of the source into services, workloads, gateways and what is offered of them.
//!
//! One workload change costs the services that select it, one service change its workloads: label indexes lead
//! from one to the other, and nothing here walks over all of a kind.

mod exports;
mod gateways;
mod hosts;
mod mesh;
mod names;
mod offers;
mod owners;
mod pods;
mod policies;
mod select;
mod services;
mod silence;
mod slices;
mod types;
mod workloads;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use meshfed_crds::{Body, Change, Kind, Object, ObjectError, ObjectKey, ServiceObject};
use meshfed_model::names::{Namespace, NetworkName, ServiceName, WorkloadRef};
use meshfed_model::offer::{OfferKey, OfferValue, ServiceOffer};
use meshfed_model::service::Preference;

use crate::mirror::names::{MANAGED_BY, import_of};
pub use gateways::ADDRESSES_MAX as GATEWAY_ADDRESSES_MAX;
pub use hosts::ADDRESSES_MAX as HOST_ADDRESSES_MAX;
use hosts::Resolved;
use mesh::MeshSettings;
pub use names::{endpoint_name, names_endpoint};
use owners::Owners;
use pods::Pods;
pub use policies::OF_SERVICE;
use policies::Policies;
use select::PairIndex;
use slices::Slices;
pub use types::{
    Dirty, Endpoint, FleetPolicies, FleetSource, GatewayAddress, GatewayListen, InboundPort, IndexSettings,
    LocalGateway, LocalService, LookupError, PodFacts, PolicyChoice, Workload, WorkloadKey, WorkloadState,
};

/// Everything the cluster says of itself.
#[derive(Debug)]
pub struct Index {
    settings: IndexSettings,
    services: BTreeMap<ServiceName, LocalService>,
    service_objects: BTreeMap<ServiceName, Arc<Object>>,
    selectors: PairIndex<ServiceName>,
    // In boxes: half of a tree's places are empty.
    workloads: BTreeMap<WorkloadKey, Box<Workload>>,
    entries: BTreeMap<WorkloadKey, Arc<Object>>,
    pods: Pods,
    slices: Slices,
    mesh: MeshSettings,
    labels: PairIndex<WorkloadKey>,
    accounts: BTreeMap<(Namespace, Arc<str>), BTreeSet<WorkloadKey>>,
    owners: Owners,
    states: BTreeMap<WorkloadKey, WorkloadState>,
    gateways: BTreeMap<ServiceName, LocalGateway>,
    resolved: BTreeMap<Arc<str>, Resolved>,
    exports: BTreeMap<ServiceName, Arc<Object>>,
    policies: Policies,
    shared: BTreeSet<NetworkName>,
    namespaces: BTreeMap<Namespace, usize>,
    named_by: BTreeMap<ObjectKey, Namespace>,
    errors: BTreeMap<ObjectKey, Vec<ObjectError>>,
    /// Counts endpoints that were computed anew: what a change costs.
    #[cfg(test)]
    looked_at: usize,
}

impl Index {
    #[cfg(test)]
    const fn looked_at(&self) -> usize {
        self.looked_at
    }

    /// An empty index.
    #[must_use]
    pub fn new(settings: IndexSettings) -> Self {
        Self {
            settings,
            services: BTreeMap::new(),
            service_objects: BTreeMap::new(),
            selectors: PairIndex::default(),
            workloads: BTreeMap::new(),
            entries: BTreeMap::new(),
            pods: Pods::default(),
            slices: Slices::default(),
            mesh: MeshSettings::default(),
            labels: PairIndex::default(),
            accounts: BTreeMap::new(),
            owners: Owners::default(),
            states: BTreeMap::new(),
            gateways: BTreeMap::new(),
            resolved: BTreeMap::new(),
            exports: BTreeMap::new(),
            policies: Policies::default(),
            shared: BTreeSet::new(),
            namespaces: BTreeMap::new(),
            named_by: BTreeMap::new(),
            errors: BTreeMap::new(),
            #[cfg(test)]
            looked_at: 0,
        }
    }

    /// What the cluster is bound to.
    #[must_use]
    pub const fn settings(&self) -> &IndexSettings {
        &self.settings
    }

    /// Takes the changes of one scan.
    pub fn apply(&mut self, changes: &[Change]) -> Dirty {
        let mut dirty = Dirty::default();
        for change in changes {
            match change {
                Change::Put(object) => self.put(object, &mut dirty),
                Change::Removed(key) => self.remove(key, &mut dirty),
            }
        }
        self.hear_nodes(&mut dirty);
        dirty
    }

    fn put(&mut self, object: &Arc<Object>, dirty: &mut Dirty) {
        let key = object.key();
        let named = if key.kind == Kind::Namespace { &key.name } else { &key.namespace };
        if !named.is_empty()
            && let Ok(namespace) = Namespace::new(&**named)
            && self.named_by.insert(key.clone(), namespace.clone()).is_none()
        {
            let count = self.namespaces.entry(namespace).or_default();
            *count += 1;
            dirty.namespaces |= *count == 1;
        }
        match &object.body {
            Body::Namespace(_) => {}
            // What an agent has made of an import is never a source.
            Body::Service(service) if is_derived(service) => self.remove_service(&service.name, dirty),
            Body::Service(service) => self.put_service(object, service, dirty),
            Body::WorkloadEntry(workload) => self.put_entry(object, workload, dirty),
            Body::Pod(pod) => self.put_pod(object, pod, dirty),
            Body::Node(node) => self.put_node(object, node, dirty),
            Body::EndpointSlice(slice) => self.put_slice(object, slice, dirty),
            Body::PeerAuthentication(_) => self.put_peer_authentication(object, dirty),
            Body::Mesh(_) => self.put_mesh(object, dirty),
            Body::ServiceExport(export) => self.put_export(object, &export.service, dirty),
            Body::ExportPolicy(policy) => {
                self.policies.objects.insert(key.clone(), Arc::clone(object));
                self.policies.own_exports.insert(key, policy.clone());
                self.export_policies_changed(dirty);
            }
            Body::FailoverPolicy(policy) => {
                self.policies.objects.insert(key.clone(), Arc::clone(object));
                let touched = self.policies.put_own(key, object, policy);
                self.failover_changed(&touched, dirty);
            }
        }
    }

    fn remove(&mut self, key: &ObjectKey, dirty: &mut Dirty) {
        if let Some(namespace) = self.named_by.remove(key)
            && let Some(count) = self.namespaces.get_mut(&namespace)
        {
            *count -= 1;
            if *count == 0 {
                self.namespaces.remove(&namespace);
                dirty.namespaces = true;
            }
        }
        match key.kind {
            Kind::Namespace => {}
            Kind::Service | Kind::ServiceExport => {
                let Ok(name) = ServiceName::new(&*key.namespace, &*key.name) else { return };
                if key.kind == Kind::Service {
                    self.remove_service(&name, dirty);
                } else {
                    self.remove_export(&name, dirty);
                }
            }
            Kind::WorkloadEntry | Kind::Pod | Kind::EndpointSlice => {
                let Ok(namespace) = Namespace::new(&*key.namespace) else { return };
                if key.kind == Kind::EndpointSlice {
                    return self.remove_slice(&namespace, &key.name, dirty);
                }
                let workload = WorkloadKey { namespace, name: Arc::clone(&key.name) };
                if key.kind == Kind::Pod {
                    self.remove_pod(&workload, dirty);
                } else {
                    self.remove_entry(key, &workload, dirty);
                }
            }
            Kind::Node => self.remove_node(key, dirty),
            Kind::PeerAuthentication => self.remove_peer_authentication(key, dirty),
            Kind::Mesh => self.remove_mesh(dirty),
            Kind::ExportPolicy => {
                self.policies.objects.remove(key);
                self.policies.own_exports.remove(key);
                self.export_policies_changed(dirty);
            }
            Kind::FailoverPolicy => {
                self.policies.objects.remove(key);
                let touched = self.policies.remove_own(key);
                self.failover_changed(&touched, dirty);
            }
        }
    }

    /// The networks of this cluster on which other clusters are, too: single endpoints are offered there.
    pub fn set_shared_networks(&mut self, networks: BTreeSet<NetworkName>) -> Dirty {
        let mut dirty = Dirty::default();
        if networks == self.shared {
            return dirty;
        }
        let changed: BTreeSet<NetworkName> = networks.symmetric_difference(&self.shared).cloned().collect();
        self.shared = networks;
        for service in self.exports.keys() {
            let Some(local) = self.services.get(service) else { continue };
            if local.endpoints.values().flatten().any(|e| changed.contains(&e.network)) {
                dirty.services.insert(service.clone());
            }
        }
        dirty
    }

    /// One service.
    #[must_use]
    pub fn service(&self, name: &ServiceName) -> Option<&LocalService> {
        self.services.get(name)
    }

    /// All services, by name.
    pub fn services(&self) -> impl Iterator<Item = &LocalService> {
        self.services.values()
    }

    /// The one workload that `--workload` names.
    ///
    /// # Errors
    /// [`LookupError`] with the candidates.
    pub fn workload(&self, wanted: &WorkloadRef) -> Result<&Workload, LookupError> {
        let account = (wanted.namespace.clone(), Arc::from(wanted.service_account.as_str()));
        let all = self.accounts.get(&account).into_iter().flatten();
        let mut candidates = all.filter(|key| wanted.name.as_deref().is_none_or(|name| name == &*key.name));
        let shown = |key: &WorkloadKey| format!("{}/{}/{}", key.namespace, wanted.service_account, key.name);
        match (candidates.next(), candidates.next()) {
            (Some(key), None) => self.workload_by_key(key).ok_or_else(|| self.no_workload(wanted)),
            (Some(first), Some(second)) => {
                let all = [first, second].into_iter().chain(candidates).take(LISTED_MAX);
                Err(LookupError::Ambiguous { wanted: wanted.to_string(), candidates: all.map(shown).collect() })
            }
            (None, _) => Err(self.no_workload(wanted)),
        }
    }

    /// All workloads that `--workload` may mean.
    pub fn workloads_of(&self, wanted: &WorkloadRef) -> impl Iterator<Item = &Workload> {
        let account = (wanted.namespace.clone(), Arc::from(wanted.service_account.as_str()));
        let named = wanted.name.clone();
        let all = self.accounts.get(&account).into_iter().flatten();
        all.filter(move |key| named.as_deref().is_none_or(|name| name == &*key.name))
            .filter_map(|key| self.workload_by_key(key))
    }

    fn no_workload(&self, wanted: &WorkloadRef) -> LookupError {
        let from = WorkloadKey { namespace: wanted.namespace.clone(), name: "".into() };
        let others = self.workloads.range(from..).take_while(|(key, _)| key.namespace == wanted.namespace);
        let shown = others.take(LISTED_MAX).map(|(k, w)| format!("{}/{}/{}", k.namespace, w.service_account, k.name));
        LookupError::NotFound { wanted: wanted.to_string(), others: shown.collect() }
    }

    /// A workload by its key.
    #[must_use]
    pub fn workload_by_key(&self, key: &WorkloadKey) -> Option<&Workload> {
        self.workloads.get(key).map(Box::as_ref)
    }

    /// The service accounts of workloads whose annotation names this user; `None`: whose annotation names none.
    pub fn accounts_of(&self, uid: Option<u32>) -> impl Iterator<Item = &(Namespace, Arc<str>)> {
        self.owners.of(uid)
    }

    /// The service accounts of all workloads; one that several users own occurs several times.
    pub fn accounts_of_all(&self) -> impl Iterator<Item = &(Namespace, Arc<str>)> {
        self.owners.all()
    }

    /// All workloads, by key.
    pub fn workloads(&self) -> impl Iterator<Item = &Workload> {
        self.workloads.values().map(Box::as_ref)
    }

    /// All gateways, by service.
    pub fn gateways(&self) -> impl Iterator<Item = &LocalGateway> {
        self.gateways.values()
    }

    /// The namespaces that an object names.
    #[must_use]
    pub fn namespaces(&self) -> BTreeSet<Namespace> {
        self.namespaces.keys().cloned().collect()
    }

    /// Whether an object names the namespace.
    #[must_use]
    pub fn has_namespace(&self, namespace: &Namespace) -> bool {
        self.namespaces.contains_key(namespace)
    }

    /// The failover policy that holds for a service, own or imported, which itself prefers some of its endpoints.
    #[must_use]
    pub fn policy_for(&self, service: &ServiceName, preference: Option<Preference>) -> PolicyChoice {
        self.policies.choose(service, &self.settings.cluster, preference)
    }

    /// What is offered of a service: nothing when it is not exported. Costs that service.
    #[must_use]
    pub fn offer_of(&self, service: &ServiceName) -> BTreeMap<OfferKey, OfferValue> {
        offers::offer_of(self, service)
    }

    /// Whether there is an export of this name.
    #[must_use]
    pub fn has_export(&self, service: &ServiceName) -> bool {
        self.exports.contains_key(service)
    }

    /// The names of all exports, in order.
    pub fn exports(&self) -> impl Iterator<Item = &ServiceName> {
        self.exports.keys()
    }

    /// Why a service that is there cannot be exported, with what to do; `None`: it can be.
    #[must_use]
    pub fn why_not_exported(&self, service: &ServiceName) -> Option<String> {
        let why = services::unofferable(self.services.get(service)?)?;
        Some(format!("{}; {}", why.message, why.remedy))
    }

    /// A service as it is exported, without its endpoints; `None`: it is not exported, or cannot be.
    #[must_use]
    pub fn export(&self, service: &ServiceName) -> Option<ServiceOffer> {
        offers::export_of(self, service)
    }

    /// Whether any gateway is declared.
    #[must_use]
    pub fn declares_gateways(&self) -> bool {
        !self.gateways.is_empty()
    }

    /// The gateway addresses that are offered.
    #[must_use]
    pub fn gateway_offers(&self) -> BTreeMap<OfferKey, OfferValue> {
        offers::gateway_offers(self)
    }

    /// Faults that show only between objects, by object.
    pub fn errors(&self) -> impl Iterator<Item = &ObjectError> {
        self.errors.values().flatten()
    }

    fn set_errors(&mut self, key: ObjectKey, errors: Vec<ObjectError>, dirty: &mut Dirty) {
        let before = if errors.is_empty() { self.errors.remove(&key) } else { self.errors.insert(key.clone(), errors) };
        dirty.errors |= before.as_ref() != self.errors.get(&key);
    }
}

/// The most candidates that a lookup error lists.
const LISTED_MAX: usize = 10;

/// Whether an agent has made it of an import.
fn is_derived(service: &ServiceObject) -> bool {
    let object = (service.name.namespace.as_str(), service.name.name());
    import_of(object, service.labels.get(MANAGED_BY), service.import.as_deref()).is_some()
}

fn object_key(kind: Kind, service: &ServiceName) -> ObjectKey {
    ObjectKey { kind, namespace: service.namespace.as_str().into(), name: service.name().into() }
}

#[cfg(test)]
mod tests;
