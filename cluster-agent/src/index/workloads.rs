//! Pure. Workloads come, change, become ready, and go; the services that select them follow.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use meshfed_crds::{Body, Code, Object, ObjectKey, WorkloadObject};
use meshfed_model::identity::SpiffeId;
use meshfed_model::names::ServiceName;
use meshfed_model::service::{PortProtocol, ServicePort};
use meshfed_model::sorted::SortedSet;

use super::pods::pod_of;
use super::services::Behind;
use super::{Dirty, InboundPort, Index, Workload, WorkloadKey, WorkloadState};

impl Index {
    pub(super) fn put_entry(&mut self, object: &Arc<Object>, entry: &WorkloadObject, dirty: &mut Dirty) {
        let key = WorkloadKey { namespace: entry.namespace.clone(), name: Arc::clone(&entry.name) };
        self.entries.insert(key.clone(), Arc::clone(object));
        self.settle_workload(&key, dirty);
    }

    pub(super) fn remove_entry(&mut self, object: &ObjectKey, key: &WorkloadKey, dirty: &mut Dirty) {
        self.entries.remove(key);
        self.settle_workload(key, dirty);
        self.set_errors(object.clone(), Vec::new(), dirty);
    }

    /// Makes a workload what its pod is, else its WorkloadEntry. Two of one name would be one to everybody who names
    /// them, so the pod stands: it is there, and nobody but Kubernetes says so.
    pub(super) fn settle_workload(&mut self, key: &WorkloadKey, dirty: &mut Dirty) {
        let entry = self.entries.get(key);
        let pod = self.pods.objects.get(key).and_then(|o| pod_of(o));
        let new = match (pod, entry.map(|o| &o.body)) {
            (Some(pod), _) => self.workload_of_pod(key, pod),
            (None, Some(Body::WorkloadEntry(entry))) => self.workload_of(key, entry),
            (None, _) => None,
        };
        if let Some(entry) = entry
            && (pod.is_some() || !self.errors.is_empty())
        {
            let conflict = pod.map(|_| {
                let message = format!("a Pod has the name {key}, too: it is the workload, and this has no effect");
                entry.fault(Code::Conflict, "metadata.name", message).remedy("give the WorkloadEntry another name")
            });
            self.set_errors(entry.key(), conflict.into_iter().collect(), dirty);
        }
        match new {
            Some(new) => self.replace_workload(new, dirty),
            // It has ended. (The source refuses an entry without network or identity; there is nothing to serve.)
            None => self.remove_workload(key, dirty),
        }
    }

    fn replace_workload(&mut self, mut new: Workload, dirty: &mut Dirty) {
        let key = new.key.clone();
        let mut had = Box::default();
        if let Some(old) = self.workloads.get(&key) {
            new.services.clone_from(&old.services);
            if **old == new {
                return;
            }
            had = old.addresses.clone();
        }
        self.unindex(&key, dirty);
        let before = std::mem::take(&mut new.services);
        new.services = self.services_for(&new);
        for (name, value) in new.labels.iter() {
            self.labels.insert(&key.namespace, name, value, &key);
        }
        let account = (key.namespace.clone(), Arc::clone(&new.service_account));
        dirty.owners |= self.owners.add(new.unix_uid, &account);
        self.accounts.entry(account).or_default().insert(key.clone());
        let touched: BTreeSet<ServiceName> = before.iter().chain(&new.services).cloned().collect();
        let has = new.addresses.clone();
        self.workloads.insert(key.clone(), Box::new(new));
        self.refresh_endpoints(&key, &touched, dirty);
        self.move_owner(&key, &had, &has, dirty);
        dirty.workloads.insert(key);
    }

    fn remove_workload(&mut self, key: &WorkloadKey, dirty: &mut Dirty) {
        self.unindex(key, dirty);
        if let Some(gone) = self.workloads.remove(key) {
            self.refresh_endpoints(key, &gone.services, dirty);
            self.move_owner(key, &gone.addresses, &[], dirty);
            dirty.workloads.insert(key.clone());
        }
    }

    /// What a workload's proxy says of itself. Kept also for a workload that no object names yet.
    pub fn set_workload_state(&mut self, key: &WorkloadKey, state: WorkloadState) -> Dirty {
        let mut dirty = Dirty::default();
        if state == WorkloadState::default() {
            self.states.remove(key);
        } else {
            self.states.insert(key.clone(), state);
        }
        let Some(workload) = self.workloads.get_mut(key) else { return dirty };
        if workload.state == state {
            return dirty;
        }
        workload.state = state;
        dirty.workloads.insert(key.clone());
        let services = workload.services.clone();
        self.refresh_endpoints(key, &services, &mut dirty);
        dirty
    }

    fn workload_of(&self, key: &WorkloadKey, object: &WorkloadObject) -> Option<Workload> {
        let first = self.settings.networks.first().map(|n| &n.name);
        let identity =
            SpiffeId::workload(self.settings.trust_domain.clone(), key.namespace.clone(), &object.service_account);
        Some(Workload {
            key: key.clone(),
            service_account: Arc::clone(&object.service_account),
            identity: identity.ok()?,
            addresses: object.addresses.clone(),
            network: object.network.as_ref().or(first)?.clone(),
            locality: object.locality.clone().unwrap_or_else(|| self.settings.default_locality()),
            weight: object.weight.max(1),
            ports: object.ports.clone(),
            labels: object.labels.clone(),
            outside: false,
            pod: None,
            sidecar: !object.without_sidecar,
            unix_uid: object.unix_uid,
            state: self.states.get(key).copied().unwrap_or_default(),
            services: SortedSet::default(),
        })
    }

    fn unindex(&mut self, key: &WorkloadKey, dirty: &mut Dirty) {
        let Some(old) = self.workloads.get(key) else { return };
        for (name, value) in old.labels.iter() {
            self.labels.remove(&key.namespace, name, value, key);
        }
        let account = (key.namespace.clone(), Arc::clone(&old.service_account));
        dirty.owners |= self.owners.remove(old.unix_uid, &account);
        if let Some(keys) = self.accounts.get_mut(&account) {
            keys.remove(key);
            if keys.is_empty() {
                self.accounts.remove(&account);
            }
        }
    }

    /// The services that a workload may be behind: those that select it, found by the anchor pair that it has, and those
    /// whose slices list it.
    pub(super) fn services_for(&self, workload: &Workload) -> SortedSet<ServiceName> {
        let mut found: Vec<ServiceName> = self.slices.listing(&workload.key).cloned().collect();
        for (key, value) in workload.labels.iter() {
            for name in self.selectors.with(&workload.key.namespace, key, value).into_iter().flatten() {
                if self.services.get(name).is_some_and(|s| workload.labels.selected_by(&s.selector)) {
                    found.push(name.clone());
                }
            }
        }
        found.into_iter().collect()
    }

    /// Makes the endpoints of one workload in these services what the workload is now.
    pub(super) fn refresh_endpoints<'a>(
        &mut self,
        key: &WorkloadKey,
        services: impl IntoIterator<Item = &'a ServiceName>,
        dirty: &mut Dirty,
    ) {
        for name in services {
            #[cfg(test)]
            {
                self.looked_at += 1;
            }
            let Some(service) = self.services.get_mut(name) else { continue };
            let many = service.has_too_many_identities();
            let behind = Behind::of(service, key, self.workloads.get(key).map(Box::as_ref), self.slices.of(name));
            let (changed, dangling) = service.set_workload(key, &behind, &self.settings);
            let crossed = service.has_too_many_identities() != many;
            let gateway = service.gateway;
            if changed {
                dirty.services.insert(name.clone());
            }
            if dangling || crossed {
                self.check_service(name, dirty);
            }
            if gateway {
                self.refresh_gateway(name, dirty);
            }
        }
    }

    /// What the ports of a workload are for its proxy's inbound side, by number.
    #[must_use]
    pub fn inbound(&self, key: &WorkloadKey) -> BTreeMap<u16, InboundPort> {
        let Some(workload) = self.workloads.get(key) else { return BTreeMap::new() };
        let mut ports: BTreeMap<u16, InboundPort> = BTreeMap::new();
        for (name, number) in workload.ports.iter() {
            let alone =
                ServicePort { name: name.to_owned(), port: number, protocol: "TCP".to_owned(), app_protocol: None };
            ports.insert(number, InboundPort::of(&alone));
        }
        for service in workload.services.iter().filter_map(|name| self.services.get(name)) {
            for endpoint in service.endpoints.get(key).into_iter().flatten() {
                let Some(port) = service.port(endpoint.port) else { continue };
                let inbound = ports.entry(endpoint.target_port).or_insert_with(|| InboundPort::of(port));
                // The services are asked before the workload.
                let before = !inbound.services.is_empty() && inbound.says_other;
                inbound.says_other = before || InboundPort::of(port).says_other;
                // What one service calls TCP may carry anything: only where all say HTTP is it parsed.
                inbound.protocol = match (inbound.services.is_empty(), inbound.protocol, port.speaks()) {
                    (true, _, said) | (false, PortProtocol::Http, said) => said,
                    (false, PortProtocol::Tcp, _) => PortProtocol::Tcp,
                };
                inbound.services.push((service.name.clone(), endpoint.port));
                inbound.export_to.extend(service.export_to.clone());
            }
        }
        ports
    }
}
