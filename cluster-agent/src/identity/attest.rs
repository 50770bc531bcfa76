//! Pure. Attestation (`contracts.md` 1.7): what the kernel or a verified certificate says of the peer against what it
//! claims. A claim alone counts for nothing.

use meshfed_model::identity::{Principal, SpiffeId};
use meshfed_model::names::Namespace;

use crate::index::Workload;
use crate::translate::{Claim, Node};

/// What is known of a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// On a Unix socket: its user, by the kernel.
    Unix {
        /// User id.
        uid: u32,
    },
    /// On TCP: its verified SVID, of the own cluster's trust domain.
    Svid(SpiffeId),
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix { uid } => write!(f, "uid {uid}"),
            Self::Svid(id) => write!(f, "{id}"),
        }
    }
}

/// Why a peer may not speak for a workload.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// Another user.
    #[error(
        "uid {uid} may not speak for {workload}: only uid {wanted} or root may (annotation federation.meshfed.io/unix-uid)"
    )]
    Uid {
        /// The peer's user.
        uid: u32,
        /// Who may.
        wanted: u32,
        /// The workload.
        workload: String,
    },
    /// Another identity.
    #[error("{id} may not speak for {workload}, which is {wanted}")]
    Identity {
        /// The peer's identity.
        id: String,
        /// The workload's.
        wanted: String,
        /// The workload.
        workload: String,
    },
    /// The node says two things.
    #[error("node id '{node}' names another object than {workload}")]
    NodeId {
        /// The node id.
        node: String,
        /// The workload that is claimed.
        workload: String,
    },
}

/// Whether the peer may speak for the workload that its node claims.
///
/// # Errors
/// [`Denied`].
pub fn attest(peer: &Peer, node: &Node, workload: &Workload, agent_uid: u32) -> Result<(), Denied> {
    let name = workload.key.to_string();
    match peer {
        Peer::Unix { uid: 0 } => {}
        Peer::Unix { uid } => {
            let wanted = workload.unix_uid.unwrap_or(agent_uid);
            if *uid != wanted {
                return Err(Denied::Uid { uid: *uid, wanted, workload: name });
            }
        }
        Peer::Svid(id) if *id != workload.identity => {
            return Err(Denied::Identity { id: id.to_string(), wanted: workload.identity.to_string(), workload: name });
        }
        Peer::Svid(_) => {}
    }
    // A proxy that was started with a service account only knows its object's name from us.
    if let Some((namespace, object)) = &node.id_object
        && !(*namespace == workload.key.namespace
            && (object.as_str() == &*workload.key.name || object.as_str() == &*workload.service_account))
    {
        return Err(Denied::NodeId { node: node.id.clone(), workload: name });
    }
    Ok(())
}

/// Whether the claim can ever be the peer's: known before any object names the workload.
///
/// # Errors
/// [`Denied`] when an SVID says something else than the claim.
pub fn plausible(peer: &Peer, node: &Node) -> Result<(), Denied> {
    let Peer::Svid(id) = peer else { return Ok(()) };
    let (namespace, account): (&Namespace, Option<&str>) = match &node.claim {
        Claim::Workload(w) => (&w.namespace, Some(&w.service_account)),
        Claim::Object(ns, _) => (ns, None),
    };
    let same = match &id.principal {
        Principal::Workload { namespace: ns, service_account } => {
            ns == namespace && account.is_none_or(|a| a == &**service_account)
        }
        Principal::Agent { .. } | Principal::Federator { .. } => false,
    };
    if same {
        Ok(())
    } else {
        Err(Denied::NodeId { node: format!("{} of {id}", node.id), workload: node.claim.to_string() })
    }
}
