//! Pure. Changes of one origin as values, and how they are cut into messages.

use meshfed_model::offer::{OfferKey, OfferValue, Tombstone};
use meshfed_model::version::Version;

/// The most upserts and removals in one part: 256 resources of some 200 bytes are 50 KiB, which one slow stream can
/// hold without starving the heartbeats behind it.
pub const PART_RESOURCES_MAX: usize = 256;
/// The encoded size from which a part is cut, in bytes; with one more resource it stays far below the 4 MiB at which
/// gRPC refuses a message.
pub const PART_BYTES: usize = 1 << 20;

/// A resource as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upsert {
    /// Which one.
    pub key: OfferKey,
    /// The origin's revision of its last change.
    pub revision: u64,
    /// What it is.
    pub value: OfferValue,
}

/// A change of one origin from `base` to `version`, or one part of it.
///
/// Removals count before upserts: a key that is in both is there afterwards, and its removal is only the record of
/// those who could see it before.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Delta {
    /// Where the receiver must stand; not looked at when `complete`.
    pub base: Version,
    /// Where the receiver stands after the last part.
    pub version: Version,
    /// Holds everything: what is not named is gone once the last part has come.
    pub complete: bool,
    /// Resources as they are now.
    pub upserts: Vec<Upsert>,
    /// Removed resources, and (towards the hub) who could see a resource that is still there.
    pub removals: Vec<Tombstone>,
    /// More parts follow.
    pub more: bool,
    /// With `complete`: the revision from which removals are known.
    pub tombstone_floor: u64,
}

impl Delta {
    /// Whether it only moves the version on.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.complete && self.upserts.is_empty() && self.removals.is_empty()
    }

    /// Cuts the change into parts of at most [`PART_RESOURCES_MAX`] resources and about [`PART_BYTES`]; only the last
    /// has `more` = false. Always at least one part.
    #[must_use]
    pub fn parts(self) -> Vec<Self> {
        let Self { base, version, complete, upserts, removals, more, tombstone_floor } = self;
        let empty = || Self { base, version, complete, tombstone_floor, more: true, ..Self::default() };
        let mut parts = Vec::new();
        let mut part = empty();
        let mut bytes = 0;
        let mut count = 0;
        let mut room = |size: usize, part: &mut Self| {
            if count == PART_RESOURCES_MAX || (count > 0 && bytes + size > PART_BYTES) {
                parts.push(std::mem::replace(part, empty()));
                (bytes, count) = (0, 0);
            }
            bytes += size;
            count += 1;
        };
        for removal in removals {
            room(key_size(&removal.key) + REMOVAL_SIZE, &mut part);
            part.removals.push(removal);
        }
        for upsert in upserts {
            room(key_size(&upsert.key) + value_size(&upsert.value), &mut part);
            part.upserts.push(upsert);
        }
        part.more = more;
        parts.push(part);
        parts
    }
}

/// Tags, lengths, revision and a small audience of a removal, in bytes: an estimate.
const REMOVAL_SIZE: usize = 64;
/// Tags, lengths and numbers of a resource, in bytes: an estimate that is rather too high.
const OVERHEAD: usize = 48;

fn key_size(key: &OfferKey) -> usize {
    let service = key.service().map_or(0, |s| s.namespace.as_str().len() + s.name().len());
    let rest = match key {
        OfferKey::Service(_) => 0,
        OfferKey::Group(g) => {
            g.network.as_str().len() + g.subset.as_str().len() + g.locality.region.len() + g.locality.zone.len()
        }
        OfferKey::Endpoint(e) => e.network.as_str().len() + e.subset.as_str().len() + 16,
        OfferKey::Gateway(g) => g.network.as_str().len() + 16,
    };
    OVERHEAD + service + rest
}

fn value_size(value: &OfferValue) -> usize {
    match value {
        OfferValue::Service(s) => {
            let identities: usize = s.identities.iter().map(|i| i.trust_domain.as_str().len() + OVERHEAD * 2).sum();
            OVERHEAD + identities + s.ports.iter().map(|p| p.name.len() + OVERHEAD).sum::<usize>()
        }
        OfferValue::Group(_) => OVERHEAD,
        OfferValue::Endpoint(e) => OVERHEAD * 3 + e.workload.len() + e.identity.trust_domain.as_str().len(),
        OfferValue::Gateway(_) => OVERHEAD,
    }
}

/// Whether key and value are of one kind.
pub(super) const fn same_kind(key: &OfferKey, value: &OfferValue) -> bool {
    match (key, value) {
        (OfferKey::Service(_), OfferValue::Service(_))
        | (OfferKey::Group(_), OfferValue::Group(_))
        | (OfferKey::Endpoint(_), OfferValue::Endpoint(_))
        | (OfferKey::Gateway(_), OfferValue::Gateway(_)) => true,
        (OfferKey::Service(_) | OfferKey::Group(_) | OfferKey::Endpoint(_) | OfferKey::Gateway(_), _) => false,
    }
}
