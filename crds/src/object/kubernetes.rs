//! Pure. What Kubernetes says of its own pods, nodes and endpoints, and the settings of a mesh.

use std::net::IpAddr;
use std::sync::Arc;

use meshfed_model::names::{Namespace, NetworkName, ServiceName};
pub use meshfed_model::policy::OutboundPolicy;
use serde::{Deserialize, Serialize};

use super::{Labels, WorkloadPorts};

/// A pod (`core/v1`), as far as it is a workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodObject {
    /// Its namespace.
    pub namespace: Namespace,
    /// Its name.
    pub name: Arc<str>,
    /// `metadata.uid`: what a token is bound to. Empty where none is written.
    pub uid: Arc<str>,
    /// `spec.serviceAccountName`: with the namespace, the identity.
    pub service_account: Arc<str>,
    /// `spec.nodeName`, whose labels say where it runs.
    pub node: Option<Arc<str>>,
    /// `status.podIPs`, else `status.podIP`; none until it has one.
    pub addresses: Box<[IpAddr]>,
    /// `spec.hostNetwork`: its addresses are its node's, and it is never injected.
    pub host_network: bool,
    /// The named TCP ports of its containers, and of the init containers that go on beside them.
    pub ports: WorkloadPorts,
    /// Its labels.
    pub labels: Labels,
    /// Label `topology.istio.io/network`; none: the token's first.
    pub network: Option<NetworkName>,
    /// Whether its condition `Ready` is true.
    pub ready: bool,
    /// Whether its kubelet's last word is that it is ready: `ContainersReady` and the conditions of all its
    /// `readinessGates` (KEP-580) are true. Where nothing is heard of its node, Kubernetes makes `Ready` alone false.
    #[serde(default)]
    pub kubelet_ready: bool,
    /// Whether it has a `deletionTimestamp`.
    pub terminating: bool,
    /// Whether it has ended (phase `Succeeded` or `Failed`): its addresses may be another's already.
    pub ended: bool,
    /// Whether it has a sidecar: annotation `federation.meshfed.io/status`, which the injection writes.
    pub injected: bool,
}

/// What Kubernetes hears of a node: its condition `Ready`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum NodeHealth {
    /// `True`, or nobody says: its kubelet is well.
    #[default]
    Well,
    /// `False`: its kubelet says that something is wrong.
    Unwell,
    /// `Unknown`: nothing was heard of its kubelet for as long as the controller waits.
    Unheard,
}

/// A node (`core/v1`): where its pods run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeObject {
    /// Its name.
    pub name: Arc<str>,
    /// Label `topology.kubernetes.io/region`; empty: none.
    pub region: Arc<str>,
    /// Label `topology.kubernetes.io/zone`; empty: none.
    pub zone: Arc<str>,
    /// What is heard of it.
    #[serde(default)]
    pub health: NodeHealth,
}

/// An endpoint slice (`discovery.k8s.io/v1`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointSliceObject {
    /// Its namespace.
    pub namespace: Namespace,
    /// Its name.
    pub name: Arc<str>,
    /// Label `kubernetes.io/service-name`. None where there is none, and for slices that are never a source: those with
    /// a label of the multi-cluster API, and those that `meshfed.io` manages.
    pub service: Option<ServiceName>,
    /// Its TCP ports: the name of the service's port, and the number to dial.
    pub ports: WorkloadPorts,
    /// Its endpoints, if it is a source.
    pub endpoints: Box<[SliceEndpoint]>,
}

/// One endpoint of a slice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SliceEndpoint {
    /// What to dial; all are the same endpoint.
    pub addresses: Box<[IpAddr]>,
    /// The pod behind it (`targetRef`), of the slice's namespace.
    pub pod: Option<Arc<str>>,
    /// `conditions.ready`; unknown counts as true, as the API says.
    pub ready: bool,
    /// `conditions.serving`; unknown is what `ready` is.
    pub serving: bool,
    /// `conditions.terminating`; unknown counts as false.
    pub terminating: bool,
}

/// Whether plaintext is taken (`security.istio.io/v1` PeerAuthentication, `spec.mtls.mode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum MtlsMode {
    /// Mutual TLS only.
    Strict,
    /// Both.
    Permissive,
    /// Plaintext from everyone but mesh peers.
    Disable,
}
impl MtlsMode {
    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Strict => "STRICT",
            Self::Permissive => "PERMISSIVE",
            Self::Disable => "DISABLE",
        }
    }
}

/// A PeerAuthentication of a namespace, or in the mesh's own namespace of the mesh.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerAuthenticationObject {
    /// Its namespace.
    pub namespace: Namespace,
    /// Its name.
    pub name: Arc<str>,
    /// `metadata.creationTimestamp` (RFC 3339, so its order is that of time): of two, the older holds.
    pub created: Arc<str>,
    /// What it says; none: what the level above says (`UNSET`).
    pub mode: Option<MtlsMode>,
    /// Whether it is about some workloads only (`spec.selector`): such a one has no effect yet.
    pub selects: bool,
}

/// Settings of a mesh (`contracts.md` 1.16): `Mesh/local` of a member, `Mesh/default` of the fleet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeshObject {
    /// Its name.
    pub name: Arc<str>,
    /// `spec.outboundTrafficPolicy`, if it says.
    pub outbound: Option<OutboundPolicy>,
    /// `spec.clustersetDomain`, if it says.
    pub clusterset_domain: Option<Arc<str>>,
}
