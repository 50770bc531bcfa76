//! An ADS client as small as can be: it reads Envoy's messages with `envoy-types`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::core::v3::{Node, address::Address, socket_address::PortSpecifier};
use envoy_types::pb::envoy::config::endpoint::v3::{ClusterLoadAssignment, lb_endpoint::HostIdentifier};
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use envoy_types::pb::google::protobuf::{Struct, Value, value::Kind};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
const ENDPOINT: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
const DEADLINE: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Variant {
    Sotw,
    Delta,
}

/// One address as a client uses it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Handed {
    pub(crate) address: String,
    pub(crate) via: String,
    pub(crate) tier: u64,
    pub(crate) share: f64,
}

enum Stream {
    Sotw(mpsc::Sender<DiscoveryRequest>, Streaming<DiscoveryResponse>),
    Delta(mpsc::Sender<DeltaDiscoveryRequest>, Streaming<DeltaDiscoveryResponse>),
}

pub(crate) struct Client {
    node: Option<Node>,
    stream: Stream,
}

fn text(value: &str) -> Value {
    Value { kind: Some(Kind::StringValue(value.to_owned())) }
}
fn object(key: &str, value: Value) -> Value {
    Value { kind: Some(Kind::StructValue(fields(key, value))) }
}
fn fields(key: &str, value: Value) -> Struct {
    Struct { fields: [(key.to_owned(), value)].into_iter().collect() }
}

impl Client {
    pub(crate) async fn connect(socket: &Path, workload: &str, variant: Variant) -> Self {
        let channel = meshfed_runtime::grpc::connect_unix(socket).await.unwrap();
        let mut service = AggregatedDiscoveryServiceClient::new(channel);
        let stream = match variant {
            Variant::Sotw => {
                let (out, requests) = mpsc::channel(16);
                let answers = service.stream_aggregated_resources(ReceiverStream::new(requests)).await.unwrap();
                Stream::Sotw(out, answers.into_inner())
            }
            Variant::Delta => {
                let (out, requests) = mpsc::channel(16);
                let answers = service.delta_aggregated_resources(ReceiverStream::new(requests)).await.unwrap();
                Stream::Delta(out, answers.into_inner())
            }
        };
        let metadata = fields("meshfed", object("workload", text(workload)));
        let node = Node { id: "test".to_owned(), metadata: Some(metadata), ..Node::default() };
        Self { node: Some(node), stream }
    }

    /// Asks for a kind, waits for its first response, acknowledges it; the bodies by name.
    async fn ask(&mut self, type_url: &str, names: &[&str]) -> BTreeMap<String, Vec<u8>> {
        // The node goes with the first request only, as gRPC's C core does it.
        let node = self.node.take();
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let type_url = type_url.to_owned();
        match &mut self.stream {
            Stream::Sotw(out, answers) => {
                let ask = DiscoveryRequest {
                    node,
                    resource_names: names.clone(),
                    type_url: type_url.clone(),
                    ..DiscoveryRequest::default()
                };
                out.send(ask).await.unwrap();
                let answer = tokio::time::timeout(DEADLINE, answers.message())
                    .await
                    .expect("an answer in time")
                    .unwrap()
                    .unwrap();
                assert_eq!(answer.type_url, type_url);
                let ack = DiscoveryRequest {
                    version_info: answer.version_info,
                    resource_names: names,
                    type_url,
                    response_nonce: answer.nonce,
                    ..DiscoveryRequest::default()
                };
                out.send(ack).await.unwrap();
                let named = |any: &envoy_types::pb::google::protobuf::Any| {
                    (name_of(&any.type_url, &any.value), any.value.clone())
                };
                answer.resources.iter().map(named).collect()
            }
            Stream::Delta(out, answers) => {
                let ask = DeltaDiscoveryRequest {
                    node,
                    resource_names_subscribe: names,
                    type_url: type_url.clone(),
                    ..DeltaDiscoveryRequest::default()
                };
                out.send(ask).await.unwrap();
                let answer = tokio::time::timeout(DEADLINE, answers.message())
                    .await
                    .expect("an answer in time")
                    .unwrap()
                    .unwrap();
                assert_eq!(answer.type_url, type_url);
                let ack = DeltaDiscoveryRequest {
                    type_url,
                    response_nonce: answer.nonce,
                    ..DeltaDiscoveryRequest::default()
                };
                out.send(ack).await.unwrap();
                answer.resources.into_iter().map(|r| (r.name, r.resource.unwrap().value)).collect()
            }
        }
    }

    pub(crate) async fn clusters(&mut self) -> BTreeSet<String> {
        self.ask(CLUSTER, &[]).await.into_keys().collect()
    }

    /// The addresses of one assignment with their shares, when all that are handed out are healthy.
    pub(crate) async fn endpoints(&mut self, cluster: &str) -> Vec<Handed> {
        let bodies = self.ask(ENDPOINT, &[cluster]).await;
        let assignment = ClusterLoadAssignment::decode(bodies[cluster].as_slice()).unwrap();
        assert_eq!(assignment.cluster_name, cluster);
        let mut handed = Vec::new();
        let mut first_priority = 0_u64;
        for locality in &assignment.endpoints {
            for endpoint in &locality.lb_endpoints {
                let Some(HostIdentifier::Endpoint(host)) = &endpoint.host_identifier else { panic!("no address") };
                let Some(Address::SocketAddress(at)) = host.address.as_ref().unwrap().address.as_ref() else {
                    panic!("no socket")
                };
                let Some(PortSpecifier::PortValue(port)) = at.port_specifier else { panic!("no port") };
                let ours = &endpoint.metadata.as_ref().unwrap().filter_metadata["meshfed"].fields;
                let Some(Kind::StringValue(via)) = &ours["via"].kind else { panic!("no via") };
                let Some(Kind::NumberValue(tier)) = ours["tier"].kind else { panic!("no tier") };
                let weight = u64::from(endpoint.load_balancing_weight.unwrap().value);
                assert!(weight > 0);
                // Envoy sends everything to the first priority while all of it is healthy.
                let counts = if locality.priority == 0 { weight } else { 0 };
                first_priority += counts;
                let address = std::net::SocketAddr::new(at.address.parse().unwrap(), u16::try_from(port).unwrap());
                handed.push((address.to_string(), via.clone(), tier as u64, counts));
            }
        }
        let mut addresses: Vec<&String> = handed.iter().map(|h| &h.0).collect();
        addresses.sort();
        addresses.dedup();
        assert_eq!(addresses.len(), handed.len(), "Envoy drops repeated addresses");
        let mut handed: Vec<Handed> = handed
            .into_iter()
            .map(|(address, via, tier, weight)| Handed {
                address,
                via,
                tier,
                share: weight as f64 / first_priority as f64,
            })
            .collect();
        handed.sort_by(|a, b| a.address.cmp(&b.address));
        handed
    }
}

fn name_of(type_url: &str, body: &[u8]) -> String {
    match type_url {
        CLUSTER => Cluster::decode(body).unwrap().name,
        ENDPOINT => ClusterLoadAssignment::decode(body).unwrap().cluster_name,
        other => panic!("{other}"),
    }
}
