//! What crosses the border comes back as it was; what is wrong is refused by the name of its field.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::net::IpAddr;

use meshfed_model::bundle::Bundle;
use meshfed_model::export::{ClusterSelector, ExportTo};
use meshfed_model::identity::SpiffeId;
use meshfed_model::locality::Locality;
use meshfed_model::member::{Member, Members};
use meshfed_model::names::{ClusterName, Namespace, NetworkName, ServiceName, SubsetName};
use meshfed_model::network::{Cidr, Network};
use meshfed_model::offer::{
    EndpointKey, EndpointOffer, Exported, GatewayKey, GatewayOffer, GroupKey, GroupOffer, OfferKey, OfferValue,
    ServiceOffer, Tombstone,
};
use meshfed_model::policy::{
    ExportPolicy, FailoverPolicy, FailoverSpec, FleetPolicies, FleetSettings, OutboundPolicy, PolicySource,
    PolicyTarget, Relative, SelectItem, Selector, ServicePattern, Tier,
};
use meshfed_model::service::{
    InternalTrafficPolicy, IpFamily, ServicePort, ServiceTraits, ServiceType, SessionAffinity,
};
use meshfed_model::version::Version;
use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::proto::federation as pb;
use crate::stream::{Delta, PART_BYTES, Upsert, size_limit};

fn over_the_wire<M: Message + Default>(message: &M) -> M {
    M::decode(message.encode_to_vec().as_slice()).unwrap()
}

/// Model → message → bytes → message → model.
fn there_and_back<T, M>(value: &T) -> T
where
    T: TryFrom<M, Error = InvalidMessage> + Debug,
    M: Message + Default + for<'a> From<&'a T>,
{
    T::try_from(over_the_wire(&M::from(value))).unwrap()
}

fn label() -> impl Strategy<Value = String> {
    "[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?"
}
fn cluster() -> impl Strategy<Value = ClusterName> {
    label().prop_map(|l| ClusterName::new(l).unwrap())
}
fn network() -> impl Strategy<Value = NetworkName> {
    label().prop_map(|l| NetworkName::new(l).unwrap())
}
fn service() -> impl Strategy<Value = ServiceName> {
    (label(), label()).prop_map(|(n, s)| ServiceName::new(n, s).unwrap())
}
fn subset() -> impl Strategy<Value = SubsetName> {
    option::of(label()).prop_map(|s| SubsetName::new(s.unwrap_or_default()).unwrap())
}
fn locality() -> impl Strategy<Value = Locality> {
    "([a-zA-Z0-9._-]{1,9}(/[a-zA-Z0-9._-]{1,9}){0,2})?".prop_map(|l| l.parse().unwrap())
}
fn identity() -> impl Strategy<Value = SpiffeId> {
    (label(), label(), label()).prop_map(|(t, n, s)| format!("spiffe://{t}.f.x/ns/{n}/sa/{s}").parse().unwrap())
}
fn address() -> impl Strategy<Value = IpAddr> {
    let v6 = any::<u64>().prop_map(|n| IpAddr::V6((0xfd00_u128 << 112 | u128::from(n)).into()));
    prop_oneof![(1u8..224, any::<[u8; 3]>()).prop_map(|(a, [b, c, d])| IpAddr::from([a, b, c, d])), v6]
}
fn export_to() -> impl Strategy<Value = ExportTo> {
    let selector = (btree_set("[a-z*]{1,6}", 0..3), btree_map(label(), label(), 0..3))
        .prop_map(|(clusters, labels)| ClusterSelector { clusters, labels });
    prop_oneof![Just(ExportTo::Everyone), btree_set(selector, 0..3).prop_map(ExportTo::Selected)]
}
fn service_port() -> impl Strategy<Value = ServicePort> {
    (label(), 1u16.., option::of(label())).prop_map(|(name, port, app_protocol)| ServicePort {
        name,
        port,
        protocol: "TCP".to_owned(),
        app_protocol,
    })
}

fn service_traits() -> impl Strategy<Value = ServiceTraits> {
    let family = prop_oneof![Just(IpFamily::IPv4), Just(IpFamily::IPv6)];
    (option::of(1u32..=86_400), any::<bool>(), option::of(label()), vec(family, 0..3)).prop_map(
        |(seconds, local, traffic_distribution, ip_families)| ServiceTraits {
            session_affinity: seconds
                .map_or(SessionAffinity::None, |timeout_seconds| SessionAffinity::ClientIP { timeout_seconds }),
            internal_traffic_policy: if local { InternalTrafficPolicy::Local } else { InternalTrafficPolicy::Cluster },
            traffic_distribution,
            ip_families,
        },
    )
}
fn exported() -> impl Strategy<Value = Exported> {
    let lines = "[a-z]{0,5}(\n[a-z]{0,5}){0,2}";
    (btree_map(label(), label(), 0..3), btree_map(label(), lines, 0..3))
        .prop_map(|(labels, annotations)| Exported { labels, annotations })
}

fn resource() -> impl Strategy<Value = (OfferKey, OfferValue)> {
    let said = (service_traits(), exported());
    let a_service =
        (service(), vec(service_port(), 0..4), export_to(), btree_set(identity(), 0..4), any::<bool>(), said).prop_map(
            |(service, ports, export_to, identities, headless, (traits, exported))| {
                let service_type = if headless { ServiceType::Headless } else { ServiceType::ClusterSetIP };
                let offer = ServiceOffer { service_type, ports, export_to, identities, traits, exported };
                (OfferKey::Service(service), OfferValue::Service(offer))
            },
        );
    let a_group = (service(), 1u16.., subset(), network(), locality(), 0..=COUNT_MAX, 0..=COUNT_MAX).prop_map(
        |(service, port, subset, network, locality, a, b)| {
            let offer = GroupOffer { ready: a.min(b), total: a.max(b), weight: u64::from(a.min(b)) };
            (OfferKey::Group(GroupKey { service, port, subset, network, locality }), OfferValue::Group(offer))
        },
    );
    let key = (service(), 1u16.., subset(), network(), address(), 1u16..);
    let an_endpoint = (key, locality(), 0..=WEIGHT_MAX, any::<(bool, bool)>(), identity(), label()).prop_map(
        |((service, port, subset, network, address, target_port), locality, weight, (ready, draining), identity, w)| {
            let key = EndpointKey { service, port, subset, network, address, target_port };
            let offer = EndpointOffer { locality, weight, ready, draining, identity, workload: w };
            (OfferKey::Endpoint(key), OfferValue::Endpoint(offer))
        },
    );
    let a_gateway = (network(), address(), 1u16.., locality(), any::<bool>()).prop_map(
        |(network, address, port, locality, ready)| {
            let offer = GatewayOffer { locality, ready };
            (OfferKey::Gateway(GatewayKey { network, address, port }), OfferValue::Gateway(offer))
        },
    );
    prop_oneof![a_service, a_group, an_endpoint, a_gateway]
}

fn version() -> impl Strategy<Value = Version> {
    any::<(u64, u64)>().prop_map(|(e, r)| Version::new(e, r))
}

prop_compose! {
    fn delta()(
        base in version(), version in version(), (complete, more) in any::<(bool, bool)>(), tombstone_floor: u64,
        upserts in vec((resource(), any::<u64>()), 0..5), removals in vec((resource(), any::<u64>(), export_to()), 0..5),
    ) -> Delta {
        let upsert = |((key, value), revision)| Upsert { key, revision, value };
        let removal = |((key, _), revision, audience)| Tombstone { key, revision, audience };
        Delta {
            base, version, complete, more, tombstone_floor,
            upserts: upserts.into_iter().map(upsert).collect(),
            removals: removals.into_iter().map(removal).collect(),
        }
    }
}

fn cidrs() -> impl Strategy<Value = BTreeSet<Cidr>> {
    btree_set((address(), 0u8..=32).prop_map(|(a, bits)| Cidr::new(a, bits).unwrap()), 0..3)
        .prop_map(|c| c.into_iter().filter(|c| c.to_string().parse() == Ok(*c)).collect())
}
prop_compose! {
    fn member()(
        cluster in cluster(), domain in label(), labels in btree_map(label(), label(), 0..3), drained: bool, leaving: bool,
        networks in vec((network(), cidrs()), 0..3), gateway_cidrs in cidrs(), regions in btree_set(label(), 0..3),
    ) -> Member {
        Member {
            cluster, labels, drained, leaving, gateway_cidrs, regions,
            trust_domain: format!("{domain}.f.x").parse().unwrap(),
            networks: networks.into_iter().map(|(name, cidrs)| Network { name, cidrs }).collect(),
        }
    }
}
fn select_item(weighted: bool) -> impl Strategy<Value = SelectItem> {
    let selector = prop_oneof![
        cluster().prop_map(Selector::Cluster),
        label().prop_map(Selector::Region),
        label().prop_map(Selector::Zone),
        proptest::sample::select(vec![Relative::SameCluster, Relative::SameZone, Relative::SameRegion, Relative::Any])
            .prop_map(Selector::Relative),
    ];
    (selector, 0..=WEIGHT_MAX).prop_map(move |(selector, w)| SelectItem { selector, weight: weighted.then_some(w) })
}
fn tier() -> impl Strategy<Value = Tier> {
    let select = any::<bool>().prop_flat_map(|weighted| vec(select_item(weighted), 1..4));
    (label(), select, 0u32..=100, any::<u32>()).prop_map(|(name, select, percent, minimum)| Tier {
        name,
        select,
        min_healthy_percent: percent,
        min_healthy_endpoints: minimum,
    })
}
prop_compose! {
    fn policies()(
        revision: u64,
        failover in vec((option::of(label()), option::of(label()), any::<bool>(), vec(tier(), 0..3), any::<(u32, u32)>()), 0..4),
        export in vec((vec(("[a-z*]{1,4}", "[a-z*]{1,4}"), 0..3), btree_set("[a-z*]{1,4}", 0..3)), 0..3),
        settings in (option::of(any::<bool>()), option::of("[a-z]{1,9}(\\.[a-z]{1,9}){0,2}")),
    ) -> FleetPolicies {
        type Row = (Option<String>, Option<String>, bool, Vec<Tier>, (u32, u32));
        let policy = |(namespace, name, api, tiers, (hold_down_seconds, ramp_up_seconds)): Row| FailoverPolicy {
            target: match (namespace, name) {
                (None, _) => PolicyTarget::Default,
                (Some(n), None) => PolicyTarget::Namespace(Namespace::new(n).unwrap()),
                (Some(n), Some(s)) => PolicyTarget::Service(ServiceName::new(n, s).unwrap()),
            },
            source: if api { PolicySource::Api } else { PolicySource::Fleet },
            spec: FailoverSpec { tiers, hold_down_seconds, ramp_up_seconds },
        };
        let export_policy = |(services, clusters): (Vec<(String, String)>, BTreeSet<String>)| ExportPolicy {
            services: services.into_iter().map(|(namespace, name)| ServicePattern { namespace, name }).collect(),
            to: ClusterSelector { clusters, labels: BTreeMap::new() },
        };
        FleetPolicies {
            revision,
            failover: failover.into_iter().map(policy).collect(),
            export: export.into_iter().map(export_policy).collect(),
            settings: FleetSettings {
                outbound: settings.0.map(|any| if any { OutboundPolicy::AllowAny } else { OutboundPolicy::RegistryOnly }),
                clusterset_domain: settings.1,
            },
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Mutations seen to fail: `target_port` written as `port`; an audience of nobody written as everyone.
    #[test]
    fn deltas_come_back(delta in delta()) {
        prop_assert_eq!(there_and_back::<Delta, pb::Delta>(&delta), delta);
    }

    #[test]
    fn members_and_bundles_come_back(
        revision: u64, members in vec(member(), 0..4), certificates in vec((vec(any::<u8>(), 1..9), vec(any::<u8>(), 1..9)), 0..3),
    ) {
        let members = Members { revision, members: members.into_iter().map(|m| (m.cluster.clone(), m)).collect() };
        prop_assert_eq!(there_and_back::<Members, pb::Members>(&members), members);
        let (anchors, lineages) = certificates.into_iter().unzip();
        let bundle = Bundle { trust_domain: "east.f.x".parse().unwrap(), serial: revision, anchors, lineages };
        prop_assert_eq!(there_and_back::<Bundle, pb::Bundle>(&bundle), bundle);
    }

    /// Mutations seen to fail: zones written as regions; settings left out of the message.
    #[test]
    fn policies_come_back(policies in policies()) {
        prop_assert_eq!(there_and_back::<FleetPolicies, pb::Policies>(&policies), policies);
    }

    #[test]
    fn greetings_come_back(
        numbers: (u32, u32, u64, u64), offer in version(),
        view in btree_map(cluster(), (version(), any::<u64>()), 0..4),
        bundles in btree_map(label(), any::<u64>(), 0..3), namespaces in btree_set(label(), 0..3), keys in vec(resource(), 0..3),
    ) {
        let names = |labels: BTreeSet<String>| labels.into_iter().map(|l| Namespace::new(l).unwrap()).collect();
        let (protocol, replica, offer_floor, policy_revision) = numbers;
        let held = |(c, (version, filter))| (c, HeldOrigin { version, filter });
        let hello = Hello {
            protocol, replica, offer, offer_floor, policy_revision,
            version: "0.1.0".to_owned(),
            clock: "2026-01-01T00:00:00Z".to_owned(),
            view: view.into_iter().map(held).collect(),
            bundles: bundles.into_iter().map(|(t, s)| (format!("{t}.f.x").parse().unwrap(), s)).collect(),
            interest: Interest { namespaces: names(namespaces) },
            instance: format!("pod-{replica}"),
            lease: (replica % 2 == 0).then_some(Lease {
                held: protocol % 2 == 0,
                epoch: LeaseEpoch { since: offer_floor, transitions: policy_revision },
            }),
        };
        prop_assert_eq!(there_and_back::<Hello, pb::Hello>(&hello), hello);
        let refusal = |(key, _)| Refusal::of(key, Class::AlreadyExists, "GatewayAddressTaken", "no");
        let ack = Ack {
            origin: ClusterName::new("east").unwrap(), version: offer, refused: keys.into_iter().map(refusal).collect(),
        };
        prop_assert_eq!(there_and_back::<Ack, pb::Ack>(&ack), ack);
    }

    /// By what parts are cut and objects are judged. Mutation seen to fail: the audience left out of `value_size`.
    #[test]
    fn the_size_limit_is_never_too_low((key, value) in resource(), labels in btree_map(label(), label(), 0..40), revision: u64) {
        let mut value = value;
        if let OfferValue::Service(s) = &mut value {
            let clusters = labels.keys().cloned().collect();
            s.export_to = ExportTo::Selected([ClusterSelector { clusters, labels }].into());
        }
        prop_assert!(resource_bytes(&key, revision, &value) <= size_limit(&key, &value));
    }

    /// Whatever bytes a peer sends, they are read or refused.
    #[test]
    fn garbage_is_refused(bytes in vec(any::<u8>(), 0..200)) {
        if let Ok(message) = pb::Delta::decode(bytes.as_slice()) {
            let _read = Delta::try_from(message.clone());
            let _part = Part::try_from(message);
        }
    }
}

fn endpoint_key(address: &[u8], port: u32, target_port: u32, network: &str) -> pb::ResourceKey {
    let service = Some(pb::ServiceKey { namespace: "shop".to_owned(), name: "b".to_owned() });
    let key = pb::EndpointKey {
        service,
        port,
        subset: "_".to_owned(),
        network: network.to_owned(),
        address: address.to_vec(),
        target_port,
    };
    pb::ResourceKey { key: Some(pb::resource_key::Key::Endpoint(key)) }
}

/// Mutations seen to fail: `address_allowed` not asked; port 0 let through.
#[test]
fn keys_are_refused_by_field() {
    let v6 = |s: &str| s.parse::<std::net::Ipv6Addr>().unwrap().octets().to_vec();
    let good = [10, 0, 0, 1].to_vec();
    for (address, port, target_port, network, field) in [
        (v6("::ffff:10.0.0.1"), 80, 80, "n", "endpoint.address"),
        (v6("fe80::1"), 80, 80, "n", "endpoint.address"),
        (v6("ff02::1"), 80, 80, "n", "endpoint.address"),
        (v6("::"), 80, 80, "n", "endpoint.address"),
        (vec![224, 0, 0, 1], 80, 80, "n", "endpoint.address"),
        (vec![0, 0, 0, 0], 80, 80, "n", "endpoint.address"),
        (vec![10, 0, 0], 80, 80, "n", "endpoint.address"),
        (Vec::new(), 80, 80, "n", "endpoint.address"),
        (good.clone(), 0, 80, "n", "endpoint.port"),
        (good.clone(), 80, 0, "n", "endpoint.target_port"),
        (good.clone(), 65_536, 80, "n", "endpoint.port"),
        (good.clone(), 80, 80, "N", "endpoint.network"),
        (good.clone(), 80, 80, &"n".repeat(5000), "endpoint.network"),
    ] {
        let refused = OfferKey::try_from(endpoint_key(&address, port, target_port, network)).unwrap_err();
        assert_eq!(refused.field, field, "{refused}");
        assert!(refused.to_string().len() < 400);
    }
    assert!(OfferKey::try_from(endpoint_key(&good, 80, 80, "n")).is_ok());
    assert_eq!(OfferKey::try_from(pb::ResourceKey::default()).unwrap_err().field, "key");
}

/// Mutation seen to fail: the limit on `upserts` left out; a heavy weight not clamped.
#[test]
fn limits_hold() {
    let resource = |value| pb::Resource { key: Some(endpoint_key(&[10, 0, 0, 1], 80, 80, "n")), revision: 1, value };
    let endpoint = pb::EndpointOffer {
        weight: u32::MAX,
        identity: "spiffe://east.f.x/ns/shop/sa/b".to_owned(),
        ..pb::EndpointOffer::default()
    };
    let good = resource(Some(pb::resource::Value::Endpoint(endpoint)));
    let OfferValue::Endpoint(read) = Upsert::try_from(good.clone()).unwrap().value else { panic!("an endpoint") };
    assert_eq!(read.weight, WEIGHT_MAX);
    let version = Some(pb::Version { epoch: 1, revision: 1 });
    let delta = |upserts: Vec<pb::Resource>| Delta::try_from(pb::Delta { version, upserts, ..pb::Delta::default() });
    assert!(delta(vec![good.clone(); 256]).is_ok());
    assert_eq!(delta(vec![good.clone(); 257]).unwrap_err().field, "upserts and removals");
    assert_eq!(delta(vec![good, resource(None)]).unwrap_err().field, "upserts[1].value");
    let missing = Delta::try_from(pb::Delta::default()).unwrap_err();
    assert_eq!(missing.to_string(), "version: is missing");
    let group = |ready, total, weight| GroupOffer::try_from(pb::GroupOffer { ready, total, weight });
    assert_eq!(group(2, 1, 1).unwrap_err().field, "ready");
    assert_eq!(group(1, COUNT_MAX + 1, 1).unwrap_err().field, "total");
    assert_eq!(group(2, 3, u64::MAX).unwrap().weight, 2 * u64::from(WEIGHT_MAX));
    assert_eq!(group(0, 3, 7).unwrap().weight, 0);
}

/// A placement is that of its own trust domain. Mutation seen to fail: the comparison left out.
#[test]
fn a_placement_fits_its_fleet() {
    let response = |trust_domain: &str| pb::JoinResponse {
        cluster: "east".to_owned(),
        trust_domain: trust_domain.to_owned(),
        fleet: "mesh.example".to_owned(),
        networks: vec![pb::Network { name: "net-east".to_owned(), cidrs: vec!["127.1.0.0/16".to_owned()] }],
        regions: vec!["eu".to_owned()],
        ..pb::JoinResponse::default()
    };
    let placement = Placement::try_from(&response("east.mesh.example")).unwrap();
    assert_eq!(placement.networks[0].cidrs.len(), 1);
    assert_eq!(Placement::try_from(&response("west.mesh.example")).unwrap_err().field, "trust_domain");
}

/// A name that is none goes into logs and back to its sender: short, without control characters, and readable there.
/// Mutation seen to fail: `is_control` not looked at in `shown`.
#[test]
fn a_key_that_is_none_is_still_a_name() {
    let long = "x\u{1b}[31m".repeat(10_000);
    let service = Some(pb::ServiceKey { namespace: long.clone(), name: "b\n".to_owned() });
    let key = pb::GroupKey { service, port: 0, subset: String::new(), network: long, locality: String::new() };
    let key = pb::ResourceKey { key: Some(pb::resource_key::Key::Group(key)) };
    let resource = pb::Resource { key: Some(key), revision: 1, value: None };
    let message = pb::Delta { version: Some(pb::Version::default()), upserts: vec![resource], ..pb::Delta::default() };
    let part = Part::try_from(message).unwrap();
    assert_eq!((part.refused.len(), part.kept.len(), part.delta.upserts.len()), (1, 0, 0));
    let ack = Ack { origin: ClusterName::new("east").unwrap(), version: Version::new(1, 1), refused: part.refused };
    let told = there_and_back::<Ack, pb::Ack>(&ack);
    assert_eq!(told, ack);
    let named = told.refused[0].subject.to_string();
    assert!(named.len() < 300 && named.chars().all(|c| !c.is_control()), "{named}");
    assert_eq!((told.refused[0].code.as_str(), told.refused[0].class), ("ResourceTooLarge", Class::ResourceExhausted));
}

/// What an agent sends keeps to the limits of who reads it, whatever it offers. Mutation seen to fail: `PART_BYTES` not
/// looked at in `parts`.
#[test]
fn parts_keep_to_the_limits_of_their_reader() {
    let clusters: BTreeSet<String> = (0..200).map(|n| format!("{}-{n}", "c".repeat(200))).collect();
    let selectors = BTreeSet::from([ClusterSelector { clusters, labels: BTreeMap::new() }]);
    let upsert = |n: usize| {
        let offer = ServiceOffer {
            service_type: ServiceType::ClusterSetIP,
            ports: Vec::new(),
            export_to: ExportTo::Selected(selectors.clone()),
            ..ServiceOffer::default()
        };
        let key = OfferKey::Service(ServiceName::new("shop", format!("s{n}")).unwrap());
        Upsert { key, revision: 1, value: OfferValue::Service(offer) }
    };
    let delta = Delta {
        version: Version::new(1, 1),
        complete: true,
        upserts: (0..600).map(upsert).collect(),
        ..Delta::default()
    };
    let parts = delta.parts();
    assert!(parts.len() > 600 * 40_000 / PART_BYTES);
    let mut taken = 0;
    for part in parts {
        let message = pb::Delta::from(&part);
        assert!(message.encoded_len() <= PART_BYTES + OBJECT_MAX);
        let part = Part::try_from(over_the_wire(&message)).unwrap();
        assert_eq!(part.refused, vec![]);
        taken += part.delta.upserts.len();
    }
    assert_eq!(taken, 600);
}

/// Two ports of one number, or of one name, are one service's fault: it is refused by name with the field, its last good
/// value is kept, and what came with it is taken. The strict reading of importers does not end a session for it.
///
/// Mutations seen to fail: `told_apart` answering `Ok`; `names` not filled in `check_ports`.
#[test]
fn a_service_with_two_ports_of_one_number_is_refused_by_name() {
    let service = |name: &str, ports: &[(&str, u32)]| {
        let port = |(name, port): &(&str, u32)| pb::ServicePort {
            name: (*name).to_owned(),
            port: *port,
            protocol: "TCP".to_owned(),
            app_protocol: None,
        };
        let key = OfferKey::Service(ServiceName::new("shop", name).unwrap());
        let offer = pb::ServiceOffer {
            r#type: "ClusterSetIP".to_owned(),
            ports: ports.iter().map(port).collect(),
            ..pb::ServiceOffer::default()
        };
        let value = Some(pb::resource::Value::Service(offer));
        pb::Resource { key: Some((&key).into()), revision: 1, value }
    };
    let upserts = vec![
        service("good", &[("http", 80), ("admin", 81)]),
        service("number", &[("http", 80), ("admin", 81), ("more", 80)]),
        service("name", &[("http", 80), ("http", 81)]),
        service("nameless", &[("", 80), ("", 81)]),
    ];
    let message = pb::Delta { version: Some(pb::Version::default()), upserts, ..pb::Delta::default() };
    assert_eq!(Delta::try_from(message.clone()).unwrap().upserts.len(), 4);
    let part = Part::try_from(message).unwrap();
    let said: Vec<(String, &str, &str)> =
        part.refused.iter().map(|r| (r.subject.to_string(), r.code.as_str(), r.message.as_str())).collect();
    let code = "InvalidResource";
    let number = "service.ports[2].port: 80 is the number of ports[0] already; give each port a number of its own";
    let name = "service.ports[1].name: 'http' is the name of ports[0] already; give each port a name of its own";
    let nameless = "service.ports[1].name: '' is the name of ports[0] already; give each port a name of its own";
    let subject = |name: &str| Subject::Key(OfferKey::Service(ServiceName::new("shop", name).unwrap())).to_string();
    let want = [("number", code, number), ("name", code, name), ("nameless", code, nameless)];
    assert_eq!(said, want.map(|(s, code, message)| (subject(s), code, message)));
    assert_eq!((part.delta.upserts.len(), part.kept.len()), (1, 3));
    assert_eq!(part.refused_by_code, BTreeMap::from([(code, 3)]), "which is what the metric counts");
}

/// Mutations seen to fail: `at_most` left out of `seniority`; `clusters` of `services` sorted.
#[test]
fn the_order_of_exports_comes_back_and_has_a_limit() {
    let name = |n: usize| ServiceName::new("shop", format!("s{n}")).unwrap();
    let clusters = ["west", "east"].map(|c| ClusterName::new(c).unwrap()).to_vec();
    let order: Seniority = (0..SENIORITY_SERVICES_MAX).map(|n| (name(n), clusters.clone())).collect();
    assert_eq!(seniority(over_the_wire(&seniority_message(&order))).unwrap(), order);
    let mut more = order;
    more.insert(name(SENIORITY_SERVICES_MAX), Vec::new());
    let error = seniority(seniority_message(&more)).unwrap_err().to_string();
    assert!(error.starts_with("services: has 257 entries"), "{error}");
    let nameless = pb::ServiceSeniority { service: None, clusters: vec!["East".to_owned()] };
    let error = seniority(pb::Seniority { services: vec![nameless] }).unwrap_err().to_string();
    assert!(error.starts_with("services[0].clusters"), "{error}");
}

/// What an export adds to its import, and its affinity, have limits of their own.
///
/// Mutations seen to fail: `bytes > EXPORTED_BYTES` answered `false`; `1..=AFFINITY_SECONDS_MAX` replaced by `_`.
#[test]
fn what_an_export_carries_has_a_limit() {
    let refused = |offer: pb::ServiceOffer| {
        let offer = pb::ServiceOffer { r#type: "ClusterSetIP".to_owned(), ..offer };
        ServiceOffer::try_from(offer).err().map(|e| e.to_string()).unwrap_or_default()
    };
    let annotations = |bytes: usize| pb::ServiceOffer {
        exported_annotations: [("k".to_owned(), "v".repeat(bytes))].into(),
        ..pb::ServiceOffer::default()
    };
    assert_eq!(refused(annotations(EXPORTED_BYTES - 1)), "");
    assert!(refused(annotations(EXPORTED_BYTES)).contains("at most 16384 are allowed"));
    let labels = (0..=EXPORTED_MAX).map(|n| (n.to_string(), String::new())).collect();
    assert!(!refused(pb::ServiceOffer { exported_labels: labels, ..pb::ServiceOffer::default() }).is_empty());
    for seconds in [0, 86_401] {
        let said = refused(pb::ServiceOffer { affinity_seconds: Some(seconds), ..pb::ServiceOffer::default() });
        assert!(said.starts_with("affinity_seconds"), "{said}");
    }
    let said = refused(pb::ServiceOffer { ip_families: vec!["IPv5".to_owned()], ..pb::ServiceOffer::default() });
    assert!(said.starts_with("ip_families"), "{said}");
}
