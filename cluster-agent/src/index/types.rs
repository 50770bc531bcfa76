//! Pure. What the index knows: the cluster's own services, workloads and gateways.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use meshfed_crds::{Labels, TargetPort, WorkloadPorts};
use meshfed_model::export::ExportTo;
use meshfed_model::horizon::EndpointCandidate;
use meshfed_model::identity::{SpiffeId, TrustDomain};
use meshfed_model::locality::Locality;
use meshfed_model::names::{ClusterName, Namespace, NetworkName, ServiceName};
use meshfed_model::network::{Cidr, Network};
use meshfed_model::offer::Exported;
use meshfed_model::policy::{FailoverSpec, FleetSettings};
use meshfed_model::service::{PortProtocol, ServicePort, ServiceTraits, ServiceType};
use meshfed_model::sorted::SortedSet;

/// What the cluster's token binds it to, and its names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexSettings {
    /// The cluster.
    pub cluster: ClusterName,
    /// The fleet's domain.
    pub fleet: TrustDomain,
    /// The cluster's own trust domain.
    pub trust_domain: TrustDomain,
    /// Its networks; the first is the default of its workloads.
    pub networks: Vec<Network>,
    /// Its regions; the first is the default.
    pub regions: Vec<String>,
    /// Its zones; the first is the default.
    pub zones: Vec<String>,
    /// Ranges of its gateways; empty: those of the network.
    pub gateway_cidrs: BTreeSet<Cidr>,
}

impl IndexSettings {
    /// Where a workload runs that does not say.
    #[must_use]
    pub fn default_locality(&self) -> Locality {
        let first = |all: &[String]| all.first().cloned().unwrap_or_default();
        let region = first(&self.regions);
        let zone = if region.is_empty() { String::new() } else { first(&self.zones) };
        Locality::new(region, zone)
    }
}

/// Names a workload: a WorkloadEntry or a Pod. Where both have one name, the pod is meant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkloadKey {
    /// Its namespace.
    pub namespace: Namespace,
    /// Its name.
    pub name: Arc<str>,
}
impl std::fmt::Display for WorkloadKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What the workload's proxy says of itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WorkloadState {
    /// Its proxy holds a stream.
    pub connected: bool,
    /// The application passes its probe (a gateway: its listeners are bound).
    pub app_ready: bool,
}

/// What Kubernetes says of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodFacts {
    /// What a token of it is bound to.
    pub uid: Arc<str>,
    /// Whether its condition `Ready` is true.
    pub ready: bool,
    /// Whether its kubelet's last word counts, which is that it is ready, whatever Kubernetes says since.
    pub spared: bool,
    /// Whether it is being deleted.
    pub terminating: bool,
}

/// A workload of this cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    /// Namespace and name.
    pub key: WorkloadKey,
    /// Its service account.
    pub service_account: Arc<str>,
    /// `spiffe://<cluster>.F/ns/<namespace>/sa/<service account>`.
    pub identity: SpiffeId,
    /// All its addresses, the WorkloadEntry's `address` first.
    pub addresses: Box<[IpAddr]>,
    /// Its network.
    pub network: NetworkName,
    /// Where it runs.
    pub locality: Locality,
    /// Its weight, from 1.
    pub weight: u32,
    /// Its ports: what its proxy listens on.
    pub ports: WorkloadPorts,
    /// Its labels.
    pub labels: Labels,
    /// Whether it lies outside the ranges of the cluster's token: then it is never offered.
    pub outside: bool,
    /// What Kubernetes says of it; none: it is a WorkloadEntry.
    pub pod: Option<PodFacts>,
    /// Whether a proxy stands before it; without one it speaks plaintext and is never offered.
    pub sidecar: bool,
    /// Who may speak for it on the sockets; `None`: the agent's own uid.
    pub unix_uid: Option<u32>,
    /// What its proxy says.
    pub state: WorkloadState,
    /// The services that select it.
    pub services: SortedSet<ServiceName>,
}

impl Workload {
    /// Whether it takes requests: what Kubernetes says of a pod, else what its proxy says.
    #[must_use]
    pub const fn ready(&self) -> bool {
        match &self.pod {
            Some(pod) => (pod.ready || pod.spared) && !pod.terminating,
            None => !self.sidecar || (self.state.connected && self.state.app_ready),
        }
    }
}

/// One port of one workload as an endpoint of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The service's port.
    pub port: u16,
    /// The port to dial.
    pub target_port: u16,
    /// The addresses to dial.
    pub addresses: Box<[IpAddr]>,
    /// Its network.
    pub network: NetworkName,
    /// Where it runs.
    pub locality: Locality,
    /// Its weight, from 1.
    pub weight: u32,
    /// Whether it takes requests.
    pub ready: bool,
    /// Whether it speaks mTLS.
    pub mtls: bool,
    /// Whether it may be offered to other clusters: it speaks mTLS, and lies within the ranges of the token.
    pub offered: bool,
    /// Who answers. None: an address in a slice behind which no workload is known.
    pub identity: Option<SpiffeId>,
}

/// A service of this cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalService {
    /// Its name.
    pub name: ServiceName,
    /// Whether it has an address of its own.
    pub service_type: ServiceType,
    /// Its own addresses (`spec.clusterIPs`): none where it is headless, or nobody gave it any.
    pub addresses: Box<[IpAddr]>,
    /// Its ports, in the order of the object; only those of TCP have endpoints.
    pub ports: Vec<ServicePort>,
    /// What it asks of its clients.
    pub traits: ServiceTraits,
    /// Whether it stands for a name elsewhere (`type: ExternalName`): then it has no ports, and cannot be exported.
    pub external: bool,
    /// To whom it is exported; `None`: not at all.
    pub export_to: Option<ExportTo>,
    /// What its export adds to the import.
    pub exported: Exported,
    /// Its endpoints by workload: one per port of the service that the workload has.
    pub endpoints: BTreeMap<WorkloadKey, Box<[Endpoint]>>,
    /// Whether it is an east-west gateway.
    pub gateway: bool,
    /// How many workloads behind it have each identity.
    pub(super) identities: BTreeMap<SpiffeId, u32>,
    pub(super) selector: Labels,
    /// What each of `ports` is on the workloads.
    pub(super) targets: Vec<TargetPort>,
    /// Ports (by index) whose named target a workload does not have.
    pub(super) dangling: BTreeSet<(usize, WorkloadKey)>,
}

impl LocalService {
    /// Whom a client must find behind it: the identities of its endpoints that speak mTLS.
    pub fn identities(&self) -> impl Iterator<Item = &SpiffeId> {
        self.identities.keys()
    }
    /// One of its ports that have endpoints.
    #[must_use]
    pub fn port(&self, number: u16) -> Option<&ServicePort> {
        self.ports.iter().find(|p| p.port == number && p.is_served())
    }
    /// The endpoints of one port, with their workloads.
    pub fn at_port(&self, port: u16) -> impl Iterator<Item = (&WorkloadKey, &Endpoint)> {
        let all = self.endpoints.iter().flat_map(|(key, endpoints)| endpoints.iter().map(move |e| (key, e)));
        all.filter(move |(_, e)| e.port == port)
    }
    /// The endpoints of one port, each of its addresses a candidate.
    pub fn candidates(&self, port: u16, cluster: &ClusterName) -> Vec<EndpointCandidate> {
        // Most workloads have one address and one port.
        let mut all = Vec::with_capacity(self.endpoints.len());
        for (_, endpoint) in self.at_port(port) {
            all.extend(endpoint.addresses.iter().map(|address| EndpointCandidate {
                cluster: cluster.clone(),
                network: endpoint.network.clone(),
                locality: endpoint.locality.clone(),
                address: *address,
                port: endpoint.target_port,
                weight: endpoint.weight,
                ready: endpoint.ready,
                mtls: endpoint.mtls,
            }));
        }
        all
    }
}

/// One address of a gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayAddress {
    /// What other networks dial.
    pub address: SocketAddr,
    /// The workload whose own address it is.
    pub owner: Option<WorkloadKey>,
    /// The gateway's own locality: that of the owner, else of the first workload behind it.
    pub locality: Locality,
    /// Whether it may be offered: its owner is ready, or without owner any workload behind it.
    pub ready: bool,
}

/// An east-west gateway of this cluster (`contracts.md` 1.9).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalGateway {
    /// Its service.
    pub service: ServiceName,
    /// The network it leads into.
    pub network: NetworkName,
    /// The number of its port `tls`.
    pub port: u16,
    /// Its addresses, in order.
    pub addresses: Vec<GatewayAddress>,
    /// The host names among what it declares; their addresses are among `addresses` once they are resolved.
    pub hosts: Vec<Arc<str>>,
    /// The workloads behind it, with the port each listens on.
    pub workloads: BTreeMap<WorkloadKey, u16>,
}

/// Where a gateway's proxy listens (`contracts.md` 1.8): the first of the three that has something.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GatewayListen {
    /// Declared addresses whose host is its WorkloadEntry's own.
    pub own: Vec<SocketAddr>,
    /// Declared addresses that no other workload of the service has: for those that the host owns.
    pub shared: Vec<SocketAddr>,
    /// Else its bind addresses, at this port.
    pub port: u16,
}

/// What one port of a workload is for its proxy's inbound side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InboundPort {
    /// How it is spoken to.
    pub protocol: PortProtocol,
    /// Whether somebody says that it speaks something else than HTTP.
    pub says_other: bool,
    /// The services that hold this workload and port, with the service's port.
    pub services: Vec<(ServiceName, u16)>,
    /// To whom those of them that are exported go: only these clusters' trust domains are accepted.
    pub export_to: Vec<ExportTo>,
}

impl InboundPort {
    /// A port as one says that holds it.
    #[must_use]
    pub fn of(port: &ServicePort) -> Self {
        let protocol = port.speaks();
        let says_other = protocol == PortProtocol::Tcp && port.declares();
        Self { protocol, says_other, services: Vec::new(), export_to: Vec::new() }
    }
    /// What it is declared to speak. `None`: not all who hold it say HTTP, and nobody says anything else.
    #[must_use]
    pub const fn said(&self) -> Option<PortProtocol> {
        match self.protocol {
            PortProtocol::Http => Some(PortProtocol::Http),
            PortProtocol::Tcp if self.says_other => Some(PortProtocol::Tcp),
            PortProtocol::Tcp => None,
        }
    }
}

/// What has to be looked at again after a change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dirty {
    /// Services whose ports, endpoints, export or existence changed.
    pub services: BTreeSet<ServiceName>,
    /// Services whose export came, changed or went, also of services that are not there.
    pub exports: BTreeSet<ServiceName>,
    /// Whether a gateway changed.
    pub gateways: bool,
    /// Workloads that changed, came or went.
    pub workloads: BTreeSet<WorkloadKey>,
    /// Whether another user owns a service account than before.
    pub owners: bool,
    /// Whether the host names of gateways changed that are to be resolved.
    pub hosts: bool,
    /// Whether the set of namespaces changed.
    pub namespaces: bool,
    /// Whether a failover policy changed: any service may have another one.
    pub policies: bool,
    /// Whether a PeerAuthentication or the mesh's settings changed.
    pub mesh: bool,
    /// Whether the list of errors changed.
    pub errors: bool,
}

impl Dirty {
    /// Whether nothing changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
    /// Adds what another change touched.
    pub fn merge(&mut self, other: Self) {
        self.services.extend(other.services);
        self.exports.extend(other.exports);
        self.workloads.extend(other.workloads);
        self.gateways |= other.gateways;
        self.hosts |= other.hosts;
        self.namespaces |= other.namespaces;
        self.policies |= other.policies;
        self.owners |= other.owners;
        self.mesh |= other.mesh;
        self.errors |= other.errors;
    }
}

/// Where a fleet policy comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FleetSource {
    /// The fleet source: before all others of its level.
    Fleet,
    /// The HTTP API.
    Api,
}

/// The policies of the fleet, as the hub sends them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FleetPolicies {
    /// Their revision.
    pub revision: u64,
    /// Failover policies.
    pub failover: Vec<(FleetSource, meshfed_crds::FailoverPolicyObject)>,
    /// Export policies: they bind every cluster.
    pub export: Vec<meshfed_crds::ExportPolicyObject>,
    /// Its settings, which the cluster's own override one by one.
    pub settings: FleetSettings,
}

/// The failover policy that holds for a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyChoice {
    /// Its name; `default` for the built-in one and for the fleet's default.
    pub name: String,
    /// `cluster:<name>`, `fleet`, `api`, `service` (its `trafficDistribution`) or `builtin`.
    pub source: String,
    /// What it says.
    pub spec: Arc<FailoverSpec>,
}

/// Why `--workload NAMESPACE/SA[/NAME]` names no single workload.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// None has that service account (and name).
    #[error(
        "no workload is {wanted} (NAMESPACE/SERVICE_ACCOUNT[/NAME], NAME of a pod or WorkloadEntry); {}",
        hint(others)
    )]
    NotFound {
        /// What was asked for.
        wanted: String,
        /// What there is with that namespace, at most ten.
        others: Vec<String>,
    },
    /// More than one has it.
    #[error("{wanted} may be any of {}; name one: NAMESPACE/SERVICE_ACCOUNT/NAME", candidates.join(", "))]
    Ambiguous {
        /// What was asked for.
        wanted: String,
        /// The workloads, at most ten.
        candidates: Vec<String>,
    },
}

fn hint(others: &[String]) -> String {
    if others.is_empty() {
        "the namespace has no workload".to_owned()
    } else {
        format!("its namespace has {}", others.join(", "))
    }
}
