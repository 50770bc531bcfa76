use std::collections::{BTreeMap, BTreeSet};

use meshfed_api::stream::{Delta, StreamError, Upsert, size_limit};
use meshfed_model::export::ExportTo;
use meshfed_model::import::Import;
use meshfed_model::locality::Locality;
use meshfed_model::member::Member;
use meshfed_model::names::{ClusterName, NetworkName, ServiceName, SubsetName};
use meshfed_model::network::Network;
use meshfed_model::offer::{
    EndpointKey, EndpointOffer, GatewayKey, GatewayOffer, OfferKey, OfferValue, ServiceOffer, Tombstone,
};
use meshfed_model::service::{ServicePort, ServiceType};
use meshfed_model::version::Version;

use super::{BYTES_MAX, Catalog, GATEWAYS_MAX, SERVICES_MAX, Taken};

fn cluster(name: &str) -> ClusterName {
    ClusterName::new(name).unwrap()
}
fn name(s: &str) -> ServiceName {
    ServiceName::new("shop", s).unwrap()
}

fn member(name: &str) -> Member {
    Member {
        cluster: cluster(name),
        trust_domain: format!("{name}.f").parse().unwrap(),
        labels: BTreeMap::new(),
        drained: false,
        leaving: false,
        networks: vec![Network {
            name: NetworkName::new("net").unwrap(),
            cidrs: BTreeSet::from(["10.0.0.0/8".parse().unwrap()]),
        }],
        gateway_cidrs: BTreeSet::new(),
        regions: BTreeSet::from(["eu".to_owned()]),
    }
}

fn catalog() -> Catalog {
    let mut catalog = Catalog::new(BTreeMap::new(), BTreeMap::new());
    for name in ["east", "west"] {
        catalog.admit(member(name), BTreeSet::from(["eu-1".to_owned()]));
    }
    catalog
}

fn service(s: &str, ports: &[(&str, u16)], service_type: ServiceType) -> (OfferKey, OfferValue) {
    let port = |(name, port): &(&str, u16)| ServicePort {
        name: (*name).to_owned(),
        port: *port,
        protocol: "TCP".to_owned(),
        app_protocol: None,
    };
    let offer = ServiceOffer {
        service_type,
        ports: ports.iter().map(port).collect(),
        export_to: ExportTo::Everyone,
        ..ServiceOffer::default()
    };
    (OfferKey::Service(name(s)), OfferValue::Service(offer))
}
fn plain(s: &str) -> (OfferKey, OfferValue) {
    service(s, &[("http", 80)], ServiceType::ClusterSetIP)
}
fn endpoint(address: &str, identity: &str, place: &str) -> (OfferKey, OfferValue) {
    let key = EndpointKey {
        service: name("a"),
        port: 80,
        subset: SubsetName::all(),
        network: NetworkName::new("net").unwrap(),
        address: address.parse().unwrap(),
        target_port: 8080,
    };
    let value = EndpointOffer {
        locality: place.parse().unwrap(),
        weight: 1,
        ready: true,
        draining: false,
        identity: identity.parse().unwrap(),
        workload: "w".to_owned(),
    };
    (OfferKey::Endpoint(key), OfferValue::Endpoint(value))
}
fn gateway(address: &str) -> (OfferKey, OfferValue) {
    let key = GatewayKey { network: NetworkName::new("net").unwrap(), address: address.parse().unwrap(), port: 15443 };
    (OfferKey::Gateway(key), OfferValue::Gateway(GatewayOffer { locality: Locality::default(), ready: true }))
}

fn delta(base: u64, revision: u64, upserts: Vec<(OfferKey, OfferValue)>, gone: &[OfferKey]) -> Delta {
    let removal = |key: &OfferKey| Tombstone { key: key.clone(), revision, audience: ExportTo::Everyone };
    Delta {
        base: if base == 0 { Version::default() } else { Version::new(1, base) },
        version: Version::new(1, revision),
        complete: base == 0,
        upserts: upserts.into_iter().map(|(key, value)| Upsert { key, revision, value }).collect(),
        removals: gone.iter().map(removal).collect(),
        ..Delta::default()
    }
}

fn codes(taken: &Taken) -> Vec<&str> {
    taken.refused.iter().map(|r| r.code.as_str()).collect()
}

/// Mutation seen to fail: `allowed::check` left out of `judge`.
#[test]
fn what_the_token_does_not_allow_is_refused_by_name_and_the_last_good_stays() {
    let mut catalog = catalog();
    let own = "spiffe://east.f/ns/shop/sa/a";
    let good = endpoint("10.0.0.1", own, "eu/eu-1");
    let first = vec![
        plain("a"),
        good.clone(),
        endpoint("192.168.0.1", own, "eu/eu-1"),
        endpoint("10.0.0.2", "spiffe://west.f/ns/shop/sa/a", "eu/eu-1"),
        endpoint("10.0.0.3", own, "us/us-1"),
        endpoint("10.0.0.4", own, "eu/eu-9"),
        gateway("127.0.0.1"),
    ];
    let taken = catalog.take(&cluster("east"), delta(0, 5, first, &[])).unwrap();
    let expected =
        ["AddressNotAllowed", "IdentityNotAllowed", "RegionNotAllowed", "ZoneNotAllowed", "AddressNotAllowed"];
    assert_eq!(codes(&taken), expected);
    assert_eq!((taken.version, taken.added), (Version::new(1, 5), vec![name("a")]));
    let bad = (good.0.clone(), endpoint("10.0.0.1", "spiffe://west.f/ns/shop/sa/a", "eu/eu-1").1);
    let taken = catalog.take(&cluster("east"), delta(5, 6, vec![bad], &[])).unwrap();
    assert_eq!((codes(&taken), taken.services.len()), (vec!["IdentityNotAllowed"], 0));
    assert_eq!(catalog.history(&cluster("east")).unwrap().get(&good.0), Some(&good.1), "the last good value");
    assert_eq!(catalog.refused(&cluster("east")).count(), 6);
    catalog.take(&cluster("east"), delta(6, 7, vec![], &[endpoint("10.0.0.3", own, "").0])).unwrap();
    assert_eq!(catalog.refused(&cluster("east")).count(), 5, "what is withdrawn is no more refused");
    let older = catalog.take(&cluster("east"), delta(0, 4, vec![], &[])).unwrap_err();
    assert!(matches!(older, StreamError::Older { .. }));
}

/// Mutations seen to fail: `free_gateway` without `retake`; `claims.claim` not asked in `judge`; `has_gateway` not asked
/// in `free_idle_gateway`.
#[test]
fn a_gateway_address_belongs_to_one_cluster() {
    let mut catalog = catalog();
    let (east, west) = (cluster("east"), cluster("west"));
    catalog.take(&east, delta(0, 1, vec![gateway("10.0.0.1")], &[])).unwrap();
    let taken = catalog.take(&west, delta(0, 1, vec![gateway("10.0.0.1"), gateway("10.0.0.2")], &[])).unwrap();
    assert_eq!(codes(&taken), ["GatewayAddressTaken"]);
    assert_eq!(catalog.gateways_of(&west).count(), 1);
    assert_ne!(catalog.salt(&west), 0, "an importer may hold it from a hub to which west came first");
    // The owner itself may change it.
    let again = catalog.take(&east, delta(1, 2, vec![gateway("10.0.0.1")], &[])).unwrap();
    assert!(again.refused.is_empty() && !again.claimed);
    let at = ("10.0.0.1".parse().unwrap(), 15443);
    assert_eq!(catalog.free_idle_gateway(at), None, "it is offered");
    let taken = catalog.take(&east, delta(2, 3, vec![], &[gateway("10.0.0.1").0])).unwrap();
    assert_eq!((taken.idle, catalog.gateways_of(&west).count()), (vec![at], 1), "it is kept for east");
    assert_eq!(catalog.free_idle_gateway(at), Some(Some(west.clone())));
    assert_eq!(catalog.gateways_of(&west).count(), 2);
    assert_eq!(catalog.salt(&west), 0, "by which importers that stand at this version are told");
    assert_eq!(catalog.refused(&west).count(), 0);
    let taken = catalog.take(&east, delta(3, 4, vec![gateway("10.0.0.1")], &[])).unwrap();
    assert_eq!(codes(&taken), ["GatewayAddressTaken"]);
    catalog.remove(&west);
    assert_eq!(catalog.gateways_of(&east).count(), 0, "west may come back, bound anew");
    assert_eq!(catalog.free_gateways_of_others(|cluster| *cluster != west), BTreeSet::from([east.clone()]));
    assert_eq!(catalog.gateways_of(&east).count(), 1);
    assert_eq!(catalog.gateway_owners(), &BTreeMap::from([(at, east)]), "and the one that nobody waited for is free");
}

/// A hub that starts anew knows who has what; who was there first comes second now, and has it.
///
/// Mutation seen to fail: `Gateways::new` with an empty map in `Catalog::new`; `idle_gateways` not asked for a complete
/// offer (what is withdrawn while the hub is away stays for ever).
#[test]
fn a_gateway_address_is_its_clusters_also_when_another_comes_first() {
    let at = |address: &str| (address.parse().unwrap(), 15443);
    let (east, west) = (cluster("east"), cluster("west"));
    let owners = BTreeMap::from([(at("10.0.0.1"), east.clone()), (at("10.0.0.2"), east.clone())]);
    let mut catalog = Catalog::new(BTreeMap::new(), owners);
    for name in ["east", "west"] {
        catalog.admit(member(name), BTreeSet::new());
    }
    let taken = catalog.take(&west, delta(0, 1, vec![gateway("10.0.0.1"), gateway("10.0.0.3")], &[])).unwrap();
    assert_eq!((codes(&taken), taken.claimed), (vec!["GatewayAddressTaken"], true));
    let taken = catalog.take(&east, delta(0, 1, vec![gateway("10.0.0.1")], &[])).unwrap();
    assert_eq!((codes(&taken), taken.claimed, &taken.idle), (vec![], false, &vec![at("10.0.0.2")]));
    let shown = |c: &ClusterName| catalog.gateways_of(c).map(|(k, _)| k.address.to_string()).collect::<Vec<_>>();
    assert_eq!((shown(&east), shown(&west)), (vec!["10.0.0.1".to_owned()], vec!["10.0.0.3".to_owned()]));
}

/// Offering and withdrawing over and over claims no more than the limit, also while withdrawn ones are kept.
///
/// Mutation seen to fail: the arm with `GATEWAYS_MAX` left out of `Claims::claim`.
#[test]
fn gateway_addresses_of_one_cluster_have_a_limit() {
    let mut catalog = catalog();
    let east = cluster("east");
    let some = |net: u8| -> Vec<_> {
        (0..GATEWAYS_MAX).map(|n| gateway(&format!("10.{net}.{}.{}", n / 250, n % 250 + 1))).collect()
    };
    let taken = catalog.take(&east, delta(0, 1, some(1), &[])).unwrap();
    assert_eq!((codes(&taken).len(), taken.claimed), (0, true));
    let gone: Vec<OfferKey> = some(1).into_iter().map(|(key, _)| key).collect();
    let taken = catalog.take(&east, delta(1, 2, some(2), &gone)).unwrap();
    assert_eq!(taken.refused_by_code, BTreeMap::from([("QuotaExceeded", GATEWAYS_MAX as u64)]));
    assert_eq!((taken.claimed, catalog.gateway_owners().len()), (false, GATEWAYS_MAX));
    let at = ("10.1.0.1".parse().unwrap(), 15443);
    assert_eq!(catalog.free_idle_gateway(at), Some(None));
    let taken = catalog.take(&east, delta(2, 3, vec![gateway("10.2.0.1")], &[])).unwrap();
    assert_eq!((codes(&taken), taken.claimed), (vec![], true));
}

/// Mutation seen to fail: `recount` without the held ones (a change of a held service counts again).
#[test]
fn a_quota_refuses_the_resource_and_not_the_offer() {
    let mut catalog = catalog();
    let east = cluster("east");
    let all = (0..=SERVICES_MAX).map(|n| plain(&format!("s{n}"))).collect();
    let taken = catalog.take(&east, delta(0, 1, all, &[])).unwrap();
    assert_eq!((codes(&taken), taken.added.len()), (vec!["QuotaExceeded"], SERVICES_MAX));
    let changed = service("s1", &[("http", 81)], ServiceType::ClusterSetIP);
    let taken = catalog.take(&east, delta(1, 2, vec![changed, plain("t1")], &[])).unwrap();
    assert_eq!(codes(&taken), ["QuotaExceeded"], "a held one may change, another one may not come");
    let taken = catalog.take(&east, delta(2, 3, vec![plain("t1")], &[plain("s2").0])).unwrap();
    assert!(taken.refused.is_empty(), "one went, one came");
    assert_eq!((taken.added, taken.removed), (vec![name("t1")], vec![name("s2")]));
}

/// What is within every limit of numbers has one together: bytes. What is held may be offered again, in parts and whole, and
/// what goes makes room.
///
/// Mutations seen to fail: `BYTES_MAX` not asked in `admit`; `keep` without its bytes; `replaced` left out of `counts`.
#[test]
fn all_that_a_cluster_offers_has_a_limit_in_bytes() {
    let heavy = |n: usize| {
        let (key, value) = plain(&format!("s{n}"));
        let OfferValue::Service(mut offer) = value else { panic!("a service") };
        offer.exported.annotations = [("a.example/x".to_owned(), "x".repeat(15 << 10))].into();
        (key, OfferValue::Service(offer))
    };
    // The longest name, so that no other is larger.
    let (key, value) = heavy(9_999);
    let fit = BYTES_MAX / size_limit(&key, &value);
    let some = |count: usize| -> Vec<_> { (1_000..1_000 + count).map(heavy).collect() };
    let mut catalog = catalog();
    let east = cluster("east");
    let taken = catalog.take(&east, delta(0, 1, some(fit + 1), &[])).unwrap();
    assert_eq!((codes(&taken), taken.added.len()), (vec!["QuotaExceeded"], fit));
    let taken = catalog.take(&east, delta(1, 2, vec![heavy(1_000)], &[])).unwrap();
    assert_eq!(codes(&taken), Vec::<&str>::new(), "another version takes the place of the one before");
    let taken = catalog.take(&east, delta(2, 3, vec![heavy(9_999)], &[])).unwrap();
    assert_eq!(codes(&taken), ["QuotaExceeded"]);
    let taken = catalog.take(&east, delta(3, 4, vec![heavy(9_999)], &[heavy(1_001).0])).unwrap();
    assert_eq!(codes(&taken), Vec::<&str>::new(), "one went, one came");
    let taken = catalog.take(&east, delta(4, 5, vec![heavy(1_001)], &[])).unwrap();
    assert_eq!(codes(&taken), ["QuotaExceeded"], "and no other one has room");
}

/// Mutation seen to fail: `by_seniority` by name alone.
#[test]
fn the_first_seen_exporter_wins_and_ports_are_united() {
    let claims = [("west", 3), ("east", 9)].map(|(c, revision)| ((name("a"), cluster(c)), revision));
    let mut catalog = Catalog::new(BTreeMap::from(claims), BTreeMap::new());
    for name in ["east", "west"] {
        catalog.admit(member(name), BTreeSet::new());
    }
    let east = service("a", &[("http", 80), ("admin", 90)], ServiceType::Headless);
    catalog.take(&cluster("east"), delta(0, 1, vec![east], &[])).unwrap();
    assert_eq!(catalog.merged(&name("a")).unwrap().conflict, None, "one exporter contradicts nobody");
    let west = service("a", &[("web", 80)], ServiceType::ClusterSetIP);
    catalog.take(&cluster("west"), delta(0, 1, vec![west], &[])).unwrap();
    let merged = catalog.merged(&name("a")).unwrap();
    let conflict = merged.conflict.unwrap();
    assert_eq!((conflict.winner.clone(), merged.service_type), (cluster("west"), ServiceType::ClusterSetIP));
    assert_eq!(conflict.reasons(), "PortConflict,TypeConflict");
    let ports: Vec<_> = merged.ports.iter().map(|p| (p.port.name.as_str(), p.port.port, p.clusters.len())).collect();
    assert_eq!(ports, [("web", 80, 2), ("admin", 90, 1)]);
    catalog.take(&cluster("west"), delta(1, 2, vec![], &[OfferKey::Service(name("a"))])).unwrap();
    assert_eq!(catalog.idle_claims(&cluster("west")), [name("a")]);
    assert_eq!(catalog.by_seniority(&name("a")), [cluster("east")]);
}

/// Mutation seen to fail: `ports_of` of `model::import` with `app_protocol` as it is written.
#[test]
fn a_protocol_that_the_name_says_already_is_no_conflict() {
    let offer = |app: Option<&str>| {
        let (_, value) = plain("b");
        let OfferValue::Service(mut offer) = value else { panic!("a service") };
        offer.ports[0].app_protocol = app.map(str::to_owned);
        offer
    };
    let winner = |first: Option<&str>, second: Option<&str>| {
        let (east, west) = (cluster("east"), cluster("west"));
        let exports = [(&east, &offer(first)), (&west, &offer(second))];
        Import::merge(&exports).unwrap().conflict.map(|c| c.winner)
    };
    assert_eq!(winner(None, Some("http")), None);
    assert_eq!(winner(Some("http"), None), None);
    assert_eq!(winner(None, Some("tcp")), Some(cluster("east")));
}
