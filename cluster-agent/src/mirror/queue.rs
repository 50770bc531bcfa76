//! Pure. Which name is looked at next, and when: at once where the core says something else, later and later where the
//! API server refuses or somebody else changes what we write again and again.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use meshfed_model::names::ServiceName;

/// The first pause after a refusal.
const PAUSE: Duration = Duration::from_millis(500);
/// The longest pause after refusals (CR5).
const PAUSE_MAX: Duration = Duration::from_secs(300);
/// The longest pause after failures of the API server, which may pass at any time.
const FAILURE_MAX: Duration = Duration::from_secs(30);
/// Repairs of one name that are made at once; each one after them waits twice as long as the one before.
const REPAIRS_AT_ONCE: u32 = 3;
/// The longest pause before a repair.
const REPAIR_MAX: Duration = Duration::from_secs(60);
/// After so long without a repair, repairs are made at once again.
const CALM: Duration = Duration::from_secs(120);

#[derive(Debug, Clone, Copy, Default)]
struct Turn {
    due: Option<Instant>,
    /// Whether the core said something else.
    said: bool,
    refusals: u32,
    repairs: u32,
    repaired: Option<Instant>,
}

/// Names that have to be looked at.
#[derive(Debug, Default)]
pub(super) struct Queue {
    turns: BTreeMap<ServiceName, Turn>,
    due: BTreeMap<(Instant, ServiceName), ()>,
}

impl Queue {
    /// The core says something else of a name.
    pub(super) fn said(&mut self, name: ServiceName, now: Instant) {
        let turn = self.turns.entry(name.clone()).or_default();
        (turn.refusals, turn.said) = (0, true);
        self.at(name, now);
    }

    /// An object of a name is another.
    pub(super) fn changed(&mut self, name: ServiceName, now: Instant) {
        let turn = self.turns.entry(name.clone()).or_default();
        if turn.repaired.is_none_or(|at| now.saturating_duration_since(at) >= CALM) {
            turn.repairs = 0;
        }
        let over = turn.repairs.saturating_sub(REPAIRS_AT_ONCE);
        let pause = if over == 0 { Duration::ZERO } else { doubled(Duration::from_secs(1), over, REPAIR_MAX) };
        // A refusal that is waited for is not cut short by the echo of a write.
        let turn = *turn;
        if turn.refusals == 0 || turn.due.is_none() {
            self.at(name, now + pause);
        }
    }

    /// An object of a name had to be written although the core said nothing new.
    pub(super) fn repaired(&mut self, name: &ServiceName, now: Instant) {
        let turn = self.turns.entry(name.clone()).or_default();
        (turn.repairs, turn.repaired) = (turn.repairs.saturating_add(1), Some(now));
    }

    /// A write was refused; `random` is from 0 to 1 and spreads the attempts of many.
    pub(super) fn refused(&mut self, name: ServiceName, now: Instant, random: f64) {
        self.later(name, now, random, PAUSE_MAX);
    }

    /// The API server failed on a write.
    pub(super) fn failed(&mut self, name: ServiceName, now: Instant, random: f64) {
        self.later(name, now, random, FAILURE_MAX);
    }

    fn later(&mut self, name: ServiceName, now: Instant, random: f64, most: Duration) {
        let turn = self.turns.entry(name.clone()).or_default();
        let pause = doubled(PAUSE, turn.refusals, most).mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0);
        turn.refusals = turn.refusals.saturating_add(1);
        self.at(name, now + pause);
    }

    /// All is written.
    pub(super) fn settled(&mut self, name: &ServiceName) {
        let Some(turn) = self.turns.get_mut(name) else { return };
        turn.refusals = 0;
        if turn.due.is_none() && turn.repairs == 0 {
            self.turns.remove(name);
        }
    }

    /// Nothing of a name is there any more.
    pub(super) fn forget(&mut self, name: &ServiceName) {
        if let Some(due) = self.turns.remove(name).and_then(|turn| turn.due) {
            self.due.remove(&(due, name.clone()));
        }
    }

    /// The next name that is due, taken out, and whether the core said something else of it.
    pub(super) fn take(&mut self, now: Instant) -> Option<(ServiceName, bool)> {
        let ((due, _), ()) = self.due.first_key_value()?;
        if *due > now {
            return None;
        }
        let ((_, name), ()) = self.due.pop_first()?;
        let said = self.turns.get_mut(&name).is_some_and(|turn| {
            turn.due = None;
            std::mem::take(&mut turn.said)
        });
        Some((name, said))
    }

    /// When the next one is due.
    #[must_use]
    pub(super) fn next(&self) -> Option<Instant> {
        self.due.first_key_value().map(|((at, _), ())| *at)
    }

    fn at(&mut self, name: ServiceName, when: Instant) {
        let turn = self.turns.entry(name.clone()).or_default();
        if let Some(before) = turn.due.replace(when) {
            // What is to be done sooner stays so; a refusal moves the whole turn.
            if before < when && turn.refusals == 0 {
                turn.due = Some(before);
                return;
            }
            self.due.remove(&(before, name.clone()));
        }
        self.due.insert((when, name), ());
    }
}

fn doubled(first: Duration, times: u32, most: Duration) -> Duration {
    first.saturating_mul(1_u32 << times.min(16)).min(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(n: u32) -> ServiceName {
        ServiceName::new("shop", format!("s{n}")).unwrap()
    }

    fn taken(queue: &mut Queue, now: Instant) -> Option<ServiceName> {
        queue.take(now).map(|(name, _)| name)
    }

    /// Mutations seen to fail: `refusals = 0` left out of `said`; `doubled` without `min(most)`.
    #[test]
    fn a_refusal_is_tried_again_later_and_later_and_a_new_word_at_once() {
        let start = meshfed_runtime::clock::instant();
        let mut queue = Queue::default();
        queue.said(name(1), start);
        let mut pauses = Vec::new();
        let mut now = start;
        for _ in 0..14 {
            assert_eq!(taken(&mut queue, now), Some(name(1)));
            assert_eq!(queue.take(now), None);
            queue.refused(name(1), now, 1.0);
            queue.changed(name(1), now);
            let next = queue.next().unwrap();
            pauses.push(next.duration_since(now).as_millis());
            now = next;
        }
        assert_eq!(pauses[..3], [500, 1000, 2000]);
        assert_eq!(pauses.last(), Some(&300_000));
        queue.said(name(1), now);
        assert_eq!(taken(&mut queue, now), Some(name(1)));
        queue.refused(name(1), now, 0.0);
        assert_eq!(queue.next(), Some(now + Duration::from_millis(250)), "from the first pause on again");
    }

    /// What fails by the API server is tried again within half a minute, and what is gone is not remembered.
    ///
    /// Mutations not tried yet: `FAILURE_MAX` replaced by `PAUSE_MAX` in `failed`; the turn not removed by `forget`.
    #[test]
    fn a_failure_waits_not_as_long_as_a_refusal() {
        let start = meshfed_runtime::clock::instant();
        let mut queue = Queue::default();
        queue.said(name(1), start);
        let mut now = start;
        for _ in 0..10 {
            assert_eq!(taken(&mut queue, now), Some(name(1)));
            queue.failed(name(1), now, 1.0);
            let next = queue.next().unwrap();
            assert!(next.duration_since(now) <= FAILURE_MAX, "{:?}", next.duration_since(now));
            now = next;
        }
        queue.forget(&name(1));
        assert_eq!((queue.turns.len(), queue.due.len()), (0, 0));
    }

    /// Somebody else writes an object whenever we do: it does not become a loop.
    ///
    /// Mutations seen to fail: `over == 0` answered `true`; the reset after `CALM` left out.
    #[test]
    fn a_fight_over_an_object_slows_down() {
        let start = meshfed_runtime::clock::instant();
        let mut queue = Queue::default();
        let mut now = start;
        for _ in 0..100 {
            queue.changed(name(1), now);
            now = queue.next().unwrap();
            assert_eq!(taken(&mut queue, now), Some(name(1)));
            queue.repaired(&name(1), now);
            queue.settled(&name(1));
        }
        assert!(now.duration_since(start) > Duration::from_secs(5400), "{:?}", now.duration_since(start));
        queue.said(name(1), now);
        assert_eq!(taken(&mut queue, now), Some(name(1)), "what the core says is written at once all the same");
        now += CALM;
        queue.changed(name(1), now);
        assert_eq!(taken(&mut queue, now), Some(name(1)));
    }

    /// Mutation seen to fail: `before < when` answered `false`.
    #[test]
    fn the_earliest_moment_counts() {
        let start = meshfed_runtime::clock::instant();
        let mut queue = Queue::default();
        queue.said(name(1), start);
        for _ in 0..5 {
            queue.repaired(&name(1), start);
        }
        queue.changed(name(1), start);
        queue.said(name(2), start + Duration::from_secs(1));
        assert_eq!(taken(&mut queue, start), Some(name(1)));
        assert_eq!(queue.take(start), None);
        assert_eq!(queue.next(), Some(start + Duration::from_secs(1)));
    }
}
