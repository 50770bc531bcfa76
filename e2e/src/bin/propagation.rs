//! Edge. From the write of a YAML file in one cluster to the first request served by the new endpoint in the other.
//! The endpoint's proxy runs and is ready before; the write makes its WorkloadEntry match the Service.
//! Prints a Markdown table: p50, p99 and maximum in milliseconds.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark tool"
)]

use std::net::SocketAddr;
use std::time::Instant;

use meshfed_e2e::fleet::{Cluster, ClusterSpec, Fleet, Range, application};
use meshfed_e2e::objects::{self, Workload};
use meshfed_e2e::poll::{quantiles, until_status};

/// Changes that are measured.
const ROUNDS: usize = 100;
const HOST: &str = "b.shop.svc.clusterset.local:8080";

fn gateway(cluster: &str, range: &Range, locality: &str) -> String {
    let own = range.host(1);
    objects::gateway("eastwest", &format!("net-{cluster}"), &[own], &[format!("{own}:15443")], locality)
}

fn workload(cluster: &str, range: &Range, last: u8, name: &str, app: &str, locality: &str) -> String {
    objects::workload(&Workload {
        name,
        namespace: "shop",
        app,
        service_account: name,
        addresses: &[range.host(last)],
        port: ("http", 8080),
        network: &format!("net-{cluster}"),
        locality,
        annotations: &[],
    })
}

fn main() {
    meshfed_runtime::tls::install_provider();
    let (east_range, west_range) = (Range::take(), Range::take());
    let fleet = Fleet::start();
    let b = |app: &str| workload("east", &east_range, 11, "b", app, "eu/eu-1");
    let fixed = [
        gateway("east", &east_range, "eu/eu-1"),
        objects::service("shop", "b", "http", 8080),
        objects::export("shop", "b"),
    ];
    let spec = |name, region, range: &Range, objects| {
        Cluster::start(
            &fleet,
            None,
            None,
            &ClusterSpec {
                name,
                networks: &[format!("net-{name}={}", range.cidr())],
                region,
                bind: range.host(1),
                objects,
            },
        )
    };
    let east = spec("east", "eu", &east_range, fixed.concat());
    east.write("b.yaml", &b("b"));
    let a = workload("west", &west_range, 10, "a", "a", "us/us-1");
    let west = spec("west", "us", &west_range, [gateway("west", &west_range, "us/us-1"), a].concat());
    let app: SocketAddr = (east_range.host(11), 18080).into();
    let _processes = [
        application(&fleet, None, "east", "b", app),
        east.proxy(None, "meshfed-system/eastwest", &["--mode", "gateway"]),
        west.proxy(None, "meshfed-system/eastwest", &["--mode", "gateway"]),
        east.proxy(None, "shop/b", &["--inbound", &format!("8080={app}")]),
        west.proxy(None, "shop/a", &["--app-probe", "off"]),
    ];
    fleet.wait_ready(None);
    let outbound: SocketAddr = (west_range.host(10), 15001).into();
    let mut millis: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            east.write("b.yaml", &b("elsewhere"));
            until_status(outbound, HOST, |s| s != 200);
            let written = Instant::now();
            east.write("b.yaml", &b("b"));
            (until_status(outbound, HOST, |s| s == 200) - written).as_secs_f64() * 1e3
        })
        .collect();
    print!("{}", quantiles("changes", &mut millis));
    println!("\nThe requester polls over one connection without pause, on the same two CPUs.");
}
