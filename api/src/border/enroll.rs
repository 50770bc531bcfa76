//! Pure. What a token binds a cluster to, and what a joiner says it will offer.

use std::collections::BTreeSet;

use meshfed_model::identity::TrustDomain;
use meshfed_model::names::{ClusterName, ServiceName};
use meshfed_model::network::{Cidr, Network};
use meshfed_model::service::{ServicePort, ServiceType};

use super::common::{PLACES_MAX, TEXT_MAX, at_most, cidrs, parsed, places, text};
use super::error::{InvalidMessage, Within};
use super::offer::{service_ports, service_type, service_type_name};
use crate::proto::federation as pb;

/// Services in one plan.
pub const PLANNED_MAX: usize = 10_000;

/// A service that a joiner would export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedOffer {
    /// The service.
    pub service: ServiceName,
    /// Its type.
    pub service_type: ServiceType,
    /// Its ports.
    pub ports: Vec<ServicePort>,
}

impl TryFrom<pb::PlannedOffer> for PlannedOffer {
    type Error = InvalidMessage;
    fn try_from(o: pb::PlannedOffer) -> Result<Self, InvalidMessage> {
        Ok(Self {
            service: pb::ServiceKey { namespace: o.namespace, name: o.name }.try_into()?,
            service_type: service_type(&o.r#type)?,
            ports: service_ports(o.ports)?,
        })
    }
}
impl From<&PlannedOffer> for pb::PlannedOffer {
    fn from(o: &PlannedOffer) -> Self {
        Self {
            namespace: o.service.namespace.to_string(),
            name: o.service.name().to_owned(),
            r#type: service_type_name(o.service_type).to_owned(),
            ports: o.ports.iter().map(Into::into).collect(),
        }
    }
}

/// The offers of a plan.
///
/// # Errors
/// Names the field.
pub fn planned_offers(offers: Vec<pb::PlannedOffer>) -> Result<Vec<PlannedOffer>, InvalidMessage> {
    at_most(offers.len(), PLANNED_MAX, "offers")?;
    let indexed = offers.into_iter().enumerate();
    indexed.map(|(i, o)| o.try_into().within(format_args!("offers[{i}]"))).collect()
}

/// What a token binds its cluster to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// The cluster.
    pub cluster: ClusterName,
    /// Its trust domain.
    pub trust_domain: TrustDomain,
    /// The fleet's domain.
    pub fleet: TrustDomain,
    /// Its networks; the first is that of a client that names none.
    pub networks: Vec<Network>,
    /// Ranges of its gateways; empty: those of the network.
    pub gateway_cidrs: BTreeSet<Cidr>,
    /// Its regions, in the token's order.
    pub regions: Vec<String>,
    /// Its zones, in the token's order.
    pub zones: Vec<String>,
    /// `HOST:PORT` of every federator.
    pub federators: Vec<String>,
}

struct Parts {
    cluster: String,
    trust_domain: String,
    fleet: String,
    networks: Vec<pb::Network>,
    gateway_cidrs: Vec<String>,
    regions: Vec<String>,
    zones: Vec<String>,
    federators: Vec<String>,
}

impl TryFrom<Parts> for Placement {
    type Error = InvalidMessage;
    fn try_from(p: Parts) -> Result<Self, InvalidMessage> {
        at_most(p.networks.len(), PLACES_MAX, "networks")?;
        at_most(p.federators.len(), PLACES_MAX, "federators")?;
        let networks = p.networks.into_iter().enumerate();
        let federators = p.federators.into_iter().map(|f| text(f, TEXT_MAX, "federators"));
        let placement = Self {
            cluster: parsed(&p.cluster, "cluster")?,
            trust_domain: parsed(&p.trust_domain, "trust_domain")?,
            fleet: parsed(&p.fleet, "fleet")?,
            networks: networks
                .map(|(i, n)| n.try_into().within(format_args!("networks[{i}]")))
                .collect::<Result<_, _>>()?,
            gateway_cidrs: cidrs(&p.gateway_cidrs, "gateway_cidrs")?,
            regions: places(&p.regions, "regions")?,
            zones: places(&p.zones, "zones")?,
            federators: federators.collect::<Result<_, _>>()?,
        };
        if placement.trust_domain.cluster_in(&placement.fleet).as_ref() != Some(&placement.cluster) {
            let problem = format!("'{}' is not that of '{}' in its fleet", placement.trust_domain, placement.cluster);
            return Err(InvalidMessage::new("trust_domain", problem));
        }
        Ok(placement)
    }
}

impl TryFrom<&pb::PlanResponse> for Placement {
    type Error = InvalidMessage;
    fn try_from(r: &pb::PlanResponse) -> Result<Self, InvalidMessage> {
        Parts {
            cluster: r.cluster.clone(),
            trust_domain: r.trust_domain.clone(),
            fleet: r.fleet.clone(),
            networks: r.networks.clone(),
            gateway_cidrs: r.gateway_cidrs.clone(),
            regions: r.regions.clone(),
            zones: r.zones.clone(),
            federators: r.federators.clone(),
        }
        .try_into()
    }
}

impl TryFrom<&pb::JoinResponse> for Placement {
    type Error = InvalidMessage;
    fn try_from(r: &pb::JoinResponse) -> Result<Self, InvalidMessage> {
        Parts {
            cluster: r.cluster.clone(),
            trust_domain: r.trust_domain.clone(),
            fleet: r.fleet.clone(),
            networks: r.networks.clone(),
            gateway_cidrs: r.gateway_cidrs.clone(),
            regions: r.regions.clone(),
            zones: r.zones.clone(),
            federators: r.federators.clone(),
        }
        .try_into()
    }
}
