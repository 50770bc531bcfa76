//! The meter over bytes in any cut.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::{ConnectionLimits, Flood, Meter};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fn frame(kind: u8, flags: u8, length: usize) -> Vec<u8> {
    let size = u32::try_from(length).unwrap().to_be_bytes();
    // The payload looks like PING frames: only a meter that has lost its place would count them.
    let payload = [0, 0, 0, 6, 0, 0, 0, 0, 0].into_iter().cycle().take(length);
    size[1..].iter().copied().chain([kind, flags, 0, 0, 0, 1]).chain(payload).collect()
}

fn origin() -> Instant {
    crate::clock::instant()
}

proptest! {
    /// However the bytes are cut, the same frames are counted.
    /// Mutation seen to fail: `self.rest` not kept over the end of the bytes.
    #[test]
    fn frames_are_counted_in_any_cut(
        frames in proptest::collection::vec((prop_oneof![Just(0u8), Just(1), Just(3), Just(4), Just(6), Just(8), Just(200)], 0usize..200), 0..300),
        cuts in proptest::collection::vec(1usize..400, 1..50),
    ) {
        let limits = ConnectionLimits { control_frames: 40, resets: 30, ..ConnectionLimits::default() };
        let bytes: Vec<u8> = frames.iter().fold(PREFACE.to_vec(), |mut all, (kind, length)| {
            all.extend(frame(*kind, 4, *length));
            all
        });
        let (mut control, mut resets, mut expected) = (0, 0, None);
        for (kind, _) in &frames {
            control += u32::from(matches!(kind, 4 | 6));
            resets += u32::from(*kind == 3);
            expected = expected.or_else(|| (control > 20).then_some(Flood::Control)).or_else(|| (resets > 15).then_some(Flood::Resets));
        }
        let (mut meter, now, mut found, mut rest) = (Meter::new(&limits), origin(), None, bytes.as_slice());
        for cut in cuts.iter().cycle() {
            if rest.is_empty() || found.is_some() {
                break;
            }
            let (part, tail) = rest.split_at((*cut).min(rest.len()));
            found = meter.received(part, now).err();
            rest = tail;
        }
        prop_assert_eq!(found, expected);
        if expected.is_none() {
            prop_assert_eq!(meter.has_spoken(), frames.iter().any(|(kind, _)| *kind == 1));
        }
    }
}

/// Mutation seen to fail: `Protocol::Other` counted as HTTP/2; credit without an end.
#[test]
fn other_protocols_pass_and_credit_ends() {
    let limits = ConnectionLimits::default();
    let mut meter = Meter::new(&limits);
    let pings = frame(6, 0, 8).repeat(1000);
    assert_eq!(meter.received(b"PRI * HTTP/", origin()), Ok(()));
    assert!(!meter.has_spoken(), "it may still become HTTP/2");
    assert_eq!(meter.received(&[b"1.1", &pings[..]].concat(), origin()), Ok(()));
    assert!(meter.has_spoken());
    let mut meter = Meter::new(&limits);
    let now = origin();
    meter.received(PREFACE, now).unwrap();
    meter.sent(&frame(0, 0, 10).repeat(5000));
    assert_eq!(meter.received(&frame(6, 0, 8).repeat(100 + 50), now), Ok(()), "a hundred for data, fifty at once");
    assert_eq!(meter.received(&frame(6, 0, 8), now), Err(Flood::Control));
    assert_eq!(meter.received(&frame(6, 0, 8), now + Duration::from_secs(1)), Ok(()));
}
