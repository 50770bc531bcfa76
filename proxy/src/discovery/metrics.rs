//! Edge. What discovery counts.

use meshfed_runtime::metrics::Metrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct KindLabel {
    pub(super) kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ListenerLabel {
    pub(super) listener: String,
}

#[derive(Debug)]
pub(super) struct DiscoveryMetrics {
    pub(super) connected: Gauge,
    pub(super) resources: Family<KindLabel, Counter>,
    pub(super) refused: Family<KindLabel, Counter>,
    pub(super) bytes: Family<KindLabel, Counter>,
    pub(super) bind_failures: Family<ListenerLabel, Counter>,
}

impl DiscoveryMetrics {
    pub(super) fn register(metrics: &Metrics) -> Self {
        Self {
            connected: metrics.gauge("meshfed_discovery_connected", "Whether the stream to the agent stands"),
            resources: metrics.counters("meshfed_discovery_resources", "Resources received, by type"),
            refused: metrics.counters("meshfed_discovery_refused", "Resources refused, by type"),
            bytes: metrics.counters("meshfed_discovery_bytes", "Bytes of resources received, by type"),
            bind_failures: metrics
                .counters("meshfed_listener_bind_failures", "Listeners whose address could not be bound"),
        }
    }
}
