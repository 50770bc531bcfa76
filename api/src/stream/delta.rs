//! Pure. Changes of one origin as values, and how they are cut into messages.

use meshfed_model::export::ExportTo;
use meshfed_model::identity::{Principal, SpiffeId};
use meshfed_model::locality::Locality;
use meshfed_model::offer::{OfferKey, OfferValue, Tombstone};
use meshfed_model::service::ServicePort;
use meshfed_model::version::Version;

/// The most upserts and removals in one part: 256 resources of some 200 bytes are 50 KiB, which one slow stream can
/// hold without starving the heartbeats behind it.
pub const PART_RESOURCES_MAX: usize = 256;
/// The encoded size at which a part is cut, in bytes: far below the 4 MiB at which gRPC refuses a message. A resource
/// that is larger than this alone goes alone; the ledger of an agent lets none come so far.
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
            room(key_size(&removal.key) + audience_size(&removal.audience), &mut part);
            part.removals.push(removal);
        }
        for upsert in upserts {
            room(size_limit(&upsert.key, &upsert.value), &mut part);
            part.upserts.push(upsert);
        }
        part.more = more;
        parts.push(part);
        parts
    }
}

/// Tags, lengths, kinds and numbers of a message with its sub-messages, in bytes: never too low.
const OVERHEAD: usize = 96;
/// Tag and length of a short field, in bytes.
const FIELD: usize = 12;

/// The most bytes that a resource takes in its message: cheap to know, and never too low.
#[must_use]
pub fn size_limit(key: &OfferKey, value: &OfferValue) -> usize {
    key_size(key) + value_size(value)
}

fn key_size(key: &OfferKey) -> usize {
    let service = key.service().map_or(0, |s| s.namespace.as_str().len() + s.name().len());
    let rest = match key {
        OfferKey::Service(_) => 0,
        OfferKey::Group(g) => {
            let place = g.locality.region.len() + g.locality.zone.len() + g.locality.subzone.len();
            g.network.as_str().len() + g.subset.as_str().len() + place
        }
        OfferKey::Endpoint(e) => e.network.as_str().len() + e.subset.as_str().len() + 16,
        OfferKey::Gateway(g) => g.network.as_str().len() + 16,
    };
    OVERHEAD + service + rest
}

fn audience_size(audience: &ExportTo) -> usize {
    match audience {
        ExportTo::Everyone => FIELD,
        ExportTo::Selected(selectors) => selectors
            .iter()
            .map(|s| {
                let names: usize = s.clusters.iter().map(|c| c.len() + FIELD).sum();
                let labels: usize = s.labels.iter().map(|(k, v)| k.len() + v.len() + 3 * FIELD).sum();
                names + labels + FIELD
            })
            .sum(),
    }
}

fn identity_size(id: &SpiffeId) -> usize {
    let path = match &id.principal {
        Principal::Workload { namespace, service_account } => namespace.as_str().len() + service_account.len(),
        Principal::Agent { cluster, .. } => cluster.as_str().len() + FIELD,
        Principal::Federator { .. } => FIELD,
    };
    // `spiffe://`, `/cluster/`, `/agent/` and the like.
    id.trust_domain.as_str().len() + path + 3 * FIELD
}

fn value_size(value: &OfferValue) -> usize {
    let place = |l: &Locality| l.region.len() + l.zone.len() + l.subzone.len() + FIELD;
    let rest = match value {
        OfferValue::Service(s) => {
            let identities: usize = s.identities.iter().map(|i| identity_size(i) + FIELD).sum();
            let name =
                |p: &ServicePort| p.name.len() + p.protocol.len() + p.app_protocol.as_ref().map_or(0, String::len);
            let ports: usize = s.ports.iter().map(|p| name(p) + 4 * FIELD).sum();
            let (pairs, bytes) = s.exported.size();
            let traits = s.traits.traffic_distribution.as_ref().map_or(0, String::len) + 5 * FIELD;
            identities + ports + audience_size(&s.export_to) + traits + bytes + pairs * 3 * FIELD
        }
        OfferValue::Group(_) => 0,
        OfferValue::Endpoint(e) => place(&e.locality) + e.workload.len() + identity_size(&e.identity),
        OfferValue::Gateway(g) => place(&g.locality),
    };
    OVERHEAD + rest
}

/// Whether key and value are of one kind.
pub const fn same_kind(key: &OfferKey, value: &OfferValue) -> bool {
    match (key, value) {
        (OfferKey::Service(_), OfferValue::Service(_))
        | (OfferKey::Group(_), OfferValue::Group(_))
        | (OfferKey::Endpoint(_), OfferValue::Endpoint(_))
        | (OfferKey::Gateway(_), OfferValue::Gateway(_)) => true,
        (OfferKey::Service(_) | OfferKey::Group(_) | OfferKey::Endpoint(_) | OfferKey::Gateway(_), _) => false,
    }
}
