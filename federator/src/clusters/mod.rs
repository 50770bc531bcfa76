//! Edge. The fleet's members as objects of the hub's own API server (`contracts-kubernetes.md` 5.2).
//!
//! ```text
//! members, facts of sessions ─┐
//!                             ├→ judge (pure) ─→ follow ─→ Cluster objects and their status
//! Cluster objects ────────────┘
//! ```
//! A member that has no Cluster gets one, made from its token; one that a user applies is the user's, and its spec is
//! never written.

mod follow;
mod judge;

pub use follow::{ClustersError, follow};
