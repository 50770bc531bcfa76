//! Edge. Who is a member: tokens, plans, joins and renewals. Decisions are pure; each ends in one store transaction.

pub mod challenge;
pub mod claims;
pub mod declared;
mod enrollment;
pub mod issued;
mod joining;
mod labelling;
mod lanes;
pub mod leaves;
mod leaving;
mod operations;
pub mod plan;
pub mod record;
pub mod refusal;
pub mod registry;
pub mod token;
pub mod upkeep;

pub use enrollment::Enroll;
pub use joining::{Bound, Joining};
pub use registry::{Registry, RegistryError};
