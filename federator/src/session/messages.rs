//! Pure. What the state has to say, as messages.

use meshfed_api::border::{seniority_message, shared_networks_message};
use meshfed_api::proto::federation as wire;
use wire::hub_message::Message;

use super::state::{SessionId, State};
use crate::fanout::{Next, Query};

/// The message for a session; `None`: what it was about is gone already.
pub(super) fn message(state: &State, id: SessionId, next: Next, clock: String) -> Option<wire::HubMessage> {
    let message = match next {
        Next::Fenced(reason) => Message::Fenced(wire::Fenced { reason }),
        Next::OfferAck(ack) => Message::OfferAck((&ack).into()),
        Next::Query(Query { id, query }) => Message::EndpointsQuery(wire::EndpointsQuery {
            id,
            namespace: query.service.namespace.to_string(),
            name: query.service.name().to_owned(),
            port: query.port.into(),
            client: query.client.unwrap_or_default(),
            locality: query.locality.unwrap_or_default(),
        }),
        Next::Heartbeat => Message::Heartbeat(wire::Heartbeat { clock }),
        Next::Bundle(trust_domain) => {
            Message::Bundle(wire::BundleUpdate { bundle: Some(state.bundle(&trust_domain)?.into()) })
        }
        Next::BundleGone(trust_domain) => {
            Message::BundleGone(wire::BundleGone { trust_domain: trust_domain.to_string() })
        }
        Next::Members => Message::Members(state.live().into()),
        Next::Policies => Message::Policies(state.policies().into()),
        Next::SharedNetworks => {
            let cluster = &state.session(id)?.cluster;
            Message::SharedNetworks(shared_networks_message(&state.shared(cluster)))
        }
        Next::Seniority(order) => Message::Seniority(seniority_message(&order)),
        Next::OriginGone(origin) => Message::OriginGone(wire::OriginGone { origin: origin.to_string() }),
        Next::CaughtUp(interests) => Message::CaughtUp(wire::CaughtUp { interests }),
        Next::View { origin, filter, delta } => {
            Message::View(wire::ViewDelta { origin: origin.to_string(), delta: Some((&delta).into()), filter })
        }
    };
    Some(wire::HubMessage { message: Some(message) })
}

/// What a session is sent, for who looks for a fault.
pub(super) fn log(session: SessionId, next: &Next) {
    match next {
        Next::View { origin, delta, .. } => {
            let (version, complete) = (delta.version, delta.complete);
            let (changed, gone) = (delta.upserts.len(), delta.removals.len());
            tracing::debug!(?session, %origin, %version, complete, changed, gone, "view: a change is sent");
        }
        Next::OfferAck(ack) => {
            tracing::debug!(?session, version = %ack.version, refused = ack.refused.len(), "offer: ACK is sent");
        }
        Next::OriginGone(origin) => tracing::debug!(?session, %origin, "view: a cluster is gone"),
        Next::Fenced(reason) => tracing::debug!(?session, reason, "session: fenced"),
        Next::Bundle(trust_domain) => tracing::debug!(?session, %trust_domain, "a bundle is sent"),
        Next::BundleGone(trust_domain) => tracing::debug!(?session, %trust_domain, "a bundle is withdrawn"),
        Next::Members => tracing::debug!(?session, "the members are sent"),
        Next::Policies => tracing::debug!(?session, "the policies are sent"),
        Next::SharedNetworks => tracing::debug!(?session, "the shared networks are sent"),
        Next::CaughtUp(interests) => tracing::debug!(?session, interests, "view: all of it is sent"),
        Next::Query(_) | Next::Heartbeat | Next::Seniority(_) => {}
    }
}
