//! Pure. The indexes of a history, kept in step: by key, by service, and by revision.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use meshfed_model::export::ExportTo;
use meshfed_model::names::ServiceName;
use meshfed_model::offer::{OfferKey, OfferValue};

use super::audience::union;
use super::history::{Entry, Gone, History, TOMBSTONES_MAX};

/// Selectors that the audience of one tombstone may gather; beyond, the tombstone is given up and the floor rises.
const AUDIENCE_MAX: usize = if cfg!(test) { 3 } else { 64 };
/// The limit in force: in tests so small that it is reached.
const TOMBSTONES_KEPT: usize = if cfg!(test) { 12 } else { TOMBSTONES_MAX };

impl History {
    pub(super) fn audience_ref(&self, service: Option<&ServiceName>) -> &ExportTo {
        static EVERYONE: ExportTo = ExportTo::Everyone;
        static NOBODY: ExportTo = ExportTo::Selected(BTreeSet::new());
        let Some(service) = service else { return &EVERYONE };
        match self.resources.get(&OfferKey::Service(service.clone())).map(|e| &e.value) {
            Some(OfferValue::Service(s)) => &s.export_to,
            Some(OfferValue::Group(_) | OfferValue::Endpoint(_) | OfferValue::Gateway(_)) | None => &NOBODY,
        }
    }

    pub(super) fn audience_of(&self, service: Option<&ServiceName>) -> ExportTo {
        self.audience_ref(service).clone()
    }

    pub(super) fn put(&mut self, key: Arc<OfferKey>, entry: Entry) {
        self.remove(&key);
        self.resources_by_revision.entry(entry.revision).or_default().insert(Arc::clone(&key));
        self.keys_of.entry(key.service().cloned()).or_default().insert(Arc::clone(&key));
        self.resources.insert(key, entry);
    }

    pub(super) fn remove(&mut self, key: &Arc<OfferKey>) -> bool {
        let Some(entry) = self.resources.remove(key) else { return false };
        take(&mut self.resources_by_revision, &entry.revision, key);
        take(&mut self.keys_of, &key.service().cloned(), key);
        true
    }

    /// Records that `audience` can no longer see, or has to be told anew about, the key. An earlier record is merged:
    /// whoever stood before it hears of it now, and hearing twice does no harm.
    pub(super) fn bury(&mut self, key: &Arc<OfferKey>, revision: u64, audience: ExportTo) {
        if self.forgets {
            return;
        }
        let (revision, audience) = match self.gone.remove(key) {
            None => (revision, audience),
            Some(earlier) => {
                take(&mut self.gone_by_revision, &earlier.revision, key);
                (revision.max(earlier.revision), union(earlier.audience, audience))
            }
        };
        if let ExportTo::Selected(selectors) = &audience
            && selectors.len() > AUDIENCE_MAX
        {
            self.floor = self.floor.max(revision);
            return;
        }
        self.gone_by_revision.entry(revision).or_default().insert(Arc::clone(key));
        self.gone.insert(Arc::clone(key), Gone { revision, audience });
    }

    pub(super) fn trim(&mut self) {
        while self.gone.len() > TOMBSTONES_KEPT {
            let Some((revision, keys)) = self.gone_by_revision.pop_first() else { return };
            for key in keys {
                self.gone.remove(&key);
            }
            self.floor = self.floor.max(revision);
        }
    }
}

fn take<K: Ord>(index: &mut BTreeMap<K, BTreeSet<Arc<OfferKey>>>, at: &K, key: &Arc<OfferKey>) {
    if let Some(keys) = index.get_mut(at) {
        keys.remove(key);
        if keys.is_empty() {
            index.remove(at);
        }
    }
}
