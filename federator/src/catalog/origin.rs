//! Pure. What the catalog holds of one cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use meshfed_api::border::Refusal;
use meshfed_api::stream::{Delta, History, RESOURCES_MAX, StreamError, Upsert};
use meshfed_model::member::Member;
use meshfed_model::names::ServiceName;
use meshfed_model::offer::OfferKey;

use super::{ENDPOINTS_MAX, Fnv, GATEWAYS_MAX, GROUPS_MAX, REFUSED_MAX, SERVICES_MAX};

/// One cluster's offer.
#[derive(Debug)]
pub(super) struct Origin {
    pub(super) member: Member,
    pub(super) zones: BTreeSet<String>,
    pub(super) history: History,
    pub(super) first_complete: bool,
    pub(super) refused: BTreeMap<OfferKey, Refusal>,
    /// Gateways whose address another cluster has, to be taken when it is given up.
    waiting: BTreeMap<OfferKey, Upsert>,
    pub(super) salt: u64,
    staged: Option<Delta>,
    counts: Counts,
}

/// Resources of one cluster by kind.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts {
    services: usize,
    groups: usize,
    endpoints: usize,
    gateways: usize,
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

    /// Counts one more, unless it is there already.
    pub(super) fn admit(&mut self, key: &OfferKey, held: bool) -> Result<(), (&'static str, String)> {
        let (count, limit, kind) = self.of(key);
        if held {
            return Ok(());
        }
        if *count >= limit {
            let message = format!("the cluster offers {limit} {kind} already, which is the limit; export fewer");
            return Err(("QuotaExceeded", message));
        }
        *count += 1;
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
            staged: None,
            counts: Counts::default(),
        }
    }

    /// Joins parts; gives the whole change with the last one.
    pub(super) fn stage(&mut self, part: Delta) -> Result<Option<Delta>, StreamError> {
        let whole = match self.staged.take() {
            None => {
                let held = self.history.version();
                if part.version < held {
                    return Err(StreamError::Older { held, offered: part.version });
                }
                part
            }
            Some(mut first) => {
                let same = first.version == part.version
                    && first.base == part.base
                    && first.complete == part.complete
                    && first.tombstone_floor == part.tombstone_floor;
                if !same {
                    return Err(StreamError::Part { expected: first.version, offered: part.version });
                }
                first.upserts.extend(part.upserts);
                first.removals.extend(part.removals);
                first.more = part.more;
                first
            }
        };
        let actual = whole.upserts.len() + whole.removals.len();
        if actual > RESOURCES_MAX {
            return Err(StreamError::TooMany { limit: RESOURCES_MAX, actual });
        }
        if whole.more {
            self.staged = Some(whole);
            return Ok(None);
        }
        Ok(Some(whole))
    }

    pub(super) fn abandon(&mut self) {
        self.staged = None;
    }

    /// What is held without what the change removes.
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
            }
        }
        counts
    }

    /// Counts after a change of `keys`, of which `held` were there before.
    pub(super) fn recount(&mut self, complete: bool, keys: &BTreeSet<OfferKey>, held: &[&OfferKey]) {
        if complete {
            self.counts = Counts::default();
            for (key, _) in self.history.iter() {
                *self.counts.of(key).0 += 1;
            }
            return;
        }
        for key in held {
            let (count, ..) = self.counts.of(key);
            *count = count.saturating_sub(1);
        }
        for key in keys.iter().filter(|k| self.history.get(k).is_some()) {
            *self.counts.of(key).0 += 1;
        }
    }

    /// Notes what was refused, so that people can read it, and gateways that wait.
    pub(super) fn remember(
        &mut self,
        complete: bool,
        taken: &BTreeSet<OfferKey>,
        refused: &[Refusal],
        waiting: Vec<Upsert>,
    ) {
        if complete {
            self.refused.clear();
            self.waiting.clear();
        }
        for key in taken {
            self.refused.remove(key);
            self.waiting.remove(key);
        }
        for refusal in refused {
            if self.refused.len() < REFUSED_MAX || self.refused.contains_key(&refusal.key) {
                self.refused.insert(refusal.key.clone(), refusal.clone());
            }
        }
        for upsert in waiting {
            if self.waiting.len() < GATEWAYS_MAX {
                self.waiting.insert(upsert.key.clone(), upsert);
            }
        }
        self.set_salt();
    }

    pub(super) fn exports(&self, service: &ServiceName) -> bool {
        self.history.get(&OfferKey::Service(service.clone())).is_some()
    }

    pub(super) fn has_gateway(&self, at: (IpAddr, u16)) -> bool {
        self.history.of_service(None).any(|(key, _)| super::gateway_at(key) == Some(at))
    }

    pub(super) fn waits_for(&self, at: (IpAddr, u16)) -> bool {
        self.waiting.keys().any(|key| super::gateway_at(key) == Some(at))
    }

    /// Takes the gateways that waited for an address. They have revisions that importers may be past; by the salt an
    /// importer that stands at this version is told everything again.
    pub(super) fn retake(&mut self, at: (IpAddr, u16)) {
        let keys: Vec<OfferKey> = self.waiting.keys().filter(|k| super::gateway_at(k) == Some(at)).cloned().collect();
        let upserts = keys.iter().filter_map(|k| self.waiting.remove(k)).collect();
        let version = self.history.version();
        let change = Delta { base: version, version, upserts, ..Delta::default() };
        if self.history.apply(change).is_ok() {
            for key in &keys {
                self.refused.remove(key);
            }
        }
        self.set_salt();
    }

    fn set_salt(&mut self) {
        let mut hash = Fnv::new();
        for (address, port) in self.waiting.keys().filter_map(super::gateway_at) {
            hash.text(&address.to_string()).text(&port.to_string());
        }
        self.salt = if self.waiting.is_empty() { 0 } else { hash.finish() };
    }
}
