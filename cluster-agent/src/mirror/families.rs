//! Pure. Families of addresses that the API server has refused: it is asked again later and later, since a cluster may get
//! ranges of another family while the agent runs.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use meshfed_model::names::ServiceName;
use meshfed_model::service::IpFamily;

/// The first pause after a refusal.
const PAUSE: Duration = Duration::from_secs(60);
/// The longest pause between two tries.
const PAUSE_MAX: Duration = Duration::from_secs(3600);

#[derive(Debug, Clone, Copy)]
struct Refusal {
    since: Instant,
    pause: Duration,
}

/// What was refused, and who has no address because of it.
#[derive(Debug, Default)]
pub(super) struct Families {
    refused: BTreeMap<IpFamily, Refusal>,
    /// Imports that have no address because of it.
    lacking: BTreeSet<ServiceName>,
    /// When one of them was tried last.
    tried: Option<Instant>,
}

impl Families {
    /// The API server has refused a family to a write that was begun then. Writes that were under way together are one
    /// refusal.
    pub(super) fn refuse(&mut self, family: IpFamily, begun: Instant, now: Instant) {
        let pause = match self.refused.get(&family) {
            Some(before) if begun < before.since => return,
            Some(before) => before.pause.saturating_mul(2).min(PAUSE_MAX),
            None => PAUSE,
        };
        self.refused.insert(family, Refusal { since: now, pause });
    }
    /// A Service was given addresses of these families; gives the imports that may have some now.
    pub(super) fn given(&mut self, families: impl IntoIterator<Item = IpFamily>) -> BTreeSet<ServiceName> {
        let known = families.into_iter().filter(|family| self.refused.remove(family).is_some()).count();
        if known == 0 { BTreeSet::new() } else { std::mem::take(&mut self.lacking) }
    }
    /// The families that are not to be asked for now.
    pub(super) fn unsupported(&self, now: Instant) -> BTreeSet<IpFamily> {
        self.refused.iter().filter(|(_, r)| now < r.since + r.pause).map(|(family, _)| *family).collect()
    }
    /// Notes whether an import has no address because of what was refused.
    pub(super) fn lack(&mut self, name: &ServiceName, lacks: bool) {
        if lacks {
            self.lacking.insert(name.clone());
        } else {
            self.lacking.remove(name);
        }
    }
    /// When a refused family is asked for again: none where nobody lacks it.
    pub(super) fn due(&self) -> Option<Instant> {
        let first = self.refused.values().map(|r| r.since + r.pause).min();
        let first = first.filter(|_| !self.lacking.is_empty())?;
        // One at a time: the others wait for its answer, or for as long as it may have none.
        Some(self.tried.map_or(first, |tried| first.max(tried + PAUSE)))
    }
    /// One of those that lack an address, to be tried for all of them, where that is due. It lacks no longer, until it is
    /// noted again.
    pub(super) fn try_one(&mut self, now: Instant) -> Option<ServiceName> {
        if self.due().is_none_or(|due| due > now) {
            return None;
        }
        self.tried = Some(now);
        self.lacking.pop_first()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(n: u8) -> ServiceName {
        ServiceName::new("shop", format!("s{n}")).unwrap()
    }

    /// A family is asked for again by one import, later and later, and once it is given all that lack it follow.
    ///
    /// Mutations seen to fail: `now < r.since + r.pause` answered `true`; `saturating_mul(2)` left out; `begun <
    /// before.since` answered `false`; `tried` not noted; `take` of `given` replaced by a new set.
    #[test]
    fn a_refused_family_is_asked_for_again() {
        let start = meshfed_runtime::clock::instant();
        let mut families = Families::default();
        families.refuse(IpFamily::IPv6, start, start);
        assert_eq!(families.unsupported(start), [IpFamily::IPv6].into());
        assert_eq!(families.due(), None, "nobody lacks it");
        (1..4).for_each(|n| families.lack(&name(n), true));
        let mut now = start;
        let mut pauses = Vec::new();
        for _ in 0..8 {
            assert_eq!(families.try_one(now), None, "not due yet");
            let due = families.due().unwrap();
            pauses.push(due.duration_since(now).as_secs());
            let late = now;
            now = due;
            assert_eq!(families.unsupported(now), BTreeSet::new());
            assert_eq!((families.try_one(now), families.try_one(now)), (Some(name(1)), None));
            families.refuse(IpFamily::IPv6, now, now);
            families.refuse(IpFamily::IPv6, late, now);
            families.lack(&name(1), true);
        }
        assert_eq!(pauses, [60, 120, 240, 480, 960, 1920, 3600, 3600]);
        families.lack(&name(3), false);
        assert_eq!(families.given([IpFamily::IPv4]), BTreeSet::new());
        assert_eq!(families.given([IpFamily::IPv6]), [name(1), name(2)].into());
        assert_eq!((families.due(), families.unsupported(start)), (None, BTreeSet::new()));
    }
}
