//! Pure. Objects and views become Envoy's messages: (index, view, client) in, bytes out. Same input, same bytes.

pub mod captured;
pub mod clusters;
pub mod endpoints;
pub mod facts;
pub mod listeners;
mod messages;
pub mod names;
pub mod node;
pub mod resource;
pub mod routes;
pub mod secrets;
#[cfg(test)]
mod tests;
mod wire;

pub use facts::{Manner, PortFacts, ServiceFacts};
pub use names::{Domain, OutboundName, depends_on_view};
pub use node::{Claim, Mode, Node, NodeError};
pub use resource::{Kind, Resource};
