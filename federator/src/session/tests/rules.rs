//! Rules of single sessions, on a clock that stands until a test moves it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use meshfed_api::border::{Class, Part, Subject};
use meshfed_api::proto::federation as wire;
use meshfed_api::stream::{Delta, History, PART_RESOURCES_MAX, Scope, StreamError};
use meshfed_model::names::NetworkName;
use meshfed_model::network::Network;
use meshfed_model::offer::{OfferKey, OfferValue};
use meshfed_model::version::Version;

use super::super::desk;
use super::super::fair::{Fair, QUANTUM, WAITING_MAX};
use super::super::heard::Heard;
use super::super::state::{
    FLIPS_WINDOW, Freshness, GATEWAY_KEPT, HOLD, Now, OpenError, Opened, STALE_AFTER, SessionId, State,
};
use super::{Resources, cluster, gateways, hello, member, resources, service_name, start};
use crate::catalog::Taken;
use crate::fanout::Next;
use crate::fleet;

pub(super) struct Hub {
    pub(super) state: State,
    pub(super) now: Now,
}

impl Hub {
    /// c0 on n0, c1 on n1.
    pub(super) fn new() -> Self {
        let mut hub = Self { state: State::default(), now: start() };
        hub.members(1);
        hub
    }
    fn members(&mut self, binding_of_c0: u64) {
        self.state.set_members(&Self::fleet(binding_of_c0));
    }
    fn fleet(binding_of_c0: u64) -> fleet::Members {
        let mut members = fleet::Members { revision: binding_of_c0, members: BTreeMap::new() };
        for i in 0..2 {
            let mut m = member(i, BTreeMap::new());
            m.binding = if i == 0 { binding_of_c0 } else { 1 };
            let cidrs = BTreeSet::from(["10.0.0.0/8".parse().unwrap()]);
            m.member.networks = vec![Network { name: NetworkName::new(format!("n{i}")).unwrap(), cidrs }];
            members.members.insert(cluster(i), m);
        }
        members
    }
    fn try_open(&mut self, i: usize, binding: u64) -> Result<Opened, OpenError> {
        self.state.open((&cluster(i), 0, binding), hello(), self.now)
    }
    pub(super) fn open(&mut self, i: usize) -> SessionId {
        self.try_open(i, 1).unwrap().id
    }
    fn offer(&mut self, id: SessionId, part: impl Into<Part>) -> Taken {
        self.state.offer(id, part, self.now).unwrap()
    }
    /// Everything of an offer, as a new epoch sends it.
    pub(super) fn sync(&mut self, id: SessionId, offer: &History) -> Taken {
        let parts = offer.complete(Scope::Replica);
        parts.into_iter().map(|part| self.offer(id, part)).last().unwrap()
    }
    fn after(&mut self, time: Duration) -> super::super::state::Passed {
        self.now.instant += time;
        self.state.pass(self.now.instant)
    }
    fn held(&self) -> BTreeSet<OfferKey> {
        self.state.catalog().history(&cluster(0)).unwrap().iter().map(|(k, _)| k.clone()).collect()
    }
    /// What a session is told of another cluster now.
    pub(super) fn told_of(&mut self, id: SessionId, i: usize) -> BTreeSet<OfferKey> {
        let mut told = BTreeSet::new();
        while let Some(next) = self.state.next(id) {
            if let Next::View { origin, delta, .. } = next
                && origin == cluster(i)
            {
                told.extend(delta.upserts.into_iter().map(|u| u.key));
            }
        }
        told
    }
    /// What is sent to a session now, as keys of c0.
    fn view(&mut self, id: SessionId, mut view: BTreeSet<OfferKey>) -> BTreeSet<OfferKey> {
        while let Some(next) = self.state.next(id) {
            let Next::View { delta, .. } = next else { continue };
            if delta.complete {
                view.clear();
            }
            for removal in &delta.removals {
                view.remove(&removal.key);
            }
            view.extend(delta.upserts.into_iter().map(|u| u.key));
        }
        view
    }
}

pub(super) fn offer_of(epoch: u64, services: &[usize]) -> History {
    let mut offer = History::new(epoch);
    for s in services {
        offer.replace_service(&service_name(*s), resources(0, *s, 0, 1));
    }
    offer
}

pub(super) fn keys(offer: &History) -> BTreeSet<OfferKey> {
    offer.iter().map(|(k, _)| k.clone()).collect()
}

/// JT10. Mutations seen to fail: the binding not compared in `State::open`; `fence` left out of `withdraw`.
#[test]
fn a_new_binding_ends_the_sessions_of_the_old_one() {
    let mut hub = Hub::new();
    let id = hub.open(0);
    hub.sync(id, &offer_of(1, &[0]));
    while hub.state.next(id).is_some() {}
    hub.members(2);
    assert!(!hub.state.is_current(id), "nothing that it says counts");
    assert!(hub.state.fenced(id).is_some() && matches!(hub.state.next(id), Some(Next::Fenced(_))));
    assert_eq!(hub.state.sessions_of(&cluster(0)).count(), 0, "nor is it shown or asked");
    assert_eq!(hub.held(), BTreeSet::new());
    assert_eq!(hub.try_open(0, 1), Err(OpenError::Binding(cluster(0))), "looked at before, opened after");
    assert!(hub.try_open(0, 2).is_ok());
}

fn group(s: usize, ready: u32, total: u32) -> wire::Resource {
    let (key, value) = resources(0, s, 0, 1).into_iter().find(|(k, _)| matches!(k, OfferKey::Group(_))).unwrap();
    let OfferValue::Group(mut value) = value else { panic!("a group") };
    (value.ready, value.total) = (ready, total);
    wire::Resource { key: Some((&key).into()), revision: 2, value: Some((&OfferValue::Group(value)).into()) }
}

fn endpoint(address: &str, port: u32) -> wire::Resource {
    let (key, value) = resources(0, 0, 0, 1).into_iter().find(|(k, _)| matches!(k, OfferKey::Endpoint(_))).unwrap();
    let mut key = wire::ResourceKey::from(&key);
    let Some(wire::resource_key::Key::Endpoint(e)) = &mut key.key else { panic!("an endpoint") };
    e.address = match address.parse().unwrap() {
        std::net::IpAddr::V4(a) => a.octets().to_vec(),
        std::net::IpAddr::V6(a) => a.octets().to_vec(),
    };
    e.target_port = port;
    wire::Resource { key: Some(key), revision: 2, value: Some((&value).into()) }
}

fn huge(s: usize) -> wire::Resource {
    let (key, value) = resources(0, s, 0, 1).into_iter().find(|(k, _)| matches!(k, OfferKey::Service(_))).unwrap();
    let mut value = wire::resource::Value::from(&value);
    let wire::resource::Value::Service(service) = &mut value else { panic!("a service") };
    service.identities = (0..2_000).map(|n| format!("spiffe://c0.f/ns/a/sa/account-number-{n}")).collect();
    wire::Resource { key: Some((&key).into()), revision: 2, value: Some(value) }
}

/// SY2: each is refused by name, everything else of the message is taken, and the last good one stays.
/// Mutations seen to fail: `self.refuse` in `Part::upsert` replaced by an `Err` of the whole part; the kept ones not
/// put back in `judge` (the complete half).
#[test]
fn one_bad_resource_is_refused_by_name_and_the_rest_is_taken() {
    for complete in [false, true] {
        let mut hub = Hub::new();
        let id = hub.open(0);
        hub.sync(id, &offer_of(1, &[0, 1]));
        let held = hub.held();
        let before: Vec<_> = [group(1, 1, 2), huge(1)]
            .iter()
            .map(|r| {
                let key = OfferKey::try_from(r.key.clone().unwrap()).unwrap();
                let value = hub.state.catalog().history(&cluster(0)).unwrap().get(&key).cloned();
                (key, value.expect("it is there"))
            })
            .collect();
        let mut upserts = vec![
            group(1, 5, 2),
            endpoint("10.0.0.9", 0),
            endpoint("::ffff:10.0.0.9", 80),
            endpoint("192.168.0.1", 80),
            huge(1),
            wire::Resource::default(),
            endpoint("10.0.0.7", 80),
        ];
        let epoch = if complete { 2 } else { 1 };
        if complete {
            // A full sync names the rest of what is there.
            let named = offer_of(1, &[0, 1]);
            upserts.extend(
                named.iter().filter(|(k, _)| !before.iter().any(|(b, _)| b == *k)).map(|(k, v)| wire::Resource {
                    key: Some(k.into()),
                    revision: 2,
                    value: Some(v.into()),
                }),
            );
        }
        let message = wire::Delta {
            base: (!complete).then_some(wire::Version { epoch: 1, revision: 2 }),
            version: Some(wire::Version { epoch, revision: 3 }),
            complete,
            upserts,
            ..wire::Delta::default()
        };
        let taken = hub.offer(id, Part::try_from(message).unwrap());
        let codes: Vec<(&str, Class)> = taken.refused.iter().map(|r| (r.code.as_str(), r.class)).collect();
        let invalid = ("InvalidResource", Class::InvalidArgument);
        let too_large = ("ResourceTooLarge", Class::ResourceExhausted);
        let elsewhere = ("AddressNotAllowed", Class::PermissionDenied);
        assert_eq!(codes, [invalid, invalid, invalid, too_large, invalid, elsewhere]);
        let named: Vec<String> = taken.refused.iter().map(|r| r.subject.to_string()).collect();
        assert_eq!(named[1], "Endpoint ns0/s0:80 at 10.0.0.9 port 0");
        assert_eq!(named[2], "Endpoint ns0/s0:80 at ::ffff:10.0.0.9 port 80");
        assert_eq!((taken.reached, taken.version), (true, Version::new(epoch, 3)));
        assert!(hub.state.is_current(id));
        let new = OfferKey::try_from(endpoint("10.0.0.7", 80).key.unwrap()).unwrap();
        assert_eq!(hub.held(), held.iter().cloned().chain([new]).collect(), "complete: {complete}");
        for (key, value) in before {
            let history = hub.state.catalog().history(&cluster(0)).unwrap();
            assert_eq!(history.get(&key), Some(&value), "the last good one, complete: {complete}");
        }
        assert_eq!(hub.state.catalog().refused(&cluster(0)).count(), 6);
        // Told to the agent, in words that it can read.
        hub.state.offered(id, &taken, BTreeMap::new(), &[]);
        let mut acks = Vec::new();
        while let Some(next) = hub.state.next(id) {
            if let Next::OfferAck(ack) = next {
                acks.push(ack);
            }
        }
        let told = meshfed_api::border::Ack::try_from(wire::Ack::from(&acks[0])).unwrap();
        assert_eq!(told.refused, taken.refused);
        // What is withdrawn is no more refused, also where its key is none.
        let gone = wire::Tombstone { key: endpoint("10.0.0.9", 0).key, revision: 4, audience: None };
        let message = wire::Delta {
            base: Some(wire::Version { epoch, revision: 3 }),
            version: Some(wire::Version { epoch, revision: 4 }),
            removals: vec![gone],
            ..wire::Delta::default()
        };
        hub.offer(id, Part::try_from(message).unwrap());
        let subject = Subject::said(endpoint("10.0.0.9", 0).key.as_ref());
        assert!(hub.state.catalog().refused(&cluster(0)).all(|r| r.subject != subject));
    }
}

/// Mutation seen to fail: `room` always true in `Part::try_from`.
#[test]
fn a_message_with_too_many_resources_loses_those_and_not_the_session() {
    let mut hub = Hub::new();
    let id = hub.open(0);
    let one = |n: u32| endpoint(&format!("10.0.{}.{}", n / 250, 1 + n % 250), 80);
    let message = wire::Delta {
        version: Some(wire::Version { epoch: 1, revision: 3 }),
        complete: true,
        upserts: (0..300).map(one).collect(),
        ..wire::Delta::default()
    };
    let taken = hub.offer(id, Part::try_from(message).unwrap());
    assert_eq!((hub.held().len(), taken.refused_by_code["MessageTooLong"]), (256, 44));
    assert!(taken.refused.iter().all(|r| r.class == Class::ResourceExhausted));
    assert!(hub.state.is_current(id));
}

/// SY6. Mutations seen to fail: `FLIPS_MAX` as 4; the window not looked at in `alarms_until`; a withdrawal of the
/// cluster in `flip`.
#[test]
fn sessions_that_flip_raise_an_alarm_and_the_last_good_offer_stays() {
    let mut hub = Hub::new();
    let id = hub.open(0);
    hub.sync(id, &offer_of(1, &[0, 1, 2]));
    let good = hub.held();
    // Two agents of one identity: each has half sent a full sync of its own when the other takes over.
    for flip in 1..=3 {
        hub.now.instant += Duration::from_secs(5);
        let opened = hub.try_open(0, 1).unwrap();
        assert!(opened.follows && !opened.raised, "{flip}");
        let mut half = offer_of(10 + flip, &[0]).complete(Scope::Replica).remove(0);
        half.more = true;
        hub.offer(opened.id, half);
    }
    assert!(!hub.state.is_flipping(&cluster(0)));
    hub.now.instant += Duration::from_secs(5);
    assert!(hub.try_open(0, 1).unwrap().raised, "the fourth within a minute");
    assert!(hub.state.is_flipping(&cluster(0)));
    assert!(!hub.try_open(0, 1).unwrap().raised, "said once");
    assert_eq!(hub.held(), good);
    assert!(!hub.state.is_flipping(&cluster(1)));
    let end = hub.state.next_deadline(hub.now.instant).unwrap();
    assert!(end <= hub.now.instant + FLIPS_WINDOW);
    assert_eq!(hub.after(FLIPS_WINDOW).calm, [cluster(0)]);
    assert!(!hub.state.is_flipping(&cluster(0)));
    // Slow changes are no flips.
    for _ in 0..10 {
        hub.now.instant += FLIPS_WINDOW / 3;
        assert!(!hub.try_open(0, 1).unwrap().raised);
    }
}

/// A gateway that restarts is withdrawn and offered again: nobody takes its address in between. One that stays away has
/// given it up, and importers are told who has it now.
///
/// Mutations seen to fail: `keep_idle` with the moment itself in the place of `until`; `touch_all` left out of `pass`;
/// `idle_gateways` left out of `next_deadline`.
#[test]
fn a_gateway_address_is_kept_while_its_gateway_restarts() {
    let mut hub = Hub::new();
    let (east, west) = (hub.open(0), hub.open(1));
    let mut offers = [History::new(1), History::new(1)];
    let has = |hub: &Hub, i: usize| hub.state.catalog().gateways_of(&cluster(i)).count();
    for (i, id) in [(0, east), (1, west)] {
        offers[i].replace_gateways(gateways(i, 3).into_iter().skip(2).collect());
        for part in offers[i].complete(Scope::Replica) {
            hub.offer(id, part);
        }
    }
    assert_eq!((has(&hub, 0), has(&hub, 1)), (1, 0), "one address, east's");
    let seen = hub.view(west, BTreeSet::new());
    assert_eq!(seen.len(), 1);
    let change = |hub: &mut Hub, offer: &mut History, there: bool| {
        let before = offer.version();
        offer.replace_gateways(gateways(0, 3).into_iter().skip(2).filter(|_| there).collect());
        for part in offer.since(before, Scope::Replica) {
            hub.offer(east, part);
        }
    };
    change(&mut hub, &mut offers[0], false);
    let until = hub.now.instant + GATEWAY_KEPT;
    assert_eq!(hub.state.next_deadline(hub.now.instant), Some(until.min(hub.now.instant + STALE_AFTER)));
    assert!(hub.after(GATEWAY_KEPT - Duration::from_millis(1)).freed.is_empty());
    change(&mut hub, &mut offers[0], true);
    assert!(hub.after(GATEWAY_KEPT).freed.is_empty());
    assert_eq!((has(&hub, 0), has(&hub, 1)), (1, 0), "it was back in time");
    change(&mut hub, &mut offers[0], false);
    hub.view(east, BTreeSet::new());
    assert_eq!(hub.state.next_deadline(hub.now.instant), Some(hub.now.instant + GATEWAY_KEPT));
    assert_eq!(hub.after(GATEWAY_KEPT).freed.len(), 1);
    assert_eq!((has(&hub, 0), has(&hub, 1)), (0, 1));
    let told = hub.told_of(east, 1);
    assert_eq!(told.len(), 1, "east is told that it is west's");
    change(&mut hub, &mut offers[0], true);
    assert_eq!(has(&hub, 0), 0, "and is second now");
}

/// Who is bound anew keeps the gateway addresses of its name; who is no member any more has none.
///
/// Mutations seen to fail: `free_gateways_of_others` left out of `State::set_members`; it frees those of all.
#[test]
fn an_evicted_cluster_has_no_gateway_address() {
    let mut hub = Hub::new();
    for i in [0, 1] {
        let id = hub.open(i);
        let mut offer = History::new(1);
        offer.replace_gateways(gateways(i, 3).into_iter().skip(2).collect());
        for part in offer.complete(Scope::Replica) {
            hub.offer(id, part);
        }
    }
    let owners = |hub: &Hub| hub.state.catalog().gateway_owners().values().cloned().collect::<Vec<_>>();
    hub.members(2);
    assert_eq!((owners(&hub), hub.state.catalog().gateways_of(&cluster(0)).count()), (vec![cluster(0)], 0));
    let mut members = Hub::fleet(3);
    members.members.get_mut(&cluster(0)).unwrap().state = fleet::MemberState::Evicted;
    hub.state.set_members(&members);
    assert_eq!((owners(&hub), hub.state.catalog().gateways_of(&cluster(1)).count()), (vec![cluster(1)], 1));
}

/// SY7. Mutations seen to fail: `HOLD` not waited for (`holds` with the moment itself); `touch_all` left out of `pass`.
#[test]
fn a_full_sync_that_loses_most_endpoints_is_held_for_its_time() {
    let mut hub = Hub::new();
    let (east, west) = (hub.open(0), hub.open(1));
    hub.sync(east, &offer_of(1, &[0, 1, 2, 3]));
    let good = hub.held();
    let seen = hub.view(west, BTreeSet::new());
    assert!(!seen.is_empty());
    // One is left, and one is new: that is taken at once.
    let lossy = offer_of(2, &[3, 4]);
    let taken = hub.sync(east, &lossy);
    assert_eq!((taken.held.map(|l| (l.lost, l.of)), taken.version), (Some((6, 8)), lossy.version()));
    assert_eq!(taken.removed, vec![]);
    let both: BTreeSet<OfferKey> = good.iter().cloned().chain(keys(&lossy)).collect();
    assert_eq!(hub.held(), both);
    let seen = hub.view(west, seen);
    assert!(seen.contains(&OfferKey::Service(service_name(0))) && seen.contains(&OfferKey::Service(service_name(4))));
    assert_eq!(hub.state.holding(), 1);
    let early = hub.after(HOLD - Duration::from_millis(1));
    assert!(early.released.is_empty());
    assert_eq!(hub.held(), both);
    assert_eq!(hub.state.next_deadline(hub.now.instant), Some(hub.now.instant + Duration::from_millis(1)));
    let late = hub.after(Duration::from_millis(1));
    assert_eq!(late.released.len(), 1);
    assert_eq!(late.released[0].1.removed, [0, 1, 2].map(service_name));
    assert_eq!((hub.held(), hub.state.holding()), (keys(&lossy), 0));
    let seen = hub.view(west, seen);
    assert!(!seen.contains(&OfferKey::Service(service_name(0))) && seen.contains(&OfferKey::Service(service_name(3))));
}

/// What was held back is still carried out in its time when a change that does not follow on it was refused meanwhile.
///
/// Mutation seen to fail: `(None, None)` in `Catalog::take` replaced by `(None, origin.hold.take())`.
#[test]
fn a_refused_change_does_not_end_a_hold() {
    let mut hub = Hub::new();
    let id = hub.open(0);
    hub.sync(id, &offer_of(1, &[0, 1, 2, 3]));
    let lossy = offer_of(2, &[3]);
    assert!(hub.sync(id, &lossy).held.is_some());
    let version = lossy.version();
    let wrong = Delta {
        base: Version::new(version.epoch, version.revision + 5),
        version: Version::new(version.epoch, version.revision + 6),
        ..Delta::default()
    };
    assert!(matches!(hub.state.offer(id, wrong, hub.now), Err(StreamError::Base { .. })));
    assert_eq!(hub.state.holding(), 1);
    assert_eq!(hub.after(HOLD).released.len(), 1);
    assert_eq!(hub.held(), keys(&lossy));
}

/// SY7. Mutations seen to fail: the confirmed ones counted in `hold_back`; `explicit` not looked at; `loss_of` with
/// `>=` in the place of `>`.
#[test]
fn the_next_full_sync_confirms_and_what_is_removed_by_name_goes_at_once() {
    let mut hub = Hub::new();
    let id = hub.open(0);
    hub.sync(id, &offer_of(1, &[0, 1, 2, 3]));
    // Half is not most.
    let half = offer_of(2, &[0, 1]);
    assert_eq!(hub.sync(id, &half).held, None);
    assert_eq!(hub.held(), keys(&half));
    // Held, and confirmed by the next one of another epoch.
    assert!(hub.sync(id, &offer_of(3, &[])).held.is_some());
    assert_eq!(hub.held(), keys(&half));
    assert_eq!(hub.sync(id, &offer_of(4, &[])).held, None);
    assert_eq!(hub.held(), BTreeSet::new());
    // Removed by name, all of it, in a change and in a full sync that names its removals.
    for full in [false, true] {
        let mut offer = offer_of(5 + u64::from(full), &[0, 1, 2]);
        hub.sync(id, &offer);
        let stood = offer.version();
        for s in 0..3 {
            offer.replace_service(&service_name(s), Resources::new());
        }
        let parts = if full { offer.complete(Scope::Replica) } else { offer.since(stood, Scope::Replica) };
        for part in parts {
            assert_eq!(hub.offer(id, part).held, None, "full: {full}");
        }
        assert_eq!(hub.held(), BTreeSet::new(), "full: {full}");
    }
    // While it is held back, a change of the cluster goes on top, and what it names is held back no more.
    hub.sync(id, &offer_of(7, &[0, 1, 2]));
    let mut offer = offer_of(8, &[]);
    hub.sync(id, &offer);
    let stood = offer.version();
    offer.replace_service(&service_name(1), resources(0, 1, 0, 2));
    for part in offer.since(stood, Scope::Replica) {
        hub.offer(id, part);
    }
    let group = resources(0, 1, 0, 2).into_iter().find(|(k, _)| matches!(k, OfferKey::Group(_))).unwrap();
    assert_eq!(hub.state.catalog().history(&cluster(0)).unwrap().get(&group.0), Some(&group.1));
    assert_eq!(hub.state.catalog().exports_of(&cluster(0)).count(), 3);
    hub.after(HOLD);
    assert_eq!(hub.held(), keys(&offer));
}

/// SY7: groups that shrink lose endpoints, too. Mutation seen to fail: `less` not added to `lost` in `hold_back`.
#[test]
fn a_group_that_shrinks_in_a_full_sync_keeps_its_last_good_count_while_it_is_held() {
    let mut hub = Hub::new();
    let id = hub.open(0);
    let with = |epoch, total: u32| {
        let mut offer = History::new(epoch);
        let mut all = resources(0, 0, 0, 1);
        all.retain(|k, _| !matches!(k, OfferKey::Endpoint(_)));
        for value in all.values_mut() {
            if let OfferValue::Group(g) = value {
                g.total = total;
            }
        }
        offer.replace_service(&service_name(0), all);
        offer
    };
    hub.sync(id, &with(1, 100));
    let total = |hub: &Hub| hub.state.catalog().endpoints(&cluster(0), &service_name(0)).1;
    assert_eq!(hub.sync(id, &with(2, 60)).held, None);
    assert_eq!(total(&hub), 60);
    assert!(hub.sync(id, &with(3, 10)).held.is_some());
    assert_eq!(total(&hub), 60);
    hub.after(HOLD);
    assert_eq!(total(&hub), 10);
}

/// SY7: a full sync removes with its last part only. Mutation seen to fail: `more` ignored in `Origin::stage`.
#[test]
fn nothing_goes_before_the_sync_is_whole() {
    let mut hub = Hub::new();
    let id = hub.open(0);
    hub.sync(id, &offer_of(1, &[0, 1]));
    let good = hub.held();
    let mut part = offer_of(2, &[0]).complete(Scope::Replica).remove(0);
    part.more = true;
    assert!(!hub.offer(id, part).reached);
    assert_eq!(hub.held(), good);
    // A part of something else drops what was staged.
    let other = Delta { version: Version::new(3, 1), complete: true, ..Delta::default() };
    assert!(matches!(hub.state.offer(id, other, hub.now), Err(StreamError::Part { .. })));
    assert_eq!(hub.held(), good);
}

/// Faults 13: an agent that stands still is stale within 20 s, though its session stands. Mutations seen to fail:
/// `Fresh` for whoever has a session; `stale.remove` left out of `heard`.
#[test]
fn silence_makes_stale_and_a_word_makes_fresh() {
    let mut hub = Hub::new();
    let id = hub.open(0);
    assert_eq!(hub.state.next_deadline(hub.now.instant), Some(hub.now.instant + STALE_AFTER));
    assert!(hub.after(STALE_AFTER - Duration::from_millis(1)).is_empty());
    assert_eq!(hub.state.freshness(&cluster(0), hub.now.instant), Freshness::Fresh);
    assert_eq!(hub.after(Duration::from_millis(1)).stale, [cluster(0)]);
    assert_eq!(hub.state.freshness(&cluster(0), hub.now.instant), Freshness::Stale);
    assert_eq!(hub.state.next_deadline(hub.now.instant), None, "said once");
    assert!(hub.state.heard(id, hub.now) && !hub.state.heard(id, hub.now));
    assert_eq!(hub.state.next_deadline(hub.now.instant), Some(hub.now.instant + STALE_AFTER), "and may be again");
    assert_eq!(hub.state.freshness(&cluster(0), hub.now.instant), Freshness::Fresh);
    assert_eq!(hub.after(STALE_AFTER).stale, [cluster(0)]);
    assert_eq!(hub.state.freshness(&cluster(1), hub.now.instant), Freshness::Stale, "never heard of");
}

/// INV-10: what is done is paid for. A full part is one round; a full sync costs what is compared, however little it
/// says, and so do removals that nobody can read.
///
/// Mutations seen to fail: `QUANTUM` 256; `held` or `withdrawn` left out of the cost.
#[test]
fn work_costs_what_is_looked_at() {
    let mut hub = Hub::new();
    let id = hub.open(0);
    let cost = |hub: &Hub, part: Part| desk::cost(&hub.state, &cluster(0), &Heard::Offer(Box::new(part)));
    let full = wire::Delta {
        version: Some(wire::Version { epoch: 1, revision: 2 }),
        complete: true,
        more: true,
        upserts: vec![group(1, 1, 2); PART_RESOURCES_MAX],
        ..wire::Delta::default()
    };
    assert_eq!(cost(&hub, Part::try_from(full).unwrap()), QUANTUM);
    let offer = offer_of(1, &[0, 1, 2]);
    hub.sync(id, &offer);
    let held = hub.held().len() as u64;
    let empty = Delta { version: Version::new(2, 1), complete: true, ..Delta::default() };
    assert_eq!((held, cost(&hub, empty.into())), (9, 1 + 9));
    let unreadable = wire::Tombstone {
        key: endpoint("10.0.0.9", 80).key,
        revision: 4,
        audience: Some(wire::ExportTo { everyone: false, selectors: vec![wire::ClusterSelector::default(); 1000] }),
    };
    let removals = wire::Delta {
        base: Some(wire::Version { epoch: 1, revision: 3 }),
        version: Some(wire::Version { epoch: 1, revision: 4 }),
        removals: vec![unreadable; 100],
        ..wire::Delta::default()
    };
    assert_eq!(cost(&hub, Part::try_from(removals).unwrap()), 1 + 100);
}

/// INV-10. A flooder keeps its queue full for as long as it is looked at; whoever comes is served after one round.
/// Mutations seen to fail: `turns.rotate_left` left out of `pop`; `credit` not looked at.
#[test]
fn a_flood_of_one_cluster_costs_the_others_one_round() {
    let mut desk: Fair<&str, u32> = Fair::new();
    while desk.push(&"flood", QUANTUM, 0).is_ok() {}
    assert_eq!(desk.len(), WAITING_MAX, "and no more than that waits");
    for round in 0..100 {
        let quiet = ["a", "b", "c"];
        for cluster in &quiet {
            desk.push(cluster, 1, round).unwrap();
        }
        let mut waits = 0;
        let mut served = BTreeSet::new();
        while served.len() < quiet.len() {
            let (cluster, cost, _) = desk.pop().unwrap();
            if cluster == "flood" {
                waits += cost;
                assert!(waits <= 2 * QUANTUM, "{waits} resources of the flooder came first in round {round}");
                desk.push(&"flood", QUANTUM, 0).unwrap();
            } else {
                served.insert(cluster);
            }
        }
    }
    // One huge piece of work is paid for before it is done: those who come meanwhile go first.
    let mut desk: Fair<&str, u32> = Fair::new();
    desk.push(&"flood", 100 * QUANTUM, 0).unwrap();
    desk.push(&"a", 1, 1).unwrap();
    assert_eq!(desk.pop().map(|(c, ..)| c), Some("a"));
    assert_eq!(desk.pop().map(|(c, ..)| c), Some("flood"), "nobody else waits");
    assert_eq!(desk.pop(), None);
    // Two who flood share by what they cost, not by how often they ask.
    let mut done = BTreeMap::from([("small", 0), ("large", 0)]);
    for _ in 0..4 {
        desk.push(&"small", QUANTUM / 8, 0).unwrap();
        desk.push(&"large", QUANTUM, 0).unwrap();
    }
    for _ in 0..400 {
        let (cluster, cost, _) = desk.pop().unwrap();
        *done.get_mut(cluster).unwrap() += cost;
        desk.push(&cluster, cost, 0).unwrap();
    }
    assert!(done["large"] <= 2 * done["small"] && done["small"] <= 2 * done["large"], "{done:?}");
}

/// A cluster is not ready while its agent trusts another bundle than the hub names; an agent that says why is repeated.
///
/// Mutation seen to fail: `bundles_behind` gives nothing; `told` is always false.
#[test]
fn an_agent_that_does_not_take_a_bundle_is_waited_for() {
    let mut hub = Hub::new();
    let id = hub.open(1);
    let of = |serial| meshfed_model::bundle::Bundle {
        trust_domain: "c0.f".parse().unwrap(),
        serial,
        anchors: Vec::new(),
        lineages: Vec::new(),
    };
    let waits = |hub: &Hub| -> Vec<String> {
        let sessions: Vec<_> = hub.state.sessions_of(&cluster(1)).collect();
        let waiting = super::super::read::waiting_for(&hub.state, &cluster(1), &sessions);
        waiting.into_iter().filter(|w| w.kind == "session" && w.name == "c0.f").map(|w| w.reason).collect()
    };
    let bundle = of(2);
    hub.state.set_bundles(&BTreeMap::from([(bundle.trust_domain.clone(), bundle.clone())]));
    assert_eq!(waits(&hub), ["the agent has not acknowledged bundle 2 of c0.f; its log says why"]);
    hub.state.bundle_acked(id, bundle.trust_domain.clone(), 2);
    assert_eq!(waits(&hub), Vec::<String>::new());
    hub.state.set_bundles(&BTreeMap::from([(bundle.trust_domain, of(3))]));
    let pending = wire::Pending { kind: "session".into(), name: "c0.f".into(), reason: "meshfed trust approve".into() };
    let report = wire::StatusReport { waiting_for: vec![pending], ..wire::StatusReport::default() };
    hub.state.report(id, report.into());
    assert_eq!(waits(&hub), ["meshfed trust approve"]);
}
