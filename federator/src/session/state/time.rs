//! Pure. What time does to the hub's state: silence makes stale, a held sync is carried out, an alarm ends.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use meshfed_model::names::ClusterName;

use super::{AGENTS_MAX, Freshness, State};
use crate::catalog::Taken;
use crate::fleet::GatewayAddress;

/// What a cluster said counts as fresh for so long after it last spoke: two signs of life are lost, whether its
/// session stands or not (faults 13: stale within 20 s).
pub const STALE_AFTER: Duration = Duration::from_secs(20);
/// Session changes of one agent within [`FLIPS_WINDOW`] that raise no alarm (SY6).
pub const FLIPS_MAX: usize = 3;
/// The time over which session changes are counted.
pub const FLIPS_WINDOW: Duration = Duration::from_secs(60);
/// How long a full sync is held back that would take away most of a cluster (SY7).
pub const HOLD: Duration = Duration::from_secs(30);

/// How long a gateway address that its cluster offers no more is kept for it: a gateway that restarts is back by then.
pub const GATEWAY_KEPT: Duration = HOLD;

/// One moment, on both clocks.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// For durations.
    pub instant: Instant,
    /// For people.
    pub wall: Timestamp,
}

/// The latest session changes of one agent.
#[derive(Debug, Clone, Default)]
pub(super) struct Flips(VecDeque<Instant>);

impl Flips {
    /// Counts one; whether there are too many now.
    pub(super) fn count(&mut self, now: Instant) -> bool {
        if self.0.len() > FLIPS_MAX {
            self.0.pop_front();
        }
        self.0.push_back(now);
        self.alarms_until(now).is_some()
    }
    /// Until when there are too many, if there are.
    fn alarms_until(&self, now: Instant) -> Option<Instant> {
        let end = self.0.front().filter(|_| self.0.len() > FLIPS_MAX)?.checked_add(FLIPS_WINDOW)?;
        (end > now).then_some(end)
    }
}

/// What has happened by the mere passing of time.
#[derive(Debug, Default)]
pub struct Passed {
    /// Clusters that have become stale.
    pub stale: Vec<ClusterName>,
    /// Clusters whose sessions flip no more.
    pub calm: Vec<ClusterName>,
    /// Full syncs that were held back and are carried out now.
    pub released: Vec<(ClusterName, Taken)>,
    /// Gateway addresses that were kept for a cluster and are so no more.
    pub freed: Vec<GatewayAddress>,
}

impl Passed {
    /// Whether nothing has happened.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.stale.is_empty() && self.calm.is_empty() && self.released.is_empty() && self.freed.is_empty()
    }
}

impl State {
    /// Lets time pass.
    pub fn pass(&mut self, now: Instant) -> Passed {
        let mut passed = Passed::default();
        for (cluster, known) in &self.known {
            let silent = known.heard.is_some_and(|heard| now.saturating_duration_since(heard) >= STALE_AFTER);
            if silent && self.stale.insert(cluster.clone()) {
                passed.stale.push(cluster.clone());
            }
        }
        passed.calm = self.alarms.iter().filter(|c| self.flips_until(c, now).is_none()).cloned().collect();
        for cluster in &passed.calm {
            self.alarms.remove(cluster);
        }
        let due: Vec<ClusterName> = self.holds.iter().filter(|(_, at)| **at <= now).map(|(c, _)| c.clone()).collect();
        for cluster in due {
            self.holds.remove(&cluster);
            if let Some(taken) = self.catalog.carry_out(&cluster) {
                self.touch_all(&cluster);
                self.keep_idle(&taken, now);
                passed.released.push((cluster, taken));
            }
        }
        let due: Vec<GatewayAddress> =
            self.idle_gateways.iter().filter(|(_, until)| **until <= now).map(|(at, _)| *at).collect();
        for at in due {
            self.idle_gateways.remove(&at);
            let Some(retaken) = self.catalog.free_idle_gateway(at) else { continue };
            if let Some(cluster) = retaken {
                self.touch_all(&cluster);
            }
            passed.freed.push(at);
        }
        passed
    }

    /// Keeps gateway addresses for the cluster that has given them up, for a while.
    pub(super) fn keep_idle(&mut self, taken: &Taken, now: Instant) {
        let Some(until) = now.checked_add(GATEWAY_KEPT) else { return };
        self.idle_gateways.extend(taken.idle.iter().map(|at| (*at, until)));
    }

    /// When time is to pass next; `None`: nothing waits for it.
    #[must_use]
    pub fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let silence = self.known.iter().filter(|(cluster, _)| !self.stale.contains(*cluster));
        let silence = silence.filter_map(|(_, known)| known.heard?.checked_add(STALE_AFTER));
        let alarms = self.alarms.iter().filter_map(|cluster| self.flips_until(cluster, now));
        let kept = self.holds.values().chain(self.idle_gateways.values()).copied();
        silence.chain(alarms).chain(kept).min()
    }

    fn flips_until(&self, cluster: &ClusterName, now: Instant) -> Option<Instant> {
        self.known.get(cluster)?.flips.values().filter_map(|flips| flips.alarms_until(now)).max()
    }

    /// Counts one more session of an agent; whether an alarm is raised by it. Nothing that the cluster offered is
    /// touched by flips: what is under way is dropped with its session, the last good stays.
    pub(super) fn flip(&mut self, cluster: &ClusterName, agent: (u32, String), now: Instant) -> bool {
        let known = self.known.entry(cluster.clone()).or_default();
        if known.flips.len() >= AGENTS_MAX && !known.flips.contains_key(&agent) {
            // Pods have new names all the time: those that are gone change nothing any more.
            let sessions = || self.sessions.values().filter(|s| s.cluster == *cluster);
            known.flips.retain(|(replica, name), _| sessions().any(|s| (s.replica, &s.instance) == (*replica, name)));
        }
        match known.flips.get_mut(&agent) {
            // The first session since this hub started changes nothing.
            None => {
                known.flips.insert(agent, Flips::default());
                false
            }
            Some(flips) => flips.count(now) && self.alarms.insert(cluster.clone()),
        }
    }

    /// Whether the sessions of a cluster change too often.
    #[must_use]
    pub fn is_flipping(&self, cluster: &ClusterName) -> bool {
        self.alarms.contains(cluster)
    }

    /// Clusters whose full sync is held back.
    #[must_use]
    pub fn holding(&self) -> usize {
        self.holds.keys().filter(|c| self.catalog.held_back(c).is_some()).count()
    }

    /// How far what is known of a cluster can be trusted: fresh is who has spoken lately, session or not. Deprioritised
    /// and withdrawn come with leases; in this version the importing proxies' own health checks decide, and nothing is
    /// withdrawn by silence.
    #[must_use]
    pub fn freshness(&self, cluster: &ClusterName, now: Instant) -> Freshness {
        match self.known.get(cluster).and_then(|k| k.heard).map(|heard| now.saturating_duration_since(heard)) {
            Some(silent) if silent < STALE_AFTER => Freshness::Fresh,
            Some(_) | None => Freshness::Stale,
        }
    }
}
