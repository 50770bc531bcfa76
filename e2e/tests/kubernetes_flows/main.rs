//! Flows on two real clusters: what happens to traffic from a pod in west to a service in east, counted request by
//! request, while parts of the product, pods, namespaces, kinds and the network between the clusters come and go.
//! Clusters are told apart by the host name in an answer: their pods have equal addresses.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod away;
mod leaders;
mod replaced;

use std::collections::BTreeSet;

use meshfed_e2e::kube::fleet::SETTLES;
use meshfed_e2e::kube::{Client, Cluster, Fleet};
use meshfed_e2e::wait;

const B: &str = "http://b.shop.svc.clusterset.local:8080/hostname";

/// What selects the pods of a component of the product.
fn component(name: &str) -> String {
    format!("app.kubernetes.io/component={name}")
}

/// The uids of the pods that a label selects.
fn pods(cluster: &Client, namespace: &str, label: &str) -> BTreeSet<String> {
    let names = cluster.ok(&["-n", namespace, "get", "pods", "-l", label, "-o", "jsonpath={.items[*].metadata.uid}"]);
    names.split_whitespace().map(str::to_owned).collect()
}

/// Waits until a Deployment has all its pods, all of them new, and none of the old ones is left.
fn all_new(cluster: &Client, namespace: &str, deployment: &str, label: &str, old: &BTreeSet<String>) {
    wait::until(&format!("no old pod of {deployment} is left"), SETTLES, || {
        let now = pods(cluster, namespace, label);
        if !now.is_empty() && now.is_disjoint(old) { Ok(()) } else { Err(format!("{now:?}")) }
    });
    rolled_out(cluster, namespace, deployment);
}

fn rolled_out(cluster: &Client, namespace: &str, deployment: &str) {
    let target = format!("deployment/{deployment}");
    let _ready = cluster.ok(&["-n", namespace, "rollout", "status", &target, "--timeout=120s"]);
}

/// Waits until `b` answers the client in west.
fn b_answers(fleet: &Fleet) {
    wait::until("b answers from east", SETTLES, || match fleet.ask(B) {
        (status, body) if status == "200" && body == "b-east" => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

/// Evicts every pod that a label selects, one after the other, by the eviction API; a disruption budget may make it wait.
fn evict(cluster: &Cluster, namespace: &str, deployment: &str, label: &str) {
    let path = ["-n", namespace, "get", "pods", "-l", label, "-o", "jsonpath={.items[*].metadata.name}"];
    let old = pods(cluster, namespace, label);
    for pod in cluster.ok(&path).split_whitespace() {
        let url = format!("/api/v1/namespaces/{namespace}/pods/{pod}/eviction");
        let body = format!(
            r#"{{"apiVersion":"policy/v1","kind":"Eviction","metadata":{{"name":"{pod}","namespace":"{namespace}"}}}}"#
        );
        wait::until(&format!("{pod} is evicted"), SETTLES, || {
            let output = cluster.kubectl_with(&["create", "--raw", &url, "-f", "-"], &body);
            if output.code == 0 { Ok(()) } else { Err(output.stderr) }
        });
        // As a drain does that minds its service: the next one when the first is replaced.
        wait::until(&format!("{pod} is gone"), SETTLES, || {
            let output = cluster.kubectl(&["-n", namespace, "get", "pod", pod, "-o", "name"]);
            if output.code == 0 { Err(output.stdout) } else { Ok(()) }
        });
        rolled_out(cluster, namespace, deployment);
    }
    all_new(cluster, namespace, deployment, label, &old);
}
