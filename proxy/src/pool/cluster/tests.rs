//! Choice and carry-over of endpoints, without sockets.

use std::collections::BTreeMap;
use std::time::Duration;

use super::*;
use crate::state::{CircuitBreakers, EndpointCounters, Transport};

const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));

fn endpoint(port: u16, weight: u32) -> Arc<Endpoint> {
    Arc::new(Endpoint {
        address: SocketAddr::from(([127, 0, 0, 1], port)),
        weight,
        cluster: "".into(),
        network: "".into(),
        service: "".into(),
        locality: "".into(),
        via_gateway: false,
        transport: Arc::new(Transport::Plaintext),
        counters: Arc::new(EndpointCounters::default()),
    })
}

fn cluster(priorities: BTreeMap<u32, Vec<Arc<Endpoint>>>) -> Arc<Cluster> {
    Arc::new(Cluster {
        name: "c".into(),
        host: "".into(),
        port: 0,
        connect_timeout: Duration::from_secs(5),
        sticky: false,
        circuit_breakers: CircuitBreakers::default(),
        source: Vec::new(),
        original_destination: false,
        transports: Vec::new().into(),
        default_transport: Arc::new(Transport::Plaintext),
        endpoints: Arc::new(EndpointSet::new(priorities, 0)),
        counters: Arc::new(ClusterCounters::default()),
    })
}

fn ports(pool: &ClusterPool, now: u64, n: usize) -> Vec<u16> {
    let mut rng = fastrand::Rng::with_seed(1);
    let mut ports: Vec<u16> =
        (0..n).map(|_| pool.choose(&mut rng, CLIENT, &[], now).unwrap().address().port()).collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

/// Mutation seen to fail: `!s.is_failing(now)` left out of `choose`.
#[test]
fn failing_endpoints_are_passed_over_until_nobody_else_is_left() {
    let (one, two, far) = (endpoint(1, 1), endpoint(2, 1), endpoint(3, 1));
    let cell = Arc::new(ClusterCell::new("c"));
    cell.set(Some(cluster(BTreeMap::from([(0, vec![one.clone(), two.clone()]), (1, vec![far.clone()])]))));
    let pool = ClusterPool::new(cell);
    assert!(pool.refresh());
    assert_eq!(ports(&pool, 100, 10), [1, 2]);
    one.counters.failing_until.store(1100, Ordering::Relaxed);
    assert_eq!(ports(&pool, 100, 10), [2]);
    two.counters.failing_until.store(1100, Ordering::Relaxed);
    assert_eq!(ports(&pool, 100, 10), [3]);
    far.counters.failing_until.store(1100, Ordering::Relaxed);
    assert_eq!(ports(&pool, 100, 10), [1, 2]);
    assert_eq!(ports(&pool, 1100, 2), [1, 2]);
}

/// When its time is over one request finds out whether an endpoint is back, and not all that come meanwhile.
///
/// Mutations seen to fail: `claim` always true; `answered` does nothing.
#[test]
fn one_request_finds_out_whether_an_endpoint_is_back() {
    let (near, far) = (endpoint(1, 1), endpoint(2, 1));
    let cell = Arc::new(ClusterCell::new("c"));
    cell.set(Some(cluster(BTreeMap::from([(0, vec![near.clone()]), (1, vec![far])]))));
    let pool = ClusterPool::new(cell);
    assert!(pool.refresh());
    near.counters.failing_until.store(1100, Ordering::Relaxed);
    let mut rng = fastrand::Rng::with_seed(1);
    let mut next = |now| pool.choose(&mut rng, CLIENT, &[], now).unwrap();
    assert_eq!(next(1099).address().port(), 2);
    let slot = next(1100);
    assert_eq!(slot.address().port(), 1);
    assert_eq!(next(1100).address().port(), 2, "one is on its way");
    assert_eq!(next(2100).address().port(), 1, "it did not come back");
    slot.answered();
    assert_eq!((0..3).map(|_| next(2100).address().port()).collect::<Vec<_>>(), [1, 1, 1]);
}

/// Mutation seen to fail: `slot_for` always making a new slot.
#[test]
fn a_new_version_keeps_the_places_of_endpoints_that_stay() {
    let cell = Arc::new(ClusterCell::new("c"));
    let pool = ClusterPool::new(Arc::clone(&cell));
    assert!(!pool.refresh());
    let mut rng = fastrand::Rng::with_seed(1);
    cell.set(Some(cluster(BTreeMap::from([(0, vec![endpoint(1, 1)])]))));
    assert!(pool.refresh());
    let before = pool.choose(&mut rng, CLIENT, &[], 0).unwrap();
    cell.set(Some(cluster(BTreeMap::from([(0, vec![endpoint(2, 9)]), (1, vec![endpoint(1, 5)])]))));
    assert!(pool.refresh());
    let two = pool.choose(&mut rng, CLIENT, &[], 0).unwrap();
    assert_eq!(two.address().port(), 2);
    let after = pool.choose(&mut rng, CLIENT, &[two.address()], 0).unwrap();
    assert!(Rc::ptr_eq(&before, &after) && after.endpoint().weight == 5);
    cell.set(None);
    assert!(!pool.refresh());
    assert!(before.retired.get() && pool.choose(&mut rng, CLIENT, &[], 0).is_none());
}

/// Above the number that take turns, choice is random by weight and still passes over who was tried.
#[test]
fn many_endpoints_are_chosen_by_weight() {
    let many: Vec<_> = (1..=200).map(|p| endpoint(p, if p == 7 { 200 } else { 1 })).collect();
    let cell = Arc::new(ClusterCell::new("c"));
    cell.set(Some(cluster(BTreeMap::from([(0, many)]))));
    let pool = ClusterPool::new(cell);
    assert!(pool.refresh());
    let mut rng = fastrand::Rng::with_seed(3);
    let seven = SocketAddr::from(([127, 0, 0, 1], 7));
    let hits = (0..1000).filter(|_| pool.choose(&mut rng, CLIENT, &[], 0).unwrap().address() == seven).count();
    assert!((400..600).contains(&hits), "{hits}");
    assert!((0..1000).all(|_| pool.choose(&mut rng, CLIENT, &[seven], 0).unwrap().address() != seven));
}

/// A client stays on its endpoint over new versions of the set; while that fails it is on its second one, and comes back.
///
/// Mutations seen to fail: `last` kept when another client asks; `is_usable(first)` replaced by `true`.
#[test]
fn a_client_stays_on_its_endpoint_and_comes_back_to_it() {
    let all: Vec<Arc<Endpoint>> = (1..=9).map(|port| endpoint(port, 1)).collect();
    let set = |all: &[Arc<Endpoint>]| {
        Some(Arc::new(Cluster { sticky: true, ..(*cluster(BTreeMap::from([(0, all.to_vec())]))).clone() }))
    };
    let cell = Arc::new(ClusterCell::new("c"));
    cell.set(set(&all));
    let pool = ClusterPool::new(Arc::clone(&cell));
    assert!(pool.refresh());
    let mut rng = fastrand::Rng::with_seed(1);
    let clients: Vec<IpAddr> = (1..=99u8).map(|last| IpAddr::from([10, 0, 0, last])).collect();
    let mut of = |client: &IpAddr, now| pool.choose(&mut rng, *client, &[], now).unwrap().address();
    let before: Vec<SocketAddr> = clients.iter().map(|c| of(c, 0)).collect();
    assert!(clients.iter().map(|c| of(c, 0)).eq(before.iter().copied()));
    let used: std::collections::BTreeSet<_> = before.iter().collect();
    assert_eq!(used.len(), all.len(), "99 clients use all of 9 endpoints");
    let first = before[0];
    let failing = all.iter().find(|e| e.address == first).unwrap();
    failing.counters.failing_until.store(1_000, Ordering::Relaxed);
    for (client, was) in clients.iter().zip(&before) {
        let is = of(client, 500);
        assert!(if *was == first { is != first && is == of(client, 501) } else { is == *was }, "{client}");
    }
    failing.counters.failing_until.store(0, Ordering::Relaxed);
    cell.set(set(&all.iter().rev().cloned().collect::<Vec<_>>()));
    assert!(pool.refresh());
    assert!(clients.iter().map(|c| of(c, 2_000)).eq(before.iter().copied()));
}
