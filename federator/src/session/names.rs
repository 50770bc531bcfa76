//! Pure. Names in the fleet's policies, judged by what the hub knows.

use std::collections::BTreeMap;

use meshfed_crds::dangling::Known;
use meshfed_model::export::has_all;
use meshfed_model::names::{ClusterName, ServiceName};
use meshfed_model::version::Version;

use super::state::State;

impl State {
    /// Whether every live member has offered since the hub started: before, a service may be one that was not named yet.
    fn has_heard_all(&self) -> bool {
        let heard = |name| self.catalog().history(name).is_some_and(|h| h.version() != Version::default());
        self.live().members.keys().all(heard)
    }
}

impl Known for State {
    fn cluster(&self, name: &ClusterName) -> bool {
        self.live().members.contains_key(name)
    }
    fn labelled(&self, labels: &BTreeMap<String, String>) -> bool {
        self.live().members.values().any(|member| has_all(&member.labels, labels))
    }
    fn region(&self, name: &str) -> bool {
        self.live().members.values().any(|m| m.regions.contains(name))
    }
    fn zone(&self, name: &str) -> bool {
        // A member whose token names no zones may be in any.
        self.live_members().any(|m| m.zones.is_empty() || m.zones.contains(name))
    }
    fn service(&self, name: &ServiceName) -> bool {
        !self.catalog().by_seniority(name).is_empty() || !self.has_heard_all()
    }
    fn exportable(&self, name: &ServiceName) -> bool {
        self.service(name)
    }
}
