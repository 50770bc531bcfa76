//! Pure. Which cluster an authority goes to.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::cell::Cell;
use super::cluster::ClusterCell;

/// The place of the current version of a route configuration.
pub type RouteCell = Cell<RouteTable>;

/// One version of a route configuration: exact authorities, and what all others get.
#[derive(Debug, Default)]
pub struct RouteTable {
    /// Authorities are compared without their port.
    pub ignore_port: bool,
    /// Lower-case `host` or `host:port` to what is done.
    pub hosts: HashMap<Box<str>, RouteAction>,
    /// What the domain `*` says.
    pub fallback: Option<RouteAction>,
}

/// What is done with a request.
#[derive(Debug, Clone)]
pub enum RouteAction {
    /// Sent on. An empty cell means that the cluster is not known (any more): 503.
    Cluster(Arc<ClusterCell>, RoutePolicy),
    /// Answered here, say with 421.
    Respond(u16),
}

/// How long and how often a request is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoutePolicy {
    /// From the end of the request to the end of the answer, all attempts together; `None`: no limit, as in Istio.
    pub timeout: Option<Duration>,
    /// Attempts after the first, for requests that certainly reached no application.
    pub retries: u32,
    /// Whether a mesh peer's word counts that its proxy reached no application.
    pub heed_peers: bool,
}

impl Default for RoutePolicy {
    /// No timeout and two retries: what Istio's routes have; peers are heeded.
    fn default() -> Self {
        Self { timeout: None, retries: 2, heed_peers: true }
    }
}

impl RouteTable {
    /// The action for an authority in lower case, without userinfo; `port` left out of `authority` where
    /// [`Self::ignore_port`] says so.
    #[must_use]
    pub fn find(&self, authority: &str) -> Option<&RouteAction> {
        self.hosts.get(authority).or(self.fallback.as_ref())
    }
}
