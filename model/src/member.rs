//! Pure. Members of a fleet, as every agent knows them.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::identity::TrustDomain;
use crate::names::{ClusterName, NetworkName};
use crate::network::{Cidr, Network};

/// One cluster of the fleet and what its token binds it to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The cluster.
    pub cluster: ClusterName,
    /// Its trust domain.
    pub trust_domain: TrustDomain,
    /// Labels that export policies select by.
    pub labels: BTreeMap<String, String>,
    /// Whether an operator has drained it.
    pub drained: bool,
    /// Whether it is about to leave: others send nothing to it any more, as where it is drained, and its own clients stay with it.
    #[serde(default)]
    pub leaving: bool,
    /// Its networks, with the ranges its endpoints may have.
    pub networks: Vec<Network>,
    /// Ranges of its gateways; empty: those of the network.
    pub gateway_cidrs: BTreeSet<Cidr>,
    /// Its regions.
    pub regions: BTreeSet<String>,
}

impl Member {
    /// Its network of that name.
    #[must_use]
    pub fn network(&self, name: &NetworkName) -> Option<&Network> {
        self.networks.iter().find(|n| n.name == *name)
    }
}

/// All members of a fleet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Members {
    /// Grows with every change.
    pub revision: u64,
    /// The members, the receiver included.
    pub members: BTreeMap<ClusterName, Member>,
}
