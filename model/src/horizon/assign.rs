//! Pure. From what a client can reach to addresses with shares, weights and priorities.

use std::collections::BTreeMap;
use std::net::IpAddr;

use num_bigint::BigInt;
use num_rational::Ratio;
use num_traits::{One, Zero};

use super::admit::{Admitted, Reach, Unit, admit, counts};
use super::fair::{Scales, scales};
use super::{Assignment, Candidates, Client, GroupShare, Item, Via};
use crate::failover::{Slot, loads, weighted};
use crate::locality::Locality;
use crate::names::{ClusterName, NetworkName};
use crate::policy::FailoverSpec;
use crate::share::{Number, add, mul, ratio, weights};

/// What a client is handed for one service port and subset: every address that it can reach and that a tier selects,
/// once, with its exact share, and what was left out and why (`design.md` 4 and 5). The same candidates in another
/// order, or endpoints of other networks in the place of their groups, give the same.
#[must_use]
pub fn assign(client: &Client, spec: &FailoverSpec, candidates: &Candidates) -> Assignment {
    let admitted = admit(client, spec, candidates);
    // Shares of some tiers of some hundred endpoints fit u128; where they do not, the slow way always works.
    let items = items::<u128>(spec, &admitted).or_else(|| items::<BigInt>(spec, &admitted)).unwrap_or_default();
    Assignment { items, dropped: admitted.dropped }
}

/// An address while it gathers its groups.
struct Draft<'a, T: Number> {
    address: IpAddr,
    port: u16,
    priority: u32,
    via: Via,
    cluster: &'a ClusterName,
    network: &'a NetworkName,
    locality: &'a Locality,
    mtls: bool,
    tier: usize,
    share: Ratio<T>,
    /// Its part of its tier, were the tier to take everything: the weight of a backup.
    part: Ratio<T>,
    groups: Vec<(&'a Unit<'a>, Ratio<T>)>,
}

fn items<T: Number>(spec: &FailoverSpec, admitted: &Admitted<'_>) -> Option<Vec<Item>> {
    let mut drafts = drafts::<T>(spec, admitted)?;
    let mut tiers: Vec<usize> = drafts.iter().filter(|d| d.share.is_zero()).map(|d| d.tier).collect();
    tiers.sort_unstable();
    tiers.dedup();
    for draft in &mut drafts {
        let backup = tiers.iter().position(|t| draft.share.is_zero() && *t == draft.tier);
        draft.priority = backup.map_or(0, |at| u32::try_from(at).unwrap_or(u32::MAX).saturating_add(1));
    }
    // Weights that do not fit are rounded in this order.
    drafts.sort_unstable_by_key(|d| (d.priority, d.address, d.port));
    let mut all = Vec::with_capacity(drafts.len());
    for level in drafts.chunk_by(|a, b| a.priority == b.priority) {
        let part = |d: &'_ Draft<'_, T>| if d.priority == 0 { d.share.clone() } else { d.part.clone() };
        let parts: Vec<Ratio<T>> = level.iter().map(part).collect();
        all.append(&mut weights(&parts.iter().collect::<Vec<_>>())?);
    }
    let mut items: Vec<Item> = drafts.into_iter().zip(all).map(|(draft, weight)| item(draft, weight)).collect();
    items.sort_unstable_by(|a, b| {
        let key = |i: &Item| (i.priority, i.address, i.port);
        (a.priority, &a.cluster, &a.network).cmp(&(b.priority, &b.cluster, &b.network)).then(key(a).cmp(&key(b)))
    });
    Some(items)
}

fn item<T: Number>(d: Draft<'_, T>, weight: u32) -> Item {
    let count = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    let tier = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let groups = d.groups.into_iter().map(|(unit, share)| GroupShare {
        locality: unit.locality.clone(),
        tier: tier(unit.slot.tier),
        ready: count(unit.ready),
        total: count(unit.total),
        share: T::share(share),
    });
    Item {
        address: d.address,
        port: d.port,
        via: d.via,
        cluster: d.cluster.clone(),
        network: d.network.clone(),
        locality: d.locality.clone(),
        mtls: d.mtls,
        tier: tier(d.tier),
        priority: d.priority,
        weight,
        share: T::share(d.share),
        groups: groups.collect(),
    }
}

fn drafts<'a, T: Number>(spec: &FailoverSpec, admitted: &'a Admitted<'a>) -> Option<Vec<Draft<'a, T>>> {
    let mut split = Split::<'a, T>::of(spec, &admitted.units)?;
    // An address is a single endpoint's or a gateway's, and an endpoint's occurs once.
    let mut drafts = Vec::with_capacity(admitted.units.len());
    let mut gateways = ByAddress::new();
    for unit in &admitted.units {
        match unit.reach {
            Reach::Direct(e) if unit.ready > 0 => {
                let (share, part) = split.of_unit(unit)?;
                drafts.push(Draft {
                    address: e.address,
                    port: e.port,
                    priority: 0,
                    via: Via::Direct,
                    cluster: unit.cluster,
                    network: unit.network,
                    locality: unit.locality,
                    mtls: e.mtls,
                    tier: unit.slot.tier,
                    share,
                    part,
                    groups: Vec::new(),
                });
            }
            Reach::Direct(_) => {}
            Reach::Gateways => split_over_gateways(unit, admitted, &mut split, &mut gateways)?,
        }
    }
    // A gateway all of whose groups have nothing ready stands for nothing.
    drafts.extend(gateways.into_values().filter(|d| d.groups.iter().any(|(unit, _)| unit.ready > 0)));
    Some(drafts)
}

/// Every gateway of the group's cluster and network gets the same part of the group's share.
fn split_over_gateways<'a, T: Number>(
    unit: &'a Unit<'a>,
    admitted: &'a Admitted<'a>,
    split: &mut Split<'a, T>,
    drafts: &mut ByAddress<'a, T>,
) -> Option<()> {
    let Some(gateways) = admitted.gateways.get(&(unit.cluster, unit.network)) else { return Some(()) };
    let (share, part) = split.of_unit(unit)?;
    let each = ratio::<T>(1, u64::try_from(gateways.len()).ok()?);
    let (share, part) = (mul(&share, &each)?, mul(&part, &each)?);
    for gateway in gateways {
        let draft = drafts.entry((gateway.address, gateway.port)).or_insert_with(|| Draft {
            address: gateway.address,
            port: gateway.port,
            priority: 0,
            via: Via::Gateway,
            cluster: unit.cluster,
            network: unit.network,
            locality: &gateway.locality,
            mtls: true,
            tier: usize::MAX,
            share: Ratio::zero(),
            part: Ratio::zero(),
            groups: Vec::new(),
        });
        draft.share = add(&draft.share, &share)?;
        if unit.ready > 0 && unit.slot.tier < draft.tier {
            draft.tier = unit.slot.tier;
            draft.part = part.clone();
        } else if unit.ready > 0 && unit.slot.tier == draft.tier {
            draft.part = add(&draft.part, &part)?;
        }
        draft.groups.push((unit, share.clone()));
    }
    Some(())
}

/// Gateways while they gather their groups.
type ByAddress<'a, T> = BTreeMap<(IpAddr, u16), Draft<'a, T>>;

/// Units with the same share: slot, weight, and the cluster where that matters.
type Alike<'a> = (Slot, u64, Option<&'a ClusterName>);

/// How a tier is split: by item weights where there are some, else by endpoint weights.
struct Split<'a, T: Number> {
    loads: Vec<Ratio<T>>,
    pools: BTreeMap<Slot, Pool<T>>,
    scales: Scales<'a, T>,
    /// Share and part by slot, endpoint weight, and cluster where that matters: most endpoints are like another.
    known: BTreeMap<Alike<'a>, (Ratio<T>, Ratio<T>)>,
}

struct Pool<T: Number> {
    ready: u64,
    weight: u64,
    /// The pool's part of its tier.
    part: Ratio<T>,
}

impl<'a, T: Number> Split<'a, T> {
    fn of(spec: &FailoverSpec, units: &[Unit<'a>]) -> Option<Self> {
        let loads = loads::<T>(spec, &counts(spec, units))?;
        let mut pools: BTreeMap<Slot, Pool<T>> = BTreeMap::new();
        for unit in units.iter().filter(|u| u.ready > 0) {
            let pool = pools.entry(unit.slot).or_insert(Pool { ready: 0, weight: 0, part: Ratio::zero() });
            pool.ready = pool.ready.saturating_add(unit.ready);
            pool.weight = pool.weight.saturating_add(unit.weight);
        }
        // Only pools with a ready endpoint are there: the others have given their weight to these.
        let mut sums: BTreeMap<usize, (u64, u64)> = BTreeMap::new();
        for (slot, pool) in &pools {
            let (weights, ready) = sums.entry(slot.tier).or_default();
            *weights += item_weight(spec, *slot);
            *ready = ready.saturating_add(pool.ready);
        }
        for (slot, pool) in &mut pools {
            let (weights, ready) = sums.get(&slot.tier).copied().unwrap_or_default();
            // Items of weight 0 are for nobody, unless nobody else is there.
            pool.part = if weights > 0 { ratio(item_weight(spec, *slot), weights) } else { ratio(pool.ready, ready) };
        }
        Some(Self { loads, pools, scales: scales(units)?, known: BTreeMap::new() })
    }

    /// The share of a unit and its part of its tier.
    fn of_unit(&mut self, unit: &Unit<'a>) -> Option<(Ratio<T>, Ratio<T>)> {
        let Some(pool) = self.pools.get(&unit.slot) else { return Some((Ratio::zero(), Ratio::zero())) };
        // Where all weigh nothing, all are alike.
        let (have, of) = if pool.weight > 0 { (unit.weight, pool.weight) } else { (unit.ready, pool.ready) };
        let scale = self.scales.get(&unit.slot).and_then(|scales| scales.get(unit.cluster));
        let key = (unit.slot, have, scale.map(|_| unit.cluster));
        if let Some(known) = self.known.get(&key) {
            return Some(known.clone());
        }
        let of_pool = match scale {
            Some(scale) => mul(scale, &ratio(have, 1))?,
            None => ratio(have, of),
        };
        let part = mul(&pool.part, &of_pool)?;
        let load = self.loads.get(unit.slot.tier)?;
        let share = if load.is_zero() {
            Ratio::zero()
        } else if load.is_one() {
            part.clone()
        } else {
            mul(load, &part)?
        };
        self.known.insert(key, (share.clone(), part.clone()));
        Some((share, part))
    }
}

fn item_weight(spec: &FailoverSpec, slot: Slot) -> u64 {
    let Some(tier) = spec.tiers.get(slot.tier) else { return 0 };
    if !weighted(tier) {
        return 1;
    }
    tier.select.get(slot.pool).and_then(|s| s.weight).unwrap_or_default().into()
}
