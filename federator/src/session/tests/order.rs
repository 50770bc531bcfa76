//! In which order exports were first seen: who is told, and that neither a restart nor an absence changes it.

use std::collections::BTreeMap;

use meshfed_api::border::Seniority;
use meshfed_api::stream::{History, Scope};
use meshfed_model::names::{ClusterName, ServiceName};

use super::super::state::{SessionId, State};
use super::{cluster, hello, member, resources, service_name, start};
use crate::fanout::Next;
use crate::fleet;

type Claims = BTreeMap<(ServiceName, ClusterName), u64>;

/// Clusters 0 to 3, one session each as they come.
struct Fleet {
    state: State,
    members: fleet::Members,
    claims: Claims,
    offers: Vec<History>,
    sessions: BTreeMap<usize, SessionId>,
    clock: u64,
}

impl Fleet {
    fn new() -> Self {
        let members = (0..4).map(|i| (cluster(i), member(i, BTreeMap::new()))).collect();
        let members = fleet::Members { revision: 1, members };
        let mut state = State::default();
        state.set_members(&members);
        let offers = (0..4).map(|_| History::new(1)).collect();
        Self { state, members, claims: Claims::new(), offers, sessions: BTreeMap::new(), clock: 0 }
    }
    /// Another hub with the same store.
    fn restart(&mut self) {
        self.state = State::new(self.claims.clone(), BTreeMap::new());
        self.state.set_members(&self.members);
        self.sessions.clear();
    }
    fn open(&mut self, i: usize) {
        let id = self.state.open((&cluster(i), 0, 1), hello(), start()).unwrap().id;
        self.sessions.insert(i, id);
    }
    /// Makes what cluster `i` offers of service 0 this, and has it made durable. `kind`: to whom, as in [`super::export`].
    fn export(&mut self, i: usize, kind: Option<u8>) {
        let held = kind.map(|kind| resources(i, 0, kind, 1)).unwrap_or_default();
        self.offers[i].replace_service(&service_name(0), held);
        self.sync(i);
    }
    fn sync(&mut self, i: usize) {
        let id = self.sessions[&i];
        let held = self.state.catalog().history(&cluster(i)).unwrap().version();
        for part in self.offers[i].since(held, Scope::Replica) {
            let taken = self.state.offer(id, part, start()).unwrap();
            self.clock += 1;
            let mut given = BTreeMap::new();
            for service in &taken.added {
                let claim = (service.clone(), cluster(i));
                given.insert(service.clone(), *self.claims.entry(claim).or_insert(self.clock));
            }
            for service in &taken.removed {
                self.claims.remove(&(service.clone(), cluster(i)));
            }
            self.state.offered(id, &taken, given, &taken.removed);
        }
    }
    /// What cluster `i` is told of the order now; `None`: nothing.
    fn told(&mut self, i: usize) -> Option<Vec<usize>> {
        let id = self.sessions[&i];
        let mut told = Seniority::new();
        while let Some(next) = self.state.next(id) {
            if let Next::Seniority(order) = next {
                told.extend(order);
            }
        }
        let at = |c: &ClusterName| (0..4).find(|i| cluster(*i) == *c).unwrap();
        told.get(&service_name(0)).map(|clusters| clusters.iter().map(at).collect())
    }
}

/// The first that exports is the oldest, for importers and exporters alike; one that takes its export back and exports
/// again is the youngest.
///
/// Mutations seen to fail: `clusters.sort()` left out of `Catalog::order`; `reorder` left out of `State::claimed`.
#[test]
fn the_first_seen_export_is_the_oldest_for_everybody() {
    let mut fleet = Fleet::new();
    (0..3).for_each(|i| fleet.open(i));
    fleet.export(1, Some(0));
    assert_eq!([0, 1, 2].map(|i| fleet.told(i)), [None, None, None], "one export has nothing to be ordered");
    fleet.export(0, Some(0));
    assert_eq!([0, 1, 2].map(|i| fleet.told(i)), [Some(vec![1, 0]), Some(vec![1, 0]), Some(vec![1, 0])]);
    assert_eq!([0, 1, 2].map(|i| fleet.told(i)), [None, None, None], "it is told once");
    fleet.export(1, None);
    assert_eq!([0, 1, 2].map(|i| fleet.told(i)), [Some(vec![]), Some(vec![]), Some(vec![])]);
    fleet.export(1, Some(0));
    assert_eq!([0, 1, 2].map(|i| fleet.told(i)), [Some(vec![0, 1]), Some(vec![0, 1]), Some(vec![0, 1])]);
}

/// Who may not see an export hears nothing of it through the order, not even that it is there.
///
/// Mutation seen to fail: `is_exported` of `Orders::next` answered `true`.
#[test]
fn who_may_not_see_an_export_hears_nothing_of_it_through_the_order() {
    let mut fleet = Fleet::new();
    (0..4).for_each(|i| fleet.open(i));
    // To c1 and c3 only.
    fleet.export(0, Some(2));
    fleet.export(2, Some(0));
    assert_eq!(fleet.told(0), Some(vec![0, 2]), "the exporter sees the other one");
    assert_eq!((fleet.told(1), fleet.told(3)), (Some(vec![0, 2]), Some(vec![0, 2])));
    assert_eq!(fleet.told(2), None, "c2 does not see that of c0");
    // To nobody any more.
    fleet.export(0, Some(1));
    assert_eq!([1, 2, 3].map(|i| fleet.told(i)), [Some(vec![]), None, Some(vec![])]);
}

/// A hub that has restarted says nothing of a service before all who had an export of it have offered again: what agents
/// were told before stands until then.
///
/// Mutations seen to fail: `silent` of `Catalog::order` answering `false`; the claims left out of `State::new`.
#[test]
fn neither_a_restart_of_the_hub_nor_an_absent_agent_reorders() {
    let mut fleet = Fleet::new();
    (0..3).for_each(|i| fleet.open(i));
    fleet.export(1, Some(0));
    fleet.export(2, Some(0));
    fleet.export(0, Some(0));
    assert_eq!(fleet.told(2), Some(vec![1, 2, 0]));
    fleet.restart();
    for i in [0, 2] {
        fleet.open(i);
        fleet.sync(i);
    }
    assert_eq!((fleet.told(0), fleet.told(2)), (None, None), "the oldest has not come back yet");
    fleet.open(1);
    fleet.sync(1);
    assert_eq!([0, 1, 2].map(|i| fleet.told(i)), [Some(vec![1, 2, 0]), Some(vec![1, 2, 0]), Some(vec![1, 2, 0])]);
}

/// Who is no member any more is waited for no longer, and its claims are to be dropped.
///
/// Mutation seen to fail: `reorder` left out of `withdraw`.
#[test]
fn who_has_left_was_the_first_of_nothing() {
    let mut fleet = Fleet::new();
    (0..3).for_each(|i| fleet.open(i));
    (0..3).rev().for_each(|i| fleet.export(i, Some(0)));
    assert_eq!(fleet.told(0), Some(vec![2, 1, 0]));
    fleet.members.revision = 2;
    fleet.members.members.remove(&cluster(2));
    fleet.state.set_members(&fleet.members);
    assert_eq!(fleet.told(0), Some(vec![1, 0]));
    assert_eq!(fleet.state.claims_of_strangers(), BTreeMap::from([(cluster(2), vec![service_name(0)])]));
    fleet.state.claimed(&cluster(2), BTreeMap::new(), &[service_name(0)]);
    assert_eq!(fleet.state.claims_of_strangers(), BTreeMap::new());
}
