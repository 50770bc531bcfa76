//! Pure. The objects of a cluster's directory, as text.

use std::fmt::Write as _;
use std::net::IpAddr;

/// What the chart of a member makes in the namespace of its release, as far as an agent and the command line look for it: the
/// empty Secret of the identity, and the Deployment.
pub const RELEASE: &str = "
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

/// A gateway: its Service with the addresses that other networks dial, and one WorkloadEntry.
#[must_use]
pub fn gateway(name: &str, network: &str, own: &[IpAddr], advertised: &[String], locality: &str) -> String {
    let addresses = advertised.join(",");
    let mut out = format!(
        "apiVersion: v1
kind: Service
metadata:
  name: {name}
  namespace: meshfed-system
  labels: {{topology.istio.io/network: {network}}}
  annotations: {{federation.meshfed.io/gateway-addresses: \"{addresses}\"}}
spec:
  selector: {{app: {name}}}
  ports: [{{name: tls, port: 15443}}]
---
"
    );
    out.push_str(&workload(&Workload {
        name: &format!("{name}-1"),
        namespace: "meshfed-system",
        app: name,
        service_account: "eastwest",
        addresses: own,
        port: ("tls", 15443),
        network,
        locality,
        annotations: &[],
    }));
    out
}

/// A service with one port.
#[must_use]
pub fn service(namespace: &str, name: &str, port_name: &str, port: u16) -> String {
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  selector: {{app: {name}}}
  ports: [{{name: {port_name}, port: {port}, targetPort: {port}}}]
---
"
    )
}

/// A WorkloadEntry.
pub struct Workload<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its namespace.
    pub namespace: &'a str,
    /// Label `app`.
    pub app: &'a str,
    /// Its service account.
    pub service_account: &'a str,
    /// Its addresses, the first of them in `address`.
    pub addresses: &'a [IpAddr],
    /// Port name and number.
    pub port: (&'a str, u16),
    /// Its network.
    pub network: &'a str,
    /// `region/zone`.
    pub locality: &'a str,
    /// More annotations.
    pub annotations: &'a [(&'a str, &'a str)],
}

/// The WorkloadEntry as text.
#[must_use]
pub fn workload(w: &Workload<'_>) -> String {
    let first = w.addresses.first().map(ToString::to_string).unwrap_or_default();
    let rest: Vec<String> = w.addresses.iter().skip(1).map(ToString::to_string).collect();
    let mut annotations = String::new();
    if !rest.is_empty() {
        let _infallible = write!(annotations, "federation.meshfed.io/addresses: \"{}\", ", rest.join(","));
    }
    for (key, value) in w.annotations {
        let _infallible = write!(annotations, "{key}: \"{value}\", ");
    }
    format!(
        "apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: {}, namespace: {}, annotations: {{{}}}}}
spec: {{address: \"{first}\", ports: {{{}: {}}}, labels: {{app: {}}}, serviceAccount: {}, network: {}, locality: {}}}
---
",
        w.name,
        w.namespace,
        annotations.trim_end_matches(", "),
        w.port.0,
        w.port.1,
        w.app,
        w.service_account,
        w.network,
        w.locality
    )
}

/// A ServiceExport.
#[must_use]
pub fn export(namespace: &str, name: &str) -> String {
    format!(
        "apiVersion: multicluster.x-k8s.io/v1beta1
kind: ServiceExport
metadata: {{name: {name}, namespace: {namespace}}}
---
"
    )
}

/// A Service with an HTTP port 8080, and its export.
#[must_use]
pub fn exported(namespace: &str, name: &str) -> String {
    service(namespace, name, "http", 8080) + &export(namespace, name)
}
