//! Edge. The hub of all sessions: one state behind one lock that is never held over an await.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use meshfed_api::proto::federation as wire;
use meshfed_api::proto::federation::federation_server::FederationServer;
use meshfed_crds::{Object, ObjectError, dangling};
use meshfed_model::names::ClusterName;
use meshfed_runtime::clock;
use meshfed_runtime::grpc::MESSAGE_MAX;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{Notify, oneshot, watch};

use super::desk::Job;
use super::fair::Fair;
use super::state::{Now, Opened, SessionId, State};
use super::stream::Sessions;
use crate::fleet::{FleetNames, Inputs};

/// Labels of bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct BytesLabel {
    /// The cluster.
    pub cluster: String,
    /// `in` (from the agent) or `out`.
    pub direction: &'static str,
}

/// Labels of refusals.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RefusedLabel {
    /// The cluster.
    pub cluster: String,
    /// The code.
    pub code: String,
}

/// Labels by cluster.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ClusterLabel {
    /// The cluster.
    pub cluster: String,
}

/// What the sessions count.
#[derive(Debug, Clone)]
pub struct SessionMetrics {
    /// Encoded bytes of session messages.
    pub bytes: Family<BytesLabel, Counter>,
    /// Open sessions.
    pub sessions: Gauge,
    /// Resources refused by name.
    pub offer_refused: Family<RefusedLabel, Counter>,
    /// Sessions that were refused or cut, by code.
    pub session_refused: Family<RefusedLabel, Counter>,
    /// Sessions whose offer was sent whole.
    pub complete_offers: Family<ClusterLabel, Counter>,
    /// Full syncs that were held back.
    pub held: Family<ClusterLabel, Counter>,
    /// Clusters of which a full sync is held back now.
    pub holding: Gauge,
    /// Sessions that took the place of another of the same agent.
    pub flips: Family<ClusterLabel, Counter>,
    /// 1 while the sessions of a cluster change too often.
    pub flipping: Family<ClusterLabel, Gauge>,
    /// 1 while a cluster is silent for too long.
    pub stale: Family<ClusterLabel, Gauge>,
    /// What was done for a cluster, in resources.
    pub work: Family<ClusterLabel, Counter>,
    /// Messages that wait for the turn of their cluster.
    pub waiting: Gauge,
}

impl SessionMetrics {
    fn new(metrics: &meshfed_runtime::metrics::Metrics) -> Self {
        Self {
            bytes: metrics.counters("meshfed_session_bytes", "Encoded bytes of session messages, by cluster"),
            sessions: metrics.gauge("meshfed_sessions", "Open sessions"),
            offer_refused: metrics.counters("meshfed_offer_refused", "Offered resources that were refused by name"),
            session_refused: metrics.counters("meshfed_session_refused", "Sessions that were refused or cut"),
            complete_offers: metrics.counters("meshfed_offer_complete", "Offers that were sent whole"),
            held: metrics
                .counters("meshfed_offer_held", "Full syncs that were held back, because most endpoints were missing"),
            holding: metrics.gauge("meshfed_offers_holding", "Clusters of which a full sync is held back now"),
            flips: metrics.counters("meshfed_session_flips", "Sessions that followed on another of the same agent"),
            flipping: metrics.gauges("meshfed_session_flip_alarm", "1 while an agent's session changes too often"),
            stale: metrics.gauges("meshfed_cluster_stale", "1 while a cluster has been silent for too long"),
            work: metrics.counters("meshfed_session_work", "Resources looked at for a cluster's messages"),
            waiting: metrics.gauge("meshfed_session_waiting", "Messages that wait for the turn of their cluster"),
        }
    }
}

/// Why the hub's sessions ended early.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HubError {
    /// A part of the federator that gives inputs is gone.
    #[error("the source of {0} has ended")]
    InputEnded(&'static str),
}

/// What a session's tasks share.
#[derive(Debug, Default)]
pub(super) struct Wake {
    /// There may be something to send.
    pub(super) signal: Notify,
}

/// A question under way.
pub(super) type Answer = oneshot::Sender<wire::EndpointsAnswer>;

/// The hub.
pub struct Hub {
    pub(super) inputs: Inputs,
    state: Mutex<State>,
    pub(super) wakes: Mutex<BTreeMap<SessionId, Arc<Wake>>>,
    /// By the session asked and the number of the question.
    pub(super) questions: Mutex<BTreeMap<(SessionId, u64), Answer>>,
    pub(super) metrics: SessionMetrics,
    /// What agents said and the hub has not taken yet.
    pub(super) desk: Mutex<Fair<ClusterName, Job>>,
    /// There is work.
    pub(super) work: Notify,
    /// There may be an earlier deadline.
    timer: Notify,
    /// Held while it is made durable who has which gateway address.
    pub(super) gateway_claims: tokio::sync::Mutex<()>,
}

/// This moment. The monotonic half is the runtime's, which tests let pass as they like.
pub(super) fn now() -> Now {
    Now { instant: tokio::time::Instant::now().into_std(), wall: clock::timestamp() }
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub").finish_non_exhaustive()
    }
}

/// Waits until a moment; for ever without one.
async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}

impl Hub {
    /// A hub without sessions, with the claims, members, policies and bundles of this moment.
    #[must_use]
    pub fn new(inputs: Inputs) -> Arc<Self> {
        let metrics = SessionMetrics::new(&inputs.metrics);
        let mut state = State::new(inputs.claims.all(), inputs.claims.gateways());
        state.set_members(&inputs.members.borrow());
        state.set_policies(&inputs.policies.borrow());
        state.set_bundles(&inputs.bundles.borrow().bundles);
        Arc::new(Self {
            inputs,
            state: Mutex::new(state),
            wakes: Mutex::new(BTreeMap::new()),
            questions: Mutex::new(BTreeMap::new()),
            metrics,
            desk: Mutex::new(Fair::new()),
            work: Notify::new(),
            timer: Notify::new(),
            gateway_claims: tokio::sync::Mutex::default(),
        })
    }

    /// The gRPC service of port 15600.
    #[must_use]
    pub fn service(self: &Arc<Self>) -> FederationServer<Sessions> {
        FederationServer::new(Sessions::new(Arc::clone(self)))
            .max_decoding_message_size(MESSAGE_MAX)
            .max_encoding_message_size(MESSAGE_MAX)
    }

    /// Takes what agents say, and follows members, policies, bundles and time until the drain.
    ///
    /// # Errors
    /// [`HubError`] when one of them ends before.
    pub async fn run(self: Arc<Self>) -> Result<(), HubError> {
        let ended = tokio::select! {
            ended = self.follow() => ended,
            () = self.take_turns() => Ok(()),
        };
        // Whoever waits for a turn learns that there is none.
        *self.desk.lock().unwrap_or_else(PoisonError::into_inner) = Fair::new();
        ended
    }

    async fn follow(&self) -> Result<(), HubError> {
        let mut members = self.inputs.members.clone();
        let mut policies = self.inputs.policies.clone();
        let mut bundles = self.inputs.bundles.clone();
        self.take_inputs(&mut members, &mut policies, &mut bundles).await;
        loop {
            let due = self.with(|state| state.next_deadline(now().instant));
            tokio::select! {
                () = self.inputs.drain.signaled() => return Ok(()),
                () = at(due) => {
                    self.pass().await;
                    continue;
                }
                () = self.timer.notified() => continue,
                changed = members.changed() => changed.map_err(|_ended| HubError::InputEnded("members"))?,
                changed = policies.changed() => changed.map_err(|_ended| HubError::InputEnded("policies"))?,
                changed = bundles.changed() => changed.map_err(|_ended| HubError::InputEnded("bundles"))?,
            }
            self.take_inputs(&mut members, &mut policies, &mut bundles).await;
        }
    }

    /// Lets time pass.
    async fn pass(&self) {
        let passed = self.change(|state| state.pass(now().instant));
        self.count_holding();
        if passed.is_empty() {
            return;
        }
        let label = |cluster: &ClusterName| ClusterLabel { cluster: cluster.to_string() };
        for cluster in &passed.stale {
            self.metrics.stale.get_or_create(&label(cluster)).set(1);
            tracing::warn!(%cluster, "the cluster has been silent for 20 s; what is known of it is stale");
        }
        for cluster in &passed.calm {
            self.metrics.flipping.get_or_create(&label(cluster)).set(0);
            tracing::info!(%cluster, "the cluster's sessions change no more");
        }
        if !passed.freed.is_empty() {
            tracing::info!(addresses = passed.freed.len(), "gateway addresses that are offered no more are free");
            self.keep_gateways_or_say().await;
        }
        for (cluster, taken) in &passed.released {
            tracing::warn!(%cluster, removed = taken.removed.len(), "what was held back of a full sync is carried out");
            match self.settle(cluster, taken).await {
                Ok(settled) => self.change(|s| s.claimed(cluster, settled.claims, &settled.dropped)),
                // The claims stay until the next full sync: they only say who was first.
                Err(error) => tracing::error!(%cluster, %error, "claims cannot be dropped"),
            }
        }
        self.inputs.revisions.bump();
    }

    /// A cluster that was stale has spoken; it can become stale again.
    pub(super) fn fresh_again(&self, cluster: &ClusterName) {
        self.metrics.stale.get_or_create(&ClusterLabel { cluster: cluster.to_string() }).set(0);
        tracing::info!(%cluster, "the cluster speaks again");
        self.inputs.revisions.bump();
        self.reschedule();
    }

    /// A deadline may have come nearer.
    pub(super) fn reschedule(&self) {
        self.count_holding();
        self.timer.notify_one();
    }

    fn count_holding(&self) {
        let holding = self.with(State::holding);
        self.metrics.holding.set(i64::try_from(holding).unwrap_or(i64::MAX));
    }

    /// Says what a new session means for the cluster's alarms.
    pub(super) fn opened(&self, cluster: &ClusterName, replica: u32, opened: Opened) {
        let label = ClusterLabel { cluster: cluster.to_string() };
        self.metrics.stale.get_or_create(&label).set(0);
        if opened.follows {
            self.metrics.flips.get_or_create(&label).inc();
        }
        if opened.raised {
            self.metrics.flipping.get_or_create(&label).set(1);
            tracing::error!(
                %cluster,
                replica,
                "the agent's session changed more than 3 times within a minute: two agents run with one identity, or \
                 one restarts over and over; the last good offer stays"
            );
        }
        self.reschedule();
    }

    async fn take_inputs(
        &self,
        members: &mut watch::Receiver<Arc<crate::fleet::Members>>,
        policies: &mut watch::Receiver<Arc<meshfed_model::policy::FleetPolicies>>,
        bundles: &mut watch::Receiver<Arc<crate::fleet::Bundles>>,
    ) {
        // Bundles first: a new member's peers hold its bundle before they hear of what it offers.
        let bundles = Arc::clone(&bundles.borrow_and_update());
        let members = Arc::clone(&members.borrow_and_update());
        let policies = Arc::clone(&policies.borrow_and_update());
        self.change(|state| {
            state.set_bundles(&bundles.bundles);
            state.set_members(&members);
            state.set_policies(&policies);
        });
        // Who is no member any more has given up its gateway addresses, and was the first of nothing.
        self.keep_gateways_or_say().await;
        self.drop_claims_of_strangers().await;
        self.inputs.revisions.bump();
    }

    async fn drop_claims_of_strangers(&self) {
        for (cluster, services) in self.with(State::claims_of_strangers) {
            match self.inputs.claims.change(&cluster, Vec::new(), services.clone()).await {
                Ok(_none) => self.change(|s| s.claimed(&cluster, BTreeMap::new(), &services)),
                // The next change of the members tries it again; they harm nobody meanwhile.
                Err(error) => tracing::error!(%cluster, %error, "claims cannot be dropped"),
            }
        }
    }

    async fn keep_gateways_or_say(&self) {
        if let Err(error) = self.keep_gateways().await {
            // The next change writes them again.
            tracing::error!(%error, "who has which gateway address is not durable");
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // State changes are whole calls; one that panicked left what the next message can still be told.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the state.
    pub(super) fn with<T>(&self, read: impl FnOnce(&State) -> T) -> T {
        read(&self.lock())
    }

    /// Changes the state and wakes the sessions that have something to send.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let (result, woken) = {
            let mut state = self.lock();
            let result = change(&mut state);
            (result, state.woken())
        };
        if !woken.is_empty() {
            let wakes = self.wakes.lock().unwrap_or_else(PoisonError::into_inner);
            for wake in woken.iter().filter_map(|id| wakes.get(id)) {
                wake.signal.notify_one();
            }
        }
        result
    }

    /// The next message for a session.
    pub(super) fn next(&self, id: SessionId) -> Option<wire::HubMessage> {
        self.change(|state| {
            loop {
                let next = state.next(id)?;
                let clock = clock::timestamp().to_string();
                super::messages::log(id, &next);
                if let Some(message) = super::messages::message(state, id, next, clock) {
                    return Some(message);
                }
            }
        })
    }

    pub(super) fn refuse_session(&self, cluster: &str, code: &str) {
        let label = RefusedLabel { cluster: cluster.to_owned(), code: code.to_owned() };
        self.metrics.session_refused.get_or_create(&label).inc();
    }
}

impl FleetNames for Hub {
    fn unknown_names(&self, objects: &[&Object]) -> Vec<ObjectError> {
        self.with(|state| objects.iter().flat_map(|object| dangling::unknown_names(object, state)).collect())
    }
}
