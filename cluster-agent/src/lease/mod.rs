//! Edge. Which of several agents of a cluster joins, renews, offers and writes: the holder of a Lease
//! (`coordination.k8s.io/v1`, `contracts-kubernetes.md` 5.3). Every agent serves proxies.
//!
//! `judge` (pure) says what is to be done with a Lease that was read, `elect` does it. The rules are those of the
//! Kubernetes libraries (client-go `tools/leaderelection`): a Lease is judged by how long it has not changed on the clock
//! of who looks, never by the times that are written in it. One thing differs: a holder that loses its API server stops
//! to write there in time, and keeps its word to the hub until the hub has seen a later holder.

mod elect;
mod judge;

pub use elect::{Election, LeaseMetrics};
pub use judge::{LEASE, RENEW_WITHIN};

use meshfed_api::border::LeaseEpoch;

/// What an agent is among those that share its identity.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Role {
    /// The only one: there is no Lease.
    #[default]
    Alone,
    /// It held the Lease when it last saw it.
    Leads(LeaseEpoch),
    /// Another one does, or nobody does yet.
    Follows(LeaseEpoch),
}

impl Role {
    /// Whether it offers, and renews the identity that all share.
    #[must_use]
    pub const fn leads(self) -> bool {
        matches!(self, Self::Alone | Self::Leads(_))
    }
}
