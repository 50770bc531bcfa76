//! Pure. What the data path reads: immutable values in cells that the control path swaps.
//!
//! There is one cell per xDS resource ([`ClusterCell`], [`RouteCell`], [`ListenerCell`]), and who refers to a resource
//! holds its cell. So a change of one resource swaps one pointer, whatever the number of services, and a reader pays
//! one load without a lock. Swapped values are never changed: a request works on what it loaded.

mod cell;
mod cluster;
mod endpoint;
mod listener;
mod pods;
mod reach;
mod registry;
mod route;
mod transport;

pub use cell::Cell;
pub use cluster::{CircuitBreakers, Cluster, ClusterCell, ClusterCounters, RetryLimit, TransportMatch, name_parts};
pub use endpoint::{Endpoint, EndpointCounters, EndpointSet, PriorityGroup};
pub use listener::{
    CapturedInbound, CapturedPort, Listener, ListenerCell, ListenerKind, Plain, SniRoute, SniTable, Unsaid,
};
pub use pods::Pods;
pub use reach::{Asking, Reach};
pub use registry::{StateHandle, Summary};
pub use route::{RouteAction, RouteCell, RoutePolicy, RouteTable};
pub use transport::{ServerTls, TlsTransport, Transport};

#[cfg(test)]
mod tests;
