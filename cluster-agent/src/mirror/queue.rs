//! Pure. Which name is looked at next, and when: at once where the core says something else, later and later where the
//! API server refuses or somebody else changes what we write again and again. A name that is being written is not given
//! out again before that has ended, and names whose writes hang wait in a lane of their own.

use std::collections::{BTreeMap, BTreeSet};
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
    /// Whether it is being written now.
    taken: bool,
    /// Whether a write of it had no answer the last time.
    suspect: bool,
}

type Lane = BTreeSet<(Instant, ServiceName)>;

/// A name that is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Taken {
    /// The name.
    pub name: ServiceName,
    /// Whether the core said something else of it.
    pub said: bool,
    /// Whether a write of it had no answer the last time.
    pub suspect: bool,
}

/// Names that have to be looked at.
#[derive(Debug, Default)]
pub(super) struct Queue {
    turns: BTreeMap<ServiceName, Turn>,
    due: Lane,
    suspects: Lane,
}

impl Queue {
    const fn lane(&mut self, suspect: bool) -> &mut Lane {
        if suspect { &mut self.suspects } else { &mut self.due }
    }

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

    /// What a name was taken for has ended; what was heard of it since is due. `suspect`: a write of it had no answer.
    pub(super) fn release(&mut self, name: &ServiceName, suspect: bool) {
        let Some(turn) = self.turns.get_mut(name) else { return };
        (turn.taken, turn.suspect) = (false, suspect);
        if let Some(due) = turn.due {
            self.lane(suspect).insert((due, name.clone()));
        }
    }

    /// Others are answered again: a name that waits for its next attempt need not.
    pub(super) fn hurry(&mut self, name: &ServiceName, now: Instant) {
        if self.turns.get(name).is_some_and(|turn| !turn.taken && turn.due.is_some_and(|due| due > now)) {
            self.at(name.clone(), now);
        }
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
        let Some(turn) = self.turns.remove(name) else { return };
        if let Some(due) = turn.due {
            self.lane(turn.suspect).remove(&(due, name.clone()));
        }
    }

    /// The next name that is due, taken out until its [`release`](Self::release); of those whose last write had no answer
    /// only where `suspects`.
    pub(super) fn take(&mut self, now: Instant, suspects: bool) -> Option<Taken> {
        let first = self.first(suspects).filter(|(due, _)| *due <= now).cloned()?;
        let turn = self.turns.get_mut(&first.1)?;
        let taken = Taken { name: first.1.clone(), said: std::mem::take(&mut turn.said), suspect: turn.suspect };
        (turn.due, turn.taken) = (None, true);
        self.lane(taken.suspect).remove(&first);
        Some(taken)
    }

    /// When the next one is due; of those whose last write had no answer only where `suspects`.
    #[must_use]
    pub(super) fn next(&self, suspects: bool) -> Option<Instant> {
        self.first(suspects).map(|(at, _)| *at)
    }

    fn first(&self, suspects: bool) -> Option<&(Instant, ServiceName)> {
        let suspect = self.suspects.first().filter(|_| suspects);
        self.due.first().into_iter().chain(suspect).min()
    }

    fn at(&mut self, name: ServiceName, when: Instant) {
        let turn = self.turns.entry(name.clone()).or_default();
        // What is to be done sooner stays so; a refusal moves the whole turn.
        if turn.due.is_some_and(|before| before < when && turn.refusals == 0) {
            return;
        }
        let before = turn.due.replace(when);
        if turn.taken {
            return;
        }
        let suspect = turn.suspect;
        let lane = self.lane(suspect);
        if let Some(before) = before {
            lane.remove(&(before, name.clone()));
        }
        lane.insert((when, name));
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

    /// The next name, whose write has ended at once.
    fn taken(queue: &mut Queue, now: Instant) -> Option<ServiceName> {
        let taken = queue.take(now, true)?;
        queue.release(&taken.name, false);
        Some(taken.name)
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
            assert_eq!(queue.take(now, true), None);
            queue.refused(name(1), now, 1.0);
            queue.changed(name(1), now);
            let next = queue.next(true).unwrap();
            pauses.push(next.duration_since(now).as_millis());
            now = next;
        }
        assert_eq!(pauses[..3], [500, 1000, 2000]);
        assert_eq!(pauses.last(), Some(&300_000));
        queue.said(name(1), now);
        assert_eq!(taken(&mut queue, now), Some(name(1)));
        queue.refused(name(1), now, 0.0);
        assert_eq!(queue.next(true), Some(now + Duration::from_millis(250)), "from the first pause on again");
    }

    /// What fails by the API server is tried again within half a minute, and what is gone is not remembered.
    ///
    /// Mutations seen to fail: `FAILURE_MAX` replaced by `PAUSE_MAX` in `failed`; the turn not removed by `forget`.
    #[test]
    fn a_failure_waits_not_as_long_as_a_refusal() {
        let start = meshfed_runtime::clock::instant();
        let mut queue = Queue::default();
        queue.said(name(1), start);
        let mut now = start;
        for _ in 0..10 {
            assert_eq!(taken(&mut queue, now), Some(name(1)));
            queue.failed(name(1), now, 1.0);
            let next = queue.next(true).unwrap();
            assert!(next.duration_since(now) <= FAILURE_MAX, "{:?}", next.duration_since(now));
            now = next;
        }
        queue.forget(&name(1));
        assert_eq!((queue.turns.len(), queue.due.len(), queue.suspects.len()), (0, 0, 0));
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
            now = queue.next(true).unwrap();
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
        assert_eq!(queue.take(start, true), None);
        assert_eq!(queue.next(true), Some(start + Duration::from_secs(1)));
    }

    /// A name is in one hand at a time, and what is heard meanwhile is not lost.
    ///
    /// Mutations seen to fail: `turn.taken` of `at` answered `false`; the insertion left out of `release`.
    #[test]
    fn a_name_that_is_being_written_is_given_to_nobody_else() {
        let start = meshfed_runtime::clock::instant();
        let mut queue = Queue::default();
        queue.said(name(1), start);
        let first = queue.take(start, true).unwrap();
        assert_eq!((first.said, first.suspect), (true, false));
        queue.said(name(1), start);
        queue.changed(name(1), start);
        assert_eq!((queue.take(start, true), queue.next(true)), (None, None));
        queue.release(&name(1), false);
        queue.settled(&name(1));
        assert!(queue.take(start, true).unwrap().said);
        queue.release(&name(1), false);
        queue.settled(&name(1));
        assert_eq!(queue.turns.len(), 0);
    }

    /// Names whose writes had no answer take only the places that are theirs, and are hurried when others are answered.
    ///
    /// Mutations seen to fail: `filter(|_| suspects)` left out; `suspect` of `release` not noted; `hurry` that does nothing.
    #[test]
    fn what_hangs_waits_in_a_lane_of_its_own() {
        let start = meshfed_runtime::clock::instant();
        let mut queue = Queue::default();
        queue.said(name(1), start);
        queue.said(name(2), start + Duration::from_secs(1));
        assert_eq!(queue.take(start, false).unwrap().name, name(1));
        queue.release(&name(1), true);
        queue.failed(name(1), start, 1.0);
        let (failed, later) = (start + PAUSE, start + Duration::from_secs(1));
        assert_eq!((queue.next(true), queue.next(false)), (Some(failed), Some(later)));
        assert_eq!(queue.take(failed, false), None);
        queue.hurry(&name(1), start);
        let again = queue.take(start, true).unwrap();
        assert_eq!((again.name, again.suspect), (name(1), true));
        queue.hurry(&name(1), start);
        queue.release(&name(1), false);
        assert_eq!((queue.suspects.len(), queue.due.len()), (0, 1));
    }
}
