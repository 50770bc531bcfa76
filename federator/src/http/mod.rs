//! Edge. The HTTP API of operators (`contracts.md` 1.3 and part 3): HTTPS always, nobody without credentials.
//!
//! `serve` → `router` (limits, credentials, problems) → `handlers` → `read` (what is shown), `Operations` (what changes)

mod credentials;
mod handlers;
mod operations;
mod page;
mod problem;
mod query;
mod read;
mod router;
mod serve;

use std::sync::Arc;

use meshfed_model::identity::TrustDomain;
use meshfed_runtime::metrics::Metrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use tokio::sync::watch;

use crate::fleet::{Bundles, FleetRead, Members, Revisions};
use crate::members::Registry;

pub use credentials::{CredentialError, Credentials, ensure, is_san};
pub use operations::{Operations, Refused};
pub use router::router;
pub use serve::{ServeError, serve};

/// The label of `meshfed_http_requests_total`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Code {
    code: u16,
}

/// What the API is made of.
#[derive(Clone)]
pub struct Api {
    /// What sessions and catalog know.
    pub fleet: Arc<dyn FleetRead>,
    /// Tokens and plans.
    pub operations: Arc<dyn Operations>,
    /// SHA-256 of the administrator's token.
    pub admin_token_sha256: [u8; 32],
    /// F.
    pub domain: TrustDomain,
    /// The root's certificate, DER.
    pub root: Vec<u8>,
    /// Whether the root's key is at hand.
    pub root_online: bool,
    /// All members that ever were.
    pub members: watch::Receiver<Arc<Members>>,
    /// All bundles.
    pub bundles: watch::Receiver<Arc<Bundles>>,
    /// What is shown as `revision`.
    pub revisions: Arc<Revisions>,
    /// `meshfed_http_requests_total` by status.
    pub requests: Family<Code, Counter>,
}

impl Api {
    /// Over a registry.
    #[must_use]
    pub fn new(
        fleet: Arc<dyn FleetRead>,
        operations: Arc<dyn Operations>,
        credentials: &Credentials,
        registry: &Registry,
        metrics: &Metrics,
    ) -> Self {
        let trust = registry.trust();
        Self {
            fleet,
            operations,
            admin_token_sha256: credentials.token_sha256(),
            domain: trust.fleet().clone(),
            root: trust.root().to_vec(),
            root_online: trust.root_online(),
            members: registry.members(),
            bundles: registry.bundles(),
            revisions: Arc::clone(registry.revisions()),
            requests: requests(metrics),
        }
    }
}

fn requests(metrics: &Metrics) -> Family<Code, Counter> {
    metrics.counters("meshfed_http_requests", "Requests to the HTTP API by status")
}

#[cfg(test)]
mod tests;
