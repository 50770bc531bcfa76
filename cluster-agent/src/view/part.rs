//! Pure. The parts of which the saved view is made, so that one that is missing can be named.

use std::fmt;

use meshfed_model::names::ClusterName;

/// A part of what the hub tells.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The members of the fleet.
    Members,
    /// The fleet's policies.
    Policies,
    /// Networks shared with other clusters.
    SharedNetworks,
    /// What one cluster shows.
    Origin(ClusterName),
}

/// How the file of an origin ends.
const SUFFIX: &str = ".origin";

impl Part {
    /// The name of its file; an origin's has a dot, the others have none.
    #[must_use]
    pub fn file(&self) -> String {
        self.to_string()
    }
    /// Reads the name of a file.
    #[must_use]
    pub fn of_file(name: &str) -> Option<Self> {
        match name {
            "members" => Some(Self::Members),
            "policies" => Some(Self::Policies),
            "shared_networks" => Some(Self::SharedNetworks),
            other => other.strip_suffix(SUFFIX).and_then(|n| ClusterName::new(n).ok()).map(Self::Origin),
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Members => f.write_str("members"),
            Self::Policies => f.write_str("policies"),
            Self::SharedNetworks => f.write_str("shared_networks"),
            Self::Origin(origin) => write!(f, "{origin}{SUFFIX}"),
        }
    }
}
