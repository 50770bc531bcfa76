//! An agent whose membership is an object, its API server, and a hub.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use meshfed_e2e::binary::meshfed;
use meshfed_e2e::fleet::{Fleet, Range};
use meshfed_e2e::kube::ApiServer;
use meshfed_e2e::process::{Output, Process, run};
use meshfed_e2e::wait::until;
use rustix::process::Signal;
use serde_json::Value;

/// Far above what anything takes, so that a busy machine does not fail the test.
pub(crate) const SOON: Duration = Duration::from_secs(60);
/// The namespace of the release.
pub(crate) const RELEASE: &str = "meshfed-system";
/// What the chart makes of it: the empty Secret, and a Deployment by which the command line knows it.
pub(crate) const CHART: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: meshfed-system}
---
apiVersion: v1
kind: Secret
metadata: {name: meshfed-identity, namespace: meshfed-system, labels: {app.kubernetes.io/managed-by: Helm}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: meshfed-agent, namespace: meshfed-system}
spec:
  selector: {matchLabels: {app: agent}}
  template: {metadata: {labels: {app: agent}}, spec: {containers: [{name: agent, image: x}]}}
";

pub(crate) struct World {
    pub(crate) agent: Option<Process>,
    /// The agent's data directory is remade with every pod.
    pods: usize,
    pub(crate) range: Range,
    pub(crate) fleet: Fleet,
    pub(crate) api: ApiServer,
}

impl World {
    pub(crate) fn start(flags_of_hub: &[&str]) -> Self {
        let api = ApiServer::start();
        api.apply(&run(Command::new(meshfed()).arg("crds")).ok("meshfed crds"));
        api.until(&["get", "memberships", "-A", "--ignore-not-found"], "", SOON);
        api.apply(CHART);
        let range = Range::take();
        let kubeconfig = api.kubeconfig().display().to_string();
        let flags: Vec<String> = flags_of_hub.iter().map(|f| f.replace("KUBECONFIG", &kubeconfig)).collect();
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let fleet = Fleet::start_at(None, "127.0.0.1", &flags);
        Self { agent: None, pods: 0, range, fleet, api }
    }
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.fleet.path(&format!("pod-{}", self.pods))
    }
    /// A pod of the agent, with an empty volume.
    pub(crate) fn start_pod(&mut self) {
        self.pods += 1;
        let mut start = Command::new(meshfed());
        start.args(["agent", "--source", "kubernetes", "--namespace", RELEASE, "--data-dir"]).arg(self.data_dir());
        start.args(["--bind", &self.range.host(1).to_string()]).arg("--kubeconfig").arg(self.api.kubeconfig());
        self.agent = Some(Process::start("agent", &self.fleet.path("logs"), &mut start));
    }
    /// Ends it as a node does that is lost.
    pub(crate) fn lose_pod(&mut self) {
        let agent = self.agent.take().unwrap();
        agent.signal(Signal::KILL);
        drop(agent);
    }
    pub(crate) fn join(&self, token: &std::path::Path, timeout: &str) -> Output {
        self.join_with(&["--timeout", timeout, "--token-file"], token)
    }
    pub(crate) fn join_with(&self, flags: &[&str], token: &std::path::Path) -> Output {
        let mut join = Command::new(meshfed());
        join.args(["join", &self.fleet.grpc(), "--kube"]).args(flags).arg(token);
        run(join.arg("--kubeconfig").arg(self.api.kubeconfig()))
    }
    /// A condition of the Membership: its status and reason.
    pub(crate) fn condition(&self, type_: &str) -> String {
        let path = format!("jsonpath={{.status.conditions[?(@.type=='{type_}')]['status','reason']}}");
        self.api.kubectl(&["-n", RELEASE, "get", "membership", "meshfed", "-o", &path]).stdout
    }
    pub(crate) fn until_condition(&self, type_: &str, wanted: &str) {
        until(type_, SOON, || match self.condition(type_) {
            found if found == wanted => Ok(()),
            found => Err(format!("{found:?}, not {wanted:?}")),
        });
    }
    pub(crate) fn identity(&self) -> Value {
        serde_json::from_str(&self.api.ok(&["-n", RELEASE, "get", "secret", "meshfed-identity", "-o", "json"])).unwrap()
    }
    pub(crate) fn member_state(&self) -> String {
        let body = self.fleet.curl_api("clusters/east").stdout;
        serde_json::from_str::<Value>(&body).ok().and_then(|b| Some(b["state"].as_str()?.to_owned())).unwrap_or(body)
    }
}
