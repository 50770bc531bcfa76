//! Edge. The hub of all sessions: one state behind one lock that is never held over an await.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use meshfed_api::proto::federation as wire;
use meshfed_api::proto::federation::federation_server::FederationServer;
use meshfed_runtime::clock;
use meshfed_runtime::grpc::MESSAGE_MAX;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{Notify, oneshot, watch};

use super::state::{SessionId, State};
use super::stream::Sessions;
use crate::fleet::Inputs;

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
}

impl SessionMetrics {
    fn new(metrics: &meshfed_runtime::metrics::Metrics) -> Self {
        Self {
            bytes: metrics.counters("meshfed_session_bytes", "Encoded bytes of session messages, by cluster"),
            sessions: metrics.gauge("meshfed_sessions", "Open sessions"),
            offer_refused: metrics.counters("meshfed_offer_refused", "Offered resources that were refused by name"),
            session_refused: metrics.counters("meshfed_session_refused", "Sessions that were refused or cut"),
            complete_offers: metrics.counters("meshfed_offer_complete", "Offers that were sent whole"),
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
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub").finish_non_exhaustive()
    }
}

impl Hub {
    /// A hub without sessions, with the claims, members, policies and bundles of this moment.
    #[must_use]
    pub fn new(inputs: Inputs) -> Arc<Self> {
        let metrics = SessionMetrics::new(&inputs.metrics);
        let mut state = State::new(inputs.claims.all());
        state.set_members(&inputs.members.borrow());
        state.set_policies(&inputs.policies.borrow());
        state.set_bundles(&inputs.bundles.borrow().bundles);
        Arc::new(Self {
            inputs,
            state: Mutex::new(state),
            wakes: Mutex::new(BTreeMap::new()),
            questions: Mutex::new(BTreeMap::new()),
            metrics,
        })
    }

    /// The gRPC service of port 15600.
    #[must_use]
    pub fn service(self: &Arc<Self>) -> FederationServer<Sessions> {
        FederationServer::new(Sessions::new(Arc::clone(self)))
            .max_decoding_message_size(MESSAGE_MAX)
            .max_encoding_message_size(MESSAGE_MAX)
    }

    /// Follows members, policies and bundles until the drain.
    ///
    /// # Errors
    /// [`HubError`] when one of them ends before.
    pub async fn run(self: Arc<Self>) -> Result<(), HubError> {
        let mut members = self.inputs.members.clone();
        let mut policies = self.inputs.policies.clone();
        let mut bundles = self.inputs.bundles.clone();
        self.take_inputs(&mut members, &mut policies, &mut bundles);
        loop {
            tokio::select! {
                () = self.inputs.drain.signaled() => return Ok(()),
                changed = members.changed() => changed.map_err(|_ended| HubError::InputEnded("members"))?,
                changed = policies.changed() => changed.map_err(|_ended| HubError::InputEnded("policies"))?,
                changed = bundles.changed() => changed.map_err(|_ended| HubError::InputEnded("bundles"))?,
            }
            self.take_inputs(&mut members, &mut policies, &mut bundles);
        }
    }

    fn take_inputs(
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
        self.inputs.revisions.bump();
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
