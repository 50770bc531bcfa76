//! Edge. Where what agents say waits for its turn, and is taken one piece after the other (INV-10).

use std::sync::{Arc, PoisonError};

use meshfed_api::stream::StreamError;
use meshfed_model::names::ClusterName;
use tokio::sync::oneshot;

use super::fair::QUANTUM;
use super::heard::Heard;
use super::hub::{ClusterLabel, Hub, now};
use super::state::{SessionId, State};
use crate::catalog::Taken;

/// One message that waits for its turn.
pub(super) struct Job {
    id: SessionId,
    said: Heard,
    answer: oneshot::Sender<Result<Option<Taken>, StreamError>>,
}

/// Why a message was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Untaken {
    /// The offer does not follow on what is held.
    #[error("the offer was refused: {0}")]
    Offer(#[from] StreamError),
    /// Too many sessions of one cluster speak at once.
    #[error("too many messages of this cluster wait")]
    Full,
    /// The hub ends.
    #[error("the federator is shutting down")]
    Over,
}

/// What a message costs, in resources that are looked at under the one lock.
pub(super) fn cost(state: &State, cluster: &ClusterName, said: &Heard) -> u64 {
    let resources = match said {
        Heard::Offer(part) => {
            // With the last part the whole change is taken; a full sync is compared with all that is held.
            let staged = if part.delta.more { 0 } else { state.catalog().staged(cluster) };
            let held = if part.delta.complete && !part.delta.more { state.catalog().held(cluster) } else { 0 };
            part.named() + staged + held
        }
        // Another filter looks at everything that is offered.
        Heard::Interest(namespaces) => namespaces.len() + usize::try_from(QUANTUM).unwrap_or(usize::MAX),
        Heard::Status(report) => report.source.errors.len() + report.waiting_for.len(),
        Heard::Ack(ack) => ack.refused.len(),
        Heard::Bundle(..) | Heard::Endpoints(_) | Heard::Heartbeat | Heard::Unexpected(_) => 0,
    };
    u64::try_from(resources).unwrap_or(u64::MAX).saturating_add(1)
}

impl Hub {
    /// Waits for the turn of the cluster, and has the message taken; `Some`: an offer.
    pub(super) async fn submit(
        self: &Arc<Self>,
        cluster: &ClusterName,
        id: SessionId,
        said: Heard,
    ) -> Result<Option<Taken>, Untaken> {
        let cost = self.with(|state| cost(state, cluster, &said));
        let (answer, taken) = oneshot::channel();
        let job = Job { id, said, answer };
        {
            let mut desk = self.desk.lock().unwrap_or_else(PoisonError::into_inner);
            desk.push(cluster, cost, job).map_err(|_job| Untaken::Full)?;
            self.count_waiting(desk.len());
        }
        self.work.notify_one();
        Ok(taken.await.map_err(|_ended| Untaken::Over)??)
    }

    /// Takes what waits, turn by turn, for as long as it is polled.
    pub(super) async fn take_turns(&self) {
        loop {
            let next = {
                let mut desk = self.desk.lock().unwrap_or_else(PoisonError::into_inner);
                let next = desk.pop();
                self.count_waiting(desk.len());
                next
            };
            let Some((cluster, cost, Job { id, said, answer })) = next else {
                self.work.notified().await;
                continue;
            };
            let label = ClusterLabel { cluster: cluster.to_string() };
            self.metrics.work.get_or_create(&label).inc_by(cost);
            // A reader that has ended wants no answer.
            let _gone = answer.send(self.hear(id, said));
            // The lock is free between two turns: those who only read and those who write views need it, too.
            tokio::task::yield_now().await;
        }
    }

    fn count_waiting(&self, waiting: usize) {
        self.metrics.waiting.set(i64::try_from(waiting).unwrap_or(i64::MAX));
    }

    fn hear(&self, id: SessionId, said: Heard) -> Result<Option<Taken>, StreamError> {
        let now = now();
        let changed = self.change(|state| {
            // While it waited, the session may have been fenced: nothing that it said counts then.
            if !state.is_current(id) {
                return Ok((None, false));
            }
            Ok(match said {
                Heard::Offer(part) => {
                    let taken = state.offer(id, *part, now)?;
                    let reached = taken.reached;
                    (Some(taken), reached)
                }
                Heard::Interest(namespaces) => {
                    state.interest(id, namespaces);
                    (None, false)
                }
                Heard::Status(report) => (None, state.report(id, *report)),
                Heard::Ack(ack) => {
                    state.acked(id, &ack);
                    (None, true)
                }
                Heard::Bundle(trust_domain, serial) => {
                    state.bundle_acked(id, trust_domain, serial);
                    (None, true)
                }
                Heard::Endpoints(_) | Heard::Heartbeat | Heard::Unexpected(_) => (None, false),
            })
        });
        let (taken, shown) = changed?;
        if shown {
            self.inputs.revisions.bump();
        }
        Ok(taken)
    }

    /// Makes durable what a change did to claims, counts what was refused, and says it.
    pub(super) async fn settle(
        &self,
        cluster: &ClusterName,
        taken: &Taken,
    ) -> Result<Settled, crate::fleet::ClaimError> {
        self.tell_refused(cluster, taken);
        let mut dropped = taken.removed.clone();
        if taken.complete {
            let label = ClusterLabel { cluster: cluster.to_string() };
            self.metrics.complete_offers.get_or_create(&label).inc();
            dropped = self.with(|s| s.catalog().idle_claims(cluster));
        }
        let mut claims = std::collections::BTreeMap::new();
        if !taken.added.is_empty() || !dropped.is_empty() {
            claims = self.inputs.claims.change(cluster, taken.added.clone(), dropped.clone()).await?;
        }
        if taken.claimed {
            self.keep_gateways().await?;
        }
        Ok(Settled { claims, dropped })
    }

    /// Makes durable what a session that was cut off had no time for: what it offered was taken, and nobody would say it
    /// again.
    pub(super) async fn catch_up(&self, cluster: &ClusterName) -> Result<(), crate::fleet::ClaimError> {
        let unclaimed = self.with(|state| state.catalog().unclaimed(cluster));
        if !unclaimed.is_empty() {
            let claims = self.inputs.claims.change(cluster, unclaimed, Vec::new()).await?;
            self.change(|state| state.claimed(cluster, claims, &[]));
        }
        self.keep_gateways().await
    }

    /// Makes durable who has which gateway address now.
    pub(super) async fn keep_gateways(&self) -> Result<(), crate::fleet::ClaimError> {
        // One at a time, each with what is so when its turn has come: the last one never writes what is old.
        let _turn = self.gateway_claims.lock().await;
        let owners = self.with(|state| state.catalog().gateway_owners().clone());
        self.inputs.claims.keep_gateways(owners).await
    }

    fn tell_refused(&self, cluster: &ClusterName, taken: &Taken) {
        for (code, count) in &taken.refused_by_code {
            let label = super::hub::RefusedLabel { cluster: cluster.to_string(), code: (*code).to_owned() };
            self.metrics.offer_refused.get_or_create(&label).inc_by(*count);
        }
        for refusal in taken.refused.iter().take(NAMED_MAX) {
            let (resource, class) = (&refusal.subject, refusal.class.as_str());
            tracing::warn!(%cluster, %resource, class, code = refusal.code, reason = refusal.message, "refused");
        }
        let all: u64 = taken.refused_by_code.values().sum();
        if all > NAMED_MAX as u64 {
            tracing::warn!(%cluster, refused = all, "more was refused than is named here; see the cluster's source errors");
        }
        if let Some(loss) = taken.held {
            self.metrics.held.get_or_create(&ClusterLabel { cluster: cluster.to_string() }).inc();
            let (lost, of) = (loss.lost, loss.of);
            tracing::warn!(%cluster, lost, of, "a full sync would take away most endpoints; held back for 30 s");
        }
    }
}

/// Refusals of one change that the log names.
const NAMED_MAX: usize = 16;

/// What a change did to the claims.
pub(super) struct Settled {
    pub(super) claims: std::collections::BTreeMap<meshfed_model::names::ServiceName, u64>,
    pub(super) dropped: Vec<meshfed_model::names::ServiceName>,
}
