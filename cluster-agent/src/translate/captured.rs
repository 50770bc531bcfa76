//! Pure. LDS for transparent capture: Envoy's `virtualOutbound` and `virtualInbound`, and a listener without socket for each
//! service at its virtual addresses.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::{Metadata, TrafficDirection, address, socket_address};
use envoy_types::pb::envoy::config::listener::v3::{
    Filter, FilterChain, FilterChainMatch, Listener, ListenerFilter, ListenerFilterChainMatchPredicate,
    UdpListenerConfig, listener_filter,
    listener_filter_chain_match_predicate::{MatchSet, Rule},
};
use envoy_types::pb::envoy::data::dns::v3::DnsTable;
use envoy_types::pb::envoy::data::dns::v3::dns_table::dns_endpoint::EndpointConfig;
use envoy_types::pb::envoy::data::dns::v3::dns_table::dns_service_protocol::ProtocolConfig;
use envoy_types::pb::envoy::data::dns::v3::dns_table::dns_service_target::EndpointType;
use envoy_types::pb::envoy::data::dns::v3::dns_table::{
    AddressList, DnsEndpoint, DnsService, DnsServiceList, DnsServiceProtocol, DnsServiceTarget, DnsVirtualDomain,
};
use envoy_types::pb::envoy::extensions::filters::listener::http_inspector::v3::HttpInspector;
use envoy_types::pb::envoy::extensions::filters::listener::original_dst::v3::OriginalDst;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier;
use envoy_types::pb::envoy::extensions::filters::udp::dns_filter::v3::DnsFilterConfig;
use envoy_types::pb::envoy::extensions::filters::udp::dns_filter::v3::dns_filter_config::ServerContextConfig;
use envoy_types::pb::envoy::extensions::filters::udp::dns_filter::v3::dns_filter_config::server_context_config::ConfigSource;
use envoy_types::pb::envoy::r#type::v3::Int32Range;
use envoy_types::pb::google::protobuf::{BoolValue, Duration, Struct};
use meshfed_model::service::{PortProtocol, ServicePort};
use meshfed_model::sni::{CLUSTER_DOMAIN, CLUSTERSET_DOMAIN};
use meshfed_runtime::dns::{Record, TTL, Zone};

use super::listeners::{
    downstream_tls, encoded, http, http_by, listener, tcp_proxy, tcp_to_service, texts, tls_inspector,
};
use super::messages::{address as address_of, any, uint32};
use super::names::{
    BLACK_HOLE, INBOUND_PASSTHROUGH, OutboundName, PASSTHROUGH, UNDECLARED_PORT, inbound as inbound_name,
    inbound_cluster,
};
use super::resource::Resource;
use super::routes;

/// Every captured connection of the application.
pub const VIRTUAL_OUTBOUND: &str = "virtualOutbound";
/// Every captured connection to the application.
pub const VIRTUAL_INBOUND: &str = "virtualInbound";
/// What imports are called.
pub const DNS: &str = "dns";
/// Where an Envoy would be asked.
const DNS_PORT: u16 = 15053;
/// The shortest life of an address that an Envoy takes, in seconds. Our own proxy answers with the zone's.
const ENVOY_TTL_LEAST: u32 = 30;
/// How long a client's first bytes are waited for where its protocol is not declared: the server may speak first.
const PATIENCE_NANOS: i32 = 200_000_000;
/// What an Envoy finds HTTP/1 to be: in plaintext by its first line, under mTLS by what the client offers (ALPN).
const HTTP_1: [&str; 2] = ["http/1.0", "http/1.1"];

/// One declared port of a captured workload.
#[derive(Debug, Clone)]
pub struct CapturedPort {
    /// Its number.
    pub port: u16,
    /// How it is spoken to; `None`: nobody says, and HTTP is looked for.
    pub protocol: Option<PortProtocol>,
    /// The hosts that lead here.
    pub services: Vec<String>,
}

/// The name of the listener of a service's virtual addresses.
#[must_use]
pub fn service_name(name: &OutboundName) -> String {
    format!("captured|{}|{}|{}", name.port, name.subset, name.host())
}

fn yes() -> Option<BoolValue> {
    Some(BoolValue { value: true })
}

fn patient(message: &mut Listener) {
    message.listener_filters_timeout = Some(Duration { seconds: 0, nanos: PATIENCE_NANOS });
    message.continue_on_listener_filters_timeout = true;
}

/// One service at its virtual addresses. The address decides; the authority of a request is neither asked nor changed.
/// `None` without addresses.
#[must_use]
pub fn service(name: &OutboundName, port: &ServicePort, addresses: &[IpAddr]) -> Option<Arc<Resource>> {
    let at: Vec<SocketAddr> = addresses.iter().map(|a| SocketAddr::new(*a, name.port)).collect();
    let cluster = name.to_string();
    let as_http = || http_by(&cluster, RouteSpecifier::RouteConfig(routes::one_cluster(name)), false);
    let as_tcp = || tcp_to_service(&cluster, cluster.clone());
    let chain = |filter: Filter, protocols: &[&str]| {
        // Connections come by `virtualOutbound` alone, and there by the rules from this host alone. To ask it of the source
        // here would lead nowhere: to an Envoy a connection is from its host where both of its addresses are the same, and
        // the one that was dialled is the service's.
        let protocols = protocols.iter().map(|p| (*p).to_owned()).collect();
        FilterChain {
            filter_chain_match: Some(FilterChainMatch {
                application_protocols: protocols,
                ..FilterChainMatch::default()
            }),
            filters: vec![filter],
            ..FilterChain::default()
        }
    };
    let declared = port.declares();
    let chains = match (declared, port.speaks()) {
        (true, PortProtocol::Http) => vec![chain(as_http(), &[])],
        (true, PortProtocol::Tcp) => vec![chain(as_tcp(), &[])],
        (false, _) => vec![chain(as_http(), &HTTP_1), chain(as_tcp(), &[])],
    };
    let mut message = listener(&service_name(name), &[], &at, chains)?;
    message.bind_to_port = Some(BoolValue { value: false });
    message.traffic_direction = TrafficDirection::Outbound as i32;
    if !declared {
        message.listener_filters = vec![http_inspector(std::iter::empty())];
        patient(&mut message);
    }
    Some(encoded(&message))
}

fn original_destination() -> ListenerFilter {
    ListenerFilter {
        name: "envoy.filters.listener.original_dst".to_owned(),
        config_type: Some(listener_filter::ConfigType::TypedConfig(any(
            "envoy.extensions.filters.listener.original_dst.v3.OriginalDst",
            &OriginalDst::default(),
        ))),
        ..ListenerFilter::default()
    }
}

/// Tells HTTP/1, on every port but these.
fn http_inspector(declared: impl Iterator<Item = u16>) -> ListenerFilter {
    let of_port = |port: u16| {
        let (start, end) = (i32::from(port), i32::from(port) + 1);
        ListenerFilterChainMatchPredicate { rule: Some(Rule::DestinationPortRange(Int32Range { start, end })) }
    };
    let mut rules: Vec<ListenerFilterChainMatchPredicate> = declared.map(of_port).collect();
    let disabled = match rules.len() {
        0 => None,
        // At least two are one or the other.
        1 => rules.pop(),
        _ => Some(ListenerFilterChainMatchPredicate { rule: Some(Rule::OrMatch(MatchSet { rules })) }),
    };
    ListenerFilter {
        filter_disabled: disabled,
        name: "envoy.filters.listener.http_inspector".to_owned(),
        config_type: Some(listener_filter::ConfigType::TypedConfig(any(
            "envoy.extensions.filters.listener.http_inspector.v3.HttpInspector",
            &HttpInspector::default(),
        ))),
    }
}

/// A direct dial of the listener leads nowhere: its original destination is the listener itself.
fn no_direct_dials(at: &[SocketAddr]) -> impl Iterator<Item = FilterChain> + use<> {
    let ports: BTreeSet<u16> = at.iter().map(SocketAddr::port).collect();
    ports.into_iter().map(|port| FilterChain {
        filter_chain_match: Some(to_port(port)),
        filters: vec![tcp_proxy(BLACK_HOLE, BLACK_HOLE.to_owned())],
        ..FilterChain::default()
    })
}

fn to_port(port: u16) -> FilterChainMatch {
    FilterChainMatch { destination_port: uint32(port.into()), ..FilterChainMatch::default() }
}

/// `virtualOutbound`: addresses that are no service's go on as they are, or (`registry_only`) nowhere.
#[must_use]
pub fn outbound(bind: &[IpAddr], at: &[SocketAddr], registry_only: bool) -> Option<Arc<Resource>> {
    let unknown = if registry_only { BLACK_HOLE } else { PASSTHROUGH };
    let rest = FilterChain { filters: vec![tcp_proxy(unknown, unknown.to_owned())], ..FilterChain::default() };
    let mut message = listener(VIRTUAL_OUTBOUND, bind, at, no_direct_dials(at).chain([rest]).collect())?;
    message.use_original_dst = yes();
    message.traffic_direction = TrafficDirection::Outbound as i32;
    Some(encoded(&message))
}

/// `virtualInbound`: by port, and with `strict` mTLS alone. Ports that the workload does not declare are its application's
/// all the same, for callers of the own trust domain. Where nobody says what a port speaks, HTTP/1 is served by request.
#[must_use]
pub fn inbound(bind: &[IpAddr], at: &[SocketAddr], ports: &[CapturedPort], strict: bool) -> Option<Arc<Resource>> {
    let mut chains: Vec<FilterChain> = no_direct_dials(at).collect();
    for declared in ports {
        chains.extend(port_chains(declared, Some(declared.port), strict));
    }
    let others = CapturedPort { port: UNDECLARED_PORT, protocol: None, services: Vec::new() };
    chains.extend(port_chains(&others, None, strict));
    let mut message = listener(VIRTUAL_INBOUND, bind, at, chains)?;
    message.use_original_dst = yes();
    message.traffic_direction = TrafficDirection::Inbound as i32;
    // First, and said: what `use_original_dst` adds by itself comes last in an Envoy, and not at all where the wait for the
    // client's first bytes is over before. The port would be the listener's own then.
    let declared = ports.iter().filter(|p| p.protocol.is_some()).map(|p| p.port);
    message.listener_filters = vec![original_destination(), tls_inspector(), http_inspector(declared)];
    patient(&mut message);
    Some(encoded(&message))
}

/// The chains of one port: for mesh peers, and unless `strict` for plaintext and the application's own TLS.
fn port_chains(declared: &CapturedPort, number: Option<u16>, strict: bool) -> Vec<FilterChain> {
    let name = inbound_name(declared.port);
    let cluster = if number.is_some() { inbound_cluster(declared.port) } else { INBOUND_PASSTHROUGH.to_owned() };
    let bytes = || tcp_proxy(&name, cluster.clone());
    let chain =
        |suffix: &str, transport: &str, (server_names, protocols): (&[String], &[&str]), filter: Filter| FilterChain {
            name: format!("{name}{suffix}"),
            filter_chain_match: Some(FilterChainMatch {
                transport_protocol: transport.to_owned(),
                server_names: server_names.to_vec(),
                application_protocols: protocols.iter().map(|p| (*p).to_owned()).collect(),
                ..number.map(to_port).unwrap_or_default()
            }),
            filters: vec![filter],
            ..FilterChain::default()
        };
    // Every mesh client's server name ends like this. In Envoy's terms a name has no beginning to match, so an Envoy takes
    // the application's own TLS under such a name for mesh TLS, too: it refuses more than it must, never less.
    let mesh_names = [CLUSTERSET_DOMAIN, CLUSTER_DOMAIN].map(|domain| format!("*.svc.{domain}"));
    let (transport, names) = if strict { ("", &[][..]) } else { ("tls", &mesh_names[..]) };
    let hosts = Struct { fields: HashMap::from([("services".to_owned(), texts(declared.services.iter().cloned()))]) };
    let mesh = |suffix: &str, protocols: &[&str], filter: Filter, is_http: bool| {
        let mut mesh = chain(suffix, transport, (names, protocols), filter);
        mesh.transport_socket = Some(downstream_tls(declared.port, is_http));
        mesh.metadata = Some(Metadata {
            filter_metadata: HashMap::from([("meshfed".to_owned(), hosts.clone())]),
            ..Metadata::default()
        });
        mesh
    };
    let plain =
        |suffix: &str, protocols: &[&str], filter: Filter| chain(suffix, "raw_buffer", (&[], protocols), filter);
    let mut chains = match declared.protocol {
        Some(PortProtocol::Http) => vec![mesh("", &[], http(&name, &name, true), true)],
        Some(PortProtocol::Tcp) => vec![mesh("", &[], bytes(), false)],
        None => {
            let routes = routes::application(&name, cluster.clone(), number.is_some());
            let as_http = |peer: bool| http_by(&name, RouteSpecifier::RouteConfig(routes.clone()), peer);
            let mut chains = vec![mesh("|http", &HTTP_1, as_http(true), true), mesh("", &[], bytes(), false)];
            if !strict {
                chains.push(plain("|plain-http", &HTTP_1, as_http(false)));
            }
            chains
        }
    };
    if !strict {
        let rest = if declared.protocol == Some(PortProtocol::Http) { http(&name, &name, false) } else { bytes() };
        chains.push(chain("|tls", "tls", (&[], &[]), bytes()));
        chains.push(plain("|plain", &[], rest));
    }
    chains
}

/// `dns`: what imports are called, as Envoy's DNS filter has it. Where it listens is the sidecar's own affair: each of its
/// host's resolvers has a port of its own there.
#[must_use]
pub fn names(zone: &Zone) -> Arc<Resource> {
    let (mut domains, mut without) = (Vec::new(), Vec::new());
    for (name, records) in zone.iter() {
        let addresses: Vec<String> = records
            .iter()
            .filter_map(|r| match r {
                Record::Address(address) => Some(address.to_string()),
                Record::Service(..) | Record::Text(_) => None,
            })
            .collect();
        let endpoint = if !addresses.is_empty() {
            EndpointConfig::AddressList(AddressList { address: addresses })
        } else if let Some(services) = services(name, records) {
            EndpointConfig::ServiceList(services)
        } else {
            // A service without address has a name all the same; those above it follow from the others.
            if name.contains(".svc.") {
                without.push(name.to_owned());
            }
            continue;
        };
        domains.push(DnsVirtualDomain {
            name: name.to_owned(),
            endpoint: Some(DnsEndpoint { endpoint_config: Some(endpoint) }),
            answer_ttl: Some(Duration { seconds: TTL.max(ENVOY_TTL_LEAST).into(), nanos: 0 }),
        });
    }
    let table = DnsTable { virtual_domains: domains, ..DnsTable::default() };
    let filter = DnsFilterConfig {
        stat_prefix: "dns".to_owned(),
        server_config: Some(ServerContextConfig { config_source: Some(ConfigSource::InlineDnsTable(table)) }),
        case_insensitive: true,
        ..DnsFilterConfig::default()
    };
    let ours = Struct { fields: HashMap::from([("names".to_owned(), texts(without.into_iter()))]) };
    let mut at = address_of(SocketAddr::from(([127, 0, 0, 1], DNS_PORT)));
    if let Some(address::Address::SocketAddress(socket)) = &mut at.address {
        socket.protocol = socket_address::Protocol::Udp as i32;
    }
    let message = Listener {
        name: DNS.to_owned(),
        address: Some(at),
        udp_listener_config: Some(UdpListenerConfig::default()),
        metadata: Some(Metadata {
            filter_metadata: HashMap::from([("meshfed".to_owned(), ours)]),
            ..Metadata::default()
        }),
        listener_filters: vec![ListenerFilter {
            name: "envoy.filters.udp.dns_filter".to_owned(),
            config_type: Some(listener_filter::ConfigType::TypedConfig(any(
                "envoy.extensions.filters.udp.dns_filter.v3.DnsFilterConfig",
                &filter,
            ))),
            ..ListenerFilter::default()
        }],
        ..Listener::default()
    };
    encoded(&message)
}

/// The ports at `_port._protocol.service`.
fn services(name: &str, records: &[Record]) -> Option<DnsServiceList> {
    let mut labels = name.split('.');
    let (port_name, protocol) = (labels.next()?.strip_prefix('_')?, labels.next()?.strip_prefix('_')?);
    let targets: Vec<DnsServiceTarget> = records
        .iter()
        .filter_map(|r| match r {
            Record::Service(port, target) => Some(DnsServiceTarget {
                priority: 0,
                weight: 100,
                port: (*port).into(),
                endpoint_type: Some(EndpointType::HostName(target.clone())),
            }),
            Record::Address(_) | Record::Text(_) => None,
        })
        .collect();
    let service = DnsService {
        service_name: port_name.to_owned(),
        protocol: Some(DnsServiceProtocol { protocol_config: Some(ProtocolConfig::Name(protocol.to_owned())) }),
        ttl: Some(Duration { seconds: TTL.into(), nanos: 0 }),
        targets,
    };
    Some(DnsServiceList { services: vec![service] })
}
