//! Pure. When the control plane of a cluster was away, and its pods were not (decision 32).
//!
//! Where nothing was heard of a node for as long as its controller waits, Kubernetes makes the node `Unknown` and the
//! condition `Ready` of its pods false. When the API server was away for longer than that, this happens to every node at
//! once as soon as it is back, and lasts until each kubelet has come back and has written its pods anew. Kubernetes itself
//! evicts nobody while no node at all is heard of, for the fault is then its own. In the same way the last word of their
//! kubelets counts here for the pods that were made unready meanwhile.

use std::collections::BTreeSet;

use meshfed_crds::{NodeHealth, PodObject};

use super::pods::pod_of;
use super::{Dirty, Index, WorkloadKey};

/// Whether nothing is heard of the nodes of this cluster, and the pods whose kubelets are believed for that.
#[derive(Debug, Default)]
pub(super) struct Silence {
    /// From the moment at which no node is heard of, until half of them are again.
    silent: bool,
    /// Nodes changed since it was asked last.
    changed: bool,
    /// Made unready in a silence, and not otherwise since. After it ended they are spared on nodes that are well: their
    /// kubelets are back, and have yet to write.
    spared: BTreeSet<WorkloadKey>,
}

/// Whether Kubernetes says that a pod is not ready, and its kubelet said that it is.
const fn is_marked(pod: &PodObject) -> bool {
    pod.kubelet_ready && !pod.ready && !pod.terminating && !pod.ended
}

impl Silence {
    pub(super) const fn nodes_changed(&mut self) {
        self.changed = true;
    }
    pub(super) fn forget(&mut self, key: &WorkloadKey) {
        self.spared.remove(key);
    }
    /// Whether the kubelet of a pod is believed, where this is heard of its node.
    pub(super) fn spares(&self, key: &WorkloadKey, node: NodeHealth) -> bool {
        let believed = match node {
            NodeHealth::Well => true,
            NodeHealth::Unheard => self.silent,
            NodeHealth::Unwell => false,
        };
        believed && self.spared.contains(key)
    }
    /// A pod came or changed.
    pub(super) fn hear_pod(&mut self, key: &WorkloadKey, before: Option<&PodObject>, pod: &PodObject) {
        if is_marked(pod) {
            if self.silent {
                self.spared.insert(key.clone());
            } else if before.is_some_and(|before| before.ready) {
                // This time for a reason of its own.
                self.spared.remove(key);
            }
        } else if !pod.ready || pod.terminating || pod.ended {
            self.spared.remove(key);
        }
        // One that is ready again stays spared: its slices follow later.
    }
}

impl Index {
    /// Whether nothing is heard of the cluster's nodes, so that the last word of their kubelets counts.
    #[must_use]
    pub const fn is_silent(&self) -> bool {
        self.pods.silence.silent
    }

    /// After the changes of one scan: nodes that come one by one are no reason to think that there are no others.
    pub(super) fn hear_nodes(&mut self, dirty: &mut Dirty) {
        if !std::mem::take(&mut self.pods.silence.changed) {
            return;
        }
        let nodes = self.pods.nodes();
        let all = nodes.len();
        let unheard = nodes.flatten().filter(|node| node.health == NodeHealth::Unheard).count();
        let was = self.pods.silence.silent;
        let silent = unheard > 0 && (unheard == all || (was && unheard.saturating_mul(2) > all));
        if silent == was {
            return;
        }
        self.pods.silence.silent = silent;
        if silent {
            let pods = self.pods.objects.iter();
            let marked = pods.filter(|(_, object)| pod_of(object).is_some_and(is_marked));
            self.pods.silence.spared.extend(marked.map(|(key, _)| key.clone()));
        }
        for key in self.pods.silence.spared.clone() {
            self.settle_workload(&key, dirty);
        }
    }
}

#[cfg(test)]
mod tests;
