//! Our objects on a real API server that is the hub's and a member's at once: statuses, settings and what GitOps does with
//! them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod gitops;
mod health;
mod statuses;
mod world;
