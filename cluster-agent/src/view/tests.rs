use std::collections::{BTreeMap, BTreeSet};

use meshfed_api::stream::{Delta, Upsert};
use meshfed_model::export::ExportTo;
use meshfed_model::locality::Locality;
use meshfed_model::member::{Member, Members};
use meshfed_model::names::{ClusterName, Namespace, NetworkName, ServiceName, SubsetName};
use meshfed_model::network::Network;
use meshfed_model::offer::{
    EndpointKey, EndpointOffer, GatewayKey, GatewayOffer, GroupKey, GroupOffer, OfferKey, OfferValue, ServiceOffer,
    Tombstone,
};
use meshfed_model::service::ServiceType;
use meshfed_model::version::Version;

use super::Part;
use super::persist::ViewStore;
use super::{View, ViewChange, ViewError};

fn east() -> ClusterName {
    ClusterName::new("east").unwrap()
}
fn name(s: &str) -> ServiceName {
    s.parse().unwrap()
}

pub(crate) fn members(cidr: &str) -> Members {
    let member = Member {
        cluster: east(),
        trust_domain: "east.f".parse().unwrap(),
        labels: BTreeMap::new(),
        drained: false,
        leaving: false,
        networks: vec![Network {
            name: NetworkName::new("net").unwrap(),
            cidrs: BTreeSet::from([cidr.parse().unwrap()]),
        }],
        gateway_cidrs: BTreeSet::new(),
        regions: BTreeSet::from(["eu".to_owned()]),
    };
    Members { revision: 1, members: BTreeMap::from([(east(), member)]) }
}

fn service(s: &str) -> (OfferKey, OfferValue) {
    let offer = ServiceOffer {
        service_type: ServiceType::ClusterSetIP,
        ports: vec![],
        export_to: ExportTo::Everyone,
        ..ServiceOffer::default()
    };
    (OfferKey::Service(name(s)), OfferValue::Service(offer))
}
fn group(s: &str, ready: u32) -> (OfferKey, OfferValue) {
    let key = GroupKey {
        service: name(s),
        port: 80,
        subset: SubsetName::all(),
        network: NetworkName::new("net").unwrap(),
        locality: Locality::new("eu", "eu-1"),
    };
    (OfferKey::Group(key), OfferValue::Group(GroupOffer { ready, total: 9, weight: 1 }))
}
fn endpoint(s: &str, address: &str, identity: &str) -> (OfferKey, OfferValue) {
    let key = EndpointKey {
        service: name(s),
        port: 80,
        subset: SubsetName::all(),
        network: NetworkName::new("net").unwrap(),
        address: address.parse().unwrap(),
        target_port: 8080,
    };
    let value = EndpointOffer {
        locality: Locality::new("eu", "eu-1"),
        weight: 1,
        ready: true,
        draining: false,
        identity: identity.parse().unwrap(),
        workload: "w".to_owned(),
    };
    (OfferKey::Endpoint(key), OfferValue::Endpoint(value))
}
fn gateway(address: &str) -> (OfferKey, OfferValue) {
    let key = GatewayKey { network: NetworkName::new("net").unwrap(), address: address.parse().unwrap(), port: 15443 };
    (OfferKey::Gateway(key), OfferValue::Gateway(GatewayOffer { locality: Locality::default(), ready: true }))
}

fn change(
    base: u64,
    revision: u64,
    complete: bool,
    upserts: Vec<(OfferKey, OfferValue)>,
    gone: &[OfferKey],
) -> ViewChange {
    let upserts = upserts.into_iter().map(|(key, value)| Upsert { key, revision, value }).collect();
    let removal =
        |key: &OfferKey| Tombstone { key: key.clone(), revision, audience: ExportTo::Selected(BTreeSet::new()) };
    let delta = Delta {
        base: Version::new(1, base),
        version: Version::new(1, revision),
        complete,
        upserts,
        removals: gone.iter().map(removal).collect(),
        ..Delta::default()
    };
    ViewChange { origin: east(), delta, filter: revision }
}

/// All that east shows.
pub(crate) fn change_of_east() -> ViewChange {
    change(0, 5, true, vec![service("shop/a"), group("shop/a", 1), gateway("10.1.0.1")], &[])
}

fn view() -> View {
    let mut view = View::new(ClusterName::new("west").unwrap());
    view.set_members(members("10.1.0.0/16"));
    let all = vec![service("shop/a"), group("shop/a", 1), service("shop/b"), group("shop/b", 1), gateway("10.1.0.1")];
    view.apply(change(0, 5, true, all, &[])).unwrap();
    view
}

/// Mutation seen to fail: `touched.key` called for equal values in `Origin::put`; `difference` over all services.
#[test]
fn a_change_dirties_what_it_touches_and_nothing_else() {
    let mut view = view();
    let dirty = view.apply(change(5, 6, false, vec![group("shop/b", 2), group("shop/a", 1)], &[])).unwrap();
    assert_eq!((dirty.services, dirty.gateways_of), (BTreeSet::from([name("shop/b")]), BTreeSet::new()));
    let dirty = view.apply(change(6, 7, false, vec![], &[gateway("10.1.0.1").0])).unwrap();
    assert_eq!((dirty.services, dirty.gateways_of), (BTreeSet::new(), BTreeSet::from([east()])));
    // The same again, whole: only what differs is dirty.
    let all = vec![service("shop/a"), group("shop/a", 3), service("shop/b"), group("shop/b", 2)];
    let dirty = view.apply(change(0, 9, true, all, &[])).unwrap();
    assert_eq!((dirty.services, dirty.gateways_of), (BTreeSet::from([name("shop/a")]), BTreeSet::new()));
    let gone = [service("shop/a").0, group("shop/a", 0).0];
    view.apply(change(9, 10, false, vec![], &gone)).unwrap();
    assert!(!view.has_service(&name("shop/a")) && view.has_service(&name("shop/b")));
    assert_eq!(view.services().collect::<Vec<_>>(), [&name("shop/b")]);
    assert_eq!(view.remove_origin(&east()).services, BTreeSet::from([name("shop/b")]));
    assert_eq!(view.vector(), BTreeMap::new());
}

/// Mutation seen to fail: `delta.version < held` left out of `follows`; `delta.base != held` left out.
#[test]
fn nothing_goes_back_and_nothing_skips() {
    let mut view = view();
    let older = view.apply(change(0, 4, true, vec![], &[])).unwrap_err();
    assert!(matches!(older, ViewError::Older { .. }), "{older}");
    let skipped = view.apply(change(6, 7, false, vec![], &[])).unwrap_err();
    assert!(matches!(skipped, ViewError::Base { .. }), "{skipped}");
    let unknown = ViewChange { origin: ClusterName::new("south").unwrap(), ..change(0, 7, false, vec![], &[]) };
    assert!(matches!(view.apply(unknown).unwrap_err(), ViewError::Base { .. }));
    assert_eq!(view.version(&east()), Some(Version::new(1, 5)));
    assert_eq!(view.services().count(), 2);
}

/// Mutation seen to fail: `allowed::check` replaced by `Ok(())`; refused values not drained in `set_members`.
#[test]
fn what_the_token_does_not_allow_is_refused_here_too() {
    let mut view = view();
    let own = "spiffe://east.f/ns/shop/sa/a";
    let bad = vec![
        endpoint("shop/a", "10.2.0.1", own),
        endpoint("shop/a", "10.1.0.2", "spiffe://west.f/ns/shop/sa/a"),
        gateway("10.2.0.9"),
        endpoint("shop/a", "10.1.0.3", own),
    ];
    view.apply(change(5, 6, false, bad, &[])).unwrap();
    let codes: BTreeSet<&str> = view.refused(&east()).map(|r| r.code.as_str()).collect();
    assert_eq!(codes, BTreeSet::from(["AddressNotAllowed", "IdentityNotAllowed"]));
    let held: Vec<_> = view.service(&name("shop/a")).map(|(_, s)| s.endpoints.len()).collect();
    assert_eq!((held, view.gateways(&east()).count()), (vec![1], 1));
    // Other ranges: judged anew, both ways.
    let dirty = view.set_members(members("10.2.0.0/16"));
    assert_eq!(dirty.services, BTreeSet::from([name("shop/a")]));
    assert_eq!(dirty.gateways_of, BTreeSet::from([east()]));
    let (_, shop) = view.service(&name("shop/a")).next().unwrap();
    assert_eq!(shop.endpoints.keys().map(|k| k.address.to_string()).collect::<Vec<_>>(), ["10.2.0.1"]);
    assert_eq!(view.gateways(&east()).map(|(k, _)| k.address.to_string()).collect::<Vec<_>>(), ["10.2.0.9"]);
    assert_eq!(view.set_members(Members::default()).services.len(), 2, "no member: nothing is taken");
    assert_eq!(view.services().count(), 0);
}

fn same(a: &View, b: &View) {
    assert_eq!(a.vector(), b.vector());
    assert_eq!(a.filter(&east()), b.filter(&east()));
    let all = |v: &View| -> Vec<_> {
        v.services().flat_map(|s| v.service(s).map(|(c, s)| (c.clone(), s.clone())).collect::<Vec<_>>()).collect()
    };
    assert_eq!(all(a), all(b));
    assert_eq!(a.gateways(&east()).collect::<Vec<_>>(), b.gateways(&east()).collect::<Vec<_>>());
}

/// Mutation seen to fail: `resources.remove` left out of `folded`; `split` without its checksum (the torn tail).
#[test]
fn a_saved_view_is_the_view() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("view");
    let (mut store, loaded) = ViewStore::open(&path).unwrap();
    assert!(!loaded.is_some());
    let mut view = View::new(ClusterName::new("west").unwrap());
    view.set_members(members("10.1.0.0/16"));
    store.save_members(&members("10.1.0.0/16")).unwrap();
    store.save_interest(&BTreeSet::from([Namespace::new("shop").unwrap()])).unwrap();
    let many: Vec<_> =
        (0..600).flat_map(|n| [service(&format!("shop/s{n}")), group(&format!("shop/s{n}"), 1)]).collect();
    let changes = [
        change(0, 5, true, many, &[]),
        change(
            5,
            6,
            false,
            vec![group("shop/s1", 7), gateway("10.1.0.1")],
            &[service("shop/s2").0, group("shop/s2", 0).0],
        ),
        change(6, 6, false, vec![], &[service("shop/s3").0]),
    ];
    for change in changes {
        store.append(&change).unwrap();
        view.apply(change).unwrap();
    }
    drop(store);
    let (mut store, loaded) = ViewStore::open(&path).unwrap();
    assert_eq!(loaded.interest.len(), 1);
    same(&loaded.view(ClusterName::new("west").unwrap()), &view);
    // A change of which the disk has only a part is not there.
    let torn = change(6, 8, false, vec![group("shop/s4", 9)], &[]);
    store.append(&torn).unwrap();
    drop(store);
    let file = path.join("east.origin");
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() - 3]).unwrap();
    let (mut store, loaded) = ViewStore::open(&path).unwrap();
    same(&loaded.view(ClusterName::new("west").unwrap()), &view);
    store.remove(&east()).unwrap();
    drop(store);
    assert!(ViewStore::open(&path).unwrap().1.changes.is_empty());
}

/// What a machine that went down, or a process that was killed, leaves at the end of a file is no damage.
///
/// Mutation seen to fail: the lower bound `1` left out of `record_at` (zeros then are records, and no view).
#[test]
fn a_torn_tail_is_no_damage() {
    for torn in [&[0_u8; 4096][..], &[7, 0, 0, 0, 1][..], &[9, 0, 0, 0, 1, 2, 3, 4, 5, 6][..]] {
        let dir = tempfile::tempdir().unwrap();
        let (mut store, _) = ViewStore::open(dir.path()).unwrap();
        store.save_members(&members("10.1.0.0/16")).unwrap();
        store.append(&change(0, 5, true, vec![service("shop/a"), group("shop/a", 1)], &[])).unwrap();
        store.append(&change(5, 6, false, vec![group("shop/a", 2)], &[])).unwrap();
        drop(store);
        let file = dir.path().join("east.origin");
        let whole = std::fs::read(&file).unwrap();
        std::fs::write(&file, [whole.as_slice(), torn].concat()).unwrap();
        let (_, loaded) = ViewStore::open(dir.path()).unwrap();
        assert_eq!((loaded.missing.len(), loaded.changes[0].delta.version), (0, Version::new(1, 6)), "{torn:?}");
    }
}

/// Damage is not cut off: what is before it is older than what proxies hold. The part is missing, over restarts, until
/// the hub has told it; its file is kept.
///
/// Mutations seen to fail: `next_record` always `None`; the mark not made in `damaged`; `found` left out of `append`.
#[test]
fn a_view_that_is_damaged_in_the_middle_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = ViewStore::open(dir.path()).unwrap();
    store.save_members(&members("10.1.0.0/16")).unwrap();
    store.append(&change(0, 5, true, vec![service("shop/a"), group("shop/a", 1)], &[])).unwrap();
    let file = dir.path().join("east.origin");
    let mut before_last = 0;
    for revision in 6..10 {
        before_last = std::fs::metadata(&file).unwrap().len() as usize;
        store.append(&change(revision - 1, revision, false, vec![group("shop/a", 2)], &[])).unwrap();
    }
    drop(store);
    let whole = std::fs::read(&file).unwrap();
    // Every byte but those of the last record, which nothing follows: of the magic, of lengths, sums and bodies.
    for at in (0..before_last).step_by(7) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x55;
        std::fs::write(&file, &damaged).unwrap();
        let (store, loaded) = ViewStore::open(dir.path()).unwrap();
        assert_eq!(loaded.missing, BTreeSet::from([Part::Origin(east())]), "byte {at}");
        assert!(loaded.changes.is_empty() && loaded.is_some() && !file.exists(), "byte {at}");
        assert_eq!(std::fs::read(dir.path().join("east.origin.damaged-1")).unwrap(), damaged);
        drop(store);
        assert_eq!(ViewStore::open(dir.path()).unwrap().1.missing.len(), 1, "a restart does not forget it");
        std::fs::remove_file(dir.path().join("east.origin.damaged-1")).unwrap();
    }
    let (mut store, _) = ViewStore::open(dir.path()).unwrap();
    store.append(&change(0, 20, true, vec![service("shop/a")], &[])).unwrap();
    assert!(!dir.path().join("east.origin.missing").exists(), "it is told again");
    drop(store);
    let loaded = ViewStore::open(dir.path()).unwrap().1;
    assert_eq!((loaded.missing.len(), loaded.changes.len()), (0, 1));
}

/// The other parts of the view, too; and who is no member any more is not missed.
///
/// Mutations seen to fail: `damaged` left out of `read`; `only_members` left out of `open`.
#[test]
fn other_parts_can_be_missing() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = ViewStore::open(dir.path()).unwrap();
    store.save_members(&members("10.1.0.0/16")).unwrap();
    store.save_policies(&meshfed_model::policy::FleetPolicies { revision: 7, ..Default::default() }).unwrap();
    drop(store);
    for part in ["members", "policies"] {
        std::fs::write(dir.path().join(part), b"\x01\x02\x03\x04something").unwrap();
    }
    let (mut store, loaded) = ViewStore::open(dir.path()).unwrap();
    assert_eq!(loaded.missing, BTreeSet::from([Part::Members, Part::Policies]));
    store.save_members(&members("10.1.0.0/16")).unwrap();
    drop(store);
    std::fs::write(dir.path().join("gone.origin.missing"), b"").unwrap();
    assert_eq!(ViewStore::open(dir.path()).unwrap().1.missing, BTreeSet::from([Part::Policies]));
    assert!(!dir.path().join("gone.origin.missing").exists());
}

/// Mutation seen to fail: `is_long` always false (the file then grows with the number of changes).
#[test]
fn a_saved_view_does_not_grow_with_the_number_of_changes() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = ViewStore::open(dir.path()).unwrap();
    store.append(&change(0, 1, true, vec![service("shop/a"), group("shop/a", 0)], &[])).unwrap();
    for revision in 2..30_000 {
        store
            .append(&change(revision - 1, revision, false, vec![group("shop/a", (revision % 9) as u32)], &[]))
            .unwrap();
    }
    assert!(std::fs::metadata(dir.path().join("east.origin")).unwrap().len() < (1 << 20) + 1024);
    let loaded = ViewStore::open(dir.path()).unwrap().1;
    assert_eq!(loaded.changes[0].delta.version, Version::new(1, 29_999));
    assert_eq!(loaded.changes[0].delta.upserts.len(), 2);
}
