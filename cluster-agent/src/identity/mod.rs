//! Pure. Identities of this cluster's workloads: who may speak for one, and the certificates it gets.

mod attest;
mod authority;
#[cfg(test)]
mod tests;

pub use attest::{Denied, Peer, attest, plausible};
pub use authority::{Authority, AuthorityError, Issued, SVID_TTL};
