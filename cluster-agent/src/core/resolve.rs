//! Pure. From what a proxy claims to the workload it may speak for.

use crate::identity::{Peer, attest};
use crate::index::{LookupError, Workload, WorkloadKey};
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
    /// `admitted` is what the stream was admitted as: a second workload of the same service account that comes later
    /// makes the claim ambiguous for newcomers, not for those who are served.
    pub(super) fn resolve(&self, peer: &Peer, node: &Node, admitted: Option<&WorkloadKey>) -> Resolution<'_> {
        if !self.open {
            return Resolution::Unknown("the agent has not read its source yet".to_owned());
        }
        let found = match &node.claim {
            Claim::Workload(wanted) => match self.index.workload(wanted) {
                Ok(workload) => workload,
                Err(error @ LookupError::NotFound { .. }) => return Resolution::Unknown(error.to_string()),
                Err(error @ LookupError::Ambiguous { .. }) => {
                    let same = |w: &&Workload| {
                        w.key.namespace == wanted.namespace && w.service_account.as_ref() == wanted.service_account
                    };
                    match admitted.and_then(|key| self.index.workload_by_key(key)).filter(same) {
                        Some(workload) => workload,
                        None => return Resolution::Refused(End::Unresolvable(error.to_string())),
                    }
                }
            },
            Claim::Object(namespace, name) => {
                let key = WorkloadKey { namespace: namespace.clone(), name: name.as_str().into() };
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
