//! Edge. The fleet's members as objects of the hub's own API server (`contracts-kubernetes.md` 5.2).
//!
//! ```text
//! members, facts of sessions ─┐
//!                             ├→ judge (pure) ─→ follow ─→ Cluster objects and their status
//! Cluster objects ────────────┘
//! ```
//! A member that has no Cluster gets one, made from its token and kept in step with it; one that a user applies is the
//! user's, its spec is never written, and the member's tokens take from it what they are not told ([`Declared`]).

mod declared;
mod follow;
mod judge;
mod owner;

pub use declared::Declared;
pub use follow::{ClustersError, follow};
