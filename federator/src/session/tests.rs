//! A simulated fleet: random offers, exports, interests, labels, policies, disconnects and restarts on both ends.
//! Every importer converges to what it may see of the truth, and is never told a key that it could not see.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use jiff::Timestamp;
use meshfed_api::border::{Ack, HeldOrigin, Hello, Interest};
use meshfed_api::stream::{Audience as _, Delta, History, Scope, Upsert};
use meshfed_model::export::{ClusterSelector, ExportTo};
use meshfed_model::locality::Locality;
use meshfed_model::member as model;
use meshfed_model::names::{ClusterName, Namespace, NetworkName, ServiceName, SubsetName};
use meshfed_model::network::Network;
use meshfed_model::offer::{
    EndpointKey, EndpointOffer, GatewayKey, GatewayOffer, GroupKey, GroupOffer, OfferKey, OfferValue, ServiceOffer,
};
use meshfed_model::policy::{ExportPolicy, FleetPolicies, ServicePattern};
use meshfed_model::service::{ServicePort, ServiceType};
use meshfed_model::version::Version;
use proptest::prelude::*;

use super::state::{HOLD, Now, SessionId, State};
use crate::fanout::Next;
use crate::fleet;
use crate::plan::Filter;

mod claims;
mod order;
mod replicas;
mod rules;

/// Any moment will do: no test here looks at a clock again.
fn start() -> Now {
    Now { instant: meshfed_runtime::clock::instant(), wall: Timestamp::UNIX_EPOCH }
}

/// What an agent says that holds nothing yet.
fn hello() -> Hello {
    let namespaces = (0..3).map(|n| format!("ns{n}").parse().unwrap()).collect();
    Hello {
        protocol: 1,
        version: String::new(),
        clock: String::new(),
        replica: 0,
        offer: Version::default(),
        offer_floor: 0,
        view: BTreeMap::new(),
        bundles: BTreeMap::new(),
        policy_revision: 0,
        interest: Interest { namespaces },
        instance: String::new(),
        lease: None,
    }
}

type Resources = BTreeMap<OfferKey, OfferValue>;

const CLUSTERS: [(&str, &[&str]); 4] = [("c0", &["n0"]), ("c1", &["n1"]), ("c2", &["n1"]), ("c3", &["n0", "n3"])];

fn cluster(i: usize) -> ClusterName {
    ClusterName::new(CLUSTERS[i].0).unwrap()
}

fn member(i: usize, labels: BTreeMap<String, String>) -> fleet::Member {
    let network = |n: &&str| Network { name: NetworkName::new(n).unwrap(), cidrs: BTreeSet::new() };
    fleet::Member {
        member: model::Member {
            cluster: cluster(i),
            trust_domain: format!("c{i}.f").parse().unwrap(),
            labels,
            drained: false,
            leaving: false,
            networks: CLUSTERS[i].1.iter().map(network).collect(),
            gateway_cidrs: BTreeSet::new(),
            regions: BTreeSet::new(),
        },
        zones: BTreeSet::new(),
        state: fleet::MemberState::Active,
        joined_at: Timestamp::UNIX_EPOCH,
        binding: 1,
    }
}

fn export(kind: u8) -> ExportTo {
    let selector = |clusters: &[&str], labels: &[(&str, &str)]| {
        ExportTo::Selected(BTreeSet::from([ClusterSelector {
            clusters: clusters.iter().map(|c| (*c).to_owned()).collect(),
            labels: labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        }]))
    };
    match kind {
        0 => ExportTo::Everyone,
        1 => ExportTo::Selected(BTreeSet::new()),
        2 => selector(&["c1", "c3"], &[]),
        _ => selector(&[], &[("env", "prod")]),
    }
}

fn service_name(s: usize) -> ServiceName {
    ServiceName::new(format!("ns{}", s % 3), format!("s{}", s / 3)).unwrap()
}

/// A service of cluster `i`: on its first network one group and one endpoint, `ready` of two.
fn resources(i: usize, s: usize, kind: u8, ready: u32) -> Resources {
    let service = service_name(s);
    let network = NetworkName::new(CLUSTERS[i].1[0]).unwrap();
    let identity: meshfed_model::identity::SpiffeId = format!("spiffe://c{i}.f/ns/a/sa/b").parse().unwrap();
    let port = ServicePort { name: "http".to_owned(), port: 80, protocol: "TCP".to_owned(), app_protocol: None };
    let offer = ServiceOffer {
        service_type: ServiceType::ClusterSetIP,
        ports: vec![port],
        export_to: export(kind),
        identities: BTreeSet::from([identity.clone()]),
        ..ServiceOffer::default()
    };
    let group = GroupKey {
        service: service.clone(),
        port: 80,
        subset: SubsetName::all(),
        network: network.clone(),
        locality: Locality::default(),
    };
    let endpoint = EndpointKey {
        service: service.clone(),
        port: 80,
        subset: SubsetName::all(),
        network,
        address: format!("10.{i}.{s}.{}", 1 + ready % 2).parse().unwrap(),
        target_port: 8080,
    };
    let value = EndpointOffer {
        locality: Locality::default(),
        weight: 1,
        ready: ready > 0,
        draining: false,
        identity,
        workload: "w".to_owned(),
    };
    BTreeMap::from([
        (OfferKey::Service(service), OfferValue::Service(offer)),
        (OfferKey::Group(group), OfferValue::Group(GroupOffer { ready, total: 2, weight: u64::from(ready) })),
        (OfferKey::Endpoint(endpoint), OfferValue::Endpoint(value)),
    ])
}

fn gateways(i: usize, count: u8) -> Resources {
    let network = NetworkName::new(CLUSTERS[i].1[0]).unwrap();
    (0..count)
        .map(|g| {
            // All clusters fight for the address that ends in 250.
            let address = if g == 2 { "10.9.9.250".to_owned() } else { format!("10.{i}.200.{g}") };
            let key = GatewayKey { network: network.clone(), address: address.parse().unwrap(), port: 15443 };
            let value = GatewayOffer { locality: Locality::default(), ready: true };
            (OfferKey::Gateway(key), OfferValue::Gateway(value))
        })
        .collect()
}

#[derive(Debug, Clone)]
enum Step {
    Service { at: usize, service: usize, kind: u8, ready: u32, there: bool },
    Gateways { at: usize, count: u8 },
    Interest { at: usize, mask: u8 },
    Label { at: usize, prod: bool },
    Policy { kind: u8 },
    Connect { at: usize },
    Disconnect { at: usize },
    Send { at: usize, count: usize },
    Receive { at: usize, count: usize },
    Pass { seconds: u64 },
    RestartHub,
    RestartAgent { at: usize, keep: bool },
    Leave { at: usize },
    Join { at: usize },
}

fn step() -> impl Strategy<Value = Step> {
    let at = 0..CLUSTERS.len();
    prop_oneof![
        8 => (at.clone(), 0usize..6, 0u8..4, 0u32..3, prop::bool::weighted(0.8))
            .prop_map(|(at, service, kind, ready, there)| Step::Service { at, service, kind, ready, there }),
        2 => (at.clone(), 0u8..4).prop_map(|(at, count)| Step::Gateways { at, count }),
        2 => (at.clone(), 0u8..8).prop_map(|(at, mask)| Step::Interest { at, mask }),
        1 => (at.clone(), any::<bool>()).prop_map(|(at, prod)| Step::Label { at, prod }),
        1 => (0u8..3).prop_map(|kind| Step::Policy { kind }),
        3 => at.clone().prop_map(|at| Step::Connect { at }),
        1 => at.clone().prop_map(|at| Step::Disconnect { at }),
        6 => (at.clone(), 1usize..4).prop_map(|(at, count)| Step::Send { at, count }),
        6 => (at.clone(), 1usize..4).prop_map(|(at, count)| Step::Receive { at, count }),
        2 => (1u64..40).prop_map(|seconds| Step::Pass { seconds }),
        1 => Just(Step::RestartHub),
        1 => (at.clone(), any::<bool>()).prop_map(|(at, keep)| Step::RestartAgent { at, keep }),
        1 => at.clone().prop_map(|at| Step::Leave { at }),
        2 => at.prop_map(|at| Step::Join { at }),
    ]
}

/// One agent: its numbered offer, and a plain reference of its view.
struct Agent {
    offer: History,
    wanted: BTreeMap<usize, Resources>,
    gateways: Resources,
    interest: BTreeSet<Namespace>,
    said_interest: BTreeSet<Namespace>,
    view: BTreeMap<ClusterName, (Version, u64, Resources)>,
    session: Option<SessionId>,
    sent: Version,
    parts: VecDeque<Delta>,
    staged: Option<Delta>,
    labels: BTreeMap<String, String>,
    member: bool,
    binding: u64,
}

struct World {
    hub: State,
    agents: Vec<Agent>,
    policies: FleetPolicies,
    revision: u64,
    claimed: u64,
    epoch: u64,
    /// (importer, origin, key) that the hub's own state ever allowed.
    allowed: BTreeSet<(usize, ClusterName, OfferKey)>,
    /// Filters that an importer ever had, by their id.
    filters: BTreeMap<(usize, u64), std::sync::Arc<Filter>>,
    now: Now,
    /// Audiences that a key of an origin ever had: also of what was removed before the hub heard of it.
    audiences: BTreeMap<(ClusterName, OfferKey), BTreeSet<ExportTo>>,
}

impl World {
    fn new() -> Self {
        let all: BTreeSet<Namespace> = (0..3).map(|n| Namespace::new(format!("ns{n}")).unwrap()).collect();
        let agent = |i: usize| Agent {
            offer: History::new(1),
            wanted: BTreeMap::new(),
            gateways: gateways(i, 1),
            interest: all.clone(),
            said_interest: all.clone(),
            view: BTreeMap::new(),
            session: None,
            sent: Version::default(),
            parts: VecDeque::new(),
            staged: None,
            labels: BTreeMap::new(),
            member: true,
            binding: 1,
        };
        let mut world = Self {
            hub: State::default(),
            agents: (0..CLUSTERS.len()).map(agent).collect(),
            policies: FleetPolicies::default(),
            revision: 0,
            claimed: 0,
            epoch: 1,
            allowed: BTreeSet::new(),
            filters: BTreeMap::new(),
            audiences: BTreeMap::new(),
            now: start(),
        };
        world.tell_members();
        world
    }

    fn tell_members(&mut self) {
        self.revision += 1;
        let mut members = fleet::Members { revision: self.revision, members: BTreeMap::new() };
        for (i, agent) in self.agents.iter().enumerate() {
            let mut m = member(i, agent.labels.clone());
            m.binding = agent.binding;
            m.state = if agent.member { fleet::MemberState::Active } else { fleet::MemberState::Left };
            members.members.insert(cluster(i), m);
        }
        self.hub.set_members(&members);
    }

    fn policy(kind: u8) -> Vec<ExportPolicy> {
        let to = |clusters: &[&str]| ClusterSelector {
            clusters: clusters.iter().map(|c| (*c).to_owned()).collect(),
            labels: BTreeMap::new(),
        };
        let services = vec![ServicePattern { namespace: "ns0".to_owned(), name: "*".to_owned() }];
        match kind {
            0 => vec![],
            1 => vec![ExportPolicy { services, to: to(&["c2"]) }],
            _ => vec![ExportPolicy { services, to: to(&["c*"]) }],
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Service { at, service, kind, ready, there } => {
                let resources = if there { resources(at, service, kind, ready) } else { Resources::new() };
                self.agents[at].offer.replace_service(&service_name(service), resources.clone());
                self.agents[at].wanted.insert(service, resources);
            }
            Step::Gateways { at, count } => {
                self.agents[at].gateways = gateways(at, count);
                let all = self.agents[at].gateways.clone();
                self.agents[at].offer.replace_gateways(all);
            }
            Step::Interest { at, mask } => {
                let name = |n: u8| Namespace::new(format!("ns{n}")).unwrap();
                self.agents[at].interest = (0..3).filter(|n| mask & (1 << n) != 0).map(name).collect();
            }
            Step::Label { at, prod } => {
                let label = if prod { vec![("env".to_owned(), "prod".to_owned())] } else { vec![] };
                self.agents[at].labels = label.into_iter().collect();
                self.tell_members();
            }
            Step::Policy { kind } => {
                self.revision += 1;
                self.policies =
                    FleetPolicies { revision: self.revision, export: Self::policy(kind), ..FleetPolicies::default() };
                self.hub.set_policies(&self.policies.clone());
            }
            Step::Connect { at } => self.connect(at),
            Step::Disconnect { at } => self.disconnect(at),
            Step::Send { at, count } => (0..count).for_each(|_| {
                self.send(at);
            }),
            Step::Receive { at, count } => (0..count).for_each(|_| {
                self.receive(at);
            }),
            Step::Pass { seconds } => self.pass(Duration::from_secs(seconds)),
            Step::RestartHub => {
                (0..CLUSTERS.len()).for_each(|at| self.disconnect(at));
                // Who has which gateway address is durable.
                let gateways = self.hub.catalog().gateway_owners().clone();
                self.hub = State::new(BTreeMap::new(), gateways.clone());
                self.tell_members();
                assert_eq!(*self.hub.catalog().gateway_owners(), gateways);
                self.hub.set_policies(&self.policies.clone());
            }
            Step::RestartAgent { at, keep } => self.restart(at, keep),
            Step::Leave { at } => {
                self.agents[at].member = false;
                self.tell_members();
            }
            Step::Join { at } => {
                if !self.agents[at].member {
                    self.agents[at].member = true;
                    self.agents[at].binding += 1;
                    // A new data directory: nothing of the old one is left.
                    self.restart(at, false);
                    self.agents[at].view.clear();
                    self.tell_members();
                }
            }
        }
        self.note_allowed();
    }

    fn pass(&mut self, time: Duration) {
        self.now.instant += time;
        self.note_allowed();
        drop(self.hub.pass(self.now.instant));
    }

    fn restart(&mut self, at: usize, keep: bool) {
        self.disconnect(at);
        if !keep {
            self.epoch += 1;
            let agent = &mut self.agents[at];
            agent.offer = History::new(self.epoch);
            for (service, resources) in &agent.wanted {
                agent.offer.replace_service(&service_name(*service), resources.clone());
            }
            agent.offer.replace_gateways(agent.gateways.clone());
        }
    }

    fn connect(&mut self, at: usize) {
        let agent = &self.agents[at];
        let held = |(origin, (version, filter, _)): (&ClusterName, &(Version, u64, Resources))| {
            (origin.clone(), HeldOrigin { version: *version, filter: *filter })
        };
        let hello = Hello {
            protocol: 1,
            version: "0".to_owned(),
            clock: String::new(),
            replica: 0,
            offer: agent.offer.version(),
            offer_floor: agent.offer.floor(),
            view: agent.view.iter().map(held).collect(),
            bundles: BTreeMap::new(),
            policy_revision: 0,
            interest: Interest { namespaces: agent.said_interest.clone() },
            instance: String::new(),
            lease: None,
        };
        let opened = self.hub.open((&cluster(at), 0, agent.binding), hello, self.now);
        let agent = &mut self.agents[at];
        agent.staged = None;
        agent.parts.clear();
        if let Some(old) = agent.session.take() {
            self.hub.close(old);
        }
        agent.session = opened.ok().map(|opened| opened.id);
        assert_eq!(agent.session.is_some(), agent.member);
        agent.sent = self.hub.catalog().history(&cluster(at)).map(History::version).unwrap_or_default();
        if agent.sent > agent.offer.version() {
            self.epoch = self.epoch.max(agent.sent.epoch) + 1;
            let (wanted, gateways) = (agent.wanted.clone(), agent.gateways.clone());
            agent.offer = History::new(self.epoch);
            for (service, resources) in wanted {
                agent.offer.replace_service(&service_name(service), resources);
            }
            agent.offer.replace_gateways(gateways);
        }
    }

    fn disconnect(&mut self, at: usize) {
        if let Some(id) = self.agents[at].session.take() {
            self.hub.close(id);
        }
    }

    /// One message of the agent; whether there was one.
    fn send(&mut self, at: usize) -> bool {
        let agent = &mut self.agents[at];
        let Some(id) = agent.session else { return false };
        if !self.hub.is_current(id) {
            return false;
        }
        if agent.said_interest != agent.interest {
            agent.said_interest = agent.interest.clone();
            self.hub.interest(id, agent.interest.clone());
            return true;
        }
        if agent.parts.is_empty() && agent.sent != agent.offer.version() {
            agent.parts = agent.offer.since(agent.sent, Scope::Replica).into();
            agent.sent = agent.offer.version();
        }
        let Some(part) = agent.parts.pop_front() else { return false };
        let taken = self.hub.offer(id, part, self.now).unwrap();
        if taken.reached {
            self.claimed += 1;
            let claims = taken.added.iter().map(|service| (service.clone(), self.claimed)).collect();
            self.hub.offered(id, &taken, claims, &taken.removed);
        }
        true
    }

    /// One message of the hub; whether there was one.
    fn receive(&mut self, at: usize) -> bool {
        let Some(id) = self.agents[at].session else { return false };
        self.note_allowed();
        let Some(next) = self.hub.next(id) else { return false };
        let agent = &mut self.agents[at];
        match next {
            Next::Fenced(_) => self.disconnect(at),
            Next::OriginGone(origin) => {
                agent.staged = None;
                agent.view.remove(&origin);
            }
            Next::Seniority(order) => {
                for (service, clusters) in order {
                    for origin in clusters.into_iter().filter(|c| *c != cluster(at)) {
                        let seen = self.allowed.contains(&(at, origin.clone(), OfferKey::Service(service.clone())));
                        assert!(seen, "c{at} was told that {origin} exports {service}");
                    }
                }
            }
            Next::View { origin, filter, delta } => {
                for Upsert { key, .. } in &delta.upserts {
                    let seen = self.allowed.contains(&(at, origin.clone(), key.clone()));
                    assert!(seen, "c{at} was told {key:?} of {origin}");
                }
                for key in delta.removals.iter().map(|r| &r.key) {
                    let audiences = &self.audiences[&(origin.clone(), key.clone())];
                    let mut filters = self.filters.range((at, 0)..=(at, u64::MAX)).map(|(_, f)| f);
                    let seen = filters.any(|f| audiences.iter().any(|to| f.saw(key, to)));
                    assert!(seen, "c{at} was told that {key:?} of {origin} is gone");
                }
                let whole = match agent.staged.take() {
                    None => delta,
                    Some(mut first) => {
                        first.upserts.extend(delta.upserts);
                        first.removals.extend(delta.removals);
                        first.more = delta.more;
                        first
                    }
                };
                if whole.more {
                    agent.staged = Some(whole);
                    return true;
                }
                let held = agent.view.entry(origin.clone()).or_default();
                assert!(whole.version >= held.0, "{origin} went back");
                assert!(whole.complete || whole.base == held.0, "{origin}: {} is not {}", whole.base, held.0);
                if whole.complete {
                    held.2.clear();
                }
                for removal in &whole.removals {
                    held.2.remove(&removal.key);
                }
                held.2.extend(whole.upserts.into_iter().map(|u| (u.key, u.value)));
                (held.0, held.1) = (whole.version, filter);
                self.hub.acked(id, &Ack { origin, version: whole.version, refused: vec![] });
            }
            Next::OfferAck(_)
            | Next::Query(_)
            | Next::Heartbeat
            | Next::CaughtUp(_)
            | Next::Bundle(_)
            | Next::BundleGone(_)
            | Next::Members
            | Next::Policies
            | Next::SharedNetworks => {}
        }
        true
    }

    /// Notes what the hub's state lets each importer see now, and to whom the origins say they show it.
    fn note_allowed(&mut self) {
        for (o, agent) in self.agents.iter().enumerate() {
            for (key, _) in agent.offer.iter() {
                let to = key.service().map_or(ExportTo::Everyone, |s| export_of(&agent.offer, s));
                self.audiences.entry((cluster(o), key.clone())).or_default().insert(to);
            }
        }
        for (i, agent) in self.agents.iter().enumerate() {
            let Some(filter) = agent.session.and_then(|id| self.hub.session(id)).map(|s| s.filter.clone()) else {
                continue;
            };
            self.filters.insert((i, filter.id()), filter.clone());
            for origin in self.hub.catalog().clusters() {
                for key in visible(self.hub.catalog().history(origin).unwrap(), &filter).into_keys() {
                    self.allowed.insert((i, origin.clone(), key));
                }
            }
        }
    }

    fn settle(&mut self, anew: bool) {
        for at in 0..CLUSTERS.len() {
            if !self.agents[at].member {
                self.step(Step::Join { at });
            }
        }
        for at in 0..CLUSTERS.len() {
            // Sessions that stand go on: a new one would hide what an old one was not told.
            if anew || !self.agents[at].session.is_some_and(|id| self.hub.is_current(id)) {
                self.connect(at);
            }
        }
        for _ in 0..10_000 {
            // What is held back of a full sync is carried out in the end.
            self.pass(HOLD);
            let moved: Vec<bool> = (0..CLUSTERS.len()).map(|at| self.send(at) | self.receive(at)).collect();
            if moved.iter().all(|m| !m) {
                return;
            }
        }
        panic!("the fleet does not come to rest");
    }

    fn check(&self) {
        for (i, agent) in self.agents.iter().enumerate() {
            let exports = std::sync::Arc::new(self.policies.export.clone());
            let filter = Filter::new(self.hub.live(), &cluster(i), agent.interest.clone(), exports).unwrap();
            for (o, origin) in self.agents.iter().enumerate().filter(|(o, _)| *o != i) {
                let mut truth = visible(&origin.offer, &filter);
                let mut held = agent.view.get(&cluster(o)).map(|v| v.2.clone()).unwrap_or_default();
                // Who of several has the contested gateway is the hub's decision; that at most one has is checked below.
                let contested =
                    |key: &OfferKey| matches!(key, OfferKey::Gateway(g) if g.address.to_string() == "10.9.9.250");
                truth.retain(|k, _| !contested(k));
                held.retain(|k, _| !contested(k));
                assert_eq!(held, truth, "c{i} of c{o}");
            }
            let session = self.hub.session(agent.session.unwrap()).unwrap();
            assert_eq!(self.hub.unsettled(session), vec![], "c{i} is settled");
        }
        self.check_contested();
    }

    /// The contested gateway belongs to one of those that offer it, and all who can see that one hold it.
    fn check_contested(&self) {
        let wants: Vec<usize> =
            (0..CLUSTERS.len()).filter(|i| self.agents[*i].gateways.keys().any(is_contested)).collect();
        let has = |i: &usize| {
            self.hub.catalog().gateways_of(&cluster(*i)).any(|(k, _)| is_contested(&OfferKey::Gateway(k.clone())))
        };
        let owners: Vec<usize> = (0..CLUSTERS.len()).filter(has).collect();
        assert_eq!(owners.len(), wants.len().min(1), "owners {owners:?} of {wants:?}");
        for (i, agent) in self.agents.iter().enumerate() {
            for o in (0..CLUSTERS.len()).filter(|o| *o != i) {
                let held = agent.view.get(&cluster(o)).is_some_and(|v| v.2.keys().any(is_contested));
                let other_network = CLUSTERS[i].1.iter().any(|n| *n != CLUSTERS[o].1[0]);
                assert_eq!(held, owners == [o] && other_network, "c{i} of c{o}, owners {owners:?}");
            }
        }
    }
}

fn is_contested(key: &OfferKey) -> bool {
    matches!(key, OfferKey::Gateway(g) if g.address.to_string() == "10.9.9.250")
}

fn export_of(offer: &History, service: &ServiceName) -> ExportTo {
    match offer.get(&OfferKey::Service(service.clone())) {
        Some(OfferValue::Service(s)) => s.export_to.clone(),
        _ => ExportTo::Selected(BTreeSet::new()),
    }
}

/// What the filter shows of an offer, as an importer holds it.
fn visible(offer: &History, filter: &Filter) -> Resources {
    let export_of = |service: &ServiceName| export_of(offer, service);
    let sees = |key: &OfferKey| filter.sees(key, &key.service().map_or(ExportTo::Everyone, export_of));
    let hidden = |value: &OfferValue| match value {
        OfferValue::Service(s) => {
            OfferValue::Service(ServiceOffer { export_to: ExportTo::Selected(BTreeSet::new()), ..s.clone() })
        }
        OfferValue::Group(_) | OfferValue::Endpoint(_) | OfferValue::Gateway(_) => value.clone(),
    };
    offer.iter().filter(|(k, _)| sees(k)).map(|(k, v)| (k.clone(), hidden(v))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, max_shrink_iters: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Mutations seen to fail: `same.then` always in `Outbox::resume` (a filter that changed while away); `touch` with `considered` at the new
    /// version; `origin.retake` left out of `free_gateway`.
    #[test]
    fn every_importer_converges_and_is_told_nothing_else(steps in prop::collection::vec(step(), 1..120)) {
        let mut world = World::new();
        (0..CLUSTERS.len()).for_each(|at| world.connect(at));
        for step in steps {
            world.step(step);
        }
        world.settle(false);
        world.check();
        world.settle(true);
        world.check();
    }
}
