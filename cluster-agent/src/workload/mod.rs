//! Edge. The SPIFFE Workload API on `E/run/workload.sock`: what a process is, without a proxy and without a word of its
//! own. The kernel says which user asks, the objects say what that user is.
//!
//! [`holders`] decides what each user is answered, inside the core; [`server`] moves the answers to the streams.

pub mod holders;
pub mod server;
#[cfg(test)]
mod tests;

pub use holders::{Answer, BundleSet, Holders, SVIDS_MAX, Svid, Word};
pub use server::{WorkloadMetrics, WorkloadServer};
