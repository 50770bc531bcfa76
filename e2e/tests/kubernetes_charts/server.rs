//! What the real API server says of the renders.

use meshfed_e2e::kube::ApiServer;
use serde_json::{Value, json};

use crate::renders::matrix;
use crate::{CHARTS, objects, render};

/// An API server with the kinds and the namespaces of the walk.
pub(crate) fn prepared() -> ApiServer {
    let server = ApiServer::start();
    server.apply(&render("meshfed-crds", &json!({})).ok("meshfed-crds"));
    let established = ["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"];
    let _all = server.ok(&established);
    for (_, _, namespace) in &CHARTS[1..] {
        let _made = server.ok(&["create", "namespace", namespace]);
        // What the controller manager makes, and what a dry run does not keep.
        for account in ["default", "meshfed-test"] {
            let _made = server.ok(&["-n", namespace, "create", "serviceaccount", account]);
        }
    }
    server
}

/// Every render is taken as it is: no unknown field, nothing invalid, no warning; and the expressions of the admission
/// policies compile.
///
/// Mutation seen to fail: `maxUnavailable: 1` of the PodDisruptionBudgets written `maxUnavailables: 1`.
#[test]
fn the_api_server_takes_every_render() {
    let server = prepared();
    for (name, chart, values) in matrix() {
        // Kinds of the Prometheus operator, which is not here; the golden renders have them.
        let known: Vec<Value> = objects(&render(chart, &values).ok(name))
            .into_iter()
            .filter(|object| object["kind"] != "ServiceMonitor")
            .collect();
        let list = json!({ "apiVersion": "v1", "kind": "List", "items": known }).to_string();
        let args = ["apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-"];
        let output = server.kubectl_with(&args, &list);
        assert_eq!((output.code, output.stderr.as_str()), (0, ""), "{name}: {}", output.stdout);
        assert_eq!(output.stdout.lines().count(), known.len(), "{name}: {}", output.stdout);
    }
}
