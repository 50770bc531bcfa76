//! Pure. What endpoint slices say of a service (`discovery.k8s.io/v1`). They are taken as they are: where a service has
//! one, its pods are endpoints by its slices alone, so none counts twice; WorkloadEntries, of which Kubernetes knows
//! nothing, are still selected.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use meshfed_crds::{Body, EndpointSliceObject, Object, SliceEndpoint, WorkloadPorts};
use meshfed_model::names::{Namespace, ServiceName};
use meshfed_model::sorted::SortedSet;

use super::{Dirty, Index, WorkloadKey};

/// One endpoint in one slice.
#[derive(Debug, Clone)]
pub(super) struct Listed {
    object: Arc<Object>,
    at: usize,
}

impl Listed {
    fn slice(&self) -> Option<&EndpointSliceObject> {
        slice_of(&self.object)
    }
    /// The slice's ports, and the endpoint.
    pub(super) fn get(&self) -> Option<(&WorkloadPorts, &SliceEndpoint)> {
        let slice = self.slice()?;
        Some((&slice.ports, slice.endpoints.get(self.at)?))
    }
    fn is_of(&self, name: &str) -> bool {
        self.slice().is_some_and(|slice| *slice.name == *name)
    }
}

/// Two are the same where they say the same.
impl PartialEq for Listed {
    fn eq(&self, other: &Self) -> bool {
        self.get() == other.get()
    }
}

/// A slice, and the workload behind each of its endpoints.
type Slice = (Arc<Object>, Box<[WorkloadKey]>);

/// The slices of one service.
#[derive(Debug, Default)]
pub(super) struct ServiceSlices {
    slices: BTreeMap<Arc<str>, Slice>,
    listed: BTreeMap<WorkloadKey, Vec<Listed>>,
}

impl ServiceSlices {
    /// What the slices say of a workload; none: it is in none of them.
    pub(super) fn of(&self, key: &WorkloadKey) -> Option<&[Listed]> {
        self.listed.get(key).map(Vec::as_slice)
    }
    /// The workloads in its slices.
    pub(super) fn keys(&self) -> impl Iterator<Item = &WorkloadKey> {
        self.listed.keys()
    }

    /// Puts a slice in the place of its earlier version (`None`: it is gone). The workloads of which something else is
    /// said now.
    fn replace(&mut self, name: &Arc<str>, new: Option<(&Arc<Object>, Box<[WorkloadKey]>)>) -> BTreeSet<WorkloadKey> {
        let mut said: BTreeMap<WorkloadKey, Vec<Listed>> = BTreeMap::new();
        if let Some((object, keys)) = &new {
            for (at, key) in keys.iter().enumerate() {
                said.entry(key.clone()).or_default().push(Listed { object: Arc::clone(object), at });
            }
        }
        let before = self.slices.remove(name).map(|(_, keys)| keys).unwrap_or_default();
        let mut changed = BTreeSet::new();
        for key in before.iter().filter(|key| !said.contains_key(*key)).collect::<BTreeSet<_>>() {
            let Some(all) = self.listed.get_mut(key) else { continue };
            all.retain(|listed| !listed.is_of(name));
            if all.is_empty() {
                self.listed.remove(key);
            }
            changed.insert(key.clone());
        }
        for (key, new) in said {
            let all = self.listed.entry(key.clone()).or_default();
            let place = all.iter().position(|listed| listed.is_of(name));
            let same = all.iter().filter(|listed| listed.is_of(name)).eq(&new);
            all.retain(|listed| !listed.is_of(name));
            // At its old place, and a new one by its name: the order is that of the slices, whatever came first.
            let at = place.unwrap_or_else(|| {
                all.iter().position(|l| l.slice().is_some_and(|s| s.name > *name)).unwrap_or(all.len())
            });
            all.splice(at..at, new);
            if !same {
                changed.insert(key);
            }
        }
        if let Some((object, keys)) = new {
            self.slices.insert(Arc::clone(name), (Arc::clone(object), keys));
        }
        changed
    }
}

fn slice_of(object: &Object) -> Option<&EndpointSliceObject> {
    match &object.body {
        Body::EndpointSlice(slice) => Some(slice),
        Body::Namespace(_)
        | Body::Service(_)
        | Body::WorkloadEntry(_)
        | Body::ServiceExport(_)
        | Body::ExportPolicy(_)
        | Body::FailoverPolicy(_)
        | Body::Pod(_)
        | Body::Node(_)
        | Body::PeerAuthentication(_)
        | Body::Mesh(_) => None,
    }
}

/// Where something is in a namespace.
type Place = (Namespace, IpAddr);

/// The slices of all services.
#[derive(Debug, Default)]
pub(super) struct Slices {
    by_service: BTreeMap<ServiceName, ServiceSlices>,
    /// The service that each slice is of.
    services: BTreeMap<(Namespace, Arc<str>), ServiceName>,
    /// The services whose slices list a workload.
    listing: BTreeMap<WorkloadKey, SortedSet<ServiceName>>,
    /// Who has an address.
    owners: BTreeMap<Place, SortedSet<WorkloadKey>>,
    /// The services with an endpoint that names no pod, by its address: who has the address is the endpoint.
    nameless: BTreeMap<Place, BTreeMap<ServiceName, usize>>,
}

impl Slices {
    /// The slices of a service; none: it has none.
    pub(super) fn of(&self, service: &ServiceName) -> Option<&ServiceSlices> {
        self.by_service.get(service)
    }
    /// The services whose slices list a workload.
    pub(super) fn listing(&self, key: &WorkloadKey) -> impl Iterator<Item = &ServiceName> {
        self.listing.get(key).into_iter().flatten()
    }

    /// The workload behind an endpoint: its pod, else who has its address, else a key that no object can have.
    fn key_of(&self, namespace: &Namespace, endpoint: &SliceEndpoint) -> WorkloadKey {
        if let Some(pod) = &endpoint.pod {
            return WorkloadKey { namespace: namespace.clone(), name: Arc::clone(pod) };
        }
        let owner = |address: &IpAddr| self.owners.get(&(namespace.clone(), *address))?.first();
        endpoint.addresses.iter().find_map(owner).cloned().unwrap_or_else(|| {
            let first = endpoint.addresses.first().map(ToString::to_string).unwrap_or_default();
            WorkloadKey { namespace: namespace.clone(), name: format!("address/{first}").into() }
        })
    }

    fn count_nameless(&mut self, service: &ServiceName, slice: &EndpointSliceObject, more: bool) {
        for address in slice.endpoints.iter().filter(|e| e.pod.is_none()).flat_map(|e| &e.addresses) {
            let place = (slice.namespace.clone(), *address);
            let services = self.nameless.entry(place.clone()).or_default();
            let count = services.entry(service.clone()).or_default();
            *count = if more { *count + 1 } else { count.saturating_sub(1) };
            if *count == 0 {
                services.remove(service);
                if services.is_empty() {
                    self.nameless.remove(&place);
                }
            }
        }
    }

    /// Puts one slice of a service in the place of its earlier version.
    fn put(&mut self, service: &ServiceName, name: &Arc<str>, object: Option<&Arc<Object>>) -> BTreeSet<WorkloadKey> {
        let before = self.by_service.get(service).and_then(|s| s.slices.get(name)).map(|(o, _)| Arc::clone(o));
        if let Some(slice) = before.as_ref().and_then(|o| slice_of(o)) {
            self.count_nameless(service, slice, false);
        }
        let slice = object.and_then(|o| slice_of(o));
        if let Some(slice) = slice {
            self.count_nameless(service, slice, true);
        }
        let keys = slice.map(|s| s.endpoints.iter().map(|e| self.key_of(&s.namespace, e)).collect::<Box<[_]>>());
        let all = self.by_service.entry(service.clone()).or_default();
        let changed = all.replace(name, object.zip(keys));
        for key in &changed {
            if all.listed.contains_key(key) {
                self.listing.entry(key.clone()).or_default().insert(service.clone());
            } else if let Some(services) = self.listing.get_mut(key) {
                services.remove(service);
                if services.is_empty() {
                    self.listing.remove(key);
                }
            }
        }
        if all.slices.is_empty() {
            self.by_service.remove(service);
        }
        changed
    }
}

impl Index {
    pub(super) fn put_slice(&mut self, object: &Arc<Object>, slice: &EndpointSliceObject, dirty: &mut Dirty) {
        let name = (slice.namespace.clone(), Arc::clone(&slice.name));
        let before = match &slice.service {
            Some(service) => self.slices.services.insert(name, service.clone()),
            None => self.slices.services.remove(&name),
        };
        if let Some(before) = before.filter(|b| Some(b) != slice.service.as_ref()) {
            self.replace_slice(&before, &slice.name, None, dirty);
        }
        if let Some(service) = &slice.service {
            self.replace_slice(service, &slice.name, Some(object), dirty);
        }
    }

    pub(super) fn remove_slice(&mut self, namespace: &Namespace, name: &Arc<str>, dirty: &mut Dirty) {
        if let Some(service) = self.slices.services.remove(&(namespace.clone(), Arc::clone(name))) {
            self.replace_slice(&service, name, None, dirty);
        }
    }

    fn replace_slice(
        &mut self,
        service: &ServiceName,
        name: &Arc<str>,
        object: Option<&Arc<Object>>,
        dirty: &mut Dirty,
    ) {
        let had = self.slices.of(service).is_some();
        let mut changed = self.slices.put(service, name, object);
        if had != self.slices.of(service).is_some() {
            // The first slice, or none any more: what makes a pod an endpoint is another thing now.
            changed.extend(self.selected_by_service(service));
        }
        for key in &changed {
            self.relist(key, service, dirty);
        }
    }

    /// After the slices of a service say something else of a workload.
    fn relist(&mut self, key: &WorkloadKey, service: &ServiceName, dirty: &mut Dirty) {
        if let Some(workload) = self.workloads.get(key) {
            let services = self.services_for(workload);
            if services != workload.services
                && let Some(workload) = self.workloads.get_mut(key)
            {
                workload.services = services;
                dirty.workloads.insert(key.clone());
            }
        }
        self.refresh_endpoints(key, [service], dirty);
        self.check_pod(key, dirty);
    }

    /// Who has which address, after a workload came, changed or went: endpoints that name no pod follow.
    pub(super) fn move_owner(&mut self, key: &WorkloadKey, before: &[IpAddr], after: &[IpAddr], dirty: &mut Dirty) {
        if before == after {
            return;
        }
        let gone = before.iter().filter(|a| !after.contains(a)).map(|a| (*a, false));
        let come = after.iter().filter(|a| !before.contains(a)).map(|a| (*a, true));
        let mut follow = BTreeSet::new();
        for (address, owned) in gone.chain(come) {
            let place = (key.namespace.clone(), address);
            let owners = self.slices.owners.entry(place.clone()).or_default();
            if owned {
                owners.insert(key.clone());
            } else {
                owners.remove(key);
            }
            if owners.is_empty() {
                self.slices.owners.remove(&place);
            }
            follow.extend(self.slices.nameless.get(&place).into_iter().flat_map(BTreeMap::keys).cloned());
        }
        for service in follow {
            let Some(all) = self.slices.of(&service) else { continue };
            let objects: Vec<_> = all.slices.iter().map(|(name, (o, _))| (Arc::clone(name), Arc::clone(o))).collect();
            for (name, object) in objects {
                self.replace_slice(&service, &name, Some(&object), dirty);
            }
        }
    }
}
