//! Edge. What every connection of our servers is held to (SY4, SY5): a first request in time, few frames that need an
//! answer, few resets, writes that get somewhere.
//!
//! `h2` bounds what a peer can make it keep (streams, header lists, buffers, pending resets), but answers every PING
//! and SETTINGS frame, and waits for a first request for ever. So [`Guarded`] counts frames on their way in, and
//! [`Stalling`] lies under TLS, where a write that is taken has left the process. [`Streams`] notes the streams of a
//! connection that wait for a peer that keeps its window shut.

mod guarded;
mod meter;
mod stall;
mod streams;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use guarded::Guarded;
pub use meter::{Flood, Meter};
pub use stall::Stalling;
pub use streams::Streams;

/// What one connection may do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ConnectionLimits {
    /// Time from the handshake to the end of the first request's head.
    pub first_request: Duration,
    /// Time after which the connection ends whatever it does; none: never.
    pub age: Option<Duration>,
    /// PING and SETTINGS frames in any ten seconds, those left out that answer to data of ours.
    pub control_frames: u32,
    /// RST_STREAM frames in any ten seconds.
    pub resets: u32,
    /// Time in which a write that waits must get rid of at least one byte, and a stream that waits for room gets some.
    pub write_stall: Duration,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            first_request: Duration::from_secs(10),
            age: None,
            control_frames: 100,
            resets: 200,
            write_stall: Duration::from_secs(30),
        }
    }
}

/// Why a connection was cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Cut {
    /// No whole request head in time.
    #[error("no request in time after the handshake")]
    FirstRequest,
    /// Over [`ConnectionLimits::age`].
    #[error("the connection has stood as long as one without a certificate may")]
    Age,
    /// A flood of frames.
    #[error("too many {} frames in ten seconds", .0.frames())]
    Flood(Flood),
    /// No write got anywhere.
    #[error("the peer has not read for too long")]
    WriteStall,
}

impl Cut {
    /// The HTTP/2 error code that tells the peer (RFC 9113, 7): ENHANCE_YOUR_CALM or NO_ERROR.
    const fn code(self) -> u32 {
        match self {
            Self::Flood(_) => 0xb,
            Self::FirstRequest | Self::Age | Self::WriteStall => 0,
        }
    }
    /// A stable word for metric labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::FirstRequest => "first_request_timeout",
            Self::Age => "age",
            Self::Flood(Flood::Control) => "control_flood",
            Self::Flood(Flood::Resets) => "reset_flood",
            Self::WriteStall => "write_stall",
        }
    }
}

/// Told once when a connection is cut, for a counter and the log.
pub type OnCut = Box<dyn FnMut(Cut) + Send + Sync>;
