//! Edge. What people say of a member while it is one: its labels. They bind nobody to anything: they choose what it sees, and
//! who declares them is who gives out tokens.

use std::collections::BTreeMap;

use jiff::Timestamp;
use meshfed_model::names::ClusterName;
use meshfed_runtime::clock;

use super::record::{AuditRecord, MemberRecord, StoredState, audit_key, member_key};
use super::registry::Registry;
use crate::fleet::{Labels, LabelsError};
use crate::store::handle;
use crate::store::{Store, StoreError, Table, Transaction};

/// How often a transaction that another one overtook is decided anew.
const ATTEMPTS: usize = 5;

#[tonic::async_trait]
impl Labels for Registry {
    async fn label(
        &self,
        cluster: &ClusterName,
        binding: u64,
        labels: BTreeMap<String, String>,
    ) -> Result<(), LabelsError> {
        let failed = |error: StoreError| LabelsError { reason: meshfed_runtime::telemetry::chain(&error) };
        for _ in 0..ATTEMPTS {
            let (name, labels, now) = (cluster.clone(), labels.clone(), clock::timestamp());
            let done =
                self.store.run(move |store| Ok(take(store, &name, binding, labels, now))).await.map_err(failed)?;
            match done {
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(failed(error)),
                Ok(false) => return Ok(()),
                Ok(true) => return self.publish_later().await.map_err(failed),
            }
        }
        Err(LabelsError { reason: "others change the member at the same time; it is tried again".to_owned() })
    }
}

/// Reads, decides and commits. False: nothing is to be changed.
fn take(
    store: &dyn Store,
    cluster: &ClusterName,
    binding: u64,
    labels: BTreeMap<String, String>,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let found: Option<(MemberRecord, u64)> = handle::get(store, Table::Members, &member_key(cluster))?;
    let is_meant = |member: &MemberRecord| member.binding == binding && member.state == StoredState::Active;
    let Some((mut member, revision)) = found.filter(|(member, _)| is_meant(member)) else { return Ok(false) };
    if member.grant.labels == labels {
        return Ok(false);
    }
    member.grant.labels = labels;
    let audit = AuditRecord {
        at: now,
        actor: "object:Cluster".to_owned(),
        kind: "ClusterLabelled".to_owned(),
        cluster: cluster.clone(),
        detail: format!("its Cluster gives it {} labels", member.grant.labels.len()),
    };
    let unique = format!("{cluster}-ClusterLabelled-{revision}");
    let transaction = Transaction::new()
        .replace(Table::Members, member_key(cluster), Some(revision), handle::bytes(Table::Members, &member)?)
        .put(Table::Audit, audit_key(now, &unique), handle::bytes(Table::Audit, &audit)?);
    store.commit(&transaction)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::super::record::Grant;
    use super::*;
    use crate::store::memory::MemoryStore;

    /// Labels are those of the binding that was meant, of a member that is there, and written once.
    ///
    /// Mutation seen to fail: the binding not compared.
    #[test]
    fn labels_are_given_to_the_member_that_was_meant() {
        let store = MemoryStore::default();
        let east: ClusterName = "east".parse().unwrap();
        let member = MemberRecord {
            grant: Grant {
                cluster: east.clone(),
                networks: Vec::new(),
                gateway_cidrs: std::collections::BTreeSet::new(),
                regions: std::collections::BTreeSet::new(),
                zones: std::collections::BTreeSet::new(),
                labels: BTreeMap::new(),
                replace: false,
            },
            state: StoredState::Active,
            drained: false,
            joined_at: Timestamp::UNIX_EPOCH,
            binding: 2,
            ca_spki: Vec::new(),
            token: "t".to_owned(),
        };
        let write = |member: &MemberRecord, state: StoredState| {
            let member = MemberRecord { state, ..member.clone() };
            let bytes = handle::bytes(Table::Members, &member).unwrap();
            store.commit(&Transaction::new().put(Table::Members, member_key(&east), bytes)).unwrap();
        };
        write(&member, StoredState::Active);
        let labels: BTreeMap<String, String> = [("tier".to_owned(), "one".to_owned())].into();
        let give = |binding| take(&store, &east, binding, labels.clone(), Timestamp::UNIX_EPOCH).unwrap();
        let held = || {
            let found: Option<(MemberRecord, u64)> = handle::get(&store, Table::Members, &member_key(&east)).unwrap();
            found.unwrap().0.grant.labels
        };
        assert!(!give(1) && held().is_empty(), "an earlier binding");
        assert!(give(2) && held() == labels && !give(2), "once");
        write(&member, StoredState::Left);
        assert!(!give(2) && held().is_empty(), "no member");
    }
}
