//! Edge. gRPC transport: tonic over our own rustls acceptor and connector, and over Unix sockets with peer credentials.
//!
//! A service learns who speaks from [`PeerInfo`] only, never from what a message says.

mod accept;
mod authority;
mod client;
mod serve;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::time::Duration;

use meshfed_model::identity::SpiffeId;
use meshfed_model::metadata::WorkloadMetadata;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use crate::connection::{ConnectionLimits, Cut, OnCut};
use crate::metrics::Metrics;

pub use accept::set_options;
pub use client::{ConnectError, connect, connect_unix};
pub use serve::{ServeError, UNIX_PATH_MAX, UnixBindError, bind_unix, serve_tls, serve_unix};

/// Metadata of a refusal: how the agent that refuses stands to a fleet.
pub const MEMBERSHIP: &str = "meshfed-membership";
/// Its value where the cluster has left its fleet.
pub const LEFT: &str = "left";
/// Most bytes of one message, both directions (SY2); services set it with `max_decoding_message_size`.
pub const MESSAGE_MAX: usize = 4 * 1024 * 1024;
/// Time for a TLS handshake (SY4).
pub const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);
/// HTTP/2 PING after this long without a frame (SY4).
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
/// A connection whose PING is unanswered this long is closed.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes sent and not acknowledged for this long close the connection (SY9).
pub const TCP_USER_TIMEOUT: Duration = Duration::from_secs(15);

/// Peer credentials of a Unix socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UCred {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Process id, where the kernel tells it.
    pub pid: Option<i32>,
}

/// Who speaks: a request extension of every service served from here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerInfo {
    /// The verified SPIFFE ID; none where no certificate was sent, and on Unix sockets.
    pub id: Option<SpiffeId>,
    /// What the issuer of its certificate says of its workload.
    pub metadata: Option<WorkloadMetadata>,
    /// The peer's address on TCP.
    pub address: Option<SocketAddr>,
    /// The peer's credentials on a Unix socket.
    pub uds_cred: Option<UCred>,
    /// SHA-256 of the peer's leaf certificate, to bind a session to it.
    pub leaf_sha256: Option<[u8; 32]>,
}

impl PeerInfo {
    /// Of a tonic request; the default (nobody) where the request did not come through this transport.
    #[must_use]
    pub fn of<T>(request: &tonic::Request<T>) -> Self {
        request.extensions().get::<Self>().cloned().unwrap_or_default()
    }
}

/// Limits of one server (SY4).
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections of peers that are known at the same time: with a certificate, and on Unix sockets those of root and
    /// of the server's own user. One more displaces the oldest of the peer that has most; on Unix sockets it is closed.
    pub connections: usize,
    /// Connections of everybody else, handshakes included: strangers never take the places of members. One more
    /// displaces the oldest of the source that has most; on Unix sockets it is closed.
    pub strangers: usize,
    /// Of them, those of one source address or one local user. Many honest peers may share an address (NAT); each is a
    /// stranger for its handshake only.
    pub strangers_each: usize,
    /// How long such a connection may stand: a join takes a few requests.
    pub stranger_age: Duration,
    /// What each connection may do.
    pub each: ConnectionLimits,
    /// Streams of one connection at the same time.
    pub streams: u32,
    /// Bytes of one stream's receive window.
    pub stream_window: u32,
    /// Bytes of one connection's receive window.
    pub connection_window: u32,
    /// Decoded bytes of a header list.
    pub header_list: u32,
    /// Time for a TLS handshake.
    pub handshake_deadline: Duration,
    /// After the drain began, connections are cut when this has passed.
    pub drain_deadline: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // 1,000 clusters with two agent replicas, and as many joiners again.
            connections: 4096,
            strangers: 2048,
            strangers_each: 1024,
            stranger_age: Duration::from_secs(120),
            each: ConnectionLimits::default(),
            streams: 100,
            stream_window: 64 * 1024,
            connection_window: 1024 * 1024,
            header_list: 16 * 1024,
            handshake_deadline: HANDSHAKE_DEADLINE,
            drain_deadline: Duration::from_secs(10),
        }
    }
}

/// Label of refused connections.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RefusedLabel {
    /// `limit`, `handshake_timeout`, `handshake`, `accept`, or the word of a [`crate::tls::SvidError`].
    pub reason: &'static str,
}

/// Label of connections that were cut.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CutLabel {
    /// The word of a [`Cut`].
    pub reason: &'static str,
}

/// Label of connections that had to give up their place.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct DisplacedLabel {
    /// `stranger` or `member`.
    pub holder: &'static str,
}

/// What a server counts.
#[derive(Debug, Clone, Default)]
pub struct ConnectionMetrics {
    /// Connections that did not come to speak.
    pub refused: Family<RefusedLabel, Counter>,
    /// Connections that broke a limit.
    pub cut: Family<CutLabel, Counter>,
    /// Connections that gave up their place to a newcomer.
    pub displaced: Family<DisplacedLabel, Counter>,
    /// Connections that stand.
    pub open: Gauge,
}

impl ConnectionMetrics {
    /// Registers `<prefix>_connections_refused_total`, `<prefix>_connections_cut_total`,
    /// `<prefix>_connections_displaced_total` and `<prefix>_connections`.
    #[must_use]
    pub fn register(metrics: &Metrics, prefix: &str) -> Self {
        Self {
            refused: metrics.counters(
                &format!("{prefix}_connections_refused"),
                "Connections that were closed before they could speak, by reason",
            ),
            cut: metrics.counters(
                &format!("{prefix}_connections_cut"),
                "Connections that were cut because they broke a limit, by reason",
            ),
            displaced: metrics.counters(
                &format!("{prefix}_connections_displaced"),
                "Connections that were cut because all places were taken and a newcomer needed one, by who had it",
            ),
            open: metrics.gauge(&format!("{prefix}_connections"), "Connections that stand"),
        }
    }
    /// Counts a connection that does not come to speak.
    pub fn refuse(&self, reason: &'static str) {
        self.refused.get_or_create(&RefusedLabel { reason }).inc();
    }
    /// Counts a connection that gives up its place.
    pub fn displace(&self, holder: &'static str) {
        self.displaced.get_or_create(&DisplacedLabel { holder }).inc();
    }
    /// Counts and logs a connection of `peer` that is cut.
    #[must_use]
    pub fn on_cut(&self, peer: String) -> OnCut {
        let counted = self.cut.clone();
        Box::new(move |cut: Cut| {
            counted.get_or_create(&CutLabel { reason: cut.as_str() }).inc();
            tracing::info!(peer, reason = cut.as_str(), "connection cut: {cut}");
        })
    }
}

/// How to serve.
#[derive(Debug, Clone, Default)]
pub struct ServeOptions {
    /// Limits.
    pub limits: Limits,
    /// Counters.
    pub metrics: ConnectionMetrics,
}
