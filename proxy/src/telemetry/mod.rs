//! Edge. What operators see of the traffic: the field's metrics (`istio_*`), our own, and the access log.
//!
//! The request path adds to counters that only its own core writes; a scrape sums them. Label values come from
//! configuration and verified identities, never from what a peer or a client wrote into a request.

mod access_log;
mod labels;
mod requests;
mod retries;
mod tcp;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use meshfed_model::names::WorkloadRef;
use meshfed_runtime::clock;
use meshfed_runtime::metrics::Metrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

pub use access_log::{AccessLog, AccessRecord, LogBuffer, LogCounters};
pub use labels::{Flag, Parties, Party, REASON_HEADER, Reason, Reporter, Security};
pub use requests::{RequestCell, Requests, Series};
pub use retries::{RetryOutcome, RetryReason};
pub use tcp::{TcpCell, TcpSeries};

/// Where lines of the access log go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum AccessLogTarget {
    /// Nowhere.
    #[default]
    Off,
    /// To stderr.
    Stderr,
    /// To the end of a file.
    File(PathBuf),
}

impl std::str::FromStr for AccessLogTarget {
    type Err = std::convert::Infallible;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Ok(match s {
            "off" => Self::Off,
            "stderr" => Self::Stderr,
            path => Self::File(path.into()),
        })
    }
}

/// What telemetry needs to know at start.
#[derive(Debug, Clone)]
pub struct TelemetrySettings {
    /// Where the access log goes.
    pub access_log: AccessLogTarget,
    /// Whose proxy this is.
    pub workload: WorkloadRef,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DeniedLabels {
    listener: &'static str,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusedLabels {
    side: &'static str,
    reason: &'static str,
}

/// The telemetry of the process.
#[derive(Debug)]
pub struct Telemetry {
    /// The begin of the process's coarse clock.
    base: Instant,
    cores: AtomicU32,
    workload: WorkloadRef,
    access_log: Option<AccessLog>,
    requests: Arc<Requests>,
    tcp: Arc<TcpSeries>,
    denied: Family<DeniedLabels, Counter>,
    refused: Family<RefusedLabels, Counter>,
    handshakes: Family<DeniedLabels, Counter>,
    retries: retries::Retries,
    /// How far tests have moved the coarse clock ahead, in milliseconds.
    #[cfg(test)]
    ahead: std::sync::atomic::AtomicU64,
    /// How often cores have looked at their trust.
    #[cfg(test)]
    looks: AtomicU32,
}

impl Telemetry {
    /// Registers the metrics and opens the access log.
    ///
    /// # Errors
    /// When the access log cannot be opened.
    pub fn new(metrics: &Metrics, settings: TelemetrySettings) -> std::io::Result<Arc<Self>> {
        let requests = Arc::new(Requests::default());
        let tcp = Arc::new(TcpSeries::default());
        let mut registry = metrics.registry.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        registry.register_collector(Box::new(requests::Scrape(Arc::clone(&requests))));
        registry.register_collector(Box::new(tcp::Scrape(Arc::clone(&tcp))));
        drop(registry);
        let counters = LogCounters {
            dropped: metrics.counter("meshfed_access_log_dropped_lines", "Lines that the log's writer could not take."),
            reopened: metrics.counter("meshfed_access_log_reopened", "Times that the log's file was opened anew."),
            failed: metrics.counter(
                "meshfed_access_log_reopen_failures",
                "Times that the log's file could not be opened anew; lines go to the one held.",
            ),
        };
        Ok(Arc::new(Self {
            base: clock::instant(),
            cores: AtomicU32::new(0),
            workload: settings.workload,
            access_log: AccessLog::open(&settings.access_log, counters)?,
            requests,
            tcp,
            denied: metrics.counters(
                "meshfed_connections_denied",
                "Connections that were closed because their peer may not speak here.",
            ),
            refused: metrics.counters(
                "meshfed_http_refused",
                "HTTP messages that were refused as malformed, by side that sent them.",
            ),
            handshakes: metrics.counters(
                "meshfed_tls_failures",
                "TLS handshakes that failed, by listener or cluster direction and reason.",
            ),
            retries: retries::Retries::new(metrics),
            #[cfg(test)]
            ahead: std::sync::atomic::AtomicU64::new(0),
            #[cfg(test)]
            looks: AtomicU32::new(0),
        }))
    }
    /// A number for a new core.
    #[must_use]
    pub fn next_core(&self) -> u32 {
        self.cores.fetch_add(1, Ordering::Relaxed)
    }
    /// Whose proxy this is.
    #[must_use]
    pub const fn workload(&self) -> &WorkloadRef {
        &self.workload
    }
    /// Milliseconds since the process's telemetry began: the coarse clock of marks that cores share.
    #[must_use]
    pub fn milliseconds(&self, now: Instant) -> u64 {
        let real = u64::try_from(now.saturating_duration_since(self.base).as_millis()).unwrap_or(u64::MAX);
        #[cfg(test)]
        let real = real + self.ahead.load(Ordering::Relaxed);
        real
    }
    /// Moves the coarse clock ahead: deadlines of connections pass without waiting.
    #[cfg(test)]
    pub(crate) fn hurry(&self, by: std::time::Duration) {
        let by = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        self.ahead.fetch_add(by, Ordering::Relaxed);
    }
    /// A core looked at its trust.
    #[cfg(test)]
    pub(crate) fn looked(&self) {
        self.looks.fetch_add(1, Ordering::Relaxed);
    }
    /// How often cores have looked at their trust.
    #[cfg(test)]
    pub(crate) fn trust_looks(&self) -> u32 {
        self.looks.load(Ordering::Relaxed)
    }
    /// Counts an attempt after the first.
    pub fn retried(&self, service: &Arc<str>, reason: RetryReason) {
        self.retries.retried(service, reason);
    }
    /// Counts how a request ended that was tried more than once, or would have been.
    pub fn retries_ended(&self, service: &Arc<str>, outcome: RetryOutcome) {
        self.retries.ended(service, outcome);
    }
    /// The access log, if there is one.
    #[must_use]
    pub const fn access_log(&self) -> Option<&AccessLog> {
        self.access_log.as_ref()
    }
    /// The request counters.
    #[must_use]
    pub const fn requests(&self) -> &Arc<Requests> {
        &self.requests
    }
    /// The counters of raw TCP connections between two parties.
    #[must_use]
    pub fn tcp(&self, parties: &Arc<Parties>, flag: Flag) -> Arc<TcpCell> {
        self.tcp.cell(parties, flag)
    }
    /// Counts a connection that was closed because its peer may not speak here. `listener`: `outbound` or `inbound`.
    pub fn denied(&self, listener: &'static str, reason: &'static str) {
        self.denied.get_or_create(&DeniedLabels { listener, reason }).inc();
    }
    /// Counts a malformed message. `side`: `downstream` or `upstream`.
    pub fn refused(&self, side: &'static str, status: u16) {
        let reason = match status {
            414 | 431 => "limit",
            417 | 501 | 505 => "unsupported",
            _ => "malformed",
        };
        self.refused.get_or_create(&RefusedLabels { side, reason }).inc();
    }
    /// Counts a failed handshake. `listener`: `inbound` or `upstream`.
    pub fn handshake_failed(&self, listener: &'static str, reason: &'static str) {
        self.handshakes.get_or_create(&DeniedLabels { listener, reason }).inc();
    }
}
