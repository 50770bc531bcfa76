//! What one endpoint change costs in the hub, with few and with many services: allocations and bytes allocated, from
//! the message of the exporting agent to the message for one importing agent, and the bytes of both. Prints a Markdown
//! table, and fails where the cost depends on the number of services.
//!
//! Mutation seen to fail: the filter not compared in `Outbox::compute` (every change sends everything).
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark tool"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Instant;

use jiff::Timestamp;
use meshfed_api::border::{Ack, Hello, Interest, Part};
use meshfed_api::proto::federation as wire;
use meshfed_api::stream::{Delta, History, Scope};
use meshfed_federator::fanout::Next;
use meshfed_federator::fleet::{Member, MemberState, Members};
use meshfed_federator::session::state::{Now, SessionId, State};
use meshfed_model::export::ExportTo;
use meshfed_model::locality::Locality;
use meshfed_model::member as model;
use meshfed_model::names::{ClusterName, NetworkName, ServiceName, SubsetName};
use meshfed_model::network::Network;
use meshfed_model::offer::{GroupKey, GroupOffer, OfferKey, OfferValue, ServiceOffer};
use meshfed_model::service::{ServicePort, ServiceType};
use meshfed_model::version::Version;
use prost::Message as _;

/// Endpoints of each service, in one group.
const ENDPOINTS: u32 = 100;
/// Changes that are measured; the median is printed.
const ROUNDS: u32 = 21;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    static ALLOCATED: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call is passed on to the system allocator as it is; only counters of this thread are added to.
#[expect(unsafe_code, reason = "a counting allocator is the measure")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        ALLOCATED.set(ALLOCATED.get() + layout.size() as u64);
        // SAFETY: as above.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn member(name: &str) -> (ClusterName, Member) {
    let cluster = ClusterName::new(name).unwrap();
    let network = Network { name: NetworkName::new(format!("net-{name}")).unwrap(), cidrs: BTreeSet::new() };
    let member = model::Member {
        cluster: cluster.clone(),
        trust_domain: format!("{name}.mesh.example").parse().unwrap(),
        labels: BTreeMap::new(),
        drained: false,
        leaving: false,
        networks: vec![network],
        gateway_cidrs: BTreeSet::new(),
        regions: BTreeSet::from(["eu".to_owned()]),
    };
    let (zones, joined_at) = (BTreeSet::new(), Timestamp::UNIX_EPOCH);
    (cluster, Member { member, zones, state: MemberState::Active, joined_at, binding: 1 })
}

fn service(number: usize) -> ServiceName {
    ServiceName::new("shop", format!("s{number}")).unwrap()
}

/// A service with one port and one group, of which `ready` endpoints are ready.
fn resources(number: usize, ready: u32) -> BTreeMap<OfferKey, OfferValue> {
    let port = ServicePort { name: "http".to_owned(), port: 8080, protocol: "TCP".to_owned(), app_protocol: None };
    let offer = ServiceOffer {
        service_type: ServiceType::ClusterSetIP,
        ports: vec![port],
        export_to: ExportTo::Everyone,
        identities: BTreeSet::from([format!("spiffe://east.mesh.example/ns/shop/sa/s{number}").parse().unwrap()]),
        ..ServiceOffer::default()
    };
    let group = GroupKey {
        service: service(number),
        port: 8080,
        subset: SubsetName::all(),
        network: NetworkName::new("net-east").unwrap(),
        locality: Locality::new("eu", "eu-1"),
    };
    let counts = GroupOffer { ready, total: ENDPOINTS, weight: ready.into() };
    BTreeMap::from([
        (OfferKey::Service(service(number)), OfferValue::Service(offer)),
        (OfferKey::Group(group), OfferValue::Group(counts)),
    ])
}

/// One exporting and one importing cluster, which wants to see the namespace.
struct World {
    hub: State,
    offer: History,
    east: SessionId,
    west: SessionId,
    now: Now,
}

/// What was done for one change.
#[derive(Default)]
struct Cost {
    allocations: u64,
    allocated: u64,
    up: u64,
    down: u64,
}

impl World {
    fn new(services: usize) -> Self {
        let mut hub = State::default();
        hub.set_members(&Members { revision: 1, members: ["east", "west"].map(member).into() });
        let now = Now { instant: Instant::now(), wall: Timestamp::UNIX_EPOCH };
        let [east, west] = ["east", "west"].map(|name| {
            let hello = Hello {
                protocol: 1,
                version: String::new(),
                clock: String::new(),
                replica: 0,
                offer: Version::default(),
                offer_floor: 0,
                view: BTreeMap::new(),
                bundles: BTreeMap::new(),
                policy_revision: 0,
                interest: Interest { namespaces: BTreeSet::from(["shop".parse().unwrap()]) },
                instance: String::new(),
                lease: None,
            };
            hub.open((&ClusterName::new(name).unwrap(), 0, 1), hello, now).unwrap().id
        });
        let mut offer = History::new(1);
        for number in 0..services {
            offer.replace_service(&service(number), resources(number, ENDPOINTS));
        }
        let parts = offer.complete(Scope::Replica);
        let mut world = Self { hub, offer, east, west, now };
        for part in parts {
            world.exchange(&wire::Delta::from(&part).encode_to_vec());
        }
        world
    }

    /// Another number of ready endpoints in one service, from the exporter's message on.
    fn change(&mut self, ready: u32) -> Cost {
        let base = self.offer.version();
        self.offer.replace_service(&service(3), resources(3, ready));
        let parts: Vec<Delta> = self.offer.since(base, Scope::Replica);
        let [part] = parts.as_slice() else { panic!("one change is one part") };
        let message = wire::Delta::from(part).encode_to_vec();
        let before = (ALLOCATIONS.get(), ALLOCATED.get());
        let down = self.exchange(&message);
        let (allocations, allocated) = (ALLOCATIONS.get() - before.0, ALLOCATED.get() - before.1);
        Cost { allocations, allocated, up: message.len() as u64, down }
    }

    /// The hub takes a message, acknowledges it, and tells the importer; gives the bytes for the importer.
    fn exchange(&mut self, message: &[u8]) -> u64 {
        let part = Part::try_from(wire::Delta::decode(message).unwrap()).unwrap();
        let taken = self.hub.offer(self.east, part, self.now).unwrap();
        if !taken.reached {
            return 0;
        }
        assert!(taken.refused.is_empty(), "{:?}", taken.refused);
        self.hub.offered(self.east, &taken, BTreeMap::new(), &[]);
        while self.hub.next(self.east).is_some() {}
        let mut down = 0;
        while let Some(next) = self.hub.next(self.west) {
            if let Next::View { origin, filter, delta } = next {
                let version = delta.version;
                let view = wire::ViewDelta { origin: origin.to_string(), delta: Some((&delta).into()), filter };
                let message = wire::HubMessage { message: Some(wire::hub_message::Message::View(view)) };
                down += message.encode_to_vec().len() as u64;
                self.hub.acked(self.west, &Ack { origin, version, refused: Vec::new() });
            }
        }
        down
    }
}

fn median(costs: &[Cost], of: impl Fn(&Cost) -> u64) -> u64 {
    let mut values: Vec<u64> = costs.iter().map(of).collect();
    values.sort_unstable();
    values[values.len() / 2]
}

fn main() {
    let mut out = String::from(
        "| services | endpoints each | allocations | bytes allocated | bytes from the exporter | bytes to one importer |\n|---|---|---|---|---|---|\n",
    );
    let mut all = Vec::new();
    for services in [10, 1000] {
        let mut world = World::new(services);
        let costs: Vec<Cost> = (0..ROUNDS).map(|round| world.change(50 + round)).collect();
        let of = [
            median(&costs, |c| c.allocations),
            median(&costs, |c| c.allocated),
            median(&costs, |c| c.up),
            median(&costs, |c| c.down),
        ];
        assert!(of[3] > 0, "the importer was told nothing");
        let [allocations, allocated, up, down] = of;
        let _infallible = writeln!(out, "| {services} | {ENDPOINTS} | {allocations} | {allocated} | {up} | {down} |");
        all.push(of);
    }
    println!(
        "{out}\nMedians of {ROUNDS} changes, from one exporter to one importer; the hub's own work, without gRPC."
    );
    let (few, many) = (all[0], all[1]);
    // The revisions are longer numbers, and trees are deeper by some levels.
    for (few, many) in few.into_iter().zip(many) {
        assert!(many * 4 <= few * 5, "{few} with 10 services, {many} with 1000");
    }
}
