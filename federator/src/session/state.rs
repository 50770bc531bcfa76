//! Pure. All that the hub knows while it runs: members, catalog, and where every session stands.
//!
//! Every change is a call here; what has to be told to whom follows from it. Which sessions have something to send is
//! asked with [`State::woken`], what it is with [`State::next`].

mod asked;
mod replicas;
mod time;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use meshfed_api::border::{Ack, Hello, LeaseEpoch, Part};
use meshfed_api::stream::StreamError;
use meshfed_model::bundle::Bundle;
use meshfed_model::identity::TrustDomain;
use meshfed_model::member as model;
use meshfed_model::names::{ClusterName, Namespace, NetworkName, ServiceName};
use meshfed_model::policy::{ExportPolicy, FleetPolicies};
use meshfed_model::version::Version;

use super::report::Report;
use crate::catalog::{Catalog, Taken};
use crate::fanout::{Next, Outbox, Query};
use crate::fleet;
use crate::plan::{Filter, Interests, shared_networks};

/// Time between signs of life, both ways.
pub const HEARTBEAT: Duration = Duration::from_secs(10);
/// A session that is silent for longer is closed: two signs of life are lost.
pub const SILENCE_MAX: Duration = Duration::from_secs(25);
/// Agents of one cluster that have sessions at a time, and whose session changes are counted: more than a release has
/// replicas, also while they are rolled.
pub const AGENTS_MAX: usize = 256;

pub use meshfed_api::http::Freshness;
use time::Flips;
pub use time::{FLIPS_MAX, FLIPS_WINDOW, GATEWAY_KEPT, HOLD, Now, Passed, STALE_AFTER};

/// Names one session while the hub runs; later ones are higher.
pub type SessionId = u64;

/// One agent's session.
#[derive(Debug)]
pub struct Session {
    /// The cluster, from the certificate.
    pub cluster: ClusterName,
    /// The replica, from the certificate.
    pub replica: u32,
    /// Which of the agents that share the replica, by its own word; empty where there is one.
    pub instance: String,
    /// The holding of the Lease by which it offers; `None`: it does not, or there is one agent only.
    pub epoch: Option<LeaseEpoch>,
    /// Whether its offer and its word on the source count.
    pub uplink: bool,
    /// Its latest status, where it has no uplink.
    pub report: Option<Report>,
    /// The agent's software version.
    pub version: String,
    /// The agent's clock minus the hub's, in milliseconds.
    pub clock_skew_ms: i64,
    /// The serials of the bundles it holds.
    pub bundles: BTreeMap<TrustDomain, u64>,
    /// Whether it has offered.
    pub offers: bool,
    binding: u64,
    /// Why it is over, while its stream has not ended yet.
    fenced: Option<String>,
    pub(super) filter: Arc<Filter>,
    outbox: Outbox,
}

impl Session {
    fn refilter(&mut self, filter: Filter, catalog: &Catalog) {
        let old = std::mem::replace(&mut self.filter, Arc::new(filter));
        self.outbox.refilter(catalog, &old, &self.filter);
    }

    fn fence(&mut self, reason: &str) {
        self.fenced = Some(reason.to_owned());
        self.outbox.fence(reason);
    }
}

/// What is remembered of a cluster, also without session.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// When its agent last spoke.
    pub last_seen: Option<Timestamp>,
    /// The same on the monotonic clock.
    heard: Option<Instant>,
    /// Session changes, by replica and instance.
    flips: BTreeMap<(u32, String), Flips>,
    /// The highest holding of the Lease that an agent has shown.
    lease: Option<LeaseEpoch>,
    /// The latest status of the agent that offers.
    pub report: Option<Report>,
}

/// A session that was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    /// The session.
    pub id: SessionId,
    /// Whether its offer is taken.
    pub uplink: bool,
    /// Whether the same agent had one before.
    pub follows: bool,
    /// Whether it is the one that raises the alarm: the sessions of this replica change too often.
    pub raised: bool,
}

/// Why a session is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Not a live member.
    #[error("cluster '{0}' is no member of this fleet")]
    NoMember(ClusterName),
    /// The cluster was bound anew while its agent was being looked at.
    #[error("cluster '{0}' has been joined anew; its earlier agents have no session any more")]
    Binding(ClusterName),
    /// It says it is somebody else.
    #[error("the message says replica {said}, the certificate {is}")]
    Replica {
        /// As said.
        said: u32,
        /// As certified.
        is: u32,
    },
}

/// What the hub knows.
#[derive(Debug, Default)]
pub struct State {
    catalog: Catalog,
    members: fleet::Members,
    live: model::Members,
    shared: BTreeMap<ClusterName, BTreeSet<NetworkName>>,
    policies: FleetPolicies,
    exports: Arc<Vec<ExportPolicy>>,
    bundles: BTreeMap<TrustDomain, Bundle>,
    sessions: BTreeMap<SessionId, Session>,
    interests: Interests<SessionId>,
    known: BTreeMap<ClusterName, Known>,
    woken: BTreeSet<SessionId>,
    /// Clusters that have been silent for too long.
    stale: BTreeSet<ClusterName>,
    /// Clusters whose sessions change too often.
    alarms: BTreeSet<ClusterName>,
    /// Until when what is held back of a full sync stays so.
    holds: BTreeMap<ClusterName, Instant>,
    /// Until when a gateway address that its cluster offers no more is kept for it.
    idle_gateways: BTreeMap<fleet::GatewayAddress, Instant>,
    last_session: SessionId,
    last_query: u64,
}

impl State {
    /// Of a hub that has just started, with the durable claims of services and gateway addresses.
    #[must_use]
    pub fn new(
        claims: BTreeMap<(ServiceName, ClusterName), u64>,
        gateways: BTreeMap<fleet::GatewayAddress, ClusterName>,
    ) -> Self {
        Self { catalog: Catalog::new(claims, gateways), ..Self::default() }
    }

    // ---- what the fleet is ----

    /// Takes the members. Sessions of those that are no members any more, or were bound anew, end.
    pub fn set_members(&mut self, members: &fleet::Members) {
        let live = |m: &fleet::Members| -> BTreeMap<ClusterName, model::Member> {
            m.members.iter().filter(|(_, m)| m.is_live()).map(|(n, m)| (n.clone(), m.member.clone())).collect()
        };
        let now = live(members);
        let gone: Vec<ClusterName> = self.live.members.keys().filter(|n| !now.contains_key(*n)).cloned().collect();
        for cluster in &gone {
            self.withdraw(cluster);
        }
        for (name, member) in members.members.iter().filter(|(_, m)| m.is_live()) {
            let before = self.members.members.get(name).map(|m| m.binding);
            let anew = before.is_some_and(|b| b != member.binding);
            if anew || self.catalog.has_other_ranges(&member.member, &member.zones) {
                self.withdraw(name);
            }
            self.catalog.admit(member.member.clone(), member.zones.clone());
        }
        // Who is no member has no gateway address; who is bound anew keeps those of its name until it has offered.
        for retaken in self.catalog.free_gateways_of_others(|cluster| now.contains_key(cluster)) {
            self.touch_all(&retaken);
        }
        self.members = members.clone();
        self.live = model::Members { revision: members.revision, members: now };
        let shared = shared_networks(&self.live);
        let ids: Vec<SessionId> = self.sessions.keys().copied().collect();
        for id in ids {
            let Some(session) = self.sessions.get_mut(&id) else { continue };
            session.outbox.members();
            if shared.get(&session.cluster) != self.shared.get(&session.cluster) {
                session.outbox.shared_networks();
            }
            self.woken.insert(id);
        }
        self.shared = shared;
        self.refilter();
    }

    /// Forgets what a cluster offered and ends its sessions.
    fn withdraw(&mut self, cluster: &ClusterName) {
        let taken = self.catalog.remove(cluster);
        self.reorder(&taken.heads);
        self.known.remove(cluster);
        self.stale.remove(cluster);
        self.alarms.remove(cluster);
        self.holds.remove(cluster);
        for (id, session) in &mut self.sessions {
            session.outbox.origin_gone(cluster);
            self.woken.insert(*id);
        }
        self.fence(cluster, "the cluster is no member of the fleet under this identity any more");
    }

    fn fence(&mut self, cluster: &ClusterName, reason: &str) {
        for (id, session) in self.sessions.iter_mut().filter(|(_, s)| s.cluster == *cluster) {
            session.fence(reason);
            self.woken.insert(*id);
        }
    }

    /// Takes the policies.
    pub fn set_policies(&mut self, policies: &FleetPolicies) {
        self.policies = policies.clone();
        self.exports = Arc::new(policies.export.clone());
        for (id, session) in &mut self.sessions {
            session.outbox.policies();
            self.woken.insert(*id);
        }
        self.refilter();
    }

    /// Takes the bundles.
    pub fn set_bundles(&mut self, bundles: &BTreeMap<TrustDomain, Bundle>) {
        let before = std::mem::replace(&mut self.bundles, bundles.clone());
        for (id, session) in &mut self.sessions {
            for (trust_domain, bundle) in bundles {
                if before.get(trust_domain) != Some(bundle) {
                    session.outbox.bundle(trust_domain.clone());
                    self.woken.insert(*id);
                }
            }
            for trust_domain in before.keys().filter(|t| !bundles.contains_key(*t)) {
                session.outbox.bundle_gone(trust_domain.clone());
                session.bundles.remove(trust_domain);
                self.woken.insert(*id);
            }
        }
    }

    /// Gives every session the filter that members, policies and its interest make now.
    fn refilter(&mut self) {
        for (id, session) in &mut self.sessions {
            let namespaces = session.filter.namespaces().clone();
            let Some(filter) = Filter::new(&self.live, &session.cluster, namespaces, Arc::clone(&self.exports)) else {
                continue;
            };
            if filter.id() != session.filter.id() {
                session.refilter(filter, &self.catalog);
                self.woken.insert(*id);
            }
        }
    }

    // ---- sessions ----

    /// The binding under which an agent of a live member needs its certificate.
    #[must_use]
    pub fn binding(&self, cluster: &ClusterName) -> Option<u64> {
        self.members.members.get(cluster).filter(|m| m.is_live()).map(|m| m.binding)
    }

    /// Opens a session for an agent whose certificate is of `binding`; an older one of the same agent is fenced, and so is
    /// that of the agent which offered before, when this one does.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(
        &mut self,
        (cluster, replica, binding): (&ClusterName, u32, u64),
        hello: Hello,
        now: Now,
    ) -> Result<Opened, OpenError> {
        let no_member = || OpenError::NoMember(cluster.clone());
        if self.binding(cluster).ok_or_else(no_member)? != binding {
            return Err(OpenError::Binding(cluster.clone()));
        }
        if hello.replica != replica {
            return Err(OpenError::Replica { said: hello.replica, is: replica });
        }
        let namespaces = hello.interest.namespaces;
        let filter = Filter::new(&self.live, cluster, namespaces.clone(), Arc::clone(&self.exports));
        let filter = Arc::new(filter.ok_or_else(no_member)?);
        let mut outbox = Outbox::resume(hello.view, &filter, &self.catalog);
        for (trust_domain, bundle) in &self.bundles {
            if hello.bundles.get(trust_domain) != Some(&bundle.serial) {
                outbox.bundle(trust_domain.clone());
            }
        }
        for trust_domain in hello.bundles.keys().filter(|t| !self.bundles.contains_key(*t)) {
            outbox.bundle_gone(trust_domain.clone());
        }
        outbox.members();
        outbox.shared_networks();
        outbox.policies();
        let uplink = self.may_offer(cluster, hello.lease);
        let session = Session {
            cluster: cluster.clone(),
            replica,
            instance: hello.instance,
            epoch: hello.lease.filter(|_| uplink).map(|lease| lease.epoch),
            uplink,
            report: None,
            version: hello.version,
            clock_skew_ms: hello
                .clock
                .parse::<Timestamp>()
                .map_or(0, |c| c.as_millisecond() - now.wall.as_millisecond()),
            bundles: hello.bundles,
            offers: false,
            binding,
            fenced: None,
            filter,
            outbox,
        };
        self.fence_older(&session);
        if uplink {
            self.catalog.abandon(cluster);
        }
        self.last_session += 1;
        let id = self.last_session;
        self.interests.set(id, &BTreeSet::new(), &namespaces);
        let agent = (replica, session.instance.clone());
        self.sessions.insert(id, session);
        let known = self.known.entry(cluster.clone()).or_default();
        (known.last_seen, known.heard) = (Some(now.wall), Some(now.instant));
        if uplink {
            known.lease = hello.lease.map(|lease| lease.epoch);
        }
        let follows = known.flips.contains_key(&agent);
        let raised = self.flip(cluster, agent, now.instant);
        self.stale.remove(cluster);
        self.woken.insert(id);
        Ok(Opened { id, uplink, follows, raised })
    }

    /// Ends a session.
    pub fn close(&mut self, id: SessionId) {
        self.woken.remove(&id);
        let Some(session) = self.sessions.remove(&id) else { return };
        self.interests.set(id, session.filter.namespaces(), &BTreeSet::new());
        if session.uplink && !self.sessions.values().any(|s| s.cluster == session.cluster && s.uplink) {
            self.catalog.abandon(&session.cluster);
        }
    }

    /// Whether the session is its replica's newest and its cluster still a member: what a fenced one says is not
    /// heard.
    #[must_use]
    pub fn is_current(&self, id: SessionId) -> bool {
        self.sessions.get(&id).is_some_and(|session| {
            let newest = self.newest(session) == Some(id);
            newest && session.fenced.is_none() && self.binding(&session.cluster) == Some(session.binding)
        })
    }

    /// Why a session is over, if it is.
    #[must_use]
    pub fn fenced(&self, id: SessionId) -> Option<&str> {
        self.sessions.get(&id)?.fenced.as_deref()
    }

    fn newest(&self, of: &Session) -> Option<SessionId> {
        self.sessions.iter().rev().find(|(_, s)| s.is_same_agent(of)).map(|(id, _)| *id)
    }

    /// The agent spoke; whether its cluster was stale before.
    pub fn heard(&mut self, id: SessionId, now: Now) -> bool {
        if let Some(session) = self.sessions.get(&id)
            && let Some(known) = self.known.get_mut(&session.cluster)
        {
            (known.last_seen, known.heard) = (Some(now.wall), Some(now.instant));
            return self.stale.remove(&session.cluster);
        }
        false
    }

    /// Takes one part of the offer of a session's cluster, and marks who has to hear of it.
    ///
    /// # Errors
    /// [`StreamError`]: the agent has to start a new session, in which it is told where the hub stands.
    pub fn offer(&mut self, id: SessionId, part: impl Into<Part>, now: Now) -> Result<Taken, StreamError> {
        // What an agent without the uplink offers is not heard: it does not know yet that another one leads.
        let Some(session) = self.sessions.get_mut(&id).filter(|s| s.uplink) else { return Ok(Taken::default()) };
        session.offers = true;
        let cluster = session.cluster.clone();
        let taken = self.catalog.take(&cluster, part)?;
        if taken.reached {
            self.spread(&cluster, &taken);
        }
        if taken.held.is_some()
            && let Some(until) = now.instant.checked_add(HOLD)
        {
            self.holds.insert(cluster, until);
        }
        self.keep_idle(&taken, now.instant);
        Ok(taken)
    }

    /// What the agent is told of a change that was taken, after its claims are durable.
    pub fn offered(&mut self, id: SessionId, taken: &Taken, claims: BTreeMap<ServiceName, u64>, idle: &[ServiceName]) {
        let Some(cluster) = self.sessions.get(&id).map(|s| s.cluster.clone()) else { return };
        self.claimed(&cluster, claims, idle);
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let mut refused = taken.refused.clone();
        refused.truncate(meshfed_api::border::REFUSALS_MAX);
        session.outbox.offer_ack(Ack { origin: session.cluster.clone(), version: taken.version, refused });
        self.woken.insert(id);
    }

    /// Records durable claims of a change that nobody has to be told of.
    pub fn claimed(&mut self, cluster: &ClusterName, claims: BTreeMap<ServiceName, u64>, idle: &[ServiceName]) {
        let services: BTreeSet<ServiceName> = claims.keys().chain(idle).cloned().collect();
        self.catalog.claimed(cluster, claims, idle);
        self.reorder(&services);
    }

    /// Marks those that may have to be told another order of the exports of these services.
    fn reorder(&mut self, services: &BTreeSet<ServiceName>) {
        for id in self.interests.in_services(services) {
            if let Some(session) = self.sessions.get_mut(&id)
                && session.outbox.reorder(&self.catalog, services)
            {
                self.woken.insert(id);
            }
        }
    }

    /// Claims of clusters that are no members any more: their exports are gone for good.
    #[must_use]
    pub fn claims_of_strangers(&self) -> BTreeMap<ClusterName, Vec<ServiceName>> {
        self.catalog.claims_of_others(|cluster| self.live.members.contains_key(cluster))
    }

    /// Marks the importers that a change concerns.
    fn spread(&mut self, origin: &ClusterName, taken: &Taken) {
        self.reorder(&taken.heads);
        if taken.complete || taken.gateways {
            let ids: Vec<SessionId> = self.sessions.keys().copied().collect();
            self.touch(&ids, origin, taken.base);
        } else {
            let ids = self.interests.in_services(&taken.services);
            self.touch(&ids, origin, taken.base);
        }
    }

    fn touch<'a>(&mut self, ids: impl IntoIterator<Item = &'a SessionId>, origin: &ClusterName, base: Version) {
        for id in ids {
            if let Some(session) = self.sessions.get_mut(id).filter(|s| s.cluster != *origin) {
                session.outbox.touch(origin, base);
                self.woken.insert(*id);
            }
        }
    }

    fn touch_all(&mut self, origin: &ClusterName) {
        for (id, session) in self.sessions.iter_mut().filter(|(_, s)| s.cluster != *origin) {
            session.outbox.touch_whole(origin);
            self.woken.insert(*id);
        }
    }

    /// Takes the namespaces that a session's cluster wants to see.
    pub fn interest(&mut self, id: SessionId, namespaces: BTreeSet<Namespace>) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        self.interests.set(id, session.filter.namespaces(), &namespaces);
        session.outbox.interest();
        self.woken.insert(id);
        if let Some(filter) = Filter::new(&self.live, &session.cluster, namespaces, Arc::clone(&self.exports))
            && filter.id() != session.filter.id()
        {
            session.refilter(filter, &self.catalog);
        }
    }

    /// Takes a status; whether anything in it is new.
    pub fn report(&mut self, id: SessionId, report: Report) -> bool {
        let Some(session) = self.sessions.get_mut(&id) else { return false };
        let held = match session.uplink {
            true => &mut self.known.entry(session.cluster.clone()).or_default().report,
            false => &mut session.report,
        };
        let new = held.as_ref() != Some(&report);
        *held = Some(report);
        new
    }

    /// The agent stands at a version of an origin.
    pub fn acked(&mut self, id: SessionId, ack: &Ack) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.outbox.acked(&ack.origin, ack.version);
        }
    }

    /// The agent holds a bundle.
    pub fn bundle_acked(&mut self, id: SessionId, trust_domain: TrustDomain, serial: u64) {
        if let Some(session) = self.sessions.get_mut(&id)
            && self.bundles.contains_key(&trust_domain)
        {
            session.bundles.insert(trust_domain, serial);
        }
    }

    /// A sign of life is due.
    pub fn heartbeat(&mut self, id: SessionId) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.outbox.heartbeat(&self.catalog);
        }
    }

    /// Puts a question to the newest session of a cluster. `None`: there is none, or too many questions wait.
    pub fn ask(&mut self, query: fleet::EndpointsQuery) -> Option<(SessionId, u64)> {
        let of = |(_, s): &(&SessionId, &Session)| s.cluster == query.from && s.fenced.is_none();
        let id = self.sessions.iter().rev().find(of).map(|(id, _)| *id)?;
        let number = self.last_query + 1;
        self.sessions.get_mut(&id)?.outbox.ask(Query { id: number, query }).then(|| {
            self.last_query = number;
            self.woken.insert(id);
            (id, number)
        })
    }

    // ---- what is sent ----

    /// Sessions that may have something to send since the last call.
    pub fn woken(&mut self) -> BTreeSet<SessionId> {
        std::mem::take(&mut self.woken)
    }

    /// The next thing to tell a session; `None`: nothing now.
    pub fn next(&mut self, id: SessionId) -> Option<Next> {
        let session = self.sessions.get_mut(&id)?;
        session.outbox.next(&self.catalog, &session.cluster, &session.filter)
    }

    // ---- reading ----

    /// The catalog.
    #[must_use]
    pub const fn catalog(&self) -> &Catalog {
        &self.catalog
    }
    /// The live members.
    #[must_use]
    pub const fn live(&self) -> &model::Members {
        &self.live
    }
    /// The live members, with what only the hub knows of them.
    pub fn live_members(&self) -> impl Iterator<Item = &fleet::Member> {
        self.members.members.values().filter(|m| m.is_live())
    }
    /// The policies.
    #[must_use]
    pub const fn policies(&self) -> &FleetPolicies {
        &self.policies
    }
    /// A bundle.
    #[must_use]
    pub fn bundle(&self, trust_domain: &TrustDomain) -> Option<&Bundle> {
        self.bundles.get(trust_domain)
    }
}
