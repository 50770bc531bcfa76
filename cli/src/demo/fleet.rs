//! Pure but for making directories and writing files. The demo's clusters: names, addresses, and the objects in each one's directory.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, UdpSocket};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};

/// One cluster of the demo, with one service of the sample application.
pub struct Cluster {
    /// Its name.
    pub name: &'static str,
    /// Its region.
    pub region: &'static str,
    /// Its zone.
    pub zone: &'static str,
    /// The service that runs in it.
    pub service: &'static str,
    /// The service that its service asks.
    pub upstream: Option<&'static str>,
    /// The second octet of its loopback range.
    pub octet: u8,
}

/// The clusters in the order of the request's way.
const CLUSTERS: [(&str, &str, &str, &str, Option<&str>); 3] = [
    ("west", "us", "us-1", "a", Some("b")),
    ("east", "eu", "eu-1", "b", Some("c")),
    ("south", "ap", "ap-1", "c", None),
];

/// Where the application of a sidecar listens, beside the mesh port.
pub const APP_PORT: u16 = 18080;
/// The port of every service.
pub const SERVICE_PORT: u16 = 8080;
/// The east-west gateway's port.
pub const GATEWAY_PORT: u16 = 15443;
/// The sidecar's outbound port.
const OUTBOUND_PORT: u16 = 15001;
/// The metrics port of a proxy.
const METRICS_PORT: u16 = 15020;
/// The first and last second octet that the demo tries for its loopback ranges.
const OCTETS: std::ops::Range<u8> = 70..190;

impl Cluster {
    /// The network's name.
    pub fn network(&self) -> String {
        format!("net-{}", self.name)
    }
    /// The network's range.
    pub fn cidr(&self) -> String {
        format!("127.{}.0.0/16", self.octet)
    }
    /// The host that the agent and the gateway use.
    pub fn host(&self) -> Ipv4Addr {
        Ipv4Addr::new(127, self.octet, 0, 1)
    }
    /// The workload's address.
    pub fn workload(&self) -> Ipv4Addr {
        Ipv4Addr::new(127, self.octet, 0, 10)
    }
    /// The gateway's address.
    pub fn gateway(&self) -> SocketAddr {
        (self.host(), GATEWAY_PORT).into()
    }
    /// Where the sidecar takes outbound requests.
    pub fn outbound(&self) -> SocketAddr {
        (self.workload(), OUTBOUND_PORT).into()
    }
    /// Where the gateway tells its metrics.
    pub fn gateway_metrics(&self) -> SocketAddr {
        (self.host(), METRICS_PORT).into()
    }
    /// Where the application listens behind its sidecar.
    pub fn application(&self) -> SocketAddr {
        (self.workload(), APP_PORT).into()
    }
    /// The host name that other services use.
    pub fn upstream_authority(&self) -> Option<String> {
        self.upstream.map(|s| format!("{s}.shop.svc.clusterset.local:{SERVICE_PORT}"))
    }
    /// `NAMESPACE/SERVICE_ACCOUNT` of the workload.
    pub fn workload_name(&self) -> String {
        format!("shop/{}", self.service)
    }

    /// The objects of the cluster, as a platform team would keep them in git.
    fn objects(&self) -> String {
        let Self { name, region, zone, service, .. } = self;
        let (network, host, workload) = (self.network(), self.host(), self.workload());
        format!(
            "# The gateway through which other networks reach this cluster.
apiVersion: v1
kind: Service
metadata:
  name: eastwest
  namespace: meshfed-system
  labels: {{topology.istio.io/network: {network}}}
  annotations: {{federation.meshfed.io/gateway-addresses: \"{host}:{GATEWAY_PORT}\"}}
spec:
  selector: {{app: eastwest}}
  ports: [{{name: tls, port: {GATEWAY_PORT}}}]
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: eastwest-1, namespace: meshfed-system}}
spec: {{address: {host}, ports: {{tls: {GATEWAY_PORT}}}, labels: {{app: eastwest}}, serviceAccount: eastwest, network: {network}, locality: {region}/{zone}}}
---
# The service of the sample application that runs here.
apiVersion: v1
kind: Service
metadata: {{name: {service}, namespace: shop}}
spec:
  selector: {{app: {service}}}
  ports: [{{name: http, port: {SERVICE_PORT}, targetPort: {SERVICE_PORT}}}]
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: {service}-{name}-1, namespace: shop}}
spec: {{address: {workload}, ports: {{http: {SERVICE_PORT}}}, labels: {{app: {service}, version: v1}}, serviceAccount: {service}, network: {network}, locality: {region}/{zone}}}
---
# Other clusters may use it.
apiVersion: multicluster.x-k8s.io/v1beta1
kind: ServiceExport
metadata: {{name: {service}, namespace: shop}}
"
        )
    }
}

/// Where a demo says that a range is its own: an address that none of its processes uses.
const CLAIM: (u8, u16) = (254, 15443);

/// The demo's clusters, whose loopback ranges are its own for as long as this lives.
pub struct Claimed {
    /// The clusters.
    pub clusters: Vec<Cluster>,
    /// Bound and never read: no other demo can bind it. Without it, two demos that start together would both find the
    /// same range free, since neither binds the addresses in it before its processes start.
    _claim: UdpSocket,
}

/// Picks loopback ranges that nothing uses, so that demos can run side by side.
pub fn clusters() -> anyhow::Result<Claimed> {
    let count = u8::try_from(CLUSTERS.len())?;
    let (first, claim) = OCTETS
        .step_by(usize::from(count))
        .find_map(|first| {
            let claim = UdpSocket::bind((Ipv4Addr::new(127, first, 255, CLAIM.0), CLAIM.1)).ok()?;
            (0..count).all(|i| is_free(first + i)).then_some((first, claim))
        })
        .context("no free loopback range between 127.70.0.0 and 127.190.0.0: stop other demos")?;
    let clusters = CLUSTERS
        .into_iter()
        .zip(first..)
        .map(|((name, region, zone, service, upstream), octet)| Cluster {
            name,
            region,
            zone,
            service,
            upstream,
            octet,
        })
        .collect();
    Ok(Claimed { clusters, _claim: claim })
}

/// Whether the addresses that a demo needs in 127.`octet`.0.0/16 can be bound.
fn is_free(octet: u8) -> bool {
    [(1, GATEWAY_PORT), (10, OUTBOUND_PORT), (10, SERVICE_PORT), (10, APP_PORT)]
        .iter()
        .all(|(last, port)| TcpListener::bind(SocketAddrV4::new(Ipv4Addr::new(127, octet, 0, *last), *port)).is_ok())
}

/// The longest path of a Unix socket, in bytes.
const SOCKET_PATH_MAX: usize = 107;
/// How many names a temporary directory tries.
const TRIES: u32 = 100;

/// Makes the directory of the demo's files: `dir`, or a temporary one.
pub fn root(dir: Option<PathBuf>, clusters: &[Cluster]) -> anyhow::Result<PathBuf> {
    let temporary = dir.is_none();
    let candidates: Vec<PathBuf> = match dir {
        Some(dir) => vec![std::path::absolute(dir)?],
        None => {
            (0..TRIES).map(|n| std::env::temp_dir().join(format!("meshfed-demo-{}-{n}", std::process::id()))).collect()
        }
    };
    for root in candidates {
        let longest = clusters.iter().map(|c| root.join(c.name).join("run/workload.sock").as_os_str().len()).max();
        ensure!(
            longest.unwrap_or_default() <= SOCKET_PATH_MAX,
            "{} is too long a path: the sockets in it would have {} bytes, at most {SOCKET_PATH_MAX} are possible; \
             name a shorter --dir",
            root.display(),
            longest.unwrap_or_default()
        );
        ensure!(
            temporary || !root.join("demo.json").exists(),
            "{} holds an earlier demo: remove it, or name another --dir",
            root.display()
        );
        // A temporary directory must be ours alone: one that is there already is passed over.
        match std::fs::DirBuilder::new().recursive(!temporary).mode(0o711).create(&root) {
            Ok(()) => return Ok(root),
            Err(error) if temporary && error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).with_context(|| format!("cannot create {}", root.display())),
        }
    }
    bail!("{} is full of earlier demos: remove them, or name a --dir", std::env::temp_dir().display())
}

/// Writes the objects of a cluster below `root`; gives the directory that its agent reads.
pub fn write_objects(root: &Path, cluster: &Cluster) -> anyhow::Result<PathBuf> {
    let dir = root.join("fleet").join(cluster.name);
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let file = dir.join(format!("{}.yaml", cluster.name));
    std::fs::write(&file, cluster.objects()).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mutation seen to fail: `clusters` without its claim.
    #[test]
    fn demos_that_start_together_take_different_ranges() {
        let (one, other) = (clusters().unwrap(), clusters().unwrap());
        let octets = |claimed: &Claimed| claimed.clusters.iter().map(|c| c.octet).collect::<Vec<_>>();
        assert!(octets(&one).iter().all(|octet| !octets(&other).contains(octet)));
    }
}
