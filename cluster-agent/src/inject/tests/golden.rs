use std::path::PathBuf;

use super::{injected, pod};

/// A pod with everything that injection looks at.
pub(super) const FULL: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  generateName: b-
  labels: {app: b}
  annotations:
    federation.meshfed.io/exclude-inbound-ports: "9090, 22"
    federation.meshfed.io/exclude-outbound-ports: "3306"
    federation.meshfed.io/exclude-outbound-cidrs: "192.0.2.0/24,2001:db8::/32"
    federation.meshfed.io/proxy-resources: '{"requests":{"cpu":"50m"},"limits":{"memory":"128Mi"}}'
spec:
  serviceAccountName: b
  securityContext: {runAsNonRoot: true, runAsUser: 1000, fsGroup: 2000}
  initContainers:
  - {name: migrate, image: b}
  - {name: cache, image: c, restartPolicy: Always, startupProbe: {tcpSocket: {port: 6379}}}
  containers:
  - name: app
    image: b
    ports: [{name: web, containerPort: 8080}, {name: rpc, containerPort: 9000}]
    livenessProbe: {httpGet: {path: /live, port: web, httpHeaders: [{name: X, value: "1"}]}, periodSeconds: 5}
    readinessProbe: {grpc: {port: 9000, service: b}, timeoutSeconds: 3}
    startupProbe: {exec: {command: [/started]}}
    resources: {limits: {memory: 1Gi}}
  - name: tls
    image: t
    livenessProbe: {httpGet: {path: /, port: 8443, scheme: HTTPS}}
    readinessProbe: {httpGet: {path: /, port: 80, host: example.com}}
  volumes: [{name: data, emptyDir: {}}]
"#;

const PLAIN: &str = "
apiVersion: v1
kind: Pod
metadata: {name: a}
spec: {containers: [{name: app, image: app}]}
";

const RESTRICTED: &str = "
apiVersion: v1
kind: Pod
metadata: {name: r, annotations: null}
spec:
  automountServiceAccountToken: false
  initContainers: null
  containers:
  - name: app
    image: app
    securityContext: {allowPrivilegeEscalation: false, runAsNonRoot: true, capabilities: {drop: [ALL]}, seccompProfile: {type: RuntimeDefault}}
";

fn cases() -> impl Iterator<Item = (PathBuf, String)> {
    [("plain", PLAIN), ("full", FULL), ("restricted", RESTRICTED)].into_iter().map(|(name, text)| {
        let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/inject/tests/golden");
        (dir.join(format!("{name}.yaml")), serde_saphyr::to_string(&injected(&pod(text))).unwrap())
    })
}

/// What injection makes, whole, in `golden/`.
///
/// Mutation seen to fail: `TOKEN_SECONDS` is 7200.
#[test]
fn injected_pods_are_as_they_are_written_down() {
    for (file, yaml) in cases() {
        assert_eq!(yaml, std::fs::read_to_string(&file).unwrap(), "{}", file.display());
    }
}

/// Writes them anew, to be read before they are committed: `cargo test -p meshfed-cluster-agent --lib golden -- --ignored`.
#[test]
#[ignore = "writes into the source tree"]
fn golden_files_are_written() {
    for (file, yaml) in cases() {
        std::fs::write(&file, &yaml).unwrap();
    }
}
