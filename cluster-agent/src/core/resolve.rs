//! Pure. From what a proxy claims to the workload it may speak for.

use crate::identity::{Peer, attest};
use crate::index::{LookupError, Workload};
use crate::translate::{Claim, Node};

use super::Core;
use super::command::End;

/// What became of a claim.
#[derive(Debug)]
pub(super) enum Resolution<'a> {
    /// The peer is this workload's proxy.
    Known(&'a Workload),
    /// No object names it yet.
    Unknown(String),
    /// It is refused.
    Refused(End),
}

impl Core {
    pub(super) fn resolve(&self, peer: &Peer, node: &Node) -> Resolution<'_> {
        if !self.open {
            return Resolution::Unknown("the agent has not read its source yet".to_owned());
        }
        let found = match &node.claim {
            Claim::Workload(wanted) => match self.index.workload(wanted) {
                Ok(workload) => workload,
                Err(error @ LookupError::NotFound { .. }) => return Resolution::Unknown(error.to_string()),
                Err(error @ LookupError::Ambiguous { .. }) => {
                    return Resolution::Refused(End::Unresolvable(error.to_string()));
                }
            },
            Claim::Object(namespace, name) => {
                let key = crate::index::WorkloadKey { namespace: namespace.clone(), name: name.as_str().into() };
                match self.index.workload_by_key(&key) {
                    Some(workload) => workload,
                    None => return Resolution::Unknown(format!("no WorkloadEntry is {key}")),
                }
            }
        };
        match attest(peer, node, found, self.settings.agent_uid) {
            Ok(()) => Resolution::Known(found),
            Err(denied) => Resolution::Refused(End::Denied(denied.to_string())),
        }
    }
}
