//! One cluster, its agent beside a real API server, and pods that are objects only: their tokens are what counts.
#![allow(dead_code, unreachable_pub, reason = "shared by test files that use parts of it")]

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use meshfed_e2e::binary::meshfed;
use meshfed_e2e::fleet::{Fleet, Range};
use meshfed_e2e::http;
use meshfed_e2e::kube::{ApiServer, Client};
use meshfed_e2e::objects::{self, Workload};
use meshfed_e2e::process::{Process, run};
use meshfed_e2e::wait::until;
use serde_json::Value;

/// Where the release is.
pub const RELEASE: &str = "meshfed-system";

/// What it injects.
pub const INJECTION: &str =
    "{releaseNamespace: meshfed-system, image: 'localhost/meshfed:0.1.0', imagePullPolicy: Never}\n";

/// What the agent's account may do for attestation and injection, as its chart says (`security.md` 2.10, HE1).
const ROLE: &str = r"
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Namespace
metadata: {name: meshfed-system}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: meshfed-agent, namespace: meshfed-system}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: meshfed-agent}
rules:
- {apiGroups: [authentication.k8s.io], resources: [tokenreviews], verbs: [create]}
- {apiGroups: [''], resources: [pods, namespaces], verbs: [get, list, watch]}
- {apiGroups: [''], resources: [configmaps], verbs: [create]}
- {apiGroups: [''], resources: [configmaps], resourceNames: [meshfed-trust], verbs: [get, patch, delete]}
- {apiGroups: [admissionregistration.k8s.io], resources: [mutatingwebhookconfigurations], resourceNames: [meshfed-injector], verbs: [get, patch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: meshfed-agent}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: meshfed-agent}
subjects: [{kind: ServiceAccount, name: meshfed-agent, namespace: meshfed-system}]
";

/// A pod and its account.
pub fn pod(name: &str, account: &str) -> String {
    format!(
        "apiVersion: v1
kind: ServiceAccount
metadata: {{name: {account}, namespace: shop}}
---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: shop}}
spec: {{serviceAccountName: {account}, containers: [{{name: app, image: app}}]}}
"
    )
}

/// A token as the kubelet asks for it, bound to the pod that has this name now.
pub fn bound_token(api: &Client, account: &str, pod: &str, audience: &str) -> String {
    let uid = api.ok(&["-n", "shop", "get", "pod", pod, "-o", "jsonpath={.metadata.uid}"]);
    let audience = format!("--audience={audience}");
    let flags = ["--bound-object-kind=Pod", "--bound-object-name", pod, "--bound-object-uid", uid.trim()];
    let args = [&["-n", "shop", "create", "token", account, "--duration=1h", &audience], &flags[..]].concat();
    api.ok(&args).trim().to_owned()
}

/// The token as it would be after it has expired: signed by the API server's own key.
pub fn expired(api: &ApiServer, token: &str) -> String {
    let mut parts = token.split('.');
    let (header, payload) = (parts.next().unwrap(), parts.next().unwrap());
    let mut claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap();
    let issued = claims["iat"].as_u64().unwrap();
    for (claim, before) in [("iat", 7200), ("nbf", 7200), ("exp", 60)] {
        claims[claim] = (issued - before).into();
    }
    let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
    let key = run(Command::new("openssl").args(["pkcs8", "-topk8", "-nocrypt", "-in"]).arg(api.file("pki/sa.key")));
    let pem = key.ok("openssl pkcs8");
    let body: String = pem.lines().filter(|l| !l.starts_with('-')).collect();
    let der = base64::engine::general_purpose::STANDARD.decode(body).unwrap();
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &der).unwrap();
    let signature = pair.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
}

pub struct World {
    pub agent: Process,
    /// How it was started.
    start: Command,
    pub api: ApiServer,
    pub range: Range,
    pub fleet: Fleet,
}

impl World {
    /// Joins `east`, and starts its agent with the rights of its chart and, where no flag says else, SVIDs of ten seconds.
    pub fn start() -> Self {
        Self::start_with(ApiServer::start(), &[], "")
    }
    /// As [`Self::start`], beside this API server, with more flags, and more objects before the start. `{HOST}` in a flag
    /// is the agent's address; `{DIR}` the directory of the test.
    pub fn start_with(api: ApiServer, flags: &[&str], objects: &str) -> Self {
        let (fleet, range) = (Fleet::start(), Range::take());
        api.apply(ROLE);
        api.apply(&pod("a-1", "a"));
        if !objects.is_empty() {
            api.apply(&objects.replace("{HOST}", &range.host(1).to_string()));
        }
        let network = format!("net-east={}", range.cidr());
        let token = fleet.token(None, "east", &["--region", "eu", "--zone", "eu-1", "--network", &network]);
        let _joined = fleet.join(None, &token, "east").ok("join");
        let source = fleet.path("source");
        std::fs::create_dir_all(&source).unwrap();
        let workload = objects::workload(&Workload {
            name: "a-1",
            namespace: "shop",
            app: "a",
            service_account: "a",
            addresses: &[range.host(10)],
            port: ("http", 8080),
            network: "net-east",
            locality: "eu/eu-1",
            annotations: &[],
        });
        std::fs::write(source.join("a.yaml"), workload).unwrap();
        let account = api.as_account(RELEASE, "meshfed-agent");
        let mut start = Command::new(meshfed());
        start.args(["agent", "--data-dir"]).arg(fleet.path("east"));
        start.arg("--kubeconfig").arg(account.kubeconfig());
        start.arg("--source").arg(format!("dir:{}", source.display()));
        if !flags.contains(&"--svid-ttl") {
            start.args(["--svid-ttl", "10s"]);
        }
        start.args(["--bind", &range.host(1).to_string(), "--namespace", RELEASE]);
        let (host, dir) = (range.host(1).to_string(), fleet.dir.path().display().to_string());
        start.args(flags.iter().map(|f| f.replace("{HOST}", &host).replace("{DIR}", &dir)));
        std::fs::write(fleet.path("injection.yaml"), INJECTION).unwrap();
        let agent = Process::start("agent", &fleet.path("logs"), &mut start);
        let mut world = Self { agent, start, api, range, fleet };
        world.until_ready();
        world
    }
    /// Joins `east` anew, with another CA, and starts its agent again.
    pub fn join_anew(&mut self) {
        let _ended = self.agent.stop();
        std::fs::rename(self.fleet.path("east"), self.fleet.path("east.first")).unwrap();
        let network = format!("net-east={}", self.range.cidr());
        let flags = ["--region", "eu", "--zone", "eu-1", "--network", &network, "--replace"];
        let token = self.fleet.token(None, "east", &flags);
        let mut join = Command::new(meshfed());
        join.args(["join", &self.fleet.grpc(), "--replace", "--token-file"]).arg(&token);
        let _joined = run(join.arg("--data-dir").arg(self.fleet.path("east"))).ok("join --replace");
        self.agent = Process::start("agent", &self.fleet.path("logs"), &mut self.start);
        self.until_ready();
    }
    fn until_ready(&mut self) {
        let admin: SocketAddr = (self.range.host(1), 15014).into();
        until("the agent is ready", Duration::from_secs(60), || {
            self.agent.assert_alive();
            let answer = http::get(admin, "/readyz")?;
            if answer.status == 200 { Ok(()) } else { Err(answer.body) }
        });
    }
    /// Its xDS over TCP.
    pub fn target(&self) -> String {
        format!("{}:15012", self.range.host(1))
    }
    /// The cluster's anchor: what `meshfed-trust` holds.
    pub fn anchors(&self) -> PathBuf {
        self.fleet.path("east/ca/anchor.pem")
    }
    /// How many attestations had this result.
    pub fn attested(&self, result: &str) -> f64 {
        let admin: SocketAddr = (self.range.host(1), 15014).into();
        http::metric(admin, "meshfed_attestations_total", &[&format!("result=\"{result}\"")]).unwrap_or(0.0)
    }
    /// A proxy in the place of one in a pod, and the file of its token.
    pub fn proxy(&self, name: &str, workload: &str, token: &str, bind: IpAddr) -> (Process, PathBuf) {
        self.proxy_with(name, workload, token, bind, &[])
    }
    /// As [`Self::proxy`], with more flags.
    pub fn proxy_with(
        &self,
        name: &str,
        workload: &str,
        token: &str,
        bind: IpAddr,
        flags: &[&str],
    ) -> (Process, PathBuf) {
        let file = self.fleet.path(&format!("{name}.token"));
        std::fs::write(&file, token).unwrap();
        let mut start = Command::new(meshfed());
        start.args(["proxy", "--agent", &self.target(), "--workload", workload, "--app-probe", "off"]);
        start.args(["--bind", &bind.to_string(), "--agent-namespace", RELEASE]);
        start.arg("--token-file").arg(&file).arg("--trust-file").arg(self.anchors());
        start.arg("--run-dir").arg(self.fleet.path(&format!("run-{name}"))).args(flags);
        (Process::start(name, &self.fleet.path("logs"), &mut start), file)
    }
}
