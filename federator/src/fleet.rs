//! Edge. What the rooms of the hub tell each other: members, bundles and policies go down to the session rooms,
//! facts about sessions and the catalog come back up to the HTTP API.
//!
//! # What the session rooms (`session catalog plan fanout`) implement
//! `session::Hub` with
//! - `pub fn new(inputs: fleet::Inputs) -> Arc<Hub>`: no I/O;
//! - `pub fn service(self: &Arc<Self>) -> FederationServer<…>`: the gRPC service of port 15600; the caller's identity
//!   is `PeerInfo.id` of `runtime::grpc`, and only an [`Member`] of state `Joining` or `Active` gets a session;
//! - `pub async fn run(self: Arc<Self>) -> Result<(), …>`: follows the watches of [`Inputs`] until drained; its early
//!   end ends the process;
//! - `impl FleetRead for Hub`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use meshfed_api::http;
use meshfed_crds::{Object, ObjectError};
use meshfed_model::bundle::Bundle;
use meshfed_model::identity::{SpiffeId, TrustDomain};
use meshfed_model::member as model;
use meshfed_model::names::{ClusterName, ServiceName};
use meshfed_model::policy::FleetPolicies;
use tokio::sync::watch;

/// Where a member stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum MemberState {
    /// Bound by its token.
    Active,
    /// Gone by its own wish.
    Left,
    /// Thrown out: its agents are refused.
    Evicted,
}

/// A cluster of the fleet, as the hub knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// What every agent knows of it; `drained` never in this version.
    pub member: model::Member,
    /// Its zones; empty: any.
    pub zones: BTreeSet<String>,
    /// Where it stands.
    pub state: MemberState,
    /// When its token was used.
    pub joined_at: Timestamp,
    /// Grows with every binding of this name: a session of an earlier binding is fenced.
    pub binding: u64,
}

impl Member {
    /// Whether its agents get a session.
    #[must_use]
    pub const fn is_live(&self) -> bool {
        matches!(self.state, MemberState::Active)
    }
}

/// All members that ever were, by name, at one revision.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Members {
    /// The store's revision of the last change of any member.
    pub revision: u64,
    /// By name; those that left included (see [`Member::is_live`]).
    pub members: BTreeMap<ClusterName, Member>,
}

/// The current bundle of every trust domain of the fleet, F's own included.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bundles {
    /// By trust domain. A domain that is not here any more is withdrawn.
    pub bundles: BTreeMap<TrustDomain, Bundle>,
}

/// The number that the HTTP API shows as `revision`: grows with every change that it can show, also over restarts.
/// Blocks of it are reserved in the store ahead of use, so that counting costs no fsync.
#[derive(Debug, Default)]
pub struct Revisions {
    current: AtomicU64,
    ceiling: AtomicU64,
}

impl Revisions {
    /// Starts after `current`; numbers up to `ceiling` are reserved.
    #[must_use]
    pub fn new(current: u64, ceiling: u64) -> Arc<Self> {
        Arc::new(Self { current: AtomicU64::new(current), ceiling: AtomicU64::new(ceiling) })
    }
    /// Counts one change and gives its number. At the end of the reserved block it stands still until more is
    /// reserved: a number twice is better than one that a restart would give again.
    pub fn bump(&self) -> u64 {
        let ceiling = self.ceiling.load(Ordering::Acquire);
        let next = |n: u64| (n < ceiling).then(|| n + 1);
        match self.current.fetch_update(Ordering::AcqRel, Ordering::Acquire, next) {
            Ok(before) => before + 1,
            Err(at) => at,
        }
    }
    /// The number of the last change.
    #[must_use]
    pub fn current(&self) -> u64 {
        self.current.load(Ordering::Acquire)
    }
    /// Numbers left in the reserved block.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.ceiling.load(Ordering::Acquire).saturating_sub(self.current())
    }
    /// The end of the reserved block.
    #[must_use]
    pub fn ceiling(&self) -> u64 {
        self.ceiling.load(Ordering::Acquire)
    }
    /// Takes a longer block.
    pub fn raise(&self, ceiling: u64) {
        self.ceiling.fetch_max(ceiling, Ordering::AcqRel);
    }
}

/// A claim could not be made durable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the claim could not be stored: {reason}")]
pub struct ClaimError {
    /// What the store said.
    pub reason: String,
}

/// Where a gateway is dialled: address and port.
pub type GatewayAddress = (IpAddr, u16);

/// First-seen claims, durable (D7): who exported a name first wins conflicts, and who offered a gateway address first
/// has it (`contracts.md` 1.9).
#[tonic::async_trait]
pub trait Claims: Send + Sync + 'static {
    /// All claims at this moment: the revision at which that cluster first exported that service.
    fn all(&self) -> BTreeMap<(ServiceName, ClusterName), u64>;
    /// Makes `added` and drops `removed` in one transaction, durable when it returns; a claim that exists keeps its
    /// revision. Gives the revisions of `added`.
    async fn change(
        &self,
        cluster: &ClusterName,
        added: Vec<ServiceName>,
        removed: Vec<ServiceName>,
    ) -> Result<BTreeMap<ServiceName, u64>, ClaimError>;
    /// Who has which gateway address, as far as that is durable.
    fn gateways(&self) -> BTreeMap<GatewayAddress, ClusterName>;
    /// Makes it durable that these, and no others, have gateway addresses. One call after the other.
    async fn keep_gateways(&self, owners: BTreeMap<GatewayAddress, ClusterName>) -> Result<(), ClaimError>;
}

/// It could not be found out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the certificates that were given out cannot be read: {reason}")]
pub struct IssuedError {
    /// What the store said.
    pub reason: String,
}

/// What people declare of a cluster before it joins (a `Cluster` object, `contracts-kubernetes.md` 5.2).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Declaration {
    /// Its networks, the default first; none: it says nothing of them.
    pub networks: Vec<http::Network>,
    /// Where its gateways lie; none: where its networks do.
    pub gateway_cidrs: Vec<String>,
    /// Its regions; none: it says nothing of them.
    pub regions: Vec<String>,
    /// Its zones; none: every zone of the regions.
    pub zones: Vec<String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Whose it is.
    pub origin: DeclaredBy,
    /// Why no cluster can join by it, in words; none: nothing is known against it.
    pub conflict: Option<String>,
}

/// Who has declared something of a cluster.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DeclaredBy {
    /// A user, whose word binds tokens.
    #[default]
    User,
    /// The hub itself, from the token that the cluster joined with last: it binds nobody.
    Hub,
}

/// It could not be found out what is declared.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the API server does not say what is declared of the cluster: {reason}")]
pub struct DeclarationError {
    /// What it said instead.
    pub reason: String,
}

/// Where clusters are declared.
#[tonic::async_trait]
pub trait Declarations: Send + Sync + 'static {
    /// What a user declared of a cluster; none: nobody did.
    async fn of(&self, cluster: &ClusterName) -> Result<Option<Declaration>, DeclarationError>;
}

/// The labels of a member were not written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the labels of the member were not written: {reason}")]
pub struct LabelsError {
    /// Why.
    pub reason: String,
}

/// What people say of members while they are.
#[tonic::async_trait]
pub trait Labels: Send + Sync + 'static {
    /// Gives a member of that binding these labels, durable when it returns; who is no member of it any more keeps his.
    async fn label(
        &self,
        cluster: &ClusterName,
        binding: u64,
        labels: BTreeMap<String, String>,
    ) -> Result<(), LabelsError>;
}

/// Certificates that were given out to agents.
#[tonic::async_trait]
pub trait Issued: Send + Sync + 'static {
    /// Whether the certificate with that SHA-256 was given out under that binding of the cluster (JT10).
    async fn is_of(&self, leaf_sha256: [u8; 32], cluster: &ClusterName, binding: u64) -> Result<bool, IssuedError>;
}

/// What the session rooms are given.
#[derive(Clone)]
pub struct Inputs {
    /// F.
    pub fleet: TrustDomain,
    /// This federator's identity.
    pub federator: SpiffeId,
    /// `HOST:PORT` of every federator, for agents.
    pub federators: Vec<String>,
    /// Members, whole, whenever one changes.
    pub members: watch::Receiver<Arc<Members>>,
    /// Bundles, whole, whenever one changes.
    pub bundles: watch::Receiver<Arc<Bundles>>,
    /// Policies, whole, whenever one changes.
    pub policies: watch::Receiver<Arc<FleetPolicies>>,
    /// First-seen claims.
    pub claims: Arc<dyn Claims>,
    /// Which certificates are of which binding.
    pub issued: Arc<dyn Issued>,
    /// To be bumped with every change of session or catalog that the HTTP API can show.
    pub revisions: Arc<Revisions>,
    /// Where metrics are registered.
    pub metrics: Arc<meshfed_runtime::metrics::Metrics>,
    /// Sessions end when it is signaled.
    pub drain: meshfed_runtime::drain::Watch,
}

/// What a session and the catalog know of one member.
#[derive(Debug, Clone, PartialEq)]
pub struct ClusterFacts {
    /// Whether a session is open now.
    pub connection: http::Connection,
    /// How far what we know can be trusted.
    pub freshness: http::Freshness,
    /// Gateways it offers, sorted.
    pub gateways: Vec<http::Gateway>,
    /// Counts of services.
    pub services: http::ServiceCount,
    /// Endpoints of its exported services.
    pub endpoints: http::Count,
    /// Its agents with a session.
    pub agents: Vec<http::Agent>,
    /// Its source.
    pub source: http::SourceState,
    /// Its proxies.
    pub proxies: http::Proxies,
    /// The serials its agent holds of each bundle.
    pub bundle_serials: BTreeMap<TrustDomain, u64>,
    /// Its proxies that hold each bundle.
    pub bundle_proxies: BTreeMap<TrustDomain, http::ProxyAcks>,
    /// What it waits for, `session` (no session open) and `source` (first complete offer of its current source
    /// revision not taken) included; `cluster` filled in.
    pub waiting_for: Vec<http::Waiting>,
    /// When its agent last spoke.
    pub last_seen_at: Option<Timestamp>,
}

/// A question for the agent of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointsQuery {
    /// The client's cluster.
    pub from: ClusterName,
    /// The service.
    pub service: ServiceName,
    /// The port.
    pub port: u16,
    /// `NAMESPACE/SERVICE_ACCOUNT[/NAME]`.
    pub client: Option<String>,
    /// Another place for the client.
    pub locality: Option<String>,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndpointsError {
    /// No session, or no answer in time: 504 `AgentUnavailable`.
    #[error("the agent of cluster '{cluster}' does not answer: {reason}")]
    AgentUnavailable {
        /// The cluster asked.
        cluster: ClusterName,
        /// Why.
        reason: String,
    },
    /// The agent refused: its status (400 or 404) and detail.
    #[error("{detail}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// In words.
        detail: String,
    },
}

/// What a joiner's offers would do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MergePreview {
    /// Services that others export already.
    pub merges: Vec<http::PlanMerge>,
    /// `NAMESPACE/NAME` of the others.
    pub new_services: Vec<String>,
}

/// What the HTTP API reads of sessions and catalog. Answers come from memory and do not block.
#[tonic::async_trait]
pub trait FleetRead: Send + Sync + 'static {
    /// Facts of one member; None when it had no session since this hub started.
    fn cluster(&self, name: &ClusterName) -> Option<ClusterFacts>;
    /// The exported services that are wanted, by their name and the labels that their import bears, in the order of their
    /// names and without `exports`; `revision` is filled in by the caller.
    fn services(&self, wanted: &(dyn Fn(&ServiceName, &BTreeMap<String, String>) -> bool + Sync))
    -> Vec<http::Service>;
    /// One exported service, with `exports`; `revision` is filled in by the caller.
    fn service(&self, name: &ServiceName) -> Option<http::Service>;
    /// The exporters of a port that do not export it to `to`, one row per (cluster, network) with the number of ready
    /// endpoints: reason `NotExported`. Rows with no ready endpoint are left out.
    fn not_exported(&self, service: &ServiceName, port: u16, to: &ClusterName) -> Vec<http::Dropped>;
    /// What these offers by `cluster` would merge with.
    fn preview(&self, cluster: &ClusterName, offers: &[http::PlannedOffer]) -> MergePreview;
    /// Asks the agent of `query.from`, and gives its answer without the `NotExported` rows. Waits at most 5 s.
    async fn endpoints(&self, query: EndpointsQuery) -> Result<http::Endpoints, EndpointsError>;
}

/// Who can say which names there are.
pub trait FleetNames: Send + Sync + std::fmt::Debug {
    /// The names in policies that nobody has, as warnings.
    fn unknown_names(&self, objects: &[&Object]) -> Vec<ObjectError>;
}
