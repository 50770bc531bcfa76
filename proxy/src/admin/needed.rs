//! Edge. Whether a gateway on Kubernetes is ready while it has no anchors.
//!
//! Before its cluster has joined it is, or no release of it would ever be. Once the cluster has joined, the anchors are in a
//! ConfigMap that the pod mounts, and the kubelet looks at the volumes of a pod that runs when something of the pod has
//! changed, and else within a minute and a half. What a pod itself can change is whether it is ready (the kubelet then
//! syncs the pod, `HandlePodSyncs`): so it says that it is not, and that it is, in turns, until they are there.
//!
//! After its cluster has left it is ready, too: the anchors may be there from before, and there is nothing to serve.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::watch;

/// Answers of one turn: as many failures as make a container unready (`failureThreshold` is 3), and one success.
const TURN: u32 = 4;
/// Answers in turns; by then the kubelet has looked by itself, and what is missing is missing for another reason.
const ASKED_MAX: u32 = 10 * TURN;

/// A file without which there is nothing to be ready for.
#[derive(Debug, Clone)]
pub struct Needed {
    file: PathBuf,
    /// Whether the cluster has joined, and the file alone is missing.
    joined: watch::Receiver<bool>,
    /// Whether the cluster has left its fleet.
    left: watch::Receiver<bool>,
    /// How often it was asked since.
    asked: Arc<AtomicU32>,
}

impl Needed {
    /// A file that comes after `joined` is told.
    #[must_use]
    pub fn new(file: PathBuf, joined: watch::Receiver<bool>, left: watch::Receiver<bool>) -> Self {
        Self { file, joined, left, asked: Arc::default() }
    }

    /// Whether to say that it is ready, and why; `None`: the file is there, and other things decide.
    pub(super) fn missing(&self) -> Option<(bool, &'static str)> {
        if *self.left.borrow() {
            return Some((true, "this cluster has left its fleet: nothing new is served until it has joined again\n"));
        }
        if self.file.exists() {
            return None;
        }
        if !*self.joined.borrow() {
            self.asked.store(0, Ordering::Relaxed);
            return Some((true, "this cluster has not joined: nothing is served yet\n"));
        }
        let asked = self.asked.load(Ordering::Relaxed);
        self.asked.store(asked.saturating_add(1), Ordering::Relaxed);
        let ready = asked < ASKED_MAX && asked % TURN == TURN - 1;
        Some((ready, "this cluster has joined, and ConfigMap meshfed-trust is not yet in the volume of this pod\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ready before the join; after it unready for long enough that the kubelet notices, and ready again, so that it looks
    /// once more; at last unready, since something else is wrong.
    ///
    /// Mutations seen to fail: `TURN` = 1; `asked < ASKED_MAX` left out; the count not set back before the join; `left`
    /// not asked.
    #[test]
    fn a_gateway_without_anchors_changes_its_readiness_once_its_cluster_has_joined() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("anchors.pem");
        let (joined, seen) = watch::channel(false);
        let (left, has_left) = watch::channel(false);
        let needed = Needed::new(file.clone(), seen, has_left);
        let answers = |count: usize| -> Vec<bool> { (0..count).map(|_| needed.missing().unwrap().0).collect() };
        assert_eq!(answers(5), [true; 5]);
        joined.send_replace(true);
        assert_eq!(answers(8), [false, false, false, true, false, false, false, true]);
        assert_eq!(answers(100).iter().rposition(|ready| *ready), Some(31));
        joined.send_replace(false);
        assert_eq!(answers(2), [true; 2]);
        joined.send_replace(true);
        assert_eq!(answers(4), [false, false, false, true]);
        std::fs::write(file, "").unwrap();
        assert_eq!(needed.missing(), None);
        left.send_replace(true);
        assert!(needed.missing().unwrap().0, "anchors of before are no reason to wait");
        left.send_replace(false);
        assert_eq!(needed.missing(), None);
    }
}
