use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::*;

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

/// Mutation seen to fail: `e.weight.max(1)` replaced by `e.weight`.
#[test]
fn weights_add_up_and_gaps_between_priorities_close() {
    let set = EndpointSet::new(
        BTreeMap::from([(0, vec![endpoint(1, 3), endpoint(2, 0), endpoint(3, u32::MAX)]), (5, vec![endpoint(4, 1)])]),
        7,
    );
    assert_eq!(set.priorities.len(), 2);
    assert_eq!(set.priorities[0].cumulative, [3, 4, 4 + u64::from(u32::MAX)]);
    assert_eq!((set.priorities[1].weight(), set.total, set.iter().count()), (1, 7, 4));
    assert!(!set.is_empty() && EndpointSet::default().is_empty());
}

/// Mutation seen to fail: `"_."` of `name_parts` replaced by `"."`.
#[test]
fn cluster_names_tell_port_and_host() {
    let host = "b.shop.svc.clusterset.local";
    for (name, expected) in [
        ("outbound|8080||b.shop.svc.clusterset.local", (8080, host)),
        ("outbound|8080|v1|b.shop.svc.clusterset.local", (8080, host)),
        ("outbound_.8080_._.b.shop.svc.clusterset.local", (8080, host)),
        ("outbound_.8080_.v1_.b.shop.svc.clusterset.local", (8080, host)),
        ("inbound|9000||", (9000, "")),
        ("anything", (0, "")),
    ] {
        assert_eq!(name_parts(name), expected, "{name}");
    }
}

/// Mutation seen to fail: `all` of `transport_for` replaced by `any`.
#[test]
fn an_endpoint_gets_the_first_transport_whose_metadata_it_carries() {
    let plain = Arc::new(Transport::Plaintext);
    let pair = |k: &str, v: &str| (k.to_owned(), v.to_owned());
    let matching = |name: &str, matches: Vec<(String, String)>| TransportMatch {
        name: name.into(),
        matches,
        transport: Arc::new(Transport::Plaintext),
    };
    let cluster = Cluster {
        name: "x".into(),
        host: "".into(),
        port: 0,
        connect_timeout: Duration::from_secs(1),
        sticky: false,
        circuit_breakers: CircuitBreakers::default(),
        source: Vec::new(),
        original_destination: false,
        transports: Arc::new([
            matching("both", vec![pair("cluster", "east"), pair("mode", "x")]),
            matching("east", vec![pair("cluster", "east")]),
        ]),
        default_transport: Arc::clone(&plain),
        endpoints: Arc::default(),
        counters: Arc::default(),
    };
    assert!(Arc::ptr_eq(cluster.transport_for(&[pair("cluster", "east")]), &cluster.transports[1].transport));
    let both = [pair("cluster", "east"), pair("mode", "x")];
    assert!(Arc::ptr_eq(cluster.transport_for(&both), &cluster.transports[0].transport));
    assert!(Arc::ptr_eq(cluster.transport_for(&[pair("cluster", "west")]), &plain));
}
