//! A change in the set of services, and what is encoded for it.

use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;

use super::*;
use crate::xds::stream::ORDER_PATIENCE;

fn domains(b: &Bench, id: StreamId, name: &str) -> Vec<String> {
    let body = &b.held[&(id, Kind::Route, name.into())];
    let routes = RouteConfiguration::decode(body.clone()).unwrap();
    routes.virtual_hosts.into_iter().flat_map(|h| h.domains).collect()
}

/// Three namespaces are read, by seven proxies. One more service is encoded once, put into the routes of each
/// namespace, and into what inbound ports refuse; listeners and inbound clusters of others are left alone. A change of
/// endpoints or of health encodes no routes at all.
///
/// Mutations seen to fail: `refresh` encodes the routes of all services; `others` are rebuilt whole; `without_own` is
/// made anew for each namespace.
#[test]
fn a_new_service_is_encoded_once_and_only_routes_change() {
    let mut b = Bench::new();
    b.bundles();
    let placed = |text: String, namespace: &str| text.replace("namespace: shop", &format!("namespace: {namespace}"));
    let mut text: String = (0..20).map(|n| service(&format!("s{n}"))).collect();
    for n in 0..5 {
        text.push_str(&entry(&format!("s{n}-1"), &format!("s{n}"), &format!("127.2.0.1{n}")));
    }
    text.push_str(&placed(entry("c-1", "c", "127.2.0.30"), "one"));
    text.push_str(&placed(entry("d-1", "d", "127.2.0.31"), "two"));
    b.file("all.yaml", &text);
    let workloads = ["shop/s0", "shop/s1", "shop/s2", "shop/s3", "shop/s4", "one/c", "two/d"];
    for (id, workload) in (1..).zip(workloads) {
        b.open(id, MINE, node(workload), ALL);
    }
    assert_eq!(b.routes_encoded, 20);
    (b.sent, b.encoded, b.routes_encoded) = (BTreeMap::new(), BTreeMap::new(), 0);
    b.file("more.yaml", &service("new"));
    // These clients do not ask for the endpoints of the new cluster, so the routes wait no longer than they must.
    b.tick(ORDER_PATIENCE);
    assert_eq!(b.routes_encoded, 1, "the new service, and no other");
    assert_eq!(b.encoded.keys().collect::<Vec<_>>(), [&Kind::Cluster, &Kind::Route], "{:?}", b.encoded);
    for id in 1..=7 {
        assert_eq!(b.sent.get(&(id, Kind::Cluster)), Some(&1), "its outbound cluster");
        assert_eq!(b.sent.get(&(id, Kind::Listener)), None);
        assert!(domains(&b, id, "15001").contains(&"new.shop.svc.cluster.local:8080".to_owned()));
        assert_eq!(domains(&b, id, "15001").contains(&"new:8080".to_owned()), id <= 5, "its short name");
        assert!(domains(&b, id, "inbound|8080").contains(&"new.shop".to_owned()));
    }
    let routes = |id: StreamId| b.core.streams[&id].machine.held_version(Kind::Route, "15001").map(str::to_owned);
    assert_eq!(routes(6), routes(7), "namespaces without services of their own have the same routes");
    let made = |namespace: &str| {
        let scope = Scope::Namespace(Namespace::new(namespace).unwrap());
        Arc::clone(b.core.store.get(&scope, Kind::Route, "15001").unwrap())
    };
    assert!(Arc::ptr_eq(&made("one"), &made("two")), "made once");
    // Endpoints and health.
    (b.encoded, b.routes_encoded) = (BTreeMap::new(), 0);
    b.file("w.yaml", &entry("new-1", "new", "127.2.0.40"));
    b.report(20, "shop/s0", true);
    assert_eq!((b.routes_encoded, b.encoded.get(&Kind::Route)), (0, None));
    // A second port of one service.
    b.file("more.yaml", &service("new").replace("port: 8080}", "port: 8080}, {name: http-2, port: 80}"));
    b.tick(ORDER_PATIENCE);
    assert_eq!(b.routes_encoded, 1);
    assert!(domains(&b, 6, "15001").contains(&"new.shop.svc.cluster.local".to_owned()));
    b.file("more.yaml", "");
    assert!(domains(&b, 6, "15001").iter().chain(&domains(&b, 6, "inbound|8080")).all(|d| !d.starts_with("new")));
}
