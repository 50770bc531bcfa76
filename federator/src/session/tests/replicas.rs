//! Several agents of one cluster: who offers, and what is made of their reports.

use std::collections::BTreeSet;

use meshfed_api::border::{Hello, Lease, LeaseEpoch};
use meshfed_api::http::Proxies;
use meshfed_api::stream::Scope;

use super::super::report::Report;
use super::super::state::{AGENTS_MAX, Opened};
use super::rules::{Hub, keys, offer_of};
use super::{cluster, hello};

/// An agent of c0 says hello, with what it last saw of its Lease.
fn agent(hub: &mut Hub, pod: &str, held: bool, (since, transitions): (u64, u64)) -> Opened {
    let lease = Some(Lease { held, epoch: LeaseEpoch { since, transitions } });
    let hello = Hello { instance: pod.to_owned(), lease, ..hello() };
    hub.state.open((&cluster(0), 0, 1), hello, hub.now).unwrap()
}

/// One agent offers, the others have sessions beside it; who holds the Lease later takes its place, and the one before is
/// not heard any more, whatever it believes: neither over the session that it had nor over another one. An importer loses
/// nothing by the change.
///
/// Mutations seen to fail: `lease.held` alone in `may_offer`; `old.uplink` left out of `fence_older`; the filter of
/// `State::offer` left out.
#[test]
fn the_holder_with_the_highest_epoch_offers() {
    let mut hub = Hub::new();
    let importer = hub.open(1);
    let first = agent(&mut hub, "pod-a", true, (100, 4));
    let second = agent(&mut hub, "pod-b", false, (100, 4));
    assert!(first.uplink && !second.uplink);
    assert!(hub.state.is_current(first.id) && hub.state.is_current(second.id));
    let offer = offer_of(7, &[0, 1]);
    hub.sync(first.id, &offer);
    assert_eq!(hub.told_of(importer, 0).len(), 4, "a service and a group of each");
    let deaf = hub.state.offer(second.id, offer_of(8, &[]).complete(Scope::Replica).remove(0), hub.now);
    assert!(!deaf.unwrap().reached, "one that does not hold the Lease offers nothing");

    let second = agent(&mut hub, "pod-b", true, (100, 5));
    assert!(second.uplink && !hub.state.is_current(first.id), "the first one is fenced");
    hub.sync(second.id, &offer_of(9, &[0, 1]));
    // It has not reached its API server since, and believes that it leads.
    let first = agent(&mut hub, "pod-a", true, (100, 4));
    assert!(!first.uplink && hub.state.is_current(second.id));
    assert!(hub.state.fenced(importer).is_none());
    let held: BTreeSet<_> = hub.state.catalog().history(&cluster(0)).unwrap().iter().map(|(k, _)| k.clone()).collect();
    assert_eq!(held, keys(&offer), "nothing was lost by the change");
    let agents: Vec<(String, Option<String>)> = hub
        .state
        .sessions_of(&cluster(0))
        .map(|s| (s.instance.clone(), s.epoch.map(|epoch| epoch.to_string())))
        .collect();
    assert_eq!(agents, [("pod-b".to_owned(), Some("100-5".to_owned())), ("pod-a".to_owned(), None)]);
}

/// A Lease that was deleted counts from 0 again, and is the later one; an agent without a Lease is alone.
///
/// Mutations seen to fail: `since` behind `transitions` in `LeaseEpoch`; `alone` always false.
#[test]
fn a_lease_that_was_made_anew_is_later() {
    let mut hub = Hub::new();
    let first = agent(&mut hub, "pod-a", true, (100, 7));
    let second = agent(&mut hub, "pod-b", true, (200, 0));
    assert!(second.uplink && !hub.state.is_current(first.id));
    let beside = agent(&mut hub, "pod-d", false, (200, 0));
    assert!(hub.state.is_current(beside.id));
    let alone = hub.open(0);
    assert!(!hub.state.is_current(second.id) && !hub.state.is_current(beside.id) && hub.state.is_current(alone));
    assert!(agent(&mut hub, "pod-c", true, (50, 0)).uplink, "who is alone has no epoch");
}

/// A proxy is connected to one of the agents: it is counted once, and waited for only where none of them has it.
///
/// Mutations seen to fail: `join` left out of `report_of`; `retain` left out of `join`.
#[test]
fn reports_of_several_agents_are_one() {
    let mut hub = Hub::new();
    let (first, second) = (agent(&mut hub, "pod-a", true, (1, 0)), agent(&mut hub, "pod-b", false, (1, 0)));
    let waits = |kind: &str, name: &str| (kind.to_owned(), name.to_owned(), "its proxy is not connected".to_owned());
    let report = |connected, waiting_for| Report {
        proxies: Proxies { expected: 3, connected, acked: connected },
        waiting_for,
        imported: 5,
        ..Report::default()
    };
    assert!(hub.state.report(first.id, report(1, vec![waits("proxy", "shop/b"), waits("proxy", "shop/c")])));
    let of_second = vec![waits("proxy", "shop/a"), waits("proxy", "shop/c"), waits("session", "east.f.x")];
    assert!(hub.state.report(second.id, report(1, of_second.clone())));
    assert!(!hub.state.report(second.id, report(1, of_second)), "nothing new");
    let whole = hub.state.report_of(&cluster(0)).unwrap();
    assert_eq!((whole.proxies.expected, whole.proxies.connected, whole.imported), (3, 2, 5));
    assert_eq!(whole.waiting_for, [waits("proxy", "shop/c"), waits("session", "east.f.x")]);
    hub.state.close(second.id);
    assert_eq!(hub.state.report_of(&cluster(0)).unwrap().proxies.connected, 1);
}

/// Names of pods are an agent's own words: there are no more sessions of them than the limit, and the one that offers
/// stays.
///
/// Mutation seen to fail: the second loop of `fence_older` left out.
#[test]
fn a_cluster_has_only_so_many_agents() {
    let mut hub = Hub::new();
    let first = agent(&mut hub, "pod", true, (1, 0));
    for n in 0..AGENTS_MAX + 10 {
        agent(&mut hub, &format!("pod-{n}"), false, (1, 0));
    }
    assert_eq!(hub.state.sessions_of(&cluster(0)).count(), AGENTS_MAX + 1);
    assert!(hub.state.is_current(first.id));
}
