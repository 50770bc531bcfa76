//! Pure. LDS: what one proxy listens on.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::{HttpProtocolOptions, Metadata, TransportSocket};
use envoy_types::pb::envoy::config::listener::v3::{
    AdditionalAddress, Filter, FilterChain, FilterChainMatch, Listener, ListenerFilter, filter,
    filter_chain_match::ConnectionSourceType, listener_filter,
};
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::listener::tls_inspector::v3::TlsInspector;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::{
    CodecType, ForwardClientCertDetails, PathWithEscapedSlashesAction, RouteSpecifier, ServerHeaderTransformation,
    SetCurrentClientCertDetails,
};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, Rds, http_filter,
};
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::{TcpProxy, tcp_proxy::ClusterSpecifier};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::DownstreamTlsContext;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::common_tls_context::ValidationContextType;
use envoy_types::pb::envoy::r#type::v3::{
    HashPolicy,
    hash_policy::{PolicySpecifier, SourceIp},
};
use envoy_types::pb::google::protobuf::{BoolValue, ListValue, Struct, Value, value::Kind as ValueKind};
use meshfed_model::service::PortProtocol;

use super::messages::{address, ads, any, common_tls, sds, seconds, transport_socket, uint32};
use super::names::{OUTBOUND_ROUTES, OutboundName, inbound as inbound_name, inbound_cluster};
use super::resource::{Kind, Resource};

/// Connects that are tried for one raw connection, as our own proxy has it: a handshake that is not answered counts as one
/// that failed, and says that the application cannot be reached.
const CONNECT_ATTEMPTS: u32 = 3;
/// The longest request head, in KiB (L7-6).
const HEAD_MAX_KIB: u32 = 32;
/// The most header fields of a request (L7-6).
const FIELDS_MAX: u32 = 100;
/// The time for a request's head, in seconds (L7-7).
const HEAD_SECONDS: i64 = 5;
/// How long a connection may be without request, in seconds (L7-7).
const IDLE_SECONDS: i64 = 60;
/// No limit between pieces of a stream, as in Istio.
const STREAM_IDLE_SECONDS: i64 = 0;

/// A list of strings in our metadata.
pub(super) fn texts(values: impl Iterator<Item = String>) -> Value {
    let values = values.map(|text| Value { kind: Some(ValueKind::StringValue(text)) }).collect();
    Value { kind: Some(ValueKind::ListValue(ListValue { values })) }
}

/// `bind` tells the proxy the hosts of its other listeners (metrics, readiness, admin): it learns its workload's
/// addresses from here only.
pub(super) fn listener(
    name: &str,
    bind: &[IpAddr],
    addresses: &[SocketAddr],
    filter_chains: Vec<FilterChain>,
) -> Option<Listener> {
    let (first, more) = addresses.split_first()?;
    let hosts = texts(bind.iter().map(IpAddr::to_string));
    let ours = Struct { fields: HashMap::from([("bind".to_owned(), hosts)]) };
    let metadata = Metadata { filter_metadata: HashMap::from([("meshfed".to_owned(), ours)]), ..Metadata::default() };
    Some(Listener {
        metadata: Some(metadata),
        name: name.to_owned(),
        address: Some(address(*first)),
        additional_addresses: more
            .iter()
            .map(|a| AdditionalAddress { address: Some(address(*a)), ..AdditionalAddress::default() })
            .collect(),
        filter_chains,
        ..Listener::default()
    })
}

pub(super) fn encoded(listener: &Listener) -> Arc<Resource> {
    Resource::encode(Kind::Listener, &listener.name, listener)
}

fn filter(name: &str, message_name: &str, message: &impl prost::Message) -> Filter {
    Filter { name: name.to_owned(), config_type: Some(filter::ConfigType::TypedConfig(any(message_name, message))) }
}

/// Connections of clients to a service: by their address, where the cluster says that this counts.
pub(super) fn tcp_to_service(stat_prefix: &str, cluster: String) -> Filter {
    let by_client = HashPolicy { policy_specifier: Some(PolicySpecifier::SourceIp(SourceIp {})) };
    tcp_by(stat_prefix, cluster, vec![by_client])
}

/// Connections to an application, or to where they were meant to go.
pub(super) fn tcp_proxy(stat_prefix: &str, cluster: String) -> Filter {
    tcp_by(stat_prefix, cluster, Vec::new())
}

fn tcp_by(stat_prefix: &str, cluster: String, hash_policy: Vec<HashPolicy>) -> Filter {
    let proxy = TcpProxy {
        hash_policy,
        stat_prefix: stat_prefix.to_owned(),
        cluster_specifier: Some(ClusterSpecifier::Cluster(cluster)),
        max_connect_attempts: uint32(CONNECT_ATTEMPTS),
        ..TcpProxy::default()
    };
    filter("envoy.filters.network.tcp_proxy", "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", &proxy)
}

/// HTTP by a route configuration of RDS.
pub(super) fn http(stat_prefix: &str, routes: &str, peer_identity: bool) -> Filter {
    let rds = Rds { config_source: Some(ads()), route_config_name: routes.to_owned() };
    http_by(stat_prefix, RouteSpecifier::Rds(rds), peer_identity)
}

/// HTTP by routes from anywhere.
pub(super) fn http_by(stat_prefix: &str, routes: RouteSpecifier, peer_identity: bool) -> Filter {
    let router = HttpFilter {
        name: "envoy.filters.http.router".to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(any(
            "envoy.extensions.filters.http.router.v3.Router",
            &Router::default(),
        ))),
        ..HttpFilter::default()
    };
    let forward =
        if peer_identity { ForwardClientCertDetails::SanitizeSet } else { ForwardClientCertDetails::Sanitize };
    let manager = HttpConnectionManager {
        codec_type: CodecType::Http1 as i32,
        stat_prefix: stat_prefix.to_owned(),
        http_filters: vec![router],
        server_header_transformation: ServerHeaderTransformation::PassThrough as i32,
        // What our own proxy does (security.md L7-6, L7-7, L7-9), said so that an Envoy in its place does it, too.
        normalize_path: Some(BoolValue { value: true }),
        merge_slashes: true,
        path_with_escaped_slashes_action: PathWithEscapedSlashesAction::RejectRequest as i32,
        max_request_headers_kb: uint32(HEAD_MAX_KIB),
        request_headers_timeout: seconds(HEAD_SECONDS),
        common_http_protocol_options: Some(HttpProtocolOptions {
            idle_timeout: seconds(IDLE_SECONDS),
            max_headers_count: uint32(FIELDS_MAX),
            ..HttpProtocolOptions::default()
        }),
        // The answer's time is the route's to say; a request may take as long as its body keeps coming.
        stream_idle_timeout: seconds(STREAM_IDLE_SECONDS),
        forward_client_cert_details: forward as i32,
        set_current_client_cert_details: peer_identity
            .then(|| SetCurrentClientCertDetails { uri: true, ..SetCurrentClientCertDetails::default() }),
        route_specifier: Some(routes),
        ..HttpConnectionManager::default()
    };
    filter(
        "envoy.filters.network.http_connection_manager",
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        &manager,
    )
}

/// Connections from this host only: anybody else could speak as the workload.
pub(super) fn own_host_only() -> Option<FilterChainMatch> {
    Some(FilterChainMatch { source_type: ConnectionSourceType::SameIpOrLoopback as i32, ..FilterChainMatch::default() })
}

/// `outbound`: the application's HTTP requests, by authority. `None` without addresses.
#[must_use]
pub fn outbound(bind: &[IpAddr], addresses: &[SocketAddr]) -> Option<Arc<Resource>> {
    let chain = FilterChain {
        filter_chain_match: own_host_only(),
        filters: vec![http("outbound", OUTBOUND_ROUTES, false)],
        ..FilterChain::default()
    };
    listener("outbound", bind, addresses, vec![chain]).as_ref().map(encoded)
}

/// `outbound-tcp|<LISTEN>`: one service as plain TCP.
#[must_use]
pub fn outbound_tcp(bind: &[IpAddr], listen: SocketAddr, target: &OutboundName) -> Option<Arc<Resource>> {
    let name = format!("outbound-tcp|{listen}");
    let chain = FilterChain {
        filter_chain_match: own_host_only(),
        filters: vec![tcp_to_service("outbound-tcp", target.to_string())],
        ..FilterChain::default()
    };
    listener(&name, bind, &[listen], vec![chain]).as_ref().map(encoded)
}

pub(super) fn downstream_tls(port: u16, http: bool) -> TransportSocket {
    let validation = ValidationContextType::ValidationContextSdsSecretConfig(sds(&inbound_name(port)));
    let context = DownstreamTlsContext {
        common_tls_context: Some(common_tls(http, validation)),
        require_client_certificate: Some(BoolValue { value: true }),
        ..DownstreamTlsContext::default()
    };
    transport_socket(
        "envoy.transport_sockets.tls",
        "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        &context,
    )
}

/// `inbound|<port>`: peers over mTLS, on every address of the workload. `services`: the hosts that lead here, which the
/// proxy's metrics name.
#[must_use]
pub fn inbound(
    port: u16,
    bind: &[IpAddr],
    addresses: &[SocketAddr],
    protocol: PortProtocol,
    services: &[String],
) -> Option<Arc<Resource>> {
    let name = inbound_name(port);
    let is_http = protocol == PortProtocol::Http;
    let last = if is_http { http(&name, &name, true) } else { tcp_proxy(&name, inbound_cluster(port)) };
    let chain = FilterChain {
        filters: vec![last],
        transport_socket: Some(downstream_tls(port, is_http)),
        ..FilterChain::default()
    };
    let mut message = listener(&name, bind, addresses, vec![chain])?;
    if let Some(ours) = message.metadata.as_mut().and_then(|m| m.filter_metadata.get_mut("meshfed")) {
        ours.fields.insert("services".to_owned(), texts(services.iter().cloned()));
    }
    Some(encoded(&message))
}

/// Tells TLS and its server name.
pub(super) fn tls_inspector() -> ListenerFilter {
    ListenerFilter {
        name: "envoy.filters.listener.tls_inspector".to_owned(),
        config_type: Some(listener_filter::ConfigType::TypedConfig(any(
            "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
            &TlsInspector::default(),
        ))),
        ..ListenerFilter::default()
    }
}

/// `gateway|<address>`: the exact table of server names that are forwarded; anything else has no filter chain.
#[must_use]
pub fn gateway(bind: &[IpAddr], listen: SocketAddr, table: &[OutboundName]) -> Option<Arc<Resource>> {
    let name = format!("gateway|{listen}");
    let chains = table.iter().map(|entry| {
        let sni = entry.sni();
        FilterChain {
            name: sni.clone(),
            filter_chain_match: Some(FilterChainMatch {
                server_names: vec![sni.clone()],
                ..FilterChainMatch::default()
            }),
            filters: vec![tcp_to_service("gateway", sni)],
            ..FilterChain::default()
        }
    });
    let mut message = listener(&name, bind, &[listen], chains.collect())?;
    message.listener_filters = vec![tls_inspector()];
    Some(encoded(&message))
}
