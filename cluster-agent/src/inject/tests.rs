use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

mod golden;

pub(super) fn config() -> InjectConfig {
    InjectConfig::read("{releaseNamespace: meshfed-system, image: 'localhost/meshfed:0.1.0', imagePullPolicy: Never}")
        .unwrap()
}

pub(super) fn enabled() -> NamespaceFacts {
    NamespaceFacts { name: "shop".to_owned(), injection: Some("enabled".to_owned()), enforce: None }
}

pub(super) fn pod(yaml: &str) -> Value {
    serde_saphyr::from_str(yaml).unwrap()
}

fn plain() -> Value {
    pod("{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {containers: [{name: app, image: app}]}}")
}

fn injected(pod: &Value) -> Value {
    match inject(pod, &enabled(), &config()) {
        Ok(Outcome::Inject(pod)) => *pod,
        other => panic!("{other:?}"),
    }
}

/// The pod's label wins, then the namespace's, then the default; a label that says neither is refused.
///
/// Mutations seen to fail: the pod's `disabled` counts for nothing; `all` does not leave out `kube-*`; hub and release left
/// out by `all` alone.
#[test]
fn the_pod_wins_over_the_namespace_and_the_default_comes_last() {
    let all = || InjectConfig { default: Selection::All, excluded_namespaces: ["hub".to_owned()].into(), ..config() };
    let cases = [
        (None, "shop", None, config(), Ok(false)),
        (None, "shop", Some("enabled"), config(), Ok(true)),
        (None, "shop", Some("disabled"), config(), Ok(false)),
        (Some("disabled"), "shop", Some("enabled"), config(), Ok(false)),
        (Some("enabled"), "shop", Some("disabled"), config(), Ok(true)),
        (Some("enabled"), "shop", None, config(), Ok(true)),
        (None, "shop", None, all(), Ok(true)),
        (None, "shop", Some("disabled"), all(), Ok(false)),
        (None, "kube-system", None, all(), Ok(false)),
        (None, "kube-system", Some("enabled"), all(), Ok(true)),
        (None, "meshfed-system", None, all(), Ok(false)),
        (None, "hub", None, all(), Ok(false)),
        (Some("enabled"), "hub", Some("enabled"), all(), Ok(false)),
        (Some("enabled"), "meshfed-system", None, config(), Ok(false)),
        (Some("yes"), "shop", Some("enabled"), config(), Err(())),
        (None, "shop", Some("true"), config(), Err(())),
        (Some("disabled"), "shop", Some("true"), config(), Ok(false)),
    ];
    for (label, name, injection, config, wanted) in cases {
        let mut pod = plain();
        if let Some(label) = label {
            pod["metadata"]["labels"] = json!({ LABEL: label });
        }
        let facts = NamespaceFacts { name: name.to_owned(), injection: injection.map(str::to_owned), enforce: None };
        let found = inject(&pod, &facts, &config);
        let got = found.as_ref().map(|o| matches!(o, Outcome::Inject(_))).map_err(|_e| ());
        assert_eq!(got, wanted, "pod {label:?}, namespace {name} {injection:?}, {:?}: {found:?}", config.default);
    }
}

/// Mutations seen to fail: `os.name` not looked at; an init container's user not looked at; requests not compared with
/// limits.
#[test]
fn what_cannot_have_a_sidecar_is_skipped_or_refused_with_the_reason() {
    let spec = |spec: &str| pod(&format!("{{metadata: {{name: a}}, spec: {spec}}}"));
    let note = |name: &str, value: &str| {
        let mut pod = plain();
        pod["metadata"]["annotations"] = json!({ name: value });
        pod
    };
    let skips = [
        (spec("{hostNetwork: true, containers: [{name: app}]}"), Skip::HostNetwork),
        (spec("{os: {name: windows}, containers: [{name: app}]}"), Skip::Windows),
        (spec("{nodeSelector: {kubernetes.io/os: windows}, containers: [{name: app}]}"), Skip::Windows),
    ];
    for (pod, skip) in skips {
        assert_eq!(inject(&pod, &enabled(), &config()), Ok(Outcome::Skip(skip)));
    }
    let refused = [
        (
            spec("{securityContext: {runAsUser: 1337}, containers: [{name: app}]}"),
            "spec.securityContext.runAsUser is 1337",
        ),
        (
            spec("{containers: [{name: a}, {name: app, securityContext: {runAsUser: 1337}}]}"),
            "spec.containers[1].securityContext.runAsUser",
        ),
        (
            spec("{initContainers: [{name: i, securityContext: {runAsUser: 1337}}], containers: [{name: a}]}"),
            "spec.initContainers[0]",
        ),
        (spec("{containers: [{name: meshfed-proxy}]}"), "is named 'meshfed-proxy'"),
        (spec("{containers: [{name: a}], volumes: [{name: meshfed-trust, emptyDir: {}}]}"), "spec.volumes[0] is named"),
        (spec("{containers: [{name: a}], volumes: 3}"), "spec.volumes is not a list"),
        (note("federation.meshfed.io/exclude-inbound-ports", "22,x"), "'x' is no port; write for example 22,9090"),
        (note("federation.meshfed.io/exclude-outbound-ports", "70000"), "'70000' is no port"),
        (
            note("federation.meshfed.io/exclude-outbound-cidrs", "10.0.0.1"),
            "is no range of addresses; write for example 192.0.2.0/24",
        ),
        (note("federation.meshfed.io/proxy-resources", "{"), "is not JSON"),
        (note("federation.meshfed.io/proxy-resources", r#"{"limits":{"cpus":"1"}}"#), "limits has 'cpus'"),
        (note("federation.meshfed.io/proxy-resources", r#"{"limits":{"cpu":"fast"}}"#), "limits.cpu is no quantity"),
        (
            note("federation.meshfed.io/proxy-resources", r#"{"requests":{"memory":"2Ei"},"limits":{"memory":"1Ei"}}"#),
            "requests.memory is over limits.memory",
        ),
        (
            note(
                "federation.meshfed.io/proxy-resources",
                r#"{"requests":{"memory":"1Gi"},"limits":{"memory":"512Mi"}}"#,
            ),
            "requests.memory is over limits.memory",
        ),
        (note("federation.meshfed.io/sidecar", "none"), "is 'none', but injection is enabled"),
    ];
    for (pod, word) in refused {
        let error = inject(&pod, &enabled(), &config()).expect_err(word).to_string();
        assert!(error.contains(word), "{error}");
    }
    for level in ["baseline", "restricted"] {
        let facts = NamespaceFacts { enforce: Some(level.to_owned()), ..enabled() };
        let error = inject(&plain(), &facts, &config()).unwrap_err().to_string();
        assert!(error.contains(level) && error.contains("enforce=privileged"), "{error}");
    }
}

/// A slip of the pen under our own prefix is told and refuses nothing; other prefixes are others'. By the webhook's
/// warnings and by the notes of `meshfed inject` alike.
///
/// Mutation seen to fail: `starts_with(PREFIX)` left out of `unknown`.
#[test]
fn an_unknown_annotation_of_ours_is_told() {
    let slip = pod("{apiVersion: v1, kind: Pod, metadata: {name: a, annotations: {\
        federation.meshfed.io/exclude-inbound-port: '22', federation.meshfed.io/exclude-inbound-ports: '23', \
        federation.meshfed.io/status: x, other.example/a: b}}, spec: {containers: [{name: app, image: app}]}}");
    let told = warnings(&slip);
    let [told] = &told[..] else { panic!("{told:?}") };
    assert!(told.starts_with("annotation federation.meshfed.io/exclude-inbound-port is not known"), "{told}");
    assert!(told.contains("exclude-inbound-ports") && told.len() <= 256, "{told}");
    assert!(matches!(inject(&slip, &enabled(), &config()), Ok(Outcome::Inject(_))));
    let done = inject_text(&slip.to_string(), &config()).unwrap();
    let notes: Vec<&str> = done.notes.iter().map(|note| note.message.as_str()).collect();
    assert_eq!((done.changed, notes), (1, vec![format!("Pod default/a: {told}").as_str()]));
    assert_eq!(warnings(&plain()), [""; 0]);
}

/// What is wrong with a configuration is said once, without a picture of the file.
///
/// Mutation seen to fail: `without_snippet` left out.
#[test]
fn a_wrong_configuration_is_told_in_a_line() {
    let error = InjectConfig::read("{releaseNamespace: a, image: b, imagePullPolicys: Never}").unwrap_err().to_string();
    assert!(error.contains("imagePullPolicys") && !error.contains('\n') && !error.contains("error:"), "{error}");
}

/// Done again, also after others have added a container with probes, it gives what doing it once to all of it gives.
///
/// Mutations seen to fail: `take_ours` leaves `meshfed-proxy`; what was rewritten before is forgotten.
#[test]
fn injection_again_changes_nothing_but_what_others_have_added() {
    let mut first = pod(golden::FULL);
    let once = injected(&first);
    assert_eq!(injected(&once), once);
    let other = json!({ "name": "late", "image": "x", "livenessProbe": { "tcpSocket": { "port": 9000 } } });
    let mut changed = once;
    changed["spec"]["containers"].as_array_mut().unwrap().push(other.clone());
    first["spec"]["containers"].as_array_mut().unwrap().push(other);
    assert_eq!(injected(&changed), injected(&first));
}

/// All kinds with templates; everything else stays.
///
/// Mutation seen to fail: `CronJob` at `/spec/template`.
#[test]
fn every_kind_with_a_template_is_injected_and_nothing_else() {
    let template = "{metadata: {labels: {app: a}}, spec: {containers: [{name: app, image: app}]}}";
    let cases = [
        ("apps/v1", "Deployment", format!("{{spec: {{template: {template}}}}}"), "/spec/template"),
        ("apps/v1", "StatefulSet", format!("{{spec: {{template: {template}}}}}"), "/spec/template"),
        ("apps/v1", "DaemonSet", format!("{{spec: {{template: {template}}}}}"), "/spec/template"),
        ("apps/v1", "ReplicaSet", format!("{{spec: {{template: {template}}}}}"), "/spec/template"),
        ("batch/v1", "Job", format!("{{spec: {{template: {template}}}}}"), "/spec/template"),
        (
            "batch/v1",
            "CronJob",
            format!("{{spec: {{jobTemplate: {{spec: {{template: {template}}}}}}}}}"),
            "/spec/jobTemplate/spec/template",
        ),
        ("v1", "ReplicationController", format!("{{spec: {{template: {template}}}}}"), "/spec/template"),
    ];
    let facts = |_: &str| enabled();
    let mut items = Vec::new();
    for (api_version, kind, text, at) in cases {
        let mut object = pod(&text);
        object["apiVersion"] = json!(api_version);
        object["kind"] = json!(kind);
        items.push(object.clone());
        let done = inject_object(&mut object, &facts, &config()).unwrap();
        assert_eq!(done.changed, 1, "{kind}");
        assert_eq!(object.pointer(&format!("{at}/spec/initContainers/1/name")), Some(&json!(PROXY)), "{kind}");
    }
    let mut list = json!({ "apiVersion": "v1", "kind": "List", "items": items });
    assert_eq!(inject_object(&mut list, &facts, &config()).unwrap().changed, 7);
    let mut foreign = json!({ "apiVersion": "example.com/v1", "kind": "Deployment", "spec": { "template": plain() } });
    let before = foreign.clone();
    assert_eq!(inject_object(&mut foreign, &facts, &config()).unwrap(), Injected::default());
    assert_eq!(foreign, before);
}

const FILE: &str = r#"# the shop
apiVersion: v1
kind: Namespace
metadata: {name: quiet, labels: {federation.meshfed.io/injection: disabled}}
---
# stays   as it is
apiVersion: v1
kind: Service
metadata: {name: b}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: b, namespace: shop}
spec:
  template:
    metadata: {labels: {version: "1.10", on: "yes"}}
    spec:
      containers: [{name: app, image: app, env: [{name: A, value: "012"}, {name: B, value: "1e3"}, {name: C, value: "~"}]}]
--- {apiVersion: v1, kind: Pod, metadata: {name: h}, spec: {hostNetwork: true, containers: [{name: a}]}}
---
apiVersion: v1
kind: Pod
metadata: {name: q, namespace: quiet}
spec: {containers: [{name: a}]}
"#;

/// Mutations seen to fail: a document without changes is written anew; the line of an error counts from its document.
#[test]
fn files_are_injected_document_by_document() {
    let done = inject_text(FILE, &config()).unwrap();
    assert_eq!(done.changed, 1);
    assert!(done.text.starts_with(FILE.split("apiVersion: apps/v1").next().unwrap()));
    assert!(done.text.ends_with(&FILE[FILE.find("--- {").unwrap()..]));
    for kept in ["version: \"1.10\"", "\"on\": \"yes\"", "\"012\"", "\"1e3\"", "\"~\"", "meshfed-proxy"] {
        assert!(done.text.contains(kept), "{kept}: {}", done.text);
    }
    let notes: Vec<u64> = done.notes.iter().map(|n| n.line).collect();
    assert_eq!(notes, [19, 21], "{:?}", done.notes);
    assert_eq!(inject_text(&done.text, &config()).unwrap().text, done.text, "again: the same");
    let errors = inject_text(
        &format!(
            "{FILE}---\na: b\nc: [\n---\nkind: Pod\napiVersion: v1\nspec: {{securityContext: {{runAsUser: 1337}}}}\n"
        ),
        &config(),
    );
    let errors = errors.unwrap_err();
    let lines: Vec<u64> = errors.iter().map(|e| e.line).collect();
    assert_eq!(lines, [27, 29], "{errors:?}");
    assert!(errors[1].message.contains("run as another user"), "{errors:?}");
}

/// What an API server refuses is not passed on as something else: without quotes YAML reads a word as a boolean.
///
/// Mutation seen to fail: `not_text` left out.
#[test]
fn a_label_that_yaml_reads_as_a_boolean_is_refused() {
    let text = "kind: Pod\napiVersion: v1\nmetadata: {name: true, labels: {app: false, version: 1, x: \"yes\"}}\nspec: {containers: [{name: a}]}\n";
    let errors = inject_text(text, &config()).unwrap_err();
    let told: Vec<&str> = errors.iter().map(|e| e.message.split(" is ").next().unwrap()).collect();
    assert_eq!(told, ["metadata.name", "metadata.labels[app]", "metadata.labels[version]"], "{errors:?}");
    assert!(
        inject_text(
            &text.replace(": true", ": \"true\"").replace("false", "\"no\"").replace(": 1", ": \"1\""),
            &config()
        )
        .is_ok()
    );
}

/// Numbers are what kubectl makes of them, and lists of one kind, whose items do not repeat it, are lists.
///
/// Mutations seen to fail: `legacy_octal_numbers: false`; `of` not looked at.
#[test]
fn what_is_written_is_read_as_kubectl_reads_it() {
    let text = "kind: PodList\napiVersion: v1\nitems:\n- metadata: {name: a}\n  spec: {containers: [{name: a}], volumes: [{name: s, secret: {secretName: s, defaultMode: 0400}}, {name: t, secret: {secretName: t, defaultMode: 420}}]}\n";
    let done = inject_text(text, &config()).unwrap();
    assert_eq!(done.changed, 1);
    let list: Value = serde_saphyr::from_str(&done.text).unwrap();
    let volumes = list["items"][0]["spec"]["volumes"].as_array().unwrap();
    let modes: Vec<&Value> = volumes.iter().filter_map(|v| v["secret"].get("defaultMode")).collect();
    assert_eq!(modes, [&json!(256), &json!(420)]);
}

fn probe() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!({ "httpGet": { "path": "/x", "port": 8080 } })),
        Just(json!({ "httpGet": { "port": "web", "scheme": "HTTPS" } })),
        Just(json!({ "tcpSocket": { "port": "web" }, "periodSeconds": 3 })),
        Just(json!({ "grpc": { "port": 9000, "service": "s" }, "timeoutSeconds": 7 })),
        Just(json!({ "exec": { "command": ["true"] } })),
    ]
}

fn container(n: usize) -> impl Strategy<Value = Value> {
    (proptest::option::of(probe()), proptest::option::of(probe())).prop_map(move |(live, ready)| {
        let mut c =
            json!({ "name": format!("c{n}"), "image": "x", "ports": [{ "name": "web", "containerPort": 8000 + n }] });
        for (field, probe) in [("livenessProbe", live), ("readinessProbe", ready)] {
            if let Some(probe) = probe {
                c[field] = probe;
            }
        }
        c
    })
}

proptest! {
    /// The patch applied to the pod gives the injected pod; that is a Pod of the API's own types with nothing lost, its
    /// containers are as many as before, ours come first, and a second time changes nothing.
    ///
    /// Mutations seen to fail: `take_ours` leaves `meshfed-proxy`; ours at the end of `initContainers`.
    #[test]
    fn the_patch_gives_a_valid_pod(
        apps in (1..4usize).prop_flat_map(|n| (0..n).map(container).collect::<Vec<_>>()),
        inits in (0..3usize).prop_flat_map(|n| (10..10 + n).map(container).collect::<Vec<_>>()),
        volumes in 0..3usize,
    ) {
        let mut pod = plain();
        pod["spec"]["containers"] = json!(apps);
        if !inits.is_empty() {
            pod["spec"]["initContainers"] = json!(inits);
        }
        if volumes > 0 {
            pod["spec"]["volumes"] = (0..volumes).map(|n| json!({ "name": format!("v{n}"), "emptyDir": {} })).collect();
        }
        let after = injected(&pod);
        let mut patched = pod.clone();
        json_patch::patch(&mut patched, &patch(&pod, &after)).unwrap();
        prop_assert_eq!(&patched, &after);
        prop_assert_eq!(after["spec"]["containers"].as_array().unwrap().len(), apps.len());
        let all = after["spec"]["initContainers"].as_array().unwrap();
        prop_assert_eq!(all.len(), inits.len() + 2);
        prop_assert_eq!((name_of(&all[0]), name_of(&all[1])), (INIT, PROXY));
        prop_assert_eq!(injected(&after), after.clone());
        let typed: k8s_openapi::api::core::v1::Pod = serde_json::from_value(after.clone()).unwrap();
        let back = serde_json::to_value(typed).unwrap();
        prop_assert_eq!(back["spec"]["initContainers"].as_array().unwrap().len(), all.len());
        // Nobody is root but our init container.
        for c in all.iter().skip(1) {
            prop_assert_ne!(c.pointer("/securityContext/runAsUser"), Some(&json!(0)));
        }
    }
}

/// A quota on a resource asks every container for it: what the proxy is given by the pod or by the chart, `meshfed-init` is
/// given, too, but for memory, of which it has little of its own.
///
/// Mutation seen to fail: `init_resources` of an empty object.
#[test]
fn a_quota_that_asks_for_a_limit_is_met_by_both_containers() {
    let resources =
        r#"{"requests":{"cpu":"5m","memory":"1Gi"},"limits":{"cpu":"6m","memory":"1Gi","ephemeral-storage":"1Mi"}}"#;
    let mut pod = plain();
    pod["metadata"]["annotations"] = json!({ "federation.meshfed.io/proxy-resources": resources });
    let facts = NamespaceFacts { name: "shop".to_owned(), injection: Some("enabled".to_owned()), enforce: None };
    let Outcome::Inject(injected) = inject(&pod, &facts, &config()).unwrap() else { panic!() };
    let wanted = json!({"requests": {"cpu": "5m", "memory": "16Mi"},
        "limits": {"cpu": "6m", "memory": "64Mi", "ephemeral-storage": "1Mi"}});
    assert_eq!(injected["spec"]["initContainers"][0]["resources"], wanted);
}
