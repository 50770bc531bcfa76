//! Pure. Which name is looked at next, and when: at once where the core says something else, later and later where the
//! API server refuses or somebody else changes what we write again and again. A name that is being written is not given
//! out again before that has ended, and names whose writes hang wait in a lane of their own.
//!
//! Other clusters decide how many names there are (INV-10): each of them, and the cluster itself, has its turn in a round, and
//! a share of what is written at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use meshfed_model::names::{ClusterName, ServiceName};

/// The first pause after a refusal.
const PAUSE: Duration = Duration::from_millis(500);
/// The longest pause after refusals (CR5).
const PAUSE_MAX: Duration = Duration::from_secs(300);
/// The longest pause after failures of the API server, which may pass at any time.
const FAILURE_MAX: Duration = Duration::from_secs(30);
/// The longest pause while somebody else's object has a name that is needed: no watch tells when that goes, and one question
/// asks for it.
const OBSTRUCTED_MAX: Duration = Duration::from_secs(5);
/// What each name in that state adds where they are many: all together ask twenty times a second at most.
const OBSTRUCTED_EACH: Duration = Duration::from_millis(50);
/// Repairs of one name that are made at once; each one after them waits twice as long as the one before.
const REPAIRS_AT_ONCE: u32 = 3;
/// The longest pause before a repair.
const REPAIR_MAX: Duration = Duration::from_secs(60);
/// After so long without a repair, repairs are made at once again.
const CALM: Duration = Duration::from_secs(120);

/// Names of one party that are written at the same time.
const PARTY_MAX: usize = 16;

/// Whose a name is: of another cluster that exports it, or, `None`, of this cluster itself.
pub(super) type Party = Option<ClusterName>;

/// Names of one party.
#[derive(Debug, Default)]
struct Waiting {
    due: Lane,
    /// Names that are being written.
    busy: usize,
    /// When it had its last turn, in turns of all.
    served: u64,
}

#[derive(Debug, Clone, Default)]
struct Turn {
    party: Party,
    due: Option<Instant>,
    /// Whether the core said something else.
    said: bool,
    refusals: u32,
    repairs: u32,
    repaired: Option<Instant>,
    /// Whether it is being written now.
    taken: bool,
    /// Whose place it has meanwhile; none where it is a suspect's.
    place: Option<Party>,
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
    due: BTreeMap<Party, Waiting>,
    suspects: Lane,
    /// Turns that were given.
    given: u64,
    /// When a suspect had its last one.
    suspects_served: u64,
}

impl Queue {
    fn lane(&mut self, suspect: bool, party: &Party) -> &mut Lane {
        if suspect { &mut self.suspects } else { &mut self.due.entry(party.clone()).or_default().due }
    }

    /// Forgets a party of which nothing waits and nothing is written.
    fn tidy(&mut self, party: &Party) {
        if self.due.get(party).is_some_and(|waiting| waiting.due.is_empty() && waiting.busy == 0) {
            self.due.remove(party);
        }
    }

    fn remove(&mut self, suspect: bool, party: &Party, entry: &(Instant, ServiceName)) {
        self.lane(suspect, party).remove(entry);
        self.tidy(party);
    }

    /// Says whose a name is.
    pub(super) fn belongs(&mut self, name: &ServiceName, party: Party) {
        let turn = self.turns.entry(name.clone()).or_default();
        let before = std::mem::replace(&mut turn.party, party.clone());
        let waits = turn.due.filter(|_| !turn.taken && !turn.suspect && before != party);
        if let Some(due) = waits {
            self.remove(false, &before, &(due, name.clone()));
            self.lane(false, &party).insert((due, name.clone()));
        }
    }

    /// The core says something else of a name.
    pub(super) fn said(&mut self, name: ServiceName, now: Instant) {
        let turn = self.turns.entry(name.clone()).or_default();
        (turn.refusals, turn.said) = (0, true);
        self.at(name, now);
    }

    /// An object of a name is gone: what was refused because of it may be taken now.
    pub(super) fn gone(&mut self, name: ServiceName, now: Instant) {
        self.turns.entry(name.clone()).or_default().refusals = 0;
        self.changed(name, now);
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

    /// Somebody else's object has a name that is needed, as of so many others.
    pub(super) fn obstructed(&mut self, name: ServiceName, now: Instant, random: f64, others: usize) {
        let each = OBSTRUCTED_EACH.saturating_mul(u32::try_from(others).unwrap_or(u32::MAX));
        self.later(name, now, random, OBSTRUCTED_MAX.max(each).min(PAUSE_MAX));
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
        let (due, party, place) = (turn.due, turn.party.clone(), turn.place.take());
        if let Some(place) = place {
            if let Some(waiting) = self.due.get_mut(&place) {
                waiting.busy = waiting.busy.saturating_sub(1);
            }
            self.tidy(&place);
        }
        if let Some(due) = due {
            self.lane(suspect, &party).insert((due, name.clone()));
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
            self.remove(turn.suspect, &turn.party, &(due, name.clone()));
        }
    }

    /// The next name that is due, taken out until its [`release`](Self::release); of those whose last write had no answer
    /// only where `suspects`.
    pub(super) fn take(&mut self, now: Instant, suspects: bool) -> Option<Taken> {
        let first = self.first(now, suspects)?;
        let turn = self.turns.get_mut(&first.1)?;
        let taken = Taken { name: first.1.clone(), said: std::mem::take(&mut turn.said), suspect: turn.suspect };
        let party = turn.party.clone();
        (turn.due, turn.taken) = (None, true);
        turn.place = (!taken.suspect).then(|| party.clone());
        self.given += 1;
        self.lane(taken.suspect, &party).remove(&first);
        if taken.suspect {
            self.suspects_served = self.given;
        } else if let Some(waiting) = self.due.get_mut(&party) {
            (waiting.busy, waiting.served) = (waiting.busy + 1, self.given);
        }
        Some(taken)
    }

    /// When the next one is due; of those whose last write had no answer only where `suspects`.
    #[must_use]
    pub(super) fn next(&self, suspects: bool) -> Option<Instant> {
        self.firsts(suspects).map(|(_, (at, _))| *at).min()
    }

    /// The first of each party that has a place, with when that had its last turn.
    fn firsts(&self, suspects: bool) -> impl Iterator<Item = (u64, &(Instant, ServiceName))> {
        let suspect = self.suspects.first().filter(|_| suspects).map(|first| (self.suspects_served, first));
        let free = self.due.values().filter(|waiting| waiting.busy < PARTY_MAX);
        free.filter_map(|waiting| Some((waiting.served, waiting.due.first()?))).chain(suspect)
    }

    /// Of what is due that of whoever waited longest for a turn.
    fn first(&self, now: Instant, suspects: bool) -> Option<(Instant, ServiceName)> {
        self.firsts(suspects).filter(|(_, (due, _))| *due <= now).min().map(|(_, first)| first.clone())
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
        let (suspect, party) = (turn.suspect, turn.party.clone());
        let lane = self.lane(suspect, &party);
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

    /// However many names another cluster brings or takes back, the others have their turns, and places to be written in.
    ///
    /// Mutations seen to fail: `first` by when it is due alone; `busy < PARTY_MAX` left out; `belongs` that moves nothing.
    #[test]
    fn a_flood_of_one_cluster_keeps_nobody_waiting() {
        let start = meshfed_runtime::clock::instant();
        let mut queue = Queue::default();
        let east = Some(ClusterName::new("east").unwrap());
        for n in 0..1000 {
            queue.belongs(&name(n), east.clone());
            queue.said(name(n), start);
        }
        let mut written = Vec::new();
        while let Some(taken) = queue.take(start, true) {
            written.push(taken.name);
        }
        assert_eq!(written.len(), PARTY_MAX);
        assert_eq!(queue.next(true), None, "nobody else waits, and it has all of its places");
        let later = start + Duration::from_secs(1);
        queue.said(name(2001), later);
        queue.said(name(2000), later);
        queue.belongs(&name(2000), Some(ClusterName::new("west").unwrap()));
        written.iter().for_each(|name| queue.release(name, false));
        let next: Vec<_> = (0..3).map(|_| queue.take(later, true).unwrap().name).collect();
        assert!(next.contains(&name(2000)) && next.contains(&name(2001)), "each has its turn: {next:?}");
        next.iter().for_each(|name| queue.release(name, false));
        written.iter().chain(&next).for_each(|name| queue.settled(name));
        while let Some(taken) = queue.take(later, true) {
            queue.release(&taken.name, false);
            queue.settled(&taken.name);
        }
        assert_eq!((queue.turns.len(), queue.due.len()), (0, 0), "nothing is remembered of who waits for nothing");
    }

    /// Nobody tells when an object in the way is gone, so it is asked for soon, and by many together not often; when one of
    /// ours goes, what was refused is tried at once.
    ///
    /// Mutations seen to fail: `OBSTRUCTED_MAX` as `PAUSE_MAX`; `each` left out; `refusals = 0` left out of `gone`.
    #[test]
    fn what_is_in_the_way_is_asked_for_soon() {
        let start = meshfed_runtime::clock::instant();
        let mut queue = Queue::default();
        let longest = |queue: &mut Queue, others: usize| {
            queue.said(name(1), start);
            let mut now = start;
            for _ in 0..12 {
                let _taken = taken(queue, now).unwrap();
                queue.obstructed(name(1), now, 1.0, others);
                let next = queue.next(true).unwrap();
                if next.duration_since(now) > OBSTRUCTED_MAX {
                    return next.duration_since(now);
                }
                now = next;
            }
            OBSTRUCTED_MAX
        };
        assert_eq!(longest(&mut queue, 1), OBSTRUCTED_MAX);
        assert!(longest(&mut queue, 1000) > OBSTRUCTED_MAX);
        for _ in 0..9 {
            queue.refused(name(1), start, 1.0);
        }
        queue.changed(name(1), start);
        assert!(queue.next(true).unwrap() > start + OBSTRUCTED_MAX);
        queue.gone(name(1), start);
        assert_eq!(queue.next(true), Some(start));
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
        assert_eq!((queue.suspects.len(), queue.due.values().map(|w| w.due.len()).sum::<usize>()), (0, 1));
    }
}
