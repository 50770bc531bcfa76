//! Pure. Services of which clients on different nodes are given different endpoints: `internalTrafficPolicy: Local`, and
//! `trafficDistribution: PreferSameNode`. Only what this cluster has can be on a client's node.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use meshfed_model::horizon::{Assignment, Candidates};
use meshfed_model::names::{NetworkName, ServiceName};
use meshfed_model::share::Share;

use crate::index::PolicyChoice;
use crate::translate::{Mode, OutboundName};

use super::Core;
use super::proxies::Phase;
use super::store::{Class, Scope};

impl Core {
    /// The failover policy that holds for a name, or what the service itself prefers.
    #[must_use]
    pub fn policy(&self, outbound: &OutboundName) -> PolicyChoice {
        let manner = self.facts.get(&outbound.service).map(|f| f.manner(outbound.domain)).unwrap_or_default();
        self.index.policy_for(&outbound.service, manner.preference)
    }

    /// Whether each node's clients are given their own endpoints. Behind a gateway nobody is on the client's node.
    pub(super) fn is_by_node(&self, mode: Mode, outbound: &OutboundName) -> bool {
        mode == Mode::Sidecar && self.facts.get(&outbound.service).is_some_and(|f| f.manner(outbound.domain).by_node())
    }

    /// After a service began to tell nodes apart: what its clients ask for is made for the node of each.
    pub(super) fn demand_by_node(&mut self, service: &ServiceName) {
        let mut wanted = Vec::new();
        for (class, asked) in self.demanded.iter().filter(|(class, _)| class.node.is_none()) {
            let scope = Scope::Class(Arc::clone(class));
            for (name, outbound) in asked.by_service.get(service).into_iter().flatten() {
                if !self.is_by_node(class.mode, outbound) {
                    continue;
                }
                let nodes: BTreeSet<&Arc<Class>> = self
                    .store
                    .readers(&scope)
                    .filter_map(|id| match &self.streams.get(&id)?.phase {
                        Phase::Admitted(admitted) => Some(&admitted.on_node),
                        Phase::Waiting(_) => None,
                    })
                    .collect();
                wanted.extend(nodes.into_iter().map(|c| (Arc::clone(c), Arc::clone(name), outbound.clone())));
            }
        }
        for (class, name, outbound) in wanted {
            self.demand_of(&class, &name, &outbound);
        }
    }

    /// What is on the client's node, and everything else.
    pub(super) fn part_by_node(
        &self,
        class: &Class,
        outbound: &OutboundName,
        candidates: Candidates,
    ) -> (Candidates, Candidates) {
        let node = class.node.as_ref().filter(|node| !node.is_empty());
        let service = self.index.service(&outbound.service);
        let mut here: BTreeSet<(&NetworkName, IpAddr)> = BTreeSet::new();
        for (key, endpoint) in service.iter().flat_map(|s| s.at_port(outbound.port)) {
            if node.is_some() && self.index.node_of(key).as_ref() == node {
                here.extend(endpoint.addresses.iter().map(|address| (&endpoint.network, *address)));
            }
        }
        let own = &self.settings.cluster;
        let (mut near, mut far) = (candidates.clone(), candidates);
        let is_here = |e: &meshfed_model::horizon::EndpointCandidate| {
            e.cluster == *own && here.contains(&(&e.network, e.address))
        };
        near.endpoints.retain(&is_here);
        near.groups.clear();
        far.endpoints.retain(|e| !is_here(e));
        (near, far)
    }
}

/// The first as long as it has anybody; the second stands by behind it, each of its tiers one further.
pub(super) fn first_else(mut first: Assignment, second: Assignment) -> Assignment {
    let Some(last) = first.items.iter().map(|item| item.priority).max() else { return second };
    first.items.extend(second.items.into_iter().map(|mut item| {
        item.priority = item.priority.saturating_add(last).saturating_add(1);
        item.tier = item.tier.saturating_add(1);
        item.share = Share::default();
        for group in &mut item.groups {
            group.tier = group.tier.saturating_add(1);
            group.share = Share::default();
        }
        item
    }));
    first.dropped.extend(second.dropped);
    first.dropped.sort();
    first
}
