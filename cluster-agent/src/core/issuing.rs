//! Edge. The time by which the core issues, and the alarm when the wall clock jumps (CA8).

use std::time::{Duration, Instant, SystemTime};

use meshfed_runtime::clock;
use meshfed_runtime::readiness::{Guard, Readiness};
use meshfed_runtime::steady::{ClockJump, SteadyClock};
use prometheus_client::metrics::gauge::Gauge;

/// How often the wall clock is compared with the time since boot.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// Time to issue by.
#[derive(Debug)]
pub(super) struct Issuing {
    clock: SteadyClock,
    readiness: Readiness,
    jumped: Gauge,
    checked: Instant,
    wall: SystemTime,
    jump: Option<ClockJump>,
    guard: Option<Guard>,
}

impl Issuing {
    /// Starts now: the wall clock of this moment counts as right.
    pub(super) fn start(readiness: Readiness, jumped: Gauge) -> Self {
        let (clock, checked) = (SteadyClock::start(None), clock::instant());
        Self { clock, readiness, jumped, checked, wall: clock::wall(), jump: None, guard: None }
    }

    /// When to ask again although nothing happened.
    pub(super) fn deadline(&self) -> Instant {
        self.checked + CHECK_EVERY
    }

    /// The time, and whether nothing is to be issued by it. Between two looks it goes on by itself: a clock that is set
    /// in between changes nothing.
    pub(super) fn now(&mut self, now: Instant) -> (SystemTime, Option<ClockJump>) {
        if now >= self.deadline() {
            self.check(now);
        }
        (self.wall + now.saturating_duration_since(self.checked), self.jump)
    }

    fn check(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.checked);
        let found = self.clock.now();
        self.wall = found.unwrap_or(self.wall + passed);
        self.checked = now;
        self.tell(found.err());
    }

    fn tell(&mut self, jump: Option<ClockJump>) {
        match (self.jump, jump) {
            (None, Some(jump)) => {
                tracing::error!("{jump}; the certificates that were issued go on being served");
                self.guard = Some(self.readiness.guard(format!("clock: {jump}")));
            }
            (Some(_), None) => {
                tracing::info!("the wall clock is where it should be again");
                self.guard = None;
            }
            (Some(_), Some(_)) | (None, None) => {}
        }
        self.jump = jump;
        let seconds = |jump: ClockJump| {
            let by = i64::try_from(jump.by.as_secs()).unwrap_or(i64::MAX);
            if jump.ahead { by } else { -by }
        };
        self.jumped.set(jump.map_or(0, seconds));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mutations seen to fail: `guard` not set; the gauge without its sign.
    #[test]
    fn a_jump_is_told_while_it_lasts() {
        let (readiness, jumped) = (Readiness::new(), Gauge::default());
        let mut issuing = Issuing::start(readiness.clone(), jumped.clone());
        let jump = ClockJump { by: Duration::from_secs(90), ahead: false };
        issuing.tell(Some(jump));
        assert_eq!((jumped.get(), readiness.is_ready()), (-90, false));
        assert!(
            readiness.pending().concat().contains("clock: the wall clock is 90 s behind"),
            "{:?}",
            readiness.pending()
        );
        issuing.tell(None);
        assert_eq!((jumped.get(), readiness.is_ready()), (0, true));
        // Between two looks the time goes on by itself.
        let at = issuing.checked;
        let (one, two) = (issuing.now(at).0, issuing.now(at + CHECK_EVERY / 2).0);
        assert_eq!(two.duration_since(one).unwrap(), CHECK_EVERY / 2);
    }
}
