//! Edge. How a directory becomes a member: the joiner's half of `Enrollment`, and the files it leaves.

mod agent_file;
mod contact;
mod directory;
mod join;

use std::path::PathBuf;

use meshfed_model::identity::TrustDomain;

pub use agent_file::{AgentFile, AgentFileError};
pub use contact::Contact;
pub use directory::check_ca;
pub use join::{Joined, Options, join, join_keeping};

/// Why a directory did not become a member.
#[derive(Debug, thiserror::Error)]
pub enum EnrollError {
    /// The token did not open the door. Always the same words: whether it is unknown, used or foreign is nobody's
    /// business who cannot see the audit log.
    #[error(
        "join refused: the token is unknown, used, expired, revoked, or not for this federator and cluster; see that the address is the hub's gRPC port (15600), else ask for a new one: meshfed token create"
    )]
    Refused,
    /// The federator refused for a reason that is no secret.
    #[error("the federator refused: {0}")]
    Denied(String),
    /// The federator could not be reached, or broke off.
    #[error(
        "the federator at {target} cannot be reached: {cause}; see that it runs, and that this is where its --grpc-listen takes agents (port 15600)"
    )]
    Unreachable {
        /// `HOST:PORT`.
        target: String,
        /// The whole cause.
        cause: String,
    },
    /// The federator answered with something that must not be taken.
    #[error("the federator at {target} answered what cannot be trusted: {problem}")]
    Untrusted {
        /// `HOST:PORT`.
        target: String,
        /// What is wrong.
        problem: String,
    },
    /// The CA that is to be kept is another cluster's than the token's.
    #[error(
        "the CA that is kept is not one of {wanted}: the cluster was a member under another name; ask for a token for that \
         name (its CA is in {})",
        path.display()
    )]
    AnotherCluster {
        /// The anchor.
        path: PathBuf,
        /// The trust domain of the token's cluster.
        wanted: TrustDomain,
    },
    /// The data directory cannot be used.
    #[error("{}: {problem}", path.display())]
    Directory {
        /// The path.
        path: PathBuf,
        /// What is wrong and how to fix it.
        problem: String,
    },
}
