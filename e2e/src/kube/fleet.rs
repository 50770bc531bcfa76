//! Edge. The product on two whole clusters, installed as its users do: its own image and charts, the real Helm, members
//! joined by command, a service `b` in namespace `shop` of one cluster and a pod in the other that calls it.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use super::{Client, Cluster, helm, image};
use crate::binary::{meshfed, workspace};
use crate::process::run;

/// Time for images to start and objects to settle on a busy machine.
pub const SETTLES: Duration = Duration::from_secs(120);

/// Exports `b` of `shop`.
pub const EXPORT: &str =
    "{apiVersion: multicluster.x-k8s.io/v1beta1, kind: ServiceExport, metadata: {name: b, namespace: shop}}";

/// A pod that calls `b` when it is told to ([`Fleet::ask`]).
pub const CLIENT: &str = "apiVersion: v1
kind: Pod
metadata: {name: client, namespace: shop}
spec:
  containers: [{name: client, image: 'localhost/nettools:test', imagePullPolicy: Never, command: [sleep, infinity]}]
";

/// What one installation sets beside what every one sets; each is what follows `helm install`, say
/// `--set injection.default=all`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Values<'a> {
    /// Of `meshfed-hub`. Its volume dies with its pod, unless this says otherwise.
    pub hub: &'a str,
    /// Of `meshfed-cluster`, in both clusters.
    pub member: &'a str,
}

/// Values of a hub on the volume of [`Fleet::make_hub_volume`].
pub const HUB_ON_A_VOLUME: &str = "--set persistence.enabled=true --set persistence.size=64Mi";

/// Both clusters under one kubeconfig, as a user has them. The hub stands in east.
pub struct Fleet {
    /// The cluster with the hub, and with `b`.
    pub east: Cluster,
    /// The cluster that calls it.
    pub west: Cluster,
    scratch: tempfile::TempDir,
    kubeconfig: String,
}

/// A Deployment and a Service `b` in `shop`. The host name tells its cluster: pod addresses do not.
#[must_use]
pub fn application(cluster: &str) -> String {
    format!(
        "apiVersion: apps/v1
kind: Deployment
metadata: {{name: b, namespace: shop}}
spec:
  selector: {{matchLabels: {{app: b}}}}
  template:
    metadata: {{labels: {{app: b}}}}
    spec:
      hostname: b-{cluster}
      containers:
        - name: b
          image: localhost/agnhost:test
          imagePullPolicy: Never
          args: [netexec, --http-port=8080]
          ports: [{{containerPort: 8080}}]
          readinessProbe: {{httpGet: {{path: /healthz, port: 8080}}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {{name: b, namespace: shop}}
spec: {{selector: {{app: b}}, ports: [{{name: http, port: 8080}}]}}
"
    )
}

impl Fleet {
    /// Both clusters, and nothing of the product.
    ///
    /// # Panics
    /// When they do not start.
    #[must_use]
    pub fn start() -> Self {
        let (east, west) = Cluster::east_and_west();
        let kubeconfig = [&east, &west].map(|c| c.kubeconfig().display().to_string()).join(":");
        Self { east, west, scratch: tempfile::tempdir().expect("a temporary directory"), kubeconfig }
    }
    /// Both clusters with hub and members, joined.
    ///
    /// # Panics
    /// When a command fails.
    #[must_use]
    pub fn installed(values: &Values<'_>) -> Self {
        let fleet = Self::start();
        if values.hub.contains("persistence.enabled=true") {
            fleet.make_hub_volume();
        }
        fleet.install_and_join(values);
        fleet
    }
    /// One of the two, by name.
    #[must_use]
    pub fn cluster(&self, name: &str) -> &Cluster {
        if name == "east" { &self.east } else { &self.west }
    }
    /// A file of this fleet.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }
    /// Runs a command where both clusters can be reached, from the root of the repository.
    fn run(&self, mut command: Command, what: &str) -> String {
        run(command.env("KUBECONFIG", &self.kubeconfig).current_dir(workspace())).ok(what)
    }
    /// `helm --kube-context CONTEXT ARGUMENTS`, of which the contracts write some in one string.
    pub fn helm(&self, context: &str, args: &str) -> String {
        let mut command = helm(Some(&self.east), self.scratch.path());
        command.args(["--kube-context", context]).args(args.split_whitespace());
        self.run(command, &format!("helm --kube-context {context} {args}"))
    }
    /// `meshfed ARGUMENTS`, on the user's machine.
    pub fn meshfed(&self, args: &[&str]) -> String {
        let mut command = self.east.command(meshfed());
        command.args(args);
        self.run(command, &format!("meshfed {}", args.join(" ")))
    }
    /// `meshfed ARGUMENTS` in the hub's pod, with the hub's credentials.
    pub fn hub(&self, args: &[&str]) -> String {
        let command = [&["/meshfed"], args].concat();
        self.east.exec("meshfed-hub", "deploy/meshfed-hub", &command).ok(&format!("/meshfed {}", args.join(" ")))
    }

    /// Kinds, hub, members; every command is that of the contracts.
    pub fn install_and_join(&self, values: &Values<'_>) {
        self.load();
        for context in ["east", "west"] {
            self.helm(context, "install meshfed-crds helm/meshfed-crds");
        }
        self.install_hub(values.hub);
        for name in ["east", "west"] {
            self.install_member(name, values.member);
            self.join(name);
        }
    }
    /// The image under test on both nodes.
    pub fn load(&self) {
        let (archive, _reference) = image();
        for cluster in [&self.east, &self.west] {
            cluster.load(archive);
        }
    }
    /// `helm install` of the hub in east.
    pub fn install_hub(&self, values: &str) {
        self.helm("east", &format!("install {} --create-namespace --wait", hub_arguments("helm/meshfed-hub", values)));
    }
    /// `helm install` of a member.
    pub fn install_member(&self, name: &str, values: &str) {
        let arguments = member_arguments("helm/meshfed-cluster", name, values);
        self.helm(name, &format!("install {arguments} --create-namespace --wait"));
    }
    /// A PersistentVolume on east's node, as an administrator without a provisioner makes it. The hub's claim takes it.
    pub fn make_hub_volume(&self) {
        let _made = self.east.in_node(&["mkdir", "-p", "/var/lib/hub-volume"]).ok("mkdir");
        // The kubelet gives no hostPath to the pod's group.
        let _opened = self.east.in_node(&["chmod", "0777", "/var/lib/hub-volume"]).ok("chmod");
        self.east.apply(
            "apiVersion: v1
kind: PersistentVolume
metadata: {name: hub}
spec:
  capacity: {storage: 64Mi}
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: Retain
  hostPath: {path: /var/lib/hub-volume, type: Directory}
",
        );
    }
    /// A token from the hub, and `meshfed join --kube` with it.
    pub fn join(&self, name: &str) {
        let network = format!("net-{name}=10.244.0.0/16");
        let gateway = format!("{}/32", node_ip(name));
        let token = self.hub(&[
            "token",
            "create",
            "--cluster",
            name,
            "--network",
            &network,
            "--gateway-cidr",
            &gateway,
            "--region",
            name,
        ]);
        let file = self.file(&format!("{name}.token"));
        std::fs::write(&file, token).expect("a token file");
        let file = file.display().to_string();
        self.meshfed(&["join", "https://172.30.0.11:31560", "--token-file", &file, "--kube", "--context", name]);
    }

    /// Namespace `shop` in both clusters, with injection.
    pub fn shop(&self) {
        for cluster in [&self.east, &self.west] {
            namespace(cluster, "shop");
        }
    }
    /// `b` with its export in east, and a client in west, ready.
    pub fn deploy(&self) {
        self.shop();
        self.east.apply(&application("east"));
        self.east.apply(EXPORT);
        self.west.apply(CLIENT);
        let _ready = self.east.ok(&["-n", "shop", "rollout", "status", "deployment/b", "--timeout=120s"]);
        let _ready = self.west.ok(&["-n", "shop", "wait", "--for=condition=Ready", "pod/client", "--timeout=120s"]);
    }
    /// What a request from the client in west is answered: status and body.
    #[must_use]
    pub fn ask(&self, url: &str) -> (String, String) {
        let curl = ["curl", "-s", "-m5", "-w", "\n%{http_code}", url];
        let output = self.west.exec("shop", "pod/client", &curl);
        let (body, status) = output.stdout.rsplit_once('\n').unwrap_or(("", &output.stdout));
        (status.to_owned(), body.to_owned())
    }
    /// A folder for logs of this fleet's processes.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.file("logs")
    }
}

/// The address of a cluster's node.
#[must_use]
pub fn node_ip(name: &str) -> &'static str {
    if name == "east" { "172.30.0.11" } else { "172.30.0.12" }
}

/// A namespace with injection, whose account is there: pods may be made.
pub fn namespace(cluster: &Client, name: &str) {
    cluster.apply(&format!(
        "{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}, labels: {{federation.meshfed.io/injection: enabled}}}}}}"
    ));
    cluster.until(&["-n", name, "get", "serviceaccount", "default", "-o", "name"], "serviceaccount/default", SETTLES);
}

/// `RELEASE CHART -n NAMESPACE VALUES` of the hub in the contracts, for `install`, `upgrade` and `template`.
#[must_use]
pub fn hub_arguments(chart: &str, values: &str) -> String {
    format!(
        "hub {chart} -n meshfed-hub {} --set fleet=mesh.example --set persistence.enabled=false \
         --set service.type=NodePort --set service.nodePorts.grpc=31560 --set service.nodePorts.http=31580 \
         --set advertise={{172.30.0.11:31560}} --set http.advertise={{172.30.0.11:31580}} {values}",
        image_values()
    )
}

/// The same of a member.
#[must_use]
pub fn member_arguments(chart: &str, name: &str, values: &str) -> String {
    format!(
        "meshfed {chart} -n meshfed-system {} --set gateway.network=net-{name} --set gateway.service.type=NodePort \
         --set gateway.service.nodePort=31443 --set gateway.addresses={{{}:31443}} {values}",
        image_values(),
        node_ip(name)
    )
}

fn image_values() -> String {
    let (_archive, reference) = image();
    let repository = reference.rsplit_once(':').map_or(reference.as_str(), |(repository, _tag)| repository);
    format!("--set image.repository={repository} --set image.pullPolicy=Never")
}
