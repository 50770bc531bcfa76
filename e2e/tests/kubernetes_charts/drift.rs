//! What somebody changes in the agent's own objects is taken back with no more than the permissions of the chart.

use meshfed_e2e::fleet::{Fleet, command};
use meshfed_e2e::http;
use meshfed_e2e::objects;
use meshfed_e2e::process::Process;
use meshfed_e2e::wait::until;
use serde_json::{Value, json};

use crate::permissions::{SOON, in_force, installed};

/// A derived Service with somebody's selector would send the import's requests to his pods, and one with external addresses
/// would take them from the network. The policies of the chart let the agent write neither, so it takes them away before it
/// applies; so it does with a port whose number somebody has changed, as its name would be there twice.
///
/// Mutations seen to fail: `take_away` left out of `Writer::service`; `freed` left out of `way_became_free`; `is_told` answered
/// `false`.
#[test]
fn what_is_added_to_a_derived_service_is_taken_away_under_the_policies() {
    let (server, account) = installed("meshfed-cluster", &json!({}), "meshfed-system", "meshfed-agent");
    in_force(&account);
    let fleet = Fleet::start();
    let token = fleet.token(None, "east", &["--region", "eu", "--network", "net-east=10.1.0.0/16"]);
    let _joined = fleet.join(None, &token, "east").ok("join");
    server.apply(&objects::exported("shop", "b"));
    let mut start = command(None);
    start.args(["agent", "--source", "kubernetes", "--xds-listen", "off", "--admin-listen", "127.0.0.1:0"]);
    start.args(["--namespace", "meshfed-system"]);
    start.arg("--data-dir").arg(fleet.path("east")).arg("--kubeconfig").arg(account.kubeconfig());
    let agent = Process::start("agent", &fleet.path("logs"), &mut start);
    let path = r"jsonpath={.metadata.annotations.multicluster\.kubernetes\.io/derived-service}";
    let name = until("the import has its Service", SOON, || {
        let found = server.kubectl(&["-n", "shop", "get", "serviceimport", "b", "-o", path]).stdout;
        let there = !found.is_empty() && server.kubectl(&["-n", "shop", "get", "service", &found]).code == 0;
        if there { Ok(found) } else { Err(agent.tail()) }
    });
    let get = |server: &meshfed_e2e::kube::ApiServer| -> Value {
        serde_json::from_str(&server.ok(&["-n", "shop", "get", "service", &name, "-o", "json"])).unwrap()
    };
    let address = get(&server)["spec"]["clusterIP"].clone();
    let ports = get(&server)["spec"]["ports"].clone();
    for (what, kind, patch) in [
        ("a selector", "merge", r#"{"spec": {"selector": {"app": "stolen"}}}"#),
        ("external addresses", "merge", r#"{"spec": {"externalIPs": ["192.0.2.1"]}}"#),
        (
            "both, and a node port",
            "merge",
            r#"{"spec": {"type": "NodePort", "selector": {"a": "b"}, "externalIPs": ["192.0.2.1"]}}"#,
        ),
        ("another number of a port", "json", r#"[{"op": "replace", "path": "/spec/ports/0/port", "value": 9999}]"#),
        ("another target of a port", "json", r#"[{"op": "replace", "path": "/spec/ports/0/targetPort", "value": 7}]"#),
    ] {
        let _changed = server.ok(&["-n", "shop", "patch", "service", &name, "--type", kind, "-p", patch]);
        until(&format!("{what} is taken away"), SOON, || {
            let spec = get(&server)["spec"].clone();
            let clean = spec["selector"].is_null()
                && spec["externalIPs"].is_null()
                && spec["type"] == "ClusterIP"
                && spec["ports"] == ports;
            if clean { Ok(()) } else { Err(format!("{spec} {}", agent.tail())) }
        });
    }
    assert_eq!(get(&server)["spec"]["clusterIP"], address);

    // Somebody takes its label, so that it is nobody's of ours, and gives it back.
    let label = "app.kubernetes.io/managed-by";
    let says = |wanted: &str| {
        let ready = r#"jsonpath={.status.conditions[?(@.type=="Ready")].reason}"#;
        server.until(&["-n", "shop", "get", "serviceimport", "b", "-o", ready], wanted, SOON);
    };
    let _taken = server.ok(&["-n", "shop", "label", "service", &name, &format!("{label}-")]);
    says("NameTaken");
    let admin = fleet.admin("east").unwrap();
    until("it is asked for again and again", SOON, || {
        let asked = http::get(admin, "/metrics")?.body;
        let asked = asked.lines().find_map(|l| l.strip_prefix("meshfed_mirror_writes_total{result=\"in_the_way\"} "));
        if asked.is_some_and(|count| count.parse::<u32>().is_ok_and(|n| n >= 3)) {
            Ok(())
        } else {
            Err(format!("{asked:?}"))
        }
    });
    let _given = server.ok(&["-n", "shop", "label", "service", &name, &format!("{label}=meshfed")]);
    says("Ready");
    let told = agent.log().lines().filter(|line| line.contains(" WARN ") && line.contains("and not ours")).count();
    assert_eq!(told, 1, "what is in the way is told once: {}", agent.tail());
}
