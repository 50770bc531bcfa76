//! Pure. Certificates of proxies: one per workload, renewed while somebody reads it.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use meshfed_model::identity::{Principal, SpiffeId};
use meshfed_model::metadata::WorkloadMetadata;
use meshfed_model::names::Namespace;
use meshfed_runtime::steady::ClockJump;

use super::Core;
use super::store::Scope;
use crate::identity::{AuthorityError, Issued};
use crate::index::{Workload, WorkloadKey};
use crate::translate::secrets;

/// Pause before a certificate that could not be issued is tried again.
const ISSUE_PAUSE: Duration = Duration::from_secs(5);

/// Issues, unless the clock is not to be trusted.
pub(super) fn issue(
    authority: &crate::identity::Authority,
    jump: Option<ClockJump>,
    id: &SpiffeId,
    metadata: Option<&WorkloadMetadata>,
    wall: SystemTime,
) -> Result<Issued, AuthorityError> {
    match jump {
        Some(jump) => Err(AuthorityError::Clock(jump)),
        None => authority.issue(id, metadata, wall),
    }
}

impl Core {
    /// Whether the wall clock has jumped: then nothing is issued, and what was issued goes on (CA8).
    pub const fn set_clock_jump(&mut self, jump: Option<ClockJump>) {
        self.clock_jump = jump;
    }

    /// A certificate for a workload that has made its key itself. With `named`, only where an object names such a
    /// workload: what is known without the API server.
    ///
    /// # Errors
    /// Why there is none, for people.
    pub fn certify(
        &mut self,
        id: &SpiffeId,
        metadata: Option<&WorkloadMetadata>,
        key: &[u8],
        named: bool,
        wall: SystemTime,
    ) -> Result<Vec<u8>, String> {
        if let Some(jump) = self.clock_jump {
            return Err(AuthorityError::Clock(jump).to_string());
        }
        let is_named = |account: &(Namespace, Arc<str>)| match &id.principal {
            Principal::Workload { namespace, service_account } => {
                (namespace, &**service_account) == (&account.0, &*account.1)
            }
            Principal::Agent { .. } | Principal::Federator { .. } => false,
        };
        if named && !self.index.accounts_of_all().any(is_named) {
            return Err(format!("no pod or WorkloadEntry of this cluster is {id}"));
        }
        let certificate = self.authority.certify(id, metadata, key, wall).map_err(|e| {
            let cause = std::error::Error::source(&e).map(|cause| format!(": {cause}")).unwrap_or_default();
            format!("{e}{cause}")
        })?;
        self.effects.issued += 1;
        Ok(certificate)
    }

    /// A certificate for the workload, where it has none that lasts.
    pub(super) fn ensure_certificate(
        &mut self,
        workload: &Workload,
        now: Instant,
        wall: SystemTime,
    ) -> Result<(), String> {
        if self.renewals.get(&workload.key).is_some_and(|t| *t > now) {
            return Ok(());
        }
        // A WorkloadEntry has no owner: it is called by its service account.
        let metadata = WorkloadMetadata::of(&workload.service_account, |key| workload.labels.get(key));
        let issued =
            issue(&self.authority, self.clock_jump, &workload.identity, Some(&metadata), wall).map_err(|e| {
                let cause = std::error::Error::source(&e).map(|cause| format!(": {cause}")).unwrap_or_default();
                format!("{e}{cause}")
            })?;
        self.effects.issued += 1;
        let scope = Scope::Workload(workload.key.clone());
        self.store.put(&scope, secrets::default(&issued.chain_pem(), &issued.key_pem()));
        self.renewals.insert(workload.key.clone(), now + self.authority.renew_after());
        Ok(())
    }

    pub(super) fn renew(&mut self, now: Instant, wall: SystemTime) {
        let due: Vec<WorkloadKey> = self.renewals.iter().filter(|(_, t)| **t <= now).map(|(k, _)| k.clone()).collect();
        for key in due {
            let scope = Scope::Workload(key.clone());
            match self.index.workload_by_key(&key).cloned() {
                Some(workload) if self.store.is_read(&scope) => {
                    if let Err(error) = self.ensure_certificate(&workload, now, wall) {
                        tracing::error!(workload = %key, error, "a certificate could not be renewed; trying again");
                        self.renewals.insert(key, now + ISSUE_PAUSE);
                    }
                }
                Some(_) | None => {
                    self.renewals.remove(&key);
                    self.store.drop_scope(&scope);
                }
            }
        }
    }
}
