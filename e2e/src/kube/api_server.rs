//! Edge. An API server alone: etcd, kube-apiserver and, where wanted, the controller manager, on loopback ports of the
//! test's own network namespace.

use std::net::{TcpListener, UdpSocket};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use super::{Client, programs, script};
use crate::process::{Process, run};
use crate::wait;

/// A first start writes the defaults of all kinds; on a busy machine that takes its time.
const READY_WITHIN: Duration = Duration::from_secs(90);
/// Ports are taken from below those that the kernel gives to outgoing connections, so that nobody takes one while a
/// test has its API server stopped.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
/// etcd's two, the API server's, the controller manager's.
const PORTS_EACH: u16 = 4;

/// A running API server; ends with its owner. Dereferences to the administrator's [`Client`].
pub struct ApiServer {
    client: Client,
    bin: PathBuf,
    dir: tempfile::TempDir,
    port: u16,
    controller_manager: Option<Process>,
    server: Process,
    _etcd: Process,
    _claim: UdpSocket,
}

impl Deref for ApiServer {
    type Target = Client;
    fn deref(&self) -> &Client {
        &self.client
    }
}

impl ApiServer {
    /// Starts one, and waits until it is ready. Objects are stored and watched; nothing acts on them.
    ///
    /// # Panics
    /// When it does not get ready.
    #[must_use]
    pub fn start() -> Self {
        let bin = programs(&["etcd", "kube-apiserver", "kubectl"]);
        let dir = tempfile::Builder::new().prefix("meshfed-api-").tempdir().expect("a temporary directory");
        let (first, claim) = free_ports();
        let [etcd_port, peer_port, port] = [first, first + 1, first + 2];
        let server_url = format!("https://127.0.0.1:{port}");
        let made = run(script("pki.sh").arg(dir.path()).args(["test", &server_url, "IP:10.96.0.1"]));
        let _silent = made.ok("e2e/kube/pki.sh");
        let etcd_url = format!("http://127.0.0.1:{etcd_port}");
        let mut command = Command::new(bin.join("etcd"));
        command.arg("--data-dir").arg(dir.path().join("etcd")).arg("--unsafe-no-fsync").args([
            format!("--listen-client-urls={etcd_url}"),
            format!("--advertise-client-urls={etcd_url}"),
            format!("--listen-peer-urls=http://127.0.0.1:{peer_port}"),
        ]);
        let etcd = Process::start("etcd", dir.path(), &mut command);
        let server = start_server(&bin, dir.path(), port);
        let client = Client::new(bin.clone(), dir.path().join("admin.conf"), None);
        let mut this = Self { client, bin, dir, port, controller_manager: None, server, _etcd: etcd, _claim: claim };
        this.ready();
        this
    }
    /// Starts one with the controller manager: namespaces end, owned objects go with their owner, EndpointSlices follow
    /// pods, and every namespace has its `default` account.
    #[must_use]
    pub fn with_controllers() -> Self {
        let mut this = Self::start();
        let bin = programs(&["kube-controller-manager"]);
        let (conf, pki) = (this.file("kube-controller-manager.conf"), this.file("pki"));
        let (ca, key) = (pki.join("ca.crt"), pki.join("sa.key"));
        let mut command = Command::new(bin.join("kube-controller-manager"));
        for flag in ["--kubeconfig", "--authentication-kubeconfig", "--authorization-kubeconfig"] {
            command.arg(flag).arg(&conf);
        }
        command.arg("--root-ca-file").arg(ca).arg("--service-account-private-key-file").arg(key).args([
            "--bind-address=127.0.0.1",
            // The default is a folder of the machine, which it makes.
            &format!("--flex-volume-plugin-dir={}", this.file("volume-plugins").display()),
            &format!("--secure-port={}", this.port + 1),
            "--leader-elect=false",
            "--use-service-account-credentials",
            "--kube-api-qps=500",
            "--kube-api-burst=500",
        ]);
        this.controller_manager = Some(Process::start("kube-controller-manager", this.dir.path(), &mut command));
        this.until(&["get", "serviceaccount", "default", "-o", "name"], "serviceaccount/default", READY_WITHIN);
        this
    }
    /// Its address, `https://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }
    /// A file of its folder, such as `pki/ca.crt`; a test may keep its own there.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
    /// Kills the API server: connections are refused until [`Self::start_again`]. etcd keeps every object.
    pub fn kill(&mut self) {
        self.server.kill();
    }
    /// Starts it again on the same port, and waits until it is ready.
    pub fn start_again(&mut self) {
        self.server.kill();
        self.server = start_server(&self.bin, self.dir.path(), self.port);
        self.ready();
    }
    /// Stops its process: connections are taken and nothing answers, until [`Self::thaw`].
    pub fn freeze(&self) {
        self.server.signal(Signal::STOP);
    }
    /// Lets it go on.
    pub fn thaw(&self) {
        self.server.signal(Signal::CONT);
    }

    fn ready(&mut self) {
        let Self { client, server, .. } = self;
        wait::until("the API server is ready", READY_WITHIN, || {
            server.assert_alive();
            let output = client.kubectl(&["get", "--raw", "/readyz"]);
            if output.code == 0 { Ok(()) } else { Err(output.stderr) }
        });
    }
}

fn start_server(bin: &Path, dir: &Path, port: u16) -> Process {
    let mut command = script("apiserver.sh");
    command.arg(bin).arg(dir.join("pki")).args([
        &format!("http://127.0.0.1:{}", port - 2),
        "127.0.0.1",
        &port.to_string(),
        "--authorization-mode=RBAC",
        // Nobody is meant to reach it as `kubernetes.default.svc`, and a loopback address may not stand there.
        "--advertise-address=192.0.2.1",
        "--endpoint-reconciler-type=none",
    ]);
    Process::start("kube-apiserver", dir, &mut command)
}

/// The first of some ports in a row, and the UDP socket on it that keeps other tests from them.
fn free_ports() -> (u16, UdpSocket) {
    let found = (0..200).find_map(|_attempt| {
        let first = fastrand::u16(PORTS.start / PORTS_EACH..PORTS.end / PORTS_EACH) * PORTS_EACH;
        let claim = UdpSocket::bind(("127.0.0.1", first)).ok()?;
        let free = (0..PORTS_EACH).all(|offset| TcpListener::bind(("127.0.0.1", first + offset)).is_ok());
        free.then_some((first, claim))
    });
    found.expect("free ports on loopback")
}
