//! Pure. Pods as workloads, and the nodes that say where they run (`contracts.md` 1.7, `contracts-kubernetes.md` 5.2).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use meshfed_crds::{Body, Code, NodeHealth, NodeObject, Object, ObjectKey, PodObject, bounds};
use meshfed_model::identity::SpiffeId;
use meshfed_model::locality::Locality;
use meshfed_model::sorted::SortedSet;

use super::silence::Silence;
use super::{Dirty, Index, PodFacts, Workload, WorkloadKey};

/// Pods and nodes.
#[derive(Debug, Default)]
pub(super) struct Pods {
    pub(super) objects: BTreeMap<WorkloadKey, Arc<Object>>,
    nodes: BTreeMap<Arc<str>, Arc<Object>>,
    on_node: BTreeMap<Arc<str>, BTreeSet<WorkloadKey>>,
    pub(super) silence: Silence,
}

impl Pods {
    /// What is heard of the node of a pod; well where it is not known.
    pub(super) fn health_under(&self, pod: &PodObject) -> NodeHealth {
        let node = pod.node.as_ref().and_then(|name| self.nodes.get(name)).and_then(|object| node_of(object));
        node.map(|node| node.health).unwrap_or_default()
    }
    pub(super) fn nodes(&self) -> impl ExactSizeIterator<Item = Option<&NodeObject>> {
        self.nodes.values().map(|object| node_of(object))
    }
}

fn node_of(object: &Object) -> Option<&NodeObject> {
    match &object.body {
        Body::Node(node) => Some(node),
        Body::Namespace(_)
        | Body::Service(_)
        | Body::WorkloadEntry(_)
        | Body::ServiceExport(_)
        | Body::ExportPolicy(_)
        | Body::FailoverPolicy(_)
        | Body::EndpointSlice(_)
        | Body::Pod(_)
        | Body::PeerAuthentication(_)
        | Body::Mesh(_) => None,
    }
}

pub(super) fn pod_of(object: &Object) -> Option<&PodObject> {
    match &object.body {
        Body::Pod(pod) => Some(pod),
        Body::Namespace(_)
        | Body::Service(_)
        | Body::WorkloadEntry(_)
        | Body::ServiceExport(_)
        | Body::ExportPolicy(_)
        | Body::FailoverPolicy(_)
        | Body::EndpointSlice(_)
        | Body::Node(_)
        | Body::PeerAuthentication(_)
        | Body::Mesh(_) => None,
    }
}

impl Index {
    pub(super) fn put_pod(&mut self, object: &Arc<Object>, pod: &PodObject, dirty: &mut Dirty) {
        let key = WorkloadKey { namespace: pod.namespace.clone(), name: Arc::clone(&pod.name) };
        let before = self.pods.objects.insert(key.clone(), Arc::clone(object));
        let before = before.as_ref().and_then(|o| pod_of(o));
        self.pods.silence.hear_pod(&key, before, pod);
        let was_on = before.and_then(|p| p.node.clone());
        if was_on != pod.node {
            self.leave_node(was_on.as_ref(), &key);
            if let Some(node) = &pod.node {
                self.pods.on_node.entry(Arc::clone(node)).or_default().insert(key.clone());
            }
        }
        self.settle_workload(&key, dirty);
        self.check_pod(&key, dirty);
    }

    pub(super) fn remove_pod(&mut self, key: &WorkloadKey, dirty: &mut Dirty) {
        let Some(before) = self.pods.objects.remove(key) else { return };
        self.pods.silence.forget(key);
        let was_on = pod_of(&before).and_then(|p| p.node.clone());
        self.leave_node(was_on.as_ref(), key);
        self.settle_workload(key, dirty);
        self.set_errors(before.key(), Vec::new(), dirty);
    }

    /// The node that a pod is on; none of what is no pod.
    #[must_use]
    pub fn node_of(&self, key: &WorkloadKey) -> Option<Arc<str>> {
        self.pods.objects.get(key).and_then(|object| pod_of(object)).and_then(|pod| pod.node.clone())
    }

    fn leave_node(&mut self, node: Option<&Arc<str>>, key: &WorkloadKey) {
        if let Some(node) = node
            && let Some(pods) = self.pods.on_node.get_mut(node)
        {
            pods.remove(key);
            if pods.is_empty() {
                self.pods.on_node.remove(node);
            }
        }
    }

    pub(super) fn put_node(&mut self, object: &Arc<Object>, node: &NodeObject, dirty: &mut Dirty) {
        self.pods.nodes.insert(Arc::clone(&node.name), Arc::clone(object));
        self.pods.silence.nodes_changed();
        let errors = if self.locality_on(node).1 {
            Vec::new()
        } else {
            let settings = &self.settings;
            let place =
                if node.zone.is_empty() { node.region.to_string() } else { format!("{}/{}", node.region, node.zone) };
            let zones = if settings.zones.is_empty() { "any".to_owned() } else { settings.zones.join(", ") };
            let message = format!(
                "the node is in {place}, which is not in the cluster's token (regions {}; zones {zones}): its pods \
                 count as in the first region, without a zone",
                settings.regions.join(", ")
            );
            vec![object.fault(Code::LocalityNotAllowed, "metadata.labels", message)]
        };
        self.set_errors(object.key(), errors, dirty);
        self.move_pods(&node.name, dirty);
    }

    pub(super) fn remove_node(&mut self, key: &ObjectKey, dirty: &mut Dirty) {
        self.pods.nodes.remove(&key.name);
        self.pods.silence.nodes_changed();
        self.set_errors(key.clone(), Vec::new(), dirty);
        self.move_pods(&key.name, dirty);
    }

    /// After a node changed: its pods are where it is. One that says the same as before costs a comparison each.
    fn move_pods(&mut self, node: &Arc<str>, dirty: &mut Dirty) {
        for key in self.pods.on_node.get(node).cloned().unwrap_or_default() {
            self.settle_workload(&key, dirty);
        }
    }

    /// Where pods of a node are, and whether the token allows what its labels say.
    fn locality_on(&self, node: &NodeObject) -> (Locality, bool) {
        let settings = &self.settings;
        let first = || settings.regions.first().map_or("", String::as_str);
        let in_region = node.region.is_empty() || settings.regions.iter().any(|r| **r == *node.region);
        let in_zone =
            node.zone.is_empty() || settings.zones.is_empty() || settings.zones.iter().any(|z| **z == *node.zone);
        if !in_region || !in_zone {
            return (Locality::new(first(), ""), false);
        }
        let region = if node.region.is_empty() { first() } else { &node.region };
        // A zone without a region is nowhere.
        let zone = if region.is_empty() { "" } else { &node.zone };
        (Locality::new(region, zone), true)
    }

    /// The pod as a workload; none: it has ended, or is of no network.
    pub(super) fn workload_of_pod(&self, key: &WorkloadKey, pod: &PodObject) -> Option<Workload> {
        if pod.ended {
            return None;
        }
        let networks = &self.settings.networks;
        let network = match &pod.network {
            Some(name) => networks.iter().find(|n| n.name == *name),
            None => networks.first(),
        }?;
        let account = &pod.service_account;
        let identity = SpiffeId::workload(self.settings.trust_domain.clone(), key.namespace.clone(), account).ok()?;
        let node = pod.node.as_ref().and_then(|name| self.pods.nodes.get(name)).and_then(|object| node_of(object));
        let locality = match node {
            Some(node) => self.locality_on(node).0,
            // Until its node is known.
            None => Locality::new(self.settings.regions.first().map_or("", String::as_str), ""),
        };
        let outside = pod.addresses.iter().any(|a| bounds::check_address(*a, &network.cidrs).is_err());
        Some(Workload {
            key: key.clone(),
            service_account: Arc::clone(account),
            identity,
            addresses: pod.addresses.clone(),
            network: network.name.clone(),
            locality,
            weight: 1,
            ports: pod.ports.clone(),
            labels: pod.labels.clone(),
            sidecar: pod.injected && !pod.host_network,
            outside,
            pod: Some(PodFacts {
                uid: Arc::clone(&pod.uid),
                ready: pod.ready,
                spared: self.pods.silence.spares(key, self.pods.health_under(pod)),
                terminating: pod.terminating,
            }),
            unix_uid: None,
            state: self.states.get(key).copied().unwrap_or_default(),
            services: SortedSet::default(),
        })
    }

    /// A pod outside the ranges of the token is told of where a service lists it: the node's own daemons are nobody's
    /// concern.
    pub(super) fn check_pod(&mut self, key: &WorkloadKey, dirty: &mut Dirty) {
        let Some(object) = self.pods.objects.get(key) else { return };
        let Some(pod) = pod_of(object) else { return };
        let outside = self.workloads.get(key).is_some_and(|w| w.outside) && self.slices.listing(key).next().is_some();
        if !outside && !self.errors.contains_key(&object.key()) {
            return;
        }
        let errors = if outside {
            let shown: Vec<String> = pod.addresses.iter().map(ToString::to_string).collect();
            let whose = if pod.host_network { " (of its node: hostNetwork)" } else { "" };
            let message = format!(
                "the address {}{whose} lies outside the ranges of the cluster's token: the pod is not offered to other \
                 clusters",
                shown.join(", ")
            );
            let remedy =
                "nothing to do for a pod of its node's network; else join again with a token that names its range";
            vec![object.fault(Code::AddressNotAllowed, "status.podIPs", message).remedy(remedy)]
        } else {
            Vec::new()
        };
        self.set_errors(object.key(), errors, dirty);
    }
}

#[cfg(test)]
mod tests;
