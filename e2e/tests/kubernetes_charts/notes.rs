//! What Helm prints after an installation: commands that work as they stand.

use meshfed_e2e::process::run;
use serde_json::{Value, json};

use crate::{CHARTS, chart, run_helm};

/// The notes of an installation, or of an upgrade where there is a release.
fn notes(name: &str, values: &Value) -> String {
    let (_, release, namespace) = CHARTS.into_iter().find(|(chart, ..)| *chart == name).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), values.to_string()).unwrap();
    let output = run_helm(|command| {
        command.args(["install", release]).arg(chart(name)).args([
            "--namespace",
            namespace,
            "--dry-run=client",
            "--values",
        ]);
        command.arg(file.path());
    });
    output.ok(name).split_once("\nNOTES:\n").unwrap_or_else(|| panic!("{name} has no notes")).1.to_owned()
}

/// The command for a token, on one line.
fn token(notes: &str) -> String {
    let joined = notes.replace("\\\n", " ");
    let line = joined.lines().find(|line| line.contains("token create")).unwrap_or_else(|| panic!("{notes}"));
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A gateway's address lies in no range of pods, so the token of the notes names it where the values do, and leaves its
/// place where they do not: a token without it makes a member whose gateways nobody is told of.
///
/// Mutation seen to fail: `range $cidrs` of the member's notes left out.
#[test]
fn the_token_of_the_notes_names_the_gateways() {
    let member = |gateway: Value| token(&notes("meshfed-cluster", &json!({ "gateway": gateway })));
    let begin = "kubectl -n meshfed-hub exec deploy/meshfed-hub -- /meshfed token create --cluster NAME --network";
    let at = |addresses: Value| member(json!({ "network": "net-east", "addresses": addresses }));
    assert_eq!(
        at(json!(["172.30.0.11:31443", "172.30.0.12:31443", "[2001:db8::7]:15443"])),
        format!(
            "{begin} net-east=POD-CIDR --gateway-cidr 172.30.0.11/32 --gateway-cidr 172.30.0.12/32 --gateway-cidr \
             2001:db8::7/128 --region REGION > NAME.token"
        )
    );
    let unknown = format!("{begin} net-east=POD-CIDR --gateway-cidr GATEWAY-IP/32 --region REGION > NAME.token");
    assert_eq!(at(json!(["a.gateway.example:15443", "b.gateway.example:15443"])), unknown);
    assert_eq!(at(json!([])), unknown);
    let none = format!("{begin} NETWORK=POD-CIDR --region REGION > NAME.token");
    assert_eq!(member(json!({ "enabled": false })), none);
    assert_eq!(member(json!({ "service": { "type": "ClusterIP" } })), none);
    let by_itself = json!({ "membership": { "create": true, "hub": "https://hub.example:15600" } });
    let notes_of = notes("meshfed-cluster", &by_itself);
    assert!(token(&notes_of).contains("--gateway-cidr GATEWAY-IP/32"), "{notes_of}");
    assert!(notes_of.contains("-n meshfed-system create secret generic meshfed-join"), "{notes_of}");
    let hub = token(&notes("meshfed-hub", &json!({ "fleet": "mesh.example" })));
    assert!(hub.contains("--network net-east=POD-CIDR --gateway-cidr GATEWAY-IP/32 --region"), "{hub}");
}

/// The notes of the kinds say what goes with the release and what stays, as the kinds themselves say it to Helm.
///
/// Mutation seen to fail: `if .Values.mcs` of the notes turned around.
#[test]
fn the_notes_say_which_kinds_go_with_the_release() {
    const GOES: &str = "IT REMOVES ServiceExport AND ServiceImport";
    const STAYS: &str = "PeerAuthentication and WorkloadEntry, which are Istio's, stay";
    let said = |values: Value| {
        let notes = notes("meshfed-crds", &values);
        [notes.contains(GOES), notes.contains(STAYS)]
    };
    assert_eq!(said(json!({})), [true, true]);
    assert_eq!(said(json!({ "istio": false })), [true, false]);
    assert_eq!(said(json!({ "mcs": false, "istio": false })), [false, false]);
    let kept = |file: &str| {
        let text = std::fs::read_to_string(chart("meshfed-crds").join("files").join(file)).unwrap();
        text.contains("\"helm.sh/resource-policy\": keep")
    };
    let files = ["security.istio.io_peerauthentications.yaml", "networking.istio.io_workloadentries.yaml"];
    assert_eq!(files.map(kept), [true, true]);
    let files = ["multicluster.x-k8s.io_serviceexports.yaml", "multicluster.x-k8s.io_serviceimports.yaml"];
    assert_eq!(files.map(kept), [false, false]);
}

/// Who upgrades a member is not told to join it, but what to do where it has not joined.
///
/// Mutation seen to fail: `.Release.IsUpgrade` of the member's notes left out.
#[test]
fn notes_of_an_upgrade_are_no_first_steps() {
    let server = crate::server::prepared();
    let scratch = tempfile::tempdir().unwrap();
    let ran = |verb: &str| {
        let mut helm = meshfed_e2e::kube::helm(Some(&server), scratch.path());
        helm.args([verb, "meshfed"]).arg(chart("meshfed-cluster")).args(["--namespace", "meshfed-system"]);
        run(&mut helm).ok(verb)
    };
    let first = ran("install");
    assert!(first.contains("until this cluster has joined a fleet") && first.contains("\nNext:\n"), "{first}");
    let later = ran("upgrade");
    assert!(later.contains("A member stays one") && later.contains("has not joined yet:\n"), "{later}");
    assert!(!later.contains("Nothing is offered"), "{later}");
}
