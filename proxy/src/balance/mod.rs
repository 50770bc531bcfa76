//! Pure. Which endpoint gets the next request or connection.
//!
//! Priority 0 is used as long as one of its endpoints is usable, then 1, and so on; shares inside a priority follow the
//! weights. "Usable" is the caller's word (not tried yet, not failing), so nothing here remembers anything about
//! endpoints.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::{IpAddr, SocketAddr};
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

/// The endpoint of a client that stays on one: among those that are usable the highest by a number that is made of both
/// addresses and follows the weight (rendezvous hashing). Every core, and every proxy of this version, comes to the same;
/// an endpoint that goes moves its own clients only, and one that comes takes its share of all.
pub fn of_client(client: IpAddr, endpoints: &[Arc<Endpoint>], usable: impl Fn(usize) -> bool) -> Option<usize> {
    let mut best: Option<(usize, f64)> = None;
    for (i, endpoint) in endpoints.iter().enumerate().filter(|(i, _)| usable(*i)) {
        let score = score(client, endpoint);
        if best.is_none_or(|(_, top)| score > top) {
            best = Some((i, score));
        }
    }
    best.map(|(i, _)| i)
}

/// With `u` evenly between 0 and 1, the highest `weight / -ln(u)` is an endpoint's as often as its weight says.
#[expect(clippy::cast_precision_loss, reason = "53 bits are kept, as many as fit")]
fn score(client: IpAddr, endpoint: &Endpoint) -> f64 {
    let mut hasher = DefaultHasher::new();
    (client.to_canonical(), endpoint.address).hash(&mut hasher);
    let u = ((hasher.finish() >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    f64::from(endpoint.weight.max(1)) / -u.ln()
}

/// The endpoint of a client in the first priority that has a usable one.
pub fn pick_of_client(set: &EndpointSet, client: IpAddr, usable: impl Fn(&Endpoint) -> bool) -> Option<Arc<Endpoint>> {
    set.priorities.iter().find_map(|group| {
        let all = &group.endpoints;
        let at = of_client(client, all, |i| all.get(i).is_some_and(|e| usable(e)))?;
        all.get(at).cloned()
    })
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

    /// Mutations seen to fail: `endpoint.weight.max(1)` replaced by 1; `endpoint.address` left out of the hash.
    #[test]
    fn clients_stay_and_follow_the_weights() {
        let all = [endpoint(1, 1), endpoint(2, 3), endpoint(3, 4)];
        let clients: Vec<IpAddr> = (0..8000u32).map(|n| IpAddr::from((0x0a00_0000 + n).to_be_bytes())).collect();
        let of =
            |client: &IpAddr, all: &[Arc<Endpoint>]| all[of_client(*client, all, |_| true).unwrap()].address.port();
        let mut counts = [0usize; 4];
        clients.iter().for_each(|c| counts[usize::from(of(c, &all))] += 1);
        assert!((850..1150).contains(&counts[1]) && (2800..3200).contains(&counts[2]), "{counts:?}");
        // One goes: nobody else's clients move; whatever the order. An address of IPv4 inside one of IPv6 is the same client.
        let left = [endpoint(3, 4), endpoint(1, 1)];
        for client in &clients {
            let (before, IpAddr::V4(v4)) = (of(client, &all), client) else { continue };
            assert!(before == 2 || of(client, &left) == before, "{client}");
            assert_eq!(of(&v4.to_ipv6_mapped().into(), &all), before);
            let second = all[of_client(*client, &all, |i| all[i].address.port() != before).unwrap()].address.port();
            assert_ne!(second, before);
            assert!(before != 2 || of(client, &left) == second, "the second choice is who gets it when the first goes");
        }
        assert_eq!(of_client(clients[0], &all, |_| false), None);
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
