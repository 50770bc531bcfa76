//! Edge. Transparent capture: the rules that lead a workload's connections here, and what is done with them.
//!
//! ```text
//! application ─nftables─► outbound ─► (virtual address: service | pod | unknown) ─► outbound::serve or tcp
//! peer        ─nftables─► inbound  ─► (port, first bytes: mesh | own TLS | HTTP | plain) ─► inbound::serve or tcp
//! ```

mod detect;
mod early;
mod fields;
mod first;
mod guarded;
pub mod inbound;
pub mod nft;
mod original;
pub mod outbound;
pub mod resolvers;
pub mod rules;
mod unsaid;
