//! Edge. What the hub says, as commands to the core actor.
//!
//! The session itself (both directions share one stream) is run by [`session`]; this room turns its messages into
//! [`CoreCommand`]s on a bounded queue, keeps bundles and the agent's own identity, and knows where the hub is.

pub mod approvals;
pub mod bundles;
mod converse;
pub mod leave;
pub mod renew;
pub mod session;
mod take;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use meshfed_api::border::Seniority;
use meshfed_api::proto::federation as wire;
use meshfed_model::bundle::Bundle;
use meshfed_model::identity::TrustDomain;
use meshfed_model::member::Members;
use meshfed_model::names::{ClusterName, NetworkName};
use meshfed_model::policy::FleetPolicies;
use tokio::sync::oneshot;

use crate::view::ViewChange;

/// Commands that wait for the core actor. A view delta is at most a few MiB, so the queue is short: when the core
/// cannot keep up, the session stops reading and the hub coalesces.
pub const CORE_COMMANDS_MAX: usize = 16;

/// What the core actor is told by the session.
///
/// After it has applied a [`CoreCommand::View`] or [`CoreCommand::OriginGone`], the core first hands its status to
/// [`crate::uplink::UplinkHandle::report`] when the change made proxies lag, and then calls
/// [`crate::uplink::UplinkHandle::ack`], so that the hub never sees "acknowledged" before "proxies lag".
#[derive(Debug)]
pub enum CoreCommand {
    /// A whole change (all parts joined) of what one origin shows us: for [`crate::view::View::apply`]. When that
    /// answers with an error, call [`crate::uplink::UplinkHandle::resync`].
    View(ViewChange),
    /// The origin is gone: for [`crate::view::View::remove_origin`].
    OriginGone(ClusterName),
    /// The members of the fleet: for [`crate::view::View::set_members`] and the index.
    Members(Members),
    /// The fleet's policies: for the index.
    Policies(FleetPolicies),
    /// Networks of ours on which other clusters are, too: for the index.
    SharedNetworks(BTreeSet<NetworkName>),
    /// In which order the federator first saw exports: for [`crate::view::View::set_order`].
    Order(Seniority),
    /// Every bundle that is held, after one of them changed (already persisted and in the trust store).
    Bundles(BTreeMap<TrustDomain, Bundle>),
    /// A question of the HTTP API; the answer goes back over the session. A dropped sender answers 504.
    Endpoints {
        /// Which service, port and client.
        query: EndpointsQuery,
        /// Where the answer goes.
        answer: oneshot::Sender<EndpointsAnswer>,
    },
    /// All was told that there is of what this cluster is interested in now.
    CaughtUp,
    /// The session to a hub was opened or ended.
    Session {
        /// Whether it is open now.
        connected: bool,
    },
}

/// `GET services/{ns}/{name}/endpoints?port=…&client=…&locality=…` for a client of this cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointsQuery {
    /// The namespace as asked.
    pub namespace: String,
    /// The service name as asked.
    pub name: String,
    /// The port; 0 when the caller named none.
    pub port: u32,
    /// `NAMESPACE/SERVICE_ACCOUNT[/NAME]`, or empty.
    pub client: String,
    /// `REGION[/ZONE[/SUBZONE]]`, or empty.
    pub locality: String,
}

/// The answer to an [`EndpointsQuery`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndpointsAnswer {
    /// The JSON body of contracts part 3, without rows that only the hub knows.
    Body(Vec<u8>),
    /// A problem.
    Problem {
        /// The HTTP status.
        status: u16,
        /// What is wrong and how to fix it.
        detail: String,
    },
}

impl From<wire::EndpointsQuery> for EndpointsQuery {
    fn from(q: wire::EndpointsQuery) -> Self {
        Self { namespace: q.namespace, name: q.name, port: q.port, client: q.client, locality: q.locality }
    }
}

impl EndpointsAnswer {
    pub(crate) fn into_wire(self, id: u64) -> wire::EndpointsAnswer {
        match self {
            Self::Body(body) => wire::EndpointsAnswer { id, body: body.into(), status: 0, detail: String::new() },
            Self::Problem { status, detail } => {
                wire::EndpointsAnswer { id, body: Vec::new().into(), status: u32::from(status), detail }
            }
        }
    }
}
