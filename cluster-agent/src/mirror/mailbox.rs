//! Edge. What the core says of names, on its way to the mirror: the latest per name, so that a mirror that waits for its
//! API server costs no queue.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use meshfed_model::names::ServiceName;
use tokio::sync::Notify;

use super::facts::Facts;

#[derive(Debug, Default)]
struct Said {
    facts: BTreeMap<ServiceName, Arc<Facts>>,
    changed: BTreeSet<ServiceName>,
    whole: bool,
    current: bool,
}

/// Both ends of the mailbox.
#[derive(Debug, Clone, Default)]
pub struct Mailbox(Arc<(Mutex<Said>, Notify)>);

impl Mailbox {
    fn lock(&self) -> MutexGuard<'_, Said> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of a name now.
    pub fn say(&self, name: ServiceName, facts: Facts) {
        {
            let mut said = self.lock();
            let same = match said.facts.get(&name) {
                Some(before) => **before == facts,
                None => facts.is_empty(),
            };
            if same {
                return;
            }
            if facts.is_empty() {
                said.facts.remove(&name);
            } else {
                said.facts.insert(name.clone(), Arc::new(facts));
            }
            said.changed.insert(name);
        }
        self.0.1.notify_one();
    }

    /// Whether all is known that there is: source and view. Before that, nothing is written and nothing taken away.
    /// `current`: also what other agents of the cluster may have written by.
    pub fn set_whole(&self, whole: bool, current: bool) {
        let before = {
            let mut said = self.lock();
            (std::mem::replace(&mut said.whole, whole), std::mem::replace(&mut said.current, current))
        };
        if before != (whole, current) {
            self.0.1.notify_one();
        }
    }

    /// What is known of a name.
    pub(super) fn facts(&self, name: &ServiceName) -> Arc<Facts> {
        self.lock().facts.get(name).cloned().unwrap_or_default()
    }
    /// All names of which something is known.
    pub(super) fn names(&self) -> BTreeSet<ServiceName> {
        self.lock().facts.keys().cloned().collect()
    }
    /// The names of which something else is known since the last call.
    pub(super) fn take_changed(&self) -> BTreeSet<ServiceName> {
        std::mem::take(&mut self.lock().changed)
    }
    /// Whether all is known that there is.
    pub(super) fn is_whole(&self) -> bool {
        self.lock().whole
    }
    /// Whether all is known, and nothing that another agent may have written by is still to be heard.
    pub(super) fn is_current(&self) -> bool {
        let said = self.lock();
        said.whole && said.current
    }
    /// Waits for something new.
    pub(super) async fn news(&self) {
        self.0.1.notified().await;
    }
}
