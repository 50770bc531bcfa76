//! Pure. How the last good view lies in Secrets: cut into pieces, one a Secret, all of one keeping under one number. What
//! is kept next goes where nothing of the newest whole keeping lies, as long as there is room, so that an agent which ends
//! in the middle has lost nothing.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;

/// The Secrets, `meshfed-view-0` to `-7`.
pub(super) const SLOTS: usize = 8;
/// The most bytes of one piece: a Secret holds 1 MiB, and its other fields need room.
pub(super) const PIECE_MAX: usize = 900 << 10;
/// The key of a piece.
const PIECE: &str = "piece";
/// The key of what it is a piece of: number, place and count, as text.
const OF: &str = "of";

/// One piece.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    /// The number of its keeping: a later one is higher.
    number: u64,
    place: usize,
    count: usize,
    bytes: Vec<u8>,
}

/// A keeping of which every piece is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Whole {
    /// Its number.
    pub(super) number: u64,
    /// The Secrets in which it lies.
    pub(super) slots: Vec<usize>,
    /// What was kept.
    pub(super) bytes: Vec<u8>,
}

impl Piece {
    /// What a Secret's data means; `None`: it holds no piece.
    pub(super) fn read(data: &BTreeMap<String, ByteString>) -> Option<Self> {
        let of = std::str::from_utf8(&data.get(OF)?.0).ok()?;
        let mut numbers = of.split(' ');
        let mut next = || numbers.next()?.parse::<u64>().ok();
        let (number, place, count) = (next()?, usize::try_from(next()?).ok()?, usize::try_from(next()?).ok()?);
        let bytes = data.get(PIECE)?.0.clone();
        (place < count && count <= SLOTS).then_some(Self { number, place, count, bytes })
    }

    /// The data of its Secret.
    pub(super) fn data(&self) -> BTreeMap<String, ByteString> {
        let of = format!("{} {} {}", self.number, self.place, self.count);
        [(OF.to_owned(), ByteString(of.into_bytes())), (PIECE.to_owned(), ByteString(self.bytes.clone()))].into()
    }
}

/// The newest keeping that is whole.
pub(super) fn newest(slots: &[Option<Piece>]) -> Option<Whole> {
    let mut keepings: BTreeMap<u64, Vec<(usize, &Piece)>> = BTreeMap::new();
    for (slot, piece) in slots.iter().enumerate().filter_map(|(slot, piece)| Some((slot, piece.as_ref()?))) {
        keepings.entry(piece.number).or_default().push((slot, piece));
    }
    keepings.into_iter().rev().find_map(|(number, mut pieces)| {
        pieces.sort_by_key(|(_, piece)| piece.place);
        let whole = pieces.iter().enumerate().all(|(at, (_, p))| p.place == at && p.count == pieces.len());
        whole.then(|| Whole {
            number,
            slots: pieces.iter().map(|(slot, _)| *slot).collect(),
            bytes: pieces.iter().flat_map(|(_, piece)| piece.bytes.iter().copied()).collect(),
        })
    })
}

/// Where what is kept next goes, piece by piece; `None`: it is too large.
pub(super) fn cut(bytes: &[u8], slots: &[Option<Piece>]) -> Option<Vec<(usize, Piece)>> {
    let newest = newest(slots);
    let highest = slots.iter().flatten().map(|piece| piece.number).max().unwrap_or_default();
    let pieces: Vec<&[u8]> = bytes.chunks(PIECE_MAX).collect();
    let used = newest.map(|whole| whole.slots).unwrap_or_default();
    let (taken, free): (Vec<usize>, Vec<usize>) = (0..SLOTS).partition(|slot| used.contains(slot));
    if pieces.len() > SLOTS {
        return None;
    }
    let (number, count) = (highest.saturating_add(1), pieces.len());
    let piece = |(place, bytes): (usize, &&[u8])| Piece { number, place, count, bytes: bytes.to_vec() };
    Some(free.into_iter().chain(taken).zip(pieces.iter().enumerate().map(piece)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(slots: &mut [Option<Piece>], pieces: &[(usize, Piece)]) {
        for (slot, piece) in pieces {
            slots[*slot] = Piece::read(&piece.data());
        }
    }

    /// Each keeping leaves the one before whole until all of it is there; one that was broken off counts for nothing.
    ///
    /// Mutations seen to fail: `taken` before `free`; `count` not compared in `newest`.
    #[test]
    fn a_keeping_that_breaks_off_leaves_the_one_before() {
        let mut slots = vec![None; SLOTS];
        assert_eq!(newest(&slots), None);
        let (first, second) = (vec![1; PIECE_MAX * 3], vec![2; PIECE_MAX * 2 + 5]);
        let next = cut(&first, &slots).unwrap();
        put(&mut slots, &next);
        assert_eq!(newest(&slots).unwrap().bytes, first);
        let next = cut(&second, &slots).unwrap();
        for end in 0..next.len() {
            put(&mut slots, &next[..end]);
            assert_eq!(newest(&slots).unwrap().bytes, first, "{end} pieces are there");
        }
        put(&mut slots, &next);
        let whole = newest(&slots).unwrap();
        assert_eq!((whole.bytes, whole.number), (second, 2));
        let third = vec![3; 10];
        let next = cut(&third, &slots).unwrap();
        put(&mut slots, &next);
        assert_eq!(newest(&slots).unwrap().bytes, third);
    }

    /// What does not fit is said, and what is no piece of ours is none.
    ///
    /// Mutation seen to fail: the length not compared with `SLOTS`.
    #[test]
    fn what_is_too_large_is_not_cut() {
        let slots = vec![None; SLOTS];
        assert_eq!(cut(&vec![0; PIECE_MAX * SLOTS], &slots).unwrap().len(), SLOTS);
        assert_eq!(cut(&vec![0; PIECE_MAX * SLOTS + 1], &slots), None);
        let read = |of: &str| {
            let data = [(OF, of), (PIECE, "x")].map(|(k, v)| (k.to_owned(), ByteString(v.as_bytes().to_vec())));
            Piece::read(&data.into())
        };
        assert!(read("1 0 1").is_some());
        assert_eq!([read("1 1 1"), read("1 0 9"), read("x 0 1"), read("1 0"), read("")], [const { None }; 5]);
    }
}
