//! Pure. Where requests of one (service, port) go: an xDS cluster.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use super::cell::Cell;
use super::endpoint::EndpointSet;
use super::reach::Reach;
use super::transport::Transport;

/// The place of the current version of a cluster.
pub type ClusterCell = Cell<Cluster>;

/// One version of a cluster together with its endpoints.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// The xDS name, say `outbound|8080||b.shop.svc.clusterset.local`.
    pub name: Arc<str>,
    /// The service's host, from an outbound cluster's name; empty for others.
    pub host: Arc<str>,
    /// The service's port, from the cluster's name; 0 where it has none.
    pub port: u16,
    /// How long a connect may take.
    pub connect_timeout: Duration,
    /// Whether each client, by its address, stays on one endpoint.
    pub sticky: bool,
    /// Limits per process.
    pub circuit_breakers: CircuitBreakers,
    /// Source addresses of connections to the endpoints, at most one of each family.
    pub source: Vec<IpAddr>,
    /// `(name, metadata that an endpoint must carry, transport)`: the first match is an endpoint's transport.
    pub transports: Arc<[TransportMatch]>,
    /// What endpoints without a match use.
    pub default_transport: Arc<Transport>,
    /// Whether connections go to the address that they were meant for before they were captured. There are no endpoints then.
    pub original_destination: bool,
    /// The endpoints as they are now.
    pub endpoints: Arc<EndpointSet>,
    /// Counters per process, kept over versions.
    pub counters: Arc<ClusterCounters>,
}

/// One transport socket match of a cluster.
#[derive(Debug, Clone)]
pub struct TransportMatch {
    /// The match's name: the origin cluster, or `plaintext`.
    pub name: Arc<str>,
    /// Every key and value that an endpoint's `envoy.transport_socket_match` metadata must hold, sorted.
    pub matches: Vec<(String, String)>,
    /// The transport.
    pub transport: Arc<Transport>,
}

/// How many requests of a cluster may be on their way again at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryLimit {
    /// So many.
    Fixed(u32),
    /// A share of the requests under way, as Envoy's `retry_budget`.
    Budget {
        /// The share, in hundredths of a percent.
        share: u32,
        /// So many in any case.
        least: u32,
    },
}

impl RetryLimit {
    /// Envoy's budget: a fifth, and three in any case.
    pub const DEFAULT: Self = Self::Budget { share: 2_000, least: 3 };

    /// The limit while so many requests are under way, those that are tried again among them.
    #[must_use]
    pub fn at(self, under_way: u32) -> u32 {
        match self {
            Self::Fixed(most) => most,
            Self::Budget { share, least } => {
                let part = u64::from(under_way) * u64::from(share) / 10_000;
                u32::try_from(part).unwrap_or(u32::MAX).max(least)
            }
        }
    }
}

/// Limits of one cluster, for the whole process (1,024 each unless the agent says otherwise, as in Envoy).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CircuitBreakers {
    /// Connections to its endpoints.
    pub max_connections: u32,
    /// Requests that wait for a connection.
    pub max_pending_requests: u32,
    /// Requests under way.
    pub max_requests: u32,
    /// Requests under way that are tried again.
    pub retries: RetryLimit,
}

impl Default for CircuitBreakers {
    fn default() -> Self {
        Self { max_connections: 1024, max_pending_requests: 1024, max_requests: 1024, retries: RetryLimit::DEFAULT }
    }
}

/// What all cores count together, each on a cache line of its own against false sharing with what is only read.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct ClusterCounters {
    /// Open connections.
    pub connections: AtomicU32,
    /// Requests under way.
    pub requests: AtomicU32,
    /// Requests under way that are tried again.
    pub retries: AtomicU32,
    /// Of an inbound cluster: whether its application can be connected to.
    pub reach: Reach,
}

impl Cluster {
    /// The same cluster with other endpoints.
    #[must_use]
    pub fn with_endpoints(&self, endpoints: Arc<EndpointSet>) -> Self {
        Self { endpoints, ..self.clone() }
    }
    /// The transport of an endpoint with this `envoy.transport_socket_match` metadata.
    #[must_use]
    pub fn transport_for(&self, metadata: &[(String, String)]) -> &Arc<Transport> {
        self.transports
            .iter()
            .find(|m| m.matches.iter().all(|wanted| metadata.contains(wanted)))
            .map_or(&self.default_transport, |m| &m.transport)
    }
}

/// The parts of an outbound cluster's name, `outbound|PORT|SUBSET|HOST` or `outbound_.PORT_.SUBSET_.HOST`, or the port
/// of `inbound|PORT||`.
#[must_use]
pub fn name_parts(name: &str) -> (u16, &str) {
    let bar: Vec<&str> = name.splitn(4, '|').collect();
    if let [_, port, _, host] = bar.as_slice() {
        return (port.parse().unwrap_or(0), host);
    }
    let dotted: Vec<&str> = name.splitn(4, "_.").collect();
    if let ["outbound", port, _, host] = dotted.as_slice() {
        return (port.parse().unwrap_or(0), host);
    }
    (0, "")
}
