//! Pure. Split horizon: what one client is handed for one service port and subset (`design.md` 4).

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::locality::Locality;
use crate::names::{ClusterName, NetworkName};
use crate::share::Share;

mod admit;
mod assign;
mod fair;
#[cfg(test)]
mod tests;

pub(crate) use admit::tier_counts;
pub use assign::assign;

/// The address families a client can dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Families {
    /// IPv4.
    pub v4: bool,
    /// IPv6.
    pub v6: bool,
}

impl Families {
    /// Both families.
    pub const BOTH: Self = Self { v4: true, v6: true };
    /// Whether an address is of one of these families.
    #[must_use]
    pub const fn has(self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(_) => self.v4,
            IpAddr::V6(_) => self.v6,
        }
    }
}

/// The class of clients that are handed the same: by cluster, network, locality and families.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Client {
    /// Its cluster.
    pub cluster: ClusterName,
    /// Its network.
    pub network: NetworkName,
    /// Where it runs.
    pub locality: Locality,
    /// What it can dial.
    pub families: Families,
}

/// A single endpoint as a candidate.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct EndpointCandidate {
    /// Its cluster.
    pub cluster: ClusterName,
    /// The network its address is on.
    pub network: NetworkName,
    /// Where it runs.
    pub locality: Locality,
    /// Its address.
    pub address: IpAddr,
    /// The port to dial.
    pub port: u16,
    /// Its weight, from 1.
    pub weight: u32,
    /// Whether it takes requests.
    pub ready: bool,
    /// Whether it speaks mTLS; one that does not is for its own cluster's clients on its own network only.
    pub mtls: bool,
}

/// A group of endpoints of another network as a candidate.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct GroupCandidate {
    /// Its cluster.
    pub cluster: ClusterName,
    /// The network its endpoints are on.
    pub network: NetworkName,
    /// Where they run.
    pub locality: Locality,
    /// Ready endpoints.
    pub ready: u32,
    /// Listed endpoints.
    pub total: u32,
    /// Sum of the weights of the ready endpoints.
    pub weight: u64,
}

/// A gateway address that leads into `network` for the services of `cluster`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct GatewayCandidate {
    /// The cluster whose services it serves.
    pub cluster: ClusterName,
    /// The network it leads into.
    pub network: NetworkName,
    /// The address to dial.
    pub address: IpAddr,
    /// The port to dial.
    pub port: u16,
    /// The gateway's own locality.
    pub locality: Locality,
}

/// Everything known about one service port and subset.
#[derive(Debug, Clone, Default)]
pub struct Candidates {
    /// Single endpoints, ready or not, terminating ones left out.
    pub endpoints: Vec<EndpointCandidate>,
    /// Groups of endpoints.
    pub groups: Vec<GroupCandidate>,
    /// Ready gateways.
    pub gateways: Vec<GatewayCandidate>,
    /// Clusters an operator has drained: for every client, their own included.
    pub drained: BTreeSet<ClusterName>,
    /// Clusters that do not export the port to the client. Known to the hub only; empty at an agent.
    pub not_exported: BTreeSet<ClusterName>,
}

/// How an address is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Via {
    /// The endpoint itself.
    Direct,
    /// An east-west gateway.
    Gateway,
}

/// What a gateway address stands for, kept in endpoint metadata `meshfed.groups`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupShare {
    /// Where the group runs.
    pub locality: Locality,
    /// Its tier.
    pub tier: u32,
    /// Ready endpoints.
    pub ready: u32,
    /// Listed endpoints.
    pub total: u32,
    /// The part of the client's requests that this group gets over this address.
    pub share: Share,
}

/// One address handed to the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// The address to dial.
    pub address: IpAddr,
    /// The port to dial.
    pub port: u16,
    /// Directly or over a gateway.
    pub via: Via,
    /// Whose endpoints are reached.
    pub cluster: ClusterName,
    /// The network they are on.
    pub network: NetworkName,
    /// The endpoint's, or the gateway's own, locality.
    pub locality: Locality,
    /// Whether it speaks mTLS.
    pub mtls: bool,
    /// The best tier among its groups that have ready endpoints.
    pub tier: u32,
    /// 0 for every address with a share; from 1 on, in the order of tiers and without gaps, for the others.
    pub priority: u32,
    /// Integer weight inside its priority, never 0; the sum of a priority fits u32.
    pub weight: u32,
    /// The exact part of the client's requests.
    pub share: Share,
    /// What a gateway address stands for; empty for a single endpoint.
    pub groups: Vec<GroupShare>,
}

/// Why endpoints were left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum DropReason {
    /// No gateway of their own cluster leads into their network.
    NoReachableGateway,
    /// No address of a family that the client has.
    AddressFamily,
    /// Another network, and no mTLS.
    NoMtls,
    /// Not exported to the client's cluster.
    NotExported,
    /// Their cluster is drained.
    Drained,
    /// Their cluster was silent for too long.
    Withdrawn,
    /// An address outside the ranges that the cluster may use.
    AddressNotAllowed,
    /// No tier of the service's policy selects them; told only where nothing is left.
    NotSelected,
}

/// Ready endpoints that were left out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Dropped {
    /// Their cluster.
    pub cluster: ClusterName,
    /// Their network.
    pub network: NetworkName,
    /// How many were ready.
    pub ready: u32,
    /// Why.
    pub reason: DropReason,
}

/// What a client is handed for one service port and subset. Sorted: same input, same bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Assignment {
    /// The addresses, ordered by (priority, cluster, network, address, port).
    pub items: Vec<Item>,
    /// What was left out, ordered.
    pub dropped: Vec<Dropped>,
}
