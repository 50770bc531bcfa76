//! Pure. Which endpoint gets the next request or connection.
//!
//! Priority 0 is used as long as one of its endpoints is usable, then 1, and so on; shares inside a priority follow the
//! weights. "Usable" is the caller's word (not tried yet, not failing), so nothing here remembers anything about
//! endpoints.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::state::{Endpoint, EndpointSet, PriorityGroup};

/// Up to so many endpoints take turns by weight exactly; above, a weighted random choice is as even and costs less.
pub const TURNS_MAX: usize = 64;

/// A weighted random choice of an endpoint that was not tried yet.
pub fn pick(set: &EndpointSet, rng: &mut fastrand::Rng, tried: &[SocketAddr]) -> Option<Arc<Endpoint>> {
    pick_usable(set, rng, |e| !tried.contains(&e.address))
}

/// A weighted random choice among the usable endpoints of the first priority that has one.
pub fn pick_usable(
    set: &EndpointSet,
    rng: &mut fastrand::Rng,
    usable: impl Fn(&Endpoint) -> bool,
) -> Option<Arc<Endpoint>> {
    set.priorities.iter().find_map(|group| pick_in(group, rng, &usable)).cloned()
}

fn pick_in<'a>(
    group: &'a PriorityGroup,
    rng: &mut fastrand::Rng,
    usable: &impl Fn(&Endpoint) -> bool,
) -> Option<&'a Arc<Endpoint>> {
    let weight = group.weight();
    if weight == 0 {
        return None;
    }
    let at = rng.u64(0..weight);
    let first = group.endpoints.get(group.cumulative.partition_point(|&c| c <= at));
    if let Some(endpoint) = first.filter(|e| usable(e)) {
        return Some(endpoint);
    }
    // Rare: choose again among those that are left.
    let left: u64 = group.endpoints.iter().filter(|e| usable(e)).map(|e| u64::from(e.weight.max(1))).sum();
    if left == 0 {
        return None;
    }
    let mut at = rng.u64(0..left);
    group.endpoints.iter().filter(|e| usable(e)).find(|e| {
        let weight = u64::from(e.weight.max(1));
        let found = at < weight;
        at = at.saturating_sub(weight);
        found
    })
}

/// Smooth weighted round robin: over any run of (sum of weights) choices everybody gets exactly its weight, spread out.
///
/// `current` holds one number per member and starts at 0. Members that are not usable keep their place.
pub fn turn(weights: impl Fn(usize) -> u32, usable: impl Fn(usize) -> bool, current: &mut [i64]) -> Option<usize> {
    let mut total = 0i64;
    let mut best: Option<(usize, i64)> = None;
    for (i, score) in current.iter_mut().enumerate() {
        if !usable(i) {
            continue;
        }
        let weight = i64::from(weights(i).max(1));
        total += weight;
        *score += weight;
        if best.is_none_or(|(_, top)| *score > top) {
            best = Some((i, *score));
        }
    }
    let (chosen, _) = best?;
    if let Some(score) = current.get_mut(chosen) {
        *score -= total;
    }
    Some(chosen)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::state::{EndpointCounters, Transport};

    fn endpoint(port: u16, weight: u32) -> Arc<Endpoint> {
        Arc::new(Endpoint {
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            weight,
            cluster: "".into(),
            network: "".into(),
            service: "".into(),
            locality: "".into(),
            via_gateway: false,
            transport: Arc::new(Transport::Plaintext),
            counters: Arc::new(EndpointCounters::default()),
        })
    }

    /// Mutation seen to fail: `*score -= total` left out.
    #[test]
    fn turns_follow_the_weights_exactly() {
        let weights = [5u32, 1, 1];
        let mut current = [0i64; 3];
        let order: Vec<usize> = (0..7).filter_map(|_| turn(|i| weights[i], |_| true, &mut current)).collect();
        assert_eq!(order, [0, 0, 1, 0, 2, 0, 0]);
        let mut counts = [0; 3];
        for _ in 0..700 {
            counts[turn(|i| weights[i], |_| true, &mut current).unwrap()] += 1;
        }
        assert_eq!(counts, [500, 100, 100]);
        assert_eq!(turn(|i| weights[i], |i| i == 2, &mut current), Some(2));
        assert_eq!(turn(|i| weights[i], |_| false, &mut current), None);
    }

    /// Mutation seen to fail: `partition_point(|&c| c <= at)` with `<`.
    #[test]
    fn random_choice_follows_the_weights_and_the_priorities() {
        let set =
            EndpointSet::new(BTreeMap::from([(0, vec![endpoint(1, 1), endpoint(2, 3)]), (1, vec![endpoint(3, 1)])]), 3);
        let mut rng = fastrand::Rng::with_seed(7);
        let mut counts = [0usize; 4];
        for _ in 0..4000 {
            counts[usize::from(pick(&set, &mut rng, &[]).unwrap().address.port())] += 1;
        }
        assert_eq!(counts[3], 0);
        assert!((850..1150).contains(&counts[1]), "{counts:?}");
        let one = set.priorities[0].endpoints[0].address;
        let two = set.priorities[0].endpoints[1].address;
        let three = set.priorities[1].endpoints[0].address;
        assert_eq!(pick(&set, &mut rng, &[one]).unwrap().address, two);
        assert_eq!(pick(&set, &mut rng, &[one, two]).unwrap().address, three);
        assert!(pick(&set, &mut rng, &[one, two, three]).is_none());
    }
}
