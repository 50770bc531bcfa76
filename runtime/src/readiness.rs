//! Edge. Readiness as a set of named guards: ready when none is pending.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

/// The pending guards of a process.
#[derive(Debug, Clone)]
pub struct Readiness {
    pending: Arc<watch::Sender<BTreeMap<u64, String>>>,
}

/// Pending until dropped or [`ready`](Guard::ready).
#[derive(Debug)]
pub struct Guard {
    id: u64,
    pending: Arc<watch::Sender<BTreeMap<u64, String>>>,
}

impl Default for Readiness {
    fn default() -> Self {
        Self::new()
    }
}

impl Readiness {
    /// Ready: nothing is pending.
    #[must_use]
    pub fn new() -> Self {
        Self { pending: Arc::new(watch::Sender::new(BTreeMap::new())) }
    }
    /// Makes the process not ready until the guard is dropped.
    #[must_use]
    pub fn guard(&self, name: impl Into<String>) -> Guard {
        let name = name.into();
        let mut id = 0;
        self.pending.send_modify(|p| {
            id = p.last_key_value().map_or(0, |(last, _)| last + 1);
            p.insert(id, name);
        });
        Guard { id, pending: Arc::clone(&self.pending) }
    }
    /// The names of the pending guards, sorted.
    #[must_use]
    pub fn pending(&self) -> Vec<String> {
        let mut names: Vec<String> = self.pending.borrow().values().cloned().collect();
        names.sort();
        names
    }
    /// Comes back when what is pending has changed since it was last asked with the same receiver.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<BTreeMap<u64, String>> {
        self.pending.subscribe()
    }
    /// Whether nothing is pending.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.pending.borrow().is_empty()
    }
    /// Waits until nothing is pending.
    pub async fn wait_ready(&self) {
        let mut seen = self.pending.subscribe();
        // The sender lives in `self`, so this only ends with the condition.
        let _always = seen.wait_for(BTreeMap::is_empty).await;
    }
}

impl Guard {
    /// What it guarded has come.
    pub fn ready(self) {}
}
impl Drop for Guard {
    fn drop(&mut self) {
        self.pending.send_modify(|p| {
            p.remove(&self.id);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mutation seen to fail: `id` constant 0 (the second guard then hides the first).
    #[tokio::test]
    async fn ready_when_the_last_guard_is_gone() {
        let r = Readiness::new();
        let b = r.guard("store");
        let a = r.guard("grpc");
        assert_eq!(r.pending(), ["grpc", "store"]);
        a.ready();
        assert!(!r.is_ready());
        let waiter = {
            let r = r.clone();
            crate::tasks::spawn("waiter", async move { r.wait_ready().await })
        };
        drop(b);
        waiter.await.unwrap();
        assert!(r.is_ready());
    }
}
