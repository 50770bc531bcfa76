//! Edge. How many connections the process takes: what is beyond is closed at once, before it costs anything.

use std::sync::atomic::{AtomicUsize, Ordering};

/// File descriptors that connections leave to listeners, logs and the agent.
const RESERVED: u64 = 256;
/// Descriptors of one connection: its own, and the one to its endpoint.
const PER_CONNECTION: u64 = 2;
/// Connections when the system sets no limit.
const UNLIMITED: u64 = 1_000_000;

/// Connections of the process.
#[derive(Debug)]
pub struct Limits {
    open: AtomicUsize,
    max: usize,
}

impl Limits {
    /// As many connections as 90 % of the file descriptors carry (SN10).
    #[must_use]
    pub fn of_process() -> Self {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(UNLIMITED);
        let usable = (limit.saturating_mul(9) / 10).saturating_sub(RESERVED.min(limit / 4));
        Self::new(usize::try_from(usable / PER_CONNECTION).unwrap_or(usize::MAX).max(1))
    }
    /// At most `max` connections.
    #[must_use]
    pub const fn new(max: usize) -> Self {
        Self { open: AtomicUsize::new(0), max }
    }
    /// Counts a connection in; false when there are too many, and then it is not counted.
    pub fn enter(&self) -> bool {
        if self.open.fetch_add(1, Ordering::Relaxed) < self.max {
            return true;
        }
        self.leave();
        false
    }
    /// Counts a connection out.
    pub fn leave(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
    /// Connections now.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }
    /// The limit.
    #[must_use]
    pub const fn max(&self) -> usize {
        self.max
    }
}
