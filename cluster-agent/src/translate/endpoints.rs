//! Pure. EDS: what a class of clients is handed for one service port and subset, as `model::horizon` computes it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use envoy_types::pb::envoy::config::endpoint::v3::Endpoint;
use envoy_types::pb::google::protobuf::UInt32Value;
use meshfed_model::horizon::{Assignment, Candidates, GatewayCandidate, Item, Via};
use meshfed_model::locality::Locality;
use meshfed_model::names::ClusterName;
use prost::Message as _;
use prost_types::value::Kind as ValueKind;
use prost_types::{ListValue, Struct, Value};

use super::clusters::{MATCH_CLUSTER, MATCH_MODE};
use super::messages::address;
use super::names::OutboundName;
use super::resource::{Kind, Resource};

/// Health status HEALTHY of `envoy.config.core.v3`.
const HEALTHY: i32 = 1;

// `envoy.config.endpoint.v3` with sorted maps: the crate's own types hold hash maps, whose bytes differ from run to run.

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

/// Leaves out what no client may be handed: mTLS candidates of clusters whose identities are not known.
pub fn keep_identified(candidates: &mut Candidates, identified: &BTreeSet<ClusterName>) {
    candidates.endpoints.retain(|e| !e.mtls || identified.contains(&e.cluster));
    candidates.groups.retain(|g| identified.contains(&g.cluster));
}

/// Gateways of other networks only: those of the client's own network lead nowhere new.
#[must_use]
pub fn gateways_of(
    all: &BTreeMap<ClusterName, Vec<GatewayCandidate>>,
    clusters: &BTreeSet<ClusterName>,
) -> Vec<GatewayCandidate> {
    clusters.iter().filter_map(|c| all.get(c)).flatten().cloned().collect()
}

/// The encoded assignment.
#[must_use]
pub fn encode(xds_name: &str, outbound: &OutboundName, assignment: &Assignment) -> Arc<Resource> {
    let mut groups: BTreeMap<(u32, &Locality), Vec<&Item>> = BTreeMap::new();
    for item in &assignment.items {
        groups.entry((item.priority, &item.locality)).or_default().push(item);
    }
    let endpoints = groups.into_iter().map(|((priority, locality), items)| {
        let weight = items.iter().fold(0_u32, |sum, i| sum.saturating_add(i.weight));
        LocalityLbEndpoints {
            locality: Some(WireLocality {
                region: locality.region.clone(),
                zone: locality.zone.clone(),
                sub_zone: locality.subzone.clone(),
            }),
            lb_endpoints: items.into_iter().map(|i| endpoint(outbound, i)).collect(),
            load_balancing_weight: Some(UInt32Value { value: weight }),
            priority,
        }
    });
    let message = ClusterLoadAssignment { cluster_name: xds_name.to_owned(), endpoints: endpoints.collect() };
    Resource::of_bytes(Kind::Endpoint, xds_name, Bytes::from(message.encode_to_vec()))
}

fn endpoint(outbound: &OutboundName, item: &Item) -> LbEndpoint {
    let host = Endpoint { address: Some(address(SocketAddr::new(item.address, item.port))), ..Endpoint::default() };
    let transport = if item.mtls { (MATCH_CLUSTER, item.cluster.as_str()) } else { (MATCH_MODE, "plaintext") };
    let mut ours = BTreeMap::from([
        ("cluster".to_owned(), text(item.cluster.as_str())),
        ("network".to_owned(), text(item.network.as_str())),
        ("service".to_owned(), text(&outbound.service.to_string())),
        ("tier".to_owned(), number(f64::from(item.tier))),
        ("via".to_owned(), text(via(item.via))),
    ]);
    if !item.groups.is_empty() {
        let groups = item.groups.iter().map(|g| {
            structure(BTreeMap::from([
                ("locality".to_owned(), text(&g.locality.to_string())),
                ("tier".to_owned(), number(f64::from(g.tier))),
                ("ready".to_owned(), number(f64::from(g.ready))),
                ("total".to_owned(), number(f64::from(g.total))),
                ("share".to_owned(), number(g.share.to_f64())),
            ]))
        });
        let list = ListValue { values: groups.collect() };
        ours.insert("groups".to_owned(), Value { kind: Some(ValueKind::ListValue(list)) });
    }
    let filter_metadata = BTreeMap::from([
        (
            "envoy.transport_socket_match".to_owned(),
            Struct { fields: BTreeMap::from([(transport.0.to_owned(), text(transport.1))]) },
        ),
        ("meshfed".to_owned(), Struct { fields: ours }),
    ]);
    LbEndpoint {
        endpoint: Some(host),
        health_status: HEALTHY,
        metadata: Some(Metadata { filter_metadata }),
        load_balancing_weight: Some(UInt32Value { value: item.weight }),
    }
}

/// `direct` or `gateway`.
#[must_use]
pub const fn via(via: Via) -> &'static str {
    match via {
        Via::Direct => "direct",
        Via::Gateway => "gateway",
    }
}

fn text(value: &str) -> Value {
    Value { kind: Some(ValueKind::StringValue(value.to_owned())) }
}
const fn number(value: f64) -> Value {
    Value { kind: Some(ValueKind::NumberValue(value)) }
}
const fn structure(fields: BTreeMap<String, Value>) -> Value {
    Value { kind: Some(ValueKind::StructValue(Struct { fields })) }
}
