//! Edge. Kinds that this agent needs and the API server does not serve, for whoever shows them.

use std::collections::BTreeSet;

use tokio::sync::watch;

/// What is shared by those that watch kinds, each of them others.
#[derive(Debug, Clone)]
pub struct Unserved(watch::Sender<BTreeSet<String>>);

impl Default for Unserved {
    fn default() -> Self {
        Self(watch::Sender::new(BTreeSet::new()))
    }
}

impl Unserved {
    /// Says of one kind whether it lacks.
    pub fn set(&self, kind: &str, api_version: &str, lacks: bool) {
        let name = format!("{kind} ({api_version})");
        self.0.send_if_modified(|all| if lacks { all.insert(name) } else { all.remove(&name) });
    }

    /// The kinds that lack, each as `Kind (group/version)`.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<BTreeSet<String>> {
        self.0.subscribe()
    }
}
