//! Pure. Trust bundles: the anchors of one trust domain, with their proof of lineage.

use serde::{Deserialize, Serialize};

use crate::identity::TrustDomain;

/// The bundle of one trust domain. A peer's SVID is verified only against the bundle of its own trust domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bundle {
    /// The trust domain.
    pub trust_domain: TrustDomain,
    /// Strictly increasing per trust domain; a lower one is never taken.
    pub serial: u64,
    /// Self-signed CA certificates, DER.
    pub anchors: Vec<Vec<u8>>,
    /// Lineage certificates by the fleet root, DER, one per anchor and in its order.
    pub lineages: Vec<Vec<u8>>,
}
