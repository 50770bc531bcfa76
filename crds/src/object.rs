//! Pure. The objects that users write, as values close to `model`.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use meshfed_model::export::ClusterSelector;
use meshfed_model::locality::Locality;
use meshfed_model::names::{Namespace, NetworkName, ServiceName};
use meshfed_model::policy::FailoverSpec;
use meshfed_model::service::{ServicePort, ServiceTraits, ServiceType};
use serde::{Deserialize, Serialize};

mod kubernetes;

pub use kubernetes::{
    EndpointSliceObject, MeshObject, MtlsMode, NodeHealth, NodeObject, OutboundPolicy, PeerAuthenticationObject,
    PodObject, SliceEndpoint,
};

/// The kinds that this version serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// `v1`.
    Namespace,
    /// `v1`.
    Service,
    /// `networking.istio.io/v1`.
    WorkloadEntry,
    /// `multicluster.x-k8s.io/v1beta1`.
    ServiceExport,
    /// `federation.meshfed.io/v1alpha1`.
    ExportPolicy,
    /// `federation.meshfed.io/v1alpha1`.
    FailoverPolicy,
    /// `discovery.k8s.io/v1`.
    EndpointSlice,
    /// `v1`.
    Pod,
    /// `v1`.
    Node,
    /// `security.istio.io/v1`.
    PeerAuthentication,
    /// `federation.meshfed.io/v1alpha1`.
    Mesh,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Namespace,
        Self::Service,
        Self::WorkloadEntry,
        Self::ServiceExport,
        Self::ExportPolicy,
        Self::FailoverPolicy,
        Self::EndpointSlice,
        Self::Pod,
        Self::Node,
        Self::PeerAuthentication,
        Self::Mesh,
    ];
    /// Whether it is not one of Kubernetes itself.
    #[must_use]
    pub const fn is_custom(self) -> bool {
        match self {
            Self::Namespace | Self::Service | Self::EndpointSlice | Self::Pod | Self::Node => false,
            Self::WorkloadEntry
            | Self::ServiceExport
            | Self::ExportPolicy
            | Self::FailoverPolicy
            | Self::PeerAuthentication
            | Self::Mesh => true,
        }
    }
    /// As it is written in `kind:`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::Service => "Service",
            Self::WorkloadEntry => "WorkloadEntry",
            Self::ServiceExport => "ServiceExport",
            Self::ExportPolicy => "ExportPolicy",
            Self::FailoverPolicy => "FailoverPolicy",
            Self::EndpointSlice => "EndpointSlice",
            Self::Pod => "Pod",
            Self::Node => "Node",
            Self::PeerAuthentication => "PeerAuthentication",
            Self::Mesh => "Mesh",
        }
    }
    /// Whether it is one of Istio's: a cluster without it has nothing to say by it, and lacks nothing.
    #[must_use]
    pub const fn is_istios(self) -> bool {
        matches!(self, Self::WorkloadEntry | Self::PeerAuthentication)
    }
    /// As it is written in `apiVersion:`.
    #[must_use]
    pub const fn api_version(self) -> &'static str {
        match self {
            Self::Namespace | Self::Service | Self::Pod | Self::Node => "v1",
            Self::WorkloadEntry => "networking.istio.io/v1",
            Self::ServiceExport => "multicluster.x-k8s.io/v1beta1",
            Self::ExportPolicy | Self::FailoverPolicy | Self::Mesh => "federation.meshfed.io/v1alpha1",
            Self::EndpointSlice => "discovery.k8s.io/v1",
            Self::PeerAuthentication => "security.istio.io/v1",
        }
    }
    /// Whether its objects belong to no namespace.
    #[must_use]
    pub const fn is_cluster_scoped(self) -> bool {
        matches!(self, Self::Namespace | Self::Node | Self::Mesh)
    }
    /// Whether Kubernetes itself writes it, and judges it: only the fields that are used are looked at, because a later
    /// server has fields that we do not know.
    #[must_use]
    pub const fn is_judged_by_server(self) -> bool {
        matches!(self, Self::Pod | Self::Node | Self::EndpointSlice)
    }
}
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Kind, namespace and name. The namespace is empty for kinds of the whole cluster, and for a FailoverPolicy of the fleet source
/// that names none.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectKey {
    /// The kind.
    pub kind: Kind,
    /// The namespace.
    pub namespace: Arc<str>,
    /// The name.
    pub name: Arc<str>,
}
impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind, self.name)
        } else {
            write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
        }
    }
}

/// A place in a file: line and column from 1, the column in characters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Place {
    /// The line.
    pub line: u32,
    /// The column.
    pub column: u32,
}

/// Where an object was written, so that a fault found later still names its line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The file, relative to PATH.
    pub file: Arc<str>,
    /// Where the object begins.
    pub place: Place,
    /// Where the fields stand that are judged against something outside the object.
    pub fields: Box<[(Cow<'static, str>, Place)]>,
}
impl Origin {
    /// Where a field stands; the object's own place when the field was not written.
    #[must_use]
    pub fn place_of(&self, field: &str) -> Place {
        self.fields.iter().find(|(name, _)| name == field).map_or(self.place, |(_, place)| *place)
    }
}

/// Whose source it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// A cluster's: all kinds.
    Cluster,
    /// The fleet's (`federator --source`): policies and the fleet's settings only.
    Fleet,
    /// A cluster's API server: as [`Self::Cluster`], where policies speak for their own namespace only.
    Member,
    /// The API server of the hub's cluster: as [`Self::Fleet`], where policies name the namespaces they are about.
    Hub,
}
impl Scope {
    /// Whether it is the fleet's.
    #[must_use]
    pub const fn is_fleet(self) -> bool {
        matches!(self, Self::Fleet | Self::Hub)
    }
}

/// A valid object. Two objects with equal `body` mean the same; `origin` is for messages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// Where it was written.
    pub origin: Origin,
    /// What it says.
    pub body: Body,
}

/// What an object says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    /// A namespace.
    Namespace(NamespaceObject),
    /// A service.
    // In a box: it is the largest by far, and every endpoint has an object.
    Service(Box<ServiceObject>),
    /// A workload outside Kubernetes.
    WorkloadEntry(WorkloadObject),
    /// An export.
    ServiceExport(ExportObject),
    /// To whom exports go.
    ExportPolicy(ExportPolicyObject),
    /// How clients fail over.
    FailoverPolicy(FailoverPolicyObject),
    /// Endpoints of a service.
    EndpointSlice(EndpointSliceObject),
    /// A workload in Kubernetes.
    Pod(PodObject),
    /// Where pods run.
    Node(NodeObject),
    /// Whether plaintext is taken.
    PeerAuthentication(PeerAuthenticationObject),
    /// Settings of a mesh.
    Mesh(MeshObject),
}

impl Object {
    /// Kind, namespace and name.
    #[must_use]
    pub fn key(&self) -> ObjectKey {
        // Nothing is copied: the index holds a key per object.
        let key = |kind, namespace: Arc<str>, name: Arc<str>| ObjectKey { kind, namespace, name };
        let of = |kind, service: &ServiceName| key(kind, service.namespace.shared(), service.shared_name());
        match &self.body {
            Body::Namespace(o) => key(Kind::Namespace, Arc::default(), o.name.shared()),
            Body::Service(o) => of(Kind::Service, &o.name),
            Body::WorkloadEntry(o) => key(Kind::WorkloadEntry, o.namespace.shared(), Arc::clone(&o.name)),
            Body::ServiceExport(o) => of(Kind::ServiceExport, &o.service),
            Body::ExportPolicy(o) => key(Kind::ExportPolicy, Arc::clone(&o.namespace), Arc::clone(&o.name)),
            Body::FailoverPolicy(o) => key(Kind::FailoverPolicy, Arc::clone(&o.namespace), Arc::clone(&o.name)),
            Body::EndpointSlice(o) => key(Kind::EndpointSlice, o.namespace.shared(), Arc::clone(&o.name)),
            Body::Pod(o) => key(Kind::Pod, o.namespace.shared(), Arc::clone(&o.name)),
            Body::Node(o) => key(Kind::Node, Arc::default(), Arc::clone(&o.name)),
            Body::PeerAuthentication(o) => key(Kind::PeerAuthentication, o.namespace.shared(), Arc::clone(&o.name)),
            Body::Mesh(o) => key(Kind::Mesh, Arc::default(), Arc::clone(&o.name)),
        }
    }
    /// A fault of this object, with its file and the place of `field`.
    #[must_use]
    pub fn fault(&self, code: crate::Code, field: &str, message: impl Into<String>) -> crate::ObjectError {
        crate::ObjectError::new(code, message)
            .in_file(&self.origin.file)
            .at(self.origin.place_of(field))
            .about(&self.key())
            .field(field)
    }
}

/// Text to text, sorted by key, without duplicates; small in memory because there is one per workload, which its object and
/// what is made of it share.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Labels(Arc<[(Arc<str>, Arc<str>)]>);

impl Labels {
    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        let at = self.0.binary_search_by(|(k, _)| k.as_ref().cmp(key)).ok()?;
        self.0.get(at).map(|(_, v)| v.as_ref())
    }
    /// All pairs, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<str>)> {
        self.0.iter().map(|(k, v)| (k, v))
    }
    /// Every text, to be replaced by an equal one. To be called before anybody shares them: after, nothing is done.
    pub(crate) fn each(&mut self, mut of: impl FnMut(&mut Arc<str>)) {
        for (key, value) in Arc::get_mut(&mut self.0).into_iter().flatten() {
            of(key);
            of(value);
        }
    }
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// Whether all pairs of `selector` are here. An empty selector selects nothing, as in a Service.
    #[must_use]
    pub fn selected_by(&self, selector: &Self) -> bool {
        !selector.is_empty() && selector.iter().all(|(k, v)| self.get(k) == Some(v))
    }
}
impl FromIterator<(Arc<str>, Arc<str>)> for Labels {
    fn from_iter<T: IntoIterator<Item = (Arc<str>, Arc<str>)>>(pairs: T) -> Self {
        let mut all: Vec<_> = pairs.into_iter().collect();
        all.sort();
        all.dedup_by(|a, b| a.0 == b.0);
        Self(all.into())
    }
}

/// Port name to the number that peers dial, sorted by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WorkloadPorts(Box<[(Arc<str>, u16)]>);

impl WorkloadPorts {
    /// The number of a named port.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<u16> {
        self.0.iter().find(|(n, _)| n.as_ref() == name).map(|(_, p)| *p)
    }
    /// Every name, to be replaced by an equal one.
    pub(crate) fn each(&mut self, mut of: impl FnMut(&mut Arc<str>)) {
        for (name, _) in &mut self.0 {
            of(name);
        }
    }
    /// All, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u16)> {
        self.0.iter().map(|(n, p)| (n.as_ref(), *p))
    }
}
impl FromIterator<(Arc<str>, u16)> for WorkloadPorts {
    fn from_iter<T: IntoIterator<Item = (Arc<str>, u16)>>(ports: T) -> Self {
        let mut all: Vec<_> = ports.into_iter().collect();
        all.sort();
        Self(all.into())
    }
}

/// A namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceObject {
    /// Its name.
    pub name: Namespace,
    /// Its labels.
    pub labels: Labels,
}

/// What a port of a service is on its workloads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum TargetPort {
    /// The same number.
    Same,
    /// A number.
    Number(u16),
    /// The number that the workload gives this name.
    Name(Arc<str>),
}

/// One port of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePortObject {
    /// What clients see.
    pub port: ServicePort,
    /// What workloads listen on.
    pub target: TargetPort,
}

/// A service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceObject {
    /// Its name.
    pub name: ServiceName,
    /// Its labels.
    pub labels: Labels,
    /// Which workloads of its namespace are behind it.
    pub selector: Labels,
    /// Its ports, as written; only those of TCP have endpoints.
    pub ports: Vec<ServicePortObject>,
    /// `clusterIP: None` is headless.
    pub service_type: ServiceType,
    /// `spec.clusterIPs`, else `spec.clusterIP`: the addresses that clients dial.
    #[serde(default)]
    pub cluster_ips: Box<[IpAddr]>,
    /// What it asks of its clients.
    #[serde(default)]
    pub traits: ServiceTraits,
    /// Annotation `federation.meshfed.io/service-import`: the import whose addresses it says that it carries.
    #[serde(default)]
    pub import: Option<Arc<str>>,
    /// `type: ExternalName`: it stands for a name elsewhere, has no endpoints and cannot be exported.
    #[serde(default)]
    pub external: bool,
    /// Label `topology.istio.io/network`: with it, and a port `tls`, the service is an east-west gateway.
    pub gateway_network: Option<NetworkName>,
    /// Annotation `federation.meshfed.io/gateway-addresses`.
    pub gateway_addresses: Vec<SocketAddr>,
    /// `spec.externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// `status.loadBalancer.ingress[].ip`.
    pub load_balancer_ips: Vec<IpAddr>,
    /// `status.loadBalancer.ingress[].hostname`, of a gateway.
    #[serde(default)]
    pub load_balancer_hosts: Vec<Arc<str>>,
}

/// A workload outside Kubernetes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkloadObject {
    /// Its namespace.
    pub namespace: Namespace,
    /// Its name.
    pub name: Arc<str>,
    /// `address`, then those of annotation `federation.meshfed.io/addresses`.
    pub addresses: Box<[IpAddr]>,
    /// Its ports.
    pub ports: WorkloadPorts,
    /// Its labels (`spec.labels`).
    pub labels: Labels,
    /// Its service account: with the namespace, the identity.
    pub service_account: Arc<str>,
    /// `network`, else label `topology.istio.io/network`; none: the token's first.
    pub network: Option<NetworkName>,
    /// Where it runs; none: the token's first region and zone.
    pub locality: Option<Locality>,
    /// From 1 to 1,000,000.
    pub weight: u32,
    /// Annotation `federation.meshfed.io/sidecar: "none"`: no proxy, plaintext, never offered.
    pub without_sidecar: bool,
    /// Annotation `federation.meshfed.io/unix-uid`: who may speak for it on the sockets.
    pub unix_uid: Option<u32>,
}

/// An export; it has the name of its service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportObject {
    /// The service.
    pub service: ServiceName,
    /// `spec.exportedLabels`: what the import carries.
    #[serde(default)]
    pub labels: Labels,
    /// `spec.exportedAnnotations`: likewise.
    #[serde(default)]
    pub annotations: Labels,
}

/// Which services a policy is about; `*` stands for any run of characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ServicePattern {
    /// Of the namespace.
    pub namespace: String,
    /// Of the name.
    pub name: String,
}
impl ServicePattern {
    /// Whether the service is meant.
    #[must_use]
    pub fn matches(&self, service: &ServiceName) -> bool {
        use meshfed_model::export::matches_pattern;
        matches_pattern(&self.namespace, service.namespace.as_str()) && matches_pattern(&self.name, service.name())
    }
}

/// To whom the exports of some services go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportPolicyObject {
    /// The policy's own namespace.
    pub namespace: Arc<str>,
    /// The policy's own name.
    pub name: Arc<str>,
    /// Which services.
    pub services: Vec<ServicePattern>,
    /// Which clusters; empty = nobody.
    pub to: ClusterSelector,
}

/// What a failover policy is about. The most specific one wins.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum PolicyTarget {
    /// All services (fleet source only).
    Default,
    /// All services of a namespace.
    Namespace(Namespace),
    /// One service, its own or imported.
    Service(ServiceName),
}

/// How clients of some services fail over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailoverPolicyObject {
    /// The policy's own namespace; empty where it names none in the fleet source.
    pub namespace: Arc<str>,
    /// The policy's own name.
    pub name: Arc<str>,
    /// Which services.
    pub target: PolicyTarget,
    /// The tiers.
    pub spec: FailoverSpec,
}
