//! Pure. A set and a map as sorted slices: for the many that hold one or two, where a tree's first node alone is larger.

use std::collections::{BTreeMap, BTreeSet};

/// A sorted set. Changing it copies it, so it is for sets that are small and seldom change.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SortedSet<T>(Box<[T]>);

impl<T> Default for SortedSet<T> {
    fn default() -> Self {
        Self(Box::default())
    }
}

impl<T: Ord + Clone> SortedSet<T> {
    /// Its members, in order.
    pub fn iter(&self) -> std::slice::Iter<'_, T> {
        self.0.iter()
    }
    /// The first member.
    #[must_use]
    pub fn first(&self) -> Option<&T> {
        self.0.first()
    }
    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.0.len()
    }
    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// Whether it has a member.
    #[must_use]
    pub fn contains(&self, member: &T) -> bool {
        self.0.binary_search(member).is_ok()
    }
    /// Whether no member of the other is one of its own.
    #[must_use]
    pub fn is_disjoint(&self, other: &BTreeSet<T>) -> bool {
        !self.0.iter().any(|member| other.contains(member))
    }
    /// Adds a member; tells whether it is new.
    pub fn insert(&mut self, member: T) -> bool {
        let Err(at) = self.0.binary_search(&member) else { return false };
        let (before, after) = self.0.split_at(at);
        self.0 = before.iter().cloned().chain([member]).chain(after.iter().cloned()).collect();
        true
    }
    /// Takes a member away; tells whether it was there.
    pub fn remove(&mut self, member: &T) -> bool {
        let before = self.0.len();
        self.0 = self.0.iter().filter(|m| *m != member).cloned().collect();
        self.0.len() < before
    }
}

impl<T: Ord> FromIterator<T> for SortedSet<T> {
    fn from_iter<I: IntoIterator<Item = T>>(members: I) -> Self {
        let mut all: Vec<T> = members.into_iter().collect();
        all.sort();
        all.dedup();
        Self(all.into())
    }
}

impl<'a, T> IntoIterator for &'a SortedSet<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

/// A sorted map. Changing it copies it, as with [`SortedSet`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SortedMap<K, V>(Box<[(K, V)]>);

impl<K, V> Default for SortedMap<K, V> {
    fn default() -> Self {
        Self(Box::default())
    }
}

impl<K: Ord, V> SortedMap<K, V> {
    /// What a key has.
    #[must_use]
    pub fn get(&self, key: &K) -> Option<&V> {
        let at = self.0.binary_search_by(|(k, _)| k.cmp(key)).ok()?;
        self.0.get(at).map(|(_, value)| value)
    }
    /// Keys and what they have, in the order of the keys.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.0.iter().map(|(k, v)| (k, v))
    }
}

impl<K: Ord, V> From<BTreeMap<K, V>> for SortedMap<K, V> {
    fn from(map: BTreeMap<K, V>) -> Self {
        Self(map.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mutation seen to fail: `get` answers with the first.
    #[test]
    fn a_map_finds_what_a_key_has() {
        let map: SortedMap<u8, &str> = BTreeMap::from([(3, "c"), (1, "a"), (2, "b")]).into();
        assert_eq!(map.iter().collect::<Vec<_>>(), [(&1, &"a"), (&2, &"b"), (&3, &"c")]);
        assert_eq!([map.get(&2), map.get(&3), map.get(&4)], [Some(&"b"), Some(&"c"), None]);
    }

    /// Mutation seen to fail: `insert` puts the member at the end.
    #[test]
    fn it_is_a_set() {
        let mut set: SortedSet<u8> = [3, 1, 3].into_iter().collect();
        assert!(set.insert(2) && !set.insert(2) && set.insert(0));
        assert_eq!(set.iter().copied().collect::<Vec<_>>(), [0, 1, 2, 3]);
        assert!(set.remove(&1) && !set.remove(&1) && set.contains(&3) && !set.contains(&1));
        assert_eq!((set.first(), set.len(), set.is_empty()), (Some(&0), 3, false));
        assert!(set.is_disjoint(&BTreeSet::from([1, 4])) && !set.is_disjoint(&BTreeSet::from([3])));
    }
}
