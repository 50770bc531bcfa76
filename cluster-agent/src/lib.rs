//! One cluster's agent.
//!
//! ```text
//! up:     source → index → uplink   ⇒ the hub
//! down:   the hub ⇒ downlink → view → translate → xds ⇒ proxies
//! beside: identity (issuing, attestation, SDS), attestation (by tokens, over TCP), inject and webhook, trust_map, workload (SPIFFE Workload API), status, bootstrap, enroll (join)
//! ```
//! It does not speak to other clusters' agents, keeps no endpoint of another network, and hands private keys to
//! nobody but the attested workload they belong to.

pub mod app;
pub mod attestation;
pub mod bootstrap;
pub mod config;
pub mod core;
pub mod dns;
pub mod downlink;
pub mod enroll;
pub mod identity;
pub mod index;
pub mod inject;
pub mod lease;
pub mod lookup;
pub mod membership;
pub mod mirror;
pub mod records;
pub mod source;
pub mod status;
pub mod translate;
pub mod trust_map;
pub mod uplink;
pub mod view;
pub mod webhook;
pub mod workload;
pub mod xds;

pub use app::{configure, run};
pub use config::AgentArgs;
