//! Edge. What the cluster sees of the fleet, as Kubernetes objects: a ServiceImport for each import, its derived Service
//! and MCS EndpointSlices, and the conditions of the cluster's own ServiceExports and policies (KEP-1645; contracts, Kubernetes part,
//! 5.5).
//!
//! [`facts`] come from the core by name, objects from watches; [`plan`] says what has to be written, [`apply`] writes it.
//! Every replica watches, so that each knows the addresses of imports; only the one that leads writes. A user's spec is
//! never written, and an object that is not ours is never touched.

mod apply;
pub mod facts;
mod families;
mod mailbox;
mod misnamed;
pub mod names;
pub mod objects;
pub mod plan;
pub mod policies;
mod queue;
pub mod quota;
pub mod remarks;
mod run;
mod silence;
mod store;
mod withdraw;

pub use mailbox::Mailbox;
pub use plan::ImportAddresses;
pub use quota::Limits as ImportLimits;
pub use run::{Mirror, MirrorMetrics, MirrorSettings};
pub use withdraw::withdraw;
