//! Edge. A cluster leaves by its own wish: first no traffic is sent to it any more, then it is no member.

use jiff::Timestamp;
use meshfed_model::names::ClusterName;
use meshfed_runtime::clock;

use super::record::{AuditRecord, MemberRecord, StoredState, audit_key, member_key};
use super::refusal::Refusal;
use super::registry::Registry;
use crate::store::handle;
use crate::store::{Store, StoreError, Table, Transaction};

/// How often a transaction that another one overtook is decided anew.
const ATTEMPTS: usize = 5;

/// How far a cluster goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// It is a member to which nothing is sent.
    Drain,
    /// It is no member.
    Leave,
}

impl Registry {
    /// Takes a step of a cluster's leave, durable when it returns; again it changes nothing. `binding` is the one that the
    /// caller has proved: a cluster that took its place is not sent away with it.
    ///
    /// # Errors
    /// [`Refusal`]; nothing was changed then.
    pub(super) async fn leave(&self, cluster: &ClusterName, binding: u64, step: Step) -> Result<StoredState, Refusal> {
        for _ in 0..ATTEMPTS {
            let name = cluster.clone();
            let now = clock::to_timestamp(self.clock.now()?);
            let done = self.store.run(move |store| Ok(take(store, &name, binding, step, now))).await?;
            match done {
                Err(Refusal::Store(StoreError::Conflict { .. })) => {}
                Err(refusal) => return Err(refusal),
                Ok(state) => {
                    self.publish_later().await?;
                    return Ok(state);
                }
            }
        }
        Err(Refusal::Limited)
    }
}

/// Reads, decides and commits one step.
fn take(
    store: &dyn Store,
    cluster: &ClusterName,
    binding: u64,
    step: Step,
    now: Timestamp,
) -> Result<StoredState, Refusal> {
    let found: Option<(MemberRecord, u64)> = handle::get(store, Table::Members, &member_key(cluster))?;
    let (mut member, revision) = found
        .filter(|(member, _)| member.binding == binding)
        .ok_or(Refusal::Renewal { reason: "no member of that name and binding" })?;
    let before = (member.state, member.drained);
    match (member.state, step) {
        (StoredState::Active, Step::Drain) => member.drained = true,
        (StoredState::Active, Step::Leave) => member.state = StoredState::Left,
        (StoredState::Left | StoredState::Evicted, _) => {}
    }
    if (member.state, member.drained) == before {
        return Ok(member.state);
    }
    let (kind, detail) = match step {
        Step::Drain => ("ClusterDraining", "the cluster leaves: nothing is sent to it any more"),
        Step::Leave => ("ClusterLeft", "the cluster left by its own wish; a new join needs a new token"),
    };
    let audit = AuditRecord {
        at: now,
        actor: format!("cluster:{cluster}"),
        kind: kind.to_owned(),
        cluster: cluster.clone(),
        detail: detail.to_owned(),
    };
    let unique = format!("{cluster}-{kind}-{binding}");
    let transaction = Transaction::new()
        .replace(Table::Members, member_key(cluster), Some(revision), handle::bytes(Table::Members, &member)?)
        .put(Table::Audit, audit_key(now, &unique), handle::bytes(Table::Audit, &audit)?);
    store.commit(&transaction)?;
    tracing::info!(%cluster, "{detail}");
    Ok(member.state)
}
