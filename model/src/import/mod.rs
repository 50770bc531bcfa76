//! Pure. What the exports of one name make together: one import for everybody who sees them (KEP-1645).
//!
//! The oldest export decides what can only be said once; ports are united. Who is the oldest follows from the
//! federator's durable first-seen order and not from `creationTimestamp`: that has a resolution of a second, and the
//! clocks of clusters differ.

mod conflict;
mod ports;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

pub use conflict::{Conflict, ConflictField};

use crate::names::ClusterName;
use crate::offer::{Exported, ServiceOffer};
use crate::service::{ServicePort, ServiceTraits, ServiceType};

/// One port of an import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportPort {
    /// The port as the oldest of its exports describes it.
    pub port: ServicePort,
    /// The clusters that expose it: its traffic goes to no other.
    pub clusters: BTreeSet<ClusterName>,
}

/// All exports of one name that somebody sees, as one service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Import {
    /// Whether it has an address of its own: the oldest export's word.
    pub service_type: ServiceType,
    /// The union of the ports, by number and protocol.
    pub ports: Vec<ImportPort>,
    /// What it asks of its clients: the oldest export's words.
    pub traits: ServiceTraits,
    /// Labels and annotations that it carries: the oldest export's.
    pub exported: Exported,
    /// The clusters that export it, the oldest export first.
    pub clusters: Vec<ClusterName>,
    /// What they contradict each other in.
    pub conflict: Option<Conflict>,
}

impl Import {
    /// Merges exports, the oldest first; `None` of none. A cluster is to occur once.
    #[must_use]
    pub fn merge(exports: &[(&ClusterName, &ServiceOffer)]) -> Option<Self> {
        let (_, oldest) = exports.first()?;
        Some(Self {
            service_type: oldest.service_type,
            ports: ports::union(exports),
            traits: oldest.traits.clone(),
            exported: oldest.exported.clone(),
            clusters: exports.iter().map(|(cluster, _)| (*cluster).clone()).collect(),
            conflict: conflict::find(exports),
        })
    }

    /// The port of a number and protocol.
    #[must_use]
    pub fn port(&self, number: u16, protocol: &str) -> Option<&ImportPort> {
        self.ports.iter().find(|p| p.port.port == number && p.port.protocol == protocol)
    }
}

/// Puts exports into the order in which the federator first saw them. Those that `order` does not name, because their
/// claim is not durable yet, come last, by name.
pub fn sort_by_seniority(exports: &mut [(&ClusterName, &ServiceOffer)], order: &[ClusterName]) {
    let place: BTreeMap<&ClusterName, usize> = order.iter().enumerate().map(|(at, cluster)| (cluster, at)).collect();
    exports.sort_by_key(|(cluster, _)| (place.get(cluster).copied().unwrap_or(usize::MAX), *cluster));
}
