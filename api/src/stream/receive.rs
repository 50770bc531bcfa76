//! Pure. The receiver's end of a history: it takes over what it is told, or refuses it and stays as it is.

use std::collections::BTreeSet;
use std::sync::Arc;

use meshfed_model::offer::OfferKey;
use meshfed_model::version::Version;

use super::delta::{Delta, Upsert, same_kind};
use super::error::StreamError;
use super::history::{Entry, History, RESOURCES_MAX};

/// What a receiver learned from a delta.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// Keys whose value appeared, changed or vanished. Empty while parts are outstanding.
    pub changed: BTreeSet<Arc<OfferKey>>,
    /// Whether the receiver now stands at the delta's version.
    pub reached: bool,
}

impl History {
    /// Takes over a change, or one part of one. Parts are staged: the history changes with the last part only. An
    /// error drops what is staged and changes nothing else.
    ///
    /// # Errors
    /// [`StreamError`].
    pub fn apply(&mut self, delta: Delta) -> Result<Applied, StreamError> {
        let staged = self.staged.take();
        if delta.version < self.version {
            return Err(StreamError::Older { held: self.version, offered: delta.version });
        }
        let base = delta.base;
        let reachable = base.epoch == delta.version.epoch && base <= delta.version && base == self.version;
        if !delta.complete && (!reachable || self.version == Version::default()) {
            return Err(StreamError::Base { held: self.version, base });
        }
        for upsert in &delta.upserts {
            self.check(upsert, &delta)?;
        }
        if let Some(late) = delta.removals.iter().find(|r| r.revision > delta.version.revision) {
            return Err(StreamError::Revision { from: 0, to: delta.version.revision, offered: late.revision });
        }
        let whole = match staged {
            None => delta,
            Some(first) => join(first, delta)?,
        };
        let actual = whole.upserts.len() + if whole.complete { 0 } else { self.resources.len() };
        if actual > RESOURCES_MAX || whole.removals.len() > RESOURCES_MAX {
            return Err(StreamError::TooMany { limit: RESOURCES_MAX, actual: actual.max(whole.removals.len()) });
        }
        if whole.more {
            self.staged = Some(whole);
            return Ok(Applied::default());
        }
        Ok(Applied { changed: self.take_over(whole), reached: true })
    }

    /// Drops the parts of an unfinished change: the stream that carried them is gone.
    pub fn abandon(&mut self) {
        self.staged = None;
    }

    fn check(&self, upsert: &Upsert, delta: &Delta) -> Result<(), StreamError> {
        if !same_kind(&upsert.key, &upsert.value) {
            return Err(StreamError::Kind);
        }
        let from = match self.resources.get(&upsert.key) {
            Some(held) if delta.version.epoch == self.version.epoch => held.revision,
            Some(_) | None => 0,
        };
        let to = delta.version.revision;
        if upsert.revision < from || upsert.revision > to {
            return Err(StreamError::Revision { from, to, offered: upsert.revision });
        }
        Ok(())
    }

    fn take_over(&mut self, delta: Delta) -> BTreeSet<Arc<OfferKey>> {
        let mut changed = BTreeSet::new();
        if delta.complete {
            let named: BTreeSet<&OfferKey> = delta.upserts.iter().map(|u| &u.key).collect();
            let unnamed: Vec<_> = self.resources.keys().filter(|k| !named.contains(k.as_ref())).cloned().collect();
            for key in unnamed {
                self.remove(&key);
                changed.insert(key);
            }
            self.gone.clear();
            self.gone_by_revision.clear();
            self.floor = delta.tombstone_floor;
        }
        let upserted: BTreeSet<&OfferKey> = delta.upserts.iter().map(|u| &u.key).collect();
        for removal in &delta.removals {
            let key = Arc::new(removal.key.clone());
            if !upserted.contains(&removal.key) && self.remove(&key) {
                changed.insert(Arc::clone(&key));
            }
            self.bury(&key, removal.revision, removal.audience.clone());
        }
        for Upsert { key, revision, value } in delta.upserts {
            let key = Arc::new(key);
            if self.resources.get(&key).is_none_or(|e| e.value != value) {
                changed.insert(Arc::clone(&key));
            }
            self.put(key, Entry { revision, value });
        }
        self.version = delta.version;
        if self.forgets {
            self.floor = self.version.revision;
        }
        self.trim();
        changed
    }
}

fn join(mut first: Delta, next: Delta) -> Result<Delta, StreamError> {
    let same = first.version == next.version
        && first.base == next.base
        && first.complete == next.complete
        && first.tombstone_floor == next.tombstone_floor;
    if !same {
        return Err(StreamError::Part { expected: first.version, offered: next.version });
    }
    first.upserts.extend(next.upserts);
    first.removals.extend(next.removals);
    first.more = next.more;
    Ok(first)
}
