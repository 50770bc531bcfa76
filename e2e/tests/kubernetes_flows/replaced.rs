//! Pods that are deleted, rolled out, evicted and upgraded: no request fails.

use meshfed_e2e::binary::workspace;
use meshfed_e2e::kube::fleet::{HUB_ON_A_VOLUME, SETTLES, Values, hub_arguments, member_arguments};
use meshfed_e2e::kube::{Client, Fleet, Ledger, image};

use crate::{B, all_new, b_answers, component, evict, pods, rolled_out};

/// Deletes the pods of a component as `kubectl delete` does, and waits for their successors.
fn delete(cluster: &Client, namespace: &str, deployment: &str, part: &str) {
    let label = component(part);
    let old = pods(cluster, namespace, &label);
    let _deleted = cluster.ok(&["-n", namespace, "delete", "pod", "-l", &label]);
    all_new(cluster, namespace, deployment, &label, &old);
}

/// What makes a fleet the same fleet: the anchors that members trust, and the members by name and state.
fn identity(fleet: &Fleet) -> (String, String) {
    let anchors = ["-n", "meshfed-system", "get", "configmap", "meshfed-trust", "-o", "jsonpath={.data}"];
    let members = fleet.hub(&["clusters", "-o", "json"]);
    let members: serde_json::Value = serde_json::from_str(&members).unwrap();
    let items = members["items"].as_array().expect("a list of members");
    let names = items.iter().map(|m| format!("{} {}", m["name"], m["state"])).collect::<Vec<_>>();
    (fleet.west.ok(&anchors), names.join("\n"))
}

/// The agents' pods, the hub's pod, the gateways and the service's own pods are deleted, rolled out and evicted under load
/// from the other cluster and from their own: not one request fails. The hub comes back from its volume as the same hub,
/// and what changes afterwards still goes through.
///
/// Seen to fail: an agent that takes the names away from a sidecar for a moment when its view is whole. Mutation not tried
/// yet: the gateway's preStop taken out of the chart.
#[test]
#[ignore = "make test-kubernetes"]
fn no_request_fails_while_pods_are_replaced() {
    let fleet = Fleet::installed(&Values { hub: HUB_ON_A_VOLUME, ..Values::default() });
    fleet.deploy();
    b_answers(&fleet);
    let _two = fleet.east.ok(&["-n", "shop", "scale", "deployment/b", "--replicas=2"]);
    rolled_out(&fleet.east, "shop", "b");
    let far = Ledger::start(&fleet.west, "far", B);
    let near = Ledger::start(&fleet.east, "near", "http://b.shop.svc.cluster.local:8080/hostname");
    let nothing_failed = |what: &str| {
        far.nothing_failed(what);
        near.nothing_failed(what);
    };
    nothing_failed("their start");

    for cluster in [&fleet.west, &fleet.east] {
        delete(cluster, "meshfed-system", "meshfed-agent", "agent");
        nothing_failed(&format!("the agent's pod of {} was deleted", cluster.name()));
    }

    let before = identity(&fleet);
    let admin = fleet.east.ok(&["-n", "meshfed-hub", "get", "secret", "meshfed-admin", "-o", "jsonpath={.data}"]);
    delete(&fleet.east, "meshfed-hub", "meshfed-hub", "hub");
    nothing_failed("the hub's pod was deleted");
    meshfed_e2e::wait::until("the hub is the same hub", SETTLES, || {
        let now = identity(&fleet);
        if now == before { Ok(()) } else { Err(format!("{now:?}, not {before:?}")) }
    });
    let after = fleet.east.ok(&["-n", "meshfed-hub", "get", "secret", "meshfed-admin", "-o", "jsonpath={.data}"]);
    assert_eq!(admin, after, "the administrator's credentials");

    // With the hub back, pods that come and go are told to the other cluster.
    let old = pods(&fleet.east, "shop", "app=b");
    let _restarted = fleet.east.ok(&["-n", "shop", "rollout", "restart", "deployment/b"]);
    all_new(&fleet.east, "shop", "b", "app=b", &old);
    nothing_failed("every pod of b was replaced");

    for cluster in [&fleet.east, &fleet.west] {
        let label = component("eastwest");
        let old = pods(cluster, "meshfed-system", &label);
        let _restarted = cluster.ok(&["-n", "meshfed-system", "rollout", "restart", "deployment/meshfed-eastwest"]);
        all_new(cluster, "meshfed-system", "meshfed-eastwest", &label, &old);
        nothing_failed(&format!("the gateway of {} was rolled out", cluster.name()));
    }

    evict(&fleet.east, "shop", "b", "app=b");
    nothing_failed("the pods of b were evicted");
    // An evicted pod goes before its successor is there: this is what two are for.
    let _two = fleet.east.ok(&["-n", "meshfed-system", "scale", "deployment/meshfed-eastwest", "--replicas=2"]);
    rolled_out(&fleet.east, "meshfed-system", "meshfed-eastwest");
    evict(&fleet.east, "meshfed-system", "meshfed-eastwest", &component("eastwest"));
    nothing_failed("the gateways of east were evicted");
}

/// The chart of a member as it was rendered before: the release that an upgrade begins with. `previous/` holds the render
/// of `renders.rs` named `cluster-walk`, and is renewed with each release.
fn previous(fleet: &Fleet) -> String {
    let chart = fleet.file("previous");
    let templates = chart.join("templates");
    std::fs::create_dir_all(&templates).unwrap();
    let version = "apiVersion: v2\nname: meshfed-cluster\nversion: 0.0.1\nappVersion: 0.0.1\n";
    std::fs::write(chart.join("Chart.yaml"), version).unwrap();
    let render = workspace().join("e2e/tests/kubernetes_flows/previous/cluster-walk.yaml");
    let (_archive, reference) = image();
    let line = |line: &str| match line.split_once("image: ") {
        Some((before, _old)) => format!("{before}image: {reference}\n"),
        None => format!("{line}\n"),
    };
    let render: String = std::fs::read_to_string(render).unwrap().lines().map(line).collect();
    std::fs::write(templates.join("all.yaml"), render).unwrap();
    chart.display().to_string()
}

/// An upgrade from the previous render replaces every pod of the release, and fails no request; the cluster keeps its
/// keys, the kinds are the same objects, and the hub is the same hub.
///
/// Mutation not tried yet: `helm.sh/resource-policy: keep` and the data of `meshfed-identity` in the chart's Secret.
#[test]
#[ignore = "make test-kubernetes"]
fn an_upgrade_keeps_kinds_identities_and_traffic() {
    let fleet = Fleet::start();
    fleet.load();
    fleet.make_hub_volume();
    for context in ["east", "west"] {
        fleet.helm(context, "install meshfed-crds helm/meshfed-crds");
    }
    fleet.install_hub(HUB_ON_A_VOLUME);
    let old = format!("install meshfed {} -n meshfed-system --create-namespace --wait", previous(&fleet));
    fleet.helm("east", &old);
    fleet.install_member("west", "");
    fleet.join("east");
    fleet.join("west");
    fleet.deploy();
    b_answers(&fleet);
    let far = Ledger::start(&fleet.west, "far", B);
    let near = Ledger::start(&fleet.east, "near", B);
    far.nothing_failed("its start");
    let uids = ["get", "crd", "-o", "jsonpath={.items[*].metadata.uid}"];
    let keys = ["-n", "meshfed-system", "get", "secret", "meshfed-identity", "-o", "jsonpath={.data.ca\\.key\\.pem}"];
    let state = || (fleet.east.ok(&uids), fleet.east.ok(&keys), identity(&fleet));
    let before = state();
    assert!(!before.1.trim().is_empty(), "the cluster's key");

    let labels = ["agent", "eastwest"].map(component);
    let pods_of = || labels.each_ref().map(|label| pods(&fleet.east, "meshfed-system", label));
    let old_pods = pods_of();
    fleet.helm("east", "upgrade meshfed-crds helm/meshfed-crds");
    let changed = "--set podAnnotations.upgraded=yes --wait";
    fleet.helm(
        "east",
        &format!("upgrade {}", hub_arguments("helm/meshfed-hub", &format!("{HUB_ON_A_VOLUME} {changed}"))),
    );
    fleet.helm("east", &format!("upgrade {}", member_arguments("helm/meshfed-cluster", "east", changed)));
    for (name, (label, old)) in ["meshfed-agent", "meshfed-eastwest"].into_iter().zip(labels.iter().zip(&old_pods)) {
        all_new(&fleet.east, "meshfed-system", name, label, old);
    }
    far.nothing_failed("the upgrade");
    near.nothing_failed("the upgrade");
    meshfed_e2e::wait::until("kinds, keys and hub are the same", SETTLES, || {
        let now = state();
        if now == before { Ok(()) } else { Err(format!("{now:?}, not {before:?}")) }
    });
}
