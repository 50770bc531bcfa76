//! Pure. Which of several agents of one cluster offers (`contracts-kubernetes.md` 5.3 "Replicas"): the holder of their
//! Lease with the highest epoch that was shown here. One that has lost its API server goes on until then; a session ends
//! nothing.

use meshfed_api::border::{Lease, LeaseEpoch};
use meshfed_model::names::ClusterName;

use super::{AGENTS_MAX, Session, SessionId, State};
use crate::session::report::Report;

impl Session {
    /// Whether the other one is of the same agent.
    pub(super) fn is_same_agent(&self, other: &Self) -> bool {
        self.cluster == other.cluster && self.replica == other.replica && self.instance == other.instance
    }
}

impl State {
    /// Whether an agent that says this of its Lease offers from now on. One without a Lease is the only one of its
    /// cluster.
    pub(super) fn may_offer(&self, cluster: &ClusterName, lease: Option<Lease>) -> bool {
        let Some(lease) = lease else { return true };
        let highest = self.known.get(cluster).and_then(|known| known.lease);
        lease.held && highest.is_none_or(|highest| highest <= lease.epoch)
    }

    /// The latest holding of the cluster's Lease that was shown here.
    pub fn latest_lease(&self, cluster: &ClusterName) -> Option<LeaseEpoch> {
        self.known.get(cluster)?.lease
    }

    /// Ends the sessions that a new one follows on: those of the same agent, and where it offers that of the agent which
    /// offered before. A cluster that opens too many loses the oldest that does not offer.
    pub(super) fn fence_older(&mut self, new: &Session) {
        let alone = new.uplink && new.epoch.is_none();
        let mut others: Vec<SessionId> = Vec::new();
        for (id, old) in self.sessions.iter_mut().filter(|(_, s)| s.cluster == new.cluster && s.fenced.is_none()) {
            if old.is_same_agent(new) {
                old.fence("another session of the same agent is newer");
            } else if old.replica == new.replica && new.uplink && (old.uplink || alone) {
                old.fence("another agent of the cluster offers now");
            } else {
                others.extend((!old.uplink).then_some(*id));
                continue;
            }
            self.woken.insert(*id);
        }
        for id in others.iter().take((others.len() + 1).saturating_sub(AGENTS_MAX)) {
            if let Some(old) = self.sessions.get_mut(id) {
                old.fence("the cluster has more than 256 agents");
                self.woken.insert(*id);
            }
        }
    }

    /// What the agents of a cluster report together: the source is the word of the one that offers, proxies are connected
    /// to one of them.
    #[must_use]
    pub fn report_of(&self, cluster: &ClusterName) -> Option<Report> {
        let mut whole = self.known.get(cluster)?.report.clone()?;
        let others = self.sessions_of(cluster).filter(|s| !s.uplink).filter_map(|s| s.report.as_ref());
        others.for_each(|other| whole.join(other));
        Some(whole)
    }
}
