//! Which endpoints count as ready, when proxies and agents come and go.

use super::*;

/// Mutation seen to fail: `LOST_PATIENCE` as zero; the report is ignored; `bound` is ignored.
#[test]
fn readiness_follows_the_proxy() {
    let mut b = Bench::new();
    b.bundles();
    b.file("a.yaml", &(service("a") + &export("a") + &entry("a-1", "a", "127.2.0.10")));
    assert!(!b.ready("a-1"));
    b.open(1, MINE, node("shop/a"), &[(Kind::Cluster, &[])]);
    b.report(2, "shop/a", true);
    assert!(!b.ready("a-1"), "its listeners are not bound yet");
    b.core.request(1, Kind::Listener, Request::default(), b.now, b.wall);
    b.drain();
    assert!(b.ready("a-1"));
    b.report(2, "shop/a", false);
    assert!(!b.ready("a-1"));
    b.report(2, "shop/a", true);
    // The agent's stream is lost: ready for another three seconds.
    b.core.closed(1, b.now, b.wall);
    b.core.report_closed(2, b.now, b.wall);
    b.drain();
    b.tick(LOST_PATIENCE - Duration::from_millis(1));
    assert!(b.ready("a-1"));
    b.open(3, MINE, node("shop/a"), &[(Kind::Listener, &[])]);
    b.report(4, "shop/a", true);
    b.tick(LOST_PATIENCE);
    assert!(b.ready("a-1"), "it came back");
    b.core.closed(3, b.now, b.wall);
    b.tick(LOST_PATIENCE);
    assert!(!b.ready("a-1"));
}

/// Mutation seen to fail: `restore_proxies` forgets `bound`; the patience is not restarted when the source was scanned;
/// `if !self.open` left out of `expire_proxies` (a source that takes long to read then costs every endpoint).
#[test]
fn a_restarted_agent_waits_for_its_proxies() {
    let mut b = Bench::new();
    b.core.restore_proxies(Kept { ready: BTreeSet::from([key("a-1")]), ..Kept::default() }, b.now);
    b.tick(Duration::from_secs(60));
    assert_eq!(b.core.deadline(), None, "nothing is due before the source is read");
    b.file("a.yaml", &(service("a") + &export("a") + &entry("a-1", "a", "127.2.0.10")));
    assert!(b.ready("a-1"));
    b.tick(LOST_PATIENCE);
    assert!(!b.ready("a-1"));
}

/// A proxy that comes back before the source is read is sent one assignment, with those that were ready in it.
///
/// Mutation seen to fail: `update_states` left out of `try_open` (an empty assignment is sent first).
#[test]
fn a_restarted_agent_shows_no_gap() {
    const A: &str = "outbound|8080||a.shop.svc.cluster.local";
    let mut b = Bench::new();
    b.bundles();
    b.core.restore_proxies(Kept { ready: BTreeSet::from([key("a-1"), key("a-2")]), ..Kept::default() }, b.now);
    b.open(1, MINE, node("shop/a/a-1"), &[(Kind::Endpoint, &[A])]);
    b.file("a.yaml", &(service("a") + &entry("a-1", "a", "127.2.0.10") + &entry("a-2", "a", "127.2.0.11")));
    assert_eq!(b.sent.get(&(1, Kind::Endpoint)), Some(&1));
    assert_eq!(b.endpoints(1, A), ["127.2.0.10", "127.2.0.11"]);
}
