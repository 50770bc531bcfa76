//! Pure. Nonces to sign: each good once, for a minute, and only so many at a time.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long a nonce is good.
pub const NONCE_TTL: Duration = Duration::from_secs(60);
/// Nonces at the same time: 50 attempts a second for a minute, rounded up.
pub const NONCES_MAX: usize = 4096;
/// What precedes nonce and request in what is signed, so that the signature means nothing else.
pub const CONTEXT: &[u8] = b"meshfed renew v1\0";

/// The nonces that are out.
#[derive(Debug, Default)]
pub struct Nonces {
    out: BTreeMap<[u8; 32], (String, Instant)>,
}

impl Nonces {
    /// Remembers a nonce for a cluster; false when too many are out.
    pub fn give(&mut self, nonce: [u8; 32], cluster: &str, now: Instant) -> bool {
        if self.out.len() >= NONCES_MAX {
            self.out.retain(|_, (_, given)| now.saturating_duration_since(*given) < NONCE_TTL);
        }
        self.out.len() < NONCES_MAX && self.out.insert(nonce, (cluster.to_owned(), now)).is_none()
    }
    /// Whether the nonce was given to that cluster and is good; it never is again, whatever the answer.
    pub fn take(&mut self, nonce: &[u8], cluster: &str, now: Instant) -> bool {
        let Ok(nonce) = <[u8; 32]>::try_from(nonce) else { return false };
        self.out
            .remove(&nonce)
            .is_some_and(|(owner, given)| owner == cluster && now.saturating_duration_since(given) < NONCE_TTL)
    }
}

/// What the holder of the cluster CA key signs.
#[must_use]
pub fn message(nonce: &[u8], agent_request: &[u8]) -> Vec<u8> {
    [CONTEXT, nonce, agent_request].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mutation seen to fail: `remove` replaced by `get`; the owner not compared; the age not compared.
    #[test]
    fn a_nonce_is_good_once_for_its_owner_and_a_minute() {
        let now = meshfed_runtime::clock::instant();
        let mut nonces = Nonces::default();
        assert!(
            nonces.give([1; 32], "east", now) && nonces.give([2; 32], "east", now) && nonces.give([3; 32], "east", now)
        );
        assert!(nonces.take(&[1; 32], "east", now + Duration::from_secs(59)));
        assert!(!nonces.take(&[1; 32], "east", now));
        assert!(!nonces.take(&[2; 32], "west", now) && !nonces.take(&[2; 32], "east", now));
        assert!(!nonces.take(&[3; 32], "east", now + NONCE_TTL));
        assert!(!nonces.take(&[9; 32], "east", now) && !nonces.take(b"short", "east", now));
    }

    /// Mutation seen to fail: the limit not looked at.
    #[test]
    fn nonces_are_bounded_and_old_ones_make_room() {
        let now = meshfed_runtime::clock::instant();
        let mut nonces = Nonces::default();
        let nonce = |n: u32| {
            let mut out = [0; 32];
            out.first_chunk_mut::<4>().unwrap().copy_from_slice(&n.to_be_bytes());
            out
        };
        let given = (0..5000).filter(|n| nonces.give(nonce(*n), "east", now)).count();
        assert_eq!(given, NONCES_MAX);
        assert!(nonces.give(nonce(9000), "east", now + NONCE_TTL));
    }
}
