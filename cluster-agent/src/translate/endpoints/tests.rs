use std::collections::BTreeMap;

use envoy_types::pb::envoy::config::endpoint::v3::Endpoint;
use envoy_types::pb::google::protobuf::UInt32Value;
use meshfed_model::names::NetworkName;
use meshfed_model::share::Share;
use num_rational::Ratio;
use prost::Message as _;
use prost_types::value::Kind as ValueKind;
use prost_types::{ListValue, Struct, Value};

use super::super::messages::address;
use super::*;

// `envoy.config.endpoint.v3` as prost would write it, with sorted maps.

#[derive(Clone, PartialEq, prost::Message)]
struct ClusterLoadAssignment {
    #[prost(string, tag = "1")]
    cluster_name: String,
    #[prost(message, repeated, tag = "2")]
    endpoints: Vec<LocalityLbEndpoints>,
}
#[derive(Clone, PartialEq, prost::Message)]
struct LocalityLbEndpoints {
    #[prost(message, optional, tag = "1")]
    locality: Option<WireLocality>,
    #[prost(message, repeated, tag = "2")]
    lb_endpoints: Vec<LbEndpoint>,
    #[prost(message, optional, tag = "3")]
    load_balancing_weight: Option<UInt32Value>,
    #[prost(uint32, tag = "5")]
    priority: u32,
}
#[derive(Clone, PartialEq, prost::Message)]
struct WireLocality {
    #[prost(string, tag = "1")]
    region: String,
    #[prost(string, tag = "2")]
    zone: String,
    #[prost(string, tag = "3")]
    sub_zone: String,
}
#[derive(Clone, PartialEq, prost::Message)]
struct LbEndpoint {
    #[prost(message, optional, tag = "1")]
    endpoint: Option<Endpoint>,
    #[prost(int32, tag = "2")]
    health_status: i32,
    #[prost(message, optional, tag = "3")]
    metadata: Option<Metadata>,
    #[prost(message, optional, tag = "4")]
    load_balancing_weight: Option<UInt32Value>,
}
#[derive(Clone, PartialEq, prost::Message)]
struct Metadata {
    #[prost(btree_map = "string, message", tag = "1")]
    filter_metadata: BTreeMap<String, Struct>,
}

fn string(value: &str) -> Value {
    Value { kind: Some(ValueKind::StringValue(value.to_owned())) }
}
fn float(value: f64) -> Value {
    Value { kind: Some(ValueKind::NumberValue(value)) }
}

fn by_prost(service: &ServiceName, item: &Item) -> LbEndpoint {
    let host = std::net::SocketAddr::new(item.address, item.port);
    let transport = if item.mtls { ("cluster", item.cluster.as_str()) } else { ("mode", "plaintext") };
    let mut ours = BTreeMap::from([
        ("cluster".to_owned(), string(item.cluster.as_str())),
        ("network".to_owned(), string(item.network.as_str())),
        ("service".to_owned(), string(&service.to_string())),
        ("tier".to_owned(), float(item.tier.into())),
        ("via".to_owned(), string(via(item.via))),
    ]);
    if !item.groups.is_empty() {
        let values = item.groups.iter().map(|g| {
            let fields = BTreeMap::from([
                ("locality".to_owned(), string(&g.locality.to_string())),
                ("tier".to_owned(), float(g.tier.into())),
                ("ready".to_owned(), float(g.ready.into())),
                ("total".to_owned(), float(g.total.into())),
                ("share".to_owned(), float(g.share.to_f64())),
            ]);
            Value { kind: Some(ValueKind::StructValue(Struct { fields })) }
        });
        let list = ValueKind::ListValue(ListValue { values: values.collect() });
        ours.insert("groups".to_owned(), Value { kind: Some(list) });
    }
    let filter_metadata = BTreeMap::from([
        (
            "envoy.transport_socket_match".to_owned(),
            Struct { fields: BTreeMap::from([(transport.0.to_owned(), string(transport.1))]) },
        ),
        ("meshfed".to_owned(), Struct { fields: ours }),
    ]);
    LbEndpoint {
        endpoint: Some(Endpoint { address: Some(address(host)), ..Endpoint::default() }),
        health_status: 1,
        metadata: Some(Metadata { filter_metadata }),
        load_balancing_weight: Some(UInt32Value { value: item.weight }),
    }
}

fn item(n: u32) -> Item {
    let share = |numer: u32| Share::from(Ratio::<u128>::new(numer.into(), 7));
    let group = |numer| GroupShare {
        locality: if numer == 1 { Locality::default() } else { Locality::new("eu", "eu-1") },
        tier: numer,
        ready: numer,
        total: 300,
        share: share(numer),
    };
    Item {
        address: if n.is_multiple_of(3) { [0xfd00, 0, 0, 0, 0, 0, 0, 9].into() } else { [10, 0, 1, 2].into() },
        port: if n == 4 { 0 } else { 15443 },
        via: if n.is_multiple_of(2) { Via::Gateway } else { Via::Direct },
        cluster: ClusterName::new(if n == 5 { "east" } else { "west" }).unwrap(),
        network: NetworkName::new(if n == 6 { "net-2" } else { "net-1" }).unwrap(),
        locality: ["", "eu", "eu/eu-1", "eu/eu-1/rack-4"][n as usize % 4].parse().unwrap(),
        mtls: n != 3,
        tier: n / 4,
        priority: n / 5,
        weight: 1 << n,
        share: share(n % 7),
        groups: if n.is_multiple_of(2) { (0..n / 2).map(group).collect() } else { Vec::new() },
    }
}

/// The bytes are those that prost makes of the same message.
///
/// Mutations seen to fail: `metadata_of` compares no groups; `chosen_number` leaves 0 out; `tier` after `total` in
/// `group`.
#[test]
fn an_assignment_has_the_bytes_of_its_message() {
    let service = ServiceName::new("shop", "b").unwrap();
    let only_groups_differ = vec![item(2), Item { groups: Vec::new(), ..item(2) }, item(2)];
    let all = (0..9).map(item).collect::<Vec<_>>();
    for items in [vec![], vec![item(0)], only_groups_differ, all, (0..9).chain(0..9).map(item).collect()] {
        let mut groups: BTreeMap<(u32, &Locality), Vec<&Item>> = BTreeMap::new();
        for item in &items {
            groups.entry((item.priority, &item.locality)).or_default().push(item);
        }
        let endpoints = groups.into_iter().map(|((priority, locality), items)| LocalityLbEndpoints {
            locality: Some(WireLocality {
                region: locality.region.to_string(),
                zone: locality.zone.to_string(),
                sub_zone: locality.subzone.to_string(),
            }),
            lb_endpoints: items.iter().map(|i| by_prost(&service, i)).collect(),
            load_balancing_weight: Some(UInt32Value { value: items.iter().map(|i| i.weight).sum() }),
            priority,
        });
        let want = ClusterLoadAssignment { cluster_name: "x|y".to_owned(), endpoints: endpoints.collect() };
        let encoded = encode(&service, &Assignment { items: items.clone(), dropped: Vec::new() });
        assert_eq!(encoded.named("x|y").body, want.encode_to_vec(), "{items:?}");
        assert_eq!(encoded.named("x|y").version, encoded.named("z").version, "names are not compared");
    }
}
