//! Pure. No cluster outweighs the others by the weights that it gives itself (`security.md` INV-7).
//!
//! The weight of an endpoint is its own cluster's to say, and a pool is shared by the endpoints of several clusters. A
//! weight so says as much as it wants about the endpoints of one cluster, and up to [`FACTOR_MAX`] about those of
//! another one: where a cluster gives its ready endpoints more than that on average, its sum is scaled down.

use std::collections::BTreeMap;

use num_rational::Ratio;
use num_traits::Zero as _;

use super::admit::Unit;
use crate::failover::Slot;
use crate::names::ClusterName;
use crate::share::Number;

/// The most that a ready endpoint of one cluster gets, on average, of what one of another cluster gets in the same pool.
/// The shared vectors, and people, set clusters against each other in up to 5 to 1.
pub(super) const FACTOR_MAX: u64 = 10;

/// Ready endpoints of one cluster in one pool, and the sum of their weights.
#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    ready: u64,
    weight: u64,
}

impl Sum {
    const fn add(&mut self, unit: &Unit<'_>) {
        self.ready = self.ready.saturating_add(unit.ready);
        self.weight = self.weight.saturating_add(unit.weight);
    }
    /// Whether its mean weight is more than `factor` times that of the other.
    fn exceeds(self, factor: u64, other: Self) -> bool {
        let scaled = |weight: u64, ready: u64| u128::from(weight).saturating_mul(ready.into());
        scaled(self.weight, other.ready) > scaled(other.weight, self.ready).saturating_mul(factor.into())
    }
}

/// What one unit of weight is of its pool, by pool and cluster. Pools in which nobody outweighs the others are not here.
pub(super) type Scales<'a, T> = BTreeMap<Slot, BTreeMap<&'a ClusterName, Ratio<T>>>;

/// The scales of all pools in which a cluster outweighs another one.
pub(super) fn scales<'a, T: Number>(units: &[Unit<'a>]) -> Option<Scales<'a, T>> {
    let mut scales = Scales::new();
    for (slot, sums) in sums(units) {
        // Who weighs nothing takes nothing, and says nothing about the others.
        let lowest = sums.values().copied().filter(|s| s.weight > 0).reduce(|a, b| if a.exceeds(1, b) { b } else { a });
        let Some(lowest) = lowest.filter(|lowest| sums.values().any(|sum| sum.exceeds(FACTOR_MAX, *lowest))) else {
            continue;
        };
        // All in multiples of 1 / lowest.ready, so that they are whole.
        let product = |a: u64, b: u64| T::from(a).checked_mul(&b.into());
        let most = product(FACTOR_MAX, lowest.weight)?;
        let mut total = T::zero();
        let mut taken = Vec::with_capacity(sums.len());
        for (cluster, sum) in sums {
            let takes = if sum.exceeds(FACTOR_MAX, lowest) {
                most.checked_mul(&sum.ready.into())?
            } else {
                product(sum.weight, lowest.ready)?
            };
            total = total.checked_add(&takes)?;
            taken.push((cluster, takes, sum.weight));
        }
        let each = taken.into_iter().map(|(cluster, takes, weight)| {
            let whole = total.checked_mul(&weight.into())?;
            Some((cluster, if whole.is_zero() { Ratio::zero() } else { Ratio::new(takes, whole) }))
        });
        scales.insert(slot, each.collect::<Option<_>>()?);
    }
    Some(scales)
}

fn sums<'a>(units: &[Unit<'a>]) -> BTreeMap<Slot, BTreeMap<&'a ClusterName, Sum>> {
    // Units of one cluster and pool come one after the other: names are compared once for each run of them.
    let mut runs: Vec<(Slot, &ClusterName, Sum)> = Vec::new();
    for unit in units.iter().filter(|u| u.ready > 0) {
        match runs.last_mut() {
            Some((slot, cluster, sum)) if *slot == unit.slot && *cluster == unit.cluster => sum.add(unit),
            Some(_) | None => {
                let mut sum = Sum::default();
                sum.add(unit);
                runs.push((unit.slot, unit.cluster, sum));
            }
        }
    }
    let mut sums: BTreeMap<Slot, BTreeMap<&ClusterName, Sum>> = BTreeMap::new();
    for (slot, cluster, run) in runs {
        let sum = sums.entry(slot).or_default().entry(cluster).or_default();
        sum.ready = sum.ready.saturating_add(run.ready);
        sum.weight = sum.weight.saturating_add(run.weight);
    }
    sums
}
