use std::sync::Arc;

use crate::error::Code;
use crate::object::{Body, Kind, MtlsMode, NodeHealth, Object, OutboundPolicy, PolicyTarget, Scope};
use crate::read::{FileObjects, read_file};

fn read(scope: Scope, text: &str) -> FileObjects {
    read_file(&"f.yaml".into(), text.as_bytes(), scope, None).unwrap()
}

fn only(found: &FileObjects) -> Arc<Object> {
    assert_eq!(found.errors, []);
    found.declared.values().next().unwrap().object.clone().unwrap()
}

fn codes(found: &FileObjects) -> Vec<(Code, &str)> {
    found.errors.iter().map(|e| (e.code, e.field.as_deref().unwrap_or_default())).collect()
}

const POD: &str = r#"{
  "apiVersion": "v1", "kind": "Pod",
  "metadata": {"name": "b-7c9d.x", "namespace": "shop", "uid": "0d3b", "labels": {"app": "b"},
    "annotations": {"federation.meshfed.io/status": "{}", "example.com/later": "x"}, "fieldOfALaterServer": {"a": [1]}},
  "spec": {"serviceAccountName": "b", "nodeName": "n1", "aFieldOfALaterServer": 7,
    "containers": [
      {"name": "app", "image": "x", "ports": [
        {"name": "http", "containerPort": 8080, "protocol": "TCP"}, {"name": "dns", "containerPort": 53, "protocol": "UDP"}]},
      {"name": "two", "ports": [{"name": "http", "containerPort": 9}, {"containerPort": 7}]}],
    "initContainers": [
      {"name": "once", "ports": [{"name": "once", "containerPort": 1}]},
      {"name": "beside", "restartPolicy": "Always", "ports": [{"name": "metrics", "containerPort": 9090}]}]},
  "status": {"phase": "Running", "podIP": "10.1.0.7", "podIPs": [{"ip": "10.1.0.7"}, {"ip": "fd00::7"}],
    "conditions": [{"type": "Ready", "status": "True", "observedGeneration": 3}, {"type": "Later", "status": "Odd"}]}
}"#;

/// Mutation seen to fail: `Kind::Pod => Open(POD)` of `shape_of` made `Fields(POD)`.
#[test]
fn a_pod_is_read_and_what_a_later_server_adds_is_no_fault() {
    let object = only(&read(Scope::Member, POD));
    let Body::Pod(pod) = &object.body else { panic!() };
    let ports: Vec<(&str, u16)> = pod.ports.iter().collect();
    assert_eq!(ports, [("http", 8080), ("metrics", 9090)], "the first of a name, TCP, and what goes on beside");
    assert_eq!(pod.addresses.as_ref(), ["10.1.0.7".parse().unwrap(), "fd00::7".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!((&*pod.uid, &*pod.service_account, pod.node.as_deref()), ("0d3b", "b", Some("n1")));
    assert!(pod.ready && pod.injected && !pod.terminating && !pod.ended && !pod.host_network);
    for (from, to, field) in [
        ("\"nodeName\": \"n1\"", "\"hostNetwork\": true", "host"),
        ("\"uid\": \"0d3b\"", "\"deletionTimestamp\": \"2026-01-01T00:00:00Z\"", "terminating"),
        ("Running", "Failed", "ended"),
        ("\"Ready\", \"status\": \"True\"", "\"Ready\", \"status\": \"Unknown\"", "not ready"),
        ("federation.meshfed.io/status", "federation.meshfed.io/other", "plaintext"),
    ] {
        let object = only(&read(Scope::Cluster, &POD.replace(from, to)));
        let Body::Pod(pod) = &object.body else { panic!() };
        let got = match field {
            "host" => pod.host_network && pod.node.is_none(),
            "terminating" => pod.terminating,
            "ended" => pod.ended,
            "not ready" => !pod.ready,
            _ => !pod.injected,
        };
        assert!(got, "{field}");
    }
}

/// What a kubelet says of its pod, whatever became of `Ready` since, and what is heard of a node.
///
/// Mutations seen to fail: `gates.all(is_true)` left out; `"Unknown"` of `read_node` made `"False"`.
#[test]
fn the_word_of_a_kubelet_is_read_beside_that_of_the_controllers() {
    let gates = "\"readinessGates\": [{\"conditionType\": \"example.com/gate\"}], \"containers\": [";
    let containers = "{\"type\": \"ContainersReady\", \"status\": \"True\"}";
    let gate = "{\"type\": \"example.com/gate\", \"status\": \"True\"}";
    for (gates, conditions, wanted) in [
        ("\"containers\": [", "", false),
        ("\"containers\": [", containers, true),
        (gates, containers, false),
        (gates, &format!("{containers}, {gate}"), true),
        (gates, gate, false),
    ] {
        let text = POD
            .replacen("\"containers\": [", gates, 1)
            .replace("\"Ready\", \"status\": \"True\"", "\"Ready\", \"status\": \"False\"");
        let last = "{\"type\": \"Later\", \"status\": \"Odd\"}";
        let text = if conditions.is_empty() { text } else { text.replace(last, conditions) };
        let object = only(&read(Scope::Member, &text));
        let Body::Pod(pod) = &object.body else { panic!() };
        assert_eq!((pod.ready, pod.kubelet_ready), (false, wanted), "{gates} {conditions}");
    }
    for (status, wanted) in [
        ("", NodeHealth::Well),
        ("status: {conditions: [{type: Ready, status: 'True'}]}", NodeHealth::Well),
        (
            "status: {conditions: [{type: DiskPressure, status: 'True'}, {type: Ready, status: 'False'}]}",
            NodeHealth::Unwell,
        ),
        ("status: {conditions: [{type: Ready, status: Unknown, reason: NodeStatusUnknown}]}", NodeHealth::Unheard),
    ] {
        let text = format!("apiVersion: v1\nkind: Node\nmetadata: {{name: n1}}\n{status}\n");
        let object = only(&read(Scope::Member, &text));
        assert!(matches!(&object.body, Body::Node(node) if node.health == wanted), "{status}");
    }
}

/// What is used is judged, whoever wrote it. Mutation seen to fail: `self.shape(value, …)` left out of `open`.
#[test]
fn what_is_used_of_a_pod_is_judged() {
    let rows = [
        (
            "\"serviceAccountName\": \"b\"",
            "\"serviceAccountName\": \"B\"",
            Code::InvalidValue,
            "spec.serviceAccountName",
        ),
        ("\"uid\": \"0d3b\"", "\"uid\": 7", Code::WrongType, "metadata.uid"),
        ("\"ip\": \"fd00::7\"", "\"ip\": \"here\"", Code::InvalidValue, "status.podIPs"),
        ("8080", "80800", Code::InvalidValue, "spec.containers[0].ports[0].containerPort"),
    ];
    for (from, to, code, field) in rows {
        assert_eq!(codes(&read(Scope::Member, &POD.replace(from, to))), [(code, field)], "{to}");
    }
    // Nulls are what is not there.
    let object = only(&read(Scope::Member, &POD.replace("\"n1\"", "null").replace("\"0d3b\"", "null")));
    assert!(matches!(&object.body, Body::Pod(pod) if pod.node.is_none() && pod.uid.is_empty()));
}

fn slice(labels: &str, rest: &str) -> String {
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: b-x, namespace: shop, labels: {{{labels}}}}}\naddressType: IPv4\n{rest}"
    )
}

/// Mutation seen to fail: `starts_with(MCS)` answered `false`; `unwrap_or(true)` of `ready` made `false`.
#[test]
fn a_slice_is_read_unless_it_is_ours_or_of_the_multi_cluster_api() {
    let named = "kubernetes.io/service-name: b";
    let text = slice(
        named,
        "ports: [{name: http, port: 8080}, {name: dns, port: 53, protocol: UDP}]
endpoints:
- {addresses: [10.1.0.7], targetRef: {kind: Pod, name: b-1, namespace: shop}, conditions: {}}
- {addresses: [10.1.0.8], targetRef: {kind: Pod, name: b-2, namespace: other}, conditions: {ready: false, serving: true, terminating: true}}
- {addresses: [10.1.0.9], zone: later, hints: {forZones: []}}
",
    );
    let object = only(&read(Scope::Cluster, &text));
    let Body::EndpointSlice(read_back) = &object.body else { panic!() };
    assert_eq!(read_back.service.as_ref().unwrap().to_string(), "shop/b");
    assert_eq!(read_back.ports.iter().collect::<Vec<_>>(), [("http", 8080)]);
    let shown: Vec<_> =
        read_back.endpoints.iter().map(|e| (e.pod.as_deref(), e.ready, e.serving, e.terminating)).collect();
    assert_eq!(shown, [(Some("b-1"), true, true, false), (None, false, true, true), (None, true, true, false)]);
    for labels in [
        String::new(),
        format!("{named}, multicluster.kubernetes.io/service-name: b"),
        format!("{named}, endpointslice.kubernetes.io/managed-by: meshfed.io"),
    ] {
        let object = only(&read(Scope::Cluster, &slice(&labels, "endpoints: [{addresses: [10.1.0.7]}]\n")));
        assert!(
            matches!(&object.body, Body::EndpointSlice(s) if s.service.is_none() && s.endpoints.is_empty()),
            "{labels}"
        );
    }
    let hosts = slice(named, "endpoints: [{addresses: [db.example]}]\n").replace("IPv4", "FQDN");
    assert!(matches!(&only(&read(Scope::Cluster, &hosts)).body, Body::EndpointSlice(s) if s.endpoints.is_empty()));
}

/// A ServiceImport is shown by an agent and read by none; a Service that one has made says so, and is judged by who makes
/// them.
///
/// Mutations seen to fail: the early return for `ServiceImport` left out of `kinds::known`; `made`, the local of the check
/// of annotations in `read/common.rs`, is false.
#[test]
fn what_meshfed_makes_itself_is_left_alone() {
    for version in ["v1alpha1", "v1beta1"] {
        let text = format!(
            "apiVersion: multicluster.x-k8s.io/{version}\nkind: ServiceImport\nmetadata: {{name: b}}\nspec: {{odd: 1}}\n"
        );
        let found = read(Scope::Member, &text);
        assert!(found.errors.is_empty() && found.declared.is_empty() && !found.nameless, "{found:?}");
    }
    let derived = "apiVersion: v1\nkind: Service\nmetadata: {name: meshfed-x, namespace: shop, annotations: {federation.meshfed.io/service-import: b}}\nspec: {ports: [{port: 1}]}\n";
    let found = read(Scope::Member, derived);
    assert!(found.errors.is_empty(), "{:?}", found.errors);
    let Body::Service(service) = &only(&found).body else { panic!() };
    assert_eq!(service.import.as_deref(), Some("b"));
}

/// Mutation seen to fail: `selects` answered `false`.
#[test]
fn a_peer_authentication_says_what_of_it_has_effect() {
    let of = |spec: &str| {
        read(
            Scope::Cluster,
            &format!(
                "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: p, namespace: shop}}\nspec: {spec}\n"
            ),
        )
    };
    for (mode, wanted) in [
        ("STRICT", Some(MtlsMode::Strict)),
        ("PERMISSIVE", Some(MtlsMode::Permissive)),
        ("DISABLE", Some(MtlsMode::Disable)),
        ("UNSET", None),
    ] {
        let object = only(&of(&format!("{{mtls: {{mode: {mode}}}}}")));
        assert!(matches!(&object.body, Body::PeerAuthentication(p) if p.mode == wanted && !p.selects), "{mode}");
    }
    assert_eq!(codes(&of("{mtls: {mode: SOMETIMES}}")), [(Code::InvalidValue, "spec.mtls.mode")]);
    let found = of("{selector: {matchLabels: {a: b}}, mtls: {mode: STRICT}, portLevelMtls: {8080: {mode: DISABLE}}}");
    assert_eq!(codes(&found), [(Code::NoEffectYet, "spec.selector"), (Code::NoEffectYet, "spec.portLevelMtls")]);
    assert!(
        found.errors.iter().all(|e| e.remedy.as_ref().is_some_and(|r| !r.contains("nothing"))),
        "{:?}",
        found.errors
    );
    assert!(matches!(&found.declared.values().next().unwrap().object.as_ref().unwrap().body,
        Body::PeerAuthentication(p) if p.selects));
}

/// Mutation seen to fail: the roles of `LOCAL` and `DEFAULT` in `is_anothers` swapped.
#[test]
fn a_member_has_its_own_settings_and_the_fleet_has_its() {
    let of = |scope, name: &str, spec: &str| {
        read(
            scope,
            &format!(
                "apiVersion: federation.meshfed.io/v1alpha1\nkind: Mesh\nmetadata: {{name: {name}}}\nspec: {spec}\n"
            ),
        )
    };
    let found = of(Scope::Member, "local", "{outboundTrafficPolicy: REGISTRY_ONLY, clustersetDomain: set.example}");
    // Kept and passed on; nobody serves another domain yet.
    assert_eq!(codes(&found), [(Code::NoEffectYet, "spec.clustersetDomain")]);
    let object = found.declared.values().next().unwrap().object.clone().unwrap();
    let Body::Mesh(mesh) = &object.body else { panic!() };
    only(&of(Scope::Member, "local", "{clustersetDomain: clusterset.local}"));
    assert_eq!(
        (mesh.outbound, mesh.clusterset_domain.as_deref()),
        (Some(OutboundPolicy::RegistryOnly), Some("set.example"))
    );
    assert!(object.key().namespace.is_empty());
    let found = of(Scope::Cluster, "local", "{sameness: ON, retries: {attempts: 1}}");
    assert_eq!(codes(&found), [(Code::UnusedField, "spec.sameness"), (Code::UnusedField, "spec.retries")]);
    assert_eq!(codes(&of(Scope::Cluster, "local", "{outboundTrafficPolicy: {mode: ALLOW_ANY}}"))[0].0, Code::WrongType);
    assert_eq!(codes(&of(Scope::Cluster, "default", "{}")), [(Code::WrongSource, "metadata.name")]);
    // On one API server each side passes over the other's.
    for (scope, name) in [(Scope::Member, "default"), (Scope::Hub, "local")] {
        let found = of(scope, name, "{}");
        assert!(found.errors.is_empty() && found.declared.is_empty(), "{scope:?}");
    }
    only(&of(Scope::Hub, "default", "{outboundTrafficPolicy: ALLOW_ANY}"));
}

/// Mutation seen to fail: `r.scope == Scope::Member` of `read_policy` left out of the condition; `!r.scope.is_fleet()`
/// of `target_namespace` answered `false`.
#[test]
fn a_policy_of_a_member_speaks_for_its_own_namespace() {
    let export = |namespace: &str| {
        format!(
            "apiVersion: federation.meshfed.io/v1alpha1\nkind: ExportPolicy\nmetadata: {{name: p, namespace: shop}}\nspec: {{services: [{{namespace: {namespace}, name: '*'}}], to: {{}}}}\n"
        )
    };
    let failover = |target: &str| {
        format!(
            "apiVersion: federation.meshfed.io/v1alpha1\nkind: FailoverPolicy\nmetadata: {{name: p, namespace: shop}}\nspec: {{{target}tiers: [{{select: [{{relative: any}}]}}]}}\n"
        )
    };
    for wrong in ["other", "'*'"] {
        let found = read(Scope::Member, &export(wrong));
        assert_eq!(codes(&found), [(Code::NamespaceNotAllowed, "spec.services[0].namespace")]);
    }
    for scope in [Scope::Hub, Scope::Fleet, Scope::Cluster] {
        only(&read(scope, &export("'*'")));
    }
    only(&read(Scope::Member, &export("shop")));
    let other = failover("targetRef: {kind: Service, name: b, namespace: other}, ");
    assert_eq!(codes(&read(Scope::Member, &other)), [(Code::NamespaceNotAllowed, "spec.targetRef.namespace")]);
    let target = |scope, text: &str| {
        let object = only(&read(scope, text));
        let Body::FailoverPolicy(policy) = &object.body else { panic!() };
        policy.target.clone()
    };
    assert_eq!(target(Scope::Hub, &other), PolicyTarget::Service("other/b".parse().unwrap()));
    assert_eq!(target(Scope::Hub, &failover("")), PolicyTarget::Default);
    let whole = failover("targetRef: {kind: Service, namespace: other}, ");
    assert_eq!(target(Scope::Hub, &whole), PolicyTarget::Namespace("other".parse().unwrap()));
    let unsaid = read(Scope::Hub, &failover("targetRef: {kind: Service, name: b}, "));
    assert_eq!(codes(&unsaid), [(Code::InvalidValue, "spec.targetRef.namespace")]);
    assert_eq!(Kind::ALL.iter().filter(|k| k.is_cluster_scoped()).count(), 3);
}

/// What the schema of an API server writes by itself is no wish of anybody's; what differs from it is.
///
/// Mutation seen to fail: `is_default` false.
#[test]
fn a_default_of_the_schema_is_not_warned_of() {
    let policy = |hold: &str| {
        format!(
            "apiVersion: federation.meshfed.io/v1alpha1\nkind: FailoverPolicy\nmetadata: {{name: p, namespace: shop}}\n\
             spec: {{targetRef: {{kind: Service, name: b}}, tiers: [{{select: [{{relative: any}}]}}], holdDown: {hold}, rampUp: 30s}}\n"
        )
    };
    let _nothing_amiss = only(&read(Scope::Member, &policy("30s")));
    assert_eq!(codes(&read(Scope::Member, &policy("1m"))), [(Code::NoEffectYet, "spec.holdDown")]);
    let in_a_file = read(Scope::Cluster, &policy("30s"));
    assert_eq!(codes(&in_a_file), [(Code::NoEffectYet, "spec.holdDown"), (Code::NoEffectYet, "spec.rampUp")]);
}
