//! Pure. The records of one zone, by name.

use std::collections::BTreeMap;
use std::net::IpAddr;

/// Seconds that a record, or that there is none, may be remembered.
pub const TTL: u32 = 5;

/// A kind of record that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `A`.
    A,
    /// `AAAA`.
    Aaaa,
    /// `SRV`.
    Srv,
    /// `TXT`.
    Txt,
    /// `ANY`: one record will do (RFC 8482).
    Any,
    /// Others, of which there are none.
    Other,
}

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Record {
    /// `A` or `AAAA`.
    Address(IpAddr),
    /// `SRV`: port and target name.
    Service(u16, String),
    /// `TXT`.
    Text(String),
}

/// The records of one name, none twice.
pub type Records = Vec<Record>;

/// What a zone has for a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// These records.
    Records(Records),
    /// The name, and no record of the kind.
    NoData,
    /// No such name.
    NoName,
    /// Nobody knows yet.
    Unknown,
}

/// A zone. Names are in lower case, without the trailing dot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone {
    apex: String,
    whole: bool,
    names: BTreeMap<String, Records>,
}

impl Zone {
    /// A zone without names; unless it is `whole`, what is not in it may be there all the same.
    #[must_use]
    pub fn new(apex: impl Into<String>, whole: bool) -> Self {
        let apex = apex.into();
        Self { names: BTreeMap::from([(apex.clone(), Records::new())]), apex, whole }
    }
    /// Its own name.
    #[must_use]
    pub fn apex(&self) -> &str {
        &self.apex
    }
    /// Adds a record, and every name between it and the zone's own. Names outside the zone are left out.
    pub fn add(&mut self, name: &str, record: Record) {
        self.name(name);
        if let Some(records) = self.names.get_mut(name)
            && !records.contains(&record)
        {
            records.push(record);
        }
    }
    /// Adds a name that need not have a record, and those between it and the zone's own.
    pub fn name(&mut self, name: &str) {
        if !self.holds(name) {
            return;
        }
        self.names.entry(name.to_owned()).or_default();
        let mut above = name;
        while let Some((_, parent)) = above.split_once('.') {
            if self.names.contains_key(parent) {
                break;
            }
            self.names.insert(parent.to_owned(), Records::new());
            above = parent;
        }
    }
    /// Whether a name lies in the zone.
    #[must_use]
    pub fn holds(&self, name: &str) -> bool {
        name.strip_suffix(&self.apex).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    }
    /// Whether what is not in it is not there.
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        self.whole
    }
    /// All names, with their records.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Records)> {
        self.names.iter().map(|(name, records)| (name.as_str(), records))
    }
    /// What it has for a question.
    #[must_use]
    pub fn find(&self, name: &str, kind: Kind) -> Found {
        let Some(records) = self.names.get(name) else {
            return if self.whole { Found::NoName } else { Found::Unknown };
        };
        let fits = |record: &&Record| match (kind, record) {
            (Kind::Any, _) | (Kind::Srv, Record::Service(..)) | (Kind::Txt, Record::Text(_)) => true,
            (Kind::A, Record::Address(address)) => address.is_ipv4(),
            (Kind::Aaaa, Record::Address(address)) => address.is_ipv6(),
            (Kind::A | Kind::Aaaa | Kind::Srv | Kind::Txt | Kind::Other, _) => false,
        };
        let most = if kind == Kind::Any { 1 } else { usize::MAX };
        let found: Records = records.iter().filter(fits).take(most).cloned().collect();
        if found.is_empty() { Found::NoData } else { Found::Records(found) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mutations seen to fail: the names between are not added; `holds` looks at the end of the text alone.
    #[test]
    fn names_between_are_there_and_have_nothing() {
        let mut zone = Zone::new("clusterset.local", true);
        let address: IpAddr = "240.240.0.1".parse().unwrap();
        zone.add("b.shop.svc.clusterset.local", Record::Address(address));
        zone.add("b.shop.svc.clusterset.local", Record::Address(address));
        zone.add("notclusterset.local", Record::Address(address));
        let found = Found::Records(vec![Record::Address(address)]);
        assert_eq!(zone.find("b.shop.svc.clusterset.local", Kind::A), found);
        assert_eq!(zone.find("b.shop.svc.clusterset.local", Kind::Any), found);
        for (name, kind) in [
            ("b.shop.svc.clusterset.local", Kind::Aaaa),
            ("b.shop.svc.clusterset.local", Kind::Other),
            ("shop.svc.clusterset.local", Kind::A),
            ("svc.clusterset.local", Kind::A),
            ("clusterset.local", Kind::Txt),
        ] {
            assert_eq!(zone.find(name, kind), Found::NoData, "{name}");
        }
        for name in ["c.shop.svc.clusterset.local", "x.b.shop.svc.clusterset.local", "notclusterset.local", "local"] {
            assert_eq!(zone.find(name, Kind::A), Found::NoName, "{name}");
        }
        let unknown = Zone { whole: false, ..zone.clone() };
        assert_eq!(unknown.find("c.shop.svc.clusterset.local", Kind::A), Found::Unknown);
        assert_eq!(unknown.find("b.shop.svc.clusterset.local", Kind::A), found);
        assert!(zone.holds("clusterset.local") && !zone.holds("notclusterset.local") && !zone.holds("local"));
        assert_eq!(zone.iter().filter(|(_, records)| !records.is_empty()).count(), 1);
    }
}
