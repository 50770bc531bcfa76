//! Whole clusters: what tests take from them, and what of meshfed needs no more than one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::time::Duration;

use meshfed_e2e::kube::{Cluster, image};

const SOON: Duration = Duration::from_secs(60);

/// A pod of the image under test that runs `/meshfed version` and ends.
fn version_pod(reference: &str, uid: u32) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: version, namespace: default}}
spec:
  restartPolicy: Never
  securityContext: {{runAsNonRoot: true, runAsUser: {uid}, seccompProfile: {{type: RuntimeDefault}}}}
  containers:
    - name: meshfed
      image: {reference}
      imagePullPolicy: Never
      args: [version]
      securityContext: {{readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, capabilities: {{drop: [ALL]}}}}
"
    )
}

/// The image runs as whoever the cluster says, with nothing writable and no capability; it has no shell. A killed API
/// server stays away until it is let back.
///
/// Mutation seen to fail: the loop over `$wanted` libraries taken out of `image/root.sh`.
#[test]
fn the_image_runs_as_any_user_and_a_killed_component_stays_away() {
    let east = Cluster::start("east");
    let (archive, reference) = image();
    east.load(archive);
    let uid = fastrand::u32(100_000..2_000_000_000);
    east.until(&["get", "serviceaccount", "default", "-o", "name"], "serviceaccount/default", SOON);
    east.apply(&version_pod(&reference, uid));
    east.until(&["get", "pod", "version", "-o", "jsonpath={.status.phase}"], "Succeeded", SOON);
    assert_eq!(east.ok(&["logs", "version"]), format!("meshfed {}\n", env!("CARGO_PKG_VERSION")));

    east.apply(
        &version_pod(&reference, uid)
            .replace("name: version", "name: shell")
            .replace("args: [version]", "command: [sh]"),
    );
    let reason = "jsonpath={.status.containerStatuses[0].state.terminated.reason}";
    east.until(&["get", "pod", "shell", "-o", reason], "StartError", SOON);

    east.kill("kube-apiserver");
    assert_ne!(east.kubectl(&["get", "--raw", "/readyz", "--request-timeout=5s"]).code, 0);
    east.start_again("kube-apiserver");
    east.until(&["get", "--raw", "/readyz"], "ok", SOON);
}

/// The clusters' pod networks are equal and do not meet; their nodes do, until one is cut off.
///
/// Mutation seen to fail: `cut_off` sets the link `up` both times.
#[test]
#[ignore = "make test-kubernetes"]
fn two_clusters_meet_by_their_nodes_alone() {
    let (east, west) = Cluster::east_and_west();
    assert_eq!((east.node_ip().as_str(), west.node_ip().as_str()), ("172.30.0.11", "172.30.0.12"));
    for cluster in [&east, &west] {
        cluster.until(&["get", "serviceaccount", "default", "-o", "name"], "serviceaccount/default", SOON);
        let run =
            ["run", "tools", "--image=localhost/nettools:test", "--image-pull-policy=Never", "--", "sleep", "infinity"];
        let _made = cluster.ok(&run);
    }
    let _ready = west.ok(&["wait", "--for=condition=Ready", "pod/tools", "--timeout=60s"]);
    let url = format!("https://{}:6443/version", east.node_ip());
    let reach =
        || west.exec("default", "tools", &["curl", "-sk", "-m2", "-o", "/dev/null", "-w", "%{http_code}", &url]).stdout;
    assert_eq!(reach(), "200");
    let pods =
        [&east, &west].map(|c| c.ok(&["-n", "kube-system", "get", "pods", "-o", "jsonpath={.items[0].status.podIP}"]));
    assert!(pods.iter().all(|ip| ip.starts_with("10.244.0.")), "{pods:?}");
    east.cut_off(true);
    assert_eq!(reach(), "000");
    east.cut_off(false);
    meshfed_e2e::wait::until("west reaches east again", SOON, || match reach().as_str() {
        "200" => Ok(()),
        other => Err(other.to_owned()),
    });
}
