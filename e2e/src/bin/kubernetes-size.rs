//! Edge. An agent at 1,000 services with 10,000 endpoints of a real API server: from its start to the moment at which a
//! sidecar that had nothing is ready with all of them, its memory, and its CPU time at the start, at rest and per event.
//! Prints a Markdown table.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark tool"
)]

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use meshfed_e2e::binary::{meshfed, workspace};
use meshfed_e2e::fleet::{Fleet, command};
use meshfed_e2e::kube::{ApiServer, Raw};
use meshfed_e2e::process::{Process, run};
use meshfed_e2e::{http, wait};

const SERVICES: usize = 1000;
const ENDPOINTS_EACH: usize = 10;
const NODES: usize = 50;
/// Writers side by side.
const WRITERS: usize = 8;
/// Events whose cost is measured.
const EVENTS: usize = 100;
/// Starts of which the median is taken.
const STARTS: usize = 5;
const REST: Duration = Duration::from_secs(10);
const SOON: Duration = Duration::from_secs(120);

const JSON: &str = "application/json";

fn address(service: usize, endpoint: usize) -> String {
    format!("10.1.{}.{}", service / 25, service % 25 * ENDPOINTS_EACH + endpoint + 1)
}

fn pod(service: usize, endpoint: usize) -> String {
    format!(
        r#"{{"apiVersion": "v1", "kind": "Pod", "metadata": {{"name": "s{service}-{endpoint}", "labels": {{"app": "s{service}", "pod-template-hash": "68464b4dd4"}},
 "annotations": {{"federation.meshfed.io/status": "{{}}"}}}}, "spec": {{"serviceAccountName": "s", "nodeName": "n{}",
 "containers": [{{"name": "app", "image": "registry.example/app:1", "ports": [{{"name": "http", "containerPort": 8080}}]}}]}}}}"#,
        (service + endpoint) % NODES
    )
}

fn status(service: usize, endpoint: usize) -> String {
    let ip = address(service, endpoint);
    format!(
        r#"{{"status": {{"phase": "Running", "podIP": "{ip}", "podIPs": [{{"ip": "{ip}"}}], "conditions": [{{"type": "Ready", "status": "True"}}]}}}}"#
    )
}

fn slice(service: usize) -> String {
    let endpoint = |n: usize| {
        format!(
            r#"{{"addresses": ["{}"], "nodeName": "n{}", "targetRef": {{"kind": "Pod", "namespace": "shop", "name": "s{service}-{n}"}}, "conditions": {{"ready": true, "serving": true, "terminating": false}}}}"#,
            address(service, n),
            (service + n) % NODES
        )
    };
    let endpoints: Vec<String> = (0..ENDPOINTS_EACH).map(endpoint).collect();
    format!(
        r#"{{"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {{"name": "s{service}-x", "labels": {{"kubernetes.io/service-name": "s{service}"}}}},
 "addressType": "IPv4", "ports": [{{"name": "http", "port": 8080}}], "endpoints": [{}]}}"#,
        endpoints.join(", ")
    )
}

fn fill_service(raw: &Raw, service: usize) -> Result<(), String> {
    let post = |path: &str, body: &str| raw.send("POST", path, JSON, body).map(|_answer| ());
    let named = |group: &str, kind: &str, rest: &str| {
        format!(r#"{{"apiVersion": "{group}", "kind": "{kind}", "metadata": {{"name": "s{service}"}}{rest}}}"#)
    };
    let spec =
        format!(r#", "spec": {{"selector": {{"app": "s{service}"}}, "ports": [{{"name": "http", "port": 8080}}]}}"#);
    post("/api/v1/namespaces/shop/services", &named("v1", "Service", &spec))?;
    post("/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices", &slice(service))?;
    for endpoint in 0..ENDPOINTS_EACH {
        post("/api/v1/namespaces/shop/pods", &pod(service, endpoint))?;
        let path = format!("/api/v1/namespaces/shop/pods/s{service}-{endpoint}/status");
        raw.send("PATCH", &path, "application/merge-patch+json", &status(service, endpoint))?;
    }
    Ok(())
}

fn fill(server: &ApiServer, raw: &Raw) {
    server.apply(&run(Command::new(meshfed()).arg("crds")).ok("meshfed crds"));
    for file in std::fs::read_dir(workspace().join("helm/meshfed-crds/files")).expect("the foreign kinds").flatten() {
        if file.path().extension().is_some_and(|e| e == "yaml") {
            server.apply(&std::fs::read_to_string(file.path()).expect("a kind"));
        }
    }
    let _known = server.ok(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"]);
    for namespace in ["shop", "meshfed-system"] {
        let _made = server.ok(&["create", "namespace", namespace]);
    }
    let _made = server.ok(&["-n", "shop", "create", "serviceaccount", "s"]);
    for node in 0..NODES {
        let labels = r#"{"topology.kubernetes.io/region": "eu", "topology.kubernetes.io/zone": "eu-1"}"#;
        let node =
            format!(r#"{{"apiVersion": "v1", "kind": "Node", "metadata": {{"name": "n{node}", "labels": {labels}}}}}"#);
        let _made = raw.send("POST", "/api/v1/nodes", JSON, &node).expect("a node");
    }
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            scope.spawn(move || {
                for service in (writer..SERVICES).step_by(WRITERS) {
                    fill_service(raw, service).expect("a service and its pods");
                }
            });
        }
    });
}

/// Milliseconds of CPU that a process has used.
fn cpu(process: &Process) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.id())).expect("a process");
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    // utime and stime, in hundredths of a second (proc(5)).
    [11, 12].iter().filter_map(|at| fields.get(*at)?.parse::<u64>().ok()).sum::<u64>() * 10
}

/// `VmRSS`, `VmHWM` and `RssAnon` of a process, in KiB.
fn memory(process: &Process) -> BTreeMap<String, u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).expect("a process");
    let line = |l: &str| {
        let (name, value) = l.split_once(':')?;
        Some((name.to_owned(), value.trim().trim_end_matches(" kB").parse().ok()?))
    };
    status.lines().filter(|l| l.starts_with("Vm") || l.starts_with("Rss")).filter_map(line).collect()
}

struct Started {
    agent: Process,
    _sidecar: Process,
    took: Duration,
}

/// Starts the agent, and with its socket a sidecar; ready means that it holds every service, which is looked at afterwards.
fn start(fleet: &Fleet, server: &ApiServer) -> Started {
    let run_dir = fleet.path("run-sidecar");
    let socket = fleet.path("east/run/xds.sock");
    for old in [&run_dir, &fleet.path("east/state/source")] {
        let _first = std::fs::remove_dir_all(old);
    }
    let _first = std::fs::remove_file(&socket);
    let mut command_ = command(None);
    command_.args(["agent", "--source", "kubernetes", "--xds-listen", "off", "--admin-listen", "127.0.0.1:0"]);
    command_.args(["--namespace", "meshfed-system"]).arg("--data-dir").arg(fleet.path("east"));
    command_.arg("--kubeconfig").arg(server.kubeconfig());
    let begun = Instant::now();
    let agent = Process::start("east-agent", &fleet.path("logs"), &mut command_);
    wait::until("the agent has its socket", SOON, || if socket.exists() { Ok(()) } else { Err(agent.tail()) });
    let mut sidecar = command(None);
    sidecar.args([
        "proxy",
        "--agent",
        &format!("unix:{}", socket.display()),
        "--workload",
        "shop/s/s0-0",
        "--app-probe",
        "off",
    ]);
    sidecar.args(["--bind", "127.0.0.1", "--ready-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
    sidecar.args([
        "--metrics-listen",
        "127.0.0.1:0",
        "--inbound-listen",
        "127.0.0.1:0",
        "--outbound-listen",
        "127.0.0.1:0",
    ]);
    let sidecar = Process::start("sidecar", &fleet.path("logs"), sidecar.arg("--run-dir").arg(&run_dir));
    let at = |key: &str| -> Option<std::net::SocketAddr> {
        let text = std::fs::read(run_dir.join("addresses.json")).ok()?;
        let addresses: serde_json::Value = serde_json::from_slice(&text).ok()?;
        addresses[key][0].as_str()?.parse().ok()
    };
    wait::until("the sidecar is ready", SOON, || {
        let answer = http::get(at("ready").ok_or_else(|| sidecar.tail())?, "/healthz/ready")?;
        if answer.status == 200 { Ok(()) } else { Err(answer.body) }
    });
    let took = begun.elapsed();
    let state = http::get(at("admin").expect("its admin port"), "/debug/state").expect("its state").body;
    let state: serde_json::Value = serde_json::from_str(&state).expect("JSON");
    for service in 0..SERVICES {
        let cluster = &state["clusters"][format!("outbound|8080||s{service}.shop.svc.cluster.local")];
        assert_eq!(cluster["endpoints"].as_array().map(Vec::len), Some(ENDPOINTS_EACH), "s{service}: {cluster}");
    }
    Started { agent, _sidecar: sidecar, took }
}

fn main() {
    meshfed_runtime::tls::install_provider();
    let server = ApiServer::start();
    let fleet = Fleet::start();
    let raw = Raw::start(&server, &fleet.path("logs"));
    fill(&server, &raw);
    let flags = ["--region", "eu", "--zone", "eu-1", "--network", "net-east=10.1.0.0/16"];
    let token = fleet.token(None, "east", &flags);
    let _joined = fleet.join(None, &token, "east").ok("join");

    let mut takes = Vec::new();
    let mut started = start(&fleet, &server);
    let at_start = cpu(&started.agent);
    takes.push(started.took);
    for _ in 1..STARTS {
        let _code = started.agent.stop();
        drop(started);
        started = start(&fleet, &server);
        takes.push(started.took);
    }
    takes.sort();
    let before = cpu(&started.agent);
    std::thread::sleep(REST);
    let at_rest = cpu(&started.agent) - before;
    let before = cpu(&started.agent);
    for event in 0..EVENTS {
        let path = format!("/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices/s{}-x", event % SERVICES);
        let patch = r#"[{"op": "replace", "path": "/endpoints/0/conditions/ready", "value": false}]"#;
        let _answer = raw.send("PATCH", &path, "application/json-patch+json", patch).expect("a patch");
    }
    std::thread::sleep(REST);
    let per_event = (cpu(&started.agent) - before).saturating_sub(at_rest) as f64 / EVENTS as f64;
    let memory = memory(&started.agent);
    let mib = |name: &str| memory.get(name).copied().unwrap_or_default() as f64 / 1024.0;
    let median = takes.get(takes.len() / 2).copied().unwrap_or_default();
    println!("| what | measured | wanted |\n|---|---|---|");
    println!(
        "| from the agent's start to a sidecar with all {SERVICES} services, median of {STARTS} (s) | {:.2} | 2 |",
        median.as_secs_f64()
    );
    println!("| agent, resident memory (MiB) | {:.1} | 100 |", mib("VmRSS"));
    println!("| of it its own, without the program's file (MiB) | {:.1} | |", mib("RssAnon"));
    println!("| its highest (MiB) | {:.1} | |", mib("VmHWM"));
    println!("| its CPU time for a start (ms) | {at_start} | |");
    println!("| its CPU time in {} s at rest (ms) | {at_rest} | |", REST.as_secs());
    println!("| its CPU time for one endpoint event (ms) | {per_event:.2} | |");
    println!(
        "\n{SERVICES} services with {} pods behind them, one sidecar, one real API server on the same machine.",
        SERVICES * ENDPOINTS_EACH
    );
}
