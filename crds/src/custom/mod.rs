//! Pure. Our own kinds as the API server knows them (`contracts-kubernetes.md` 5.2): typed, with the schema that the
//! server judges them by.
//!
//! The directory source judges the same kinds by [`crate::kinds`], because a file has lines and the API server has none;
//! a test holds the two against each other (`schema_and_reader_agree`).

#![expect(unreachable_pub, reason = "KubeSchema repeats each type in a function of its own")]
#![expect(clippy::duplicated_attributes, reason = "a kind has several printer columns")]

pub mod cluster;
pub mod condition;
pub mod definition;
pub mod export_policy;
pub mod failover_policy;
pub mod membership;
pub mod mesh;
pub mod reference;
mod shape;
pub mod trust_domain;
pub mod verdict;

pub use cluster::{Cluster, ClusterNetwork, ClusterSpec, ClusterStatus};
pub use condition::{Condition, ConditionStatus, Conditions, PolicyStatus, say_the_same};
pub use definition::{Definition, definitions, yaml};
pub use export_policy::{ExportPolicy, ExportPolicySpec, ExportTarget, ServiceSelector};
pub use failover_policy::{FailoverPolicy, FailoverPolicySpec, RelativeTo, SelectItem, TargetKind, TargetRef, Tier};
pub use membership::{Membership, MembershipSpec, MembershipStatus, TokenSecretRef};
pub use mesh::{AccessLog, AccessLogMode, Mesh, MeshSpec, OutboundTrafficPolicy, Retries, Sameness};
pub use reference::reference;
pub use trust_domain::{TrustDomain, TrustDomainSpec};
pub use verdict::{Force, Verdict, policy_status};

/// The API group of our kinds.
pub const GROUP: &str = "federation.meshfed.io";
/// Their version.
pub const VERSION: &str = "v1alpha1";

#[cfg(test)]
mod tests;
