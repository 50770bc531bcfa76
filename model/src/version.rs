//! Pure. Numbers that order what a source says: an epoch, and a revision inside it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// `(epoch, revision)` of one source. Ordered: a higher epoch wins, then a higher revision.
/// A receiver never goes back to a lower version of the same source.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Version {
    /// Grows when the source cannot prove that it continues its earlier numbering.
    pub epoch: u64,
    /// Grows with every change inside an epoch; 0 = nothing yet.
    pub revision: u64,
}

impl Version {
    /// Makes a version of its parts.
    #[must_use]
    pub const fn new(epoch: u64, revision: u64) -> Self {
        Self { epoch, revision }
    }
}
impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.revision)
    }
}
