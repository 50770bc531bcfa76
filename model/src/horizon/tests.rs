//! Cases that no vector has.

use std::collections::BTreeSet;

use super::*;
use crate::failover::tier_loads;
use crate::policy::{FailoverSpec, Relative, SelectItem, Selector, Tier};

fn client() -> Client {
    Client {
        cluster: ClusterName::new("west").unwrap(),
        network: NetworkName::new("net-west").unwrap(),
        locality: Locality::new("us", "us-1"),
        families: Families { v4: true, v6: false },
    }
}
fn gateway(cluster: &str, at: &str) -> GatewayCandidate {
    let at: std::net::SocketAddr = at.parse().unwrap();
    GatewayCandidate {
        cluster: ClusterName::new(cluster).unwrap(),
        network: NetworkName::new("net-far").unwrap(),
        address: at.ip(),
        port: at.port(),
        locality: Locality::default(),
    }
}
fn group(cluster: &str, place: &str, ready: u32, total: u32) -> GroupCandidate {
    GroupCandidate {
        cluster: ClusterName::new(cluster).unwrap(),
        network: NetworkName::new("net-far").unwrap(),
        locality: place.parse().unwrap(),
        ready,
        total,
        weight: ready.into(),
    }
}
fn endpoint(at: &str, ready: bool) -> EndpointCandidate {
    let at: std::net::SocketAddr = at.parse().unwrap();
    EndpointCandidate {
        cluster: ClusterName::new("west").unwrap(),
        network: NetworkName::new("net-west").unwrap(),
        locality: Locality::new("us", "us-1"),
        address: at.ip(),
        port: at.port(),
        weight: 1,
        ready,
        mtls: true,
    }
}
fn shown(assignment: &Assignment) -> Vec<String> {
    let line = |i: &Item| {
        format!("{} {}:{} p{} w{} t{} {}", i.cluster, i.address, i.port, i.priority, i.weight, i.tier, i.share)
    };
    assignment.items.iter().map(line).collect()
}

/// Mutation seen to fail: the owner of an address not looked at.
#[test]
fn a_gateway_address_belongs_to_one_cluster() {
    let candidates = Candidates {
        groups: vec![group("east", "eu/eu-1", 1, 1), group("north", "eu/eu-1", 2, 2)],
        gateways: vec![gateway("north", "9.0.0.1:443"), gateway("east", "9.0.0.1:443")],
        ..Candidates::default()
    };
    let assignment = assign(&client(), &FailoverSpec::default(), &candidates);
    assert_eq!(shown(&assignment), ["east 9.0.0.1:443 p0 w1 t2 1"]);
    let [dropped] = assignment.dropped.as_slice() else { panic!("one dropped") };
    assert_eq!((dropped.cluster.as_str(), dropped.ready, dropped.reason), ("north", 2, DropReason::NoReachableGateway));
}

/// Mutation seen to fail: the endpoints' addresses not looked at.
#[test]
fn a_gateway_at_an_endpoints_address_is_not_used() {
    let candidates = Candidates {
        endpoints: vec![endpoint("9.0.0.1:443", true)],
        groups: vec![group("east", "us/us-1", 1, 1)],
        gateways: vec![gateway("east", "9.0.0.1:443")],
        ..Candidates::default()
    };
    let assignment = assign(&client(), &FailoverSpec::default(), &candidates);
    assert_eq!(shown(&assignment), ["west 9.0.0.1:443 p0 w1 t0 1"]);
    assert!(assignment.items[0].groups.is_empty() && assignment.dropped[0].reason == DropReason::NoReachableGateway);
}

/// Two zones behind one gateway are one entry, backups have their tier's order, and a group is not taken twice.
/// Mutation seen to fail: backups weighted by their shares.
#[test]
fn backups_follow_in_the_order_of_tiers() {
    let candidates = Candidates {
        endpoints: vec![endpoint("10.0.0.1:80", true), endpoint("10.0.0.2:80", true)],
        groups: vec![
            group("east", "us/us-2", 1, 1),
            group("east", "eu/eu-1", 3, 4),
            group("north", "eu/eu-1", 1, 1),
            group("north", "eu/eu-2", 2, 2),
            group("south", "eu/eu-2", 0, 2),
        ],
        gateways: vec![
            gateway("east", "9.0.0.1:443"),
            gateway("north", "9.0.0.2:443"),
            gateway("south", "9.0.0.3:443"),
            gateway("north", "9.0.0.4:443"),
        ],
        ..Candidates::default()
    };
    let assignment = assign(&client(), &FailoverSpec::default(), &candidates);
    let want = [
        "west 10.0.0.1:80 p0 w1 t0 1/2",
        "west 10.0.0.2:80 p0 w1 t0 1/2",
        "east 9.0.0.1:443 p1 w1 t1 0",
        "north 9.0.0.2:443 p2 w1 t2 0",
        "north 9.0.0.4:443 p2 w1 t2 0",
    ];
    assert_eq!(shown(&assignment), want);
    assert_eq!(assignment.items[2].groups.iter().map(|g| (g.tier, g.ready)).collect::<Vec<_>>(), [(2, 3), (1, 1)]);
    assert!(assignment.dropped.is_empty());

    let loads = tier_loads(&client(), &FailoverSpec::default(), &candidates);
    let shown: Vec<_> = loads.iter().map(|l| (l.name.as_str(), l.ready, l.total, l.share.to_string())).collect();
    let want = [("same-zone", 2, 2, "1"), ("same-region", 1, 1, "0"), ("any", 6, 9, "0")];
    assert_eq!(shown, want.map(|(n, r, t, s)| (n, r, t, s.to_owned())));
    assert!(loads.iter().all(|l| l.meets_minimum && !l.minimum_ignored));
}

/// Shares that u128 does not hold are as exact. Mutation seen to fail: `items::<BigInt>` left out.
#[test]
fn many_short_tiers_are_exact() {
    let primes: [u32; 12] =
        [999_983, 999_979, 999_961, 999_959, 999_953, 999_931, 999_917, 999_907, 999_883, 999_863, 999_853, 999_809];
    let names: Vec<String> = (0..primes.len()).map(|n| format!("c{n}")).collect();
    let tier = |name: &String| Tier {
        name: name.clone(),
        select: vec![SelectItem { selector: Selector::Cluster(ClusterName::new(name).unwrap()), weight: None }],
        min_healthy_percent: 97,
        min_healthy_endpoints: 1,
    };
    let spec = FailoverSpec { tiers: names.iter().map(tier).collect(), ..FailoverSpec::default() };
    let candidates = Candidates {
        groups: names.iter().zip(primes).map(|(n, p)| group(n, "eu/eu-1", p / 7, p)).collect(),
        gateways: names.iter().zip(1..).map(|(n, i)| gateway(n, &format!("9.0.0.{i}:443"))).collect(),
        ..Candidates::default()
    };
    let assignment = assign(&client(), &spec, &candidates);
    assert_eq!(assignment.items.len(), primes.len());
    let sum: num_rational::BigRational = assignment.items.iter().map(|i| i.share.exact()).sum();
    assert_eq!(sum.to_string(), "1");
    assert_eq!(tier_loads(&client(), &spec, &candidates).len(), primes.len());
}

/// Mutation seen to fail: a tier whose items all weigh 0 serves nobody.
#[test]
fn the_last_resort_is_used_whatever_it_weighs() {
    let item = |relative, weight| SelectItem { selector: Selector::Relative(relative), weight: Some(weight) };
    let spec = FailoverSpec {
        tiers: vec![Tier {
            name: String::new(),
            select: vec![item(Relative::SameCluster, 100), item(Relative::Any, 0)],
            min_healthy_percent: 70,
            min_healthy_endpoints: 3,
        }],
        ..FailoverSpec::default()
    };
    let candidates = Candidates {
        endpoints: vec![endpoint("10.0.0.1:80", false)],
        groups: vec![group("east", "eu/eu-1", 1, 1)],
        gateways: vec![gateway("east", "9.0.0.1:443")],
        drained: BTreeSet::new(),
        not_exported: BTreeSet::new(),
    };
    let assignment = assign(&client(), &spec, &candidates);
    assert_eq!(shown(&assignment), ["east 9.0.0.1:443 p0 w1 t0 1"]);
    assert!(tier_loads(&client(), &spec, &candidates)[0].minimum_ignored);
}

fn weighed(cluster: &str, at: &str, weight: u32) -> EndpointCandidate {
    EndpointCandidate { cluster: ClusterName::new(cluster).unwrap(), weight, ..endpoint(at, true) }
}

/// INV-7: an attacker that may say what it wants about its own endpoint, in the same zone as all others.
///
/// Mutations seen to fail: `scales` giving no scale; `lowest` the first cluster in the place of the lightest.
#[test]
fn a_heavy_endpoint_of_one_cluster_does_not_take_a_tier_away() {
    let part_of = |cluster: &str, candidates: &Candidates| -> f64 {
        let assignment = assign(&client(), &FailoverSpec::default(), candidates);
        assignment.items.iter().filter(|i| i.cluster.as_str() == cluster).map(|i| i.share.to_f64()).sum()
    };
    let own = |count: u32| (1..=count).map(|n| weighed("west", &format!("10.0.{}.{}:80", n / 250, n % 250), 1));
    let heavy = || weighed("east", "10.1.0.1:80", 1_000_000);
    let against = |count: u32, more: Vec<EndpointCandidate>| Candidates {
        endpoints: own(count).chain(more).collect(),
        ..Candidates::default()
    };
    // Without the bound it would have 99.999 % of ten.
    assert_eq!(part_of("east", &against(10, vec![heavy()])), 0.5);
    assert!(part_of("east", &against(990, vec![heavy()])) <= 0.01, "99 % stay");
    // Two do not vouch for each other, and one of them alone is one of them alone.
    let two = against(10, vec![heavy(), weighed("south", "10.2.0.1:80", 1_000_000)]);
    assert_eq!(part_of("east", &two), part_of("south", &two));
    assert_eq!(part_of("west", &two).to_string(), (1.0f64 / 3.0).to_string());
    // Up to ten to one is what somebody wants.
    let canary = against(1, vec![weighed("east", "10.1.0.1:80", 9)]);
    assert_eq!(part_of("east", &canary), 0.9);
    // Inside a cluster weights say what they said: 999,999 to 1, of half.
    let inside = assign(
        &client(),
        &FailoverSpec::default(),
        &against(20, vec![weighed("east", "10.1.0.1:80", 999_999), weighed("east", "10.1.0.2:80", 1)]),
    );
    let shares: Vec<String> =
        inside.items.iter().filter(|i| i.cluster.as_str() == "east").map(|i| i.share.to_string()).collect();
    assert_eq!(shares, ["999999/2000000", "1/2000000"]);
    // Groups behind a gateway are bound in the same way.
    let mut far = against(10, vec![]);
    far.groups = vec![GroupCandidate { weight: 1_000_000, ..group("east", "us/us-1", 1, 1) }];
    far.gateways = vec![gateway("east", "10.9.0.1:15443")];
    assert_eq!(part_of("east", &far), 0.5);
}
