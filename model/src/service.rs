//! Pure. Services and their ports.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// How a port is spoken to (`contracts.md` 1.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PortProtocol {
    /// HTTP/1.1.
    Http,
    /// Bytes.
    Tcp,
}

/// Whether a service has an address of its own (MCS `ServiceImportType`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ServiceType {
    /// One virtual address.
    #[default]
    ClusterSetIP,
    /// One address per endpoint.
    Headless,
}

/// Whether requests of one client stay on one endpoint (`spec.sessionAffinity`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum SessionAffinity {
    /// They do not.
    #[default]
    None,
    /// By the client's address, for `timeout_seconds` after its last request (1 to 86,400; Kubernetes' default 10,800).
    ClientIP {
        /// How long.
        timeout_seconds: u32,
    },
}

/// Which endpoints a client inside the cluster may use (`spec.internalTrafficPolicy`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum InternalTrafficPolicy {
    /// All.
    #[default]
    Cluster,
    /// Those on its node.
    Local,
}

/// A family of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum IpFamily {
    /// `IPv4`.
    IPv4,
    /// `IPv6`.
    IPv6,
}
impl IpFamily {
    /// The family of an address.
    #[must_use]
    pub const fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::IPv4 } else { Self::IPv6 }
    }
}

/// What a Service asks of its clients besides its ports; an import has those of its oldest export (KEP-1645).
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ServiceTraits {
    /// Whether a client stays on one endpoint.
    pub session_affinity: SessionAffinity,
    /// Which endpoints a client may use.
    pub internal_traffic_policy: InternalTrafficPolicy,
    /// `spec.trafficDistribution` as written, say `PreferClose`.
    pub traffic_distribution: Option<String>,
    /// The families of its addresses, the first one first. Empty: not said.
    pub ip_families: Vec<IpFamily>,
}

/// Which endpoints `spec.trafficDistribution` prefers (KEP-3015).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Preference {
    /// Those in the client's zone, where one of them is ready: `PreferSameZone`, and its old name `PreferClose`.
    SameZone,
    /// Those on the client's node, then as above: `PreferSameNode`.
    SameNode,
}

impl ServiceTraits {
    /// Whether a client stays on one endpoint.
    #[must_use]
    pub const fn is_sticky(&self) -> bool {
        matches!(self.session_affinity, SessionAffinity::ClientIP { .. })
    }
    /// What is preferred; `None`: nothing, or by a word that is not known here.
    #[must_use]
    pub fn preference(&self) -> Option<Preference> {
        match self.traffic_distribution.as_deref() {
            Some("PreferClose" | "PreferSameZone") => Some(Preference::SameZone),
            Some("PreferSameNode") => Some(Preference::SameNode),
            Some(_) | None => None,
        }
    }
}

/// One port of a service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServicePort {
    /// The name; may be empty when the service has one port.
    pub name: String,
    /// The number clients use.
    pub port: u16,
    /// `TCP`, `UDP` or `SCTP`. Only TCP ports have endpoints.
    pub protocol: String,
    /// `appProtocol` as written, if any.
    pub app_protocol: Option<String>,
}

/// Two ports of one service that cannot be told apart: traffic is routed by protocol and number, and policies name ports
/// by name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PortClash {
    /// One number of one protocol.
    #[error("ports[{at}].port: {port} is the number of ports[{first}] already; give each port a number of its own")]
    Number {
        /// The first that has it.
        first: usize,
        /// The second.
        at: usize,
        /// The number.
        port: u16,
    },
    /// One name; also where neither has one.
    #[error("ports[{at}].name: '{name}' is the name of ports[{first}] already; give each port a name of its own")]
    Name {
        /// The first that has it.
        first: usize,
        /// The second.
        at: usize,
        /// The name.
        name: String,
    },
}

/// Whether the ports of a service can be told apart.
///
/// # Errors
/// [`PortClash`] with the first two that cannot.
pub fn check_ports(ports: &[ServicePort]) -> Result<(), PortClash> {
    let (mut numbers, mut names) = (BTreeMap::new(), BTreeMap::new());
    for (at, port) in ports.iter().enumerate() {
        if let Some(first) = numbers.insert((port.port, port.protocol.as_str()), at) {
            return Err(PortClash::Number { first, at, port: port.port });
        }
        if let Some(first) = names.insert(port.name.as_str(), at) {
            return Err(PortClash::Name { first, at, name: port.name.clone() });
        }
    }
    Ok(())
}

/// The protocol whose ports have endpoints.
pub const TCP: &str = "TCP";
/// Protocols that a port name may begin with (`NAME` or `NAME-…`, as in Istio): then nothing has to be found out.
const DECLARED: [&str; 11] =
    ["tcp", "tls", "https", "http2", "grpc", "mongo", "mysql", "postgres", "redis", "udp", "http"];

impl ServicePort {
    /// Whether it can have endpoints: ports of other protocols are there, and nobody serves them yet.
    #[must_use]
    pub fn is_served(&self) -> bool {
        self.protocol == TCP
    }
    /// HTTP by `appProtocol`, else by a name `http` or `http-*`, else TCP (`contracts.md` 1.8).
    #[must_use]
    pub fn speaks(&self) -> PortProtocol {
        match self.app_protocol.as_deref() {
            Some("http" | "HTTP" | "http/1.1") => PortProtocol::Http,
            Some(_) => PortProtocol::Tcp,
            None if self.name == "http" || self.name.starts_with("http-") => PortProtocol::Http,
            None => PortProtocol::Tcp,
        }
    }
    /// Whether it says what it speaks, by `appProtocol` or by its name.
    #[must_use]
    pub fn declares(&self) -> bool {
        let named = self.name.split('-').next().unwrap_or_default();
        self.app_protocol.is_some() || DECLARED.contains(&named)
    }
    /// `appProtocol` as shown: as written, else `http` or `tcp` as derived.
    #[must_use]
    pub fn shown_app_protocol(&self) -> &str {
        match (&self.app_protocol, self.speaks()) {
            (Some(p), _) => p,
            (None, PortProtocol::Http) => "http",
            (None, PortProtocol::Tcp) => "tcp",
        }
    }
}
