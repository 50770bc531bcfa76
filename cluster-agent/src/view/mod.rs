//! Pure. What other clusters show this one: the last good state, per origin.
//!
//! Looking at one service costs what that service is, never what the fleet is. Nothing here goes back: a change that
//! does not start where the view stands, or that is older, is refused whole.

mod apply;
pub mod kept;
mod origin;
mod part;
pub mod persist;
#[cfg(test)]
pub(crate) mod tests;

pub use apply::{RESOURCES_MAX, Refusal, View, ViewChange, ViewDirty, ViewError, follows};
pub use origin::OriginService;
pub use part::Part;
