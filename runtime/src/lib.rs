//! Edge. What every daemon of meshfed needs: named tasks, one drain, readiness guards, the clock, backoff, files,
//! listeners, mutual TLS by SPIFFE ID, gRPC transport, admin port and telemetry.
//!
//! Nothing here knows what a service or an endpoint is, and nothing here decides who may speak: the callers bring a
//! [`tls::PeerPolicy`]. No other crate reads the clock, spawns a task or installs a crypto provider.

pub mod admin;
pub mod backoff;
pub mod clock;
pub mod config;
pub mod connection;
pub mod dns;
pub mod drain;
pub mod files;
pub mod grpc;
pub mod limits;
pub mod listen;
pub mod metrics;
pub mod pin;
pub mod places;
pub mod process;
pub mod rate;
pub mod readiness;
pub mod steady;
pub mod tasks;
pub mod telemetry;
pub mod tls;
