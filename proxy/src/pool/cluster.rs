//! Edge. The pool of one cluster on one core.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Context;

use super::{FAILING_MILLISECONDS, IDLE_MAX, IDLE_TICKS};
use crate::balance::{self, TURNS_MAX};
use crate::state::{Cluster, ClusterCell, ClusterCounters, Endpoint, EndpointSet};
use crate::telemetry::Series;
use crate::tls::Stream;

/// Counts an open connection of a cluster for the whole process.
#[derive(Debug)]
struct Counted(Arc<ClusterCounters>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection to an endpoint.
#[derive(Debug)]
pub struct Upstream {
    /// The connection.
    pub stream: Stream,
    /// The request counters between us and whom it leads to; set once the parties are known.
    pub series: Option<Rc<Series>>,
    /// Whether it served a request before.
    pub reused: bool,
    /// Where it leads to.
    pub address: SocketAddr,
    epoch: u64,
    since: u32,
    _counted: Counted,
}

impl Upstream {
    /// A new connection of `cluster`.
    #[must_use]
    pub fn new(stream: Stream, address: SocketAddr, cluster: &Cluster, epoch: u64) -> Self {
        cluster.counters.connections.fetch_add(1, Ordering::Relaxed);
        let _counted = Counted(Arc::clone(&cluster.counters));
        Self { stream, series: None, reused: false, address, epoch, since: 0, _counted }
    }
}

/// The place of one endpoint. It outlives versions of the assignment as long as address and transport stay the same.
#[derive(Debug)]
pub struct Slot {
    endpoint: RefCell<Arc<Endpoint>>,
    idle: RefCell<VecDeque<Upstream>>,
    retired: Cell<bool>,
}

impl Slot {
    fn new(endpoint: Arc<Endpoint>) -> Self {
        Self { endpoint: RefCell::new(endpoint), idle: RefCell::default(), retired: Cell::new(false) }
    }
    /// The endpoint as it is now.
    #[must_use]
    pub fn endpoint(&self) -> Arc<Endpoint> {
        Arc::clone(&self.endpoint.borrow())
    }
    /// The address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.endpoint.borrow().address
    }
    /// Whether a connect to it failed a moment ago, on any core.
    #[must_use]
    pub fn is_failing(&self, now: u64) -> bool {
        self.endpoint.borrow().counters.failing_until.load(Ordering::Relaxed) > now
    }
    /// Whether the endpoint may be used now. Of one that failed a moment ago a single request finds out, for all cores, how
    /// it is: the others would all have to be tried again.
    fn claim(&self, now: u64) -> bool {
        let counters = Arc::clone(&self.endpoint.borrow().counters);
        let until = counters.failing_until.load(Ordering::Relaxed);
        let next = now + FAILING_MILLISECONDS;
        until == 0 || counters.failing_until.compare_exchange(until, next, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
    /// It answered: nobody needs to find out.
    pub fn answered(&self) {
        let endpoint = self.endpoint.borrow();
        if endpoint.counters.failing_until.load(Ordering::Relaxed) != 0 {
            tracing::debug!(endpoint = %endpoint.address, "an endpoint that failed has answered: it is used again");
            endpoint.counters.failing_until.store(0, Ordering::Relaxed);
        }
    }
    /// An idle connection that is still good.
    pub fn checkout(&self, epoch: u64, cx: &mut Context<'_>) -> Option<Upstream> {
        loop {
            // The one used last: the others may age and be closed.
            let mut upstream = self.idle.borrow_mut().pop_back()?;
            if upstream.epoch == epoch && upstream.stream.is_quiet(cx) {
                upstream.reused = true;
                return Some(upstream);
            }
        }
    }
    /// Takes a connection back after a complete exchange.
    pub fn give_back(&self, mut upstream: Upstream, epoch: u64, now: u32) {
        let mut idle = self.idle.borrow_mut();
        if !self.retired.get() && upstream.epoch == epoch && idle.len() < IDLE_MAX {
            upstream.since = now;
            idle.push_back(upstream);
        }
    }
}

#[derive(Debug)]
struct Group {
    slots: Vec<Rc<Slot>>,
    /// The state of the turns.
    current: Vec<i64>,
    /// The client that asked last and its place, were all usable: most often one client asks, and again and again.
    last: Option<(IpAddr, usize)>,
}

#[derive(Debug, Default)]
struct Version {
    cluster: Option<Arc<Cluster>>,
    groups: Vec<Group>,
}

/// The connections of one core to one cluster.
#[derive(Debug)]
pub struct ClusterPool {
    cell: Arc<ClusterCell>,
    version: RefCell<Version>,
}

impl ClusterPool {
    pub(super) fn new(cell: Arc<ClusterCell>) -> Self {
        Self { cell, version: RefCell::default() }
    }

    /// The pool of one address that is in no assignment, for a cluster whose connections go where they were meant to.
    #[must_use]
    pub fn of_one(cluster: &Cluster, address: SocketAddr) -> Self {
        let endpoint = Arc::new(Endpoint::unlisted(cluster, address));
        let endpoints = EndpointSet::new(BTreeMap::from([(0, vec![endpoint])]), 1);
        let cell = ClusterCell::new(Arc::clone(&cluster.name));
        cell.set(Some(Arc::new(cluster.with_endpoints(Arc::new(endpoints)))));
        let pool = Self::new(Arc::new(cell));
        let _known = pool.refresh();
        pool
    }

    /// Follows the cell; `false` when the cluster is not known (any more).
    pub(super) fn refresh(&self) -> bool {
        let latest = self.cell.load();
        let mut version = self.version.borrow_mut();
        match (latest.as_ref(), version.cluster.as_ref()) {
            (Some(new), Some(old)) if Arc::ptr_eq(new, old) => return true,
            (None, None) => return false,
            _ => {}
        }
        let mut old: HashMap<SocketAddr, Rc<Slot>> =
            version.groups.drain(..).flat_map(|g| g.slots).map(|s| (s.address(), s)).collect();
        if let Some(cluster) = latest.as_ref() {
            version.groups = groups(&cluster.endpoints, &mut old);
        }
        for gone in old.into_values() {
            gone.retired.set(true);
            gone.idle.borrow_mut().clear();
        }
        version.cluster.clone_from(&latest);
        version.cluster.is_some()
    }

    /// The version in use.
    #[must_use]
    pub fn cluster(&self) -> Option<Arc<Cluster>> {
        self.version.borrow().cluster.clone()
    }

    /// The endpoint whose turn it is: the first priority with one that is not failing; if all are, any that is left.
    /// `client` stays on its own, where the cluster says so.
    pub fn choose(&self, rng: &mut fastrand::Rng, client: IpAddr, tried: &[SocketAddr], now: u64) -> Option<Rc<Slot>> {
        let mut version = self.version.borrow_mut();
        let Version { cluster, groups } = &mut *version;
        let cluster = cluster.as_ref()?;
        let set = &cluster.endpoints;
        let mut choose_in = |usable: &dyn Fn(&Slot) -> bool| {
            if cluster.sticky { of_client(groups, set, client, usable) } else { by_weight(groups, set, rng, usable) }
        };
        let good = |s: &Slot| !tried.contains(&s.address()) && !s.is_failing(now);
        while let Some(slot) = choose_in(&good) {
            // Where another core was first, it is failing now.
            if slot.claim(now) {
                return Some(slot);
            }
        }
        choose_in(&|s: &Slot| !tried.contains(&s.address()))
    }

    /// Whether there is an endpoint whose address is none of these.
    #[must_use]
    pub fn has_other(&self, tried: &[SocketAddr]) -> bool {
        let version = self.version.borrow();
        version.groups.iter().flat_map(|g| &g.slots).any(|s| !tried.contains(&s.address()))
    }

    pub(super) fn close_idle(&self) {
        for group in &self.version.borrow().groups {
            group.slots.iter().for_each(|s| s.idle.borrow_mut().clear());
        }
    }

    pub(super) fn sweep(&self, now: u32, cx: &mut Context<'_>) {
        for slot in self.version.borrow().groups.iter().flat_map(|g| &g.slots) {
            slot.idle.borrow_mut().retain_mut(|u| now.wrapping_sub(u.since) < IDLE_TICKS && u.stream.is_quiet(cx));
        }
    }
}

fn groups(set: &EndpointSet, old: &mut HashMap<SocketAddr, Rc<Slot>>) -> Vec<Group> {
    set.priorities
        .iter()
        .map(|p| {
            let slots: Vec<Rc<Slot>> = p.endpoints.iter().map(|e| slot_for(e, old)).collect();
            let current = vec![0; if slots.len() <= TURNS_MAX { slots.len() } else { 0 }];
            Group { slots, current, last: None }
        })
        .collect()
}

fn slot_for(endpoint: &Arc<Endpoint>, old: &mut HashMap<SocketAddr, Rc<Slot>>) -> Rc<Slot> {
    let same =
        old.get(&endpoint.address).is_some_and(|slot| slot.endpoint.borrow().transport.same_as(&endpoint.transport));
    match same.then(|| old.remove(&endpoint.address)).flatten() {
        Some(slot) => {
            *slot.endpoint.borrow_mut() = Arc::clone(endpoint);
            slot
        }
        None => Rc::new(Slot::new(Arc::clone(endpoint))),
    }
}

/// The endpoint of a client, in the first priority that has a usable one.
fn of_client(
    groups: &mut [Group],
    set: &EndpointSet,
    client: IpAddr,
    usable: &dyn Fn(&Slot) -> bool,
) -> Option<Rc<Slot>> {
    groups.iter_mut().zip(&set.priorities).find_map(|(Group { slots, last, .. }, of)| {
        let known = last.filter(|(who, _)| *who == client).map(|(_, at)| at);
        let first = known.or_else(|| balance::of_client(client, &of.endpoints, |_| true))?;
        *last = Some((client, first));
        let is_usable = |i: usize| slots.get(i).is_some_and(|s| usable(s));
        let at = if is_usable(first) { Some(first) } else { balance::of_client(client, &of.endpoints, is_usable) };
        slots.get(at?).map(Rc::clone)
    })
}

fn by_weight(
    groups: &mut [Group],
    set: &EndpointSet,
    rng: &mut fastrand::Rng,
    usable: &dyn Fn(&Slot) -> bool,
) -> Option<Rc<Slot>> {
    for (group, endpoints) in groups.iter_mut().zip(&set.priorities) {
        let Group { slots, current, .. } = group;
        let chosen = if slots.len() == 1 {
            slots.first().filter(|s| usable(s)).map(|_| 0)
        } else if slots.len() <= TURNS_MAX {
            let weight = |i: usize| endpoints.endpoints.get(i).map_or(1, |e| e.weight);
            balance::turn(weight, |i| slots.get(i).is_some_and(|s| usable(s)), current)
        } else {
            let at = rng.u64(0..endpoints.weight().max(1));
            let first = endpoints.cumulative.partition_point(|&c| c <= at);
            // From the chosen one on, the next that is usable.
            (0..slots.len()).map(|n| (first + n) % slots.len()).find(|&i| slots.get(i).is_some_and(|s| usable(s)))
        };
        if let Some(slot) = chosen.and_then(|i| slots.get(i)) {
            return Some(Rc::clone(slot));
        }
    }
    None
}

#[cfg(test)]
mod tests;
