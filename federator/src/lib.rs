//! Edge. The hub: registry, trust, join and HTTP API.
//!
//! ```text
//! agents ⇒ session → catalog → plan → fanout ⇒ agents
//!             ↑ members, bundles, policies        ↓ facts
//!   members, trust, policy ← store            http ⇒ operators
//! ```
//! The hub holds no key of a member, no endpoint in its store, and no single endpoint of a network that two clusters
//! do not share. It never rewrites what an agent offers: it takes it or refuses it by name.

pub mod admin_secret;
mod app;
pub mod catalog;
pub mod clusters;
pub mod config;
pub mod duration;
pub mod fanout;
pub mod fleet;
pub mod http;
pub mod members;
pub mod operations;
pub mod plan;
pub mod session;
pub mod source;
pub mod store;
pub mod trust;

pub use app::{Federator, configure, run};
pub use config::FederatorArgs;
