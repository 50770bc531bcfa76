//! A hub and a member on one API server.

use std::process::Command;
use std::time::Duration;

use meshfed_e2e::binary::meshfed;
use meshfed_e2e::fleet::{Fleet, Range};
use meshfed_e2e::kube::ApiServer;
use meshfed_e2e::process::{Process, run};
use meshfed_e2e::wait::until;
use serde_json::Value;

/// Far above what anything takes, so that a busy machine does not fail the test.
pub(crate) const SOON: Duration = Duration::from_secs(60);
/// The hub's namespace, a member's release, and one of an application.
const NAMESPACES: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: meshfed-hub}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: meshfed-system}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: shop}}
---
{apiVersion: v1, kind: Secret, metadata: {name: meshfed-identity, namespace: meshfed-system}}
";

pub(crate) struct World {
    pub(crate) fleet: Fleet,
    pub(crate) api: ApiServer,
    pub(crate) agents: Vec<Process>,
}

impl World {
    /// A hub whose source is the API server.
    pub(crate) fn start() -> Self {
        let api = ApiServer::start();
        Self::install_kinds(&api);
        api.apply(NAMESPACES);
        let kubeconfig = api.kubeconfig().display().to_string();
        let fleet = Fleet::start_at(None, "127.0.0.1", &["--source", "kubernetes", "--kubeconfig", &kubeconfig]);
        Self { fleet, api, agents: Vec::new() }
    }
    /// Our kinds, as `meshfed crds` prints them.
    pub(crate) fn install_kinds(api: &ApiServer) {
        api.apply(&run(Command::new(meshfed()).arg("crds")).ok("meshfed crds"));
        api.until(&["get", "memberships", "-A", "--ignore-not-found"], "", SOON);
    }
    /// A member of this API server.
    pub(crate) fn join(&mut self, name: &str) {
        let range = Range::take();
        let cidr = format!("net-{name}={}", range.cidr());
        let token = self.fleet.token(None, name, &["--network", &cidr, "--region", "eu"]);
        assert_eq!(self.fleet.join(None, &token, name).code, 0);
        let mut agent = Command::new(meshfed());
        agent.args(["agent", "--source", "kubernetes", "--namespace", "meshfed-system", "--data-dir"]);
        agent.arg(self.fleet.path(name)).args(["--bind", &range.host(1).to_string(), "--kubeconfig"]);
        agent.arg(self.api.kubeconfig());
        self.agents.push(Process::start(&format!("agent-{name}"), &self.fleet.path("logs"), &mut agent));
    }
    /// An object, as the API server has it.
    pub(crate) fn get(&self, object: &[&str]) -> Value {
        let output = self.api.kubectl(&[&["get", "-o", "json", "--show-managed-fields"], object].concat());
        serde_json::from_str(&output.stdout).unwrap_or_else(|_| panic!("{object:?}: {output:?}"))
    }
    /// Waits until an object's conditions are these, each `Type=Status/Reason`, for its latest generation.
    pub(crate) fn says(&self, object: &[&str], wanted: &[&str]) -> Value {
        until(&format!("{object:?} says {wanted:?}"), SOON, || {
            let found = self.get(object);
            let current = found["status"]["observedGeneration"] == found["metadata"]["generation"];
            let all = conditions(&found);
            if current && all == wanted { Ok(found) } else { Err(format!("{all:?}, current: {current}")) }
        })
    }
}

/// Conditions as `Type=Status/Reason`, in their order.
pub(crate) fn conditions(object: &Value) -> Vec<String> {
    let text = |condition: &Value, key: &str| condition[key].as_str().unwrap_or_default().to_owned();
    let of = |c: &Value| format!("{}={}/{}", text(c, "type"), text(c, "status"), text(c, "reason"));
    object["status"]["conditions"].as_array().into_iter().flatten().map(of).collect()
}

/// The message of a condition.
pub(crate) fn message(object: &Value, type_: &str) -> String {
    let mut all = object["status"]["conditions"].as_array().into_iter().flatten();
    all.find(|c| c["type"] == type_).map(|c| c["message"].as_str().unwrap_or_default().to_owned()).unwrap_or_default()
}
