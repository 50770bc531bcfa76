//! Pure. To whom a service is exported.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::names::ClusterName;

/// Picks clusters by name pattern and label (`ExportPolicy.spec.to`). Empty picks nobody.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClusterSelector {
    /// Names; `*` stands for any run of characters.
    #[serde(default)]
    pub clusters: BTreeSet<String>,
    /// Labels that the cluster must all have; not looked at when empty.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

impl ClusterSelector {
    /// Whether a cluster is picked: by a name pattern, or by all labels where labels are named.
    #[must_use]
    pub fn picks(&self, name: &ClusterName, labels: &BTreeMap<String, String>) -> bool {
        self.clusters.iter().any(|p| matches_pattern(p, name.as_str()))
            || (!self.labels.is_empty() && has_all(labels, &self.labels))
    }
}

/// Whether `labels` has all that are `wanted`.
#[must_use]
pub fn has_all(labels: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// To whom a service is exported.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ExportTo {
    /// No policy matches: all clusters.
    Everyone,
    /// The union of these selectors; empty = nobody.
    Selected(BTreeSet<ClusterSelector>),
}

impl Default for ExportTo {
    /// Nobody: what is not said is not passed on.
    fn default() -> Self {
        Self::Selected(BTreeSet::new())
    }
}

impl ExportTo {
    /// Whether the service is exported to that cluster.
    #[must_use]
    pub fn includes(&self, name: &ClusterName, labels: &BTreeMap<String, String>) -> bool {
        match self {
            Self::Everyone => true,
            Self::Selected(selectors) => selectors.iter().any(|s| s.picks(name, labels)),
        }
    }
}

/// Whether `text` matches `pattern`, in which `*` stands for any run of characters, also an empty one.
#[must_use]
pub fn matches_pattern(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(first) = parts.next() else { return false };
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut last: Option<&str> = None;
    for part in parts {
        if let Some(middle) = last {
            let Some(at) = rest.find(middle) else { return false };
            rest = rest.get(at + middle.len()..).unwrap_or_default();
        }
        last = Some(part);
    }
    match last {
        None => rest.is_empty(),
        Some(tail) => rest.ends_with(tail),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mutation seen to fail: `None => rest.is_empty()` answered `true`.
    #[test]
    fn patterns_match_runs() {
        for (p, t, want) in [
            ("*", "east", true),
            ("east", "east", true),
            ("east", "easter", false),
            ("ea*", "east", true),
            ("*st", "east", true),
            ("e*s*t", "east", true),
            ("e*x*t", "east", false),
            ("", "east", false),
            ("ab*ba", "aba", false),
        ] {
            assert_eq!(matches_pattern(p, t), want, "{p} {t}");
        }
    }

    #[test]
    fn an_empty_selector_is_nobody() {
        let east = ClusterName::new("east").unwrap();
        let none = ExportTo::Selected(BTreeSet::from([ClusterSelector::default()]));
        assert!(!none.includes(&east, &BTreeMap::new()));
        assert!(ExportTo::Everyone.includes(&east, &BTreeMap::new()));
    }
}
