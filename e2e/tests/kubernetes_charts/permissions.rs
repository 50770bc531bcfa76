//! What the accounts of the charts may do, by asking the API server and by trying.

use std::time::Duration;

use meshfed_e2e::kube::{ApiServer, Client};
use meshfed_e2e::process::Output;
use serde_json::{Value, json};

use crate::server::prepared;
use crate::{objects, render};

pub(crate) const SOON: Duration = Duration::from_secs(60);
const DERIVED: &str = "meshfed-0123456789abcdefghij";

/// An API server on which a chart is installed, but for its pods, and the account that its pods have.
pub(crate) fn installed(chart: &str, values: &Value, namespace: &str, account: &str) -> (ApiServer, Client) {
    let server = prepared();
    let _made = server.ok(&["create", "namespace", "shop"]);
    let wanted = ["ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding", "Secret"];
    let rest: Vec<Value> = objects(&render(chart, values).ok(chart))
        .into_iter()
        .filter(|o| {
            let kind = o["kind"].as_str().unwrap();
            wanted.contains(&kind)
                || kind.starts_with("ValidatingAdmissionPolicy")
                || kind == "MutatingWebhookConfiguration"
        })
        .collect();
    server.apply(&json!({ "apiVersion": "v1", "kind": "List", "items": rest }).to_string());
    let client = server.as_account(namespace, account);
    (server, client)
}

/// Policies are in force some time after they were made.
pub(crate) fn in_force(agent: &Client) {
    let stranger = derived("bank", json!({ "selector": {} })).to_string();
    meshfed_e2e::wait::until("the policies are in force", SOON, || {
        let args = ["apply", "--server-side", "--dry-run=server", "--force-conflicts", "-f", "-"];
        let output = agent.kubectl_with(&args, &stranger);
        if output.code != 0 && output.stderr.contains("ValidatingAdmissionPolicy") {
            Ok(())
        } else {
            Err(output.stderr)
        }
    });
}

fn may(client: &Client, namespace: &str, verb: &str, what: &str) -> bool {
    // TYPE/NAME is one object; a subresource is asked for by a flag.
    let (what, subresource) = match what.rsplit_once('/') {
        Some((resource, sub @ ("status" | "exec" | "token"))) => (resource, format!("--subresource={sub}")),
        _ => (what, "--subresource=".to_owned()),
    };
    let output = client.kubectl(&["-n", namespace, "auth", "can-i", verb, what, &subresource]);
    assert!(["yes", "no"].contains(&output.stdout.trim()), "{verb} {what}: {}{}", output.stdout, output.stderr);
    output.stdout.trim() == "yes"
}

/// Applies as the account, in the way that the agent writes.
fn apply(client: &Client, object: &Value) -> Output {
    let args =
        ["apply", "--server-side", "--force-conflicts", "--field-manager=meshfed-agent", "--validate=false", "-f", "-"];
    client.kubectl_with(&args, &object.to_string())
}

fn labelled(api_version: &str, kind: &str, name: &str, rest: Value) -> Value {
    let mut object = json!({ "apiVersion": api_version, "kind": kind,
        "metadata": { "name": name, "namespace": "shop", "labels": { "app.kubernetes.io/managed-by": "meshfed" } } });
    object.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
    object
}

fn derived(name: &str, spec: Value) -> Value {
    let mut whole = json!({ "ports": [{ "name": "http", "port": 8080 }] });
    whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    labelled("v1", "Service", name, json!({ "spec": whole }))
}

/// The agent may what HE1 lists, and nothing else: no Secret outside its namespace nor of another name, no workload, no
/// role, no impersonation.
///
/// Mutation seen to fail: `secrets` added to the first rule of the agent's ClusterRole.
#[test]
fn the_agent_may_what_is_listed_and_nothing_else() {
    let (_server, agent) = installed("meshfed-cluster", &json!({}), "meshfed-system", "meshfed-agent");
    let own = "meshfed-system";
    for (namespace, verb, what) in [
        ("shop", "list", "services"),
        ("shop", "watch", "endpointslices.discovery.k8s.io"),
        ("shop", "list", "serviceexports.multicluster.x-k8s.io"),
        ("shop", "patch", "serviceexports.multicluster.x-k8s.io/status"),
        ("shop", "create", "serviceimports.multicluster.x-k8s.io"),
        ("shop", "patch", "configmaps/meshfed-trust"),
        ("shop", "create", "tokenreviews.authentication.k8s.io"),
        ("shop", "patch", "mutatingwebhookconfigurations.admissionregistration.k8s.io/meshfed-injector"),
        ("shop", "create", "events"),
        (own, "get", "secrets/meshfed-identity"),
        (own, "patch", "secrets/meshfed-view-7"),
        (own, "delete", "secrets/meshfed-join"),
        (own, "patch", "leases.coordination.k8s.io/meshfed-agent"),
        (own, "patch", "memberships.federation.meshfed.io/status"),
    ] {
        assert!(may(&agent, namespace, verb, what), "{verb} {what} in {namespace} is needed");
    }
    for (namespace, verb, what) in [
        ("shop", "get", "secrets/meshfed-identity"),
        ("shop", "list", "secrets"),
        (own, "list", "secrets"),
        (own, "get", "secrets/other"),
        (own, "delete", "secrets/meshfed-identity"),
        (own, "create", "secrets"),
        ("shop", "create", "pods"),
        ("shop", "create", "pods/exec"),
        ("shop", "delete", "pods"),
        ("shop", "update", "services"),
        ("shop", "get", "configmaps/other"),
        ("shop", "list", "configmaps"),
        ("shop", "patch", "serviceexports.multicluster.x-k8s.io"),
        (own, "patch", "memberships.federation.meshfed.io"),
        ("shop", "patch", "memberships.federation.meshfed.io/status"),
        ("shop", "patch", "mutatingwebhookconfigurations.admissionregistration.k8s.io/other"),
        ("shop", "delete", "mutatingwebhookconfigurations.admissionregistration.k8s.io/meshfed-injector"),
        ("shop", "patch", "validatingadmissionpolicies.admissionregistration.k8s.io"),
        ("shop", "create", "deployments.apps"),
        ("shop", "bind", "clusterroles.rbac.authorization.k8s.io"),
        ("shop", "escalate", "clusterroles.rbac.authorization.k8s.io"),
        ("shop", "impersonate", "users"),
        ("shop", "create", "serviceaccounts/token"),
        ("shop", "*", "*"),
    ] {
        assert!(!may(&agent, namespace, verb, what), "{verb} {what} in {namespace} is too much");
    }
}

/// With the agent's token nobody takes over a Service that is not meshfed's, nor makes one that sends requests somewhere,
/// nor gives endpoints to another's; nobody but the agent writes a ServiceImport. What the agent needs goes through.
///
/// Mutations seen to fail: the expression on `oldObject` taken out of `admission.yaml`; the policy on ConfigMaps taken out.
#[test]
fn admission_holds_the_agent_to_what_is_its_own() {
    let (server, agent) = installed("meshfed-cluster", &json!({}), "meshfed-system", "meshfed-agent");
    server.apply("{apiVersion: v1, kind: Service, metadata: {name: bank, namespace: shop}, spec: {selector: {app: bank}, ports: [{name: http, port: 8080}]}}");
    let slice = |name: &str, service: Option<&str>| {
        let mut slice = labelled(
            "discovery.k8s.io/v1",
            "EndpointSlice",
            name,
            json!({
            "addressType": "IPv4", "endpoints": [{ "addresses": ["10.0.0.1"] }], "ports": [{ "name": "http", "port": 8080 }] }),
        );
        if let Some(service) = service {
            slice["metadata"]["labels"]["kubernetes.io/service-name"] = json!(service);
        }
        slice
    };
    let import = labelled(
        "multicluster.x-k8s.io/v1beta1",
        "ServiceImport",
        "b",
        json!({ "spec": { "type": "ClusterSetIP", "ips": ["10.96.0.9"], "ports": [{ "port": 8080 }] } }),
    );
    let trust = labelled("v1", "ConfigMap", "meshfed-trust", json!({ "data": { "anchors.pem": "" } }));

    in_force(&agent);
    let stranger = derived("bank", json!({ "selector": {} }));

    for object in [&derived(DERIVED, json!({})), &slice("s", Some(DERIVED)), &slice("mcs", None), &import, &trust] {
        let output = apply(&agent, object);
        assert_eq!(output.code, 0, "{object}: {}", output.stderr);
    }
    for (what, object) in [
        ("takes over a Service", stranger),
        ("makes a Service of another name", derived("fresh", json!({}))),
        ("makes a selector", derived(DERIVED, json!({ "selector": { "app": "bank" } }))),
        ("makes an ExternalName", derived(DERIVED, json!({ "type": "ExternalName", "externalName": "evil.example" }))),
        ("opens a node port", derived(DERIVED, json!({ "type": "NodePort" }))),
        ("takes an address", derived(DERIVED, json!({ "externalIPs": ["192.0.2.1"] }))),
        ("gives endpoints to another's Service", slice("s2", Some("bank"))),
    ] {
        let output = apply(&agent, &object);
        assert!(
            output.code != 0 && output.stderr.contains("may "),
            "the agent's account {what}: {}{}",
            output.stdout,
            output.stderr
        );
    }
    let unlabelled =
        agent.kubectl(&["-n", "shop", "label", "--overwrite", "service", DERIVED, "app.kubernetes.io/managed-by=me"]);
    assert!(unlabelled.stderr.contains("are and stay labelled"), "{}", unlabelled.stderr);
    assert!(agent.kubectl(&["-n", "shop", "delete", "service", "bank"]).stderr.contains("are and stay labelled"));

    // What its role lets it make is held by name, and endpoints that are another's stay as they are.
    let other = labelled("v1", "ConfigMap", "kube-root-ca.crt", json!({ "data": { "ca.crt": "evil" } }));
    let made = agent.kubectl_with(&["create", "--validate=false", "-f", "-"], &other.to_string());
    assert!(made.stderr.contains("only the ConfigMap meshfed-trust"), "{}{}", made.stdout, made.stderr);
    let mut theirs = slice("bank-1", Some("bank"));
    theirs["metadata"]["labels"] = json!({ "kubernetes.io/service-name": "bank" });
    server.apply(&theirs.to_string());
    let refused = "denied request: meshfed-agent";
    let taken = apply(&agent, &slice("bank-1", None));
    assert!(taken.stderr.contains(refused), "{}{}", taken.stdout, taken.stderr);
    let deleted = agent.kubectl(&["-n", "shop", "delete", "endpointslice", "bank-1"]);
    assert!(deleted.stderr.contains(refused), "{}{}", deleted.stdout, deleted.stderr);
    let theirs = server.ok(&["-n", "shop", "get", "endpointslice", "bank-1", "-o", "jsonpath={.metadata.labels}"]);
    assert_eq!(theirs, "{\"kubernetes.io/service-name\":\"bank\"}");

    // The administrator is not held to anything but imports, which even he only deletes.
    let by_hand = server.kubectl(&["-n", "shop", "annotate", "serviceimport", "b", "a=b"]);
    assert!(by_hand.stderr.contains("meshfed-agent alone"), "{}", by_hand.stderr);
    let _deleted = server.ok(&["-n", "shop", "delete", "serviceimport", "b"]);
    assert_eq!(agent.kubectl(&["-n", "shop", "delete", "service", DERIVED]).code, 0);
}

/// The hub may what HE2 lists: fleet objects everywhere, policies and its one Secret in its own namespace.
///
/// Mutation seen to fail: the rule on `exportpolicies` moved from the hub's Role to its ClusterRole.
#[test]
fn the_hub_may_what_is_listed_and_nothing_else() {
    let (_server, hub) = installed("meshfed-hub", &json!({ "fleet": "mesh.example" }), "meshfed-hub", "meshfed-hub");
    for (namespace, verb, what) in [
        ("shop", "watch", "clusters.federation.meshfed.io"),
        ("shop", "create", "clusters.federation.meshfed.io"),
        ("shop", "patch", "clusters.federation.meshfed.io/status"),
        ("meshfed-hub", "list", "exportpolicies.federation.meshfed.io"),
        ("meshfed-hub", "patch", "secrets/meshfed-admin"),
    ] {
        assert!(may(&hub, namespace, verb, what), "{verb} {what} in {namespace} is needed");
    }
    for (namespace, verb, what) in [
        ("shop", "list", "exportpolicies.federation.meshfed.io"),
        ("shop", "delete", "clusters.federation.meshfed.io"),
        ("shop", "patch", "meshes.federation.meshfed.io"),
        ("shop", "list", "services"),
        ("shop", "list", "pods"),
        ("shop", "get", "secrets/meshfed-admin"),
        ("meshfed-hub", "list", "secrets"),
        ("meshfed-hub", "create", "pods/exec"),
    ] {
        assert!(!may(&hub, namespace, verb, what), "{verb} {what} in {namespace} is too much");
    }
}
