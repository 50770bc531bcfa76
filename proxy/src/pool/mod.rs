//! Edge. The connections of one core to the endpoints of its clusters: kept while idle, never shared between cores.

mod cluster;
mod connect;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;

use crate::state::ClusterCell;

pub use cluster::{ClusterPool, Slot, Upstream};
pub use connect::{ConnectError, connect, end_when_unheard};

/// Ticks (quarter seconds) after which an idle connection is closed: below the 60 s after which peers of ours and most
/// servers close theirs, so that we rarely lose that race.
pub const IDLE_TICKS: u32 = 55 * 4;
/// Idle connections kept per endpoint and core.
pub const IDLE_MAX: usize = 512;
/// How long an endpoint that could not be connected to is passed over while others are usable, in milliseconds.
pub const FAILING_MILLISECONDS: u64 = 1_000;

/// All clusters that this core has sent something to.
#[derive(Debug, Default)]
pub struct Clusters {
    /// By the address of the cell, which each pool keeps alive.
    pools: RefCell<HashMap<usize, Rc<ClusterPool>>>,
    /// Changes with our identity and with the bundles: connections of before are not used again.
    trust_epoch: Cell<u64>,
}

impl Clusters {
    /// The pool of a cluster, with the cluster's present endpoints; `None` while the cluster is not known.
    pub fn pool(&self, cell: &Arc<ClusterCell>) -> Option<Rc<ClusterPool>> {
        let key = Arc::as_ptr(cell) as usize;
        let known = self.pools.borrow().get(&key).cloned();
        let pool = match known {
            Some(pool) => pool,
            None => {
                let pool = Rc::new(ClusterPool::new(Arc::clone(cell)));
                self.pools.borrow_mut().insert(key, Rc::clone(&pool));
                pool
            }
        };
        pool.refresh().then_some(pool)
    }
    /// The number of the present identity and bundles.
    #[must_use]
    pub fn trust_epoch(&self) -> u64 {
        self.trust_epoch.get()
    }
    /// Our identity or a bundle changed: idle connections are closed, others are not kept after their exchange.
    pub fn trust_changed(&self) {
        self.trust_epoch.set(self.trust_epoch.get() + 1);
        self.pools.borrow().values().for_each(|p| p.close_idle());
    }
    /// Closes what was idle too long or was closed by its peer, and forgets clusters that are gone.
    pub fn sweep(&self, now: u32, cx: &mut Context<'_>) {
        self.pools.borrow_mut().retain(|_, pool| {
            let known = pool.refresh();
            pool.sweep(now, cx);
            known || Rc::strong_count(pool) > 1
        });
    }
    /// Closes all idle connections (drain).
    pub fn close_idle(&self) {
        self.pools.borrow().values().for_each(|p| p.close_idle());
    }
}
