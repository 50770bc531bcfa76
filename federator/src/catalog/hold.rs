//! Pure. A full sync that would take away more than half of a cluster's endpoints is held back (SY7): an agent that
//! has not seen its source yet looks like a cluster that has lost everything.
//!
//! What the sync adds and changes is taken at once, and so is what it removes by name; what it leaves out, and the
//! endpoints that its groups have lost, stay until the next full sync says the same, until the time is over, or until a
//! change names them. Importers are told of the end by the salt of the origin's state.

use std::collections::{BTreeMap, BTreeSet};

use meshfed_api::stream::{Delta, History, Upsert};
use meshfed_model::names::SubsetName;
use meshfed_model::offer::{OfferKey, OfferValue, Tombstone};
use meshfed_model::version::Version;

use super::origin::{Origin, audience};

/// How much a full sync would have taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loss {
    /// Endpoints that it does not hold any more, counted per port.
    pub lost: u64,
    /// Endpoints that were there.
    pub of: u64,
}

/// What is held back of a full sync.
#[derive(Debug)]
pub(super) struct Hold {
    /// What becomes of a resource at the end: another value, or nothing.
    pub(super) pending: BTreeMap<OfferKey, Option<Upsert>>,
    /// The version of the sync.
    pub(super) at: Version,
    pub(super) loss: Loss,
}

/// Endpoints by two measures: those that groups count, and those that are listed one by one. A cluster on a shared
/// network has both of the same endpoint, so they are never added up.
#[derive(Debug, Clone, Copy, Default)]
struct Measure {
    counted: u64,
    listed: u64,
}

impl Measure {
    fn of(key: &OfferKey, value: &OfferValue) -> Self {
        match (key, value) {
            (OfferKey::Group(g), OfferValue::Group(v)) if g.subset == SubsetName::all() => {
                Self { counted: v.total.into(), listed: 0 }
            }
            (OfferKey::Endpoint(e), OfferValue::Endpoint(_)) if e.subset == SubsetName::all() => {
                Self { counted: 0, listed: 1 }
            }
            (OfferKey::Service(_) | OfferKey::Group(_) | OfferKey::Endpoint(_) | OfferKey::Gateway(_), _) => {
                Self::default()
            }
        }
    }
    fn add(&mut self, other: Self) {
        self.counted += other.counted;
        self.listed += other.listed;
    }
    const fn less(self, other: Self) -> Self {
        Self { counted: self.counted.saturating_sub(other.counted), listed: self.listed.saturating_sub(other.listed) }
    }
    const fn is_none(self) -> bool {
        self.counted == 0 && self.listed == 0
    }
    /// More than half of either measure.
    fn loss_of(self, before: Self) -> Option<Loss> {
        let over = |lost: u64, of: u64| (lost * 2 > of).then_some(Loss { lost, of });
        over(self.counted, before.counted).or_else(|| over(self.listed, before.listed))
    }
}

impl Origin {
    /// Puts back into a full sync what it would take away, if that is too much to be believed at once. What an earlier
    /// one was held back for and this one leaves out again is confirmed.
    pub(super) fn hold_back(&self, delta: &mut Delta) -> (Option<Loss>, Option<Hold>) {
        let is_confirmed = |key: &OfferKey| self.hold.as_ref().is_some_and(|hold| hold.pending.contains_key(key));
        let named: BTreeMap<&OfferKey, usize> = delta.upserts.iter().enumerate().map(|(i, u)| (&u.key, i)).collect();
        let explicit: BTreeSet<&OfferKey> = delta.removals.iter().map(|r| &r.key).collect();
        let (mut before, mut lost) = (Measure::default(), Measure::default());
        let mut missing: Vec<(OfferKey, Option<usize>)> = Vec::new();
        for (key, value) in self.history.iter().filter(|(key, _)| !is_confirmed(key)) {
            let was = Measure::of(key, value);
            before.add(was);
            match named.get(key) {
                Some(at) => {
                    let new = delta.upserts.get(*at).map(|u| was.less(Measure::of(key, &u.value)));
                    if let Some(less) = new.filter(|less| !less.is_none()) {
                        lost.add(less);
                        missing.push((key.clone(), Some(*at)));
                    }
                }
                None if explicit.contains(key) => {}
                None => {
                    lost.add(was);
                    missing.push((key.clone(), None));
                }
            }
        }
        let Some(loss) = lost.loss_of(before) else { return (None, None) };
        let epoch = delta.version.epoch;
        let mut pending = BTreeMap::new();
        for (key, at) in missing {
            let Some(last_good) = self.last_good(&key, epoch) else { continue };
            match at.and_then(|at| delta.upserts.get_mut(at)) {
                Some(new) => {
                    pending.insert(key, Some(std::mem::replace(new, last_good)));
                }
                None => {
                    delta.upserts.push(last_good);
                    pending.insert(key, None);
                }
            }
        }
        (Some(loss), Some(Hold { pending, at: delta.version, loss }))
    }
}

impl Hold {
    /// What was held back, as a change at the version that the origin has reached.
    pub(super) fn delta(self, history: &History) -> Delta {
        let version = history.version();
        let mut delta = Delta { base: version, version, ..Delta::default() };
        for (key, becomes) in self.pending {
            match becomes {
                Some(upsert) => delta.upserts.push(upsert),
                None => {
                    let audience = key
                        .service()
                        .map_or(meshfed_model::export::ExportTo::Everyone, |service| audience(history, service));
                    delta.removals.push(Tombstone { key, revision: version.revision, audience });
                }
            }
        }
        delta
    }
}
