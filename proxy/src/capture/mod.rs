//! Edge. Transparent capture: the rules that lead a workload's connections to its proxy.

pub mod nft;
pub mod resolvers;
pub mod rules;
