//! Edge. Network namespaces: a pod network per cluster that no other cluster can route to, and a WAN on which only
//! gateways and the federator are.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::process::run;

/// A network namespace, removed with its owner.
pub struct Namespace {
    name: String,
}

fn ip(args: &[&str]) {
    let output = run(Command::new("ip").args(args));
    assert_eq!(output.code, 0, "ip {}: {} (network namespaces need root and iproute2)", args.join(" "), output.stderr);
}

/// A name that no other test run on this machine has.
fn unique(kind: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("mf{}{kind}{}", std::process::id() % 100_000, NEXT.fetch_add(1, Ordering::Relaxed))
}

impl Namespace {
    /// Makes one, its loopback up.
    #[must_use]
    pub fn new(kind: &str) -> Self {
        let name = unique(kind);
        ip(&["netns", "add", &name]);
        let namespace = Self { name };
        namespace.ip(&["link", "set", "lo", "up"]);
        namespace
    }
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
    /// Runs `ip` inside.
    pub fn ip(&self, args: &[&str]) {
        ip(&[&["-n", &self.name], args].concat());
    }
    /// A command that runs inside.
    #[must_use]
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }
    /// A cable between two namespaces, with an address (`ADDRESS/BITS`) at each end.
    pub fn connect(&self, other: &Self, own: &[&str], others: &[&str]) {
        let (a, b) = (unique("a"), unique("b"));
        ip(&["link", "add", &a, "netns", &self.name, "type", "veth", "peer", "name", &b, "netns", &other.name]);
        for (namespace, device, addresses) in [(self, &a, own), (other, &b, others)] {
            namespace.add(device, addresses);
            namespace.ip(&["link", "set", device, "up"]);
        }
    }
    /// Gives a device addresses (`ADDRESS/BITS`).
    pub fn add(&self, device: &str, addresses: &[&str]) {
        for address in addresses {
            let mut args = vec!["addr", "add", address, "dev", device];
            if address.contains(':') {
                // Duplicate address detection would keep the address unusable for a second.
                args.push("nodad");
            }
            self.ip(&args);
        }
    }
    /// Addresses of pods: reachable inside this namespace, from nowhere else.
    pub fn pods(&self, addresses: &[&str]) {
        // A bridge without ports: kernels without dummy devices have it, too.
        self.ip(&["link", "add", "pods", "type", "bridge"]);
        self.ip(&["link", "set", "pods", "up"]);
        self.add("pods", addresses);
    }
    /// GETs a URL inside, over a proxy or directly; the status, `000` when there is no connection, and the body.
    #[must_use]
    pub fn curl(&self, args: &[&str]) -> (String, String) {
        let mut command = self.command(Path::new("curl"));
        command.args(["-sS", "--max-time", "5", "-w", "\n%{http_code}"]).args(args);
        let output = run(&mut command);
        let (body, status) = output.stdout.rsplit_once('\n').unwrap_or(("", "000"));
        (status.to_owned(), format!("{body}{}", output.stderr))
    }
}

/// The WAN: a bridge in a namespace of its own, to which clusters and the federator are cabled.
pub struct Wan {
    namespace: Namespace,
}

impl Wan {
    /// An empty WAN.
    #[must_use]
    pub fn new() -> Self {
        let namespace = Namespace::new("w");
        namespace.ip(&["link", "add", "wan", "type", "bridge"]);
        namespace.ip(&["link", "set", "wan", "up"]);
        Self { namespace }
    }
    /// Cables a namespace to the WAN, with its addresses there (`ADDRESS/BITS`).
    pub fn join(&self, member: &Namespace, addresses: &[&str]) {
        let (outer, inner) = (unique("o"), unique("i"));
        let own = &self.namespace.name;
        ip(&["link", "add", &outer, "netns", own, "type", "veth", "peer", "name", &inner, "netns", &member.name]);
        self.namespace.ip(&["link", "set", &outer, "master", "wan"]);
        self.namespace.ip(&["link", "set", &outer, "up"]);
        member.add(&inner, addresses);
        member.ip(&["link", "set", &inner, "up"]);
    }
}

impl Default for Wan {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _already_gone = Command::new("ip").args(["netns", "del", &self.name]).output();
    }
}
