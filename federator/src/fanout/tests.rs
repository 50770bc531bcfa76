use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use meshfed_api::stream::{Delta, History, Scope, Upsert};
use meshfed_model::export::ExportTo;
use meshfed_model::member::{Member, Members};
use meshfed_model::names::{ClusterName, Namespace, NetworkName, ServiceName};
use meshfed_model::network::Network;
use meshfed_model::offer::{OfferKey, OfferValue, ServiceOffer};
use meshfed_model::service::ServiceType;
use meshfed_model::version::Version;

use super::{Next, Outbox, QUIET_REVISIONS};
use crate::catalog::Catalog;
use crate::plan::Filter;

fn cluster(name: &str) -> ClusterName {
    ClusterName::new(name).unwrap()
}

fn member(name: &str) -> (ClusterName, Member) {
    let member = Member {
        cluster: cluster(name),
        trust_domain: format!("{name}.f").parse().unwrap(),
        labels: BTreeMap::new(),
        drained: false,
        leaving: false,
        networks: vec![Network { name: NetworkName::new(name).unwrap(), cidrs: BTreeSet::new() }],
        gateway_cidrs: BTreeSet::new(),
        regions: BTreeSet::new(),
    };
    (cluster(name), member)
}

struct World {
    catalog: Catalog,
    origin: History,
    filter: Arc<Filter>,
    outbox: Outbox,
}

impl World {
    fn new() -> Self {
        let mut catalog = Catalog::default();
        catalog.admit(member("east").1, BTreeSet::new());
        let members = Members { revision: 1, members: [member("east"), member("west")].into_iter().collect() };
        let shop = BTreeSet::from([Namespace::new("shop").unwrap()]);
        let filter = Arc::new(Filter::new(&members, &cluster("west"), shop, Arc::default()).unwrap());
        let outbox = Outbox::resume(BTreeMap::new(), &filter, &catalog);
        Self { catalog, origin: History::new(1), filter, outbox }
    }
    fn offer(&mut self, namespace: &str, s: u32, headless: bool) {
        let name = ServiceName::new(namespace, format!("s{s}")).unwrap();
        let offer = ServiceOffer {
            service_type: if headless { ServiceType::Headless } else { ServiceType::ClusterSetIP },
            ports: vec![],
            export_to: ExportTo::Everyone,
            ..ServiceOffer::default()
        };
        let resources = BTreeMap::from([(OfferKey::Service(name.clone()), OfferValue::Service(offer))]);
        let held = self.catalog.history(&cluster("east")).unwrap().version();
        self.origin.replace_service(&name, resources);
        for part in self.origin.since(held, Scope::Replica) {
            let taken = self.catalog.take(&cluster("east"), part).unwrap();
            if taken.reached && namespace == "shop" {
                self.outbox.touch(&cluster("east"), taken.base);
            }
        }
    }
    fn said(&mut self) -> Option<Next> {
        self.outbox.next(&self.catalog, &cluster("west"), &self.filter)
    }
    /// What is said next of anything.
    fn next(&mut self) -> Option<Next> {
        match self.said() {
            Some(Next::CaughtUp(_)) => self.said(),
            next => next,
        }
    }
    fn view(&mut self) -> Delta {
        match self.next() {
            Some(Next::View { delta, .. }) => delta,
            other => panic!("{other:?}"),
        }
    }
}

fn names(upserts: &[Upsert]) -> Vec<String> {
    upserts.iter().filter_map(|u| u.key.service()).map(ToString::to_string).collect()
}

/// Mutation seen to fail: `self.dirty` as a list with one entry per change (a slow importer is sent every step).
#[test]
fn a_slow_importer_hears_of_the_latest_state_once() {
    let mut world = World::new();
    world.offer("shop", 1, false);
    assert!(world.view().complete);
    for step in 0..100 {
        world.offer("shop", 1, step % 2 == 0);
        world.offer("shop", 2, step % 2 == 1);
    }
    let delta = world.view();
    assert_eq!((delta.complete, names(&delta.upserts)), (false, vec!["shop/s1".to_owned(), "shop/s2".to_owned()]));
    assert_eq!(delta.version, world.origin.version());
    assert_eq!(world.next(), None);
}

/// Mutation seen to fail: `settled` true while dirty; `cursor.acked` not compared.
#[test]
fn an_importer_is_settled_when_it_has_acknowledged_what_concerns_it() {
    let mut world = World::new();
    world.offer("shop", 1, false);
    let east = cluster("east");
    let first = world.origin.version();
    assert_eq!(world.outbox.settled(&east, &world.catalog), Err(first), "not sent");
    world.view();
    assert_eq!(world.outbox.settled(&east, &world.catalog), Err(first), "not acknowledged");
    world.outbox.acked(&east, first);
    assert_eq!(world.outbox.settled(&east, &world.catalog), Ok(()));
    world.offer("other", 1, false);
    assert_eq!(world.outbox.settled(&east, &world.catalog), Ok(()), "that does not concern it");
    assert_eq!(world.next(), None);
}

/// Mutation seen to fail: `QUIET_REVISIONS` not looked at in `heartbeat` (it is never told), or in `changes` (always).
#[test]
fn an_importer_that_nothing_concerned_is_told_the_version_now_and_then() {
    let mut world = World::new();
    world.offer("shop", 1, false);
    world.view();
    world.offer("other", 1, false);
    world.outbox.heartbeat(&world.catalog);
    world.outbox.touch_whole(&cluster("east"));
    assert_eq!(world.next(), Some(Next::Heartbeat));
    assert_eq!(world.next(), None, "one change is not worth a message");
    for step in 0..QUIET_REVISIONS {
        world.offer("other", 1, step % 2 == 0);
    }
    world.outbox.heartbeat(&world.catalog);
    assert_eq!(world.next(), Some(Next::Heartbeat));
    let delta = world.view();
    assert!(delta.is_empty());
    assert_eq!((delta.base, delta.version), (Version::new(1, 1), world.origin.version()));
    assert_eq!(world.next(), None);
}

/// Mutation seen to fail: the views sent before bundles in `next`.
#[test]
fn bundles_and_members_come_before_the_views_that_need_them() {
    let mut world = World::new();
    world.offer("shop", 1, false);
    world.outbox.members();
    world.outbox.bundle("east.f".parse().unwrap());
    assert!(matches!(world.next(), Some(Next::Bundle(_))));
    assert_eq!(world.next(), Some(Next::Members));
    world.view();
}

/// Mutation seen to fail: `under_way` left out of `refilter` (what was still to be sent is lost).
#[test]
fn another_filter_does_not_lose_what_was_still_to_be_sent() {
    let mut world = World::new();
    world.offer("shop", 1, false);
    world.view();
    let wider = BTreeSet::from([Namespace::new("shop").unwrap(), Namespace::new("other").unwrap()]);
    let members = Members { revision: 1, members: [member("east"), member("west")].into_iter().collect() };
    let new = Arc::new(Filter::new(&members, &cluster("west"), wider, Arc::default()).unwrap());
    let old = std::mem::replace(&mut world.filter, Arc::clone(&new));
    world.outbox.refilter(&world.catalog, &old, &new);
    let delta = world.view();
    assert!(delta.is_empty() && delta.base == delta.version, "nothing more to see, but another filter");
    // Back, while a change of something that both show is still to be sent.
    world.offer("shop", 1, true);
    world.filter = Arc::clone(&old);
    world.outbox.refilter(&world.catalog, &new, &old);
    assert_eq!(names(&world.view().upserts), ["shop/s1"]);
    assert_eq!(world.next(), None);
}

/// An importer hears once that all was told: after the views, not while an origin has not offered to this hub, of which the
/// importer may know more; and again of each interest that it says.
///
/// Mutations seen to fail: `unheard` not looked at in `next`; `waited_for` not set in `interest`.
#[test]
fn an_importer_hears_when_all_was_told() {
    let mut world = World::new();
    assert_eq!(world.said(), None, "east has not offered yet");
    world.offer("shop", 1, false);
    assert!(matches!(world.said(), Some(Next::View { .. })));
    assert_eq!(world.said(), Some(Next::CaughtUp(0)));
    world.offer("shop", 2, false);
    assert!(matches!(world.said(), Some(Next::View { .. })));
    assert_eq!(world.said(), None, "once");
    world.outbox.interest();
    assert_eq!(world.said(), Some(Next::CaughtUp(1)));

    // Who comes back stands further than a hub that has started anew.
    let (version, id) = (world.origin.version(), world.filter.id());
    let held = BTreeMap::from([(cluster("east"), meshfed_api::border::HeldOrigin { version, filter: id })]);
    world.catalog = Catalog::default();
    world.catalog.admit(member("east").1, BTreeSet::new());
    world.outbox = Outbox::resume(held, &world.filter, &world.catalog);
    assert_eq!(world.said(), None);
    world.outbox.origin_gone(&cluster("east"));
    assert_eq!(world.said(), Some(Next::OriginGone(cluster("east"))));
    assert_eq!(world.said(), Some(Next::CaughtUp(0)), "nobody is waited for who is no member");
}
