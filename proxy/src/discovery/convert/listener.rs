//! Pure. `Listener` at the border. What a listener is follows from its name; its content must fit that.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use envoy_types::pb::envoy::config::core::v3::{Metadata, transport_socket};
use envoy_types::pb::envoy::config::listener::v3 as xds;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3 as tcp;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3 as tls;
use envoy_types::pb::envoy::r#type::v3::{HashPolicy, hash_policy::PolicySpecifier};
use envoy_types::pb::google::protobuf::{Struct, value::Kind};

use super::cluster::identity_secret;
use super::route::route;
use super::{
    Invalid, ListenerSpec, ListenerSpecKind, RouteSpec, ServerTlsSpec, captured, decode, invalid, ip, socket_address,
};

const HCM: &str = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const TCP_PROXY: &str = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
const DOWNSTREAM_TLS: &str = "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext";
/// Most addresses of one listener.
const ADDRESSES_MAX: usize = 64;
/// Most services that hold one port of a workload, under both domains.
const SERVICES_MAX: usize = 1024;

/// What the connections of a filter chain are given to.
pub(super) enum Handler {
    Http {
        routes: String,
    },
    /// HTTP by routes that the listener carries itself.
    OwnRoutes(Box<RouteSpec>),
    Tcp {
        cluster: String,
    },
}

/// Converts a listener.
///
/// # Errors
/// [`Invalid`].
pub fn listener(message: &xds::Listener) -> Result<ListenerSpec, Invalid> {
    let mut addresses: Vec<SocketAddr> = vec![socket_address(message.address.as_ref(), "address")?];
    for more in &message.additional_addresses {
        addresses.push(socket_address(more.address.as_ref(), "additional_addresses")?);
    }
    if addresses.len() > ADDRESSES_MAX {
        return invalid("additional_addresses", format!("more than {ADDRESSES_MAX}"));
    }
    let kind = match message.name.as_str() {
        captured::VIRTUAL_OUTBOUND => captured::outbound(message)?,
        captured::VIRTUAL_INBOUND => captured::inbound(message)?,
        name if name.starts_with("captured|") => captured::service(message)?,
        name if name.starts_with("gateway|") => gateway(message)?,
        _ => single(message)?,
    };
    let bound = message.bind_to_port.as_ref().is_none_or(|b| b.value);
    if bound == matches!(&message.name, name if name.starts_with("captured|")) {
        return invalid("bind_to_port", "exactly the listeners captured|… have no sockets of their own");
    }
    let ours = message.metadata.as_ref().and_then(|m| m.filter_metadata.get("meshfed"));
    Ok(ListenerSpec { addresses, kind, bound, bind: bind(ours)? })
}

fn single(message: &xds::Listener) -> Result<ListenerSpecKind, Invalid> {
    let [chain] = message.filter_chains.as_slice() else {
        return invalid(
            "filter_chains",
            format!("there are {}; exactly one is known here", message.filter_chains.len()),
        );
    };
    let handler = handler(chain)?;
    if let Some(port) = message.name.strip_prefix("inbound|") {
        let port =
            port.parse().map_err(|_n| Invalid { field: "name", why: "inbound| is followed by no port".to_owned() })?;
        let tls = server_tls(chain)?;
        let services = services(message.metadata.as_ref())?;
        return Ok(match handler {
            Handler::Http { routes } => ListenerSpecKind::InboundHttp { port, tls, routes, services },
            Handler::Tcp { cluster } => ListenerSpecKind::InboundTcp { port, tls, cluster, services },
            Handler::OwnRoutes(_) => return invalid("route_specifier", "only RDS is known here"),
        });
    }
    if !message.name.starts_with("outbound") {
        return invalid(
            "name",
            "is none of outbound, outbound-tcp|…, inbound|…, gateway|…, captured|…, virtualOutbound and virtualInbound",
        );
    }
    if chain.transport_socket.is_some() {
        return invalid("transport_socket", "the application speaks plaintext to its proxy");
    }
    Ok(match handler {
        Handler::Http { routes } => ListenerSpecKind::OutboundHttp { routes },
        Handler::Tcp { cluster } => ListenerSpecKind::OutboundTcp { cluster },
        Handler::OwnRoutes(_) => return invalid("route_specifier", "only RDS is known here"),
    })
}

fn gateway(message: &xds::Listener) -> Result<ListenerSpecKind, Invalid> {
    let mut names = BTreeMap::new();
    for chain in &message.filter_chains {
        let wanted = chain.filter_chain_match.as_ref().map_or(&[][..], |m| &m.server_names);
        if wanted.is_empty() {
            return invalid("filter_chain_match", "a gateway's chain without server_names would take everything");
        }
        let Handler::Tcp { cluster } = handler(chain)? else {
            return invalid("filters", "a gateway passes connections through; only tcp_proxy is known here");
        };
        if chain.transport_socket.is_some() {
            return invalid("transport_socket", "a gateway never terminates TLS");
        }
        for name in wanted {
            if name.contains('*') || name.bytes().any(|b| b.is_ascii_uppercase()) {
                return invalid("server_names", format!("'{name}': only exact lower-case names are known here"));
            }
            if names.insert(name.clone(), cluster.clone()).is_some() {
                return invalid("server_names", format!("'{name}' occurs twice"));
            }
        }
    }
    Ok(ListenerSpecKind::Gateway { names })
}

pub(super) fn handler(chain: &xds::FilterChain) -> Result<Handler, Invalid> {
    let [filter] = chain.filters.as_slice() else {
        return invalid("filters", format!("there are {}; exactly one is known here", chain.filters.len()));
    };
    let Some(xds::filter::ConfigType::TypedConfig(any)) = &filter.config_type else {
        return invalid("filters", "has no configuration");
    };
    if any.type_url.ends_with(TCP_PROXY) {
        let config: tcp::TcpProxy = decode(Some(any), "tcp_proxy", TCP_PROXY)?;
        let by_client = |policy: &HashPolicy| matches!(policy.policy_specifier, Some(PolicySpecifier::SourceIp(_)));
        if !config.hash_policy.iter().all(by_client) {
            return invalid("tcp_proxy.hash_policy", "only the client's address is known here");
        }
        return match config.cluster_specifier {
            Some(tcp::tcp_proxy::ClusterSpecifier::Cluster(cluster)) if !cluster.is_empty() => {
                Ok(Handler::Tcp { cluster })
            }
            Some(
                tcp::tcp_proxy::ClusterSpecifier::Cluster(_) | tcp::tcp_proxy::ClusterSpecifier::WeightedClusters(_),
            )
            | None => invalid("tcp_proxy", "only one named cluster is known here"),
        };
    }
    let config: hcm::HttpConnectionManager = decode(Some(any), "filters", HCM)?;
    match config.route_specifier {
        Some(hcm::http_connection_manager::RouteSpecifier::Rds(rds)) if !rds.route_config_name.is_empty() => {
            Ok(Handler::Http { routes: rds.route_config_name })
        }
        Some(hcm::http_connection_manager::RouteSpecifier::RouteConfig(own)) => {
            Ok(Handler::OwnRoutes(Box::new(route(&own)?)))
        }
        Some(
            hcm::http_connection_manager::RouteSpecifier::Rds(_)
            | hcm::http_connection_manager::RouteSpecifier::ScopedRoutes(_),
        )
        | None => invalid("route_specifier", "only RDS and routes of its own are known here"),
    }
}

pub(super) fn server_tls(chain: &xds::FilterChain) -> Result<ServerTlsSpec, Invalid> {
    let Some(socket) = &chain.transport_socket else {
        return invalid("transport_socket", "an inbound listener without TLS would take anybody");
    };
    let any = socket.config_type.as_ref().map(|transport_socket::ConfigType::TypedConfig(any)| any);
    let context: tls::DownstreamTlsContext = decode(any, "transport_socket", DOWNSTREAM_TLS)?;
    if !context.require_client_certificate.is_some_and(|r| r.value) {
        return invalid("require_client_certificate", "must be set: identity comes from the certificate");
    }
    let Some(common) = context.common_tls_context else { return invalid("common_tls_context", "is missing") };
    let identity = identity_secret(&common)?;
    use tls::common_tls_context::ValidationContextType as Type;
    let trust = match &common.validation_context_type {
        Some(Type::ValidationContextSdsSecretConfig(secret)) => secret.name.clone(),
        Some(Type::CombinedValidationContext(c)) => {
            c.validation_context_sds_secret_config.as_ref().map_or_else(String::new, |s| s.name.clone())
        }
        _ => String::new(),
    };
    if trust.is_empty() {
        return invalid("validation_context", "names no secret with bundles");
    }
    let alpn = common.alpn_protocols.iter().map(|p| p.clone().into_bytes()).collect();
    Ok(ServerTlsSpec { identity, trust, alpn })
}

/// The workload's bind addresses from the listener's metadata.
fn bind(ours: Option<&Struct>) -> Result<Vec<IpAddr>, Invalid> {
    texts(ours, "bind").map(|text| ip(text, "metadata.meshfed.bind")).collect()
}

/// The hosts of the services behind an inbound port, from the listener's or filter chain's metadata.
pub(super) fn services(metadata: Option<&Metadata>) -> Result<Vec<String>, Invalid> {
    let ours = metadata.and_then(|m| m.filter_metadata.get("meshfed"));
    let found: Vec<String> = texts(ours, "services").map(str::to_owned).collect();
    if found.len() > SERVICES_MAX {
        return invalid("metadata.meshfed.services", format!("{}, at most {SERVICES_MAX} are taken", found.len()));
    }
    Ok(found)
}

/// The strings of a list in our metadata.
pub(super) fn texts<'a>(ours: Option<&'a Struct>, key: &str) -> impl Iterator<Item = &'a str> {
    let list = match ours.and_then(|s| s.fields.get(key)).and_then(|v| v.kind.as_ref()) {
        Some(Kind::ListValue(list)) => list.values.as_slice(),
        _ => &[],
    };
    list.iter().filter_map(|value| match &value.kind {
        Some(Kind::StringValue(text)) => Some(text.as_str()),
        _ => None,
    })
}
