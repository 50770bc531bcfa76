//! `meshfed check` against a real API server: each of its checks has a case in which it fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;

use jiff::Timestamp;
use meshfed_e2e::binary::{meshfed, workspace};
use meshfed_e2e::kube::ApiServer;
use meshfed_e2e::process::run;
use serde_json::{Value, json};

/// Runs it: the exit code, and by id what failed, with its remedy. Each check has its section in the documentation.
fn check(server: &ApiServer, flags: &[&str]) -> (i32, Vec<(String, String)>) {
    judged(server.command(meshfed()).args(["check", "-o", "json"]).args(flags))
}

/// The same of what it warned of.
fn warned(server: &ApiServer, flags: &[&str]) -> Vec<(String, String)> {
    let (code, warned) = ended(server.command(meshfed()).args(["check", "-o", "json"]).args(flags), "warn");
    assert_eq!(code, 0, "{warned:?}");
    warned
}

fn judged(command: &mut Command) -> (i32, Vec<(String, String)>) {
    ended(command, "fail")
}

fn ended(command: &mut Command, result: &str) -> (i32, Vec<(String, String)>) {
    let output = run(command);
    let body: Value = serde_json::from_str(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    for check in body["checks"].as_array().unwrap() {
        let (page, anchor) = check["docs"].as_str().unwrap().split_once('#').unwrap();
        let page = std::fs::read_to_string(workspace().join(page)).unwrap();
        let section = format!("\n### {}\n`{}`: ", anchor.to_uppercase(), check["name"].as_str().unwrap());
        assert!(page.contains(&section), "{check} has no section {section}");
    }
    let found = body["checks"].as_array().unwrap().iter().filter(|c| c["result"] == result);
    let text = |c: &Value, field: &str| c[field].as_str().unwrap().to_owned();
    (output.code, found.map(|c| (text(c, "id"), format!("{} → {}", text(c, "message"), text(c, "remedy")))).collect())
}

/// Fails unless exactly this check fails, and says and advises this.
fn only(server: &ApiServer, id: &str, words: &[&str]) {
    only_of(check(server, &[]), id, words);
}

fn only_of((code, failed): (i32, Vec<(String, String)>), id: &str, words: &[&str]) {
    assert_eq!(code, 79, "{failed:?}");
    let [(found, text)] = &failed[..] else { panic!("{id} alone was to fail: {failed:?}") };
    assert!(found == id && words.iter().all(|word| text.contains(word)), "{failed:?}");
}

/// A kind of others that the chart brings.
fn foreign(server: &ApiServer, file: &str) {
    server.apply(&std::fs::read_to_string(workspace().join("helm/meshfed-crds/files").join(file)).unwrap());
    let _ready = server.ok(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"]);
}

fn own(server: &ApiServer) {
    let kinds = workspace().join("helm/meshfed-crds/templates/federation.meshfed.io_memberships.yaml");
    server.apply(&std::fs::read_to_string(kinds).unwrap());
    let _ready = server.ok(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"]);
}

fn deployment(name: &str) -> String {
    json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": name, "namespace": "meshfed-system" },
        "spec": { "selector": { "matchLabels": { "app": name } }, "template": {
            "metadata": { "labels": { "app": name } }, "spec": { "containers": [{ "name": "a", "image": "a" }] } } } })
    .to_string()
}

fn gateway(address: &str) -> String {
    json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "meshfed-eastwest", "namespace": "meshfed-system",
        "annotations": { "federation.meshfed.io/gateway-addresses": address } },
        "spec": { "ports": [{ "name": "tls", "port": 15443 }] } })
    .to_string()
}

fn membership(name: &str) -> String {
    json!({ "apiVersion": "federation.meshfed.io/v1alpha1", "kind": "Membership",
        "metadata": { "name": name, "namespace": "meshfed-system" }, "spec": { "hub": "https://hub.example:15600" } })
    .to_string()
}

/// The agents' Lease, renewed then by this one.
fn lease(holder: &str, renewed: &str) -> String {
    json!({ "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": { "name": "meshfed-agent", "namespace": "meshfed-system" },
        "spec": { "holderIdentity": holder, "leaseDurationSeconds": 15, "renewTime": renewed } })
    .to_string()
}

fn set_status(server: &ApiServer, object: &str, status: &Value) {
    let patch = json!({ "status": status }).to_string();
    let _patched =
        server.ok(&["-n", "meshfed-system", "patch", object, "--subresource=status", "--type=merge", "-p", &patch]);
}

fn conditions(list: &[(&str, &str)]) -> Value {
    let conditions: Vec<Value> = list
        .iter()
        .map(|(type_, status)| {
            json!({ "type": type_, "status": status, "reason": "HubAway", "message": "no answer from hub.example",
                "lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": 1 })
        })
        .collect();
    json!({ "cluster": "east", "observedGeneration": 1, "conditions": conditions })
}

/// From an empty API server to a member: each step leaves exactly one thing amiss, which is named with its remedy.
///
/// Mutations seen to fail: `ready >= wanted` written `ready <= wanted`; `CONDITIONS` without `Connected`; `elsewhere` without
/// agents; `age <= RENEWED_MAX` without the age; the holder's name not asked for; `has_joined` always true.
#[test]
fn each_check_fails_by_itself_and_says_how_to_mend_it() {
    let server = ApiServer::start();
    let available = json!({ "replicas": 1, "availableReplicas": 1, "readyReplicas": 1 });
    only(&server, "MF0001", &["no kind Membership", "meshfed-crds"]);

    own(&server);
    let _made = server.ok(&["create", "namespace", "meshfed-system"]);
    server.apply(&membership("meshfed"));
    set_status(
        &server,
        "membership/meshfed",
        &conditions(&[("Joined", "True"), ("Connected", "True"), ("Ready", "True")]),
    );
    foreign(&server, "multicluster.x-k8s.io_serviceexports.yaml");
    foreign(&server, "multicluster.x-k8s.io_serviceimports.yaml");
    only(&server, "MF0002", &["neither Deployment meshfed-agent", "helm install"]);
    let (_, warned) = ended(server.command(meshfed()).args(["check", "-o", "json"]), "warn");
    assert!(warned.iter().any(|(id, text)| id == "MF0004" && text.contains("not there any more")), "{warned:?}");

    server.apply(&deployment("meshfed-agent"));
    only(&server, "MF0002", &["0 of 1 pods", "logs deploy/meshfed-agent"]);
    set_status(&server, "deployment/meshfed-agent", &available);
    let scale = |replicas: &str| server.ok(&["-n", "meshfed-system", "scale", "deployment/meshfed-agent", replicas]);
    let _none = scale("--replicas=0");
    only(&server, "MF0002", &["is scaled to 0", "--replicas=1"]);
    let _one = scale("--replicas=1");
    let imports = "serviceimports.multicluster.x-k8s.io";
    let _deleted = server.ok(&["delete", "crd", imports]);
    only(&server, "MF0005", &["no kind ServiceImport", "mcs=true"]);
    foreign(&server, "multicluster.x-k8s.io_serviceimports.yaml");
    assert_eq!(check(&server, &[]), (0, Vec::new()));

    server.apply(&lease("meshfed-agent-1", "2026-01-01T00:00:00.000000Z"));
    only(
        &server,
        "MF0016",
        &["is not renewed by meshfed-agent-1", "the last word of one that is gone", "logs deploy/"],
    );
    let now = format!("{:.6}", Timestamp::now());
    server.apply(&lease("", &now));
    only(&server, "MF0016", &["is held by nobody", "delete membership"]);
    server.apply(&lease("meshfed-agent-1", &now));
    assert_eq!(check(&server, &[]), (0, Vec::new()));

    server.apply(&deployment("meshfed-eastwest"));
    only(&server, "MF0003", &["0 of 1 pods", "logs deploy/meshfed-eastwest"]);
    set_status(&server, "deployment/meshfed-eastwest", &available);
    only(&server, "MF0007", &["no address outside", "gateway.addresses"]);
    let closed = TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = closed.local_addr().unwrap();
    drop(closed);
    server.apply(&gateway(&nobody.to_string()));
    only(&server, "MF0007", &[&nobody.to_string(), "refused", "--skip MF0007"]);
    assert_eq!(check(&server, &["--skip", "mf0007"]), (0, Vec::new()));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    server.apply(&gateway(&listener.local_addr().unwrap().to_string()));
    assert_eq!(check(&server, &[]), (0, Vec::new()));

    set_status(
        &server,
        "membership/meshfed",
        &conditions(&[("Joined", "True"), ("Connected", "False"), ("Ready", "True")]),
    );
    only(&server, "MF0004", &["Connected is not True: HubAway: no answer", "describe"]);
    set_status(&server, "membership/meshfed", &conditions(&[("Joined", "True")]));
    only(&server, "MF0004", &["has not said", "Connected"]);
    server.apply(&membership("second"));
    only(&server, "MF0004", &["2 Memberships", "delete all but the one"]);
    let _deleted = server.ok(&["-n", "meshfed-system", "delete", "membership", "--all"]);
    only(&server, "MF0004", &["has not joined", "meshfed join"]);
    // What the agent keeps of its membership until the hub has heard that the cluster leaves.
    let _kept = server.ok(&[
        "-n",
        "meshfed-system",
        "create",
        "secret",
        "generic",
        "meshfed-identity",
        "--from-literal=cluster=east",
    ]);
    only(&server, "MF0004", &["has yet to tell the hub", "meshfed leave --kube -n meshfed-system"]);
    let _gone = server.ok(&["-n", "meshfed-system", "delete", "secret", "meshfed-identity"]);
    // Who names a namespace without a release is told where it is, and not to install a second one.
    let elsewhere = check(&server, &["-n", "shop"]);
    assert!(!elsewhere.1[0].1.contains("helm install"), "{elsewhere:?}");
    only_of(
        elsewhere,
        "MF0002",
        &["namespace shop has no release", "in meshfed-system → meshfed check -n meshfed-system"],
    );
    // What follows from it comes behind it, and says so.
    drop(listener);
    let (_findings, failed) = check(&server, &[]);
    let ids: Vec<&str> = failed.iter().map(|(id, _)| id.as_str()).collect();
    assert_eq!(ids, ["MF0004", "MF0007"], "{failed:?}");
    assert!(failed[1].1.contains("mend MF0004 first"), "{failed:?}");
}

/// What works is no failure, and is told: a hub whose fleet ends with its pod, names that only pods with a sidecar
/// resolve. `meshfed dns corefile` prints what makes the second pass.
///
/// Mutations seen to fail: `empty_dir.is_none()` written `is_some()`; `is_ours` true of every target; `blocks > 1` written `blocks > 2`; `phase == "Bound"` written `!=`.
#[test]
fn what_is_less_than_its_user_thinks_is_a_warning() {
    let server = ApiServer::start();
    let available = json!({ "replicas": 1, "availableReplicas": 1, "readyReplicas": 1 });
    own(&server);
    foreign(&server, "multicluster.x-k8s.io_serviceexports.yaml");
    foreign(&server, "multicluster.x-k8s.io_serviceimports.yaml");
    let _made = server.ok(&["create", "namespace", "meshfed-system"]);

    let mut hub: Value = serde_json::from_str(&deployment("meshfed-hub")).unwrap();
    hub["spec"]["template"]["spec"]["volumes"] = json!([{ "name": "data", "emptyDir": {} }]);
    server.apply(&hub.to_string());
    only(&server, "MF0008", &["0 of 1 pods", "logs deploy/meshfed-hub"]);
    set_status(&server, "deployment/meshfed-hub", &available);
    let [(id, text)] = &warned(&server, &[])[..] else { panic!("one warning") };
    assert!(id == "MF0009" && text.contains("the whole fleet") && text.contains("persistence.enabled"), "{text}");
    hub["spec"]["template"]["spec"]["volumes"] =
        json!([{ "name": "data", "persistentVolumeClaim": { "claimName": "meshfed-hub" } }]);
    server.apply(&hub.to_string());
    only(&server, "MF0009", &["claim meshfed-hub, which is not there", "persistence.existingClaim"]);
    let claim = json!({ "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": { "name": "meshfed-hub", "namespace": "meshfed-system" },
        "spec": { "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Gi" } } } });
    server.apply(&claim.to_string());
    only(&server, "MF0009", &["of no StorageClass, which is Pending", "describe pvc meshfed-hub"]);
    set_status(&server, "pvc/meshfed-hub", &json!({ "phase": "Bound" }));
    assert_eq!(warned(&server, &[]), []);
    let _deleted = server.ok(&["-n", "meshfed-system", "delete", "deployment", "meshfed-hub"]);

    let corefile = run(server.command(meshfed()).args(["dns", "corefile"]));
    assert!(corefile.code == 65 && corefile.stderr.contains("no Service meshfed-agent"), "{corefile:?}");
    server.apply(&deployment("meshfed-agent"));
    set_status(&server, "deployment/meshfed-agent", &available);
    server.apply(&membership("meshfed"));
    let fine = conditions(&[("Joined", "True"), ("Connected", "True"), ("Ready", "True")]);
    set_status(&server, "membership/meshfed", &fine);
    let agent = json!({ "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": "meshfed-agent", "namespace": "meshfed-system" },
        "spec": { "ports": [{ "name": "dns", "port": 53, "protocol": "UDP" }] } });
    server.apply(&agent.to_string());
    let dns = |words: &[&str]| {
        let [(id, text)] = &warned(&server, &[])[..] else { panic!("one warning") };
        assert!(id == "MF0006" && words.iter().all(|word| text.contains(word)), "{text}");
    };
    dns(&["no ConfigMap coredns", "forwards clusterset.local to 10."]);
    let theirs = ".:53 {\n    errors\n    forward . /etc/resolv.conf\n}\n";
    let config = |corefile: &str| {
        let config = json!({ "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": { "name": "coredns", "namespace": "kube-system" }, "data": { "Corefile": corefile } });
        server.apply(&config.to_string());
    };
    config(theirs);
    dns(&["does not know clusterset.local", "meshfed dns corefile -n meshfed-system"]);
    let printed = |flags: &[&str]| run(server.command(meshfed()).args(["dns", "corefile"]).args(flags)).ok("corefile");
    config(&format!("{theirs}{}", printed(&["--address", "192.0.2.9"])));
    dns(&["forwards clusterset.local to 192.0.2.9, and the agent is at 10.", "in the place of every server block"]);
    // What appending makes of it: CoreDNS goes on until its next start, and does not come back.
    config(&format!("{theirs}{}{}", printed(&["--address", "192.0.2.9"]), printed(&[])));
    only(&server, "MF0006", &["2 server blocks of clusterset.local", "in the place of every server block"]);
    config(&format!("{theirs}{}", printed(&[])));
    assert_eq!(warned(&server, &[]), []);
}

/// `--wait` ends as soon as nothing is amiss. A kubeconfig that is not there is bad input.
///
/// Mutation seen to fail: `fine ||` taken out of the loop (then it ends at its deadline only).
#[test]
fn waiting_ends_with_the_last_finding() {
    let mut server = ApiServer::start();
    let mut command = server.command(meshfed());
    command.args(["check", "--wait", "1h"]);
    let logs = tempfile::tempdir().unwrap();
    let mut waiting = meshfed_e2e::process::Process::start("check", logs.path(), &mut command);
    own(&server);
    foreign(&server, "multicluster.x-k8s.io_serviceexports.yaml");
    foreign(&server, "multicluster.x-k8s.io_serviceimports.yaml");
    let _made = server.ok(&["create", "namespace", "meshfed-system"]);
    server.apply(&deployment("meshfed-agent"));
    set_status(
        &server,
        "deployment/meshfed-agent",
        &json!({ "replicas": 1, "availableReplicas": 1, "readyReplicas": 1 }),
    );
    server.apply(&membership("meshfed"));
    // An API server that is away for some seconds is waited for, too.
    server.kill();
    server.start_again();
    waiting.assert_alive();
    set_status(
        &server,
        "membership/meshfed",
        &conditions(&[("Joined", "True"), ("Connected", "True"), ("Ready", "True")]),
    );
    let code =
        meshfed_e2e::wait::until("check ends", Duration::from_secs(60), || waiting.ended().ok_or("still waiting"));
    assert_eq!(code, 0, "{}", waiting.log());

    let nowhere = run(server.command(meshfed()).args(["check", "--kubeconfig", "/nowhere"]));
    assert_eq!(nowhere.code, 65, "{}", nowhere.stderr);
}

/// An API server that refuses, or is away, is named with where it is written; what it said stands there once, and what the
/// verb needs is in a section that there is. A context that is not there is told with those that are.
///
/// Mutation seen to fail: the first `if` of `said` left out.
#[test]
fn an_api_server_that_gives_nothing_is_named_with_what_it_said() {
    let mut server = ApiServer::start();
    own(&server);
    let _made = server.ok(&["create", "namespace", "meshfed-system"]);
    let _made = server.ok(&["-n", "meshfed-system", "create", "serviceaccount", "nobody"]);
    let nobody = server.as_account("meshfed-system", "nobody");
    let token = format!("mf1.aaaaaaaaaa.{0}.{0}", "A".repeat(43));
    let verbs: [&[&str]; 5] = [
        &["check"],
        &["check", "--pre"],
        &["leave", "--kube"],
        &["dns", "corefile"],
        &["join", "https://hub.example:15600", "--kube", "--token", &token],
    ];
    let fails = |verb: &[&str], words: &[&str]| {
        let output = run(server.command(meshfed()).args(verb).arg("--kubeconfig").arg(nobody.kubeconfig()));
        assert_eq!((output.code, output.stderr.lines().count()), (1, 1), "{verb:?}: {output:?}");
        assert!(words.iter().all(|word| output.stderr.matches(word).count() == 1), "{verb:?}: {}", output.stderr);
    };
    let page = std::fs::read_to_string(workspace().join("docs/kubernetes/check.md")).unwrap();
    assert!(page.contains("\n## Rights\n"));
    let where_ = format!("{} (context ", server.url());
    for verb in verbs {
        fails(verb, &[&where_, " is forbidden: ", "cannot ", "docs/kubernetes/check.md#rights"]);
    }
    let wrong = run(server.command(meshfed()).args(["check", "--context", "wset"]));
    assert!(wrong.code == 65 && wrong.stderr.contains("no context 'wset'; it has "), "{wrong:?}");
    server.kill();
    for verb in verbs {
        let output = run(server.command(meshfed()).args(verb).arg("--kubeconfig").arg(nobody.kubeconfig()));
        let words = [&where_, "Connection refused (os error 111)", "see that it runs"];
        assert!(
            output.code == 1 && words.iter().all(|w| output.stderr.matches(w).count() == 1),
            "{verb:?}: {output:?}"
        );
    }
}

/// Before an installation: which flags the chart of the kinds takes, and what would keep pods from being injected.
///
/// Mutations seen to fail: `beside` gives no flag for kinds that are all there; the level `baseline` counts as privileged;
/// `brought` always false; any class is the default.
#[test]
fn before_an_installation_each_check_says_what_would_be_in_the_way() {
    let server = ApiServer::start();
    let pre = |flags: &[&str]| check(&server, &[&["--pre"], flags].concat());
    assert_eq!(pre(&[]), (0, Vec::new()));
    let class = |default: &str| {
        let class = json!({ "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "provisioner": "example.com/disk",
            "metadata": { "name": "disk", "annotations": { "storageclass.kubernetes.io/is-default-class": default } } });
        server.apply(&class.to_string());
        warned(&server, &["--pre"])
    };
    let missing = |found: &[(String, String)], word: &str| {
        let [(id, text)] = found else { panic!("one warning: {found:?}") };
        assert!(id == "MF0017" && text.contains(word) && text.contains("persistence.storageClass"), "{text}");
    };
    missing(&warned(&server, &["--pre"]), "none at all");
    missing(&class("false"), "there is disk");
    assert_eq!(class("true"), []);

    foreign(&server, "multicluster.x-k8s.io_serviceexports.yaml");
    only_of(pre(&[]), "MF0011", &["has ServiceExport of", "but not ServiceImport of", "--set mcs=false"]);
    foreign(&server, "multicluster.x-k8s.io_serviceimports.yaml");
    let table = run(server.command(meshfed()).args(["check", "--pre"])).ok("check --pre");
    assert!(table.contains("helm/meshfed-crds --set mcs=false\n"), "{table}");
    foreign(&server, "security.istio.io_peerauthentications.yaml");
    foreign(&server, "networking.istio.io_workloadentries.yaml");
    let table = run(server.command(meshfed()).args(["check", "--pre"])).ok("check --pre");
    assert!(table.contains("helm/meshfed-crds --set mcs=false --set istio=false\n"), "{table}");
    // A release of ours is upgraded with what it has brought: without a kind Helm would delete all of its objects.
    own(&server);
    let owned = |kinds: &[&str]| {
        let owner = ["meta.helm.sh/release-name=kinds", "meta.helm.sh/release-namespace=fleet"];
        let _annotated = server.ok(&[&["annotate", "crd"], kinds, &owner].concat());
        run(server.command(meshfed()).args(["check", "--pre"])).ok("check --pre")
    };
    let mcs = ["serviceexports.multicluster.x-k8s.io", "serviceimports.multicluster.x-k8s.io"];
    let table = owned(&[&["memberships.federation.meshfed.io"], &mcs[..]].concat());
    assert!(table.contains("helm upgrade --install kinds helm/meshfed-crds -n fleet --set istio=false\n"), "{table}");
    let table = owned(&["peerauthentications.security.istio.io", "workloadentries.networking.istio.io"]);
    assert!(table.contains("helm upgrade --install kinds helm/meshfed-crds -n fleet\n"), "{table}");

    let _made = server.ok(&["create", "namespace", "shop"]);
    let label = |label: &str| server.ok(&["label", "--overwrite", "namespace", "shop", label]);
    let _forbids = label("pod-security.kubernetes.io/enforce=baseline");
    assert_eq!(pre(&[]), (0, Vec::new()), "a namespace that is not injected");
    let _injected = label("federation.meshfed.io/injection=enabled");
    only_of(pre(&[]), "MF0012", &["shop (baseline)", "NET_ADMIN", "enforce=privileged"]);
    let _allows = label("pod-security.kubernetes.io/enforce=privileged");
    let _mistyped = label("federation.meshfed.io/injection=enable");
    only_of(pre(&[]), "MF0015", &["shop (enable)", "without a sidecar", "injection=enabled"]);
    let _mended = label("federation.meshfed.io/injection=disabled");

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let hub = format!("--hub=https://{}", listener.local_addr().unwrap());
    assert_eq!(pre(&[&hub]), (0, Vec::new()));
    drop(listener);
    only_of(pre(&[&hub]), "MF0014", &["cannot be reached", "open its port"]);
    let wrong = run(server.command(meshfed()).args(["check", "--pre", "--hub=hub.example"]));
    assert!(wrong.code == 64 && wrong.stderr.contains("https://HOST:PORT"), "{}", wrong.stderr);
}

/// An API server that is too old, and one whose clock is elsewhere: this one only says so.
///
/// Mutations seen to fail: `skew <= SKEW_MAX` and `minor >= MINOR_MIN` turned around.
#[test]
fn a_version_too_old_and_a_clock_elsewhere_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let kubeconfig = dir.path().join("kubeconfig");
    let config = json!({ "apiVersion": "v1", "kind": "Config", "current-context": "old",
        "clusters": [{ "name": "old", "cluster": { "server": format!("http://{address}") } }],
        "contexts": [{ "name": "old", "context": { "cluster": "old", "user": "old" } }],
        "users": [{ "name": "old", "user": {} }] });
    std::fs::write(&kubeconfig, config.to_string()).unwrap();
    let _server = std::thread::spawn(move || {
        for mut connection in listener.incoming().map_while(Result::ok) {
            let (mut request, mut buffer) = (Vec::new(), [0; 4096]);
            while !request.windows(4).any(|w| w == b"\r\n\r\n") {
                match connection.read(&mut buffer) {
                    Ok(n) if n > 0 => request.extend_from_slice(&buffer[..n]),
                    _ => break,
                }
            }
            let body =
                json!({ "major": "1", "minor": "29+", "gitVersion": "v1.29.0", "gitCommit": "", "gitTreeState": "",
                "buildDate": "", "goVersion": "", "compiler": "", "platform": "", "groups": [], "resources": [],
                "groupVersion": "v1", "items": [], "metadata": {} })
                .to_string();
            let answer = format!(
                "HTTP/1.1 200 OK\r\nDate: Sat, 01 Jan 2000 00:00:00 GMT\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
            let _sent = connection.write_all(answer.as_bytes());
        }
    });
    let mut command = Command::new(meshfed());
    command.args(["check", "--pre", "-o", "json", "--kubeconfig"]).arg(&kubeconfig);
    let (code, failed) = judged(&mut command);
    let ids: Vec<&str> = failed.iter().map(|(id, _)| id.as_str()).collect();
    assert_eq!((code, ids), (79, vec!["MF0010", "MF0013"]), "{failed:?}");
    assert!(failed[0].1.contains("v1.29.0") && failed[0].1.contains("1.30"), "{failed:?}");
    assert!(failed[1].1.contains("s apart") && failed[1].1.contains("NTP"), "{failed:?}");
}
