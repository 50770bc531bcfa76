//! Pure. What the catalog holds of one cluster.

use std::collections::{BTreeMap, BTreeSet};

use meshfed_api::border::{Class, Part, Refusal, Subject};
use meshfed_api::stream::{Delta, History, RESOURCES_MAX, StreamError, Upsert, size_limit};
use meshfed_model::export::ExportTo;
use meshfed_model::member::Member;
use meshfed_model::names::ServiceName;
use meshfed_model::offer::{OfferKey, OfferValue};

use super::hold::Hold;
use super::{BYTES_MAX, ENDPOINTS_MAX, Fnv, GATEWAYS_MAX, GROUPS_MAX, REFUSED_MAX, SERVICES_MAX};
use crate::fleet::GatewayAddress;

/// One cluster's offer.
#[derive(Debug)]
pub(super) struct Origin {
    pub(super) member: Member,
    pub(super) zones: BTreeSet<String>,
    pub(super) history: History,
    pub(super) first_complete: bool,
    pub(super) refused: BTreeMap<Subject, Refusal>,
    /// Gateways whose address another cluster has, to be taken when it is given up.
    waiting: BTreeMap<OfferKey, Upsert>,
    pub(super) salt: u64,
    /// What the last full sync would have taken away.
    pub(super) hold: Option<Hold>,
    staged: Option<Staged>,
    counts: Counts,
}

/// The parts of a change whose last part has not come.
#[derive(Debug)]
struct Staged {
    part: Part,
    counts: Counts,
    /// Refused resources of all parts, which a sender could go on sending.
    refused: usize,
}

/// Resources of one cluster by kind.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts {
    services: usize,
    groups: usize,
    endpoints: usize,
    gateways: usize,
    /// Of all of them together.
    bytes: usize,
}

impl Counts {
    fn of(&mut self, key: &OfferKey) -> (&mut usize, usize, &'static str) {
        match key {
            OfferKey::Service(_) => (&mut self.services, SERVICES_MAX, "services"),
            OfferKey::Group(_) => (&mut self.groups, GROUPS_MAX, "groups"),
            OfferKey::Endpoint(_) => (&mut self.endpoints, ENDPOINTS_MAX, "endpoints"),
            OfferKey::Gateway(_) => (&mut self.gateways, GATEWAYS_MAX, "gateways"),
        }
    }

    /// Counts one more, of so many bytes, that is there already.
    pub(super) fn keep(&mut self, key: &OfferKey, bytes: usize) {
        *self.of(key).0 += 1;
        self.bytes += bytes;
    }

    /// Counts the bytes of a version that stays where another one was refused.
    pub(super) fn keep_bytes(&mut self, bytes: usize) {
        self.bytes += bytes;
    }

    /// Counts one more, unless it is there already, and the bytes of this version of it.
    pub(super) fn admit(
        &mut self,
        key: &OfferKey,
        value: &OfferValue,
        held: bool,
    ) -> Result<(), (&'static str, String)> {
        let bytes = self.bytes.saturating_add(size_limit(key, value));
        if bytes > BYTES_MAX {
            let message = format!(
                "what the cluster offers would have more than {BYTES_MAX} bytes together, which is the limit; export fewer \
                 services, or give them fewer ports, labels and annotations"
            );
            return Err(("QuotaExceeded", message));
        }
        let (count, limit, kind) = self.of(key);
        if !held && *count >= limit {
            let message = format!("the cluster offers {limit} {kind} already, which is the limit; export fewer");
            return Err(("QuotaExceeded", message));
        }
        *count += usize::from(!held);
        self.bytes = bytes;
        Ok(())
    }
}

impl Origin {
    pub(super) fn new(member: Member, zones: BTreeSet<String>) -> Self {
        Self {
            member,
            zones,
            history: History::default(),
            first_complete: false,
            refused: BTreeMap::new(),
            waiting: BTreeMap::new(),
            salt: 0,
            hold: None,
            staged: None,
            counts: Counts::default(),
        }
    }

    /// Joins parts; gives the whole change with the last one. What is over the quota within one change is not even
    /// kept until then.
    pub(super) fn stage(&mut self, part: Part) -> Result<Option<Part>, StreamError> {
        let (head, next) = (|d: &Delta| (d.version, d.base, d.complete, d.tombstone_floor), &part.delta);
        let mut staged = match self.staged.take() {
            None => {
                let held = self.history.version();
                if next.version < held {
                    return Err(StreamError::Older { held, offered: next.version });
                }
                let Delta { base, version, complete, tombstone_floor, .. } = *next;
                let delta = Delta { base, version, complete, tombstone_floor, ..Delta::default() };
                Staged { part: delta.into(), counts: Counts::default(), refused: 0 }
            }
            Some(first) if head(&first.part.delta) == head(next) => first,
            Some(first) => {
                return Err(StreamError::Part { expected: first.part.delta.version, offered: next.version });
            }
        };
        let more = next.more;
        staged.add(part, &self.history);
        let whole = &staged.part;
        let withdrawn = whole.delta.removals.len() + whole.withdrawn.len() + whole.forgotten.len();
        let actual = (whole.delta.upserts.len() + staged.refused).max(withdrawn);
        if actual > RESOURCES_MAX {
            return Err(StreamError::TooMany { limit: RESOURCES_MAX, actual });
        }
        if more {
            self.staged = Some(staged);
            return Ok(None);
        }
        Ok(Some(staged.part))
    }

    pub(super) fn staged(&self) -> usize {
        self.staged.as_ref().map_or(0, |s| s.part.named())
    }

    /// Resources that are held.
    pub(super) const fn held(&self) -> usize {
        let Counts { services, groups, endpoints, gateways, bytes: _ } = self.counts;
        services + groups + endpoints + gateways
    }

    /// What is held of a key, to be named once more in a change towards `epoch`: with a revision that no later one of
    /// the cluster itself can be below.
    pub(super) fn last_good(&self, key: &OfferKey, epoch: u64) -> Option<Upsert> {
        let value = self.history.get(key)?.clone();
        let same = self.history.version().epoch == epoch;
        let revision = if same { self.history.revision(key).unwrap_or_default() } else { 0 };
        Some(Upsert { key: key.clone(), revision, value })
    }

    pub(super) fn abandon(&mut self) {
        self.staged = None;
    }

    /// The bytes of what is held of a key.
    pub(super) fn bytes(&self, key: &OfferKey) -> usize {
        self.history.get(key).map_or(0, |value| size_limit(key, value))
    }

    /// What is held without what the change removes, and without the bytes of what it brings in another version.
    pub(super) fn counts(&self, change: &Delta) -> Counts {
        if change.complete {
            return Counts::default();
        }
        let mut counts = self.counts;
        let named: BTreeSet<&OfferKey> = change.upserts.iter().map(|u| &u.key).collect();
        for removal in &change.removals {
            if !named.contains(&removal.key) && self.history.get(&removal.key).is_some() {
                let (count, ..) = counts.of(&removal.key);
                *count = count.saturating_sub(1);
                counts.bytes = counts.bytes.saturating_sub(self.bytes(&removal.key));
            }
        }
        let replaced: usize = named.iter().map(|key| self.bytes(key)).sum();
        counts.bytes = counts.bytes.saturating_sub(replaced);
        counts
    }

    /// Counts after a change of `keys`, of which `held` were there before, with so many bytes.
    pub(super) fn recount(&mut self, complete: bool, keys: &BTreeSet<OfferKey>, (held, bytes): (&[&OfferKey], usize)) {
        if complete {
            self.counts = Counts::default();
            for (key, value) in self.history.iter() {
                self.counts.keep(key, size_limit(key, value));
            }
            return;
        }
        self.counts.bytes = self.counts.bytes.saturating_sub(bytes);
        for key in held {
            let (count, ..) = self.counts.of(key);
            *count = count.saturating_sub(1);
        }
        for key in keys {
            if let Some(value) = self.history.get(key) {
                self.counts.keep(key, size_limit(key, value));
            }
        }
    }

    /// Notes what was refused, so that people can read it, gateways that wait, and what is held back no more.
    pub(super) fn remember(
        &mut self,
        complete: bool,
        taken: &BTreeSet<OfferKey>,
        refused: &[Refusal],
        forgotten: &[Subject],
        waiting: Vec<Upsert>,
    ) {
        if complete {
            self.refused.clear();
            self.waiting.clear();
        } else if let Some(hold) = &mut self.hold {
            hold.pending.retain(|key, _| !taken.contains(key));
            if hold.pending.is_empty() {
                self.hold = None;
            }
        }
        for key in taken {
            self.refused.remove(&Subject::Key(key.clone()));
            self.waiting.remove(key);
        }
        for subject in forgotten {
            self.refused.remove(subject);
        }
        for refusal in refused {
            if self.refused.len() < REFUSED_MAX || self.refused.contains_key(&refusal.subject) {
                self.refused.insert(refusal.subject.clone(), refusal.clone());
            }
        }
        for upsert in waiting {
            if self.waiting.len() < GATEWAYS_MAX {
                self.waiting.insert(upsert.key.clone(), upsert);
            }
        }
        self.set_salt();
    }

    /// Who can see a resource that is held.
    pub(super) fn audience(&self, key: &OfferKey) -> ExportTo {
        let Some(service) = key.service() else { return ExportTo::Everyone };
        audience(&self.history, service)
    }

    pub(super) fn exports(&self, service: &ServiceName) -> bool {
        self.history.get(&OfferKey::Service(service.clone())).is_some()
    }

    pub(super) fn has_gateway(&self, at: GatewayAddress) -> bool {
        self.history.of_service(None).any(|(key, _)| super::gateway_at(key) == Some(at))
    }

    pub(super) fn waits_for(&self, at: GatewayAddress) -> bool {
        self.waiting.keys().any(|key| super::gateway_at(key) == Some(at))
    }

    /// Takes the gateways that waited for an address. They have revisions that importers may be past; by the salt an
    /// importer that stands at this version is told everything again.
    pub(super) fn retake(&mut self, at: GatewayAddress) {
        let keys: Vec<OfferKey> = self.waiting.keys().filter(|k| super::gateway_at(k) == Some(at)).cloned().collect();
        let upserts = keys.iter().filter_map(|k| self.waiting.remove(k)).collect();
        let version = self.history.version();
        let change = Delta { base: version, version, upserts, ..Delta::default() };
        if self.history.apply(change).is_ok() {
            for key in &keys {
                self.refused.remove(&Subject::Key(key.clone()));
            }
        }
        self.set_salt();
    }

    fn set_salt(&mut self) {
        let mut hash = Fnv::new();
        for (address, port) in self.waiting.keys().filter_map(super::gateway_at) {
            hash.text(&address.to_string()).text(&port.to_string());
        }
        if let Some(hold) = &self.hold {
            hash.text("held").text(&hold.at.to_string());
        }
        self.salt = if self.waiting.is_empty() && self.hold.is_none() { 0 } else { hash.finish() };
    }
}

impl Staged {
    fn add(&mut self, next: Part, history: &History) {
        let whole = &mut self.part;
        self.refused += next.kept.len().max(next.refused.len());
        for upsert in next.delta.upserts {
            match self.counts.admit(&upsert.key, &upsert.value, false) {
                Ok(()) => whole.delta.upserts.push(upsert),
                Err((code, message)) => {
                    self.refused += 1;
                    whole.refuse(Subject::Key(upsert.key), Class::ResourceExhausted, code, message);
                }
            }
        }
        whole.delta.removals.extend(next.delta.removals);
        whole.withdrawn.extend(next.withdrawn);
        whole.forgotten.extend(next.forgotten);
        for (code, count) in next.refused_by_code {
            *whole.refused_by_code.entry(code).or_default() += count;
        }
        whole.kept.extend(next.kept);
        whole.kept.retain(|key| history.get(key).is_some());
        let room = REFUSED_MAX.saturating_sub(whole.refused.len());
        whole.refused.extend(next.refused.into_iter().take(room));
    }
}

/// Who can see the resources of a service that is held.
pub(super) fn audience(history: &History, service: &ServiceName) -> ExportTo {
    match history.get(&OfferKey::Service(service.clone())) {
        Some(OfferValue::Service(offer)) => offer.export_to.clone(),
        Some(OfferValue::Group(_) | OfferValue::Endpoint(_) | OfferValue::Gateway(_)) | None => {
            ExportTo::Selected(BTreeSet::new())
        }
    }
}
