//! The source `kubernetes` against real API servers: what comes first, what follows, and what is never taken away.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use meshfed_cluster_agent::index::{Index, IndexSettings};
use meshfed_cluster_agent::source::{
    ApiServerConfig, Place, SourceConfig, SourceError, SourceMetrics, SourceUpdate, run,
};
use meshfed_crds::{Body, Bounds, Change, Code, ObjectError};
use meshfed_e2e::binary::workspace;
use meshfed_e2e::fleet::{Fleet, command};
use meshfed_e2e::kube::{ApiServer, Client};
use meshfed_e2e::process::Process;
use meshfed_e2e::{http, relay, wait};
use meshfed_model::network::Network;
use meshfed_runtime::drain::{self, Trigger};
use meshfed_runtime::metrics::Metrics;
use meshfed_runtime::readiness::Readiness;
use meshfed_runtime::tasks;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Far above what anything takes, so that a busy machine does not fail the test.
const SOON: Duration = Duration::from_secs(60);

/// More updates than anything here takes.
const UPDATES_MAX: usize = 1000;

/// A Service in namespace shop with `count` pods behind it, all of account b.
fn objects(count: usize) -> String {
    let mut text = "apiVersion: v1
kind: Service
metadata: {name: b, namespace: shop}
spec: {selector: {app: b}, ports: [{name: http, port: 8080}]}
---
apiVersion: v1
kind: Node
metadata: {name: n1, labels: {topology.kubernetes.io/region: eu, topology.kubernetes.io/zone: eu-1}}
---
"
    .to_owned();
    let mut endpoints = String::new();
    for n in 1..=count {
        text += &format!(
            "apiVersion: v1
kind: Pod
metadata: {{name: b-{n}, namespace: shop, labels: {{app: b}}, annotations: {{federation.meshfed.io/status: '{{}}'}}}}
spec: {{serviceAccountName: b, nodeName: n1, containers: [{{name: app, image: x, ports: [{{name: http, containerPort: 8080}}]}}]}}
---
"
        );
        endpoints += &format!(
            "- {{addresses: [10.1.0.{n}], targetRef: {{kind: Pod, name: b-{n}, namespace: shop}}, conditions: {{ready: true}}}}\n"
        );
    }
    text + &format!(
        "apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: b-x, namespace: shop, labels: {{kubernetes.io/service-name: b}}}}
addressType: IPv4
ports: [{{name: http, port: 8080}}]
endpoints:
{endpoints}"
    )
}

/// Writes the objects, and what a kubelet would write of the pods.
fn fill(server: &ApiServer, count: usize) {
    let _made = server.ok(&["create", "namespace", "shop"]);
    let _made = server.ok(&["-n", "shop", "create", "serviceaccount", "b"]);
    server.apply(&objects(count));
    for n in 1..=count {
        let status = format!(
            r#"{{"status": {{"phase": "Running", "podIP": "10.1.0.{n}", "podIPs": [{{"ip": "10.1.0.{n}"}}], "conditions": [{{"type": "Ready", "status": "True"}}]}}}}"#
        );
        let _patched = server.ok(&[
            "-n",
            "shop",
            "patch",
            "pod",
            &format!("b-{n}"),
            "--subresource=status",
            "--type=merge",
            "-p",
            &status,
        ]);
    }
}

fn delete_pod(server: &Client, name: &str) {
    let _gone = server.ok(&["-n", "shop", "delete", "pod", name, "--force", "--grace-period=0", "--wait=false"]);
}

/// A definition of another project's kind that takes everything.
fn definition(server: &Client, group: &str, version: &str, kind: &str, plural: &str) {
    server.apply(&format!(
        "apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {{name: {plural}.{group}}}
spec:
  group: {group}
  scope: Namespaced
  names: {{kind: {kind}, plural: {plural}, singular: {}}}
  versions: [{{name: {version}, served: true, storage: true, schema: {{openAPIV3Schema: {{type: object, x-kubernetes-preserve-unknown-fields: true}}}}}}]
",
        kind.to_ascii_lowercase()
    ));
    let _established =
        server.ok(&["wait", "--for=condition=Established", &format!("crd/{plural}.{group}"), "--timeout=30s"]);
}

/// All kinds that are no part of Kubernetes.
fn definitions(server: &Client) {
    definition(server, "multicluster.x-k8s.io", "v1beta1", "ServiceExport", "serviceexports");
    definition(server, "networking.istio.io", "v1", "WorkloadEntry", "workloadentries");
    definition(server, "security.istio.io", "v1", "PeerAuthentication", "peerauthentications");
    let charts = workspace().join("helm/meshfed-crds/templates");
    for kind in ["meshes", "exportpolicies", "failoverpolicies"] {
        let file = charts.join(format!("federation.meshfed.io_{kind}.yaml"));
        server.apply(&std::fs::read_to_string(file).unwrap());
        let name = format!("crd/{kind}.federation.meshfed.io");
        let _established = server.ok(&["wait", "--for=condition=Established", &name, "--timeout=30s"]);
    }
}

const EXPORT: &str =
    "{apiVersion: multicluster.x-k8s.io/v1beta1, kind: ServiceExport, metadata: {name: b, namespace: shop}}";

/// A source that runs, and what stands by its updates.
struct Following {
    updates: mpsc::Receiver<SourceUpdate>,
    task: JoinHandle<Result<(), SourceError>>,
    drain: Trigger,
    standing: BTreeSet<String>,
    /// Everything that was ever taken away.
    removed: Vec<String>,
    errors: Arc<[ObjectError]>,
    /// What the first endpoint of the last slice is said to be.
    slice_ready: Option<bool>,
    metrics: Metrics,
    readiness: Readiness,
    runtime: Arc<Runtime>,
}

impl Following {
    fn start(runtime: &Arc<Runtime>, kubeconfig: &Path, state: &Path) -> Self {
        let (metrics, readiness) = (Metrics::new(), Readiness::new());
        let cidrs = ["10.1.0.0/16".parse().unwrap()].into();
        let config = SourceConfig {
            place: Place::ApiServer(Box::new(ApiServerConfig {
                unserved: meshfed_cluster_agent::source::Unserved::default(),
                kubeconfig: Some(kubeconfig.to_path_buf()),
                context: None,
                namespace: "meshfed-system".parse().unwrap(),
                fleet_namespace: None,
                readiness: readiness.clone(),
                metrics: SourceMetrics::register(&metrics),
            })),
            state: state.to_path_buf(),
            bounds: Bounds {
                networks: vec![Network { name: "net".parse().unwrap(), cidrs }],
                regions: vec!["eu".to_owned()],
                ..Bounds::default()
            },
        };
        let (sender, updates) = mpsc::channel(2);
        let (drain, watch) = drain::channel();
        let _entered = runtime.enter();
        let task = tasks::spawn("source", run(config, sender, watch));
        Self {
            updates,
            task,
            drain,
            standing: BTreeSet::new(),
            removed: Vec::new(),
            errors: Arc::from([]),
            slice_ready: None,
            metrics,
            readiness,
            runtime: Arc::clone(runtime),
        }
    }
    fn next(&mut self) -> SourceUpdate {
        let next = async { tokio::time::timeout(SOON, self.updates.recv()).await };
        let update = self.runtime.block_on(next).expect("an update in time").expect("the source runs");
        for change in &update.changes {
            match change {
                Change::Put(object) => {
                    self.standing.insert(object.key().to_string());
                    if let Body::EndpointSlice(slice) = &object.body {
                        self.slice_ready = slice.endpoints.first().map(|e| e.ready);
                    }
                }
                Change::Removed(key) => {
                    self.standing.remove(&key.to_string());
                    self.removed.push(key.to_string());
                }
            }
        }
        self.errors = Arc::clone(&update.errors);
        update
    }
    fn until(&mut self, what: &str, condition: impl Fn(&Self) -> bool) {
        let mut heard = 0;
        while !condition(self) {
            let _update = self.next();
            heard += 1;
            assert!(heard < UPDATES_MAX, "{what}, not after {heard} updates: {:?} {:?}", self.standing, self.errors);
        }
    }
    fn unwatched(&self) -> BTreeSet<&str> {
        let unwatched = self.errors.iter().filter(|e| e.code == Code::Unwatched);
        unwatched.filter_map(|e| e.kind.as_deref()).collect()
    }
    fn metric(&self, name: &str) -> f64 {
        let text = self.metrics.encode();
        let line = text.lines().find(|l| l.starts_with(name)).unwrap_or_else(|| panic!("{name} in {text}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }
    fn stop(self) {
        self.drain.start();
        self.runtime.block_on(self.task).unwrap().unwrap();
    }
}

fn runtime() -> Arc<Runtime> {
    meshfed_runtime::tls::install_provider();
    Arc::new(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap())
}

const SHOP: [&str; 5] = ["EndpointSlice shop/b-x", "Node n1", "Pod shop/b-1", "Pod shop/b-2", "Service shop/b"];

fn has(standing: &BTreeSet<String>, names: &[&str]) -> bool {
    names.iter().all(|name| standing.contains(*name))
}

/// The first update holds everything that is there; kinds without definition are told of and waited for by nobody, those
/// without permission for half a minute, and come as soon as they may.
///
/// Mutations seen to fail: `Lack::Missing` left out of `Watched::is_settled`; `self.version.revision > 0` of `take`
/// answered `true`.
#[test]
fn everything_comes_at_once_and_what_is_missing_comes_later() {
    let server = ApiServer::start();
    fill(&server, 2);
    let (runtime, state) = (runtime(), tempfile::tempdir().unwrap());
    let mut source = Following::start(&runtime, server.kubeconfig(), &state.path().join("source"));
    let first = source.next();
    assert!(has(&source.standing, &SHOP), "{:?}", source.standing);
    assert_eq!(first.version.revision, 1);
    assert!(source.readiness.is_ready());
    let missing =
        ["ExportPolicy", "FailoverPolicy", "Mesh", "PeerAuthentication", "ServiceExport", "WorkloadEntry"].into();
    assert_eq!(source.unwatched(), missing, "{:?}", first.errors);
    assert_eq!(source.metric("meshfed_source_objects{kind=\"Pod\"}"), 2.0);
    definitions(&server);
    server.apply(EXPORT);
    source.until("the kinds are there", |s| s.unwatched().is_empty() && has(&s.standing, &["ServiceExport shop/b"]));
    // Poison: what its schema lets through is refused by name, and its neighbour follows.
    server.apply("{apiVersion: multicluster.x-k8s.io/v1beta1, kind: ServiceExport, metadata: {name: b, namespace: shop}, spec: {exportedLabels: [no, map]}}");
    source.until("the fault is told", |s| s.errors.iter().any(|e| e.kind.as_deref() == Some("ServiceExport")));
    assert!(has(&source.standing, &["ServiceExport shop/b"]), "its last good version stands");
    delete_pod(&server, "b-2");
    source.until("the pod is gone", |s| !has(&s.standing, &["Pod shop/b-2"]));
    assert_eq!(source.removed, ["Pod shop/b-2"]);
    source.stop();

    // Who may read little has that little once it is certain (an API server that has just started forbids everything), and a
    // fault for each of the others.
    let _role = server.ok(&["create", "clusterrole", "v", "--verb=get,list,watch", "--resource=pods,services"]);
    let _bound = server.ok(&["create", "clusterrolebinding", "v", "--clusterrole=v", "--serviceaccount=shop:b"]);
    let account = server.as_account("shop", "b");
    account.until(&["auth", "can-i", "list", "pods", "-A"], "yes", SOON);
    let mut source = Following::start(&runtime, account.kubeconfig(), &state.path().join("other"));
    let _first = source.next();
    assert!(has(&source.standing, &["Pod shop/b-1", "Service shop/b"]) && !has(&source.standing, &["Node n1"]));
    let fault = source.errors.iter().find(|e| e.kind.as_deref() == Some("Node")).expect("a fault");
    assert!(fault.message.contains("may not be listed") && fault.message.contains("nodes"), "{fault}");
    source.stop();
}

/// A relay before an API server that can be cut, and a kubeconfig that leads through it.
fn relayed(server: &ApiServer) -> (PathBuf, Arc<AtomicBool>, relay::Relay) {
    let cut = Arc::new(AtomicBool::new(false));
    let judged = Arc::clone(&cut);
    let address = server.url().trim_start_matches("https://").parse().unwrap();
    let (through, relay) = relay::judged(address, Arc::new(move |_| !judged.load(Ordering::Relaxed)));
    let file = server.file("relayed.conf");
    std::fs::copy(server.kubeconfig(), &file).unwrap();
    let cluster = server.ok(&["config", "view", "-o", "jsonpath={.clusters[0].name}"]);
    let url = format!("--server=https://{through}");
    let _set = server.with(file.clone()).ok(&["config", "set-cluster", cluster.trim(), &url]);
    (file, cut, relay)
}

/// An API server that is away, and one whose watches are lost for good (410): nothing is taken away but what was
/// deleted, and that as soon as it is heard of. An agent that starts meanwhile serves what it had.
///
/// Mutations seen to fail: `Step::Failed` of `Kinds::take` clears `known`; `late` of `Following::take` answered
/// `false`; the paths left out of `ApiServer::new`.
#[test]
fn an_api_server_that_is_away_takes_nothing_away() {
    let mut server = ApiServer::start();
    definitions(&server);
    fill(&server, 3);
    server.apply(EXPORT);
    let (runtime, state) = (runtime(), tempfile::tempdir().unwrap());
    let state = state.path().join("source");
    let (kubeconfig, cut, relay) = relayed(&server);
    let mut source = Following::start(&runtime, &kubeconfig, &state);
    let _first = source.next();
    assert!(has(&source.standing, &SHOP) && has(&source.standing, &["Pod shop/b-3", "ServiceExport shop/b"]));
    let before = source.standing.clone();
    let lists = source.metric("meshfed_source_lists_total{kind=\"Pod\"}");

    // The word of the deletion is cut off; the server that comes back has forgotten what it was.
    cut.store(true, Ordering::Relaxed);
    delete_pod(&server, "b-2");
    server.kill();
    source.until("the lost watch is told", |s| s.unwatched().contains("Pod"));
    assert_eq!((&source.standing, &source.removed), (&before, &Vec::new()));
    server.start_again();
    cut.store(false, Ordering::Relaxed);
    source.until("the deletion is heard of", |s| !has(&s.standing, &["Pod shop/b-2"]));
    assert_eq!(source.removed, ["Pod shop/b-2"]);
    assert!(source.metric("meshfed_source_lists_total{kind=\"Pod\"}") > lists, "it was listed again");
    assert!(source.metric("meshfed_source_watch_errors_total{kind=\"Pod\"}") > 0.0);
    source.until("the faults end", |s| s.unwatched().is_empty());
    source.stop();
    drop(relay);

    // An agent that starts while it is away.
    delete_pod(&server, "b-3");
    server.kill();
    let mut source = Following::start(&runtime, server.kubeconfig(), &state);
    let pending = source.readiness.pending();
    let _first = source.next();
    assert!(has(&source.standing, &["Pod shop/b-1", "Pod shop/b-3", "ServiceExport shop/b"]), "{:?}", source.standing);
    assert!(!has(&source.standing, &["Pod shop/b-2"]) && source.readiness.is_ready());
    assert!(pending.is_empty() || pending.iter().any(|p| p.contains("first list of Pod (v1)")), "{pending:?}");
    assert!(source.unwatched().contains("Pod"), "{:?}", source.errors);
    server.start_again();
    source.until("what was deleted is gone", |s| !has(&s.standing, &["Pod shop/b-3"]));
    assert_eq!(source.removed, ["Pod shop/b-3"]);
    source.stop();
}

/// Writes of the only node, of its pod and of the slice that lists it what the controllers of a cluster write, in their
/// order: of a node that they do not hear, or of one that is well.
fn mark(server: &Client, node: &str, ready: &str) {
    let status = format!(r#"{{"status": {{"conditions": [{{"type": "Ready", "status": "{node}"}}]}}}}"#);
    let patch = |target: &[&str], status: &str| {
        let how = ["--subresource=status", "--type=merge", "-p", status];
        let _patched = server.ok(&[&["-n", "shop", "patch"], target, &how[..]].concat());
    };
    patch(&["node", "n1"], &status);
    let status = format!(
        r#"{{"status": {{"conditions": [{{"type": "ContainersReady", "status": "True"}}, {{"type": "Ready", "status": "{ready}"}}]}}}}"#
    );
    patch(&["pod", "b-1"], &status);
    let listed = format!(
        r#"[{{"op": "replace", "path": "/endpoints/0/conditions", "value": {{"ready": {0}, "serving": {0}}}}}]"#,
        ready == "True"
    );
    let _patched = server.ok(&["-n", "shop", "patch", "endpointslice", "b-x", "--type=json", "-p", &listed]);
}

/// An API server that was away for longer than its controllers wait for nodes: what they write then, of every node, its
/// pods and their slices, takes no endpoint away, and nor does what a kubelet has yet to write that is back (decision 32).
///
/// Mutation seen to fail: `status` left out of `NODE` in `crds/kinds` (it is reduced away).
#[test]
fn nodes_that_an_absent_api_server_did_not_hear_keep_their_endpoints() {
    let server = ApiServer::start();
    definitions(&server);
    fill(&server, 1);
    let (runtime, state) = (runtime(), tempfile::tempdir().unwrap());
    let mut source = Following::start(&runtime, server.kubeconfig(), &state.path().join("source"));
    let mut index = Index::new(IndexSettings {
        cluster: "east".parse().unwrap(),
        fleet: "mesh.example".parse().unwrap(),
        trust_domain: "east.mesh.example".parse().unwrap(),
        networks: vec![Network { name: "net".parse().unwrap(), cidrs: ["10.1.0.0/16".parse().unwrap()].into() }],
        regions: vec!["eu".to_owned()],
        zones: Vec::new(),
        gateway_cidrs: BTreeSet::new(),
    });
    let service = "shop/b".parse().unwrap();
    let mut until = |index: &mut Index, what: &str, silent: bool, slice: bool, ready: bool| {
        loop {
            let _dirty = index.apply(&source.next().changes);
            let listed = source.slice_ready;
            let endpoints = index.service(&service).map(|s| s.endpoints.values().flatten().map(|e| e.ready).collect());
            let endpoints: Vec<bool> = endpoints.unwrap_or_default();
            if index.is_silent() == silent && listed == Some(slice) {
                assert_eq!(endpoints, [ready], "{what}");
                return;
            }
        }
    };
    mark(&server, "True", "True");
    until(&mut index, "all is well", false, true, true);
    mark(&server, "Unknown", "False");
    until(&mut index, "nothing is heard of the only node", true, false, true);
    let well = r#"{"status": {"conditions": [{"type": "Ready", "status": "True"}]}}"#;
    let _patched = server.ok(&["patch", "node", "n1", "--subresource=status", "--type=merge", "-p", well]);
    until(&mut index, "its kubelet has yet to write", false, false, true);
    source.stop();
}

/// The whole way: objects of an API server, an agent outside the cluster, a hub, and what the hub shows.
///
/// Mutation seen to fail: `pod.injected` of `workload_of_pod` answered `false`.
#[test]
fn services_of_an_api_server_are_offered() {
    let server = ApiServer::start();
    definitions(&server);
    fill(&server, 2);
    let fleet = Fleet::start();
    let flags = ["--region", "eu", "--network", "net=10.1.0.0/16"];
    let token = fleet.token(None, "east", &flags);
    let _joined = fleet.join(None, &token, "east").ok("join");
    let mut start = command(None);
    start.args(["agent", "--source", "kubernetes", "--xds-listen", "off", "--admin-listen", "127.0.0.1:0"]);
    start.arg("--data-dir").arg(fleet.path("east")).arg("--kubeconfig").arg(server.kubeconfig());
    let _agent = Process::start("east-agent", &fleet.path("logs"), &mut start);
    let row = || {
        let shown = fleet.cli(None, &["services"]);
        let line = shown.stdout.lines().find(|line| line.split_whitespace().take(2).eq(["shop", "b"]));
        line.map(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).ok_or(shown.stdout)
    };
    assert!(row().is_err(), "nothing is exported yet");
    server.apply(EXPORT);
    let ready = |wanted: [&str; 2]| {
        wait::until(&format!("shop/b is {wanted:?}"), SOON, || {
            let row = row()?;
            if row.windows(2).any(|pair| *pair == wanted) { Ok(()) } else { Err(row.join(" ")) }
        });
    };
    ready(["2", "2"]);
    let _patched = server.ok(&[
        "-n",
        "shop",
        "patch",
        "endpointslice",
        "b-x",
        "--type=json",
        "-p",
        r#"[{"op": "replace", "path": "/endpoints/0/conditions/ready", "value": false}]"#,
    ]);
    ready(["1", "2"]);
    let _gone = server.ok(&["-n", "shop", "delete", "serviceexport", "b"]);
    wait::until("the export is gone", SOON, || row().map_or_else(|_| Ok(()), |row| Err(row.join(" "))));
}

/// The fleet's policies in the hub's namespace, and in no other; a hub that starts while the API server is away has those
/// of its last run.
///
/// Mutation seen to fail: `&& !kind.is_cluster_scoped()` of `ApiServer::new` made `&& false` (all namespaces are read).
#[test]
fn policies_of_the_hubs_namespace_are_the_fleets() {
    let mut server = ApiServer::start();
    definitions(&server);
    let policy = |namespace: &str| {
        let _made = server.ok(&["create", "namespace", namespace]);
        server.apply(&format!(
            "{{apiVersion: federation.meshfed.io/v1alpha1, kind: ExportPolicy, metadata: {{name: p, namespace: {namespace}}}, spec: {{services: [{{namespace: shop, name: '*'}}], to: {{clusters: [nobody]}}}}}}"
        ));
    };
    policy("meshfed-hub");
    policy("shop");
    let kubeconfig = server.kubeconfig().to_str().unwrap().to_owned();
    let flags = ["--source", "kubernetes", "--kubeconfig", &kubeconfig];
    let mut fleet = Fleet::start_at(None, "127.0.0.1", &flags);
    // The server has no kind Cluster: none is declared, and tokens are made of what they are told.
    // That nobody has the name `nobody` is told of each policy that stands, once the hub knows its members.
    let _token = fleet.token(None, "east", &["--region", "eu", "--network", "net=10.1.0.0/16"]);
    let told = |fleet: &Fleet, wanted: &[&str]| {
        let admin = fleet.admin("federator").unwrap();
        wait::until(&format!("the faults are {wanted:?}"), SOON, || {
            let body = http::get(admin, "/debug/source")?.body;
            let body: serde_json::Value = serde_json::from_str(&body).map_err(|e| format!("{e}: {body}"))?;
            let faults = body["errors"].as_array().into_iter().flatten();
            let of = |fault: &serde_json::Value| {
                let name = fault["file"].as_str().or_else(|| fault["kind"].as_str()).unwrap_or_default();
                format!("{} {name}", fault["code"].as_str().unwrap_or_default())
            };
            let faults: BTreeSet<String> = faults.map(of).collect();
            let wanted: BTreeSet<String> = wanted.iter().map(|w| (*w).to_owned()).collect();
            if faults == wanted { Ok(()) } else { Err(body.to_string()) }
        });
    };
    told(&fleet, &["MF2107 ExportPolicy/meshfed-hub/p"]);
    fleet.federator().kill();
    server.kill();
    fleet.start_federator(None, &flags);
    told(&fleet, &["MF2014 ExportPolicy", "MF2014 FailoverPolicy", "MF2014 Mesh", "MF2107 ExportPolicy/meshfed-hub/p"]);
    server.start_again();
    let _gone = server.ok(&["-n", "meshfed-hub", "delete", "exportpolicy", "p"]);
    told(&fleet, &[]);
}
