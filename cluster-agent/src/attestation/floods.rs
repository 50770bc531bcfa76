//! Pure. How often somebody may ask, so that no pod and nobody else can make the agent flood the API server.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use meshfed_runtime::rate::{Bucket, Limiter, Rate};

use super::review::{Bearer, Refused};

/// What one address may ask: proxies of one host may come from one (SNAT), and start together.
const EACH: Rate = Rate { per_second: 5.0, burst: 50.0 };
/// What all may ask together: twice of what 1,000 pods that start within 20 s need.
const ALL: Rate = Rate { per_second: 100.0, burst: 400.0 };
/// What one pod may be issued: it asks at its start and once per half of an SVID's life.
const POD: Rate = Rate { per_second: 0.2, burst: 10.0 };
/// How long a review counts. The pod is looked up each time all the same.
pub(super) const RECENT: Duration = Duration::from_secs(5);
/// Reviews remembered; over it, all are forgotten.
const REVIEWS_MAX: usize = 4096;
/// Pods remembered; over it, all are forgotten: a fresh burst for everybody, rather than memory that grows.
const PODS_MAX: usize = 10_000;

/// What a review said.
pub(super) type Reviewed = Result<Bearer, Refused>;

/// The limits, and the reviews of the last seconds.
#[derive(Debug)]
pub(super) struct Floods {
    strangers: Limiter,
    known: Limiter,
    pods: BTreeMap<Arc<str>, Bucket>,
    reviews: BTreeMap<[u8; 32], (Instant, Reviewed)>,
}

impl Default for Floods {
    fn default() -> Self {
        let limiter = || Limiter::new(EACH, ALL);
        Self { strangers: limiter(), known: limiter(), pods: BTreeMap::new(), reviews: BTreeMap::new() }
    }
}

impl Floods {
    /// Whether this address may ask now. Who shows a certificate is `known`: a flood of strangers keeps no pod from its
    /// renewal.
    pub(super) fn may_ask(&mut self, known: bool, address: IpAddr, now: Instant) -> bool {
        let limiter = if known { &mut self.known } else { &mut self.strangers };
        limiter.allows(address, now)
    }
    /// Whether the pod of this uid may be issued one more certificate now.
    pub(super) fn may_be_issued(&mut self, uid: &Arc<str>, now: Instant) -> bool {
        if self.pods.len() >= PODS_MAX && !self.pods.contains_key(uid) {
            self.pods.clear();
        }
        self.pods.entry(Arc::clone(uid)).or_default().take(POD, now)
    }
    /// What the API server said of the token with this SHA-256 a moment ago.
    #[must_use]
    pub(super) fn recent(&self, token: &[u8; 32], now: Instant) -> Option<Reviewed> {
        let (at, said) = self.reviews.get(token)?;
        (now.saturating_duration_since(*at) < RECENT).then(|| said.clone())
    }
    /// Remembers what it said.
    pub(super) fn remember(&mut self, token: [u8; 32], said: Reviewed, now: Instant) {
        if self.reviews.len() >= REVIEWS_MAX {
            self.reviews.retain(|_, (at, _)| now.saturating_duration_since(*at) < RECENT);
            if self.reviews.len() >= REVIEWS_MAX {
                self.reviews.clear();
            }
        }
        self.reviews.insert(token, (now, said));
    }
    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        self.reviews.len()
    }
}
