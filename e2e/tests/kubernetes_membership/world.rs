//! An agent whose membership is an object, its API server, and a hub.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use meshfed_e2e::binary::{meshfed, workspace};
use meshfed_e2e::fleet::{Fleet, Range};
use meshfed_e2e::kube::ApiServer;
use meshfed_e2e::objects;
use meshfed_e2e::process::{Output, Process, run};
use meshfed_e2e::wait::until;
use rustix::process::Signal;
use serde_json::Value;

/// Far above what anything takes, so that a busy machine does not fail the test.
pub(crate) const SOON: Duration = Duration::from_secs(150);
/// The namespace of the release.
pub(crate) const RELEASE: &str = "meshfed-system";
/// What the token of the cluster binds.
pub(crate) const NETWORK: [&str; 4] = ["--network", "net-east=127.1.0.0/16", "--region", "eu"];
/// The kinds of the MCS API.
pub(crate) const MCS: [&str; 2] = ["serviceexports", "serviceimports"];

/// The definition of one of them, as the chart brings it.
pub(crate) fn mcs(kind: &str) -> String {
    let file = format!("helm/meshfed-crds/files/multicluster.x-k8s.io_{kind}.yaml");
    std::fs::read_to_string(workspace().join(file)).unwrap()
}

pub(crate) struct World {
    pub(crate) agent: Option<Process>,
    /// The agent's data directory is remade with every pod.
    pods: usize,
    /// More flags of its agents.
    pub(crate) flags: &'static [&'static str],
    pub(crate) range: Range,
    pub(crate) fleet: Fleet,
    pub(crate) api: ApiServer,
}

impl World {
    pub(crate) fn start(flags_of_hub: &[&str]) -> Self {
        let api = ApiServer::start();
        api.apply(&run(Command::new(meshfed()).arg("crds")).ok("meshfed crds"));
        for kind in MCS {
            api.apply(&mcs(kind));
        }
        api.until(&["get", "memberships", "-A", "--ignore-not-found"], "", SOON);
        let _established = api.ok(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"]);
        api.apply(objects::RELEASE);
        let range = Range::take();
        let kubeconfig = api.kubeconfig().display().to_string();
        let flags: Vec<String> = flags_of_hub.iter().map(|f| f.replace("KUBECONFIG", &kubeconfig)).collect();
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let fleet = Fleet::start_at(None, "127.0.0.1", &flags);
        Self { agent: None, pods: 0, flags: &[], range, fleet, api }
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
        start.args(self.flags);
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
    /// A pod of the agent, and a cluster that has joined by it.
    pub(crate) fn start_member(&mut self) {
        self.start_pod();
        self.start_again();
    }
    /// The cluster joins by the agent that runs.
    pub(crate) fn start_again(&self) {
        let token = self.fleet.token(None, "east", &NETWORK);
        let joined = self.join(&token, "60s");
        assert_eq!(joined.code, 0, "{joined:?}");
        self.until_condition("Ready", "True Ready");
    }
    /// Waits until the hub knows that the cluster has left, and nothing but its CA is kept of it.
    pub(crate) fn until_left(&self) {
        until("the hub knows", SOON, || match self.member_state().as_str() {
            "left" => Ok(()),
            other => Err(other.to_owned()),
        });
        until("only the CA is kept", SOON, || {
            let data = self.kept();
            if data.iter().all(|key| key.starts_with("ca.")) { Ok(()) } else { Err(format!("{data:?}")) }
        });
    }
    /// What the Secret of the chart holds.
    pub(crate) fn kept(&self) -> Vec<String> {
        let identity = self.identity();
        identity["data"].as_object().into_iter().flat_map(|data| data.keys().cloned()).collect()
    }
    /// The message of a condition of the Membership.
    pub(crate) fn message(&self, type_: &str) -> String {
        let path = format!("jsonpath={{.status.conditions[?(@.type=='{type_}')].message}}");
        self.api.kubectl(&["-n", RELEASE, "get", "membership", "meshfed", "-o", &path]).stdout
    }
    /// Waits for a warning event on the Membership, and gives its note.
    pub(crate) fn until_warned(&self, reason: &str) -> String {
        let selector = format!("involvedObject.name=meshfed,type=Warning,reason={reason}");
        until(reason, SOON, || {
            let path = "jsonpath={.items[*].message}";
            match self.api.ok(&["-n", RELEASE, "get", "events", "--field-selector", &selector, "-o", path]) {
                none if none.is_empty() => Err("no event"),
                note => Ok(note),
            }
        })
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
