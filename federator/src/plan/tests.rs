use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use meshfed_api::stream::Audience as _;
use meshfed_model::export::{ClusterSelector, ExportTo};
use meshfed_model::member::{Member, Members};
use meshfed_model::names::{ClusterName, Namespace, NetworkName, ServiceName};
use meshfed_model::network::Network;
use meshfed_model::offer::OfferKey;
use meshfed_model::policy::{ExportPolicy, ServicePattern};

use super::{Filter, Interests, shared_networks};

fn member(name: &str, networks: &[&str]) -> (ClusterName, Member) {
    let cluster = ClusterName::new(name).unwrap();
    let network = |n: &&str| Network { name: NetworkName::new(n).unwrap(), cidrs: BTreeSet::new() };
    let member = Member {
        cluster: cluster.clone(),
        trust_domain: format!("{name}.f").parse().unwrap(),
        labels: BTreeMap::from([("env".to_owned(), name.to_owned())]),
        drained: false,
        leaving: false,
        networks: networks.iter().map(network).collect(),
        gateway_cidrs: BTreeSet::new(),
        regions: BTreeSet::new(),
    };
    (cluster, member)
}

fn members() -> Members {
    let all = [member("east", &["a"]), member("west", &["b"]), member("south", &["b", "c"])];
    Members { revision: 1, members: all.into_iter().collect() }
}

fn filter(cluster: &str, namespaces: &[&str], exports: Vec<ExportPolicy>) -> Filter {
    let namespaces = namespaces.iter().map(|n| Namespace::new(n).unwrap()).collect();
    Filter::new(&members(), &ClusterName::new(cluster).unwrap(), namespaces, Arc::new(exports)).unwrap()
}

fn policy(to: &str) -> ExportPolicy {
    let services = vec![ServicePattern { namespace: "shop".to_owned(), name: "b*".to_owned() }];
    ExportPolicy {
        services,
        to: ClusterSelector { clusters: BTreeSet::from([to.to_owned()]), labels: BTreeMap::new() },
    }
}

/// Mutation seen to fail: the fleet's policies not looked at for `Everyone`.
#[test]
fn a_service_that_its_cluster_does_not_limit_is_bound_by_the_fleet() {
    let key = |s: &str| OfferKey::Service(s.parse().unwrap());
    let west = filter("west", &["shop"], vec![policy("east")]);
    assert!(!west.sees(&key("shop/b"), &ExportTo::Everyone), "the fleet says east");
    assert!(west.sees(&key("shop/c"), &ExportTo::Everyone), "no policy names it");
    assert!(!west.sees(&key("other/c"), &ExportTo::Everyone), "not announced");
    let own = ExportTo::Selected(BTreeSet::from([ClusterSelector {
        clusters: BTreeSet::from(["west".to_owned()]),
        labels: BTreeMap::new(),
    }]));
    assert!(west.sees(&key("shop/b"), &own), "its own cluster names west");
    assert!(filter("west", &["shop"], vec![policy("east"), policy("w*")]).sees(&key("shop/b"), &ExportTo::Everyone));
}

/// Mutation seen to fail: namespaces left out of `identify`.
#[test]
fn a_filter_is_known_by_all_that_it_depends_on() {
    let base = filter("west", &["shop"], vec![]).id();
    assert_eq!(base, filter("west", &["shop"], vec![]).id());
    let others = [
        filter("west", &["shop", "x"], vec![]).id(),
        filter("west", &["sho", "p"], vec![]).id(),
        filter("south", &["shop"], vec![]).id(),
        filter("west", &["shop"], vec![policy("east")]).id(),
        filter("west", &["shop"], vec![policy("west")]).id(),
    ];
    let all: BTreeSet<u64> = others.into_iter().chain([base]).collect();
    assert_eq!(all.len(), 6);
}

/// Mutation seen to fail: `clusters.len() > 1` replaced by `> 0`.
#[test]
fn a_network_is_shared_from_two_clusters_on() {
    let shared = shared_networks(&members());
    let of = |c: &str| shared[&ClusterName::new(c).unwrap()].iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!((of("east"), of("west"), of("south")), (vec![], vec!["b".to_owned()], vec!["b".to_owned()]));
}

/// Mutation seen to fail: `before.difference(after)` not removed.
#[test]
fn a_change_concerns_those_who_announced_its_namespace() {
    let set = |names: &[&str]| names.iter().map(|n| Namespace::new(n).unwrap()).collect::<BTreeSet<_>>();
    let mut interests = Interests::default();
    interests.set(1u64, &set(&[]), &set(&["shop", "x"]));
    interests.set(2, &set(&[]), &set(&["shop"]));
    interests.set(1, &set(&["shop", "x"]), &set(&["x"]));
    let shop: ServiceName = "shop/b".parse().unwrap();
    assert_eq!(interests.in_services([&shop]), BTreeSet::from([2]));
    assert_eq!(interests.in_services([&shop, &"x/b".parse().unwrap()]), BTreeSet::from([1, 2]));
}
