//! Edge. A small authoritative DNS server (RFC 1035, RFC 6891, RFC 2308): the records of one zone, over UDP and TCP.

mod message;
mod server;
mod zone;

pub use message::{Asked, Over, ask, reply};
pub use server::{Limits, Respond, Response, serve};
pub use zone::{Found, Kind, Record, Records, TTL, Zone};
