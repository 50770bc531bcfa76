//! Edge. The metrics registry of a process, encoded as OpenMetrics text.

use std::sync::{Mutex, MutexGuard, PoisonError};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Metric, Registry};

/// The registry. Label values come from configuration only, never from a peer.
#[derive(Debug, Default)]
pub struct Metrics {
    /// The registry itself, for what the helpers below do not cover.
    pub registry: Mutex<Registry>,
}

impl Metrics {
    /// An empty registry.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, Registry> {
        // A registry half changed by a panic still encodes.
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers a metric and gives it back; counters are named without `_total`.
    pub fn register<M: Metric + Clone>(&self, name: impl Into<String>, help: impl Into<String>, metric: M) -> M {
        // The registry ends every help with a full stop of its own.
        let help: String = help.into();
        self.lock().register(name, help.trim_end_matches('.'), metric.clone());
        metric
    }
    /// A counter without labels; the name without `_total`.
    pub fn counter(&self, name: &str, help: &str) -> Counter {
        self.register(name, help, Counter::default())
    }
    /// A gauge without labels.
    pub fn gauge(&self, name: &str, help: &str) -> Gauge {
        self.register(name, help, Gauge::default())
    }
    /// Counters by labels; the name without `_total`.
    pub fn counters<L>(&self, name: &str, help: &str) -> Family<L, Counter>
    where
        L: EncodeLabelSet + Clone + std::hash::Hash + Eq + Send + Sync + std::fmt::Debug + 'static,
    {
        self.register(name, help, Family::default())
    }
    /// Gauges by labels.
    pub fn gauges<L>(&self, name: &str, help: &str) -> Family<L, Gauge>
    where
        L: EncodeLabelSet + Clone + std::hash::Hash + Eq + Send + Sync + std::fmt::Debug + 'static,
    {
        self.register(name, help, Family::default())
    }
    /// The OpenMetrics text of all metrics.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing into a String cannot fail; a metric that refuses to encode leaves the rest.
        if let Err(e) = encode(&mut text, &self.lock()) {
            tracing::warn!(error = %e, "metrics could not be encoded");
        }
        text
    }
}

/// The content type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
