//! Pure. What an agent says after its hello, checked.

use std::collections::BTreeSet;

use meshfed_api::border::{Ack, Interest, InvalidMessage, Part, bundle_serial};
use meshfed_api::proto::federation as wire;
use meshfed_model::identity::TrustDomain;
use meshfed_model::names::Namespace;
use wire::agent_message::Message;

use super::report::Report;

/// One message of an agent.
#[derive(Debug)]
pub(super) enum Heard {
    /// A part of its offer.
    Offer(Box<Part>),
    /// What it wants to see.
    Interest(BTreeSet<Namespace>),
    /// Its status.
    Status(Box<Report>),
    /// Where it stands for an origin.
    Ack(Ack),
    /// It holds a bundle.
    Bundle(TrustDomain, u64),
    /// An answer.
    Endpoints(wire::EndpointsAnswer),
    /// Sign of life.
    Heartbeat,
    /// A second hello, or nothing that this version knows.
    Unexpected(&'static str),
}

pub(super) fn heard(message: wire::AgentMessage) -> Result<Heard, InvalidMessage> {
    Ok(match message.message {
        Some(Message::Offer(delta)) => Heard::Offer(Box::new(delta.try_into()?)),
        Some(Message::Interest(interest)) => Heard::Interest(Interest::try_from(interest)?.namespaces),
        Some(Message::Status(report)) => Heard::Status(Box::new(report.into())),
        Some(Message::Ack(ack)) => Heard::Ack(ack.try_into()?),
        Some(Message::BundleAck(serial)) => {
            let (trust_domain, serial) = bundle_serial(serial)?;
            Heard::Bundle(trust_domain, serial)
        }
        Some(Message::Endpoints(answer)) => Heard::Endpoints(answer),
        Some(Message::Heartbeat(_)) => Heard::Heartbeat,
        Some(Message::Hello(_)) => Heard::Unexpected("a second hello"),
        None => Heard::Unexpected("an empty message"),
    })
}
