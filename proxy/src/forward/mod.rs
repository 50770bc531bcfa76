//! Edge. The request path of one core: connections of clients, their requests, and the copy loop between two sides.
//!
//! Everything here belongs to one thread: no lock, no counter that cores share except the limits that are promised per
//! process. In the steady state a request allocates nothing and makes no timer: buffers, header scratch and connections
//! are reused, and deadlines stand in a coarse wheel.

mod attempt;
mod buffer;
mod connection;
mod copy;
mod exchange;
mod guest;
mod pump;
mod reply;
mod tries;
mod wheel;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Waker};
use std::time::Duration;

use meshfed_runtime::tls::{self, Identity, TrustStore};
use meshfed_runtime::{clock, drain, tasks};

use crate::balance;
use crate::codec::Scratch;
use crate::pool::{Clusters, FAILING_MILLISECONDS};
use crate::state::{Cluster, Endpoint, StateHandle};
use crate::telemetry::{LogBuffer, Parties, Party, Series, Telemetry};

pub use crate::telemetry::REASON_HEADER;
pub use connection::{Side, serve};
pub use copy::copy_bidirectional;
pub use guest::{Guest, Standing, holds};

use buffer::Buffers;
use wheel::{TICK_MILLISECONDS, Wheel};

/// Pairs of parties whose counters a core keeps at hand.
const SERIES_MAX: usize = 1024;
/// Ticks between two looks at our identity and the bundles (1 s).
const TRUST_TICKS: u32 = 4;
/// Ticks between two sweeps of idle connections (5 s).
const SWEEP_TICKS: u32 = 20;

/// What one worker thread holds.
#[derive(Debug)]
pub struct Core {
    /// What discovery knows.
    pub state: Arc<StateHandle>,
    /// Metrics and the access log.
    pub telemetry: Arc<Telemetry>,
    clusters: Clusters,
    buffers: Buffers,
    scratch: RefCell<Scratch>,
    key: RefCell<String>,
    rng: RefCell<fastrand::Rng>,
    log: RefCell<LogBuffer>,
    wheel: Rc<Wheel>,
    series: RefCell<BTreeMap<Parties, Rc<Series>>>,
    number: u32,
    own: RefCell<(Option<Arc<Identity>>, Party)>,
    trust_generation: Cell<u64>,
    /// The bundles of ports that peers came in by, and the sum of their generations at the last look.
    ports: RefCell<Vec<Arc<TrustStore>>>,
    ports_generation: Cell<u64>,
    /// Counts what was seen to change of our identity and of all bundles.
    trust_changes: Cell<u64>,
    draining: Cell<bool>,
    /// Given up when the drain begins: connections hold their own.
    watch: RefCell<Option<drain::Watch>>,
    tick: RefCell<Option<tasks::AbortOnDrop>>,
}

impl Core {
    /// The core of this thread. Must be called inside a `LocalSet`: it starts the tick.
    #[must_use]
    pub fn new(state: Arc<StateHandle>, telemetry: Arc<Telemetry>, watch: drain::Watch) -> Rc<Self> {
        let now = ticks(&telemetry);
        let number = telemetry.next_core();
        let core = Rc::new(Self {
            state,
            telemetry,
            series: RefCell::default(),
            number,
            clusters: Clusters::default(),
            buffers: Buffers::default(),
            scratch: RefCell::default(),
            key: RefCell::default(),
            rng: RefCell::new(fastrand::Rng::new()),
            log: RefCell::default(),
            wheel: Wheel::new(now),
            own: RefCell::default(),
            trust_generation: Cell::new(0),
            ports: RefCell::default(),
            ports_generation: Cell::new(0),
            trust_changes: Cell::new(0),
            draining: Cell::new(false),
            watch: RefCell::new(Some(watch)),
            tick: RefCell::default(),
        });
        core.own.borrow_mut().1 = core.unattested();
        core.look_at_trust();
        let handle = tasks::spawn_local("core tick", tick(Rc::downgrade(&core)));
        *core.tick.borrow_mut() = Some(tasks::AbortOnDrop::new(&handle));
        core
    }
    /// Whether connections are asked to end.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.get()
    }
    /// What a connection holds so that the drain waits for it; `None` once the drain has begun.
    #[must_use]
    pub fn watch(&self) -> Option<drain::Watch> {
        self.watch.borrow().clone()
    }
    /// Ourselves, as metrics name us.
    #[must_use]
    pub fn own_party(&self) -> Party {
        if self.own.borrow().0.is_none() {
            // The identity may have come since the last look.
            self.look_at_trust();
        }
        self.own.borrow().1.clone()
    }
    /// The request counters of this core between two parties.
    #[must_use]
    pub fn series(&self, parties: Parties) -> Rc<Series> {
        let mut known = self.series.borrow_mut();
        if let Some(series) = known.get(&parties) {
            return Rc::clone(series);
        }
        if known.len() >= SERIES_MAX {
            // The counters stay with telemetry; only the way to them is looked up again.
            known.clear();
        }
        let requests = Arc::clone(self.telemetry.requests());
        let series = Rc::new(Series::new(Arc::new(parties.clone()), requests, self.number));
        known.insert(parties, Rc::clone(&series));
        series
    }
    /// A choice among the endpoints that were not tried, those that fail at the moment last: by weight, or where the cluster
    /// says so by the client's address.
    #[must_use]
    pub fn pick(&self, cluster: &Cluster, client: IpAddr, tried: &[SocketAddr]) -> Option<Arc<Endpoint>> {
        let set = &cluster.endpoints;
        let now = self.telemetry.milliseconds(clock::instant());
        let rng = &mut *self.rng.borrow_mut();
        let good =
            |e: &Endpoint| !tried.contains(&e.address) && e.counters.failing_until.load(Ordering::Relaxed) <= now;
        if cluster.sticky {
            return balance::pick_of_client(set, client, good)
                .or_else(|| balance::pick_of_client(set, client, |e| !tried.contains(&e.address)));
        }
        balance::pick_usable(set, rng, good).or_else(|| balance::pick(set, rng, tried))
    }
    /// An endpoint could not be connected to: all cores pass over it for a moment.
    pub fn mark_failing(&self, endpoint: &Endpoint) {
        let until = self.telemetry.milliseconds(clock::instant()) + FAILING_MILLISECONDS;
        endpoint.counters.failing_until.store(until, Ordering::Relaxed);
        tracing::debug!(endpoint = %endpoint.address, cluster = %endpoint.cluster, "an endpoint is passed over for a moment");
    }

    fn look_at_trust(&self) {
        let identity = self.state.identity().and_then(|i| i.get());
        let generation = self.state.trust().map_or(0, |t| t.generation());
        let ports = self.ports.borrow().iter().map(|t| t.generation()).fold(0, u64::wrapping_add);
        let known = self.own.borrow().0.as_ref().map(Arc::as_ptr);
        let same = known == identity.as_ref().map(Arc::as_ptr) && generation == self.trust_generation.get();
        if same && ports == self.ports_generation.get() {
            return;
        }
        self.ports_generation.set(ports);
        self.trust_changes.set(self.trust_changes.get() + 1);
        if same {
            self.wheel.wake_all();
            return;
        }
        let described = |i: &Identity| i.chain().first().and_then(tls::described);
        tracing::debug!(
            identity = identity.as_ref().map(|i| i.id.to_string()),
            generation,
            "our identity or the bundles changed: kept connections are made anew"
        );
        let party = identity.as_ref().map(|i| Party::of(&i.id, described(i))).unwrap_or_else(|| self.unattested());
        *self.own.borrow_mut() = (identity, party);
        self.trust_generation.set(generation);
        self.clusters.trust_changed();
        // Connections of peers look whether they are still trusted.
        self.wheel.wake_all();
    }
    /// Counts what was seen to change of our identity and of all bundles: connections compare it with what they saw.
    #[must_use]
    pub fn trust_changes(&self) -> u64 {
        self.trust_changes.get()
    }
    /// A port with these bundles has peers: changes of them are looked for, too.
    pub fn watch_port(&self, port: &Arc<TrustStore>) {
        let mut ports = self.ports.borrow_mut();
        if !ports.iter().any(|p| Arc::ptr_eq(p, port)) {
            // Ports that are gone: one reference is this list's own.
            ports.retain(|p| Arc::strong_count(p) > 1);
            // The sum of the last look is left: a change that it has not seen yet must not be taken for seen.
            ports.push(Arc::clone(port));
        }
    }
    fn unattested(&self) -> Party {
        let workload = self.telemetry.workload();
        Party::unattested(workload.namespace.as_str(), &workload.service_account)
    }
    fn look_at_drain(&self) {
        let begun = self.watch.borrow().as_ref().is_some_and(drain::Watch::is_draining);
        if begun {
            self.draining.set(true);
            self.watch.borrow_mut().take();
            self.clusters.close_idle();
            self.wheel.wake_all();
        }
    }
    fn flush_log(&self) {
        if let Some(log) = self.telemetry.access_log() {
            self.log.borrow_mut().flush(log);
        }
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        self.flush_log();
    }
}

fn ticks(telemetry: &Telemetry) -> u32 {
    u32::try_from(telemetry.milliseconds(clock::instant()) / TICK_MILLISECONDS).unwrap_or(u32::MAX / 2)
}

/// What is done four times a second, for as long as the core exists.
async fn tick(core: Weak<Core>) {
    let mut interval = tokio::time::interval(Duration::from_millis(TICK_MILLISECONDS));
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut count = 0u32;
    loop {
        interval.tick().await;
        let Some(core) = core.upgrade() else { return };
        count = count.wrapping_add(1);
        core.wheel.advance(ticks(&core.telemetry));
        core.look_at_drain();
        core.flush_log();
        if count.is_multiple_of(TRUST_TICKS) {
            core.look_at_trust();
            #[cfg(test)]
            core.telemetry.looked();
        }
        if count.is_multiple_of(SWEEP_TICKS) {
            core.buffers.trim();
            core.clusters.sweep(core.wheel.now(), &mut Context::from_waker(Waker::noop()));
        }
    }
}

#[cfg(test)]
mod tests;
