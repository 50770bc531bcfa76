//! Pure. What one importer still has to be told: where it stands per origin, and what it has not been sent.
//!
//! Nothing is queued per event: an origin is dirty or not, and what there is to say is computed when the stream can
//! take it. A slow importer so costs a set of names, and hears of the latest state, not of every step.

mod order;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use meshfed_api::border::{Ack, HeldOrigin, Seniority};
use meshfed_api::stream::{Delta, History, Scope};
use meshfed_model::identity::TrustDomain;
use meshfed_model::names::{ClusterName, ServiceName};
use meshfed_model::version::Version;

use crate::catalog::Catalog;
use crate::plan::Filter;
use order::Orders;

/// Questions of the HTTP API that wait for one agent.
pub const QUERIES_MAX: usize = 64;
/// An importer that sees nothing of an origin is told its version when it is this far behind, so that it stays ahead
/// of the forgotten removals ([`meshfed_api::stream::TOMBSTONES_MAX`]).
pub const QUIET_REVISIONS: u64 = 1024;

/// A question on its way to an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// Pairs it with its answer.
    pub id: u64,
    /// What is asked.
    pub query: crate::fleet::EndpointsQuery,
}

/// One message for the importer, small ones first.
#[derive(Debug, Clone, PartialEq)]
pub enum Next {
    /// Another session of the replica is newer, or membership ended; the stream ends after this.
    Fenced(String),
    /// What was taken of its offer.
    OfferAck(Ack),
    /// A question.
    Query(Query),
    /// Sign of life.
    Heartbeat,
    /// A bundle changed.
    Bundle(TrustDomain),
    /// A bundle was withdrawn.
    BundleGone(TrustDomain),
    /// The members changed.
    Members,
    /// The policies changed.
    Policies,
    /// The shared networks changed.
    SharedNetworks,
    /// The order in which exports were first seen is another.
    Seniority(Seniority),
    /// An origin is no member any more.
    OriginGone(ClusterName),
    /// One part of a change of an origin.
    View {
        /// The origin.
        origin: ClusterName,
        /// What decided what is in it.
        filter: u64,
        /// The part.
        delta: Delta,
    },
    /// All was told that there was; of how many interests.
    CaughtUp(u64),
}

/// Where the importer stands for one origin, as far as it was sent something.
#[derive(Debug, Clone, Default)]
struct Cursor {
    /// The version it stands at once it has all that was sent.
    version: Version,
    /// Every change up to this revision was looked at and held nothing for it.
    considered: u64,
    /// The last version it acknowledged.
    acked: Version,
    /// By what it was filtered, and the salt of the origin's state; none: it has to be told everything.
    filter: Option<(Arc<Filter>, u64)>,
}

/// What one importer still has to be told.
#[derive(Debug, Default)]
pub struct Outbox {
    cursors: BTreeMap<ClusterName, Cursor>,
    dirty: BTreeSet<ClusterName>,
    parts: VecDeque<Next>,
    fenced: Option<String>,
    offer_ack: Option<Ack>,
    queries: VecDeque<Query>,
    heartbeat: bool,
    bundles: BTreeSet<TrustDomain>,
    bundles_gone: BTreeSet<TrustDomain>,
    members: bool,
    policies: bool,
    shared_networks: bool,
    orders: Orders,
    gone: BTreeSet<ClusterName>,
    /// Origins of which the importer may know more than this hub, which they have not offered to since its start.
    unheard: BTreeSet<ClusterName>,
    /// Whether the importer is to hear when all is told.
    waited_for: bool,
    /// How often the importer has said what it is interested in, since its hello.
    interests: u64,
}

/// The filter as the wire has it: of the importer, and of the state of the origin.
const fn wire_filter(filter: u64, salt: u64) -> u64 {
    filter ^ salt.rotate_left(17)
}

impl Outbox {
    /// For an importer that says where it stands. `filter` is that of the interest it said; origins that are no
    /// members are withdrawn.
    #[must_use]
    pub fn resume(held: BTreeMap<ClusterName, HeldOrigin>, filter: &Arc<Filter>, catalog: &Catalog) -> Self {
        let mut outbox = Self { orders: Orders::begin(), waited_for: true, ..Self::default() };
        for (origin, stands) in held {
            if catalog.history(&origin).is_none() {
                outbox.gone.insert(origin);
                continue;
            }
            let salt = catalog.salt(&origin);
            let same = stands.filter == wire_filter(filter.id(), salt);
            let cursor = Cursor {
                version: stands.version,
                considered: stands.version.revision,
                acked: stands.version,
                filter: same.then(|| (Arc::clone(filter), salt)),
            };
            outbox.cursors.insert(origin, cursor);
        }
        outbox.dirty = catalog.clusters().cloned().collect();
        outbox
    }

    // ---- what happened ----

    /// An origin changed from `base` on in something that the importer may see.
    pub fn touch(&mut self, origin: &ClusterName, base: Version) {
        let cursor = self.cursors.entry(origin.clone()).or_default();
        if !self.dirty.contains(origin) && cursor.version.epoch == base.epoch {
            cursor.considered = cursor.considered.max(base.revision);
        }
        self.dirty.insert(origin.clone());
    }
    /// An origin has to be looked at, whatever changed.
    pub fn touch_whole(&mut self, origin: &ClusterName) {
        self.dirty.insert(origin.clone());
    }
    /// Another filter. An importer that has been sent all that it saw by the old one is told the difference; where
    /// something is still to be sent, it is told everything anew, because what came since may be visible by neither.
    pub fn refilter(&mut self, catalog: &Catalog, old: &Arc<Filter>, new: &Arc<Filter>) {
        self.orders.all();
        for origin in catalog.clusters() {
            let (Some(history), salt) = (catalog.history(origin), catalog.salt(origin)) else { continue };
            let under_way = self.is_under_way(origin);
            let cursor = self.cursors.entry(origin.clone()).or_default();
            let by_old = cursor.filter.as_ref().is_some_and(|(f, s)| f.id() == old.id() && *s == salt);
            let version = history.version();
            if under_way || !by_old || !history.can_resume(cursor.version) || cursor.version > version {
                cursor.filter = None;
                self.dirty.insert(origin.clone());
                continue;
            }
            let step = |base| Delta { base, version, ..Delta::default() };
            let mut deltas = history.rescope(Scope::Importer(old.as_ref()), Scope::Importer(new.as_ref()));
            if cursor.version != version || deltas.is_empty() {
                // Also when there is nothing to see the importer has to know by what it is filtered now.
                deltas.insert(0, step(cursor.version));
            }
            (cursor.version, cursor.considered) = (version, version.revision);
            cursor.filter = Some((Arc::clone(new), salt));
            let filter = wire_filter(new.id(), salt);
            self.parts.extend(deltas.into_iter().map(|delta| Next::View { origin: origin.clone(), filter, delta }));
        }
    }
    /// The importer has said what it is interested in: it waits for what there is of that.
    pub const fn interest(&mut self) {
        self.interests = self.interests.saturating_add(1);
        self.waited_for = true;
    }
    fn is_under_way(&self, origin: &ClusterName) -> bool {
        self.dirty.contains(origin)
            || self.parts.iter().any(|part| matches!(part, Next::View { origin: of, .. } if of == origin))
    }
    /// An origin is no member any more.
    pub fn origin_gone(&mut self, origin: &ClusterName) {
        self.dirty.remove(origin);
        self.unheard.remove(origin);
        self.parts.retain(|part| !matches!(part, Next::View { origin: of, .. } if of == origin));
        if self.cursors.remove(origin).is_some_and(|c| c.version != Version::default()) {
            self.gone.insert(origin.clone());
        }
    }
    /// The importer acknowledged a version.
    pub fn acked(&mut self, origin: &ClusterName, version: Version) {
        if let Some(cursor) = self.cursors.get_mut(origin) {
            cursor.acked = version;
        }
    }
    /// What was taken of the importer's own offer; an acknowledgement that was not sent yet keeps its refusals.
    pub fn offer_ack(&mut self, mut ack: Ack) {
        if let Some(earlier) = self.offer_ack.take() {
            let later: BTreeSet<_> = ack.refused.iter().map(|r| r.subject.clone()).collect();
            ack.refused.extend(earlier.refused.into_iter().filter(|r| !later.contains(&r.subject)));
            ack.refused.truncate(meshfed_api::border::REFUSALS_MAX);
        }
        self.offer_ack = Some(ack);
    }
    /// A question; `false`: too many wait.
    pub fn ask(&mut self, query: Query) -> bool {
        let room = self.queries.len() < QUERIES_MAX;
        if room {
            self.queries.push_back(query);
        }
        room
    }
    /// A sign of life is due. Origins of which nothing concerned the importer for long are told their version.
    pub fn heartbeat(&mut self, catalog: &Catalog) {
        self.heartbeat = true;
        for (origin, cursor) in &self.cursors {
            let version = catalog.history(origin).map(History::version).unwrap_or_default();
            if version.epoch == cursor.version.epoch && version.revision >= cursor.version.revision + QUIET_REVISIONS {
                self.dirty.insert(origin.clone());
            }
        }
    }
    /// A bundle changed.
    pub fn bundle(&mut self, trust_domain: TrustDomain) {
        self.bundles_gone.remove(&trust_domain);
        self.bundles.insert(trust_domain);
    }
    /// A bundle was withdrawn.
    pub fn bundle_gone(&mut self, trust_domain: TrustDomain) {
        self.bundles.remove(&trust_domain);
        self.bundles_gone.insert(trust_domain);
    }
    /// The members changed.
    pub const fn members(&mut self) {
        self.members = true;
    }
    /// The policies changed.
    pub const fn policies(&mut self) {
        self.policies = true;
    }
    /// The shared networks changed.
    pub const fn shared_networks(&mut self) {
        self.shared_networks = true;
    }
    /// Exports of these services came, went, or were made durable; whether there may be something to say.
    pub fn reorder<'a>(&mut self, catalog: &Catalog, services: impl IntoIterator<Item = &'a ServiceName>) -> bool {
        self.orders.touch(catalog, services)
    }
    /// The session ends.
    pub fn fence(&mut self, reason: impl Into<String>) {
        self.fenced = Some(reason.into());
    }

    // ---- what is sent ----

    /// The next message, when the stream can take one. Bundles and members come before the views that need them.
    pub fn next(&mut self, catalog: &Catalog, own: &ClusterName, filter: &Arc<Filter>) -> Option<Next> {
        if let Some(reason) = self.fenced.take() {
            self.parts.clear();
            self.dirty.clear();
            return Some(Next::Fenced(reason));
        }
        if std::mem::take(&mut self.heartbeat) {
            return Some(Next::Heartbeat);
        }
        if let Some(ack) = self.offer_ack.take() {
            return Some(Next::OfferAck(ack));
        }
        if let Some(query) = self.queries.pop_front() {
            return Some(Next::Query(query));
        }
        if let Some(trust_domain) = self.bundles_gone.pop_first() {
            return Some(Next::BundleGone(trust_domain));
        }
        if let Some(trust_domain) = self.bundles.pop_first() {
            return Some(Next::Bundle(trust_domain));
        }
        if std::mem::take(&mut self.members) {
            return Some(Next::Members);
        }
        if std::mem::take(&mut self.policies) {
            return Some(Next::Policies);
        }
        if std::mem::take(&mut self.shared_networks) {
            return Some(Next::SharedNetworks);
        }
        // Before the views: what comes in them is merged in the right order at once.
        if let Some(order) = self.orders.next(catalog, own, filter) {
            return Some(Next::Seniority(order));
        }
        if let Some(origin) = self.gone.pop_first() {
            return Some(Next::OriginGone(origin));
        }
        if let Some(part) = self.parts.pop_front() {
            return Some(part);
        }
        while let Some(origin) = self.dirty.pop_first() {
            if origin != *own
                && let Some(history) = catalog.history(&origin)
            {
                self.compute(&origin, history, catalog.salt(&origin), filter);
            }
            if let Some(part) = self.parts.pop_front() {
                return Some(part);
            }
        }
        let caught_up = self.unheard.is_empty() && std::mem::take(&mut self.waited_for);
        caught_up.then_some(Next::CaughtUp(self.interests))
    }

    fn compute(&mut self, origin: &ClusterName, history: &History, salt: u64, filter: &Arc<Filter>) {
        let cursor = self.cursors.entry(origin.clone()).or_default();
        let version = history.version();
        // A hub that knows less than the importer keeps silent until the origin has offered.
        if version == Version::default() || cursor.version > version {
            self.unheard.insert(origin.clone());
            return;
        }
        self.unheard.remove(origin);
        let wire = wire_filter(filter.id(), salt);
        let scope = Scope::Importer(filter.as_ref());
        let resumed = match &cursor.filter {
            Some((by, of)) if by.id() == filter.id() && *of == salt && history.can_resume(cursor.version) => {
                changes(history, cursor, scope)
            }
            Some(_) | None => None,
        };
        let (deltas, told) = match resumed {
            None => (history.complete(scope), true),
            Some(deltas) => {
                let told = !deltas.is_empty();
                (deltas, told)
            }
        };
        if told {
            cursor.version = version;
        }
        cursor.considered = version.revision;
        cursor.filter = Some((Arc::clone(filter), salt));
        let view = |delta| Next::View { origin: origin.clone(), filter: wire, delta };
        self.parts.extend(deltas.into_iter().map(view));
    }

    /// Whether the importer has been sent, and has acknowledged, all that concerns it of one origin; else its version.
    ///
    /// # Errors
    /// The version that is waited for.
    pub fn settled(&self, origin: &ClusterName, catalog: &Catalog) -> Result<(), Version> {
        let version = catalog.history(origin).map(History::version).unwrap_or_default();
        if version == Version::default() {
            return Ok(());
        }
        let under_way = self.is_under_way(origin);
        match self.cursors.get(origin) {
            Some(cursor) if !under_way && cursor.acked >= cursor.version => Ok(()),
            Some(_) | None => Err(version),
        }
    }
}

/// What an importer at `cursor` must be told. Empty: nothing. `None`: everything.
fn changes(history: &History, cursor: &Cursor, scope: Scope<'_>) -> Option<Vec<Delta>> {
    let deltas = history.since_considered(cursor.version, cursor.considered, scope);
    if deltas.first().is_some_and(|d| d.complete) {
        return None;
    }
    let behind = history.version().revision.saturating_sub(cursor.version.revision) >= QUIET_REVISIONS;
    let quiet = deltas.iter().all(Delta::is_empty) && !behind;
    Some(if quiet { Vec::new() } else { deltas })
}
