//! Pure. What one cluster exports: keyed resources under a [`Version`](crate::version::Version).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::export::ExportTo;
use crate::identity::SpiffeId;
use crate::locality::Locality;
use crate::names::{NetworkName, ServiceName, SubsetName};
use crate::service::{ServicePort, ServiceTraits, ServiceType};

/// The key of one resource of an offer. The order of two changes to different keys never matters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum OfferKey {
    /// A service.
    Service(ServiceName),
    /// A group of endpoints behind gateways.
    Group(GroupKey),
    /// A single endpoint, for clusters on the same network.
    Endpoint(EndpointKey),
    /// A gateway address.
    Gateway(GatewayKey),
}

impl OfferKey {
    /// The service that the resource belongs to; gateways belong to none.
    #[must_use]
    pub const fn service(&self) -> Option<&ServiceName> {
        match self {
            Self::Service(s) => Some(s),
            Self::Group(g) => Some(&g.service),
            Self::Endpoint(e) => Some(&e.service),
            Self::Gateway(_) => None,
        }
    }
}

/// Groups are keyed (service, port, subset, network, locality): D5.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct GroupKey {
    /// The service.
    pub service: ServiceName,
    /// The service's port.
    pub port: u16,
    /// The subset.
    pub subset: SubsetName,
    /// The network the endpoints are on.
    pub network: NetworkName,
    /// Where they run.
    pub locality: Locality,
}

/// Single endpoints are keyed (service, port, subset, network, address, target port).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EndpointKey {
    /// The service.
    pub service: ServiceName,
    /// The service's port.
    pub port: u16,
    /// The subset.
    pub subset: SubsetName,
    /// The network the address is on.
    pub network: NetworkName,
    /// The address peers dial.
    pub address: IpAddr,
    /// The port peers dial.
    pub target_port: u16,
}

/// A gateway address occurs once in a fleet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct GatewayKey {
    /// The network it leads into.
    pub network: NetworkName,
    /// The address other networks dial.
    pub address: IpAddr,
    /// The port they dial.
    pub port: u16,
}

/// One resource of an offer, without its key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum OfferValue {
    /// A service.
    Service(ServiceOffer),
    /// A group.
    Group(GroupOffer),
    /// A single endpoint.
    Endpoint(EndpointOffer),
    /// A gateway address.
    Gateway(GatewayOffer),
}

/// What an export adds to its import (MCS `exportedLabels`, `exportedAnnotations`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exported {
    /// Labels of the import.
    pub labels: BTreeMap<String, String>,
    /// Annotations of the import.
    pub annotations: BTreeMap<String, String>,
}

impl Exported {
    /// How many pairs there are, and how many bytes they have.
    #[must_use]
    pub fn size(&self) -> (usize, usize) {
        let pairs = || self.labels.iter().chain(&self.annotations);
        (pairs().count(), pairs().map(|(key, value)| key.len() + value.len()).sum())
    }
}

/// An exported service. The default one goes to nobody.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceOffer {
    /// Whether it has an address of its own.
    pub service_type: ServiceType,
    /// Its ports, by number and protocol.
    pub ports: Vec<ServicePort>,
    /// To whom.
    pub export_to: ExportTo,
    /// Whom a client must find behind it: the identities of its endpoints.
    pub identities: BTreeSet<SpiffeId>,
    /// What it asks of its clients.
    pub traits: ServiceTraits,
    /// What its import carries.
    pub exported: Exported,
}

/// Counts of a group. `ready` and `total` are quantised (D5, [`crate::quantise`]); `weight` is that of the ready ones.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupOffer {
    /// Ready endpoints.
    pub ready: u32,
    /// Listed endpoints, terminating ones left out.
    pub total: u32,
    /// Sum of the weights of the ready endpoints.
    pub weight: u64,
}

/// A single endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointOffer {
    /// Where it runs.
    pub locality: Locality,
    /// Its weight, from 1.
    pub weight: u32,
    /// Whether it takes requests.
    pub ready: bool,
    /// Whether it is terminating (counted in no percentage).
    pub draining: bool,
    /// Who answers there; an endpoint without identity is never offered.
    pub identity: SpiffeId,
    /// The WorkloadEntry or Pod.
    pub workload: String,
}

/// A gateway address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayOffer {
    /// The gateway's own locality.
    pub locality: Locality,
    /// Offered only while one workload behind it is ready.
    pub ready: bool,
}

/// A removed resource: kept so that a resuming importer hears of it, and told only to those who could see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    /// What was removed.
    pub key: OfferKey,
    /// The revision of the removal.
    pub revision: u64,
    /// To whom it was exported before; everyone for gateways.
    pub audience: ExportTo,
}
