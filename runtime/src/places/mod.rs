//! Edge. Places for connections (SY4, AP9): bounded in all and for each holder, say a source address, so that whoever
//! takes many only takes them from itself.

mod book;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

use self::book::{Book, Number};
use crate::rate::site;

/// How many places there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// In all.
    pub all: usize,
    /// For one holder.
    pub each: usize,
}

/// Places, held by connections; clones share them.
#[derive(Debug)]
pub struct Places<K: Ord + Clone>(Arc<Mutex<Taken<K>>>);

#[derive(Debug)]
struct Taken<K> {
    book: Book<K>,
    cuts: BTreeMap<Number, CancellationToken>,
}

impl<K: Ord + Clone> Clone for Places<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

/// A place that is held until this is dropped.
#[derive(Debug)]
pub struct Place<K: Ord + Clone> {
    places: Places<K>,
    holder: K,
    number: Number,
}

impl<K: Ord + Clone> Places<K> {
    /// That many, all free.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        Self(Arc::new(Mutex::new(Taken { book: Book::new(bounds), cuts: BTreeMap::new() })))
    }

    fn with<T>(&self, work: impl FnOnce(&mut Taken<K>) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes a place, in any case. `true`: somebody had to give up one for it, and was told by its `cut`: the oldest of
    /// `holder` when it has as many as one may have, else the oldest of the holder that has most.
    #[must_use]
    pub fn take(&self, holder: K, cut: CancellationToken) -> (Place<K>, bool) {
        let (number, loser) = self.with(|taken| {
            let (number, loser) = taken.book.take(&holder);
            taken.cuts.insert(number, cut);
            (number, loser.and_then(|loser| taken.cuts.remove(&loser)))
        });
        let displaced = loser.is_some();
        if let Some(cut) = loser {
            cut.cancel();
        }
        (Place { places: self.clone(), holder, number }, displaced)
    }

    /// Takes a place if one is free; nobody gives up one for it.
    #[must_use]
    pub fn take_free(&self, holder: K) -> Option<Place<K>> {
        let number = self.with(|taken| taken.book.take_free(&holder))?;
        Some(Place { places: self.clone(), holder, number })
    }

    /// The one that has most gives up its oldest place, say for its descriptor. `false`: no place is taken.
    pub fn make_room(&self) -> bool {
        let cut = self.with(|taken| {
            let (holder, number) = taken.book.most()?;
            taken.book.give_up(&holder, number);
            taken.cuts.remove(&number)
        });
        if let Some(cut) = &cut {
            cut.cancel();
        }
        cut.is_some()
    }

    /// Places that are taken.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.with(|taken| taken.book.taken())
    }
}

impl<K: Ord + Clone> Drop for Place<K> {
    fn drop(&mut self) {
        self.places.with(|taken| {
            taken.book.give_up(&self.holder, self.number);
            taken.cuts.remove(&self.number);
        });
    }
}

/// The holder that a source address stands for. Many honest peers may share one (NAT), and an IPv6 host has a whole
/// network of them.
#[must_use]
pub fn source(address: IpAddr) -> IpAddr {
    site(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mutations seen to fail: the cut of the newcomer kept in the place of the loser's; `give_up` left out of `drop`.
    #[test]
    fn who_loses_its_place_is_told() {
        let places = Places::new(Bounds { all: 2, each: 2 });
        let cuts = [(); 3].map(|()| CancellationToken::new());
        let (first, displaced) = places.take("a", cuts[0].clone());
        let (second, _) = places.take("a", cuts[1].clone());
        assert!(!displaced && places.take_free("b").is_none());
        let (third, displaced) = places.take("b", cuts[2].clone());
        assert!(displaced && cuts[0].is_cancelled() && !cuts[1].is_cancelled() && !cuts[2].is_cancelled());
        drop((first, third));
        assert_eq!(places.taken(), 1, "a place that was lost is not given up twice");
        assert!(places.make_room() && cuts[1].is_cancelled() && !places.make_room());
        drop(second);
        assert_eq!(places.taken(), 0);
        assert!(places.take_free("c").is_some());
    }
}
