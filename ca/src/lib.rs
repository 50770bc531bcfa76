//! Pure. Certificates of meshfed: keys, the anchor of each trust domain, lineage by the fleet root, SVIDs, join tokens
//! and the rule by which a bundle is taken.
//!
//! ```text
//! root ── lineage (CA:FALSE, proves only) ──┐
//!                                           ├── one key per cluster
//! anchor (self-signed, what peers hold) ────┘
//!    ├── SVID (one hour, one URI SAN)
//!    └── rollover (CA:FALSE, proves the anchor that follows)
//! ```
//! Nothing here decides who gets an identity: the caller names the SPIFFE ID, a request only brings a public key.
//! Time is an argument; only key generation and serial numbers draw randomness.

mod algorithm;
pub mod anchor;
pub mod bundle;
pub mod csr;
pub mod keys;
pub mod lineage;
pub mod pem;
mod proof;
pub mod rollover;
pub mod root;
pub mod svid;
mod template;
pub mod token;

#[cfg(test)]
mod tests;

pub use template::IssueError;
