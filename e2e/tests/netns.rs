//! Every cluster in a network namespace: pod networks that no other cluster can route to, gateways on a WAN.
//! Needs root, `iproute2` and veth and bridge devices; without them these tests fail and say so.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::net::IpAddr;
use std::time::Duration;

use meshfed_e2e::fleet::{Cluster, ClusterSpec, Fleet, application};
use meshfed_e2e::netns::{Namespace, Wan};
use meshfed_e2e::objects::{self, Workload};
use meshfed_e2e::process::Process;
use meshfed_e2e::wait::until;
use serde_json::Value;

const B_URL: &str = "http://b.shop.svc.clusterset.local:8080/";

/// A cluster's place: its namespace, its network, and the addresses of its parts.
struct Site {
    name: &'static str,
    network: String,
    region: &'static str,
    namespace: Namespace,
    /// Pod addresses of gateways, one per gateway.
    gateway_pods: Vec<IpAddr>,
    /// WAN addresses of gateways (`IP:PORT`), one list per gateway.
    gateway_wan: Vec<Vec<String>>,
    cidrs: String,
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn addresses(site: &[&str]) -> Vec<IpAddr> {
    site.iter().map(|a| ip(a)).collect()
}

impl Site {
    fn objects(&self, app: &str, app_addresses: &[IpAddr], exported: bool) -> String {
        let locality = format!("{0}/{0}-1", self.region);
        let mut text = String::new();
        for (i, (pod, wan)) in self.gateway_pods.iter().zip(&self.gateway_wan).enumerate() {
            let name = if i == 0 { "eastwest".to_owned() } else { format!("eastwest{i}") };
            text.push_str(&objects::gateway(&name, &self.network, &[*pod], wan, &locality));
        }
        text.push_str(&objects::service("shop", app, "http", 8080));
        text.push_str(&objects::workload(&Workload {
            name: &format!("{app}-{}-1", self.name),
            namespace: "shop",
            app,
            service_account: app,
            addresses: app_addresses,
            port: ("http", 8080),
            network: &self.network,
            locality: &locality,
            annotations: &[],
        }));
        if exported {
            text.push_str(&objects::export("shop", app));
        }
        text
    }

    fn start(&self, fleet: &Fleet, hub: &Namespace, objects: String) -> Cluster {
        let spec = ClusterSpec {
            name: self.name,
            networks: &[format!("{}={}", self.network, self.cidrs)],
            region: self.region,
            bind: ip("127.0.0.1"),
            objects,
        };
        Cluster::start(fleet, Some(hub), Some(&self.namespace), &spec)
    }

    fn gateways(&self, cluster: &Cluster) -> Vec<Process> {
        (0..self.gateway_pods.len())
            .map(|i| {
                let name = if i == 0 { "eastwest-1".to_owned() } else { format!("eastwest{i}-1") };
                let workload = format!("meshfed-system/eastwest/{name}");
                cluster.proxy(Some(&self.namespace), &workload, &["--mode", "gateway", "--admin-listen", "127.0.0.1:0"])
            })
            .collect()
    }
}

/// One cluster holds b, the other a; both on a WAN with the hub.
struct World {
    // In the order in which they go: processes tell their logs before the directory of the fleet is removed.
    east_gateways: Vec<Process>,
    _processes: Vec<Process>,
    _clusters: Vec<Cluster>,
    fleet: Fleet,
    _east: Site,
    west: Site,
    hub: Namespace,
    _wan: Wan,
}

struct Plan<'a> {
    east_pods: &'a [&'a str],
    west_pods: &'a [&'a str],
    /// WAN addresses of east's namespace, and those of each gateway.
    east_wan: &'a [&'a str],
    east_gateways: &'a [(&'a str, &'a [&'a str])],
    west_wan: &'a [&'a str],
    hub_wan: &'a [&'a str],
    b: &'a [&'a str],
    a: &'a [&'a str],
    cidrs: &'a str,
}

impl World {
    fn start(plan: &Plan<'_>) -> Self {
        let wan = Wan::new();
        let hub = Namespace::new("h");
        wan.join(&hub, plan.hub_wan);
        let (east_ns, west_ns) = (Namespace::new("e"), Namespace::new("x"));
        for (namespace, pods, outside) in
            [(&east_ns, plan.east_pods, plan.east_wan), (&west_ns, plan.west_pods, plan.west_wan)]
        {
            namespace.pods(pods);
            wan.join(namespace, outside);
        }
        let hub_host = plan.hub_wan[0].split('/').next().unwrap();
        let fleet = Fleet::start_at(Some(&hub), hub_host, &[]);
        let east = Site {
            name: "east",
            network: "net-east".to_owned(),
            region: "eu",
            namespace: east_ns,
            gateway_pods: plan.east_gateways.iter().map(|(pod, _)| ip(pod)).collect(),
            gateway_wan: plan.east_gateways.iter().map(|(_, w)| w.iter().map(|a| (*a).to_owned()).collect()).collect(),
            cidrs: plan.cidrs.to_owned(),
        };
        let west = Site {
            name: "west",
            network: "net-west".to_owned(),
            region: "us",
            namespace: west_ns,
            gateway_pods: Vec::new(),
            gateway_wan: Vec::new(),
            cidrs: plan.cidrs.to_owned(),
        };
        let east_cluster = east.start(&fleet, &hub, east.objects("b", &addresses(plan.b), true));
        let west_cluster = west.start(&fleet, &hub, west.objects("a", &addresses(plan.a), false));
        let app = std::net::SocketAddr::new(ip(plan.b[0]), 18080);
        let processes = vec![
            application(&fleet, Some(&east.namespace), "east", "b", app),
            east_cluster.proxy(
                Some(&east.namespace),
                "shop/b",
                &["--inbound", &format!("8080={app}"), "--admin-listen", "127.0.0.1:0"],
            ),
            west_cluster.proxy(Some(&west.namespace), "shop/a", &["--app-probe", "off"]),
        ];
        let east_gateways = east.gateways(&east_cluster);
        let world = Self {
            _east: east,
            west,
            hub,
            fleet,
            east_gateways,
            _processes: processes,
            _clusters: vec![east_cluster, west_cluster],
            _wan: wan,
        };
        world.fleet.wait_ready(Some(&world.hub));
        world
    }

    fn call(&self, outbound: &str) -> (String, String) {
        self.west.namespace.curl(&["-x", &format!("http://{outbound}"), B_URL])
    }
    fn items(&self) -> Vec<Value> {
        let body = self.fleet.endpoints(Some(&self.hub), "shop/b:8080", "west");
        body["items"].as_array().unwrap().clone()
    }
}

/// Two networks: a direct dial must fail, the gateway must work.
///
/// Mutation seen to fail: pods of east also get a route on the WAN.
#[test]
fn two_networks() {
    let world = World::start(&Plan {
        east_pods: &["10.1.0.2/16", "10.1.0.11/16"],
        west_pods: &["10.2.0.10/16"],
        east_wan: &["172.31.0.11/24"],
        east_gateways: &[("10.1.0.2", &["172.31.0.11:15443"])],
        west_wan: &["172.31.0.12/24"],
        hub_wan: &["172.31.0.1/24"],
        b: &["10.1.0.11"],
        a: &["10.2.0.10"],
        cidrs: "10.0.0.0/8,172.31.0.0/24",
    });
    let (status, direct) = world.west.namespace.curl(&["http://10.1.0.11:8080/"]);
    assert_eq!(status, "000", "west reached east's pod directly: {direct}");
    let (status, body) = world.call("10.2.0.10:15001");
    assert_eq!(status, "200", "{body}");
    assert!(body.contains("spiffe://west.mesh.example/ns/shop/sa/a"), "{body}");
    let items = world.items();
    assert_eq!(items.len(), 1, "{items:?}");
    assert_eq!(items[0]["address"], "172.31.0.11");
    assert_eq!(items[0]["via"], "gateway");
}

/// Both clusters use the same pod range, even the same addresses.
///
/// Mutation seen to fail: endpoints of another network keep their own address.
#[test]
fn overlapping_pod_ranges() {
    let world = World::start(&Plan {
        east_pods: &["10.1.0.2/16", "10.1.0.11/16"],
        west_pods: &["10.1.0.11/16"],
        east_wan: &["172.31.0.11/24"],
        east_gateways: &[("10.1.0.2", &["172.31.0.11:15443"])],
        west_wan: &["172.31.0.12/24"],
        hub_wan: &["172.31.0.1/24"],
        b: &["10.1.0.11"],
        a: &["10.1.0.11"],
        cidrs: "10.1.0.0/16,172.31.0.0/24",
    });
    let (status, body) = world.call("10.1.0.11:15001");
    assert_eq!(status, "200", "{body}");
    assert!(body.contains("\"cluster\":\"east\""), "{body}");
}

/// A dual-stack gateway serves a client that has IPv6 alone.
///
/// Mutation seen to fail: gateways outside the client's families are handed out.
#[test]
fn dual_stack_and_an_ipv6_client() {
    let world = World::start(&Plan {
        east_pods: &["10.1.0.2/16", "10.1.0.11/16", "fd01::11/64"],
        west_pods: &["fd02::10/64"],
        east_wan: &["172.31.0.11/24", "fd31::11/64"],
        east_gateways: &[("10.1.0.2", &["172.31.0.11:15443", "[fd31::11]:15443"])],
        west_wan: &["172.31.0.12/24", "fd31::12/64"],
        hub_wan: &["172.31.0.1/24", "fd31::1/64"],
        b: &["10.1.0.11", "fd01::11"],
        a: &["fd02::10"],
        cidrs: "10.1.0.0/16,172.31.0.0/24,fd00::/8",
    });
    let (status, body) = world.call("[fd02::10]:15001");
    assert_eq!(status, "200", "{body}");
    let endpoints = world
        .fleet
        .cli(Some(&world.hub), &["endpoints", "shop/b:8080", "--from", "west", "--client", "shop/a", "-o", "json"]);
    let body: Value = serde_json::from_str(&endpoints.ok("endpoints")).unwrap();
    let addresses: Vec<&str> =
        body["items"].as_array().unwrap().iter().map(|i| i["address"].as_str().unwrap()).collect();
    assert_eq!(addresses, ["fd31::11"], "{body}");
}

/// Two gateways of one cluster: when one dies, the other carries on.
///
/// Mutation seen to fail: a failed connect is not tried at another address.
#[test]
fn two_gateways_one_killed() {
    let mut world = World::start(&Plan {
        east_pods: &["10.1.0.2/16", "10.1.0.3/16", "10.1.0.11/16"],
        west_pods: &["10.2.0.10/16"],
        east_wan: &["172.31.0.11/24", "172.31.0.13/24"],
        east_gateways: &[("10.1.0.2", &["172.31.0.11:15443"]), ("10.1.0.3", &["172.31.0.13:15443"])],
        west_wan: &["172.31.0.12/24"],
        hub_wan: &["172.31.0.1/24"],
        b: &["10.1.0.11"],
        a: &["10.2.0.10"],
        cidrs: "10.0.0.0/8,172.31.0.0/24",
    });
    assert_eq!(world.items().len(), 2);
    world.east_gateways[0].kill();
    for i in 0..20 {
        let (status, body) = world.call("10.2.0.10:15001");
        assert_eq!(status, "200", "request {i} after the kill: {body}");
    }
    until("the dead gateway is no longer handed out", Duration::from_secs(60), || {
        let items = world.items();
        if items.len() == 1 && items[0]["address"] == "172.31.0.13" { Ok(()) } else { Err(format!("{items:?}")) }
    });
}

/// Two clusters on one network: single endpoints, no gateway, and direct mTLS.
///
/// Mutation seen to fail: the hub does not tell clusters of a shared network.
#[test]
fn one_shared_network() {
    let wan = Wan::new();
    let hub = Namespace::new("h");
    wan.join(&hub, &["172.31.0.1/24"]);
    let (east_ns, west_ns) = (Namespace::new("e"), Namespace::new("x"));
    wan.join(&east_ns, &["172.31.0.11/24"]);
    wan.join(&west_ns, &["172.31.0.12/24"]);
    let fleet = Fleet::start_at(Some(&hub), "172.31.0.1", &[]);
    let site = |name, region, namespace| Site {
        name,
        network: "net-flat".to_owned(),
        region,
        namespace,
        gateway_pods: Vec::new(),
        gateway_wan: Vec::new(),
        cidrs: "172.31.0.0/24".to_owned(),
    };
    let (east, west) = (site("east", "eu", east_ns), site("west", "us", west_ns));
    let east_cluster = east.start(&fleet, &hub, east.objects("b", &[ip("172.31.0.11")], true));
    let west_cluster = west.start(&fleet, &hub, west.objects("a", &[ip("172.31.0.12")], false));
    let app: std::net::SocketAddr = "172.31.0.11:18080".parse().unwrap();
    let _processes = [
        application(&fleet, Some(&east.namespace), "east", "b", app),
        east_cluster.proxy(
            Some(&east.namespace),
            "shop/b",
            &["--inbound", "8080=172.31.0.11:18080", "--admin-listen", "127.0.0.1:0"],
        ),
        west_cluster.proxy(Some(&west.namespace), "shop/a", &["--app-probe", "off"]),
    ];
    fleet.wait_ready(Some(&hub));
    let (status, body) = west.namespace.curl(&["-x", "http://172.31.0.12:15001", B_URL]);
    assert_eq!(status, "200", "{body}");
    let body = fleet.endpoints(Some(&hub), "shop/b:8080", "west");
    let items = body["items"].as_array().unwrap();
    assert_eq!(items.len(), 1, "{body}");
    assert_eq!((&items[0]["address"], &items[0]["port"]), (&Value::from("172.31.0.11"), &Value::from(8080)), "{body}");
    assert_eq!(items[0]["via"], "direct", "{body}");
}
