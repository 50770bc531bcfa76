//! Pure. How often somebody may try: buckets that refill with time (JT9). No token id is ever locked out.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// Addresses remembered at the same time; over it, those with a full bucket are forgotten, and then all: better a
/// fresh burst for everybody than memory that grows with the number of attackers.
const ADDRESSES_MAX: usize = 10_000;

/// One bucket.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    fn refill(&mut self, rate: Rate, now: Instant) {
        let passed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.tokens = (self.tokens + passed * rate.per_second).min(rate.burst);
        self.filled = now;
    }
    fn take(&mut self, rate: Rate, now: Instant) -> bool {
        self.refill(rate, now);
        let enough = self.tokens >= 1.0;
        if enough {
            self.tokens -= 1.0;
        }
        enough
    }
}

/// How fast a bucket refills, and what it holds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// Attempts per second.
    pub per_second: f64,
    /// Attempts at once.
    pub burst: f64,
}

/// A limit per address and one for all.
#[derive(Debug)]
pub struct Limiter {
    each: Rate,
    all: Rate,
    shared: Option<Bucket>,
    addresses: BTreeMap<IpAddr, Bucket>,
}

impl Limiter {
    /// With these rates.
    #[must_use]
    pub const fn new(each: Rate, all: Rate) -> Self {
        Self { each, all, shared: None, addresses: BTreeMap::new() }
    }
    /// Whether that address may try now. What is refused for one address does not count for all.
    pub fn allows(&mut self, address: IpAddr, now: Instant) -> bool {
        let address = site(address);
        if self.addresses.len() >= ADDRESSES_MAX && !self.addresses.contains_key(&address) {
            self.forget(now);
        }
        let full = Bucket { tokens: self.each.burst, filled: now };
        self.addresses.entry(address).or_insert(full).take(self.each, now)
            && self.shared.get_or_insert(Bucket { tokens: self.all.burst, filled: now }).take(self.all, now)
    }
    /// Takes back an attempt of that address: it held a valid token and did not use it up.
    pub fn give_back(&mut self, address: IpAddr) {
        let burst = self.each.burst;
        if let Some(bucket) = self.addresses.get_mut(&site(address)) {
            bucket.tokens = (bucket.tokens + 1.0).min(burst);
        }
    }
    fn forget(&mut self, now: Instant) {
        let until_full = Duration::from_secs_f64(self.each.burst / self.each.per_second);
        self.addresses.retain(|_, b| now.saturating_duration_since(b.filled) < until_full);
        if self.addresses.len() >= ADDRESSES_MAX {
            self.addresses.clear();
        }
    }
}

/// IPv6 hosts choose the lower half of their address themselves: the network counts.
fn site(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(a) => IpAddr::V4(a),
        IpAddr::V6(a) => match a.to_ipv4_mapped() {
            Some(v4) => IpAddr::V4(v4),
            None => IpAddr::V6(Ipv6Addr::from(u128::from(a) & (u128::MAX << 64))),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EACH: Rate = Rate { per_second: 1.0, burst: 20.0 };
    const ALL: Rate = Rate { per_second: 50.0, burst: 50.0 };

    #[allow(clippy::disallowed_methods, reason = "a test's own origin of time")]
    fn origin() -> Instant {
        Instant::now()
    }

    /// Mutation seen to fail: `min(rate.burst)` left out; `site` returning its argument.
    #[test]
    fn a_burst_then_one_per_second() {
        let mut limiter = Limiter::new(EACH, ALL);
        let now = origin();
        let a: IpAddr = "10.0.0.1".parse().unwrap();
        assert_eq!((0..30).filter(|_| limiter.allows(a, now)).count(), 20);
        assert!(limiter.allows("10.0.0.2".parse().unwrap(), now));
        assert!(!limiter.allows(a, now + Duration::from_millis(900)));
        assert!(limiter.allows(a, now + Duration::from_secs(2)));
        let later = now + Duration::from_secs(1000);
        assert_eq!((0..30).filter(|_| limiter.allows(a, later)).count(), 20);
        let v6 = |n: u32| format!("fd00::{n:x}").parse().unwrap();
        assert_eq!((0..30).filter(|n| limiter.allows(v6(*n), later)).count(), 20);
    }

    /// Mutation seen to fail: the shared bucket left out of `allows`; `ADDRESSES_MAX` not looked at.
    #[test]
    fn many_addresses_share_one_limit_and_bounded_memory() {
        let mut limiter = Limiter::new(EACH, ALL);
        let now = origin();
        let address = |n: u32| IpAddr::from((0x0a00_0000 + n).to_be_bytes());
        assert_eq!((0..200).filter(|n| limiter.allows(address(*n), now)).count(), 50);
        for n in 0..30_000 {
            limiter.allows(address(n), now);
        }
        assert!(limiter.addresses.len() <= ADDRESSES_MAX);
    }
}
