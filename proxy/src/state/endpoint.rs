//! Pure. The endpoints of a cluster: priorities, weights, and how each is spoken to.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use super::cluster::Cluster;
use super::transport::Transport;

/// The usable endpoints of a cluster, by priority.
#[derive(Debug, Clone, Default)]
pub struct EndpointSet {
    /// Priority 0 first; without gaps; a group may be empty.
    pub priorities: Vec<PriorityGroup>,
    /// Listed endpoints, those that are not usable included.
    pub total: usize,
}

/// The endpoints of one priority.
#[derive(Debug, Clone, Default)]
pub struct PriorityGroup {
    /// In the order of the assignment.
    pub endpoints: Vec<Arc<Endpoint>>,
    /// `cumulative[i]` = sum of the weights of endpoints `0..=i`: a weighted choice is a binary search.
    pub cumulative: Vec<u64>,
}

/// One address to dial: a workload, or a gateway that stands for many.
#[derive(Debug)]
pub struct Endpoint {
    /// The address.
    pub address: SocketAddr,
    /// Its share among the endpoints of its priority; at least 1.
    pub weight: u32,
    /// The mesh cluster that it belongs to; empty when unknown.
    pub cluster: Arc<str>,
    /// Its network; empty when unknown.
    pub network: Arc<str>,
    /// `NAMESPACE/NAME` of the service; empty when unknown.
    pub service: Arc<str>,
    /// `REGION/ZONE/SUBZONE`.
    pub locality: Arc<str>,
    /// Whether a gateway stands at this address.
    pub via_gateway: bool,
    /// How it is spoken to.
    pub transport: Arc<Transport>,
    /// Counters per process, kept over versions of the set for the same address.
    pub counters: Arc<EndpointCounters>,
}

impl Endpoint {
    /// An address that is in no assignment.
    #[must_use]
    pub fn unlisted(cluster: &Cluster, address: SocketAddr) -> Self {
        let none: Arc<str> = "".into();
        Self {
            address,
            weight: 1,
            cluster: Arc::clone(&none),
            network: Arc::clone(&none),
            service: Arc::clone(&none),
            locality: none,
            via_gateway: false,
            transport: Arc::clone(&cluster.default_transport),
            counters: Arc::default(),
        }
    }
}

/// What all cores count together for one endpoint.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct EndpointCounters {
    /// Requests or raw connections under way.
    pub active: AtomicU32,
    /// Passed over until then (milliseconds of `Telemetry::milliseconds`) because a connect failed; 0: not.
    pub failing_until: std::sync::atomic::AtomicU64,
}

impl PriorityGroup {
    /// A group with its cumulative weights.
    #[must_use]
    pub fn new(endpoints: Vec<Arc<Endpoint>>) -> Self {
        let cumulative = endpoints
            .iter()
            .scan(0u64, |sum, e| {
                *sum += u64::from(e.weight.max(1));
                Some(*sum)
            })
            .collect();
        Self { endpoints, cumulative }
    }
    /// The sum of the weights; 0 when it is empty.
    #[must_use]
    pub fn weight(&self) -> u64 {
        self.cumulative.last().copied().unwrap_or(0)
    }
}

impl EndpointSet {
    /// A set of priorities, of `total` listed endpoints.
    #[must_use]
    pub fn new(priorities: BTreeMap<u32, Vec<Arc<Endpoint>>>, total: usize) -> Self {
        Self { priorities: priorities.into_values().map(PriorityGroup::new).collect(), total }
    }
    /// Whether nobody can be dialled.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.priorities.iter().all(|p| p.endpoints.is_empty())
    }
    /// All usable endpoints, best priority first.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.priorities.iter().flat_map(|p| p.endpoints.iter())
    }
}
