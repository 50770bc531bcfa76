//! Edge. What is counted about requests that are tried more than once.

use std::sync::Arc;

use meshfed_runtime::metrics::Metrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

/// Why a request is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryReason {
    /// The endpoint could not be connected to.
    Connect,
    /// The endpoint's proxy says that it reached no application.
    Peer,
    /// A kept connection had ended.
    Stale,
    /// The endpoint, or the application behind its proxy, ended the request without an answer.
    Reset,
}

/// How a request ended that was tried more than once, or would have been.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryOutcome {
    /// An application answered.
    Success,
    /// No application was reached within the attempts that the route allows.
    LimitExceeded,
    /// There was no other endpoint.
    NoOther,
    /// The cluster's limit of retries under way was reached.
    Overflow,
    /// Its body was too long to be kept for another attempt.
    NotReplayable,
    /// It reached somebody, and failed there.
    Failed,
}

impl RetryReason {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Peer => "peer",
            Self::Stale => "stale",
            Self::Reset => "reset",
        }
    }
}

impl RetryOutcome {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::LimitExceeded => "limit_exceeded",
            Self::NoOther => "no_other_endpoint",
            Self::Overflow => "overflow",
            Self::NotReplayable => "not_replayable",
            Self::Failed => "failed",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RetryLabels {
    service: String,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    service: String,
    result: &'static str,
}

/// The counters; their services are those of the configuration.
#[derive(Debug)]
pub(super) struct Retries {
    attempts: Family<RetryLabels, Counter>,
    ended: Family<OutcomeLabels, Counter>,
}

impl Retries {
    pub(super) fn new(metrics: &Metrics) -> Self {
        Self {
            attempts: metrics
                .counters("meshfed_upstream_retries", "Attempts after the first, by what made them needed."),
            ended: metrics.counters(
                "meshfed_upstream_retried_requests",
                "Requests that were tried more than once or would have been, by how they ended.",
            ),
        }
    }
    pub(super) fn retried(&self, service: &Arc<str>, reason: RetryReason) {
        let labels = RetryLabels { service: service.as_ref().to_owned(), reason: reason.as_str() };
        self.attempts.get_or_create(&labels).inc();
    }
    pub(super) fn ended(&self, service: &Arc<str>, outcome: RetryOutcome) {
        let labels = OutcomeLabels { service: service.as_ref().to_owned(), result: outcome.as_str() };
        self.ended.get_or_create(&labels).inc();
    }
}
