//! Pure. Which users own which service accounts: what a process is without saying so.

use std::collections::BTreeMap;
use std::sync::Arc;

use meshfed_model::names::Namespace;

type Account = (Namespace, Arc<str>);

/// Workloads counted by the user that their annotation names (`None`: none) and their service account.
#[derive(Debug, Default)]
pub(super) struct Owners {
    by_uid: BTreeMap<Option<u32>, BTreeMap<Account, usize>>,
}

impl Owners {
    /// One workload more; whether the account is new to the user.
    pub(super) fn add(&mut self, uid: Option<u32>, account: &Account) -> bool {
        let count = self.by_uid.entry(uid).or_default().entry(account.clone()).or_default();
        *count += 1;
        *count == 1
    }

    /// One workload less; whether the user has lost the account.
    pub(super) fn remove(&mut self, uid: Option<u32>, account: &Account) -> bool {
        let Some(accounts) = self.by_uid.get_mut(&uid) else { return false };
        let Some(count) = accounts.get_mut(account) else { return false };
        *count -= 1;
        if *count > 0 {
            return false;
        }
        accounts.remove(account);
        if accounts.is_empty() {
            self.by_uid.remove(&uid);
        }
        true
    }

    /// The accounts of a user, by name.
    pub(super) fn of(&self, uid: Option<u32>) -> impl Iterator<Item = &Account> {
        self.by_uid.get(&uid).into_iter().flat_map(BTreeMap::keys)
    }

    /// All accounts, by user and name.
    pub(super) fn all(&self) -> impl Iterator<Item = &Account> {
        self.by_uid.values().flat_map(BTreeMap::keys)
    }
}
