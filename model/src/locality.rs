//! Pure. Where something runs: region, zone, subzone.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::names::InvalidName;

/// `region/zone/subzone`; later parts may be empty, never an earlier one before a later. Cheap to clone: every endpoint
/// has one, and is copied into every computation.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Locality {
    /// The region, say `eu`.
    pub region: Arc<str>,
    /// The zone, say `eu-1`.
    pub zone: Arc<str>,
    /// The subzone, say a rack.
    pub subzone: Arc<str>,
}

impl Locality {
    /// A locality of region and zone.
    #[must_use]
    pub fn new(region: impl AsRef<str>, zone: impl AsRef<str>) -> Self {
        Self { region: part(region.as_ref()), zone: part(zone.as_ref()), subzone: Arc::default() }
    }
    /// Whether both are in the same region (an unknown region is nobody's).
    #[must_use]
    pub fn same_region(&self, other: &Self) -> bool {
        !self.region.is_empty() && self.region == other.region
    }
    /// Whether both are in the same zone of the same region (an unknown zone is nobody's).
    #[must_use]
    pub fn same_zone(&self, other: &Self) -> bool {
        self.same_region(other) && !self.zone.is_empty() && self.zone == other.zone
    }
}

impl fmt::Display for Locality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.region)?;
        if !self.zone.is_empty() {
            write!(f, "/{}", self.zone)?;
        }
        if !self.subzone.is_empty() {
            write!(f, "/{}", self.subzone)?;
        }
        Ok(())
    }
}

/// The empty part is one for all.
fn part(s: &str) -> Arc<str> {
    if s.is_empty() { Arc::default() } else { s.into() }
}

fn part_ok(s: &str) -> bool {
    s.len() <= 63 && s.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

impl FromStr for Locality {
    type Err = InvalidName;
    fn from_str(s: &str) -> Result<Self, InvalidName> {
        let refuse = || InvalidName::Form {
            kind: "locality",
            value: s.chars().take(200).collect(),
            form: "REGION[/ZONE[/SUBZONE]]",
        };
        let parts: Vec<&str> = s.split('/').collect();
        if parts.len() > 3
            || !parts.iter().all(|p| part_ok(p))
            || (parts.len() > 1 && parts.iter().any(|p| p.is_empty()))
        {
            return Err(refuse());
        }
        let get = |i: usize| part(parts.get(i).copied().unwrap_or_default());
        Ok(Self { region: get(0), zone: get(1), subzone: get(2) })
    }
}
impl TryFrom<String> for Locality {
    type Error = InvalidName;
    fn try_from(s: String) -> Result<Self, InvalidName> {
        s.parse()
    }
}
impl From<Locality> for String {
    fn from(l: Locality) -> Self {
        l.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mutation seen to fail: `!self.zone.is_empty()` left out of `same_zone`.
    #[test]
    fn unknown_is_never_the_same() {
        let none = Locality::default();
        assert!(!none.same_region(&none));
        let r: Locality = "eu".parse().unwrap();
        assert!(r.same_region(&r) && !r.same_zone(&r));
        assert!("eu//x".parse::<Locality>().is_err());
        assert_eq!("eu/eu-1/r4".parse::<Locality>().unwrap().to_string(), "eu/eu-1/r4");
    }
}
