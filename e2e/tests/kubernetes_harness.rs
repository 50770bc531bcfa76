//! The harness itself: what other tests take from a real API server.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::time::Duration;

use meshfed_e2e::kube::ApiServer;

const SOON: Duration = Duration::from_secs(30);

const CONFIG_MAP: &str = "{apiVersion: v1, kind: ConfigMap, metadata: {name: kept, namespace: default}, data: {a: b}}";

/// Two side by side know nothing of each other; one that was killed comes back with its objects; a frozen one answers
/// nobody.
///
/// Mutation seen to fail: `fastrand::u16(..)` in `free_ports` fixed to 5001 (the second finds no ports).
#[test]
fn api_servers_stand_side_by_side_and_can_be_taken_away() {
    let mut one = ApiServer::start();
    let other = ApiServer::start();
    one.apply(CONFIG_MAP);
    assert_ne!(other.kubectl(&["get", "configmap", "kept"]).code, 0);

    one.kill();
    assert_ne!(one.kubectl(&["get", "configmap", "kept", "--request-timeout=2s"]).code, 0);
    one.start_again();
    one.until(&["get", "configmap", "kept", "-o", "jsonpath={.data.a}"], "b", SOON);

    one.freeze();
    assert_ne!(one.kubectl(&["get", "--raw", "/readyz", "--request-timeout=1s"]).code, 0);
    one.thaw();
    one.until(&["get", "configmap", "kept", "-o", "jsonpath={.data.a}"], "b", SOON);
}

/// Accounts have tokens, and may do what their roles say and nothing else; a namespace ends with what is in it.
///
/// Mutation seen to fail: `--authorization-mode=RBAC` of the API server's flags taken away (then everybody may do everything).
#[test]
fn accounts_are_held_to_their_roles_and_namespaces_end() {
    let server = ApiServer::with_controllers();
    let _made = server.ok(&["create", "namespace", "shop"]);
    server.until(&["-n", "shop", "get", "serviceaccount", "default", "-o", "name"], "serviceaccount/default", SOON);
    let _bound = server.ok(&[
        "-n",
        "shop",
        "create",
        "rolebinding",
        "view",
        "--clusterrole=view",
        "--serviceaccount=shop:default",
    ]);
    let account = server.as_account("shop", "default");
    account.until(&["-n", "shop", "auth", "can-i", "list", "pods"], "yes", SOON);
    assert_eq!(account.kubectl(&["-n", "shop", "get", "pods"]).code, 0);
    assert!(account.kubectl(&["-n", "default", "get", "pods"]).stderr.contains("Forbidden"));
    assert!(!server.token("shop", "default", Some("meshfed")).is_empty());

    let _deleted = server.ok(&["delete", "namespace", "shop", "--timeout=30s"]);
    assert!(server.kubectl(&["get", "namespace", "shop"]).stderr.contains("NotFound"));
}
