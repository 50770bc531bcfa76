//! Pure. The border between messages and the nouns of `model`: every `TryFrom` here checks names, numbers, counts
//! and addresses, and names the field that is wrong. Messages do not exist behind it.

mod common;
mod delta;
mod enroll;
mod error;
mod member;
mod offer;
mod part;
mod policy;
mod refusal;
mod seniority;
mod session;
#[cfg(test)]
mod tests;

pub use common::{PLACES_MAX, TEXT_MAX};
pub use enroll::{PLANNED_MAX, Placement, PlannedOffer, planned_offers};
pub use error::InvalidMessage;
pub use member::{ANCHORS_MAX, CERTIFICATE_MAX, MEMBERS_MAX};
pub use offer::{COUNT_MAX, EXPORTED_BYTES, EXPORTED_MAX, IDENTITIES_MAX, PORTS_MAX, SELECTORS_MAX, WEIGHT_MAX};
pub use part::{OBJECT_MAX, Part, UNNAMED_MAX, resource_bytes};
pub use policy::{ITEMS_MAX, POLICIES_MAX, TIERS_MAX};
pub use refusal::{Class, Refusal, Subject};
pub use seniority::{SENIORITY_SERVICES_MAX, Seniority, seniority, seniority_message, services as seniority_services};
pub use session::{
    Ack, HeldOrigin, Hello, INSTANCE_MAX, Interest, Lease, LeaseEpoch, NAMESPACES_MAX, REFUSALS_MAX, bundle_serial,
    bundle_serial_message, origin_version, origin_version_message, shared_networks, shared_networks_message,
};
