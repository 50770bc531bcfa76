//! Networks, namespaces, kinds and the product itself that are away: what they carried ends, and nothing else.

use meshfed_e2e::kube::fleet::{self, EXPORT, SETTLES, Values, application};
use meshfed_e2e::kube::{Client, Cluster, Fleet, Ledger};
use meshfed_e2e::wait;

use crate::{B, b_answers, component, rolled_out};

/// The same application as another service of `shop`.
fn service_c(cluster: &str) -> String {
    let b = application(cluster);
    b.replace("{name: b,", "{name: c,").replace("app: b}", "app: c}").replace("hostname: b-", "hostname: c-")
}

const EXPORT_C: &str =
    "{apiVersion: multicluster.x-k8s.io/v1beta1, kind: ServiceExport, metadata: {name: c, namespace: shop}}";
/// East first, whoever asks.
const EAST_FIRST: &str = "apiVersion: federation.meshfed.io/v1alpha1
kind: FailoverPolicy
metadata: {name: c, namespace: shop}
spec:
  targetRef: {kind: Service, name: c}
  tiers: [{select: [{cluster: east}]}, {select: [{relative: any}]}]
";

/// Waits until more requests have failed.
fn fails(ledger: &Ledger, what: &str) {
    let before = ledger.failed();
    wait::until(what, SETTLES, || match ledger.failed() {
        now if now > before + 3 => Ok(()),
        now => Err(format!("{now} failed, {before} before")),
    });
}

/// The links between the clusters fail: what stays in a cluster goes on without a failed request, a service that both have
/// fails over from the far one to the near one, one that only the other has fails. When the links are back, all is as
/// before, and nobody did anything.
///
/// Seen to fail: a proxy that waits for a host as long as the system does (`end_when_unheard` left out): what was under way,
/// and what went over another kept connection, had no answer for half a minute and more.
#[test]
#[ignore = "make test-kubernetes"]
fn a_partition_ends_what_crosses_it_and_nothing_else() {
    let fleet = Fleet::installed(&Values::default());
    fleet.deploy();
    for cluster in [&fleet.east, &fleet.west] {
        cluster.apply(&service_c(cluster.name()));
        cluster.apply(EXPORT_C);
        cluster.apply(EAST_FIRST);
        rolled_out(cluster, "shop", "c");
    }
    b_answers(&fleet);
    wait::until("c answers from east", SETTLES, || {
        match fleet.ask("http://c.shop.svc.clusterset.local:8080/hostname") {
            (status, body) if status == "200" && body == "c-east" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    let far = Ledger::start(&fleet.west, "far", B);
    let over = Ledger::start(&fleet.west, "over", "http://c.shop.svc.clusterset.local:8080/hostname");
    let near_west = Ledger::start(&fleet.west, "near", "http://c.shop.svc.cluster.local:8080/hostname");
    let near_east = Ledger::start(&fleet.east, "near", B);
    far.nothing_failed("its start");
    over.answered_by("c-east", 20);

    fleet.west.cut_off(true);
    fails(&far, "requests to a service of the other cluster alone fail");
    over.answered_by("c-west", 100);
    over.nothing_failed("the partition: what was asked of the other cluster and not answered was asked again here");
    near_west.nothing_failed("the partition");
    near_east.nothing_failed("the partition");

    fleet.west.cut_off(false);
    far.answered_by("b-east", 20);
    over.answered_by("c-east", 20);
    let failed = far.failed();
    far.answered_by("b-east", 100);
    assert_eq!(far.failed(), failed, "{:#?}", far.read());
    over.answered_by("c-east", 100);
    over.nothing_failed("the links are back");
    near_west.nothing_failed("the links are back");
    near_east.nothing_failed("the links are back");
    let ready = "jsonpath={.items[*].status.conditions[?(@.type==\"Ready\")].status}";
    fleet.west.until(&["get", "memberships", "-A", "-o", ready], "True", SETTLES);
}

fn gone(cluster: &Client, what: &[&str]) {
    wait::until(&format!("{} is gone", what.join(" ")), SETTLES, || {
        let output = cluster.kubectl(&[&["get", "-o", "name"], what].concat());
        if output.stderr.contains("NotFound") { Ok(()) } else { Err(output.stdout + &output.stderr) }
    });
}

/// A namespace goes while its service is called: once in the cluster that exports, once in one that imports. The namespace
/// ends, the import goes where it has to, and no request to any other service fails.
///
/// Mutation seen to fail: an offer that became empty is not told in `apply_dirty` of `core`.
#[test]
#[ignore = "make test-kubernetes"]
fn a_namespace_that_goes_takes_its_services_alone() {
    let fleet = Fleet::installed(&Values::default());
    fleet.deploy();
    b_answers(&fleet);
    let there = |cluster: &Cluster, namespace: &str| {
        let import = ["-n", namespace, "get", "serviceimport", "b", "-o", "jsonpath={.spec.type}"];
        cluster.until(&import, "ClusterSetIP", SETTLES);
    };
    for namespace in ["exporting", "importing"] {
        for cluster in [&fleet.east, &fleet.west] {
            fleet::namespace(cluster, namespace);
        }
        let moved = |yaml: &str| yaml.replace("namespace: shop", &format!("namespace: {namespace}"));
        fleet.east.apply(&moved(&application("east")));
        fleet.east.apply(&moved(EXPORT));
        rolled_out(&fleet.east, namespace, "b");
        for cluster in [&fleet.east, &fleet.west] {
            there(cluster, namespace);
        }
    }
    let far = Ledger::start(&fleet.west, "far", B);
    let near = Ledger::start(&fleet.east, "near", B);
    let first = Ledger::start(&fleet.west, "first", "http://b.exporting.svc.clusterset.local:8080/hostname");
    let second = Ledger::start(&fleet.west, "second", "http://b.importing.svc.clusterset.local:8080/hostname");
    first.answered_by("b-east", 20);
    second.answered_by("b-east", 20);

    let _asked = fleet.east.ok(&["delete", "namespace", "exporting", "--wait=false"]);
    gone(&fleet.west, &["-n", "exporting", "serviceimport", "b"]);
    fails(&first, "requests to the service that went fail");
    gone(&fleet.east, &["namespace", "exporting"]);

    let _asked = fleet.west.ok(&["delete", "namespace", "importing", "--wait=false"]);
    gone(&fleet.west, &["namespace", "importing"]);
    // The other cluster has the namespace, and with it the import.
    there(&fleet.east, "importing");
    far.nothing_failed("two namespaces went");
    near.nothing_failed("two namespaces went");
}

/// Kinds that are missing: the Membership says which, the cluster is a member all the same, and they are taken when they come.
/// Then the release goes: what runs in its cluster goes on, new pods are as without it, what crosses clusters ends, and
/// kinds and identity are kept.
///
/// Mutation seen to fail: a kind that is missing ends `Mirror::run`.
#[test]
#[ignore = "make test-kubernetes"]
fn kinds_may_come_late_and_a_release_may_go() {
    let fleet = Fleet::start();
    fleet.load();
    fleet.helm("east", "install meshfed-crds helm/meshfed-crds");
    fleet.helm("west", "install meshfed-crds helm/meshfed-crds --set mcs=false");
    fleet.install_hub("");
    for name in ["east", "west"] {
        fleet.install_member(name, "");
        fleet.join(name);
    }
    let of = |field: &str| format!("jsonpath={{.items[*].status.conditions[?(@.type==\"Ready\")].{field}}}");
    let says = |field: &str, wanted: &str| {
        fleet.west.until(&["get", "memberships", "-A", "-o", &of(field)], wanted, SETTLES);
    };
    says("reason", "KindsMissing");
    let told = fleet.west.ok(&["get", "memberships", "-A", "-o", &of("message")]);
    assert!(told.contains("ServiceExport") && told.contains("ServiceImport"), "{told}");
    let agent = ["-n", "meshfed-system", "logs", "deploy/meshfed-agent"];
    wait::until("the agent says which kind is missing", SETTLES, || {
        let log = fleet.west.ok(&agent);
        if log.contains("has no kind ServiceExport") && log.contains("\"kind\":\"ServiceImport\"") {
            Ok(())
        } else {
            Err(log)
        }
    });
    let pod = ["-n", "meshfed-system", "get", "pods", "-l", &component("agent"), "-o"];
    let restarts = "jsonpath={.items[*].metadata.uid} {.items[*].status.containerStatuses[*].restartCount}";
    let same = || fleet.west.ok(&[&pod[..], &[restarts]].concat());
    let before = same();
    fleet.deploy();
    fleet.helm("west", "upgrade meshfed-crds helm/meshfed-crds --set mcs=true");
    b_answers(&fleet);
    assert_eq!(same(), before, "the agent was not started again");
    says("status", "True");

    let far = Ledger::start(&fleet.west, "far", B);
    let near = Ledger::start(&fleet.east, "near", B);
    far.nothing_failed("its start");
    let _removed = fleet.helm("east", "uninstall meshfed -n meshfed-system --wait");
    fails(&far, "requests that cross clusters fail");
    near.nothing_failed("the release went");
    let kept = ["-n", "meshfed-system", "get", "secret", "meshfed-identity", "-o", "jsonpath={.data.ca\\.key\\.pem}"];
    assert!(!fleet.east.ok(&kept).trim().is_empty(), "the identity");
    let _kept =
        fleet.east.ok(&["get", "crd", "memberships.federation.meshfed.io", "serviceexports.multicluster.x-k8s.io"]);
    let image = ["--image=localhost/nettools:test", "--image-pull-policy=Never", "--", "sleep", "infinity"];
    let _made = fleet.east.ok(&[&["-n", "shop", "run", "new"], &image[..]].concat());
    let _ready = fleet.east.ok(&["-n", "shop", "wait", "--for=condition=Ready", "pod/new", "--timeout=120s"]);
    let sidecars = ["-n", "shop", "get", "pod", "new", "-o", "jsonpath={.spec.initContainers}"];
    assert_eq!(fleet.east.ok(&sidecars).trim(), "", "a new pod has no sidecar");
}
