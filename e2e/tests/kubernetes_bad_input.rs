//! What a schema lets through and makes no sense: each has a condition with a reason and a remedy, and everything else
//! proceeds. One real API server with both charts of a member installed, and an agent that has the account and the
//! permissions of its chart, no others.
//!
//! What else is bad input has its tests beside what is good: conflicting and ExternalName exports and objects in the way in
//! `kubernetes_mcs`, used tokens, foreign Secrets and two Memberships in `kubernetes_membership`, annotations and labels of
//! pods in `cluster-agent/src/inject/tests.rs` and `kubernetes_injection`, missing definitions and an API server that is
//! away in `kubernetes_source`, definitions of another version and clocks apart in `kubernetes_check`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use meshfed_e2e::binary::{meshfed, workspace};
use meshfed_e2e::fleet::{Fleet, Range};
use meshfed_e2e::http;
use meshfed_e2e::kube::{ApiServer, helm};
use meshfed_e2e::process::{Process, run};
use meshfed_e2e::wait::until;
use serde_json::{Value, json};

/// Far above what anything takes, so that a busy machine does not fail the test.
const SOON: Duration = Duration::from_secs(60);
const RELEASE: &str = "meshfed-system";
/// The derived Service of shop/b.
const DERIVED: &str = "meshfed-fpb10cdl9jeo0624lg99";

struct World {
    agent: Process,
    range: Range,
    fleet: Fleet,
    server: ApiServer,
}

fn install(server: &ApiServer, release: &str, chart: &str) {
    let scratch = tempfile::tempdir().unwrap();
    let mut command = helm(Some(server), scratch.path());
    command.args(["install", release]).arg(workspace().join("helm").join(chart)).args(["-n", RELEASE]);
    let _installed = run(command.arg("--create-namespace")).ok(chart);
}

impl World {
    /// The charts are installed, but nothing runs their pods; the agent runs here.
    fn start() -> Self {
        let server = ApiServer::start();
        install(&server, "meshfed-crds", "meshfed-crds");
        for kind in ["memberships.federation.meshfed.io", "serviceimports.multicluster.x-k8s.io"] {
            let name = format!("crd/{kind}");
            // Not by `kubectl wait`, which fails on a definition that has no conditions yet.
            let path = "jsonpath={.status.conditions[?(@.type=='Established')].status}";
            server.until(&["get", &name, "-o", path], "True", SOON);
        }
        install(&server, "meshfed", "meshfed-cluster");
        server.apply(
            "{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {federation.meshfed.io/injection: enabled}}}",
        );
        // Its owner could have it say what he likes, for ever.
        server.apply(
            "{apiVersion: v1, kind: ConfigMap, immutable: true, data: {anchors.pem: none}, metadata: {name: meshfed-trust, \
             namespace: shop, labels: {app.kubernetes.io/managed-by: meshfed}}}",
        );
        server.apply(
            "{apiVersion: v1, kind: Namespace, metadata: {name: theirs, labels: {federation.meshfed.io/injection: enabled}}}",
        );
        server.apply(
            "{apiVersion: v1, kind: ConfigMap, metadata: {name: meshfed-trust, namespace: theirs}, data: {mine: x}}",
        );
        let (fleet, range) = (Fleet::start(), Range::take());
        let account = server.as_account(RELEASE, "meshfed-agent");
        let config = fleet.path("injection.yaml");
        std::fs::write(&config, format!("{{releaseNamespace: {RELEASE}, image: 'localhost/meshfed:0.1.0'}}\n"))
            .unwrap();
        let mut start = Command::new(meshfed());
        start.args(["agent", "--source", "kubernetes", "--namespace", RELEASE, "--webhook-listen", "off"]);
        start.args(["--bind", &range.host(1).to_string(), "--data-dir"]).arg(fleet.path("east"));
        start.arg("--injection-config").arg(config).arg("--kubeconfig").arg(account.kubeconfig());
        let agent = Process::start("agent", &fleet.path("logs"), &mut start);
        Self { agent, range, fleet, server }
    }

    fn service(&self, name: &str, labels: &Value) {
        let spec = json!({"selector": {"app": "x"}, "ports": [{"name": "http", "port": 80}]});
        let object = json!({"apiVersion": "v1", "kind": "Service", "spec": spec,
            "metadata": {"name": name, "namespace": "shop", "labels": labels}});
        self.server.apply(&object.to_string());
    }
    fn export(&self, name: &str, annotations: &Value, spec: &Value) {
        let object = json!({"apiVersion": "multicluster.x-k8s.io/v1beta1", "kind": "ServiceExport", "spec": spec,
            "metadata": {"name": name, "namespace": "shop", "annotations": annotations}});
        let made = self.server.kubectl_with(&["create", "-f", "-"], &object.to_string());
        assert_eq!(made.code, 0, "{}", made.stderr);
    }
    /// Waits until a condition of an object has this status and reason; gives its message.
    fn says(&self, namespace: &str, object: &str, r#type: &str, wanted: &str) -> String {
        until(&format!("{type} of {object} is {wanted}"), SOON, || {
            let path = format!(
                "jsonpath={{range .status.conditions[?(@.type=='{type}')]}}{{.status}}/{{.reason}} {{.message}}{{end}}"
            );
            let said = self.server.kubectl(&["-n", namespace, "get", object, "-o", &path]).stdout;
            said.strip_prefix(wanted).map(|message| message.trim().to_owned()).ok_or(said)
        })
    }
    /// Waits for a warning event on an object of shop, as `kubectl describe` finds it: by the object's uid.
    fn event(&self, object: &str, reason: &str, says: &str) {
        let uid = self.server.ok(&["-n", "shop", "get", object, "-o", "jsonpath={.metadata.uid}"]);
        let of_it = format!("--field-selector=involvedObject.uid={},reason={reason},type=Warning", uid.trim());
        until(&format!("{object} has the event {reason}"), SOON, || {
            let path = "jsonpath={.items[*].message}";
            let found = self.server.kubectl(&["-n", "shop", "get", "events", &of_it, "-o", path]).stdout;
            let all = || self.server.kubectl(&["-n", "shop", "get", "events"]).stdout;
            if found.contains(says) { Ok(()) } else { Err(format!("{found}; there are {}", all())) }
        });
    }
    fn admin(&self) -> SocketAddr {
        (self.range.host(1), 15014).into()
    }
}

/// A hub that is not there is waited for and named; another word in the same Membership is taken up at once.
fn a_hub_that_is_not_there(world: &World) {
    let token = world.fleet.token(None, "east", &["--region", "eu", "--network", "net-east=10.1.0.0/16"]);
    let token = std::fs::read_to_string(token).unwrap();
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "stringData": {"token": token.trim()},
        "metadata": {"name": "meshfed-join", "namespace": RELEASE, "labels": {"app.kubernetes.io/managed-by": "meshfed"}}});
    world.server.apply(&secret.to_string());
    let membership = |hub: &str| {
        let object = json!({"apiVersion": "federation.meshfed.io/v1alpha1", "kind": "Membership",
            "metadata": {"name": "meshfed", "namespace": RELEASE},
            "spec": {"hub": hub, "tokenSecretRef": {"name": "meshfed-join"}}});
        world.server.apply(&object.to_string());
    };
    membership("https://127.0.0.1:9");
    let why = world.says(RELEASE, "membership/meshfed", "Joined", "False/HubUnreachable");
    assert!(why.contains("127.0.0.1:9") && why.contains("see that it runs"), "{why}");
    membership(&world.fleet.grpc());
    world.says(RELEASE, "membership/meshfed", "Joined", "True/Joined");
    world.says(RELEASE, "membership/meshfed", "Ready", "True/Ready");
    world.server.until(&["-n", RELEASE, "get", "secret", "meshfed-join", "--ignore-not-found", "-o", "name"], "", SOON);
}

/// An immutable ConfigMap with anchors of somebody's own is made anew with the cluster's.
fn trust_that_nobody_may_change(world: &World) {
    until("shop has the cluster's anchors", SOON, || {
        let path = "jsonpath={.data.anchors\\.pem}";
        let found = world.server.kubectl(&["-n", "shop", "get", "configmap", "meshfed-trust", "-o", path]).stdout;
        if found.contains("BEGIN CERTIFICATE") { Ok(()) } else { Err(found) }
    });
}

/// A ConfigMap of somebody's own under the name stays his, and says by an event what waits for it.
fn trust_that_is_another(world: &World) {
    let told = "jsonpath={.items[*].involvedObject.kind}/{.items[*].involvedObject.name}: {.items[*].message}";
    let events = ["-n", "theirs", "get", "events", "--field-selector", "reason=NameTaken", "-o", told];
    until("the ConfigMap in the way is told of", SOON, || {
        let found = world.server.kubectl(&events).stdout;
        let is_told = found.starts_with("ConfigMap/meshfed-trust: ") && found.contains("until it is deleted");
        if is_told { Ok(()) } else { Err(found) }
    });
    let kept = world.server.ok(&["-n", "theirs", "get", "configmap", "meshfed-trust", "-o", "jsonpath={.data}"]);
    assert_eq!(kept, r#"{"mine":"x"}"#);
}

/// An export of more than an object may have, one that adds more than an import may carry, one with as many annotations as
/// an API server takes, and one whose name is as long as names may be.
fn exports_of_a_size(world: &World) {
    for name in ["huge", "much", "dressed", &"n".repeat(63)] {
        world.service(name, &json!({}));
    }
    world.export("huge", &json!({}), &json!({"exportedAnnotations": {"a.example/x": "x".repeat(1100 << 10)}}));
    world.export("much", &json!({}), &json!({"exportedAnnotations": {"a.example/x": "x".repeat(20 << 10)}}));
    world.export("dressed", &json!({"a.example/x": "x".repeat(250 << 10)}), &json!({}));
    world.export(&"n".repeat(63), &json!({}), &json!({}));
    let why = world.says("shop", "serviceexport/huge", "Valid", "False/Invalid");
    assert!(why.contains("65536") && why.contains("make it smaller"), "{why}");
    let why = world.says("shop", "serviceexport/much", "Ready", "False/Failed");
    assert!(why.contains("16384"), "{why}");
    for name in ["dressed", &"n".repeat(63)] {
        world.says("shop", &format!("serviceexport/{name}"), "Ready", "True/Exported");
        world.says("shop", &format!("serviceimport/{name}"), "Ready", "True/Ready");
    }
    let errors = http::metric(world.admin(), "meshfed_source_errors", &["severity=\"error\""]).unwrap();
    assert!(errors >= 1.0, "{errors}");
}

/// A condition of somebody else with a time that the API server takes for one, and nobody else does: it is passed over, and all
/// other exports are told of as before.
fn a_time_that_is_none(world: &World) {
    for name in ["odd", "after-odd"] {
        world.service(name, &json!({}));
    }
    world.export("odd", &json!({}), &json!({}));
    let conditions = json!({"status": {"conditions": [{"type": "Foo", "status": "True", "reason": "X", "message": "",
        "lastTransitionTime": "2026-11-29T10:00:00+99:99"}]}});
    let patch =
        ["patch", "serviceexport", "odd", "--subresource=status", "--type=merge", "-p", &conditions.to_string()];
    let _patched = world.server.ok(&[&["-n", "shop"][..], &patch].concat());
    world.export("after-odd", &json!({}), &json!({}));
    for name in ["odd", "after-odd"] {
        world.says("shop", &format!("serviceexport/{name}"), "Ready", "True/Exported");
        world.says("shop", &format!("serviceimport/{name}"), "Ready", "True/Ready");
    }
}

/// A Service that carries our label is its owner's all the same: it can be exported, and it is neither overwritten nor taken
/// for what an agent has made, even under the name that one needs.
fn services_that_carry_our_label(world: &World) {
    let ours = json!({"app.kubernetes.io/managed-by": "meshfed"});
    world.service("labelled", &ours);
    world.export("labelled", &json!({}), &json!({}));
    world.says("shop", "serviceimport/labelled", "Ready", "True/Ready");
    world.service(DERIVED, &ours);
    world.service("b", &json!({}));
    world.export("b", &json!({}), &json!({}));
    let why = world.says("shop", "serviceimport/b", "Ready", "False/NameTaken");
    assert!(why.contains("delete or rename it"), "{why}");
    let theirs = world.server.ok(&["-n", "shop", "get", "service", DERIVED, "-o", "jsonpath={.spec.selector.app}"]);
    assert_eq!(theirs, "x", "it is as its owner made it");
    let _deleted = world.server.ok(&["-n", "shop", "delete", "service", DERIVED]);
    world.says("shop", "serviceimport/b", "Ready", "True/Ready");
    // What an agent has made is no source: nobody exports the address of an import as a service of his own.
    world.export(DERIVED, &json!({}), &json!({}));
    world.says("shop", &format!("serviceexport/{DERIVED}"), "Valid", "False/NoService");
}

/// Names that no Service can have, a Service that is refused, and labels that no import can carry: each is told on the object
/// that its user has written, and none of it is an error of the cluster.
fn exports_that_their_services_cannot_give(world: &World) {
    world.export("a.b.c", &json!({}), &json!({}));
    let long = "x".repeat(253);
    world.export(&long, &json!({}), &json!({}));
    for name in ["a.b.c", &long] {
        let why = world.says("shop", &format!("serviceexport/{name}"), "Valid", "False/InvalidName");
        assert!(why.contains("delete this ServiceExport"), "{why}");
        world.says("shop", &format!("serviceexport/{name}"), "Ready", "False/Failed");
    }
    let ports: Vec<Value> = (1..=300).map(|n| json!({"name": format!("p{n}"), "port": n})).collect();
    let many = json!({"apiVersion": "v1", "kind": "Service", "spec": {"selector": {"app": "x"}, "ports": ports},
        "metadata": {"name": "many", "namespace": "shop"}});
    world.server.apply(&many.to_string());
    world.export("many", &json!({}), &json!({}));
    let why = world.says("shop", "serviceexport/many", "Valid", "False/InvalidService");
    assert!(why.contains("more than 256 ports") && !why.contains("create"), "{why}");
    world.event("service/many", "TooLarge", "more than 256 ports");
    let elsewhere = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "elsewhere", "namespace": "shop"},
        "spec": {"type": "ExternalName", "externalName": "db.example"}});
    world.server.apply(&elsewhere.to_string());
    world.export("elsewhere", &json!({}), &json!({}));
    world.says("shop", "serviceexport/elsewhere", "Valid", "False/InvalidServiceType");
    world.event("service/elsewhere", "InvalidValue", "ExternalName");
    world.service("dressed-up", &json!({}));
    let spec = json!({"exportedLabels": {"tier": "one", "k": "spaces here", "kubernetes.io/service-name": "b"}});
    world.export("dressed-up", &json!({}), &spec);
    world.says("shop", "serviceexport/dressed-up", "Ready", "True/Exported");
    let why = world.says("shop", "serviceexport/dressed-up", "Valid", "True/Valid");
    assert!(why.contains("exportedLabels.k:") && why.contains("exportedLabels.kubernetes.io/service-name:"), "{why}");
    let path = "jsonpath={.metadata.labels}";
    let labels = world.server.ok(&["-n", "shop", "get", "serviceimport", "dressed-up", "-o", path]);
    assert!(labels.contains("\"tier\":\"one\"") && !labels.contains("service-name"), "{labels}");
}

/// Control characters that JSON takes as they are and YAML does not: in the words that a condition quotes, and in what an import
/// carries on.
///
/// Mutations seen to fail: `escaped` gives what it is given; `in_one_line` left out of `cut`.
fn control_characters(world: &World) {
    for (name, annotations) in
        [("c-key", json!({"\u{9b}x": "v"})), ("c-value", json!({"a.example/x": "del \u{7f} nel \u{85} csi \u{9b}"}))]
    {
        world.service(name, &json!({}));
        world.export(name, &json!({}), &json!({"exportedAnnotations": annotations}));
        world.says("shop", &format!("serviceexport/{name}"), "Ready", "True/Exported");
        world.says("shop", &format!("serviceimport/{name}"), "Ready", "True/Ready");
    }
    let why = world.says("shop", "serviceexport/c-key", "Valid", "True/Valid");
    assert!(why.contains("exportedAnnotations") && why.contains("u{9b}x") && !why.contains('\u{9b}'), "{why:?}");
}

/// Whoever may write Services in a namespace of his own makes no gateway of one, and hears so; nor is a security setting
/// without effect in silence. A port that nobody serves is no fault of a cluster in which nobody exports it.
fn objects_that_speak_for_others(world: &World) {
    let evil = json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "gw", "namespace": "shop", "labels": {"topology.istio.io/network": "net-east"},
            "annotations": {"federation.meshfed.io/gateway-addresses": "10.1.9.9:15443"}},
        "spec": {"selector": {"app": "hole"}, "ports": [{"name": "tls", "port": 15443}]}});
    world.server.apply(&evil.to_string());
    world.event("service/gw", "NoGateway", "make the Service in namespace meshfed-system");
    let clusters = world.fleet.cli(None, &["clusters", "-o", "json"]).stdout;
    assert!(!clusters.contains("10.1.9.9"), "{clusters}");
    let policy = json!({"apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
        "metadata": {"name": "sel", "namespace": "shop"},
        "spec": {"selector": {"matchLabels": {"app": "x"}}, "mtls": {"mode": "STRICT"}}});
    world.server.apply(&policy.to_string());
    world.event("peerauthentication/sel", "NoEffectYet", "leave the selector away");
    let udp = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "udp", "namespace": "shop"},
        "spec": {"selector": {"app": "x"}, "ports": [{"name": "dns", "port": 53, "protocol": "UDP"}]}});
    world.server.apply(&udp.to_string());
    let log = world.agent.log();
    let said: Vec<&str> = log.lines().filter(|line| line.contains("UDP is not served")).collect();
    assert!(said.is_empty(), "{said:#?}");
}

/// Mutations seen to fail: `readable` left out of `ServiceExportStatus`, and `lossy` of its `status`; `note_refused` left
/// out of `apply_source`; `is_invalid` answered `false` in `trust_map`; `tell_if_foreign` that tells nothing; `import_of` by the label alone; the annotation not
/// asked for by `Writer::apply`; `misnamed.see` left out of `see`; `Teller::tell` that publishes nothing; `gateways_in`
/// none in `source_of`.
#[test]
fn what_makes_no_sense_is_told_of_and_everything_else_proceeds() {
    let world = World::start();
    a_hub_that_is_not_there(&world);
    trust_that_nobody_may_change(&world);
    trust_that_is_another(&world);
    exports_of_a_size(&world);
    a_time_that_is_none(&world);
    services_that_carry_our_label(&world);
    exports_that_their_services_cannot_give(&world);
    control_characters(&world);
    objects_that_speak_for_others(&world);
    let log = world.agent.log();
    // What is another's may not be written, by the chart's admission policy: that is told, and is no lack of permissions.
    let is_lack = |l: &&str| l.to_ascii_lowercase().contains("forbidden") && !l.contains("in namespace theirs");
    let refused: Vec<&str> = log.lines().filter(is_lack).collect();
    assert!(refused.is_empty(), "the permissions of the chart are all that it needs: {refused:#?}");
}
