//! Agents that do not know what others show.

use super::*;
use crate::translate::captured;
use crate::view::Part;

const OWN: &str = "outbound|8080||a.shop.svc.cluster.local";

/// What a proxy of the earlier agent holds, as it tells the next one.
fn held(b: &Bench, id: StreamId, kind: Kind) -> BTreeMap<String, String> {
    let stream = &b.core.streams[&id].machine;
    let version = |name: &str| Some((name.to_owned(), stream.held_version(kind, name)?.to_owned()));
    b.names(id, kind).into_iter().filter_map(version).collect()
}

const KINDS: [Kind; 5] = [Kind::Cluster, Kind::Endpoint, Kind::Listener, Kind::Route, Kind::Secret];

/// An agent that served everything, and what the proxy of `a` holds of it.
fn served() -> (Bench, BTreeMap<Kind, BTreeMap<String, String>>) {
    let mut b = Bench::new();
    b.bundles();
    b.members();
    b.east(1, 1, 1);
    b.file("a.yaml", &(service("a") + &export("a") + &entry("a-1", "a", "127.2.0.10")));
    b.open(1, MINE, node("shop/a"), ALL);
    b.core.request(
        1,
        Kind::Endpoint,
        Request { subscribe: vec![B.to_owned(), OWN.to_owned()], ..Request::default() },
        b.now,
        b.wall,
    );
    b.drain();
    assert!(b.names(1, Kind::Cluster).contains(&B), "{:?}", b.names(1, Kind::Cluster));
    let all = KINDS.into_iter().map(|kind| (kind, held(&b, 1, kind))).collect();
    (b, all)
}

/// The proxy comes back to an agent with `missing` parts and without the hub.
fn restarted(missing: &[Part], view: bool, held: &BTreeMap<Kind, BTreeMap<String, String>>) -> Bench {
    let mut b = Bench::new();
    b.core.view_loaded = view;
    b.core.miss(missing.iter().cloned().collect());
    come_back(b, held)
}

/// The proxy comes back to an agent that has just started.
fn come_back(mut b: Bench, held: &BTreeMap<Kind, BTreeMap<String, String>>) -> Bench {
    b.bundles();
    b.file("a.yaml", &(service("a") + &export("a") + &entry("a-1", "a", "127.2.0.10")));
    b.core.give_up_on_view(b.now, b.wall);
    b.core.open(2, MINE, node("shop/a"), Protocol::Delta, false);
    for (kind, held) in held {
        let names = if kind.has_wildcard() { Vec::new() } else { held.keys().cloned().collect() };
        let request = Request { subscribe: names, held: held.clone(), ..Request::default() };
        b.core.request(2, *kind, request, b.now, b.wall);
    }
    // What it holds it holds, until it is told otherwise.
    for (kind, held) in held {
        for name in held.keys() {
            b.held.insert((2, *kind, name.as_str().into()), bytes::Bytes::new());
        }
    }
    b.drain();
    b
}

/// XD3: nothing that the proxy imports is taken from it while the agent does not know it; what the own cluster alone
/// decides goes on; and all is told once the hub has spoken.
///
/// Mutations seen to fail: `is_unknown` of `Seen` always false; `touched` not extended in `made_whole`;
/// `depends_on_view` true for endpoints of the own cluster.
#[test]
fn a_sidecar_keeps_its_imports_while_the_view_is_not_whole() {
    let (_, held) = served();
    let east = ClusterName::new("east").unwrap();
    for (missing, view) in [(vec![Part::Origin(east)], true), (vec![Part::Members], false), (vec![], false)] {
        let mut b = restarted(&missing, view, &held);
        for kind in KINDS {
            let before: Vec<&str> = held[&kind].keys().map(String::as_str).collect();
            assert_eq!(b.names(2, kind), before, "{missing:?}");
        }
        assert!(b.core.streams[&2].machine.has_listeners(), "its listeners are bound");
        // The own cluster's endpoints.
        b.file(
            "a2.yaml",
            &entry("a-2", "a", "127.2.0.12")
                .replace("metadata: {", "metadata: {annotations: {federation.meshfed.io/sidecar: \"none\"}, "),
        );
        assert!(b.endpoints(2, OWN).contains(&"127.2.0.12".to_owned()), "{missing:?}");
        // Its new services wait.
        b.file("n.yaml", &service("n"));
        assert_eq!(b.names(2, Kind::Cluster).len(), held[&Kind::Cluster].len(), "{missing:?}");
        // The hub speaks: members first, then what east shows.
        b.members();
        assert!(b.names(2, Kind::Cluster).contains(&B), "{missing:?}");
        b.east(1, 1, 1);
        if missing.is_empty() || !view {
            // South has nothing to say, and is not waited for for ever.
            assert!(!b.core.is_whole());
            b.tick(UNHEARD_PATIENCE);
        }
        assert!(b.core.is_whole() && b.names(2, Kind::Cluster).contains(&B), "{missing:?}");
        let new = "outbound|8080||n.shop.svc.cluster.local";
        assert!(b.names(2, Kind::Cluster).contains(&new), "{missing:?}: {:?}", b.names(2, Kind::Cluster));
        assert_eq!(b.trust_domains(2, "inbound|8080").len(), 3, "{missing:?}");
    }
}

/// A service that is really gone goes when the hub has said so; an origin that left is not waited for.
///
/// Mutation seen to fail: `told` left out of `origin_gone`.
#[test]
fn what_is_gone_goes_when_the_hub_has_said_so() {
    let (_, held) = served();
    let east = ClusterName::new("east").unwrap();
    let mut b = restarted(&[Part::Origin(east.clone())], true, &held);
    b.members();
    assert!(b.names(2, Kind::Cluster).contains(&B));
    b.core.origin_gone(&east, b.now, b.wall);
    b.drain();
    assert!(!b.names(2, Kind::Cluster).contains(&B), "{:?}", b.names(2, Kind::Cluster));
}

/// A proxy that starts holds nothing that could be taken from it: it is served what the own cluster has.
///
/// Mutation seen to fail: `self.resumed` left out of `is_held_back` and `all_held_back`.
#[test]
fn a_proxy_that_starts_is_served_the_own_cluster() {
    let east = ClusterName::new("east").unwrap();
    let mut b = restarted(&[Part::Origin(east)], true, &BTreeMap::new());
    b.open(3, MINE, node("shop/a"), ALL);
    assert_eq!(b.names(3, Kind::Listener), ["inbound|8080", "outbound"]);
    assert!(b.names(3, Kind::Cluster).contains(&OWN));
    assert_eq!(b.names(3, Kind::Secret), ["default", "inbound|8080", "trust"]);
}

/// Envoy's older protocol: a response of a wildcard kind that lacks something takes it away, so there is none.
///
/// Mutation seen to fail: `resumes` not read.
#[test]
fn state_of_the_world_is_not_told_before_it_is_known() {
    let east = ClusterName::new("east").unwrap();
    let mut b = restarted(&[Part::Origin(east)], true, &BTreeMap::new());
    b.core.open(3, MINE, node("shop/a"), Protocol::Sotw, false);
    for kind in [Kind::Cluster, Kind::Listener] {
        b.core.request(3, kind, Request { resumes: true, ..Request::default() }, b.now, b.wall);
    }
    b.drain();
    assert!(b.names(3, Kind::Cluster).is_empty() && b.names(3, Kind::Listener).is_empty());
    b.members();
    b.east(1, 1, 1);
    assert!(b.names(3, Kind::Cluster).contains(&B), "{:?}", b.names(3, Kind::Cluster));
}

/// A proxy is not blamed for what the agent holds back: the member that is waited for is named, and for how long.
///
/// Mutation seen to fail: `held_back` not asked by `proxies_behind`.
#[test]
fn a_view_that_is_held_back_names_who_is_waited_for() {
    let why = |b: &Bench| -> Vec<String> {
        let report = crate::status::report(&b.core, &crate::status::rows(&b.core));
        let of = |p: &meshfed_api::proto::federation::Pending| p.kind == "proxy" && p.name.contains("a-1");
        report.waiting_for.into_iter().filter(of).map(|p| p.reason).collect()
    };
    let (_, held) = served();
    let mut b = restarted(&[], false, &held);
    b.report(3, "shop/a", true);
    let unknown = "its agent does not know the fleet's members yet: no session with the hub has told them";
    assert_eq!(why(&b), [unknown]);
    let members = [member("east"), member("west")].into_iter().collect();
    b.core.set_members(Members { revision: 1, members }, b.now, b.wall);
    b.drain();
    assert_eq!(why(&b), ["its agent waits at most 15 s for what east may offer, of whom the hub has told nothing yet"]);
    b.tick(UNHEARD_PATIENCE);
    assert_eq!(why(&b), Vec::<String>::new());
}

/// What an agent starts with may be older than what another one has told: nothing that it lacks is taken from a sidecar
/// before the hub has told all, or was waited for long enough; and no object is written meanwhile, which whoever led before
/// may have written by what came later. That waits for a hub for as long as it takes.
///
/// Mutations seen to fail: `news.awaited` left out of `is_whole`; `news.told` true when no hub came (`give_up_news`);
/// `told` left as it is in `hub_lost`; `effects.rows` left as it is in `made_whole`.
#[test]
fn what_another_agent_has_told_is_not_taken_away_by_what_was_kept() {
    let (_, held) = served();
    let older = || {
        let mut b = Bench::new();
        b.core.view_loaded = true;
        b.core.await_news(true, true);
        come_back(b, &held)
    };
    let has_b = |b: &Bench| b.names(2, Kind::Cluster).contains(&B);
    let state = |b: &Bench| (has_b(b), b.core.is_whole(), b.core.is_current());

    let mut b = older();
    assert_eq!(state(&b), (true, false, false));
    b.core.hub_found(b.now);
    b.members();
    assert_eq!(state(&b), (true, false, false), "the members were told");
    b.east(1, 1, 1);
    assert_eq!(state(&b), (true, false, false), "a part was told");
    b.core.caught_up(b.now, b.wall);
    b.drain();
    assert_eq!(state(&b), (true, true, true));
    b.core.hub_lost();
    assert_eq!(state(&b), (true, true, false), "another agent may hear what this one does not");

    let mut b = older();
    b.core.hub_found(b.now);
    b.members();
    b.core.caught_up(b.now, b.wall);
    assert!(b.core.take_effects().rows, "statuses that wait for it are looked at again");

    let mut b = older();
    b.core.hub_found(b.now);
    b.members();
    b.core.caught_up(b.now, b.wall);
    b.drain();
    assert_eq!(state(&b), (false, true, true), "it is really gone");

    let mut b = older();
    b.tick(UNHEARD_PATIENCE);
    assert_eq!(state(&b), (false, true, false), "no hub: what is known counts");
    b.core.hub_found(b.now);
    b.members();
    assert!(!b.core.is_current());
    b.tick(UNHEARD_PATIENCE);
    assert!(b.core.is_current(), "a member that does not come back is not waited for for ever");
}

/// A captured client knows names and virtual addresses from the agent before: neither is taken from it between the moment
/// at which the view is whole and those at which the names are put together and the derived Services are read.
///
/// Mutations seen to fail: `names_to_come` false in `is_unknown` of `Seen` (without it, `kubernetes_flows` saw names fail
/// after an agent's pod was deleted); `missing.addresses` left out of `is_whole`.
#[test]
fn a_captured_client_keeps_names_and_addresses_over_a_restart_of_the_agent() {
    let captured = || Node { captured: true, ..node("shop/a") };
    let shop_b = || BTreeMap::from([("shop/b".parse().unwrap(), vec!["10.96.0.7".parse().unwrap()])]);
    let start = || {
        let mut b = Bench::new();
        b.core.await_import_addresses();
        b.bundles();
        b.file("a.yaml", &(service("a") + &export("a") + &entry("a-1", "a", "127.2.0.10")));
        b
    };
    let mut b = start();
    b.core.set_import_addresses(shop_b(), b.now, b.wall);
    b.members();
    b.east(1, 1, 1);
    b.open(1, MINE, captured(), &[(Kind::Listener, &[])]);
    assert!(b.core.zone(b.now, b.wall).is_some_and(|zone| zone.is_whole()));
    b.drain();
    let served = held(&b, 1, Kind::Listener);
    let of_b = |name: &&str| *name == captured::DNS || name.contains("|b.shop.svc.clusterset.local");
    let known: Vec<&str> = served.keys().map(String::as_str).filter(of_b).collect();
    assert_eq!(known.len(), 2, "the names, and a listener at the address of b: {served:?}");

    let mut b = start();
    b.core.open(2, MINE, captured(), Protocol::Delta, false);
    let request = Request { held: served.clone(), ..Request::default() };
    b.core.request(2, Kind::Listener, request, b.now, b.wall);
    for name in served.keys() {
        b.held.insert((2, Kind::Listener, name.as_str().into()), bytes::Bytes::new());
    }
    let still = |b: &mut Bench, when: &str| {
        b.drain();
        let left: Vec<&str> = b.names(2, Kind::Listener).into_iter().filter(|n| of_b(n)).collect();
        assert_eq!(left, known, "{when}");
    };
    b.members();
    still(&mut b, "the members were told");
    b.east(1, 1, 1);
    b.tick(UNHEARD_PATIENCE);
    still(&mut b, "the exports were told");
    assert!(!b.core.is_whole(), "the derived Services are not read yet");
    b.core.set_import_addresses(shop_b(), b.now, b.wall);
    assert!(b.core.is_whole());
    still(&mut b, "all is known, and the names are not put together yet");
    let _zone = b.core.zone(b.now, b.wall);
    still(&mut b, "the names were put together");
    b.core.set_import_addresses(BTreeMap::new(), b.now, b.wall);
    b.drain();
    let left: Vec<&str> = b.names(2, Kind::Listener).into_iter().filter(|n| of_b(n)).collect();
    assert_eq!(left, [captured::DNS], "an address that is really gone goes");
}
