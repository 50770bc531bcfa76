//! Pure. One xDS stream as a state machine: what the client subscribed to, what it holds, what it must be sent next.
//!
//! At most one response per kind is unanswered; changes meanwhile are kept as names, the latest body wins. So a slow
//! client costs memory by the number of resources, never by the number of changes.
//! Additions go out in the order clusters, endpoints, listeners, routes, and removals last; a changed resource waits
//! while one that it may refer to is under way, a newly subscribed one never does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::translate::{Kind, Resource};

mod answer;

/// The most names that one stream may subscribe to (security.md XD6).
pub const NAMES_PER_STREAM: usize = 50_000;
/// Bodies of one incremental response, in bytes. Clients commonly refuse messages of more than 4 MiB, and an encoder keeps
/// room for the largest that it has sent, for each proxy as long as it is connected.
pub const RESPONSE_BYTES: usize = 256 << 10;
/// How long a change waits for the answer to the changes that it may need.
pub const ORDER_PATIENCE: Duration = Duration::from_secs(3);
/// The first pause before a refused version is sent again; doubled each time.
pub const NACK_PAUSE: Duration = Duration::from_secs(1);
/// The longest such pause.
pub const NACK_PAUSE_MAX: Duration = Duration::from_secs(60);

/// The two variants of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// State of the world.
    Sotw,
    /// Incremental.
    Delta,
}

/// A request as the state machine reads it, of either protocol.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Request {
    /// State of the world: the whole list; incremental: names to add.
    pub subscribe: Vec<String>,
    /// Incremental: names to take away.
    pub unsubscribe: Vec<String>,
    /// Incremental, first request of a kind: what the client holds from an earlier stream.
    pub held: BTreeMap<String, String>,
    /// The nonce that is answered; empty: none.
    pub nonce: String,
    /// Why the response of that nonce was refused.
    pub error: Option<String>,
    /// State of the world, first request of a kind: the client holds a response of an earlier stream.
    pub resumes: bool,
}

/// What a request meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Only subscriptions, or an answer to a response that is not the latest.
    Noted,
    /// The latest response was taken.
    Acked,
    /// The latest response was refused; these names are not sent again in this version until a pause is over.
    Nacked {
        /// The refused resources.
        names: Vec<Arc<str>>,
        /// The client's words.
        error: String,
    },
}

/// A stream that must end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// Too many subscriptions.
    #[error("{actual} resource names on one stream, at most {limit} are allowed")]
    TooManyNames {
        /// The limit.
        limit: usize,
        /// The number asked for.
        actual: usize,
    },
}

/// A response, of either protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// Its kind.
    pub kind: Kind,
    /// State of the world: the version of the whole response.
    pub version: String,
    /// What is new or changed (state of the world, wildcard kinds: everything).
    pub resources: Vec<Arc<Resource>>,
    /// Incremental: what is gone.
    pub removed: Vec<Arc<str>>,
    /// To be answered.
    pub nonce: String,
}

/// Where resources are looked up.
pub trait Resources {
    /// The resource of that name, as this stream's client is to see it.
    fn get(&self, kind: Kind, name: &str) -> Option<Arc<Resource>>;
    /// All names of a wildcard kind, sorted.
    fn names(&self, kind: Kind) -> Vec<Arc<str>>;
    /// Whether something is not known of which this resource may be made; of a wildcard kind as a whole: `*`. What a
    /// client holds of it from an earlier stream is left as it is meanwhile, and nothing is told to be gone.
    fn is_unknown(&self, _kind: Kind, _name: &str) -> bool {
        false
    }
}

/// What the client was last told of one resource.
#[derive(Debug, Clone)]
enum Held {
    /// It was sent, or named by the client as held.
    Version(Arc<str>, Option<Arc<Resource>>),
    /// It was told that there is none.
    Absent,
    /// It must be told again, whatever it holds.
    Stale,
}

#[derive(Debug)]
struct Outstanding {
    nonce: String,
    names: Vec<Arc<str>>,
    /// Not only removals, which nothing waits for.
    upserts: bool,
}

#[derive(Debug, Default)]
struct TypeState {
    requested: bool,
    wildcard: bool,
    names: BTreeSet<Arc<str>>,
    held: BTreeMap<Arc<str>, Held>,
    pending: BTreeSet<Arc<str>>,
    /// A response is due even if nothing changed.
    due: bool,
    /// Whether something other than removals was pending when it was last compared.
    upserts: bool,
    outstanding: Option<Outstanding>,
    refused: BTreeSet<Arc<str>>,
    retry_at: Option<Instant>,
    retries: u32,
    acked_once: bool,
    /// The client came with what an earlier stream had given it.
    resumed: bool,
}

impl TypeState {
    fn wants(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }
    /// Whether a resource is not to be told now: neither that it is another, nor that it is gone.
    fn is_held_back(&self, kind: Kind, name: &str, resources: &dyn Resources) -> bool {
        resources.is_unknown(kind, name) && (self.resumed || resources.get(kind, name).is_none())
    }
    /// Whether nothing of a wildcard kind is to be told now.
    fn all_held_back(&self, kind: Kind, resources: &dyn Resources) -> bool {
        self.resumed && kind.has_wildcard() && resources.is_unknown(kind, "*")
    }
    /// Nothing under way and nothing to send.
    fn quiet(&self) -> bool {
        self.outstanding.is_none() && self.pending.is_empty() && !self.due
    }
    fn drop_name(&mut self, name: &str) {
        self.held.remove(name);
        self.pending.remove(name);
        self.refused.remove(name);
    }
}

/// The state machine of one stream.
#[derive(Debug)]
pub struct Stream {
    protocol: Protocol,
    kinds: BTreeMap<Kind, TypeState>,
    counter: u64,
    /// Clusters that were just added and whose endpoints the client is going to ask for.
    awaited: BTreeSet<Arc<str>>,
    waiting_since: Option<Instant>,
    /// Listeners of an earlier stream are left as they are for now.
    holds_back: bool,
}

/// The differences of one kind, ready to be sent.
#[derive(Default)]
struct Difference {
    changed: Vec<Arc<Resource>>,
    fresh: Vec<Arc<Resource>>,
    removed: Vec<Arc<str>>,
    unknown: Vec<Arc<str>>,
}

impl Stream {
    /// A stream on which nothing was said yet.
    #[must_use]
    pub fn new(protocol: Protocol) -> Self {
        Self {
            protocol,
            kinds: BTreeMap::new(),
            counter: 0,
            awaited: BTreeSet::new(),
            waiting_since: None,
            holds_back: false,
        }
    }

    /// Takes a request.
    ///
    /// # Errors
    /// [`StreamError`] when the stream must end.
    pub fn request(
        &mut self,
        kind: Kind,
        request: &Request,
        resources: &dyn Resources,
        now: Instant,
    ) -> Result<Outcome, StreamError> {
        let outcome = match self.protocol {
            Protocol::Sotw => self.sotw_request(kind, request, resources, now),
            Protocol::Delta => self.delta_request(kind, request, resources, now),
        };
        let actual: usize = self.kinds.values().map(|t| t.names.len()).sum();
        if actual > NAMES_PER_STREAM {
            return Err(StreamError::TooManyNames { limit: NAMES_PER_STREAM, actual });
        }
        Ok(outcome)
    }

    fn answer(state: &mut TypeState, request: &Request, now: Instant) -> Outcome {
        let Some(outstanding) = state.outstanding.take_if(|o| o.nonce == request.nonce) else {
            return Outcome::Noted;
        };
        let Some(error) = &request.error else {
            for name in &outstanding.names {
                state.refused.remove(name);
            }
            if state.refused.is_empty() {
                state.retries = 0;
                state.retry_at = None;
            }
            state.acked_once = true;
            return Outcome::Acked;
        };
        // A client that names the culprits has taken the rest.
        let named: Vec<_> = outstanding.names.iter().filter(|n| error.contains(n.as_ref())).cloned().collect();
        let names = if named.is_empty() { outstanding.names } else { named };
        state.refused.extend(names.iter().cloned());
        let pause = NACK_PAUSE.saturating_mul(1 << state.retries.min(10)).min(NACK_PAUSE_MAX);
        state.retries = state.retries.saturating_add(1);
        state.retry_at = Some(now + pause);
        Outcome::Nacked { names, error: error.clone() }
    }

    fn sotw_request(&mut self, kind: Kind, request: &Request, resources: &dyn Resources, now: Instant) -> Outcome {
        let state = self.kinds.entry(kind).or_default();
        let first = !state.requested;
        let stale =
            !first && !request.nonce.is_empty() && state.outstanding.as_ref().is_some_and(|o| o.nonce != request.nonce);
        if stale {
            // The client has not read our latest response; its answer to that one repeats the names.
            return Outcome::Noted;
        }
        state.requested = true;
        state.resumed |= first && request.resumes;
        let outcome = Self::answer(state, request, now);
        let star = request.subscribe.iter().any(|n| n == "*");
        let implied = request.subscribe.is_empty() && state.names.is_empty() && (first || state.wildcard);
        let wildcard = kind.has_wildcard() && (star || implied);
        let names: BTreeSet<Arc<str>> =
            request.subscribe.iter().filter(|n| *n != "*").map(|n| n.as_str().into()).collect();
        let mut changed = first;
        if wildcard && !state.wildcard {
            state.pending.extend(resources.names(kind));
            changed = true;
        }
        for name in names.difference(&state.names) {
            state.pending.insert(Arc::clone(name));
            state.held.insert(Arc::clone(name), Held::Stale);
            changed = true;
            if kind == Kind::Endpoint {
                self.awaited.remove(name);
            }
        }
        let gone: Vec<_> = state.names.difference(&names).cloned().collect();
        state.names = names;
        state.wildcard = wildcard;
        for name in gone.iter().filter(|n| !state.wants(n)).cloned().collect::<Vec<_>>() {
            state.drop_name(&name);
        }
        state.due |= changed && (state.wildcard || !state.names.is_empty());
        outcome
    }

    fn delta_request(&mut self, kind: Kind, request: &Request, resources: &dyn Resources, now: Instant) -> Outcome {
        let state = self.kinds.entry(kind).or_default();
        let first = !state.requested;
        state.requested = true;
        let outcome = Self::answer(state, request, now);
        if first {
            state.resumed = !request.held.is_empty();
            for (name, version) in &request.held {
                state.held.insert(name.as_str().into(), Held::Version(version.as_str().into(), None));
            }
        }
        let implied = first && request.subscribe.is_empty();
        if kind.has_wildcard() && !state.wildcard && (implied || request.subscribe.iter().any(|n| n == "*")) {
            state.wildcard = true;
            state.pending.extend(resources.names(kind));
            state.pending.extend(state.held.keys().cloned());
            // A client without knowledge is told even that there is nothing, or it would wait.
            state.due = state.held.is_empty();
        }
        for name in request.subscribe.iter().filter(|n| *n != "*") {
            let name: Arc<str> = name.as_str().into();
            if kind == Kind::Endpoint {
                self.awaited.remove(&name);
            }
            // A name that is asked for again must be sent again; one that the client says it holds only if it changed.
            if !(first && state.held.contains_key(&name)) {
                state.held.insert(Arc::clone(&name), Held::Stale);
            }
            state.pending.insert(Arc::clone(&name));
            state.names.insert(name);
        }
        for name in &request.unsubscribe {
            if name == "*" {
                state.wildcard = false;
                let names = &state.names;
                state.held.retain(|n, _| names.contains(n));
                state.pending.retain(|n| names.contains(n));
                continue;
            }
            state.names.remove(name.as_str());
            if !state.wildcard {
                state.drop_name(name);
            }
        }
        if !state.wildcard {
            let names = &state.names;
            state.held.retain(|n, _| names.contains(n));
        }
        outcome
    }

    /// Notes that a resource changed, appeared or went away.
    pub fn mark(&mut self, kind: Kind, name: &Arc<str>) {
        if let Some(state) = self.kinds.get_mut(&kind)
            && state.wants(name)
        {
            state.pending.insert(Arc::clone(name));
        }
    }

    /// Whether the client subscribed to that resource.
    #[must_use]
    pub fn wants(&self, kind: Kind, name: &str) -> bool {
        self.kinds.get(&kind).is_some_and(|s| s.wants(name))
    }

    /// The names that the client subscribed to one by one.
    pub fn subscribed(&self, kind: Kind) -> impl Iterator<Item = &Arc<str>> {
        self.kinds.get(&kind).into_iter().flat_map(|s| s.names.iter())
    }

    /// Whether the client has taken everything it was to be sent.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.kinds.values().any(|s| s.requested) && self.kinds.values().all(|s| s.quiet() && s.refused.is_empty())
    }

    /// Whether the client has taken its listeners at least once (or kept them from an earlier stream).
    #[must_use]
    pub fn has_listeners(&self) -> bool {
        let kept = |s: &TypeState| s.requested && s.quiet() && s.refused.is_empty() && !s.held.is_empty();
        self.kinds.get(&Kind::Listener).is_some_and(|s| s.acked_once || kept(s) || (s.resumed && self.holds_back))
    }

    /// The names that the client refused, per kind.
    pub fn refused(&self) -> impl Iterator<Item = (Kind, &Arc<str>)> {
        self.kinds.iter().flat_map(|(k, s)| s.refused.iter().map(|n| (*k, n)))
    }

    /// The version of a resource that the client was sent last.
    #[must_use]
    pub fn held_version(&self, kind: Kind, name: &str) -> Option<&str> {
        match self.kinds.get(&kind)?.held.get(name)? {
            Held::Version(v, _) => Some(v),
            Held::Absent | Held::Stale => None,
        }
    }

    /// When [`poll`](Self::poll) has something to do by time alone.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let retries = self.kinds.values().filter_map(|s| s.retry_at);
        retries.chain(self.waiting_since.map(|t| t + ORDER_PATIENCE)).min()
    }

    /// What is to be sent now.
    pub fn poll(&mut self, resources: &dyn Resources, now: Instant) -> Vec<Response> {
        for state in self.kinds.values_mut() {
            if state.retry_at.is_some_and(|t| t <= now) {
                state.retry_at = None;
                for name in &state.refused {
                    state.held.insert(Arc::clone(name), Held::Stale);
                    state.pending.insert(Arc::clone(name));
                }
            }
        }
        let impatient = self.waiting_since.is_some_and(|t| now.saturating_duration_since(t) >= ORDER_PATIENCE);
        if impatient {
            self.awaited.clear();
        }
        for (kind, state) in &mut self.kinds {
            state.difference(resources, *kind);
        }
        self.holds_back = self.kinds.get(&Kind::Listener).is_some_and(|s| s.all_held_back(Kind::Listener, resources));
        let mut out = Vec::new();
        let mut waiting = false;
        for kind in Kind::ALL {
            let (response, waits) = self.poll_kind(kind, resources, impatient);
            waiting |= waits;
            out.extend(response);
        }
        self.waiting_since = if waiting { self.waiting_since.filter(|_| !impatient).or(Some(now)) } else { None };
        out
    }

    /// Whether changes of a kind must wait for the answer to those that they may refer to.
    fn must_wait(&self, kind: Kind) -> bool {
        let busy = |k: Kind| {
            self.kinds.get(&k).is_some_and(|s| s.upserts || s.outstanding.as_ref().is_some_and(|o| o.upserts))
        };
        match kind {
            Kind::Secret | Kind::Cluster => false,
            Kind::Endpoint => busy(Kind::Cluster),
            Kind::Listener => {
                // A client without listeners has no traffic that could miss an endpoint.
                let has_some = self.kinds.get(&kind).is_some_and(|s| !s.held.is_empty());
                busy(Kind::Cluster) || busy(Kind::Endpoint) || (has_some && !self.awaited.is_empty())
            }
            Kind::Route => {
                busy(Kind::Cluster) || busy(Kind::Endpoint) || busy(Kind::Listener) || !self.awaited.is_empty()
            }
        }
    }

    /// Whether removals of a kind must wait: until nothing refers to it any more.
    fn removals_must_wait(&self, kind: Kind) -> bool {
        let busy = |k: Kind| self.kinds.get(&k).is_some_and(|s| !s.quiet());
        match kind {
            Kind::Cluster | Kind::Secret => busy(Kind::Listener) || busy(Kind::Route),
            Kind::Route => busy(Kind::Listener),
            Kind::Endpoint | Kind::Listener => false,
        }
    }

    fn poll_kind(&mut self, kind: Kind, resources: &dyn Resources, impatient: bool) -> (Option<Response>, bool) {
        let wait = self.must_wait(kind) && !impatient;
        let removals_wait = self.removals_must_wait(kind) && !impatient;
        let Some(state) = self.kinds.get_mut(&kind) else { return (None, false) };
        if state.outstanding.is_some() || state.all_held_back(kind, resources) {
            return (None, false);
        }
        let difference = state.difference(resources, kind);
        let waits = (wait && (!difference.changed.is_empty() || state.due))
            || (removals_wait && !difference.removed.is_empty());
        if kind == Kind::Cluster {
            self.await_endpoints(&difference.changed);
        }
        let Some(state) = self.kinds.get_mut(&kind) else { return (None, false) };
        let nonce = (self.counter + 1).to_string();
        let response = match self.protocol {
            Protocol::Delta => state.delta_response(kind, difference, wait, removals_wait, nonce),
            Protocol::Sotw => state.sotw_response(kind, difference, wait, removals_wait, nonce, resources),
        };
        self.counter += u64::from(response.is_some());
        (response, waits)
    }
}

impl Stream {
    /// Notes the clusters that are new to the client, and whose endpoints it is going to ask for.
    fn await_endpoints(&mut self, clusters: &[Arc<Resource>]) {
        let Some(endpoints) = self.kinds.get(&Kind::Endpoint).filter(|s| s.requested) else { return };
        let Some(held) = self.kinds.get(&Kind::Cluster).map(|s| &s.held) else { return };
        let new = clusters.iter().filter(|r| !matches!(held.get(&r.name), Some(Held::Version(..))));
        let new = new.filter(|r| r.name.starts_with("outbound") && !endpoints.names.contains(&r.name));
        self.awaited.extend(new.map(|r| Arc::clone(&r.name)));
    }
}

#[cfg(test)]
mod tests;
