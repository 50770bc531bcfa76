//! Edge. The clock to issue by: the wall clock of the start and what has passed since (CA8).

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::clock::{instant, wall};

/// How far the wall clock may be from where time since boot puts it.
pub const JUMP_MAX: Duration = Duration::from_secs(60);

/// The wall clock has jumped: what is issued by it would begin and end at wrong times (CA8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the wall clock is {} s {} where it should be, so nothing is issued; mend the clock, or, if it is right now, restart this process",
    .by.as_secs(), if *.ahead { "ahead of" } else { "behind" }
)]
pub struct ClockJump {
    /// How far.
    pub by: Duration,
    /// Whether it is ahead.
    pub ahead: bool,
}

/// Time to issue by: the wall clock of the start and what has passed since, so that a wall clock which is set does not
/// move it. Time asleep counts, because it is time since boot.
#[derive(Debug, Clone)]
pub struct SteadyClock {
    wall: SystemTime,
    started: Started,
    floor: SystemTime,
}

#[derive(Debug, Clone, Copy)]
enum Started {
    /// Since boot.
    Boot(Duration),
    /// Where the system does not tell it: does not count while the machine sleeps.
    Monotonic(Instant),
}

/// Time since boot, time asleep included.
fn since_boot() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/uptime").ok()?;
    Duration::try_from_secs_f64(text.split_whitespace().next()?.parse().ok()?).ok()
}

impl SteadyClock {
    /// Starts now. `floor` is the latest time that an earlier run has noted: a clock before it was set back meanwhile.
    #[must_use]
    pub fn start(floor: Option<SystemTime>) -> Self {
        let started = since_boot().map_or_else(|| Started::Monotonic(instant()), Started::Boot);
        Self { wall: wall(), started, floor: floor.unwrap_or(UNIX_EPOCH) }
    }

    fn passed(&self) -> Duration {
        match self.started {
            Started::Boot(then) => since_boot().map_or(Duration::ZERO, |now| now.saturating_sub(then)),
            Started::Monotonic(then) => instant().saturating_duration_since(then),
        }
    }

    /// The time to issue by.
    ///
    /// # Errors
    /// [`ClockJump`].
    pub fn now(&self) -> Result<SystemTime, ClockJump> {
        judge(wall(), self.wall + self.passed(), self.floor)
    }
}

/// `steady`, where `wall` is near it and not far before `floor`.
fn judge(wall: SystemTime, steady: SystemTime, floor: SystemTime) -> Result<SystemTime, ClockJump> {
    let between = |a: SystemTime, b: SystemTime| a.duration_since(b).unwrap_or_default();
    let ahead = between(wall, steady);
    let behind = between(steady, wall).max(between(floor, wall));
    if ahead > JUMP_MAX {
        return Err(ClockJump { by: ahead, ahead: true });
    }
    if behind > JUMP_MAX {
        return Err(ClockJump { by: behind, ahead: false });
    }
    Ok(steady)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mutation seen to fail: `judge` without `ahead`; without `floor`; giving back `wall`.
    #[test]
    fn a_clock_that_jumps_issues_nothing() {
        let at = |seconds: u64| UNIX_EPOCH + Duration::from_secs(seconds);
        let judge = |wall, floor| judge(at(wall), at(1000), at(floor));
        assert_eq!(judge(1000, 0), Ok(at(1000)));
        assert_eq!(judge(1060, 0), Ok(at(1000)), "issued by what has passed, not by the wall clock");
        assert_eq!(judge(1061, 0), Err(ClockJump { by: Duration::from_secs(61), ahead: true }));
        assert_eq!(judge(940, 0), Ok(at(1000)));
        assert_eq!(judge(939, 0), Err(ClockJump { by: Duration::from_secs(61), ahead: false }));
        assert_eq!(judge(1000, 1060), Ok(at(1000)));
        assert_eq!(judge(1000, 1061), Err(ClockJump { by: Duration::from_secs(61), ahead: false }));
        let text = judge(500, 0).unwrap_err().to_string();
        assert!(text.contains("500 s behind"), "{text}");
        let clock = SteadyClock::start(None);
        assert!(matches!(clock.started, Started::Boot(_)), "this system tells the time since boot");
        let off = clock.now().unwrap().duration_since(wall()).unwrap_or_else(|e| e.duration());
        assert!(off < JUMP_MAX);
        assert!(SteadyClock::start(Some(wall() + JUMP_MAX * 2)).now().is_err());
    }
}
