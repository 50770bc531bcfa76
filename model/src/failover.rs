//! Pure. How tiers share a client's requests (`design.md` 5, `contracts.md` 1.11), in exact rationals.
//!
//! A tier with `h = ready / total` takes `min(1, h / minHealthyPercent)` of what reaches it and nothing below
//! `minHealthyEndpoints`; the rest goes on. If all are short, shares are scaled to 1; if no tier reaches its minimum
//! count, the minimum is ignored: it is a preference, never a reason to serve nobody.

use num_rational::Ratio;
use num_traits::{CheckedSub, One, Zero};

use crate::horizon::{self, Candidates, Client};
use crate::locality::Locality;
use crate::names::ClusterName;
use crate::policy::{FailoverSpec, Relative, Selector, Tier};
use crate::share::{Number, Share, add, mul, ratio};

/// What one tier has and takes, for `explain` and `simulate`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TierLoad {
    /// Its place in the policy, from 0.
    pub tier: u32,
    /// Its name, may be empty.
    pub name: String,
    /// Ready endpoints.
    pub ready: u64,
    /// Listed endpoints.
    pub total: u64,
    /// Whether it has its `minHealthyEndpoints` (and one at least).
    pub meets_minimum: bool,
    /// Whether the minimum was ignored because no tier meets its own.
    pub minimum_ignored: bool,
    /// The part that it takes of all requests of the client.
    pub share: Share,
}

/// What the tiers take of the requests of a client, in the order of the policy.
#[must_use]
pub fn tier_loads(client: &Client, spec: &FailoverSpec, candidates: &Candidates) -> Vec<TierLoad> {
    let counts = horizon::tier_counts(client, spec, candidates);
    let ignored = ignore_minimum(spec, &counts);
    let facts = spec.tiers.iter().zip(&counts).zip(exact_loads(spec, &counts)).zip(0u32..);
    facts
        .map(|(((tier, count), share), at)| TierLoad {
            tier: at,
            name: tier.name.clone(),
            ready: count.ready,
            total: count.total,
            meets_minimum: meets_minimum(tier, count),
            minimum_ignored: ignored,
            share,
        })
        .collect()
}

fn exact_loads(spec: &FailoverSpec, counts: &[Count]) -> Vec<Share> {
    fn of<T: Number>(spec: &FailoverSpec, counts: &[Count]) -> Option<Vec<Share>> {
        Some(loads::<T>(spec, counts)?.into_iter().map(T::share).collect())
    }
    of::<u128>(spec, counts).or_else(|| of::<num_bigint::BigInt>(spec, counts)).unwrap_or_default()
}

/// Ready and listed endpoints of a tier.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) ready: u64,
    pub(crate) total: u64,
}

/// Where an endpoint belongs: its tier, and in it the pool that shares by endpoint weight. A tier without item
/// weights has one pool, else each item is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Slot {
    pub(crate) tier: usize,
    pub(crate) pool: usize,
}

/// The first tier, and in it the first item, that selects an endpoint.
pub(crate) fn slot(client: &Client, spec: &FailoverSpec, cluster: &ClusterName, locality: &Locality) -> Option<Slot> {
    let selects = |selector: &Selector| match selector {
        Selector::Cluster(c) => c == cluster,
        Selector::Region(r) => **r == *locality.region,
        Selector::Zone(z) => **z == *locality.zone,
        Selector::Relative(Relative::SameCluster) => *cluster == client.cluster,
        Selector::Relative(Relative::SameZone) => client.locality.same_zone(locality),
        Selector::Relative(Relative::SameRegion) => client.locality.same_region(locality),
        Selector::Relative(Relative::Any) => true,
    };
    spec.tiers.iter().enumerate().find_map(|(tier, t)| {
        let item = t.select.iter().position(|s| selects(&s.selector))?;
        Some(Slot { tier, pool: if weighted(t) { item } else { 0 } })
    })
}

/// Whether the items of a tier have weights.
pub(crate) fn weighted(tier: &Tier) -> bool {
    tier.select.iter().any(|s| s.weight.is_some())
}

fn meets_minimum(tier: &Tier, count: &Count) -> bool {
    count.ready > 0 && count.ready >= u64::from(tier.min_healthy_endpoints)
}

fn ignore_minimum(spec: &FailoverSpec, counts: &[Count]) -> bool {
    !spec.tiers.iter().zip(counts).any(|(t, c)| meets_minimum(t, c))
}

/// The part of all requests that each tier takes. They add up to 1, or are all 0 when nothing is ready.
pub(crate) fn loads<T: Number>(spec: &FailoverSpec, counts: &[Count]) -> Option<Vec<Ratio<T>>> {
    let ignored = ignore_minimum(spec, counts);
    let mut rest = Ratio::<T>::one();
    let mut taken = Ratio::<T>::zero();
    let mut loads = Vec::with_capacity(counts.len());
    for (tier, count) in spec.tiers.iter().zip(counts) {
        let serves = count.ready > 0 && (ignored || meets_minimum(tier, count));
        if !serves || rest.is_zero() {
            loads.push(Ratio::zero());
            continue;
        }
        // h / m = ready * 100 / (total * percent)
        let enough = count.total.checked_mul(tier.min_healthy_percent.into())?;
        let have = count.ready.checked_mul(100)?;
        let load = if have >= enough { rest.clone() } else { mul(&rest, &ratio(have, enough))? };
        rest = rest.checked_sub(&load)?;
        taken = add(&taken, &load)?;
        loads.push(load);
    }
    if taken.is_zero() || taken.is_one() {
        return Some(loads);
    }
    let scale = taken.recip();
    loads.iter().map(|l| if l.is_zero() { Some(l.clone()) } else { mul(l, &scale) }).collect()
}
