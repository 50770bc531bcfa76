//! Pure. Pauses between attempts: full jitter, so that a thousand agents do not return in lockstep (SY10).

use std::time::{Duration, Instant};

/// The first ceiling of the pause.
pub const BASE: Duration = Duration::from_millis(500);
/// The last ceiling of the pause.
pub const CAP: Duration = Duration::from_secs(30);
/// What lasted this long starts again at the first ceiling when it fails.
pub const STABLE: Duration = Duration::from_secs(30);

/// Pauses for one peer.
#[derive(Debug, Clone)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
    attempt: u32,
    random: fastrand::Rng,
    connected_at: Option<Instant>,
}

impl Backoff {
    /// 0.5 s to 30 s, with a random seed.
    #[must_use]
    pub fn new() -> Self {
        Self::with(BASE, CAP, fastrand::u64(..))
    }
    /// With own bounds and seed.
    #[must_use]
    pub fn with(base: Duration, cap: Duration, seed: u64) -> Self {
        Self { base, cap, attempt: 0, random: fastrand::Rng::with_seed(seed), connected_at: None }
    }
    /// Notes that the attempt succeeded; the ceiling falls back only once it has lasted [`STABLE`].
    pub fn connected(&mut self, now: Instant) {
        self.connected_at = Some(now);
    }
    /// The pause before the next attempt, after a failure at `now`: anywhere from 0 to the ceiling, which doubles.
    pub fn failed(&mut self, now: Instant) -> Duration {
        if self.connected_at.take().is_some_and(|since| now.saturating_duration_since(since) >= STABLE) {
            self.attempt = 0;
        }
        let ceiling = self.base.saturating_mul(1u32 << self.attempt.min(16)).min(self.cap);
        self.attempt = self.attempt.saturating_add(1);
        ceiling.mul_f64(self.random.f64())
    }
    /// Forgets earlier failures.
    pub fn reset(&mut self) {
        self.attempt = 0;
        self.connected_at = None;
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mutation seen to fail: no `min(self.cap)`; `STABLE` check left out.
    #[test]
    fn pauses_are_jittered_capped_and_reset_after_stable() {
        let t0 = crate::clock::instant();
        let mut b = Backoff::with(BASE, CAP, 7);
        let pauses: Vec<Duration> = (0..200).map(|_| b.failed(t0)).collect();
        assert!(pauses[0] <= BASE && pauses.iter().all(|p| *p <= CAP));
        assert!(pauses[50..].iter().any(|p| *p > CAP / 2) && pauses[50..].iter().any(|p| *p < CAP / 4), "jitter");
        let mut flap = || {
            b.connected(t0);
            b.failed(t0 + Duration::from_secs(1))
        };
        let flapped: Vec<Duration> = (0..50).map(|_| flap()).collect();
        assert!(flapped.iter().any(|p| *p > BASE), "a short connection does not reset");
        b.connected(t0);
        assert!(b.failed(t0 + STABLE) <= BASE);
    }
}
