//! Pure. The nouns of meshfed and their invariants.
//!
//! What a cluster exports is an [`offer`], what the exports of one name make together an [`import`], what another cluster may see of it is a [`view`], and what one client is
//! handed for one service port is an [`horizon::Assignment`], shared out by [`failover`].
//! Nothing here reads a clock, a socket, a file or a random number: inputs in, values out, and the same input gives
//! the same bytes.

pub mod allowed;
pub mod bundle;
pub mod export;
pub mod failover;
pub mod horizon;
pub mod identity;
pub mod import;
pub mod locality;
pub mod member;
pub mod metadata;
pub mod names;
pub mod network;
pub mod offer;
pub mod policy;
pub mod quantise;
pub mod service;
pub mod share;
pub mod sni;
pub mod sorted;
pub mod version;
pub mod view;
