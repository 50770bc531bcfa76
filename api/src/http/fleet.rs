//! Pure. What operators read: status, clusters, services, endpoints, trust.

use meshfed_model::horizon::DropReason;
use serde::{Deserialize, Serialize};

use super::Count;

/// A network of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Network {
    /// Its name.
    pub name: String,
    /// The ranges its endpoints lie in; empty: not limited to any.
    #[serde(default)]
    pub cidrs: Vec<String>,
}

/// Where a cluster stands in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClusterState {
    /// Bound by a token, no session yet.
    Joining,
    /// A member.
    Active,
    /// Its weights go to 0.
    Draining,
    /// Its weights are 0.
    Drained,
    /// Gone by its own wish.
    Left,
    /// Thrown out.
    Evicted,
}

/// Whether a session is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Connection {
    /// Open.
    Connected,
    /// None.
    Disconnected,
}

/// How far what we know of a cluster can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Freshness {
    /// Its session is open.
    Fresh,
    /// Silent for a while.
    Stale,
    /// Silent for long: others come first.
    Deprioritised,
    /// Silent for too long: its endpoints are withdrawn.
    Withdrawn,
}

/// `GET clusters/{name}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cluster {
    /// Its name.
    pub name: String,
    /// `<name>.F`.
    pub trust_domain: String,
    /// Where it stands.
    pub state: ClusterState,
    /// Whether its session is open.
    pub connection: Connection,
    /// How far what we know can be trusted.
    pub freshness: Freshness,
    /// Regions its token names.
    pub regions: Vec<String>,
    /// Zones its token names.
    pub zones: Vec<String>,
    /// Networks its token names; the first is the default.
    pub networks: Vec<Network>,
    /// Gateways it offers.
    pub gateways: Vec<Gateway>,
    /// Counts of services.
    pub services: ServiceCount,
    /// Endpoints of its exported services.
    pub endpoints: Count,
    /// Its agents with a session.
    pub agents: Vec<Agent>,
    /// Its source of objects.
    pub source: SourceState,
    /// Its trust bundle.
    pub bundle: BundleState,
    /// Overrides in force (none in this version).
    pub overrides: Vec<serde_json::Value>,
    /// When its token was used.
    pub joined_at: String,
    /// When its agent last spoke.
    pub last_seen_at: Option<String>,
    /// The revision shown.
    pub revision: String,
}

/// A gateway address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Gateway {
    /// The network it leads into.
    pub network: String,
    /// The address other networks dial.
    pub address: String,
    /// The port they dial.
    pub port: u16,
    /// Whether a workload behind it is ready.
    pub ready: bool,
}

/// Counts of services of a cluster.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceCount {
    /// That it exports.
    pub exported: u32,
    /// That it imports.
    pub imported: u32,
}

/// An agent with a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Agent {
    /// Its SPIFFE ID.
    pub id: String,
    /// Which of the agents that share the ID: a pod's name; none where there is one.
    pub instance: Option<String>,
    /// The holding of the Lease by which it offers; it rises with every holder.
    pub epoch: Option<String>,
    /// Its software version.
    pub version: String,
    /// Whether it is the one that offers.
    pub uplink: bool,
    /// Its clock against the hub's, say `2ms`.
    pub clock_skew: String,
}

/// What an agent reads its objects from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceState {
    /// Of the source's revision.
    #[serde(with = "super::absent")]
    pub epoch: String,
    /// The scan that was taken last.
    #[serde(with = "super::absent")]
    pub revision: String,
    /// Objects held.
    pub objects: u32,
    /// Objects and files that were refused.
    pub errors: Vec<SourceError>,
}

/// An object or file that was refused (`contracts.md` 1.6).
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SourceError {
    /// Stable code. Of what follows, what is not known is `null` in JSON and empty here.
    pub code: String,
    /// The file.
    #[serde(with = "super::absent")]
    pub file: String,
    /// From 1; 0 = unknown, `null` in JSON.
    #[serde(with = "super::absent")]
    pub line: u32,
    /// From 1; 0 = unknown, `null` in JSON.
    #[serde(with = "super::absent")]
    pub column: u32,
    /// The object's kind.
    #[serde(with = "super::absent")]
    pub kind: String,
    /// The object's namespace.
    #[serde(with = "super::absent")]
    pub namespace: String,
    /// The object's name.
    #[serde(with = "super::absent")]
    pub name: String,
    /// The field's path.
    #[serde(with = "super::absent")]
    pub field: String,
    /// In words.
    pub message: String,
    /// What to do about it.
    #[serde(with = "super::absent")]
    pub remedy: String,
}

/// The serials of a cluster's own bundle.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BundleState {
    /// The hub's.
    pub serial: u64,
    /// What every other member of the fleet holds at least, as it has said itself: the lowest serial that they have
    /// acknowledged. A member that has said nothing since this hub started counts as 0: whether it never connected or
    /// is away, nobody knows that it holds anything. Where there is no other member, nobody is waited for: `serial`.
    pub acked_serial: u64,
}

/// `GET status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// The revision shown.
    pub revision: String,
    /// Whether nothing is waited for and there is a cluster.
    pub ready: bool,
    /// What is waited for.
    pub waiting_for: Vec<Waiting>,
    /// Every member.
    pub clusters: Vec<ClusterStatus>,
}

/// One thing that is waited for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Waiting {
    /// The cluster.
    pub cluster: String,
    /// `session`, `source`, `gateway`, `port` or `proxy`.
    pub kind: String,
    /// Which one.
    pub name: String,
    /// Why.
    pub reason: String,
}

/// A member in `GET status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// Its name.
    pub name: String,
    /// Whether its session is open.
    pub connection: Connection,
    /// How far what we know can be trusted.
    pub freshness: Freshness,
    /// Its proxies.
    pub proxies: Proxies,
}

/// Counts of a cluster's proxies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proxies {
    /// Workloads that should have one.
    pub expected: u32,
    /// Connected.
    pub connected: u32,
    /// That have acknowledged the current view.
    pub acked: u32,
}

/// `GET services/{ns}/{name}`; in lists without `exports`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Service {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// `ClusterSetIP` or `Headless`.
    #[serde(rename = "type")]
    pub service_type: String,
    /// Names clients use.
    pub hosts: Vec<String>,
    /// The union of the exporters' ports, by number.
    pub ports: Vec<Port>,
    /// Exporters.
    pub clusters: Vec<String>,
    /// Over all exporters.
    pub endpoints: Count,
    /// Subsets, `_` = all.
    pub subsets: Vec<String>,
    /// Where exporters contradict each other.
    pub conflict: Option<Conflict>,
    /// What each cluster exports; only for a single service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exports: Option<Vec<Export>>,
    /// The fleet's policy for it.
    pub failover: FailoverRef,
    /// The revision shown.
    pub revision: String,
}

/// A port of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Port {
    /// Its name.
    pub name: String,
    /// Its number.
    pub port: u16,
    /// `TCP`.
    pub protocol: String,
    /// As written, else `http` or `tcp` as derived.
    pub app_protocol: String,
    /// Exporters of this port.
    pub clusters: Vec<String>,
}

/// Where exporters contradict each other: the first seen wins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conflict {
    /// Whose word stands.
    pub winner: String,
    /// Contradicted fields.
    pub fields: Vec<String>,
    /// In words.
    pub message: String,
}

/// What one cluster exports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Export {
    /// The exporter.
    pub cluster: String,
    /// The revision of its claim: the lowest wins conflicts.
    pub first_seen_revision: String,
    /// Patterns of cluster names and labels; `*` = everyone.
    pub export_to: Vec<String>,
    /// Identities of its endpoints.
    pub identities: Vec<String>,
    /// Its groups.
    pub groups: Vec<Group>,
}

/// A group of endpoints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// The service's port.
    pub port: u16,
    /// The subset, `_` = all.
    pub subset: String,
    /// The network the endpoints are on.
    pub network: String,
    /// Where they run.
    pub locality: String,
    /// Ready ones.
    pub ready: u32,
    /// Listed ones.
    pub total: u32,
    /// Sum of the weights of the ready ones.
    pub weight: u64,
}

/// Which failover policy applies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailoverRef {
    /// `default`, a namespace, or `NAMESPACE/NAME`.
    pub policy: String,
    /// `api`, `fleet`, `cluster:<name>` or `builtin`.
    pub source: String,
}

/// `GET services/{ns}/{name}/endpoints`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Endpoints {
    /// `NAMESPACE/NAME`.
    pub service: String,
    /// The service's port.
    pub port: u16,
    /// The client.
    pub from: EndpointsFrom,
    /// The policy that placed them.
    pub policy: String,
    /// The revision shown.
    pub revision: String,
    /// What the client is handed: shares sum to 1, or it is empty.
    pub items: Vec<Endpoint>,
    /// What it is not, and why.
    pub dropped: Vec<Dropped>,
}

/// The client asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointsFrom {
    /// Its cluster.
    pub cluster: String,
    /// Its network.
    pub network: String,
    /// Where it runs.
    pub locality: String,
}

/// One address that a client is handed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The address to dial.
    pub address: String,
    /// The port to dial.
    pub port: u16,
    /// `direct` or `gateway`.
    pub via: String,
    /// Whose endpoints are reached.
    pub cluster: String,
    /// The network they are on.
    pub network: String,
    /// The endpoint's, or the gateway's own, locality.
    pub locality: String,
    /// Its tier, from 0.
    pub tier: u32,
    /// As sent in EDS.
    pub weight: u32,
    /// The part of the client's requests.
    pub share: f64,
    /// `ready` or `draining`.
    pub state: String,
    /// What it stands for.
    pub represents: Count,
    /// The server name sent; null in plaintext.
    pub sni: Option<String>,
    /// Whom the client must find behind it.
    pub identities: Vec<String>,
}

/// Ready endpoints that were left out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Dropped {
    /// Their cluster.
    pub cluster: String,
    /// Their network.
    pub network: String,
    /// How many were ready.
    pub ready: u32,
    /// Why.
    pub reason: DropReason,
}

/// `GET trust`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trust {
    /// F.
    pub fleet: String,
    /// The root that certifies lineage.
    pub root: Root,
    /// One per trust domain, the fleet's own included.
    pub bundles: Vec<TrustBundle>,
    /// Rotations under way (none in this version).
    pub rotations: Vec<serde_json::Value>,
    /// The revision shown.
    pub revision: String,
}

/// The root that certifies lineage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Root {
    /// SHA-256 of its public key, hexadecimal.
    pub spki_sha256: String,
    /// Its end.
    pub not_after: String,
    /// Whether its key is at hand.
    pub online: bool,
}

/// The bundle of one trust domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TrustBundle {
    /// The trust domain.
    pub trust_domain: String,
    /// The cluster that owns it; null for the fleet's own.
    pub owner: Option<String>,
    /// Grows with every change.
    pub serial: u64,
    /// Its anchors.
    pub anchors: Vec<Anchor>,
    /// Who holds it.
    pub acks: Vec<BundleAck>,
}

/// An anchor of a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Anchor {
    /// SHA-256 of its public key, hexadecimal.
    pub spki_sha256: String,
    /// `next`, `active` or `retiring`.
    pub state: String,
    /// Its begin.
    pub not_before: String,
    /// Its end.
    pub not_after: String,
}

/// That a cluster holds a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleAck {
    /// The cluster.
    pub cluster: String,
    /// The serial its agent holds.
    pub serial: u64,
    /// Its proxies.
    pub proxies: ProxyAcks,
}

/// Proxies that hold a bundle.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyAcks {
    /// That hold it.
    pub acked: u32,
    /// All.
    pub total: u32,
}
