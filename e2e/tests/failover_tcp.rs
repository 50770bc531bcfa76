//! Raw TCP: db runs in both clusters, and a prefers the one next to it. Nothing on the wire could say, once a connection
//! stands, that the application behind it is gone.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use meshfed_e2e::fleet::{Cluster, ClusterSpec, Fleet, Range, application};
use meshfed_e2e::http;
use meshfed_e2e::objects::{self, Workload};
use meshfed_e2e::wait::until;
use serde_json::Value;

/// A test of a loaded machine waits longer than what is promised, and asserts no time.
const SOON: Duration = Duration::from_secs(20);
const PORT: u16 = 9000;

fn objects_of(cluster: &str, range: &Range, locality: &str, apps: &[(&str, u8)]) -> String {
    let network = format!("net-{cluster}");
    let gateway = range.host(1);
    let mut text = objects::gateway("eastwest", &network, &[gateway], &[format!("{gateway}:15443")], locality);
    for (app, last) in apps {
        text.push_str(&objects::service("shop", app, "tcp", PORT));
        text.push_str(&objects::workload(&Workload {
            name: &format!("{app}-{cluster}-1"),
            namespace: "shop",
            app,
            service_account: app,
            addresses: &[range.host(*last)],
            port: ("tcp", PORT),
            network: &network,
            locality,
            annotations: &[],
        }));
    }
    text + &objects::export("shop", "db")
}

/// One connection with one question on it: the cluster that answered, or what went wrong.
fn ask(at: SocketAddr) -> Result<String, String> {
    let answer = http::get(at, "/")?;
    let body: Value = serde_json::from_str(&answer.body).map_err(|e| e.to_string())?;
    Ok(body["cluster"].as_str().unwrap_or("none").to_owned())
}

/// The clusters of the endpoints that a client of west is handed.
fn handed(fleet: &Fleet) -> Vec<String> {
    let endpoints = fleet.endpoints(None, &format!("shop/db:{PORT}"), "west");
    let items = endpoints["items"].as_array().unwrap();
    items.iter().map(|i| i["cluster"].as_str().unwrap().to_owned()).collect()
}

/// Check 6 for raw TCP, without a probe: the endpoint stays where it is, and every connection would begin at it. The one
/// that finds out that its application is dead ends; all others are served by east, until it is back.
///
/// Mutations seen to fail: `reach.lose()` left out of `tcp::serve_inbound`; `is_reachable` always true.
#[test]
fn a_dead_tcp_application_is_replaced_by_the_other_cluster() {
    let (east_range, west_range) = (Range::take_of(90..=95), Range::take_of(90..=95));
    let fleet = Fleet::start();
    let start = |name: &str, region: &str, range: &Range, apps: &[(&str, u8)]| {
        let spec = ClusterSpec {
            name,
            networks: &[format!("net-{name}={}", range.cidr())],
            region,
            bind: range.host(1),
            objects: objects_of(name, range, &format!("{region}/{region}-1"), apps),
        };
        Cluster::start(&fleet, None, None, &spec)
    };
    let east = start("east", "eu", &east_range, &[("db", 11)]);
    let west = start("west", "us", &west_range, &[("db", 11), ("a", 10)]);
    let target = |range: &Range| SocketAddr::from((range.host(11), 19000));
    let inbound = |range: &Range| format!("{PORT}={}", target(range));
    let entry: SocketAddr = (west_range.host(10), 9100).into();
    let outbound = format!("{entry}=db.shop.svc.clusterset.local:{PORT}");
    let _proxies = [
        east.proxy(None, "meshfed-system/eastwest", &["--mode", "gateway"]),
        west.proxy(None, "meshfed-system/eastwest", &["--mode", "gateway"]),
        east.proxy(None, "shop/db", &["--app-probe", "off", "--inbound", &inbound(&east_range)]),
        west.proxy(None, "shop/db", &["--app-probe", "off", "--inbound", &inbound(&west_range)]),
        west.proxy(None, "shop/a", &["--app-probe", "off", "--outbound", &outbound]),
    ];
    let _east_db = application(&fleet, None, "east", "db", target(&east_range));
    let mut west_db = application(&fleet, None, "west", "db", target(&west_range));
    fleet.wait_ready(None);
    let west_serves = || match ask(entry)?.as_str() {
        "west" => Ok(()),
        other => Err(other.to_owned()),
    };
    until("west serves", SOON, west_serves);
    for _ in 0..10 {
        assert_eq!(ask(entry), Ok("west".to_owned()));
    }

    west_db.kill();
    assert!(ask(entry).is_err(), "this one finds out");
    for _ in 0..50 {
        assert_eq!(ask(entry), Ok("east".to_owned()));
    }
    assert!(handed(&fleet).contains(&"west".to_owned()), "the endpoint was there all the time");
    let sidecar: IpAddr = west_range.host(11);
    let refused = ["reporter=\"destination\"", "response_flags=\"UF\""];
    let counted = http::metric((sidecar, 15020).into(), "istio_tcp_connections_opened_total", &refused).unwrap();
    assert!(counted >= 2.0, "unanswered handshakes are counted, too: {counted}");

    let _west_db = application(&fleet, None, "west", "db", target(&west_range));
    until("west serves again", SOON, west_serves);
}
