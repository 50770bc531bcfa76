//! Edge. A steady load from a pod, and the ledger of what came of it: `mesh-load`, packed as an image.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::Value;

use super::{Client, Cluster, script};
use crate::binary::{meshfed, target_dir};
use crate::process::run;
use crate::wait;

/// A client that waits for a connect or an answer prints nothing new for so long.
const GOES_ON: Duration = Duration::from_secs(90);

/// A pod of `shop` that asks some URLs all the time: each on a new connection a time, and on one kept connection.
pub struct Ledger {
    client: Client,
    pod: String,
}

impl Ledger {
    /// Starts the pod in `shop`, and waits until it is ready: from then on every failed request counts.
    #[must_use]
    pub fn start(cluster: &Cluster, pod: &str, url: &str) -> Self {
        cluster.load(archive());
        cluster.apply(&format!(
            "apiVersion: v1
kind: Pod
metadata: {{name: {pod}, namespace: shop}}
spec:
  restartPolicy: Never
  containers: [{{name: load, image: 'localhost/mesh-load:test', imagePullPolicy: Never, args: [new, '{url}', kept, '{url}']}}]
"
        ));
        let target = format!("pod/{pod}");
        let _ready = cluster.ok(&["-n", "shop", "wait", "--for=condition=Ready", &target, "--timeout=120s"]);
        Self { client: cluster.inside(), pod: pod.to_owned() }
    }
    /// What its clients saw so far, by client: `done`, `failed`, `answers`, `errors`. `None` before the first line.
    #[must_use]
    pub fn read(&self) -> Option<Value> {
        let logs = self.client.kubectl(&["-n", "shop", "logs", &self.pod, "-c", "load", "--tail=1"]);
        serde_json::from_str(&logs.stdout).ok()
    }
    /// Waits until every client has had so many answers more.
    pub fn goes_on(&self, more: u64) {
        let begun = wait::until(&format!("{} begins", self.pod), GOES_ON, || self.read().ok_or("no line yet"));
        wait::until(&format!("{} goes on", self.pod), GOES_ON, || {
            let now = self.read().unwrap_or_default();
            let behind = CLIENTS.iter().any(|c| count(&now, c, "done") < count(&begun, c, "done") + more);
            if behind { Err(now) } else { Ok(()) }
        });
    }
    /// Waits until every client has had so many answers more, the last of them from nobody else than this pod.
    pub fn answered_by(&self, name: &str, more: u64) {
        let by = |ledger: &Value, client: &str| ledger[client]["answers"][name].as_u64().unwrap_or_default();
        let begun = wait::until(&format!("{} begins", self.pod), GOES_ON, || self.read().ok_or("no line yet"));
        wait::until(&format!("{} is answered by {name}", self.pod), GOES_ON, || {
            let now = self.read().unwrap_or_default();
            let behind = CLIENTS.iter().any(|c| by(&now, c) < by(&begun, c) + more);
            if behind { Err(now) } else { Ok(()) }
        });
    }
    /// How many requests failed.
    #[must_use]
    pub fn failed(&self) -> u64 {
        let now = self.read().unwrap_or_default();
        CLIENTS.iter().map(|client| count(&now, client, "failed")).sum()
    }
    /// Fails the test when a request has failed since the pod is ready.
    ///
    /// # Panics
    /// Then; with the errors.
    pub fn nothing_failed(&self, what: &str) {
        self.goes_on(20);
        let now = self.read().unwrap_or_default();
        let failed: u64 = CLIENTS.iter().map(|client| count(&now, client, "failed")).sum();
        if failed > 0 {
            let proxy = ["-n", "shop", "logs", &self.pod, "-c", "meshfed-proxy", "--tail=60"];
            panic!("{} after {what}: {now:#}\n{}", self.pod, self.client.kubectl(&proxy).stdout);
        }
    }
}

const CLIENTS: [&str; 2] = ["new", "kept"];

fn count(ledger: &Value, client: &str, what: &str) -> u64 {
    ledger[client][what].as_u64().unwrap_or_default()
}

/// The image archive of `mesh-load`, packed once per test run.
fn archive() -> &'static PathBuf {
    static ARCHIVE: OnceLock<PathBuf> = OnceLock::new();
    ARCHIVE.get_or_init(|| {
        // The workspace's binaries are built with it.
        let program = meshfed().with_file_name("mesh-load");
        let archive = target_dir().join(format!("image-{}.load.tar", std::process::id()));
        let _silent = run(script("tool.sh").arg(program).arg(&archive).arg("localhost/mesh-load:test")).ok("tool.sh");
        archive
    })
}
