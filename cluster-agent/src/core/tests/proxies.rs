//! Proxies that come back.

use super::*;

fn started(id: &str, process: Option<i32>) -> Node {
    Node { process, ..Node::of_claim(id, Claim::Workload("shop/a".parse().unwrap())) }
}

fn served(b: &Bench, id: StreamId) -> Option<String> {
    match &b.core.streams.get(&id)?.phase {
        super::super::proxies::Phase::Admitted(a) => Some(a.workload.key.name.to_string()),
        super::super::proxies::Phase::Waiting(_) => None,
    }
}

/// A proxy that names its service account only stays what it was when a second workload of that account has appeared:
/// by its addresses, or because the same process was admitted before, also over a restart of the agent.
///
/// Mutations seen to fail: `told_apart` looks at no addresses; it looks at no admissions; every `process` of an
/// `Admission` is 0.
#[test]
fn a_reconnect_is_the_same_workload() {
    let mut b = Bench::new();
    let listen: &[(Kind, &[&str])] = &[(Kind::Listener, &[])];
    b.file("a.yaml", &entry("a-1", "a", "127.2.0.10"));
    b.open(1, MINE, started("sidecar~0.0.0.0~a.shop~x", Some(7)), listen);
    assert_eq!(served(&b, 1).as_deref(), Some("a-1"));
    b.file("a.yaml", &(entry("a-1", "a", "127.2.0.10") + &entry("a-2", "a", "127.2.0.11")));
    b.core.closed(1, b.now, b.wall);
    b.open(2, MINE, started("sidecar~0.0.0.0~a.shop~x", Some(7)), listen);
    assert_eq!(served(&b, 2).as_deref(), Some("a-1"), "{:?}", b.ended.get(&2));
    // Another process that says the same is nobody yet, and neither is one that the kernel does not name.
    for (id, process) in [(3, Some(8)), (4, None)] {
        b.open(id, MINE, started("sidecar~0.0.0.0~a.shop~x", process), listen);
        assert!(matches!(b.ended[&id], End::Unresolvable(_)), "{:?}", b.ended.get(&id));
    }
    // One that says where it binds is told apart at once, in each of the ways in which it may say so.
    let second: IpAddr = "127.2.0.11".parse().unwrap();
    let bound = Node { bind: vec![second], ..started("sidecar~0.0.0.0~a.shop~x", Some(8)) };
    let listening = Node { listen_outbound: Some(vec![(second, 15001).into()]), ..started("x", None) };
    for (id, node) in [(5, bound), (6, listening), (7, started("sidecar~127.2.0.11~a.shop~x", None))] {
        b.open(id, MINE, node, listen);
        assert_eq!(served(&b, id).as_deref(), Some("a-2"), "{:?}", b.ended.get(&id));
    }
    // Its report comes on a stream of its own.
    b.core.report(8, MINE, started("sidecar~0.0.0.0~a.shop~x", Some(7)), true, String::new(), b.now, b.wall);
    b.drain();
    assert!(b.ready("a-1"), "{:?}", b.ended.get(&8));
    // Another agent with what this one kept.
    let kept = b.core.kept();
    let mut next = Bench::new();
    next.core.restore_proxies(kept, next.now);
    next.file("a.yaml", &(entry("a-1", "a", "127.2.0.10") + &entry("a-2", "a", "127.2.0.11")));
    next.open(1, MINE, started("sidecar~0.0.0.0~a.shop~x", Some(7)), listen);
    assert_eq!(served(&next, 1).as_deref(), Some("a-1"), "{:?}", next.ended.get(&1));
    // What is known of a workload goes with it.
    next.file("a.yaml", "");
    assert!(next.core.kept().admitted.is_empty());
}

/// A second proxy of a workload, which is ended before it has probed anything, does not take the workload from the first.
///
/// Mutations seen to fail: `weigh_reports` takes the newest report whatever the others say; it is left out of
/// `report_closed`; `replaced` is always false.
#[test]
fn a_second_proxy_does_not_speak_for_the_first() {
    let mut b = Bench::new();
    b.bundles();
    b.file("a.yaml", &(service("a") + &export("a") + &entry("a-1", "a", "127.2.0.10")));
    let proxy = |process| Node { process: Some(process), ..node("shop/a") };
    let say = |b: &mut Bench, id, process, ready, reason: &str| {
        b.core.report(id, MINE, proxy(process), ready, reason.to_owned(), b.now, b.wall);
        b.drain();
    };
    b.open(1, MINE, proxy(7), &[(Kind::Listener, &[])]);
    say(&mut b, 2, 7, true, "");
    assert!(b.ready("a-1"));
    b.open(3, MINE, proxy(8), &[(Kind::Listener, &[])]);
    say(&mut b, 4, 8, false, "not probed yet");
    assert!(b.ready("a-1"), "{:?}", b.core.proxy_lack(&key("a-1")));
    b.core.closed(3, b.now, b.wall);
    b.core.report_closed(4, b.now, b.wall);
    b.drain();
    assert!(b.ready("a-1"), "{:?}", b.core.proxy_lack(&key("a-1")));
    // The one that was ready goes: what the other says is true at once.
    b.open(5, MINE, proxy(9), &[(Kind::Listener, &[])]);
    say(&mut b, 6, 9, false, "connection refused");
    b.core.closed(1, b.now, b.wall);
    b.core.report_closed(2, b.now, b.wall);
    b.drain();
    assert!(!b.ready("a-1"));
    assert_eq!(b.core.proxy_lack(&key("a-1")).as_deref(), Some("connection refused"));
    // A proxy that reconnects speaks for itself before its old stream has ended.
    say(&mut b, 6, 9, true, "");
    assert!(b.ready("a-1"));
    say(&mut b, 7, 9, false, "connection refused");
    assert!(!b.ready("a-1"));
}
