//! Edge. One lane per cluster for what its agents have signed (CA9): one at a time, so that a flood of one cluster takes
//! its own turns only, and so many per second.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use meshfed_model::names::ClusterName;
use meshfed_runtime::rate::{Bucket, Rate};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// 500 at once, and one a second after that: 16 replicas renew twice an hour each. What is issued is kept until it
/// ends, an hour at most, so a cluster can make us keep 500 + 3600 records.
const RATE: Rate = Rate { per_second: 1.0, burst: 500.0 };
/// Renewals of one cluster that may wait for their turn.
const WAITING_MAX: usize = 64;

struct Lane {
    bucket: Bucket,
    turn: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
}

/// The lanes; as many as there are members.
#[derive(Default)]
pub(super) struct Lanes(Mutex<BTreeMap<ClusterName, Lane>>);

/// A turn; the next one of the cluster comes when it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    _turn: OwnedSemaphorePermit,
    _place: OwnedSemaphorePermit,
}

impl Lanes {
    /// Waits for the cluster's turn; none: it asks too often. Only for live members, so that lanes do not outnumber them.
    pub(super) async fn turn(&self, cluster: &ClusterName, now: Instant) -> Option<Turn> {
        let (turn, place) = {
            let mut lanes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let lane = lanes.entry(cluster.clone()).or_insert_with(|| Lane {
                bucket: Bucket::default(),
                turn: Arc::new(Semaphore::new(1)),
                waiting: Arc::new(Semaphore::new(WAITING_MAX)),
            });
            let place = Arc::clone(&lane.waiting).try_acquire_owned().ok()?;
            if !lane.bucket.take(RATE, now) {
                return None;
            }
            (Arc::clone(&lane.turn), place)
        };
        // First come, first served; the semaphore is never closed.
        let turn = turn.acquire_owned().await.ok()?;
        Some(Turn { _turn: turn, _place: place })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::FutureExt as _;
    use meshfed_runtime::clock;

    use super::*;

    /// Mutation seen to fail: one lane for all clusters; `bucket.take` left out; the turn's semaphore with two permits.
    #[tokio::test]
    async fn each_cluster_has_its_own_lane() {
        let (lanes, now) = (Lanes::default(), clock::instant());
        let [east, west] = ["east", "west"].map(|name| ClusterName::new(name).unwrap());
        let held = lanes.turn(&east, now).await.unwrap();
        let mut second = Box::pin(lanes.turn(&east, now));
        assert!(second.as_mut().now_or_never().is_none(), "one at a time");
        assert!(lanes.turn(&west, now).now_or_never().flatten().is_some(), "another cluster does not wait");
        drop(held);
        assert!(second.await.is_some());
        let mut given = 0;
        for _ in 0..1000 {
            given += usize::from(lanes.turn(&east, now).await.is_some());
        }
        assert_eq!(given, 498, "500 at once");
        assert!(lanes.turn(&east, now + Duration::from_secs(1)).await.is_some());
        let first = lanes.turn(&west, now).await.unwrap();
        let mut more: Vec<_> = (0..200).map(|_| Box::pin(lanes.turn(&west, now))).collect();
        let waiting = more.iter_mut().filter_map(|turn| turn.as_mut().now_or_never()).filter(Option::is_none).count();
        assert_eq!(waiting, 200 - (WAITING_MAX - 1), "the others are turned away at once");
        drop(first);
    }
}
