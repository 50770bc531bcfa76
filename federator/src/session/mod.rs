//! Edge. The hub's end of the sessions: who speaks is known from the certificate alone, what is said goes to the pure
//! [`state`], and what the state has to say is sent when the stream can take it. What is said is taken turn by turn,
//! one cluster after the other.

mod desk;
mod fair;
mod heard;
mod hub;
mod messages;
mod names;
mod read;
mod report;
pub mod state;
mod stream;
#[cfg(test)]
mod tests;

pub use hub::{BytesLabel, ClusterLabel, Hub, HubError, RefusedLabel, SessionMetrics};
pub use report::Report;
pub use state::{FLIPS_MAX, FLIPS_WINDOW, Freshness, HEARTBEAT, HOLD, SILENCE_MAX, STALE_AFTER};
pub use stream::Sessions;
