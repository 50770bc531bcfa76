//! Injection by the mutating webhook and by `meshfed inject`, against real API servers (`contracts-kubernetes.md` 5.4).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "../kubernetes_identity/world.rs"]
mod world;

use std::time::Duration;

use meshfed_e2e::kube::ApiServer;
use meshfed_e2e::wait::until;
use serde_json::Value;
use world::World;

const SOON: Duration = Duration::from_secs(60);

/// The chart's object, without caBundle, with the agent's own address in the place of its Service.
const WEBHOOK: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: web, labels: {federation.meshfed.io/injection: enabled}}
---
apiVersion: v1
kind: Namespace
metadata: {name: strict, labels: {federation.meshfed.io/injection: enabled, pod-security.kubernetes.io/enforce: baseline}}
---
apiVersion: v1
kind: Namespace
metadata: {name: plain}
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingWebhookConfiguration
metadata: {name: meshfed-injector}
webhooks:
- name: namespaces.injector.meshfed.io
  clientConfig: {url: "https://{HOST}:15443/inject"}
  admissionReviewVersions: [v1]
  sideEffects: NoneOnDryRun
  failurePolicy: Fail
  timeoutSeconds: 5
  reinvocationPolicy: IfNeeded
  rules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [pods], scope: Namespaced}]
  namespaceSelector: {matchExpressions: [{key: federation.meshfed.io/injection, operator: In, values: [enabled]}]}
  objectSelector: {matchExpressions: [{key: federation.meshfed.io/injection, operator: NotIn, values: [disabled]}]}
- name: pods.injector.meshfed.io
  clientConfig: {url: "https://{HOST}:15443/inject"}
  admissionReviewVersions: [v1]
  sideEffects: NoneOnDryRun
  failurePolicy: Fail
  timeoutSeconds: 5
  reinvocationPolicy: IfNeeded
  rules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [pods], scope: Namespaced}]
  namespaceSelector: {matchExpressions: [{key: federation.meshfed.io/injection, operator: NotIn, values: [enabled]}]}
  objectSelector: {matchExpressions: [{key: federation.meshfed.io/injection, operator: In, values: [enabled]}]}
"#;

const FLAGS: [&str; 6] = [
    "--injection-config",
    "{DIR}/injection.yaml",
    "--webhook-listen",
    "{HOST}:15443",
    "--webhook-certificate-ttl",
    "20s",
];

/// What an agent left in a namespace that lost its injection while none ran, and a ConfigMap of somebody else under the name.
const BEFORE: &str = r"
{apiVersion: v1, kind: Namespace, metadata: {name: a-stranger}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: meshfed-trust, namespace: a-stranger}, data: {mine: x}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: former}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: meshfed-trust, namespace: former, labels: {app.kubernetes.io/managed-by: meshfed}}
data: {anchors.pem: x}
";

fn start(api: ApiServer) -> World {
    let world = World::start_with(api, &FLAGS, WEBHOOK);
    until("the webhook answers", SOON, || {
        let made = create(&world, "web", "probe", "containers: [{name: app, image: app}]", "", true);
        made.map(drop)
    });
    world
}

/// Creates a pod as a user does; the object that the API server has made of it, or its words.
fn create(world: &World, namespace: &str, name: &str, spec: &str, metadata: &str, dry: bool) -> Result<Value, String> {
    let yaml = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}, {metadata}}}\nspec: {{{spec}}}\n"
    );
    let mut args = vec!["create", "-o", "json", "-f", "-"];
    if dry {
        args.push("--dry-run=server");
    }
    let output = world.api.kubectl_with(&args, &yaml);
    if output.code == 0 { serde_json::from_str(&output.stdout).map_err(|e| e.to_string()) } else { Err(output.stderr) }
}

fn inits(pod: &Value) -> Vec<String> {
    let all = pod.pointer("/spec/initContainers").and_then(Value::as_array);
    all.into_iter().flatten().map(|c| c["name"].as_str().unwrap().to_owned()).collect()
}

const APP: &str = "containers: [{name: app, image: app}]";

/// Namespaces and pods say who is injected; what is refused is refused with words that help; a dry run writes nothing, and
/// an admitted pod finds the anchors that it mounts, which are nowhere else.
///
/// Mutations seen to fail: `judge` does not call `TrustMap::ensure`; the rotation patches the first webhook only;
/// `selected` not asked in `judge`; `part` of `trust_map` that deletes nothing; `TrustMap::ask` that asks nobody; `is_ours`
/// answered `true`.
#[test]
fn pods_are_injected_or_refused_as_their_labels_say() {
    let api = ApiServer::with_controllers();
    api.apply(BEFORE);
    let world = start(api);
    let api = &world.api;
    // By name, one namespace after the other: when the second one is rid of it, the first one was asked, too.
    let left = |namespace: &str| {
        let wanted = ["-n", namespace, "get", "configmap", "meshfed-trust", "-o", "name", "--ignore-not-found"];
        wanted.map(str::to_owned)
    };
    let former = left("former");
    api.until(&former.each_ref().map(String::as_str), "", SOON);
    assert_eq!(api.ok(&left("a-stranger").each_ref().map(String::as_str)).trim(), "configmap/meshfed-trust");
    for namespace in ["web", "plain", "strict"] {
        api.until(&["-n", namespace, "get", "serviceaccount", "default", "-o", "name"], "serviceaccount/default", SOON);
    }
    let ours = ["meshfed-init", "meshfed-proxy"];
    let pod = create(&world, "web", "a", APP, "", false).unwrap();
    assert_eq!(inits(&pod), ours);
    assert_eq!(pod["spec"]["containers"].as_array().unwrap().len(), 1);
    assert!(pod["metadata"]["annotations"]["federation.meshfed.io/status"].is_string());
    let disabled = "labels: {federation.meshfed.io/injection: disabled}";
    assert!(inits(&create(&world, "web", "b", APP, disabled, false).unwrap()).is_empty());
    assert!(inits(&create(&world, "plain", "c", APP, "", false).unwrap()).is_empty());
    assert!(
        inits(
            &create(&world, "web", "d", "hostNetwork: true, containers: [{name: app, image: app}]", "", false).unwrap()
        )
        .is_empty()
    );
    let trust = ["-n", "plain", "get", "configmap", "meshfed-trust", "-o", "name", "--ignore-not-found"];
    let enabled = "labels: {federation.meshfed.io/injection: enabled}";
    assert_eq!(inits(&create(&world, "plain", "e", APP, enabled, true).unwrap()), ours);
    assert_eq!(api.ok(&trust).trim(), "", "a dry run writes nothing");
    assert_eq!(inits(&create(&world, "plain", "e", APP, enabled, false).unwrap()), ours);
    api.until(&trust, "configmap/meshfed-trust", SOON);
    let anchors = api.ok(&["-n", "plain", "get", "configmap", "meshfed-trust", "-o", r"jsonpath={.data.anchors\.pem}"]);
    assert_eq!(anchors, std::fs::read_to_string(world.anchors()).unwrap());

    for (namespace, spec, metadata, word) in [
        ("web", "containers: [{name: app, image: app, securityContext: {runAsUser: 1337}}]", "", "run as another user"),
        ("web", APP, "annotations: {federation.meshfed.io/exclude-inbound-ports: x}", "write for example 22,9090"),
        ("strict", APP, "", "Pod Security level 'baseline'"),
    ] {
        let refused = create(&world, namespace, "f", spec, metadata, false).unwrap_err();
        assert!(refused.contains("admission webhook") && refused.contains(word), "{refused}");
    }
    api.apply(
        "apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template: {metadata: {labels: {app: web}}, spec: {containers: [{name: app, image: app}]}}
",
    );
    let names = ["-n", "web", "get", "pods", "-l", "app=web", "-o", "jsonpath={.items[*].spec.initContainers[*].name}"];
    api.until(&names, "meshfed-init meshfed-proxy meshfed-init meshfed-proxy", SOON);
    // Whoever reaches the port may say that there is a pod: nothing is written before the API server has one.
    let forged = forge(&world, "victim");
    assert!(forged.contains("\"allowed\":true") && forged.contains("JSONPatch"), "{forged}");
    let victim = ["-n", "victim", "get", "configmap", "meshfed-trust", "-o", "name", "--ignore-not-found"];
    assert_eq!(api.ok(&victim).trim(), "");
    // Where no pod reads the anchors any more they go: with the last pod that asked for itself, and with the label of a
    // namespace once its injected pods have gone.
    let _deleted = api.ok(&["-n", "plain", "delete", "pod", "e", "--grace-period=0", "--force"]);
    api.until(&trust, "", SOON);
    // Kept in the namespaces with injection, also against somebody who takes it away.
    let _deleted = api.ok(&["-n", "web", "delete", "configmap", "meshfed-trust"]);
    let kept = ["-n", "web", "get", "configmap", "meshfed-trust", "-o", "name", "--ignore-not-found"];
    api.until(&kept, "configmap/meshfed-trust", Duration::from_secs(150));
    let _unlabelled = api.ok(&["label", "namespace", "web", "federation.meshfed.io/injection-"]);
    let _deleted = api.ok(&["-n", "web", "delete", "deployment", "web"]);
    let _deleted = api.ok(&["-n", "web", "delete", "pods", "--all", "--grace-period=0", "--force"]);
    api.until(&kept, "", Duration::from_secs(150));
}

/// What the webhook answers to somebody who is no API server, and says that a pod is to be made there.
fn forge(world: &World, namespace: &str) -> String {
    world.api.apply(&format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {namespace}}}}}"));
    let review = serde_json::json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "1", "kind": {"group": "", "version": "v1", "kind": "Pod"}, "operation": "CREATE",
            "namespace": namespace,
            "object": {
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": "f", "labels": {"federation.meshfed.io/injection": "enabled"}},
                "spec": {"serviceAccountName": "default", "containers": [{"name": "app", "image": "app"}]},
            },
        },
    });
    let url = format!("https://{}:15443/inject", world.range.host(1));
    let mut ask = std::process::Command::new("curl");
    ask.args(["-sk", "-H", "content-type: application/json", "-d", &review.to_string(), &url]);
    meshfed_e2e::process::run(&mut ask).ok("curl")
}

/// Certificates are made anew under load: no pod is refused. Whoever takes the caBundle away gets it back. Without an agent
/// no pod is admitted.
///
/// Mutations seen to fail: each certificate is shown before its CA is in the `caBundle`; `merged` leaves out the
/// others.
#[test]
fn certificates_rotate_and_no_pod_is_refused_until_the_agent_is_gone() {
    let mut world = start(ApiServer::with_controllers());
    let shown = |world: &World| {
        meshfed_e2e::http::metric((world.range.host(1), 15014).into(), "meshfed_webhook_certificates", &[]).unwrap()
    };
    let first = shown(&world);
    let mut made = 0;
    until("two more certificates were shown", Duration::from_secs(90), || {
        made += 1;
        if let Err(refused) = create(&world, "web", &format!("p-{made}"), APP, "", true) {
            panic!("pod {made} was refused: {refused}");
        }
        let now = shown(&world);
        if now >= first + 2.0 { Ok(()) } else { Err(format!("{now} shown, {made} pods")) }
    });
    let wiped = r#"[{"op":"remove","path":"/webhooks/0/clientConfig/caBundle"}]"#;
    let name = ["mutatingwebhookconfiguration", "meshfed-injector"];
    let _wiped = world.api.ok(&["patch", name[0], name[1], "--type=json", "-p", wiped]);
    until("the caBundle is back", SOON, || create(&world, "web", "back", APP, "", true).map(drop));
    assert_eq!(world.agent.stop(), 0);
    let refused = create(&world, "web", "late", APP, "", true).unwrap_err();
    assert!(refused.contains("failed calling webhook"), "{refused}");
    assert!(create(&world, "plain", "free", APP, "", true).is_ok(), "others are not held up");
}

/// `meshfed inject` makes of a file what the webhook makes of its pods, for every kind, and what it prints is taken by a
/// real API server: numbers that are texts stay texts.
///
/// Mutations seen to fail: the text is printed with YAML 1.2's rules (`"on"` becomes a boolean); templates of CronJobs
/// are left out.
#[test]
fn what_the_command_prints_is_what_the_webhook_makes() {
    let world = start(ApiServer::with_controllers());
    let spec = "containers: [{name: app, image: app, env: [{name: A, value: \"on\"}, {name: B, value: \"012\"}], \
                readinessProbe: {httpGet: {port: 8080}}}]";
    let template = format!("{{metadata: {{labels: {{app: w}}}}, spec: {{{spec}}}}}");
    let once = format!("{{metadata: {{labels: {{app: w}}}}, spec: {{restartPolicy: Never, {spec}}}}}");
    let selector = "selector: {matchLabels: {app: w}}";
    let file = format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: w, namespace: web}}
spec: {{{spec}}}
---
{{apiVersion: apps/v1, kind: Deployment, metadata: {{name: d, namespace: web}}, spec: {{{selector}, template: {template}}}}}
---
apiVersion: v1
kind: List
items:
- {{apiVersion: apps/v1, kind: StatefulSet, metadata: {{name: s, namespace: web}}, spec: {{serviceName: s, {selector}, template: {template}}}}}
- {{apiVersion: apps/v1, kind: DaemonSet, metadata: {{name: s, namespace: web}}, spec: {{{selector}, template: {template}}}}}
- {{apiVersion: batch/v1, kind: Job, metadata: {{name: j, namespace: web}}, spec: {{template: {once}}}}}
- {{apiVersion: batch/v1, kind: CronJob, metadata: {{name: c, namespace: web}}, spec: {{schedule: '* * * * *', jobTemplate: {{spec: {{template: {once}}}}}}}}}
"
    );
    let input = world.fleet.path("input.yaml");
    std::fs::write(&input, &file).unwrap();
    let mut command = std::process::Command::new(meshfed_e2e::binary::meshfed());
    command.args(["inject", "-f"]).arg(&input).arg("--config").arg(world.fleet.path("injection.yaml"));
    let printed = meshfed_e2e::process::run(&mut command).ok("meshfed inject");
    let args = ["create", "--dry-run=server", "-o", "json", "-f", "-"];
    let made = world.api.kubectl_with(&args, &printed).ok("kubectl create");
    // One after the other: kubectl makes no List of what it has made.
    let items: Vec<Value> = serde_json::Deserializer::from_str(&made).into_iter().collect::<Result<_, _>>().unwrap();
    assert_eq!(items.len(), 6, "{made}");
    let by_webhook = create(&world, "web", "w", spec, "", true).unwrap();
    for item in &items {
        let pod = ["", "/spec/template", "/spec/jobTemplate/spec/template"]
            .iter()
            .rev()
            .find_map(|at| item.pointer(at).filter(|p| p.pointer("/spec/containers").is_some()))
            .unwrap();
        let kind = &item["kind"];
        // The admission of the API server adds the account's token to pods, not to templates.
        for (field, at) in
            [("args", 0), ("args", 1), ("env", 1), ("securityContext", 0), ("securityContext", 1), ("image", 1)]
        {
            assert_eq!(
                pod.pointer(&format!("/spec/initContainers/{at}/{field}")),
                by_webhook.pointer(&format!("/spec/initContainers/{at}/{field}")),
                "{kind} {field}"
            );
        }
        let app = &pod["spec"]["containers"][0];
        assert_eq!(app["readinessProbe"], by_webhook["spec"]["containers"][0]["readinessProbe"], "{kind}");
        assert_eq!(app["env"], by_webhook["spec"]["containers"][0]["env"], "{kind}");
    }
}

/// Before a cluster has joined, pods to be injected are refused with the way out, and all others are made.
///
/// Mutation seen to fail: the webhook is not started in the phase before the membership.
#[test]
fn before_a_cluster_has_joined_pods_to_be_injected_wait() {
    let api = ApiServer::with_controllers();
    let dir = tempfile::tempdir().unwrap();
    let range = meshfed_e2e::fleet::Range::take();
    let host = range.host(1).to_string();
    let kinds = meshfed_e2e::process::run(std::process::Command::new(meshfed_e2e::binary::meshfed()).arg("crds"));
    api.apply(&kinds.ok("meshfed crds"));
    api.apply("{apiVersion: v1, kind: Namespace, metadata: {name: meshfed-system}}");
    api.apply(&WEBHOOK.replace("{HOST}", &host));
    for namespace in ["web", "plain"] {
        api.until(&["-n", namespace, "get", "serviceaccount", "default", "-o", "name"], "serviceaccount/default", SOON);
    }
    std::fs::write(dir.path().join("injection.yaml"), world::INJECTION).unwrap();
    let mut start = std::process::Command::new(meshfed_e2e::binary::meshfed());
    start.args(["agent", "--source", "kubernetes", "--namespace", world::RELEASE]);
    start.args(["--bind", &host, "--webhook-listen", &format!("{host}:15443"), "--data-dir"]).arg(dir.path().join("e"));
    start.arg("--injection-config").arg(dir.path().join("injection.yaml")).env("KUBECONFIG", api.kubeconfig());
    let mut agent = meshfed_e2e::process::Process::start("agent", dir.path(), &mut start);
    let pod = |namespace: &str| {
        let yaml =
            format!("{{apiVersion: v1, kind: Pod, metadata: {{name: a, namespace: {namespace}}}, spec: {{{APP}}}}}");
        api.kubectl_with(&["create", "--dry-run=server", "-f", "-"], &yaml)
    };
    until("the refusal says what to do", SOON, || {
        agent.assert_alive();
        let refused = pod("web");
        assert_ne!(refused.code, 0, "{}", refused.stdout);
        if refused.stderr.contains("this cluster has not joined") { Ok(()) } else { Err(refused.stderr) }
    });
    assert_eq!(pod("plain").code, 0);
    assert_eq!(agent.stop(), 0);
}
