//! Pure. In which order the exports of services were first seen.

use std::collections::BTreeMap;

use meshfed_model::names::{ClusterName, ServiceName};

use super::common::{at_most, parsed, required};
use super::error::{InvalidMessage, Within};
use super::member::MEMBERS_MAX;
use crate::proto::federation as pb;

/// Services in one message.
pub const SENIORITY_SERVICES_MAX: usize = 256;

/// Per service its exporters, the oldest first; none: there is nothing to order any more.
pub type Seniority = BTreeMap<ServiceName, Vec<ClusterName>>;

/// Reads the order.
///
/// # Errors
/// [`InvalidMessage`] naming the field.
pub fn seniority(message: pb::Seniority) -> Result<Seniority, InvalidMessage> {
    at_most(message.services.len(), SENIORITY_SERVICES_MAX, "services")?;
    services(message.services)
}

/// Reads an order of any length: what this end has written itself.
///
/// # Errors
/// [`InvalidMessage`] naming the field.
pub fn services(services: Vec<pb::ServiceSeniority>) -> Result<Seniority, InvalidMessage> {
    let one = |s: pb::ServiceSeniority| {
        at_most(s.clusters.len(), MEMBERS_MAX, "clusters")?;
        let clusters = s.clusters.iter().map(|c| parsed(c, "clusters")).collect::<Result<_, _>>()?;
        Ok((ServiceName::try_from(required(s.service, "service")?)?, clusters))
    };
    let indexed = services.into_iter().enumerate();
    indexed.map(|(i, s)| one(s).within(format_args!("services[{i}]"))).collect()
}

/// The order as a message.
#[must_use]
pub fn seniority_message(order: &Seniority) -> pb::Seniority {
    let one = |(service, clusters): (&ServiceName, &Vec<ClusterName>)| pb::ServiceSeniority {
        service: Some(service.into()),
        clusters: clusters.iter().map(ToString::to_string).collect(),
    };
    pb::Seniority { services: order.iter().map(one).collect() }
}
