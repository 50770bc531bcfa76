//! Pure. Identities of this cluster's workloads: who may speak for one, and the certificates it gets.

mod attest;
mod authority;
mod entitled;
#[cfg(test)]
mod tests;

pub use attest::{Denied, Peer, attest, plausible};
pub use authority::{Authority, AuthorityError, Issued, SVID_TTL};
pub use entitled::{Entitled, entitled};
