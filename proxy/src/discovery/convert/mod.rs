//! Pure. The border between Envoy's messages and what the proxy can do: per resource, a value or the reason why not.
//!
//! What this version cannot do is refused by name, never half done.

mod captured;
mod cluster;
mod endpoint;
mod listener;
mod names;
mod route;
mod secret;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::google::protobuf::{Any, Struct, value::Kind as ValueKind};
use meshfed_model::identity::{SpiffeId, TrustDomain};
use prost::Message;
use rustls_pki_types::{CertificateDer, ServerName};

use crate::state::{CircuitBreakers, RoutePolicy};

pub use cluster::cluster;
pub use endpoint::assignment;
pub use listener::listener;
pub use names::{NAMES, names};
pub use route::route;
pub use secret::{SecretSpec, secret};

/// Why a resource is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {why}")]
pub struct Invalid {
    /// The field.
    pub field: &'static str,
    /// What is wrong with it.
    pub why: String,
}

pub(crate) fn invalid<T>(field: &'static str, why: impl Into<String>) -> Result<T, Invalid> {
    Err(Invalid { field, why: why.into() })
}

/// Metadata as keys and values, sorted.
pub type Metadata = Vec<(String, String)>;

/// A cluster as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterSpec {
    /// How long a connect may take.
    pub connect_timeout: Duration,
    /// Whether each client, by its address, stays on one endpoint.
    pub sticky: bool,
    /// Limits.
    pub circuit_breakers: CircuitBreakers,
    /// Source addresses, at most one of each family.
    pub source: Vec<IpAddr>,
    /// `(name, metadata to match, transport)`.
    pub matches: Vec<(String, Metadata, TransportSpec)>,
    /// What endpoints without a match use.
    pub default_transport: TransportSpec,
    /// Where its endpoints come from.
    pub endpoints: EndpointSource,
}

/// Where a cluster's endpoints come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndpointSource {
    /// EDS, by this name.
    Discovered(String),
    /// The cluster itself.
    Fixed(Assignment),
    /// Each connection: where it was meant to go before it was captured.
    OriginalDestination,
}

impl ClusterSpec {
    fn transports(&self) -> impl Iterator<Item = &TransportSpec> {
        self.matches.iter().map(|(_, _, t)| t).chain([&self.default_transport])
    }
    /// The secrets that its transports need.
    pub(crate) fn secrets(&self) -> BTreeSet<&str> {
        self.transports()
            .flat_map(|t| match t {
                TransportSpec::Plaintext => [None, None],
                TransportSpec::Tls { identity, trust, .. } => [Some(identity.as_str()), Some(trust.as_str())],
            })
            .flatten()
            .collect()
    }
    pub(crate) fn same_transports(&self, other: &Self) -> bool {
        self.matches == other.matches && self.default_transport == other.default_transport
    }
    /// The name of its assignment in EDS.
    pub(crate) fn assignment(&self) -> Option<&str> {
        match &self.endpoints {
            EndpointSource::Discovered(name) => Some(name),
            EndpointSource::Fixed(_) | EndpointSource::OriginalDestination => None,
        }
    }
}

/// A transport as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TransportSpec {
    /// No TLS.
    Plaintext,
    /// mTLS.
    Tls {
        /// What is sent as server name.
        sni: ServerName<'static>,
        /// Offered protocols.
        alpn: Vec<Vec<u8>>,
        /// The peer must have one of these.
        identities: BTreeSet<SpiffeId>,
        /// The secret with our identity.
        identity: String,
        /// The secret with the bundles.
        trust: String,
    },
}

/// The endpoints of a cluster as configured.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Assignment {
    /// In the order of the message.
    pub endpoints: Vec<EndpointSpec>,
}

/// One endpoint as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointSpec {
    /// The address.
    pub address: SocketAddr,
    /// Its priority.
    pub priority: u32,
    /// Its weight, at least 1.
    pub weight: u32,
    /// Whether it may be dialled.
    pub usable: bool,
    /// `REGION/ZONE/SUBZONE`.
    pub locality: String,
    /// `envoy.transport_socket_match` metadata, sorted.
    pub matches: Vec<(String, String)>,
    /// The mesh cluster it belongs to.
    pub cluster: String,
    /// Its network.
    pub network: String,
    /// `NAMESPACE/NAME`.
    pub service: String,
    /// Whether it is a gateway.
    pub via_gateway: bool,
}

/// A route configuration as configured.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RouteSpec {
    /// Authorities are compared without port.
    pub ignore_port: bool,
    /// Authority to action.
    pub hosts: BTreeMap<String, ActionSpec>,
    /// The action of `*`.
    pub fallback: Option<ActionSpec>,
}

/// What is done with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ActionSpec {
    /// Sent to a cluster.
    Cluster(String, RoutePolicy),
    /// Answered here.
    Respond(u16),
}

/// A listener as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerSpec {
    /// Where it listens.
    pub addresses: Vec<SocketAddr>,
    /// What it does.
    pub kind: ListenerSpecKind,
    /// Whether it has sockets; without, its addresses are virtual.
    pub bound: bool,
    /// The workload's bind addresses, where the agent tells them.
    pub bind: Vec<IpAddr>,
}

/// What a listener does, as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenerSpecKind {
    /// The application's HTTP, by this route configuration.
    OutboundHttp {
        /// The route configuration.
        routes: String,
    },
    /// The application's TCP.
    OutboundTcp {
        /// The cluster.
        cluster: String,
    },
    /// The application's connections to one service, HTTP or not.
    OutboundAny {
        /// The routes of HTTP, which the listener carries itself.
        routes: RouteSpec,
        /// The cluster of everything else, and how long the first bytes are waited for; `None`: all of it is HTTP.
        otherwise: Option<(String, Duration)>,
    },
    /// Every captured connection of the application.
    CapturedOutbound {
        /// The cluster of unknown addresses.
        unknown: String,
    },
    /// Every captured connection to the application.
    CapturedInbound {
        /// By declared port.
        ports: BTreeMap<u16, CapturedPortSpec>,
        /// All others.
        others: Option<CapturedPortSpec>,
    },
    /// Peers' HTTP.
    InboundHttp {
        /// The workload's port.
        port: u16,
        /// TLS.
        tls: ServerTlsSpec,
        /// The route configuration.
        routes: String,
        /// The hosts of the services that hold the workload and port, as the agent tells them.
        services: Vec<String>,
    },
    /// Peers' TCP.
    InboundTcp {
        /// The workload's port.
        port: u16,
        /// TLS.
        tls: ServerTlsSpec,
        /// The cluster.
        cluster: String,
        /// The hosts of the services that hold the workload and port, as the agent tells them.
        services: Vec<String>,
    },
    /// SNI passthrough: server name to cluster.
    Gateway {
        /// The table.
        names: BTreeMap<String, String>,
    },
}

/// One port of a captured workload, as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CapturedPortSpec {
    /// TLS for mesh peers.
    pub tls: ServerTlsSpec,
    /// The routes of HTTP; `None`: TCP.
    pub routes: Option<String>,
    /// Where HTTP goes, and how long it is looked for, if the port does not say what it speaks.
    pub unsaid: Option<(RouteSpec, Duration)>,
    /// The application's cluster for what is no HTTP; empty where nothing else is taken.
    pub cluster: String,
    /// Whether others than mesh peers are taken.
    pub plain: bool,
    /// The hosts of the services that hold the workload and port.
    pub services: Vec<String>,
}

/// TLS of a listener as configured: a client certificate is required always.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerTlsSpec {
    /// The secret with our identity.
    pub identity: String,
    /// The secret with the bundles.
    pub trust: String,
    /// Protocols that are taken.
    pub alpn: Vec<Vec<u8>>,
}

/// Bundles of one secret.
pub type Bundles = BTreeMap<TrustDomain, Vec<CertificateDer<'static>>>;

pub(super) fn decode<M: Message + Default>(
    any: Option<&Any>,
    field: &'static str,
    type_name: &str,
) -> Result<M, Invalid> {
    let Some(any) = any else { return invalid(field, "is missing") };
    let held = any.type_url.rsplit('/').next().unwrap_or_default();
    if held != type_name {
        return invalid(field, format!("is a {held}; only {type_name} is known here"));
    }
    M::decode(any.value.as_slice()).map_err(|e| Invalid { field, why: e.to_string() })
}

pub(super) fn socket_address(address: Option<&core::Address>, field: &'static str) -> Result<SocketAddr, Invalid> {
    let Some(core::address::Address::SocketAddress(socket)) = address.and_then(|a| a.address.as_ref()) else {
        return invalid(field, "is no socket address");
    };
    let Some(core::socket_address::PortSpecifier::PortValue(port)) = &socket.port_specifier else {
        return invalid(field, "has no port");
    };
    let port = u16::try_from(*port).map_err(|_large| Invalid { field, why: format!("port {port} is above 65535") })?;
    Ok(SocketAddr::new(ip(&socket.address, field)?, port))
}

pub(super) fn ip(text: &str, field: &'static str) -> Result<IpAddr, Invalid> {
    text.parse()
        .map_err(|_name| Invalid { field, why: format!("'{text}' is no IP address; names are never resolved here") })
}

/// The string fields of a struct, sorted.
pub(super) fn strings(object: Option<&Struct>) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = object
        .into_iter()
        .flat_map(|s| s.fields.iter())
        .filter_map(|(k, v)| match &v.kind {
            Some(ValueKind::StringValue(text)) => Some((k.clone(), text.clone())),
            Some(
                ValueKind::NullValue(_)
                | ValueKind::NumberValue(_)
                | ValueKind::BoolValue(_)
                | ValueKind::StructValue(_)
                | ValueKind::ListValue(_),
            )
            | None => None,
        })
        .collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests;
