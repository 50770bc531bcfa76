//! Pure. The history of one origin's offer, used by both ends of a session: the origin stamps its changes, the hub
//! takes them over and hands each importer what that importer may see, and the importer takes that over.
//!
//! A resource carries the origin's revision of its last change, a removed one a tombstone with its audience. A
//! receiver that stands at revision `r` is sent what has a higher revision, so the cost of a change is that of what
//! changed, never that of what is there. When a service's audience changes, all its resources are stamped anew and
//! those who could see them before are recorded, so that everybody hears exactly of what it saw.

mod audience;
mod delta;
mod error;
mod history;
mod index;
mod receive;
#[cfg(test)]
mod tests;

pub use audience::{Audience, Importer, Scope};
pub use delta::{Delta, PART_BYTES, PART_RESOURCES_MAX, Upsert, same_kind, size_limit};
pub use error::StreamError;
pub use history::{History, RESOURCES_MAX, TOMBSTONES_MAX};
pub use receive::Applied;
