//! Edge. Whole clusters, one node each: kubelet, containerd, kube-proxy, CoreDNS and the control plane, in namespaces of
//! their own. `east` and `west` have equal pod networks that do not meet; their nodes do.

use std::fs::File;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::{Client, programs, script};
use crate::binary::target_dir;
use crate::process::{Output, run};
use crate::wait;

/// As long as the longest of the tests that hold a cluster, and then some.
const FREE_WITHIN: Duration = Duration::from_secs(1800);

/// Which pair of clusters this test run has, `MESHFED_KUBE_PAIR` (a few letters): runs that name different ones do not
/// wait for each other.
#[expect(clippy::disallowed_methods, reason = "whoever runs the tests says it")]
fn pair() -> String {
    std::env::var("MESHFED_KUBE_PAIR").unwrap_or_default()
}

/// The namespace from which every node can be reached.
fn wan() -> String {
    format!("k8s-wan{}", pair())
}

/// A running cluster; removed with its owner. Dereferences to the administrator's [`Client`].
pub struct Cluster {
    name: &'static str,
    client: Client,
    state: PathBuf,
    _lock: File,
}

impl Deref for Cluster {
    type Target = Client;
    fn deref(&self) -> &Client {
        &self.client
    }
}

impl Cluster {
    /// Starts `east` or `west` and waits until DNS answers in it. There is one of each on a machine, and
    /// in each pair (`MESHFED_KUBE_PAIR`): a test waits for the one before it. Needs root; the packages are in `e2e/peers.sh`.
    ///
    /// # Panics
    /// When it does not start; the message holds the script's.
    #[must_use]
    pub fn start(name: &'static str) -> Self {
        let bin = programs(&[]);
        let lock = lock(&bin, name);
        Self::up(name, bin, lock)
    }
    fn up(name: &'static str, bin: PathBuf, lock: File) -> Self {
        let state = target_dir().join("kube");
        let this = Self {
            name,
            client: Client::new(bin, state.join(name).join("admin.conf"), Some(wan())),
            state,
            _lock: lock,
        };
        // What a test run that was killed has left.
        this.down();
        let _silent = this.script("up.sh", &[]).ok("e2e/kube/up.sh");
        this
    }
    /// Starts both at once.
    ///
    /// # Panics
    /// When one does not start.
    #[must_use]
    pub fn east_and_west() -> (Self, Self) {
        let bin = programs(&[]);
        // East's place first: two test runs do not wait for each other in a circle.
        let locks = ["east", "west"].map(|name| (name, lock(&bin, name)));
        let [east, west] = std::thread::scope(|scope| {
            locks.map(|(name, lock)| scope.spawn(|| Self::up(name, bin.clone(), lock))).map(|cluster| cluster.join())
        });
        (east.expect("east starts"), west.expect("west starts"))
    }
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }
    /// The node's address, which the other cluster reaches.
    #[must_use]
    pub fn node_ip(&self) -> String {
        let path = ["get", "node", self.name, "-o", "jsonpath={.status.addresses[?(@.type==\"InternalIP\")].address}"];
        self.ok(&path).trim().to_owned()
    }
    /// A file of its state, such as `log/kubelet.log`.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.state.join(self.name).join(name)
    }
    /// Imports an image archive into the node.
    pub fn load(&self, archive: &Path) {
        let _silent = self.script("load.sh", &[&archive.to_string_lossy()]).ok("e2e/kube/load.sh");
    }
    /// Runs a command in a pod (`pod/NAME`, `deploy/NAME`).
    #[must_use]
    pub fn exec(&self, namespace: &str, target: &str, command: &[&str]) -> Output {
        self.kubectl(&[&["-n", namespace, "exec", target, "--"], command].concat())
    }
    /// The administrator's client on the node itself: it reaches the API server also while the cluster is cut off.
    #[must_use]
    pub fn inside(&self) -> Client {
        let namespace = format!("k8s-{}{}", self.name, pair());
        Client::new(programs(&[]), self.kubeconfig().to_owned(), Some(namespace))
    }
    /// Runs a command in the node's namespaces.
    #[must_use]
    pub fn in_node(&self, command: &[&str]) -> Output {
        self.script("in-node.sh", command)
    }
    /// Kills a component, such as `kube-apiserver`, and keeps it down until [`Self::start_again`].
    pub fn kill(&self, component: &str) {
        let hold = format!("/run/node/hold/{component}");
        let _held = self.in_node(&["touch", &hold]).ok("touch");
        let _killed = self.in_node(&["pkill", "-KILL", "-f", &format!("/bin/{component} ")]).ok("pkill");
    }
    /// Lets a component that was killed start again.
    pub fn start_again(&self, component: &str) {
        let _removed = self.in_node(&["rm", &format!("/run/node/hold/{component}")]).ok("rm");
    }
    /// Takes the cluster off the network between the nodes, or back onto it.
    pub fn cut_off(&self, cut: bool) {
        let state = if cut { "down" } else { "up" };
        let _silent = run(Command::new("ip").args(["-n", &wan(), "link", "set", self.name, state])).ok("ip link");
    }

    fn script(&self, name: &str, args: &[&str]) -> Output {
        run(script(name).arg(self.name).args(args).env("STATE", &self.state))
    }
    fn down(&self) {
        let _silent = self.script("down.sh", &[]).ok("e2e/kube/down.sh");
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let output = self.kubectl(&["get", "pods,events", "-A", "-o", "wide", "--request-timeout=5s"]);
            let text = format!("---- {} ----\n{}{}\n", self.name, output.stdout, output.stderr);
            let _closed = std::io::Write::write_all(&mut std::io::stderr().lock(), text.as_bytes());
        }
        self.down();
    }
}

/// Waits until no other test run of this machine has the cluster.
fn lock(bin: &Path, name: &str) -> File {
    let cache = bin.ancestors().nth(2).expect("the cache folder");
    let lock =
        File::options().create(true).append(true).open(cache.join(format!("{name}{}.lock", pair()))).expect("a lock");
    wait::until(&format!("cluster {name} is free"), FREE_WITHIN, || lock.try_lock());
    lock
}
