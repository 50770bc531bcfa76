//! Edge. What the gateway counts (`contracts.md` 1.8).

use meshfed_runtime::metrics::Metrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

/// How the begin of a connection went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The upstream is connected.
    Forwarded,
    /// The server name is not exported here.
    UnknownSni,
    /// There is no server name.
    NoSni,
    /// No ClientHello, or one that is ambiguous.
    BadHello,
    /// The ClientHello did not arrive in time.
    Timeout,
    /// The process has too many connections.
    Limit,
    /// The server name is known, and none of its endpoints can be reached.
    Unreachable,
}

impl Outcome {
    const ALL: [Self; 7] =
        [Self::Forwarded, Self::UnknownSni, Self::NoSni, Self::BadHello, Self::Timeout, Self::Limit, Self::Unreachable];
    const fn labels(self) -> ConnectionLabels {
        let reason = match self {
            Self::Forwarded => return ConnectionLabels { result: "forwarded", reason: "" },
            Self::UnknownSni => "unknown_sni",
            Self::NoSni => "no_sni",
            Self::BadHello => "bad_hello",
            Self::Timeout => "timeout",
            Self::Limit => "limit",
            Self::Unreachable => "unreachable",
        };
        ConnectionLabels { result: "refused", reason }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ConnectionLabels {
    result: &'static str,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FailureLabels {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DirectionLabels {
    direction: &'static str,
}

/// The counters of the gateway, looked up once: a connection costs one addition.
#[derive(Debug)]
pub struct GatewayMetrics {
    outcomes: [Counter; 7],
    failures: Family<FailureLabels, Counter>,
    sent: Counter,
    received: Counter,
    /// Tunnels that stand.
    pub active: Gauge,
}

impl GatewayMetrics {
    /// Registers the counters, all from 0.
    #[must_use]
    pub fn register(metrics: &Metrics) -> Self {
        let connections: Family<ConnectionLabels, Counter> = metrics.counters(
            "meshfed_gateway_connections",
            "Connections to the gateway, counted when the upstream is connected or the refusal is sent",
        );
        let bytes: Family<DirectionLabels, Counter> =
            metrics.counters("meshfed_gateway_bytes", "Bytes copied by tunnels that ended");
        Self {
            outcomes: Outcome::ALL.map(|o| connections.get_or_create_owned(&o.labels())),
            failures: metrics.counters(
                "meshfed_gateway_upstream_failures",
                "Connections with a known server name for which no endpoint could be reached",
            ),
            sent: bytes.get_or_create_owned(&DirectionLabels { direction: "sent" }),
            received: bytes.get_or_create_owned(&DirectionLabels { direction: "received" }),
            active: metrics.gauge("meshfed_gateway_tunnels", "Tunnels that stand"),
        }
    }
    /// Counts one connection.
    pub fn count(&self, outcome: Outcome) {
        // The enum has as many members as the array; the order is that of ALL.
        if let Some(counter) = self.outcomes.get(outcome as usize) {
            counter.inc();
        }
    }
    /// Counts a failure to reach an endpoint.
    pub fn upstream_failed(&self, reason: &'static str) {
        self.failures.get_or_create(&FailureLabels { reason }).inc();
    }
    /// Counts the bytes of a tunnel that ended: `sent` by the client, `received` by it.
    pub fn bytes(&self, sent: u64, received: u64) {
        self.sent.inc_by(sent);
        self.received.inc_by(received);
    }
    /// The counter of one outcome.
    #[must_use]
    pub fn total(&self, outcome: Outcome) -> u64 {
        self.outcomes.get(outcome as usize).map_or(0, Counter::get)
    }
}
