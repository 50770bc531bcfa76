//! Edge. How often one request is tried, where it was, and whether it may be tried again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use meshfed_runtime::clock;

use super::Core;
use super::wheel::TICK_MILLISECONDS;
use crate::pool::{ClusterPool, ConnectError, Slot};
use crate::state::{Cluster, ClusterCounters, Endpoint, RoutePolicy};
use crate::telemetry::{Flag, RetryOutcome, RetryReason};

/// Kept connections that may turn out dead for one request; they die together when a server restarts.
const STALE_MAX: u32 = 1;
/// How often a request that an application may have had is asked of another one. A request that ends whatever gets it
/// must not be brought to all of them, and RFC 9110 9.2.2 asks not to repeat what was repeated.
const RESET_MAX: u32 = 1;
/// The time for all connects of one request.
const CONNECT_TIME: Duration = Duration::from_secs(5);

/// Counts a request that is tried again for the whole process.
#[derive(Debug)]
struct Retrying(Arc<ClusterCounters>);

impl Drop for Retrying {
    fn drop(&mut self) {
        self.0.retries.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Where a request may go after an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Elsewhere {
    OtherAddress,
    /// To one that it leads to over another connection.
    SameGateway,
    Nowhere,
}

/// The attempts of one request.
#[derive(Debug)]
pub(super) struct Tries<'a> {
    cluster: &'a Arc<Cluster>,
    policy: RoutePolicy,
    /// Since when connects count.
    begun: Instant,
    /// Addresses that are not tried again.
    pub(super) tried: Vec<SocketAddr>,
    /// Attempts so far.
    pub(super) attempts: u32,
    retries: u32,
    stale: u32,
    resets: u32,
    /// Kept connections are not used any more: they may lead where the last one led.
    pub(super) fresh: bool,
    /// Why the last connect failed.
    pub(super) last: Option<ConnectError>,
    /// Why there was no further attempt.
    pub(super) refusal: Option<RetryOutcome>,
    under_way: Option<Retrying>,
    /// When the route's time is over, in ticks.
    pub(super) deadline: Option<u32>,
    /// The number of the trust that the client was last seen to have.
    pub(super) trust_seen: u64,
}

impl<'a> Tries<'a> {
    pub(super) fn new(core: &Core, cluster: &'a Arc<Cluster>, policy: RoutePolicy, begun: Instant) -> Self {
        Self {
            cluster,
            policy,
            begun,
            tried: Vec::new(),
            attempts: 0,
            retries: 0,
            stale: 0,
            resets: 0,
            fresh: false,
            last: None,
            refusal: None,
            under_way: None,
            deadline: None,
            trust_seen: core.trust_changes(),
        }
    }
    /// The route's time in ticks, rounded up.
    pub(super) fn limit(&self) -> Option<u32> {
        let ticks = self.policy.timeout?.as_millis().div_ceil(u128::from(TICK_MILLISECONDS));
        Some(u32::try_from(ticks).unwrap_or(u32::MAX))
    }
    /// The route's time runs: the request is complete.
    pub(super) fn start_clock(&mut self, core: &Core) {
        self.deadline = self.limit().map(|ticks| core.wheel.now().saturating_add(ticks));
    }
    /// Whether the route's time is over.
    pub(super) fn is_late(&self, core: &Core) -> bool {
        self.deadline.is_some_and(|deadline| core.wheel.now() >= deadline)
    }
    /// What is left for the next connect.
    pub(super) fn connect_limit(&self, core: &Core) -> Duration {
        let left = CONNECT_TIME.saturating_sub(clock::instant().saturating_duration_since(self.begun));
        let ticks = self.deadline.map(|deadline| deadline.saturating_sub(core.wheel.now()));
        ticks.map_or(left, |ticks| left.min(Duration::from_millis(u64::from(ticks) * TICK_MILLISECONDS)))
    }

    /// After a failed connect: whether another endpoint may be tried.
    pub(super) fn after_connect(&mut self, core: &Core, pool: &ClusterPool, slot: &Slot, error: ConnectError) -> bool {
        self.tried.push(slot.address());
        self.last = Some(error);
        let other = pool.has_other(&self.tried);
        self.take(core, other, RetryReason::Connect)
    }
    /// After a kept connection ended: whether the request may go over another one.
    pub(super) fn after_stale(&mut self, core: &Core) -> bool {
        if self.stale >= STALE_MAX {
            return false;
        }
        self.stale += 1;
        self.fresh = true;
        // What the dead one took to be known as such is no time of a connect. It comes once.
        self.begun = clock::instant();
        core.telemetry.retried(self.service(), RetryReason::Stale);
        true
    }
    /// After a peer said that the request reached no application, or that one ended it: whether it may be tried elsewhere.
    pub(super) fn after_word(&mut self, core: &Core, pool: &ClusterPool, slot: &Slot, reached_nobody: bool) -> bool {
        if !reached_nobody {
            return self.after_reset(core, pool, slot);
        }
        let endpoint = slot.endpoint();
        let elsewhere = self.leave(pool, &endpoint);
        if elsewhere == Elsewhere::OtherAddress && !endpoint.via_gateway {
            core.mark_failing(&endpoint);
        }
        self.take(core, elsewhere != Elsewhere::Nowhere, RetryReason::Peer)
    }
    /// After an endpoint, or the application behind its proxy, ended a request without a byte of an answer that may be
    /// done twice: whether it may be tried elsewhere. Others may be served there all the same, so it is not passed over.
    pub(super) fn after_reset(&mut self, core: &Core, pool: &ClusterPool, slot: &Slot) -> bool {
        if self.resets >= RESET_MAX {
            return false;
        }
        let elsewhere = self.leave(pool, &slot.endpoint());
        let again = self.take(core, elsewhere != Elsewhere::Nowhere, RetryReason::Reset);
        self.resets += u32::from(again);
        again
    }
    /// Whether an application may have had the request, although nobody answered it.
    pub(super) const fn may_have_been_served(&self) -> bool {
        self.resets > 0
    }
    /// Away from an endpoint. A gateway stands for many, so its own address counts as elsewhere, over another connection,
    /// when there is no other.
    fn leave(&mut self, pool: &ClusterPool, endpoint: &Endpoint) -> Elsewhere {
        self.tried.push(endpoint.address);
        if pool.has_other(&self.tried) {
            return Elsewhere::OtherAddress;
        }
        if !endpoint.via_gateway {
            return Elsewhere::Nowhere;
        }
        self.tried.pop();
        self.fresh = true;
        Elsewhere::SameGateway
    }
    /// After such an answer that the client got, because the request could not be sent again: the next ones go elsewhere.
    pub(super) fn after_answered_refusal(&self, core: &Core, pool: &ClusterPool, slot: &Slot) {
        let endpoint = slot.endpoint();
        if !endpoint.via_gateway && pool.has_other(&[endpoint.address]) {
            core.mark_failing(&endpoint);
        }
    }
    fn take(&mut self, core: &Core, other: bool, reason: RetryReason) -> bool {
        if self.policy.retries == 0 {
            return false;
        }
        self.refusal = if !other {
            Some(RetryOutcome::NoOther)
        } else if self.retries >= self.policy.retries {
            Some(RetryOutcome::LimitExceeded)
        } else if !self.count() {
            Some(RetryOutcome::Overflow)
        } else {
            None
        };
        if self.refusal.is_none() {
            self.retries += 1;
            core.telemetry.retried(self.service(), reason);
        }
        self.refusal.is_none()
    }
    fn count(&mut self) -> bool {
        if self.under_way.is_some() {
            return true;
        }
        let counters = &self.cluster.counters;
        let under_way = counters.retries.fetch_add(1, Ordering::Relaxed);
        let counted = Retrying(Arc::clone(counters));
        // A request that is tried again is under way, too.
        let all = counters.requests.load(Ordering::Relaxed);
        if under_way >= self.cluster.circuit_breakers.retries.at(all) {
            return false;
        }
        self.under_way = Some(counted);
        true
    }
    fn service(&self) -> &Arc<str> {
        if self.cluster.host.is_empty() { &self.cluster.name } else { &self.cluster.host }
    }
    /// How a request ends whose last connect failed.
    pub(super) fn unconnected_flag(&self) -> Flag {
        match self.refusal {
            Some(RetryOutcome::LimitExceeded) => Flag::RetriesEndedInConnectionFailure,
            Some(RetryOutcome::Overflow) => Flag::RetriesOverflowedInConnectionFailure,
            _ => Flag::UpstreamConnectionFailure,
        }
    }
    /// How a request ends whose answer says that it reached no application, where a limit kept it from another attempt.
    pub(super) fn limited_flag(&self) -> Option<Flag> {
        match self.refusal {
            Some(RetryOutcome::LimitExceeded) => Some(Flag::RetryLimitExceeded),
            Some(RetryOutcome::Overflow) => Some(Flag::UpstreamOverflow),
            _ => None,
        }
    }
    /// Counts how a request ended that was tried again, or would have been. `served`: by an application.
    pub(super) fn ended(&self, core: &Core, served: bool) {
        let outcome = match self.refusal {
            Some(why) => why,
            None if self.retries == 0 => return,
            None if served => RetryOutcome::Success,
            None => RetryOutcome::Failed,
        };
        core.telemetry.retries_ended(self.service(), outcome);
    }
}
