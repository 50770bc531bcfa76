//! Pure. The listeners of transparent capture at the border: Envoy's shapes, read as what they mean.

use std::collections::BTreeMap;
use std::time::Duration;

use envoy_types::pb::envoy::config::listener::v3 as xds;

use super::listener::{Handler, handler, server_tls, services};
use super::{CapturedPortSpec, Invalid, ListenerSpecKind, RouteSpec, invalid, socket_address};

/// Every captured connection of the application.
pub(super) const VIRTUAL_OUTBOUND: &str = "virtualOutbound";
/// Every captured connection to the application.
pub(super) const VIRTUAL_INBOUND: &str = "virtualInbound";
/// What TLS is to a filter chain.
const TLS: &str = "tls";
/// The longest wait for a client's first bytes.
const PATIENCE_MAX: Duration = Duration::from_secs(10);
/// The protocols that a chain for HTTP takes: by its first bytes, or as the client offers them (ALPN).
const HTTP_1: [&str; 2] = ["http/1.0", "http/1.1"];
/// Most ports of one workload.
const PORTS_MAX: usize = 1024;

/// `virtualOutbound`: what was meant for nobody in the mesh. Direct dials, which a chain for the listener's own port takes
/// in Envoy, are refused here in any case.
pub(super) fn outbound(message: &xds::Listener) -> Result<ListenerSpecKind, Invalid> {
    original_destination(message)?;
    let own = socket_address(message.address.as_ref(), "address")?.port();
    let mut found = None;
    for chain in &message.filter_chains {
        if destination(chain)? == Some(own) {
            continue;
        }
        if chain.transport_socket.is_some() {
            return invalid("transport_socket", "the application speaks plaintext to its proxy");
        }
        let Handler::Tcp { cluster } = handler(chain)? else {
            return invalid("filters", "what is unknown is passed through; only tcp_proxy is known here");
        };
        if found.replace(cluster).is_some() {
            return invalid("filter_chains", "more than one takes connections to unknown addresses");
        }
    }
    match found {
        Some(unknown) => Ok(ListenerSpecKind::CapturedOutbound { unknown }),
        None => invalid("filter_chains", "none takes connections to unknown addresses"),
    }
}

/// `captured|…`: one service at its virtual addresses.
pub(super) fn service(message: &xds::Listener) -> Result<ListenerSpecKind, Invalid> {
    let (mut http, mut tcp) = (None, None);
    for chain in &message.filter_chains {
        if chain.transport_socket.is_some() {
            return invalid("transport_socket", "the application speaks plaintext to its proxy");
        }
        let second_of_its_kind = match handler(chain)? {
            Handler::OwnRoutes(routes) => http.replace(*routes).is_some(),
            Handler::Tcp { cluster } => tcp.replace(cluster).is_some(),
            Handler::Http { .. } => return invalid("route_specifier", "a captured service carries its own routes"),
        };
        if second_of_its_kind {
            return invalid("filter_chains", "at most one for HTTP and one for everything else");
        }
    }
    Ok(match (http, tcp) {
        (Some(routes), None) => ListenerSpecKind::OutboundAny { routes, otherwise: None },
        (Some(routes), Some(cluster)) => {
            ListenerSpecKind::OutboundAny { routes, otherwise: Some((cluster, patience(message))) }
        }
        (None, Some(cluster)) => ListenerSpecKind::OutboundTcp { cluster },
        (None, None) => return invalid("filter_chains", "there is none"),
    })
}

fn patience(message: &xds::Listener) -> Duration {
    let said = message.listener_filters_timeout.as_ref();
    let said = said.and_then(|d| Some(Duration::new(u64::try_from(d.seconds).ok()?, u32::try_from(d.nanos).ok()?)));
    said.unwrap_or(PATIENCE_MAX).min(PATIENCE_MAX)
}

/// `virtualInbound`: by the port that a connection was meant for.
pub(super) fn inbound(message: &xds::Listener) -> Result<ListenerSpecKind, Invalid> {
    original_destination(message)?;
    let own = socket_address(message.address.as_ref(), "address")?.port();
    let mut chains: BTreeMap<Option<u16>, Vec<&xds::FilterChain>> = BTreeMap::new();
    for chain in &message.filter_chains {
        let port = destination(chain)?;
        if port != Some(own) {
            chains.entry(port).or_default().push(chain);
        }
    }
    if chains.len() > PORTS_MAX {
        return invalid("filter_chains", format!("{} ports, at most {PORTS_MAX} are taken", chains.len()));
    }
    let (mut ports, mut others) = (BTreeMap::new(), None);
    for (port, chains) in chains {
        let spec = captured_port(&chains, patience(message))?;
        match port {
            Some(port) => drop(ports.insert(port, spec)),
            None => others = Some(spec),
        }
    }
    Ok(ListenerSpecKind::CapturedInbound { ports, others })
}

/// The chains of one port.
#[derive(Default)]
struct Chains<'a> {
    mesh: Option<&'a xds::FilterChain>,
    mesh_http: Option<&'a xds::FilterChain>,
    plain: Option<&'a xds::FilterChain>,
    plain_http: Option<&'a xds::FilterChain>,
    own_tls: Option<&'a xds::FilterChain>,
}

impl<'a> Chains<'a> {
    fn of(chains: &[&'a xds::FilterChain]) -> Result<Self, Invalid> {
        let mut found = Self::default();
        for chain in chains {
            let wanted = chain.filter_chain_match.as_ref();
            let transport = wanted.map_or("", |m| m.transport_protocol.as_str());
            let protocols = wanted.map_or(&[][..], |m| &m.application_protocols);
            if protocols.iter().any(|p| !HTTP_1.contains(&p.as_str())) {
                return invalid("application_protocols", "only http/1.0 and http/1.1 are known here");
            }
            let place = match (chain.transport_socket.is_some(), transport == TLS, protocols.is_empty()) {
                (true, _, true) => &mut found.mesh,
                (true, _, false) => &mut found.mesh_http,
                (false, true, true) => &mut found.own_tls,
                (false, true, false) => {
                    return invalid("application_protocols", "the application's own TLS is passed as it is");
                }
                (false, false, true) => &mut found.plain,
                (false, false, false) => &mut found.plain_http,
            };
            if place.replace(chain).is_some() {
                return invalid(
                    "filter_chains",
                    "a port has at most one for mesh peers, for plaintext and for other TLS, and one of the first two for HTTP",
                );
            }
        }
        Ok(found)
    }
    /// The routes of what turns out to be HTTP: mesh peers and others have the same, and both have them or neither.
    fn unsaid(&self) -> Result<Option<RouteSpec>, Invalid> {
        let mut routes = None;
        for chain in [self.mesh_http, self.plain_http].into_iter().flatten() {
            let Handler::OwnRoutes(own) = handler(chain)? else {
                return invalid("route_specifier", "a port that does not say what it speaks carries its own routes");
            };
            if routes.replace(*own.clone()).is_some_and(|other| other != *own) {
                return invalid("route_specifier", "the routes of mesh peers and of others differ");
            }
        }
        if (self.mesh_http.is_some(), self.plain_http.is_some())
            != (routes.is_some(), routes.is_some() && self.plain.is_some())
        {
            return invalid("filter_chains", "HTTP is looked for in what mesh peers and others say, or in neither");
        }
        Ok(routes)
    }
}

/// One port of it: what terminates TLS is for mesh peers; plaintext, if a chain takes it, goes where that one leads, and so
/// does the application's own TLS. Chains of HTTP beside those of bytes: the port does not say what it speaks.
fn captured_port(chains: &[&xds::FilterChain], patience: Duration) -> Result<CapturedPortSpec, Invalid> {
    let chains = Chains::of(chains)?;
    let Chains { mesh: Some(mesh), plain, own_tls, .. } = chains else {
        return invalid("filter_chains", "a port has none for mesh peers");
    };
    if plain.is_some() != own_tls.is_some() {
        return invalid(
            "filter_chains",
            "a port that takes plaintext takes the application's own TLS, and the other way",
        );
    }
    let unsaid = chains.unsaid()?.map(|routes| (routes, patience));
    let mut routes = None;
    let mut cluster = String::new();
    for chain in [Some(mesh), plain, own_tls].into_iter().flatten() {
        match handler(chain)? {
            Handler::Http { .. } if unsaid.is_some() => {
                return invalid("filters", "beside a chain for HTTP there is one for bytes");
            }
            Handler::Http { routes: named } => routes = Some(named),
            Handler::Tcp { cluster: named } => cluster = named,
            Handler::OwnRoutes(_) => return invalid("route_specifier", "only RDS is known here"),
        }
    }
    let tls = server_tls(mesh)?;
    if let Some(http) = chains.mesh_http.map(server_tls).transpose()?
        && (&http.identity, &http.trust) != (&tls.identity, &tls.trust)
    {
        return invalid("transport_socket", "mesh peers are the same whatever they speak");
    }
    Ok(CapturedPortSpec {
        tls,
        routes,
        unsaid,
        cluster,
        plain: plain.is_some(),
        services: services(mesh.metadata.as_ref())?,
    })
}

fn original_destination(message: &xds::Listener) -> Result<(), Invalid> {
    if message.use_original_dst.as_ref().is_some_and(|b| b.value) {
        return Ok(());
    }
    invalid("use_original_dst", "must be set: the destination decides")
}

fn destination(chain: &xds::FilterChain) -> Result<Option<u16>, Invalid> {
    let said = chain.filter_chain_match.as_ref().and_then(|m| m.destination_port.as_ref());
    said.map(|p| u16::try_from(p.value))
        .transpose()
        .map_err(|_large| Invalid { field: "destination_port", why: "is above 65535".to_owned() })
}
