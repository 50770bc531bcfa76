//! Pure. CDS: where a client's, a gateway's and an inbound listener's connections go, and how they are protected.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use envoy_types::pb::envoy::config::cluster::v3::circuit_breakers::Thresholds;
use envoy_types::pb::envoy::config::cluster::v3::circuit_breakers::thresholds::RetryBudget;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, CommonLbConfig, DiscoveryType, EdsClusterConfig, LbPolicy, TransportSocketMatch,
};
use envoy_types::pb::envoy::config::cluster::v3::{CircuitBreakers, Cluster};
use envoy_types::pb::envoy::config::core::v3::{BindConfig, ExtraSourceAddress, TransportSocket};
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint::HostIdentifier,
};
use envoy_types::pb::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::common_tls_context::{
    CombinedCertificateValidationContext, ValidationContextType,
};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::subject_alt_name_matcher::SanType;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{SubjectAltNameMatcher, UpstreamTlsContext};
use envoy_types::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};
use envoy_types::pb::envoy::r#type::v3::Percent;
use envoy_types::pb::google::protobuf::{Struct, Value, value::Kind as ValueKind};
use meshfed_model::service::PortProtocol;

use super::facts::PortFacts;
use super::messages::{SECRET_TRUST, Validation, ads, common_tls, sds, seconds, socket, transport_socket, uint32};
use super::names::{BLACK_HOLE, INBOUND_PASSTHROUGH, OutboundName, PASSTHROUGH, inbound_cluster};
use super::resource::{Kind, Resource};

/// Nobody has this identity: what an endpoint without a matching transport must show.
const NOBODY: &str = "spiffe://none.invalid/ns/none/sa/none";
/// Where connections to a captured application come from.
const INBOUND_SOURCE_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 6));
/// The only loopback address of IPv6.
const INBOUND_SOURCE_V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);
/// Time for a connect.
const CONNECT_TIMEOUT_SECONDS: i64 = 5;
/// The share of a cluster's requests under way that may be on their way again (L7-12).
const RETRY_PERCENT: f64 = 20.0;
/// So many may be in any case: a service of which one endpoint died is not to answer with errors until its endpoints are
/// told anew. Envoy's own 3 is below what a handful of clients have under way (decision 13).
const RETRY_LEAST: u32 = 100;

/// The match key in endpoint metadata of `mode: plaintext`.
pub(super) const MATCH_MODE: &str = "mode";
/// The match key in endpoint metadata that names the origin cluster.
pub(super) const MATCH_CLUSTER: &str = "cluster";

/// The cluster of a service port for clients; `sticky`: each client's address has one endpoint.
#[must_use]
pub fn outbound(name: &OutboundName, facts: &PortFacts, sticky: bool) -> Arc<Resource> {
    let http = facts.port.speaks() == PortProtocol::Http;
    let sni = name.sni();
    let mut matches = vec![plaintext()];
    for (cluster, identities) in &facts.identities {
        // Without an identity there is nobody to expect; endpoints of such a cluster are not handed out either.
        if identities.is_empty() {
            continue;
        }
        let expected: Vec<String> = identities.iter().map(ToString::to_string).collect();
        matches.push(TransportSocketMatch {
            name: cluster.to_string(),
            r#match: Some(one_field(MATCH_CLUSTER, cluster.as_str())),
            transport_socket: Some(upstream_tls(&sni, http, &expected)),
        });
    }
    let cluster = Cluster {
        transport_socket_matches: matches,
        // Fails closed: nothing is ever spoken to in plaintext because its match is missing.
        transport_socket: Some(upstream_tls(&sni, http, &[NOBODY.to_owned()])),
        ..eds(&name.to_string(), sticky)
    };
    Resource::encode(Kind::Cluster, &cluster.name, &cluster)
}

/// The cluster of a gateway's table entry: bytes, passed on as they come.
#[must_use]
pub fn gateway(name: &OutboundName, sticky: bool) -> Arc<Resource> {
    let cluster = eds(&name.sni(), sticky);
    Resource::encode(Kind::Cluster, &cluster.name, &cluster)
}

/// The application behind one port of a workload.
#[must_use]
pub fn inbound(port: u16, target: SocketAddr, source: Option<IpAddr>) -> Arc<Resource> {
    let name = inbound_cluster(port);
    let source = source.filter(|s| s.is_ipv4() == target.ip().is_ipv4());
    let cluster = Cluster {
        name: name.clone(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Static as i32)),
        load_assignment: Some(ClusterLoadAssignment {
            cluster_name: name,
            endpoints: vec![host(target, 0)],
            ..ClusterLoadAssignment::default()
        }),
        upstream_bind_config: source
            .map(|s| BindConfig { source_address: Some(socket(s, 0)), ..BindConfig::default() }),
        ..common()
    };
    Resource::encode(Kind::Cluster, &cluster.name, &cluster)
}

fn host(at: SocketAddr, priority: u32) -> LocalityLbEndpoints {
    let host = Endpoint { address: Some(super::messages::address(at)), ..Endpoint::default() };
    let endpoint = LbEndpoint { host_identifier: Some(HostIdentifier::Endpoint(host)), ..LbEndpoint::default() };
    LocalityLbEndpoints { lb_endpoints: vec![endpoint], priority, ..LocalityLbEndpoints::default() }
}

/// The application behind one port of a captured workload: at the first of these addresses that takes connections.
#[must_use]
pub fn captured_inbound(port: u16, targets: &[SocketAddr]) -> Arc<Resource> {
    let name = inbound_cluster(port);
    let cluster = Cluster {
        name: name.clone(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Static as i32)),
        load_assignment: Some(ClusterLoadAssignment {
            cluster_name: name,
            endpoints: targets.iter().zip(0..).map(|(at, priority)| host(*at, priority)).collect(),
            ..ClusterLoadAssignment::default()
        }),
        upstream_bind_config: Some(from_loopback()),
        ..common()
    };
    Resource::encode(Kind::Cluster, &cluster.name, &cluster)
}

/// What is handed to a captured application comes from loopback: by that the rules tell it from what the proxy sends to its
/// own workload as any client does (`meshfed proxy init`).
fn from_loopback() -> BindConfig {
    let extra = ExtraSourceAddress { address: Some(socket(INBOUND_SOURCE_V6, 0)), ..ExtraSourceAddress::default() };
    BindConfig {
        source_address: Some(socket(INBOUND_SOURCE_V4, 0)),
        extra_source_addresses: vec![extra],
        ..BindConfig::default()
    }
}

/// The clusters of captured connections that are for no service.
#[must_use]
pub fn passthrough() -> [Arc<Resource>; 3] {
    let original = |name: &str, bind: Option<BindConfig>| Cluster {
        name: name.to_owned(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::OriginalDst as i32)),
        lb_policy: LbPolicy::ClusterProvided as i32,
        upstream_bind_config: bind,
        ..common()
    };
    let nowhere = Cluster {
        name: BLACK_HOLE.to_owned(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Static as i32)),
        load_assignment: Some(ClusterLoadAssignment {
            cluster_name: BLACK_HOLE.to_owned(),
            ..ClusterLoadAssignment::default()
        }),
        ..common()
    };
    [original(PASSTHROUGH, None), nowhere, original(INBOUND_PASSTHROUGH, Some(from_loopback()))]
        .map(|cluster| Resource::encode(Kind::Cluster, &cluster.name, &cluster))
}

fn common() -> Cluster {
    let high = uint32(u32::MAX);
    let thresholds = Thresholds {
        max_connections: high,
        max_pending_requests: high,
        max_requests: high,
        // Where there is a budget, this is not looked at.
        max_retries: high,
        retry_budget: Some(RetryBudget {
            budget_percent: Some(Percent { value: RETRY_PERCENT }),
            min_retry_concurrency: uint32(RETRY_LEAST),
            ..RetryBudget::default()
        }),
        ..Thresholds::default()
    };
    Cluster {
        connect_timeout: seconds(CONNECT_TIMEOUT_SECONDS),
        circuit_breakers: Some(CircuitBreakers { thresholds: vec![thresholds], ..CircuitBreakers::default() }),
        common_lb_config: Some(CommonLbConfig {
            healthy_panic_threshold: Some(Percent { value: 0.0 }),
            ..CommonLbConfig::default()
        }),
        ..Cluster::default()
    }
}

/// Maglev and not a ring: its table has one size however far weights lie apart.
fn eds(name: &str, sticky: bool) -> Cluster {
    Cluster {
        lb_policy: if sticky { LbPolicy::Maglev } else { LbPolicy::RoundRobin } as i32,
        name: name.to_owned(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds as i32)),
        eds_cluster_config: Some(EdsClusterConfig { eds_config: Some(ads()), service_name: String::new() }),
        ..common()
    }
}

fn one_field(key: &str, value: &str) -> Struct {
    let value = Value { kind: Some(ValueKind::StringValue(value.to_owned())) };
    Struct { fields: HashMap::from([(key.to_owned(), value)]) }
}

fn plaintext() -> TransportSocketMatch {
    TransportSocketMatch {
        name: "plaintext".to_owned(),
        r#match: Some(one_field(MATCH_MODE, "plaintext")),
        transport_socket: Some(transport_socket(
            "envoy.transport_sockets.raw_buffer",
            "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer",
            &RawBuffer {},
        )),
    }
}

/// mTLS towards whoever has one of these identities, verified against the bundle of its own trust domain.
fn upstream_tls(sni: &str, http: bool, identities: &[String]) -> TransportSocket {
    let names: BTreeSet<&String> = identities.iter().collect();
    let names = names.into_iter().map(|id| SubjectAltNameMatcher {
        san_type: SanType::Uri as i32,
        matcher: Some(StringMatcher {
            match_pattern: Some(MatchPattern::Exact(id.clone())),
            ..StringMatcher::default()
        }),
        ..SubjectAltNameMatcher::default()
    });
    let validation = CombinedCertificateValidationContext {
        default_validation_context: Some(Validation {
            match_typed_subject_alt_names: names.collect(),
            ..Validation::default()
        }),
        validation_context_sds_secret_config: Some(sds(SECRET_TRUST)),
        ..CombinedCertificateValidationContext::default()
    };
    let context = UpstreamTlsContext {
        common_tls_context: Some(common_tls(http, ValidationContextType::CombinedValidationContext(validation))),
        sni: sni.to_owned(),
        ..UpstreamTlsContext::default()
    };
    transport_socket(
        "envoy.transport_sockets.tls",
        "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        &context,
    )
}
