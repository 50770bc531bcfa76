//! Pure. Everything one origin offers, at a version, with what is needed to tell others what changed.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;

use meshfed_model::export::ExportTo;
use meshfed_model::names::ServiceName;
use meshfed_model::offer::{OfferKey, OfferValue, Tombstone};
use meshfed_model::version::Version;

use super::audience::{Scope, audience_in, hide_audience, is_nobody, nobody};
use super::delta::{Delta, Upsert, same_kind};

/// Tombstones kept per origin; the oldest go first, and a receiver that stands before them is sent everything. At
/// some 150 bytes each they take 1.2 MiB, and 4,000 services of one group can be removed without a full resend.
pub const TOMBSTONES_MAX: usize = 8192;
/// Resources of one origin, staged ones included: 10,000 services of 100 endpoints in one network.
pub const RESOURCES_MAX: usize = 1_000_000;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) revision: u64,
    pub(super) value: OfferValue,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Gone {
    pub(super) revision: u64,
    pub(super) audience: ExportTo,
}

/// The offer of one origin at a version, and its recent removals.
#[derive(Debug, Clone, Default)]
pub struct History {
    pub(super) version: Version,
    /// Every removal after this revision is known.
    pub(super) floor: u64,
    pub(super) resources: BTreeMap<Arc<OfferKey>, Entry>,
    pub(super) resources_by_revision: BTreeMap<u64, BTreeSet<Arc<OfferKey>>>,
    /// `None`: gateways.
    pub(super) keys_of: BTreeMap<Option<ServiceName>, BTreeSet<Arc<OfferKey>>>,
    pub(super) gone: BTreeMap<Arc<OfferKey>, Gone>,
    pub(super) gone_by_revision: BTreeMap<u64, BTreeSet<Arc<OfferKey>>>,
    /// Parts of a change whose last part has not come.
    pub(super) staged: Option<Delta>,
    /// Keeps no tombstones: nobody is told from here.
    pub(super) forgets: bool,
}

impl History {
    /// The empty offer of an origin at the start of an epoch (from 1 on; epoch 0 is "nothing held").
    #[must_use]
    pub fn new(epoch: u64) -> Self {
        Self { version: Version::new(epoch, 0), ..Self::default() }
    }

    /// What an importer holds of an origin: it stands at nothing, keeps no tombstones, and tells nobody.
    #[must_use]
    pub fn view() -> Self {
        Self { forgets: true, ..Self::default() }
    }

    /// The version at which it stands. The default stands at 0.0: nothing yet.
    #[must_use]
    pub const fn version(&self) -> Version {
        self.version
    }
    /// The revision from which a receiver can be resumed.
    #[must_use]
    pub const fn floor(&self) -> u64 {
        self.floor
    }
    /// The number of resources.
    #[must_use]
    pub fn len(&self) -> usize {
        self.resources.len()
    }
    /// Whether there is no resource.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.resources.is_empty()
    }
    /// The value of a resource.
    #[must_use]
    pub fn get(&self, key: &OfferKey) -> Option<&OfferValue> {
        self.resources.get(key).map(|e| &e.value)
    }
    /// The revision of the last change of a resource.
    #[must_use]
    pub fn revision(&self, key: &OfferKey) -> Option<u64> {
        self.resources.get(key).map(|e| e.revision)
    }
    /// All resources, in order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&OfferKey, &OfferValue)> {
        self.resources.iter().map(|(k, e)| (k.as_ref(), &e.value))
    }
    /// The resources of one service, or the gateways (`None`), in order of their keys: costs what that service has.
    pub fn of_service(&self, service: Option<&ServiceName>) -> impl Iterator<Item = (&OfferKey, &OfferValue)> {
        let keys = self.keys_of.get(&service.cloned());
        keys.into_iter().flatten().filter_map(|k| self.resources.get(k).map(|e| (k.as_ref(), &e.value)))
    }
    /// The services that have resources, in order.
    pub fn services(&self) -> impl Iterator<Item = &ServiceName> {
        self.keys_of.keys().flatten()
    }

    // ---- the origin's end ----

    /// Makes `resources` the resources of one service and stamps what changed; keys of other services are ignored.
    /// `None` when nothing changed, else the change as one delta for the hub and the journal (cut it with
    /// [`Delta::parts`]). When the service's audience changed, all its resources are stamped anew.
    pub fn replace_service(
        &mut self,
        service: &ServiceName,
        resources: BTreeMap<OfferKey, OfferValue>,
    ) -> Option<Delta> {
        self.replace(Some(service), resources)
    }

    /// Makes `resources` the gateways and stamps what changed; other keys are ignored.
    pub fn replace_gateways(&mut self, resources: BTreeMap<OfferKey, OfferValue>) -> Option<Delta> {
        self.replace(None, resources)
    }

    fn replace(
        &mut self,
        service: Option<&ServiceName>,
        mut resources: BTreeMap<OfferKey, OfferValue>,
    ) -> Option<Delta> {
        resources.retain(|k, v| k.service() == service && same_kind(k, v));
        let owner = service.cloned();
        let held: Vec<Arc<OfferKey>> = self.keys_of.get(&owner).into_iter().flatten().cloned().collect();
        let before = self.audience_of(service);
        let after = match service.map(|s| resources.get(&OfferKey::Service(s.clone()))) {
            None => ExportTo::Everyone,
            Some(value) => audience_in(value),
        };
        let restamp = before != after;
        let vanished: Vec<_> = held.iter().filter(|k| !resources.contains_key(k.as_ref())).cloned().collect();
        let changed: Vec<_> = resources
            .into_iter()
            .filter(|(k, v)| restamp || self.resources.get(k).is_none_or(|e| e.value != *v))
            .collect();
        if vanished.is_empty() && changed.is_empty() {
            return None;
        }
        let base = self.version;
        self.version.revision += 1;
        let revision = self.version.revision;
        // Who could see the rest is recorded; who could not has nothing to lose.
        if restamp && !is_nobody(&before) {
            for key in &held {
                self.bury(key, revision, before.clone());
            }
        }
        for key in vanished {
            self.remove(&key);
            self.bury(&key, revision, before.clone());
        }
        for (key, value) in changed {
            self.put(Arc::new(key), Entry { revision, value });
        }
        self.trim();
        Some(self.collect(base, base.revision, Scope::Replica))
    }

    // ---- what others are told ----

    /// What a receiver that stands at `held` must be told, in parts: a change, or everything where that cannot be
    /// told as a change. Nothing when it stands here already, or when it stands ahead of this history, which then
    /// has to catch up first.
    #[must_use]
    pub fn since(&self, held: Version, scope: Scope<'_>) -> Vec<Delta> {
        self.since_considered(held, held.revision, scope)
    }

    /// The same for a receiver for which all changes up to revision `considered` were looked at and held nothing, so
    /// that a receiver that sees little costs little.
    #[must_use]
    pub fn since_considered(&self, held: Version, considered: u64, scope: Scope<'_>) -> Vec<Delta> {
        if held >= self.version {
            return Vec::new();
        }
        let after = considered.max(held.revision);
        if !self.can_resume(held) || after > self.version.revision {
            return self.complete(scope);
        }
        self.collect(held, after, scope).parts()
    }

    /// Whether a receiver that stands at `held` can be told only what changed.
    #[must_use]
    pub const fn can_resume(&self, held: Version) -> bool {
        held.epoch == self.version.epoch && held.epoch != 0 && held.revision >= self.floor
    }

    /// Everything that the receiver sees, in parts. At the hub's end it takes the place of all that the hub holds,
    /// removals included.
    #[must_use]
    pub fn complete(&self, scope: Scope<'_>) -> Vec<Delta> {
        let mut delta = Delta { version: self.version, complete: true, ..Delta::default() };
        delta.upserts = self.resources.iter().filter_map(|(k, e)| self.upsert(k, e, scope)).collect();
        match scope {
            Scope::Replica => {
                delta.tombstone_floor = self.floor;
                delta.removals = self.gone.iter().filter_map(|(k, g)| self.removal(k, g, scope)).collect();
            }
            Scope::Importer(_) => delta.tombstone_floor = self.version.revision,
        }
        delta.parts()
    }

    /// What a receiver that stands at this very version must be told when what it may see changes from `before` to
    /// `after` without the origin's doing: other namespaces announced, other labels, other networks. Costs as much as
    /// there is; such changes are rare. Empty when nothing changes.
    #[must_use]
    pub fn rescope(&self, before: Scope<'_>, after: Scope<'_>) -> Vec<Delta> {
        let mut delta = Delta { base: self.version, version: self.version, ..Delta::default() };
        for (key, entry) in &self.resources {
            let old = self.upsert(key, entry, before);
            let new = self.upsert(key, entry, after);
            match (old, new) {
                (None, Some(new)) => delta.upserts.push(new),
                (Some(_), None) => {
                    let gone = Gone { revision: self.version.revision, audience: nobody() };
                    delta.removals.push(tombstone(key, &gone));
                }
                (Some(_), Some(_)) | (None, None) => {}
            }
        }
        if delta.is_empty() { Vec::new() } else { delta.parts() }
    }

    fn collect(&self, base: Version, after: u64, scope: Scope<'_>) -> Delta {
        let mut delta = Delta { base, version: self.version, ..Delta::default() };
        let later = (Excluded(after), Unbounded);
        for key in self.resources_by_revision.range(later).flat_map(|(_, keys)| keys) {
            delta.upserts.extend(self.resources.get(key).and_then(|e| self.upsert(key, e, scope)));
        }
        for key in self.gone_by_revision.range(later).flat_map(|(_, keys)| keys) {
            delta.removals.extend(self.gone.get(key).and_then(|g| self.removal(key, g, scope)));
        }
        delta
    }

    fn upsert(&self, key: &Arc<OfferKey>, entry: &Entry, scope: Scope<'_>) -> Option<Upsert> {
        let mut value = entry.value.clone();
        if let Scope::Importer(audience) = scope {
            if !audience.sees(key, self.audience_ref(key.service())) {
                return None;
            }
            hide_audience(&mut value);
        }
        Some(Upsert { key: key.as_ref().clone(), revision: entry.revision, value })
    }

    fn removal(&self, key: &Arc<OfferKey>, gone: &Gone, scope: Scope<'_>) -> Option<Tombstone> {
        let Scope::Importer(audience) = scope else { return Some(tombstone(key, gone)) };
        let sees_it_still = self.resources.contains_key(key) && audience.sees(key, self.audience_ref(key.service()));
        let saw_it = audience.saw(key, &gone.audience);
        (saw_it && !sees_it_still).then(|| tombstone(key, &Gone { revision: gone.revision, audience: nobody() }))
    }
}

fn tombstone(key: &Arc<OfferKey>, gone: &Gone) -> Tombstone {
    Tombstone { key: key.as_ref().clone(), revision: gone.revision, audience: gone.audience.clone() }
}
