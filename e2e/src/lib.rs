//! Edge. Proof from outside: fleets of real processes on loopback ranges or in network namespaces, foreign peers,
//! and what an operator or a stranger sees of them. Nothing here looks into the product's memory.

#![allow(clippy::expect_used, clippy::panic, reason = "a harness fails its test with words")]

pub mod binary;
pub mod envoy;
pub mod fleet;
pub mod http;
pub mod kube;
pub mod load;
pub mod netns;
pub mod objects;
pub mod poll;
pub mod process;
pub mod relay;
pub mod spiffe;
pub mod tls;
pub mod wait;
