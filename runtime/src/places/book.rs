//! Pure. Who holds how many of a bounded number of places, and who gives one up when all are taken.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::Bounds;

/// A place, by the order in which they were taken.
pub(super) type Number = u64;

/// The places that are taken, by holder.
#[derive(Debug)]
pub(super) struct Book<K> {
    bounds: Bounds,
    next: Number,
    taken: usize,
    holders: BTreeMap<K, BTreeSet<Number>>,
    /// The last one holds most; among those that hold equally many, its oldest place is the oldest.
    ranking: BTreeSet<(usize, Reverse<Number>, K)>,
}

impl<K: Ord + Clone> Book<K> {
    pub(super) const fn new(bounds: Bounds) -> Self {
        Self { bounds, next: 0, taken: 0, holders: BTreeMap::new(), ranking: BTreeSet::new() }
    }

    /// Takes a place for `holder`. Where there is none, somebody gives up the oldest of its own: `holder` itself when it
    /// has as many as one may have, else the one that has most. So a newcomer always gets in, and the places of those
    /// that have few outlast a flood.
    pub(super) fn take(&mut self, holder: &K) -> (Number, Option<Number>) {
        let loser = if self.held_by(holder) >= self.bounds.each {
            self.oldest_of(holder)
        } else if self.taken >= self.bounds.all {
            self.most()
        } else {
            None
        };
        if let Some((loser, number)) = &loser {
            self.give_up(loser, *number);
        }
        let number = self.next;
        self.next += 1;
        self.change(holder, |numbers| numbers.insert(number));
        self.taken += 1;
        (number, loser.map(|(_, number)| number))
    }

    /// Takes a place for `holder` if one is free.
    pub(super) fn take_free(&mut self, holder: &K) -> Option<Number> {
        let is_free = self.held_by(holder) < self.bounds.each && self.taken < self.bounds.all;
        is_free.then(|| self.take(holder).0)
    }

    /// Gives up a place. `false`: it was not held any more.
    pub(super) fn give_up(&mut self, holder: &K, number: Number) -> bool {
        let was_held = self.change(holder, |numbers| numbers.remove(&number));
        self.taken -= usize::from(was_held);
        was_held
    }

    /// The oldest place of whoever holds most.
    pub(super) fn most(&self) -> Option<(K, Number)> {
        self.ranking.last().map(|(_, Reverse(number), holder)| (holder.clone(), *number))
    }

    /// Places that are taken.
    pub(super) const fn taken(&self) -> usize {
        self.taken
    }

    fn held_by(&self, holder: &K) -> usize {
        self.holders.get(holder).map_or(0, BTreeSet::len)
    }

    fn oldest_of(&self, holder: &K) -> Option<(K, Number)> {
        let number = self.holders.get(holder)?.first()?;
        Some((holder.clone(), *number))
    }

    /// Changes the places of one holder, and its rank with them.
    fn change(&mut self, holder: &K, change: impl FnOnce(&mut BTreeSet<Number>) -> bool) -> bool {
        let mut numbers = self.holders.remove(holder).unwrap_or_default();
        if let Some(first) = numbers.first() {
            self.ranking.remove(&(numbers.len(), Reverse(*first), holder.clone()));
        }
        let changed = change(&mut numbers);
        if let Some(first) = numbers.first() {
            self.ranking.insert((numbers.len(), Reverse(*first), holder.clone()));
            self.holders.insert(holder.clone(), numbers);
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn book(all: usize, each: usize) -> Book<u8> {
        Book::new(Bounds { all, each })
    }

    /// Mutations seen to fail: `Reverse(*first)` ranked by the youngest place; `oldest_of` giving the last.
    #[test]
    fn who_holds_most_gives_up_its_oldest() {
        let mut book = book(4, 3);
        let [a, b, c] = [1, 1, 2].map(|holder| book.take(&holder).0);
        let (_, none) = book.take(&1);
        assert_eq!(none, None);
        assert_eq!(book.take(&1).1, Some(a), "as many as one may have: its own oldest");
        assert_eq!(book.take(&3).1, Some(b), "all are taken: the oldest of the one with most");
        assert_eq!((book.taken(), book.held_by(&1), book.held_by(&2), book.held_by(&3)), (4, 2, 1, 1));
        assert!(!book.give_up(&1, a) && book.give_up(&2, c));
        assert_eq!(book.take_free(&3).map(|_| book.take_free(&3)), Some(None));
        let mut equal = self::book(3, 3);
        let first = [1, 2, 3].map(|holder| equal.take(&holder).0)[0];
        assert_eq!(equal.take(&4).1, Some(first), "equally many: the oldest of all");
    }

    proptest! {
        /// Never more than the bounds, in any order; and the ranking is that of the holders.
        /// Mutation seen to fail: `taken` not lowered in `give_up`.
        #[test]
        fn the_bounds_hold(steps in proptest::collection::vec((0u8..5, any::<bool>()), 0..200)) {
            let mut book = book(7, 3);
            let mut held: Vec<(u8, Number)> = Vec::new();
            for (holder, takes) in steps {
                if takes {
                    let (number, loser) = book.take(&holder);
                    held.retain(|(_, n)| Some(*n) != loser);
                    held.push((holder, number));
                } else if let Some(at) = held.iter().position(|(h, _)| *h == holder) {
                    let (holder, number) = held.remove(at);
                    prop_assert!(book.give_up(&holder, number));
                }
                prop_assert_eq!(book.taken(), held.len());
                prop_assert!(book.taken() <= 7 && (0..5).all(|h| book.held_by(&h) <= 3));
                let most = (0..5).map(|h| book.held_by(&h)).max().unwrap();
                prop_assert_eq!(book.most().map_or(0, |(holder, _)| book.held_by(&holder)), most);
            }
        }
    }
}
