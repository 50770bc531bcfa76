//! Pure. Whether the peer of a standing connection may still speak here.

use std::cell::Cell;
use std::sync::Arc;

use meshfed_model::identity::{SpiffeId, TrustDomain};
use meshfed_runtime::tls::TrustStore;

/// How a verified peer stands now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Its trust domain is accepted.
    Trusted,
    /// The port accepts its trust domain no longer, others may: the export was taken back (SN12).
    Withdrawn,
    /// No bundle of its trust domain is held any more: its cluster was evicted (INV-12).
    Evicted,
}

/// A verified peer that connected to a port of ours.
#[derive(Debug)]
pub struct Guest {
    id: SpiffeId,
    port: Arc<TrustStore>,
    /// The generations of all bundles and of the port's with which it was trusted last.
    trusted_at: Cell<Option<(u64, u64)>>,
}

/// Whether a store holds an anchor of a trust domain.
pub fn holds(store: &TrustStore, domain: &TrustDomain) -> bool {
    store.snapshot().bundles().get(domain).is_some_and(|anchors| !anchors.is_empty())
}

impl Guest {
    /// A peer that the bundles of `port` let in.
    #[must_use]
    pub const fn new(id: SpiffeId, port: Arc<TrustStore>) -> Self {
        Self { id, port, trusted_at: Cell::new(None) }
    }
    /// Its identity.
    #[must_use]
    pub const fn id(&self) -> &SpiffeId {
        &self.id
    }
    /// The bundles that let it in.
    #[must_use]
    pub const fn port(&self) -> &Arc<TrustStore> {
        &self.port
    }
    /// How it stands. `all`: every bundle held; while nothing changed it costs two loads.
    #[must_use]
    pub fn standing(&self, all: Option<&Arc<TrustStore>>) -> Standing {
        let generations = (all.map_or(0, |t| t.generation()), self.port.generation());
        if self.trusted_at.get() == Some(generations) {
            return Standing::Trusted;
        }
        if all.is_some_and(|t| !holds(t, &self.id.trust_domain)) {
            return Standing::Evicted;
        }
        if !holds(&self.port, &self.id.trust_domain) {
            return Standing::Withdrawn;
        }
        self.trusted_at.set(Some(generations));
        Standing::Trusted
    }
}
