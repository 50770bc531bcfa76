//! 1.2, 1.8: a proxy's ports, answers and metrics.

use std::net::SocketAddr;

use meshfed_e2e::http;
use meshfed_e2e::wait::until;

use super::SOON;
use super::world::{B_URL, World};

/// 1.2 and 1.8: a proxy's own ports, and the words of its answers and metrics.
///
/// Mutations seen to fail: the reason of an unknown name is `no_endpoints`; the arm of `AppProbe::Off` left out of what the
/// probe logs.
#[test]
fn a_proxy_answers_with_its_words() {
    let world = World::start();
    let host = world.west_range.host(10);
    assert_eq!(http::get((host, 15021).into(), "/healthz/ready").unwrap().status, 200);
    for page in ["/livez", "/readyz", "/metrics", "/debug/config"] {
        assert_eq!(http::get((host, 15000).into(), page).unwrap().status, 200, "{page}");
    }
    for (url, status, reason) in [
        ("http://nope.shop.svc.clusterset.local:8080/", 404, "no_route"),
        ("http://b.shop.svc.cluster.local:8080/", 404, "no_route"),
        ("http://b.shop.svc.clusterset.local/", 404, "no_route"),
        ("http://a.shop.svc.cluster.local:8080/", 503, "upstream_connect"),
    ] {
        let answer = http::via(world.outbound(), url).unwrap();
        assert_eq!((answer.status, answer.header("x-meshfed-reason")), (status, Some(reason)), "{url}: {answer:?}");
    }
    assert_eq!(http::via(world.outbound(), B_URL).unwrap().status, 200);
    let labels = [
        "reporter=\"source\"",
        "source_cluster=\"west\"",
        "destination_cluster=\"east\"",
        "response_code=\"200\"",
        "source_principal=\"spiffe://west.mesh.example/ns/shop/sa/a\"",
        "destination_principal=\"spiffe://east.mesh.example/ns/shop/sa/b\"",
    ];
    assert!(http::metric((host, 15020).into(), "istio_requests_total", &labels).unwrap() >= 1.0);
    let gateway = (world.east_range.host(1), 15020).into();
    let forwarded = ["result=\"forwarded\"", "reason=\"\""];
    assert!(http::metric(gateway, "meshfed_gateway_connections_total", &forwarded).unwrap() >= 1.0);
    for (daemon, key) in [("federator", "http"), ("east", "admin")] {
        let at: SocketAddr = world.fleet.address(daemon, key).parse().unwrap();
        let (ready, metrics) = (SocketAddr::new(at.ip(), 15021), SocketAddr::new(at.ip(), 15020));
        if daemon == "federator" {
            assert!(
                http::get(ready, "/").is_err() && http::get(metrics, "/").is_err(),
                "{daemon} opens a proxy's port"
            );
        }
    }
    // Only of an application that was asked is it said that it is ready: a gateway has none.
    let says = |i: usize| world.processes[i].log().contains("the application is ready");
    assert_eq!([1, 2, 3, 4].map(says), [false, false, true, false], "gateways, b, and a without a probe");
    // A name that no object has yet: the proxy says what it waits for, and binds nothing.
    let waiting = world.west.proxy(None, "shop/nobody", &[]);
    until("the proxy says what it waits for", SOON, || {
        let log = waiting.log();
        if log.contains("nobody") && log.contains("no WorkloadEntry names it") { Ok(()) } else { Err(log) }
    });
}
