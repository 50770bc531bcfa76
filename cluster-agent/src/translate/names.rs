//! Pure. xDS names (`contracts.md` 1.13), formed and read.

use std::fmt;

use super::resource::Kind;
use meshfed_model::names::{ServiceName, SubsetName};
use meshfed_model::sni::{CLUSTER_DOMAIN, CLUSTERSET_DOMAIN, outbound_cluster, sni};

/// The domain under which a service is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Domain {
    /// All clusters that export to us, the own one only if it exports too.
    Clusterset,
    /// The own cluster only.
    Cluster,
}

impl Domain {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Clusterset, Self::Cluster];
    /// The DNS domain.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Clusterset => CLUSTERSET_DOMAIN,
            Self::Cluster => CLUSTER_DOMAIN,
        }
    }
}

/// One service port and subset under a domain: what an outbound cluster stands for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OutboundName {
    /// The service.
    pub service: ServiceName,
    /// Its port.
    pub port: u16,
    /// The subset.
    pub subset: SubsetName,
    /// The domain.
    pub domain: Domain,
}

impl OutboundName {
    /// All endpoints of a port.
    #[must_use]
    pub fn new(service: ServiceName, port: u16, domain: Domain) -> Self {
        Self { service, port, subset: SubsetName::all(), domain }
    }
    /// `name.namespace.svc.domain`.
    #[must_use]
    pub fn host(&self) -> String {
        self.service.host(self.domain.as_str())
    }
    /// `outbound_.<port>_.<subset>_.<host>`: the SNI, and the name of a gateway's cluster.
    #[must_use]
    pub fn sni(&self) -> String {
        sni(&self.service, self.port, &self.subset, self.domain.as_str())
    }
    /// Reads `outbound|<port>|<subset>|<host>` or `outbound_.<port>_.<subset>_.<host>`.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let rest = name.strip_prefix("outbound")?;
        let mut parts = if let Some(bars) = rest.strip_prefix('|') {
            bars.splitn(3, "|")
        } else {
            rest.strip_prefix("_.")?.splitn(3, "_.")
        };
        let (port, subset, host) = (parts.next()?, parts.next()?, parts.next()?);
        let (service, domain) = parse_host(host)?;
        Some(Self { service, port: port.parse().ok()?, subset: SubsetName::new(subset).ok()?, domain })
    }
}

impl fmt::Display for OutboundName {
    /// `outbound|<port>|<subset>|<host>`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&outbound_cluster(&self.service, self.port, &self.subset, self.domain.as_str()))
    }
}

/// The service and domain of a full host name.
#[must_use]
pub fn parse_host(host: &str) -> Option<(ServiceName, Domain)> {
    for domain in Domain::ALL {
        let Some(rest) = host.strip_suffix(domain.as_str()).and_then(|r| r.strip_suffix(".svc.")) else { continue };
        let (name, namespace) = rest.split_once('.')?;
        return Some((ServiceName::new(namespace, name).ok()?, domain));
    }
    None
}

/// Whether a sidecar's resource may be made of what other clusters show. Certificates are not, nor are endpoints of the
/// own cluster's services; which trust domains may call a port follows from the members.
#[must_use]
pub fn depends_on_view(kind: Kind, name: &str) -> bool {
    match kind {
        Kind::Cluster | Kind::Listener | Kind::Route => true,
        Kind::Endpoint => OutboundName::parse(name).is_none_or(|n| n.domain != Domain::Cluster),
        Kind::Secret => name.starts_with("inbound|"),
    }
}

/// The name of the RDS resource and HTTP listener for clients.
pub const OUTBOUND_ROUTES: &str = "15001";
/// The outbound port when a proxy does not say.
pub const OUTBOUND_PORT: u16 = 15001;
/// The port of captured inbound connections when a proxy does not say.
pub const INBOUND_PORT: u16 = 15006;
/// The number that stands in names for every port that a workload does not declare.
pub const UNDECLARED_PORT: u16 = 0;
/// Where captured connections to addresses go that nobody in the mesh has.
pub const PASSTHROUGH: &str = "PassthroughCluster";
/// Where connections go that lead nowhere.
pub const BLACK_HOLE: &str = "BlackHoleCluster";
/// The application behind a port that its workload does not declare.
pub const INBOUND_PASSTHROUGH: &str = "InboundPassthroughCluster";

/// `inbound|<port>`: listener, routes and validation context of a workload's port.
#[must_use]
pub fn inbound(port: u16) -> String {
    format!("inbound|{port}")
}
/// `inbound|<port>||`: the application behind it.
#[must_use]
pub fn inbound_cluster(port: u16) -> String {
    format!("inbound|{port}||")
}
