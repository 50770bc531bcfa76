//! Pure. From what a proxy claims to the workload it may speak for.

use crate::identity::{Peer, attest};
use crate::index::{LookupError, Workload, WorkloadKey};
use crate::translate::{Claim, Node};

use serde::{Deserialize, Serialize};

use super::Core;
use super::command::End;

/// What a process was admitted as, kept so that its next stream is told apart from another workload's of the same
/// service account. Claims alone would do only where the claim is of one workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admission {
    uid: u32,
    process: i32,
    claim: String,
    node_id: String,
}

impl Admission {
    /// The process at the other end, if the kernel tells which it is.
    pub(super) fn of(peer: &Peer, node: &Node) -> Option<Self> {
        match peer {
            Peer::Unix { uid } => Some(Self {
                uid: *uid,
                process: node.process?,
                claim: node.claim.to_string(),
                node_id: node.id.clone(),
            }),
            Peer::Svid(_) => None,
        }
    }
}

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
                    let served = admitted.and_then(|key| self.index.workload_by_key(key)).filter(same);
                    match served.or_else(|| self.told_apart(peer, node)) {
                        Some(workload) => workload,
                        None => return Resolution::Refused(End::Unresolvable(error.to_string())),
                    }
                }
            },
            Claim::Object(namespace, name) => {
                let key = WorkloadKey { namespace: namespace.clone(), name: name.as_str().into() };
                match self.index.workload_by_key(&key) {
                    Some(workload) => workload,
                    None => return Resolution::Unknown(format!("no workload is {key}")),
                }
            }
        };
        match attest(peer, node, found, self.settings.agent_uid) {
            Ok(()) => Resolution::Known(found),
            Err(denied) => Resolution::Refused(End::Denied(denied.to_string())),
        }
    }

    /// The one of several workloads of a service account whose proxy this is, though it does not name it: the one that
    /// has the addresses that the proxy says, else the one as which the same process was admitted before.
    fn told_apart(&self, peer: &Peer, node: &Node) -> Option<&Workload> {
        let Claim::Workload(wanted) = &node.claim else { return None };
        let said = node.said_addresses();
        if !said.is_empty() {
            let mut own = self.index.workloads_of(wanted).filter(|w| said.iter().all(|a| w.addresses.contains(a)));
            if let (Some(one), None) = (own.next(), own.next()) {
                return Some(one);
            }
        }
        let this = Admission::of(peer, node)?;
        self.index.workloads_of(wanted).find(|w| self.admissions.get(&w.key) == Some(&this))
    }
}
