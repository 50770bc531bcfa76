//! Edge. From an event at the API server of one cluster to the first request that is served by the pod in the other.
//! The pod's proxy runs and is ready before; the event is a patch of its EndpointSlice that calls the pod ready, as the
//! controller of EndpointSlices writes it. The clock starts before the patch is sent.
//! Needs addresses 10.1.0.1 and 10.1.0.11 of this host. Prints a Markdown table: p50, p99 and maximum in milliseconds.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark tool"
)]

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use meshfed_e2e::binary::{meshfed, workspace};
use meshfed_e2e::fleet::{Cluster, ClusterSpec, Fleet, Range, application, command};
use meshfed_e2e::kube::{ApiServer, Raw};
use meshfed_e2e::objects::{self, Workload};
use meshfed_e2e::poll::{quantiles, until_status};
use meshfed_e2e::process::{Process, run};
use meshfed_e2e::wait;

/// Changes that are measured.
const ROUNDS: usize = 100;
const HOST: &str = "b.shop.svc.clusterset.local:8080";
const SLICE: &str = "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices/b-x";

const OBJECTS: &str = "apiVersion: v1
kind: Service
metadata: {name: b, namespace: shop}
spec: {selector: {app: b}, ports: [{name: http, port: 8080}]}
---
apiVersion: v1
kind: Node
metadata: {name: n1, labels: {topology.kubernetes.io/region: eu, topology.kubernetes.io/zone: eu-1}}
---
apiVersion: v1
kind: Pod
metadata: {name: b-1, namespace: shop, labels: {app: b}, annotations: {federation.meshfed.io/status: '{}'}}
spec: {serviceAccountName: b, nodeName: n1, containers: [{name: app, image: x, ports: [{name: http, containerPort: 8080}]}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: b-x, namespace: shop, labels: {kubernetes.io/service-name: b}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints:
- {addresses: [10.1.0.11], targetRef: {kind: Pod, name: b-1, namespace: shop}, conditions: {ready: true}}
---
apiVersion: multicluster.x-k8s.io/v1beta1
kind: ServiceExport
metadata: {name: b, namespace: shop}
---
";
const STATUS: &str = r#"{"status": {"phase": "Running", "podIP": "10.1.0.11", "podIPs": [{"ip": "10.1.0.11"}], "conditions": [{"type": "Ready", "status": "True"}]}}"#;

/// All kinds, and the objects of a cluster with one pod behind `b`.
fn fill(server: &ApiServer) {
    server.apply(&run(std::process::Command::new(meshfed()).arg("crds")).ok("meshfed crds"));
    let foreign = workspace().join("helm/meshfed-crds/files");
    for file in std::fs::read_dir(foreign).expect("the foreign kinds").flatten().map(|entry| entry.path()) {
        if file.extension().is_some_and(|e| e == "yaml") {
            server.apply(&std::fs::read_to_string(file).expect("a kind"));
        }
    }
    let _known = server.ok(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"]);
    for namespace in ["shop", "meshfed-system"] {
        let _made = server.ok(&["create", "namespace", namespace]);
    }
    let _made = server.ok(&["-n", "shop", "create", "serviceaccount", "b"]);
    let own = ["10.1.0.1".parse().expect("an address")];
    let gateway = objects::gateway("eastwest", "net-east", &own, &["10.1.0.1:15443".to_owned()], "eu/eu-1");
    server.apply(&(OBJECTS.to_owned() + &gateway));
    let patch = ["-n", "shop", "patch", "pod", "b-1", "--subresource=status", "--type=merge", "-p", STATUS];
    let _patched = server.ok(&patch);
}

/// An agent outside the cluster, as a member of the fleet.
fn east(fleet: &Fleet, kubeconfig: &Path) -> Process {
    let flags = ["--region", "eu", "--zone", "eu-1", "--network", "net-east=10.1.0.0/16"];
    let token = fleet.token(None, "east", &flags);
    let _joined = fleet.join(None, &token, "east").ok("join");
    let mut start = command(None);
    start.args(["agent", "--source", "kubernetes", "--xds-listen", "off", "--admin-listen", "127.0.0.1:0"]);
    start.args(["--namespace", "meshfed-system"]).arg("--data-dir").arg(fleet.path("east"));
    let agent = Process::start("east-agent", &fleet.path("logs"), start.arg("--kubeconfig").arg(kubeconfig));
    let socket = fleet.path("east/run/xds.sock");
    wait::until("east's agent serves", Duration::from_secs(60), || {
        if socket.exists() { Ok(()) } else { Err(agent.tail()) }
    });
    agent
}

fn east_proxy(fleet: &Fleet, workload: &str, flags: &[&str]) -> Process {
    let name = format!("east-{}", workload.replace('/', "-"));
    let mut start = command(None);
    start.arg("proxy").arg("--agent").arg(format!("unix:{}", fleet.path("east/run/xds.sock").display()));
    start
        .args(["--workload", workload, "--admin-listen", "127.0.0.1:0", "--run-dir"])
        .arg(fleet.path(&format!("run-{name}")))
        .args(flags);
    Process::start(&name, &fleet.path("logs"), &mut start)
}

fn main() {
    meshfed_runtime::tls::install_provider();
    let server = ApiServer::start();
    fill(&server);
    let fleet = Fleet::start();
    let raw = Raw::start(&server, &fleet.path("logs"));
    let range = Range::take();
    let _agent = east(&fleet, server.kubeconfig());
    let own = range.host(1);
    let gateway = objects::gateway("eastwest", "net-west", &[own], &[format!("{own}:15443")], "us/us-1");
    let client = objects::workload(&Workload {
        name: "a",
        namespace: "shop",
        app: "a",
        service_account: "a",
        addresses: &[range.host(10)],
        port: ("http", 8080),
        network: "net-west",
        locality: "us/us-1",
        annotations: &[],
    });
    let networks = [format!("net-west={}", range.cidr())];
    let spec = ClusterSpec { name: "west", networks: &networks, region: "us", bind: own, objects: gateway + &client };
    let west = Cluster::start(&fleet, None, None, &spec);
    let app: SocketAddr = (range.host(12), 18080).into();
    let inbound = format!("8080={app}");
    let _processes = [
        application(&fleet, None, "east", "b", app),
        east_proxy(&fleet, "meshfed-system/eastwest/eastwest-1", &["--mode", "gateway"]),
        east_proxy(&fleet, "shop/b/b-1", &["--inbound", &inbound]),
        west.proxy(None, "shop/a", &["--app-probe", "off"]),
    ];
    let outbound: SocketAddr = (range.host(10), 15001).into();
    wait::until("the first sidecar listens", Duration::from_secs(60), || std::net::TcpStream::connect(outbound));
    wait::until("b is served", Duration::from_secs(60), || {
        match meshfed_e2e::http::via(outbound, &format!("http://{HOST}/")) {
            Ok(answer) if answer.status == 200 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    let say = |ready: bool| {
        let patch = format!(r#"[{{"op": "replace", "path": "/endpoints/0/conditions/ready", "value": {ready}}}]"#);
        let _answer = raw.send("PATCH", SLICE, "application/json-patch+json", &patch).expect("a patch");
    };
    let mut millis: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            say(false);
            until_status(outbound, HOST, |s| s != 200);
            let begun = Instant::now();
            say(true);
            (until_status(outbound, HOST, |s| s == 200) - begun).as_secs_f64() * 1e3
        })
        .collect();
    print!("{}", quantiles("events", &mut millis));
    println!(
        "\nA real API server, which answers the patch within these times; the requester then polls over one connection without pause."
    );
}
