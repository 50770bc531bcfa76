//! Edge. The xDS server: ADS and SDS in both protocols, and the app probe's reports.
//!
//! A stream's task moves messages between gRPC and the core, and decides nothing: what a stream is sent is decided by
//! [`stream`] and by [`crate::core`].

pub mod server;
pub mod stream;
mod wire;

pub use server::{XdsMetrics, XdsServer, tcp_tls};
