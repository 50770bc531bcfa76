//! Pure. What others ask of the state; nothing is changed here.

use std::collections::BTreeSet;

use meshfed_model::bundle::Bundle;
use meshfed_model::identity::TrustDomain;
use meshfed_model::names::{ClusterName, NetworkName};
use meshfed_model::version::Version;

use super::{Known, Session, SessionId, State};

impl State {
    /// The bundles of which the agent of a session holds another serial, with the hub's.
    pub fn bundles_behind(&self, session: &Session) -> impl Iterator<Item = (&TrustDomain, u64)> {
        let behind = |b: &&Bundle| session.bundles.get(&b.trust_domain) != Some(&b.serial);
        self.bundles.values().filter(behind).map(|b| (&b.trust_domain, b.serial))
    }
    /// The networks that a cluster shares with others.
    #[must_use]
    pub fn shared(&self, cluster: &ClusterName) -> BTreeSet<NetworkName> {
        self.shared.get(cluster).cloned().unwrap_or_default()
    }
    /// One session.
    #[must_use]
    pub fn session(&self, id: SessionId) -> Option<&Session> {
        self.sessions.get(&id)
    }
    /// The current sessions of a cluster.
    pub fn sessions_of(&self, cluster: &ClusterName) -> impl Iterator<Item = &Session> {
        let current = move |(id, s): &(&SessionId, &Session)| self.newest(s) == Some(**id);
        let of = move |(_, s): &(&SessionId, &Session)| s.cluster == *cluster && s.fenced.is_none();
        self.sessions.iter().filter(of).filter(current).map(|(_, s)| s)
    }
    /// The number of sessions.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sessions.len()
    }
    /// Whether there is no session.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }
    /// What is remembered of a cluster.
    #[must_use]
    pub fn known(&self, cluster: &ClusterName) -> Option<&Known> {
        self.known.get(cluster)
    }
    /// The origins whose offer the importer of a session has not acknowledged as far as it concerns it.
    #[must_use]
    pub fn unsettled(&self, session: &Session) -> Vec<(ClusterName, Version)> {
        let others = self.catalog.clusters().filter(|origin| **origin != session.cluster);
        others.filter_map(|o| Some((o.clone(), session.outbox.settled(o, &self.catalog).err()?))).collect()
    }
}
