//! Pure. Deltas and their resources.

use meshfed_model::offer::{OfferKey, OfferValue, Tombstone};
use meshfed_model::version::Version;

use super::common::{at_most, required};
use super::error::{InvalidMessage, Within};
use super::offer::{export_to, export_to_message};
use crate::proto::federation as pb;
use crate::stream::{Delta, PART_RESOURCES_MAX, Upsert};

impl TryFrom<pb::Resource> for Upsert {
    type Error = InvalidMessage;
    fn try_from(r: pb::Resource) -> Result<Self, InvalidMessage> {
        let key = OfferKey::try_from(required(r.key, "key")?).within("key")?;
        let value = OfferValue::try_from(required(r.value, "value")?)?;
        Ok(Self { key, revision: r.revision, value })
    }
}
impl From<&Upsert> for pb::Resource {
    fn from(u: &Upsert) -> Self {
        Self { key: Some((&u.key).into()), revision: u.revision, value: Some((&u.value).into()) }
    }
}

impl TryFrom<pb::Tombstone> for Tombstone {
    type Error = InvalidMessage;
    fn try_from(t: pb::Tombstone) -> Result<Self, InvalidMessage> {
        Ok(Self {
            key: OfferKey::try_from(required(t.key, "key")?).within("key")?,
            revision: t.revision,
            audience: export_to(t.audience).within("audience")?,
        })
    }
}
impl From<&Tombstone> for pb::Tombstone {
    fn from(t: &Tombstone) -> Self {
        Self { key: Some((&t.key).into()), revision: t.revision, audience: export_to_message(&t.audience) }
    }
}

impl TryFrom<pb::Delta> for Delta {
    type Error = InvalidMessage;
    fn try_from(d: pb::Delta) -> Result<Self, InvalidMessage> {
        at_most(d.upserts.len() + d.removals.len(), PART_RESOURCES_MAX, "upserts and removals")?;
        let upserts = d.upserts.into_iter().enumerate();
        let removals = d.removals.into_iter().enumerate();
        Ok(Self {
            base: d.base.map(Version::from).unwrap_or_default(),
            version: required(d.version, "version")?.into(),
            complete: d.complete,
            upserts: upserts
                .map(|(i, r)| Upsert::try_from(r).within(format_args!("upserts[{i}]")))
                .collect::<Result<_, _>>()?,
            removals: removals
                .map(|(i, t)| Tombstone::try_from(t).within(format_args!("removals[{i}]")))
                .collect::<Result<_, _>>()?,
            more: d.more,
            tombstone_floor: d.tombstone_floor,
        })
    }
}
impl From<&Delta> for pb::Delta {
    fn from(d: &Delta) -> Self {
        Self {
            base: (d.base != Version::default()).then(|| d.base.into()),
            version: Some(d.version.into()),
            complete: d.complete,
            upserts: d.upserts.iter().map(Into::into).collect(),
            removals: d.removals.iter().map(Into::into).collect(),
            more: d.more,
            tombstone_floor: d.tombstone_floor,
        }
    }
}
