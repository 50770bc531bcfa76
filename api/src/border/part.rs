//! Pure. One part of an offer as the hub takes it: what is wrong is refused by name, the rest is a [`Delta`] (SY2).
//!
//! Only what holds the parts together (versions, `complete`, `more`) can make a part wrong as a whole. Importers take
//! what the hub has checked, and read it with the strict `TryFrom`.

use std::collections::BTreeMap;

use meshfed_model::offer::{OfferKey, OfferValue, Tombstone};
use meshfed_model::service::{PortClash, check_ports};
use meshfed_model::version::Version;
use prost::Message as _;

use super::common::required;
use super::error::{InvalidMessage, Within};
use super::refusal::{Class, Refusal, Subject};
use crate::proto::federation as pb;
use crate::stream::{Delta, PART_RESOURCES_MAX, Upsert, same_kind};

/// The most encoded bytes of one resource (SY2).
pub const OBJECT_MAX: usize = 64 * 1024;
/// Refusals of one part that are kept by name; more are counted.
pub const UNNAMED_MAX: usize = 1_000;

/// One part of an offer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Part {
    /// What can be read of it.
    pub delta: Delta,
    /// What was refused, at most [`UNNAMED_MAX`] by name.
    pub refused: Vec<Refusal>,
    /// How many were refused, by code.
    pub refused_by_code: BTreeMap<&'static str, u64>,
    /// Keys of all refused resources that have one: their last good value stays.
    pub kept: Vec<OfferKey>,
    /// Removals that do not say readably who could see the resource: those who can see what is held are told.
    pub withdrawn: Vec<OfferKey>,
    /// Resources without a key that were withdrawn: nothing is held of them, but they are no more refused.
    pub forgotten: Vec<Subject>,
}

impl From<Delta> for Part {
    fn from(delta: Delta) -> Self {
        Self { delta, ..Self::default() }
    }
}

/// The encoded size of a resource in its message, in bytes.
#[must_use]
pub fn resource_bytes(key: &OfferKey, revision: u64, value: &OfferValue) -> usize {
    pb::Resource { key: Some(key.into()), revision, value: Some(value.into()) }.encoded_len()
}

impl Part {
    /// Resources that it names, taken or not: what looking at it costs.
    #[must_use]
    pub fn named(&self) -> usize {
        let taken = self.delta.upserts.len() + self.delta.removals.len();
        // All that was refused by key is kept, too.
        taken + self.kept.len().max(self.refused.len()) + self.withdrawn.len() + self.forgotten.len()
    }

    /// Refuses a resource that is not in `delta` any more.
    pub fn refuse(&mut self, subject: Subject, class: Class, code: &'static str, message: String) {
        *self.refused_by_code.entry(code).or_default() += 1;
        self.kept.extend(subject.key().cloned());
        if self.refused.len() < UNNAMED_MAX {
            self.refused.push(Refusal { subject, class, code: code.to_owned(), message });
        }
    }

    fn upsert(&mut self, resource: pb::Resource, room: bool) {
        let size = resource.encoded_len();
        let key = resource.key.clone().map(OfferKey::try_from);
        let subject = match &key {
            Some(Ok(key)) => Subject::Key(key.clone()),
            Some(Err(_)) | None => Subject::said(resource.key.as_ref()),
        };
        if size > OBJECT_MAX {
            let message = format!(
                "the resource has {size} bytes, at most {OBJECT_MAX} are allowed; give it fewer ports, identities or targets"
            );
            self.refuse(subject, Class::ResourceExhausted, "ResourceTooLarge", message);
            return;
        }
        if !room {
            let message = format!("a message carries at most {PART_RESOURCES_MAX} resources; send more messages");
            self.refuse(subject, Class::ResourceExhausted, "MessageTooLong", message);
            return;
        }
        match Upsert::try_from(resource) {
            Ok(upsert) if same_kind(&upsert.key, &upsert.value) => match told_apart(&upsert.value) {
                Ok(()) => self.delta.upserts.push(upsert),
                Err(clash) => {
                    let message = format!("service.{clash}");
                    self.refuse(subject, Class::InvalidArgument, "InvalidResource", message);
                }
            },
            Ok(_) => {
                let message = "key and value are of different kinds".to_owned();
                self.refuse(subject, Class::InvalidArgument, "InvalidResource", message);
            }
            Err(invalid) => self.refuse(subject, Class::InvalidArgument, "InvalidResource", invalid.to_string()),
        }
    }

    fn removal(&mut self, tombstone: pb::Tombstone) {
        let said = Subject::said(tombstone.key.as_ref());
        let key = tombstone.key.clone().map(OfferKey::try_from);
        match (key, Tombstone::try_from(tombstone)) {
            (Some(Ok(_)), Ok(tombstone)) => self.delta.removals.push(tombstone),
            // What is wrong with the audience does not keep the resource alive.
            (Some(Ok(key)), Err(_)) => self.withdrawn.push(key),
            (Some(Err(_)) | None, _) => self.forgotten.push(said),
        }
    }
}

/// Two ports of one number or name. Not a matter of the strict reading: an importer refuses such a service by name, too,
/// and goes on.
fn told_apart(value: &OfferValue) -> Result<(), PortClash> {
    match value {
        OfferValue::Service(service) => check_ports(&service.ports),
        OfferValue::Group(_) | OfferValue::Endpoint(_) | OfferValue::Gateway(_) => Ok(()),
    }
}

impl TryFrom<pb::Delta> for Part {
    type Error = InvalidMessage;
    /// # Errors
    /// Only for what concerns the part as a whole: its version is missing.
    fn try_from(d: pb::Delta) -> Result<Self, InvalidMessage> {
        let delta = Delta {
            base: d.base.map(Version::from).unwrap_or_default(),
            version: required(d.version, "version").within("offer")?.into(),
            complete: d.complete,
            more: d.more,
            tombstone_floor: d.tombstone_floor,
            ..Delta::default()
        };
        let mut part = Self { delta, ..Self::default() };
        let mut count = d.removals.len();
        for tombstone in d.removals {
            part.removal(tombstone);
        }
        for resource in d.upserts {
            count += 1;
            part.upsert(resource, count <= PART_RESOURCES_MAX);
        }
        Ok(part)
    }
}
