//! Pure. What one cluster may see of one other cluster, with the version it has of it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::names::ClusterName;
use crate::offer::{OfferKey, OfferValue};
use crate::version::Version;

/// Everything an importing cluster holds of one origin.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OriginView {
    /// The version of the origin's offer that this equals.
    pub version: Version,
    /// Whether an operator has drained the origin.
    pub drained: bool,
    /// Its visible resources.
    pub resources: BTreeMap<OfferKey, OfferValue>,
}

/// The vector of versions that identifies a view (`contracts.md` 1.12).
pub type VersionVector = BTreeMap<ClusterName, Version>;
