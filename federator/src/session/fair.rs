//! Pure. Whose turn it is: deficit round robin over one queue per cluster (INV-10).
//!
//! Work is paid for before it is done: in each round a cluster earns [`QUANTUM`], and a piece of work begins when its
//! cost is together. Whoever floods the hub waits behind its own work; another cluster waits for at most one round.

use std::collections::{BTreeMap, VecDeque};

use meshfed_api::stream::PART_RESOURCES_MAX;

/// What a cluster earns in one round: what a full part of an offer costs, so that none waits for a second round.
pub(super) const QUANTUM: u64 = PART_RESOURCES_MAX as u64 + 1;
/// Pieces of work of one cluster that wait. Each session has one at a time, so only a cluster with many replicas
/// comes near.
pub(super) const WAITING_MAX: usize = 16;

#[derive(Debug)]
struct Queue<T> {
    waiting: VecDeque<(u64, T)>,
    credit: u64,
}

/// Work by cluster. A cluster that has none is forgotten with its credit.
#[derive(Debug)]
pub(super) struct Fair<K, T> {
    queues: BTreeMap<K, Queue<T>>,
    turns: VecDeque<K>,
}

impl<K: Ord + Clone, T> Fair<K, T> {
    pub(super) const fn new() -> Self {
        Self { queues: BTreeMap::new(), turns: VecDeque::new() }
    }

    /// Lets work wait for its turn.
    ///
    /// # Errors
    /// The work itself, when too much of this cluster waits.
    pub(super) fn push(&mut self, key: &K, cost: u64, work: T) -> Result<(), T> {
        if let Some(queue) = self.queues.get_mut(key) {
            if queue.waiting.len() >= WAITING_MAX {
                return Err(work);
            }
            queue.waiting.push_back((cost, work));
            return Ok(());
        }
        self.queues.insert(key.clone(), Queue { waiting: VecDeque::from([(cost, work)]), credit: 0 });
        self.turns.push_back(key.clone());
        Ok(())
    }

    /// The next work to be done, and what it costs.
    pub(super) fn pop(&mut self) -> Option<(K, u64, T)> {
        loop {
            let key = self.turns.front()?.clone();
            let Some(queue) = self.queues.get_mut(&key) else {
                self.turns.pop_front();
                continue;
            };
            let affordable = queue.waiting.front().is_none_or(|(cost, _)| *cost <= queue.credit);
            if !affordable {
                queue.credit = queue.credit.saturating_add(QUANTUM);
                self.turns.rotate_left(1);
                continue;
            }
            let next = queue.waiting.pop_front();
            queue.credit -= next.as_ref().map_or(0, |(cost, _)| *cost);
            if queue.waiting.is_empty() {
                self.queues.remove(&key);
                self.turns.pop_front();
            }
            if let Some((cost, work)) = next {
                return Some((key, cost, work));
            }
        }
    }

    /// Pieces of work that wait.
    pub(super) fn len(&self) -> usize {
        self.queues.values().map(|q| q.waiting.len()).sum()
    }
}
