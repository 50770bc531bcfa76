//! Pure. What a process is by its user alone (`contracts.md` 1.7): the rule of [`super::attest`], asked the other way
//! round, for those who claim nothing.

use std::collections::BTreeSet;
use std::sync::Arc;

use meshfed_model::identity::SpiffeId;
use meshfed_model::names::Namespace;

use crate::index::Index;

/// The identities of a user.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entitled {
    /// `NAMESPACE/SERVICE_ACCOUNT` and identity, the default first: those whose annotation names the user, then those
    /// that belong to the agent's user, then, for root, all others; each by namespace and name.
    pub identities: Vec<(Arc<str>, SpiffeId)>,
    /// Whether there are more than were asked for.
    pub more: bool,
}

/// At most `max` identities of a user.
#[must_use]
pub fn entitled(index: &Index, uid: u32, agent_uid: u32, max: usize) -> Entitled {
    let named = index.accounts_of(Some(uid));
    let unnamed = (uid == agent_uid).then(|| index.accounts_of(None)).into_iter().flatten();
    let others = (uid == 0).then(|| index.accounts_of_all()).into_iter().flatten();
    let mut seen: BTreeSet<&(Namespace, Arc<str>)> = BTreeSet::new();
    let mut found = Entitled::default();
    for account in named.chain(unnamed).chain(others) {
        if !seen.insert(account) {
            continue;
        }
        if found.identities.len() == max {
            found.more = true;
            break;
        }
        let (namespace, name) = account;
        // The index holds only accounts of which an identity can be made.
        let domain = index.settings().trust_domain.clone();
        let Ok(id) = SpiffeId::workload(domain, namespace.clone(), name) else { continue };
        found.identities.push((format!("{namespace}/{name}").into(), id));
    }
    found
}
