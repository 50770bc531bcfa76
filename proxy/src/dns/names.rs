//! Pure. Which names are answered here.

use meshfed_model::sni::CLUSTERSET_DOMAIN;
use meshfed_runtime::dns::{Found, Kind, Zone};

/// An answer of our own.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Whose {
    /// The zone that it is about.
    pub(super) apex: String,
    /// What there is.
    pub(super) found: Found,
}

/// The answer to a question about a name of the clusterset; `None`: it is another's. With a search domain behind it such a
/// name is no name, which is said at once: with `ndots: 5` every lookup begins with those. Before the agent has told the
/// names nobody knows.
pub(super) fn whose(name: &str, kind: Kind, search: &[String], zone: Option<&Zone>) -> Option<Whose> {
    let own =
        |name: &str| name.strip_suffix(CLUSTERSET_DOMAIN).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    if own(name) {
        let found = zone.map_or(Found::Unknown, |zone| zone.find(name, kind));
        return Some(Whose { apex: CLUSTERSET_DOMAIN.to_owned(), found });
    }
    let searched = search.iter().find_map(|domain| {
        let before = name.strip_suffix(domain.as_str())?.strip_suffix('.')?;
        own(before).then_some(domain)
    })?;
    Some(Whose { apex: format!("{CLUSTERSET_DOMAIN}.{searched}"), found: Found::NoName })
}

#[cfg(test)]
mod tests {
    use meshfed_runtime::dns::Record;

    use super::*;

    /// Mutations seen to fail: search domains not looked at; `Found::NoName` without a zone.
    #[test]
    fn names_of_the_clusterset_are_ours_and_no_others() {
        let mut zone = Zone::new(CLUSTERSET_DOMAIN, true);
        let address = Record::Address("240.240.0.1".parse().unwrap());
        zone.add("b.shop.svc.clusterset.local", address.clone());
        let search = ["shop.svc.cluster.local".to_owned(), "cluster.local".to_owned()];
        let ask = |name: &str, zone| whose(name, Kind::A, &search, zone).map(|w| (w.apex, w.found));
        let own = |found| Some((CLUSTERSET_DOMAIN.to_owned(), found));
        assert_eq!(ask("b.shop.svc.clusterset.local", Some(&zone)), own(Found::Records(vec![address])));
        assert_eq!(ask("c.shop.svc.clusterset.local", Some(&zone)), own(Found::NoName));
        assert_eq!(ask("b.shop.svc.clusterset.local", None), own(Found::Unknown));
        for searched in &search {
            let apex = format!("clusterset.local.{searched}");
            assert_eq!(ask(&format!("b.shop.svc.{apex}"), None), Some((apex, Found::NoName)));
        }
        for others in ["b.shop.svc.cluster.local", "example.com", "notclusterset.local", "clusterset.local.example", ""]
        {
            assert_eq!(ask(others, Some(&zone)), None, "{others}");
        }
    }
}
