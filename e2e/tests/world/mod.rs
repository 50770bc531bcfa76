//! East exports b, west holds a: the fleet of contracts part 2 on loopback ranges of its own.
#![allow(dead_code, unreachable_pub, reason = "shared by test files that use parts of it")]

use std::net::SocketAddr;

use meshfed_e2e::fleet::{Cluster, ClusterSpec, Fleet, Range, application};
use meshfed_e2e::http;
use meshfed_e2e::objects::{self, Workload};
use meshfed_e2e::process::Process;

/// b as a client of west calls it.
pub const B_URL: &str = "http://b.shop.svc.clusterset.local:8080/";

/// The running fleet; processes end with it.
pub struct World {
    pub east: Cluster,
    pub west: Cluster,
    pub processes: Vec<Process>,
    pub east_range: Range,
    pub west_range: Range,
    pub fleet: Fleet,
}

fn gateway(cluster: &str, range: &Range, locality: &str) -> String {
    let address = range.host(1);
    objects::gateway("eastwest", &format!("net-{cluster}"), &[address], &[format!("{address}:15443")], locality)
}

fn workload(cluster: &str, range: &Range, last: u8, app: &str, locality: &str) -> String {
    objects::workload(&Workload {
        name: &format!("{app}-{cluster}-1"),
        namespace: "shop",
        app,
        service_account: app,
        addresses: &[range.host(last)],
        port: ("http", 8080),
        network: &format!("net-{cluster}"),
        locality,
        annotations: &[],
    })
}

impl World {
    /// Starts everything and waits until the fleet is ready.
    pub fn start() -> Self {
        let world = Self::start_without_a();
        let target = format!("8080={}:18080", world.west_range.host(10));
        let a = world.west.proxy(None, "shop/a", &["--inbound", &target, "--app-probe", "off"]);
        let mut world = world;
        world.processes.push(a);
        world.fleet.wait_ready(None);
        world
    }

    /// Starts everything but a's sidecar.
    pub fn start_without_a() -> Self {
        Self::start_without_a_on(Range::take(), Range::take())
    }

    /// As [`Self::start_without_a`], on ranges of the caller.
    pub fn start_without_a_on(east_range: Range, west_range: Range) -> Self {
        let fleet = Fleet::start();
        let east = Cluster::start(
            &fleet,
            None,
            None,
            &ClusterSpec {
                name: "east",
                networks: &[format!("net-east={}", east_range.cidr())],
                region: "eu",
                bind: east_range.host(1),
                objects: objects_of_east(&east_range, true),
            },
        );
        let west_objects = [
            gateway("west", &west_range, "us/us-1"),
            objects::service("shop", "a", "http", 8080),
            workload("west", &west_range, 10, "a", "us/us-1"),
        ]
        .concat();
        let west = Cluster::start(
            &fleet,
            None,
            None,
            &ClusterSpec {
                name: "west",
                networks: &[format!("net-west={}", west_range.cidr())],
                region: "us",
                bind: west_range.host(1),
                objects: west_objects,
            },
        );
        let app: SocketAddr = (east_range.host(11), 18080).into();
        let processes = vec![
            application(&fleet, None, "east", "b", app),
            east.proxy(None, "meshfed-system/eastwest", &["--mode", "gateway"]),
            west.proxy(None, "meshfed-system/eastwest", &["--mode", "gateway"]),
            east.proxy(None, "shop/b/b-east-1", &["--inbound", &format!("8080={app}")]),
        ];
        Self { east, west, processes, east_range, west_range, fleet }
    }

    /// East's objects, b exported or not.
    pub fn east_objects(&self, exported: bool) -> String {
        objects_of_east(&self.east_range, exported)
    }
    /// Where a's sidecar takes outbound requests.
    pub fn outbound(&self) -> SocketAddr {
        (self.west_range.host(10), 15001).into()
    }
    /// East's gateway.
    pub fn gateway(&self) -> SocketAddr {
        (self.east_range.host(1), 15443).into()
    }
    /// Connections that east's gateway has forwarded.
    pub fn forwarded(&self) -> f64 {
        let metrics = (self.east_range.host(1), 15020).into();
        http::metric(metrics, "meshfed_gateway_connections_total", &["result=\"forwarded\""]).expect("gateway metrics")
    }
}

fn objects_of_east(range: &Range, exported: bool) -> String {
    let mut text = [
        gateway("east", range, "eu/eu-1"),
        objects::service("shop", "b", "http", 8080),
        workload("east", range, 11, "b", "eu/eu-1"),
    ]
    .concat();
    if exported {
        text.push_str(&objects::export("shop", "b"));
    }
    text
}
