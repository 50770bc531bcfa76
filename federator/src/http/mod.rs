//! Edge. The HTTP API of operators (`contracts.md` 1.3 and part 3): HTTPS always, nobody without credentials.
//!
//! `serve` → `router` (limits, credentials, problems) → `handlers` → `read` (what is shown), `Operations` (what changes)

mod credentials;
mod form;
mod handlers;
mod page;
mod problem;
mod query;
mod read;
mod renewal;
mod rest;
mod router;
mod seat;
mod selector;
mod serve;

use std::sync::Arc;

use meshfed_model::identity::TrustDomain;
use meshfed_runtime::metrics::Metrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use tokio::sync::watch;

use crate::fleet::{Bundles, FleetRead, Members, Revisions};
use crate::operations::Operations;

pub use credentials::{CredentialError, Credentials, ensure, is_san};
pub use renewal::{Renewed, Standing, follow, reset};
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
    /// SHA-256 of the administrator's token; follows `meshfed credential reset`.
    pub admin_token_sha256: watch::Receiver<[u8; 32]>,
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

/// Counts requests by status.
#[must_use]
pub fn requests(metrics: &Metrics) -> Family<Code, Counter> {
    metrics.counters("meshfed_http_requests", "Requests to the HTTP API by status")
}

#[cfg(test)]
mod tests;
