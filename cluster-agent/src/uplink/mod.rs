//! Edge. What this cluster offers and reports, on its way to the hub.
//!
//! The core actor calls an [`UplinkHandle`]; nothing there blocks or grows with time: per service the latest wins.
//! The session task takes it from there: stamps the changes in the [`ledger`], writes them to the [`journal`], and
//! sends them.

pub mod journal;
pub mod ledger;
mod mailbox;
#[cfg(test)]
mod tests;

pub use mailbox::{Outgoing, Resources, UplinkHandle};
