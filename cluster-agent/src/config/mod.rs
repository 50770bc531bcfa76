//! Edge. The agent's flags and files, all errors at once (`contracts.md` 1.2, 1.5).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use meshfed_model::names::Namespace;
use meshfed_runtime::config::Problems;
use meshfed_runtime::files;
use meshfed_runtime::grpc::UNIX_PATH_MAX;
use meshfed_runtime::listen::ListenFlag;
use meshfed_runtime::telemetry::LogFormat;

use crate::enroll::AgentFile;
use crate::identity::{Authority, AuthorityError};
use crate::inject::InjectConfig;
use crate::mirror::quota;

#[cfg(test)]
mod tests;

/// Default of `--xds-listen`.
pub const XDS_PORT: u16 = 15012;
/// Default of `--admin-listen`.
pub const ADMIN_PORT: u16 = 15014;
/// Default of `--namespace` where nobody says.
const RELEASE_NAMESPACE: &str = "meshfed-system";
/// The socket of xDS, in the run directory.
const XDS_SOCKET: &str = "xds.sock";
/// The socket of the SPIFFE Workload API, in the run directory.
const WORKLOAD_SOCKET: &str = "workload.sock";
/// The shortest `--svid-ttl`: below it, renewals would be the agent's main work.
const SVID_TTL_MIN: Duration = Duration::from_secs(10);
/// The shortest `--webhook-certificate-ttl`: a new CA is to be known to API servers before the old one ends.
const WEBHOOK_TTL_MIN: Duration = Duration::from_secs(20);
/// The largest `--injection-config`.
const INJECTION_MAX: usize = 64 * 1024;
/// The largest PEM file that is read.
const PEM_MAX: usize = 256 * 1024;

/// `meshfed agent`.
#[derive(Debug, Clone, clap::Args)]
pub struct AgentArgs {
    /// The directory that `meshfed join` made
    #[arg(long, value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Where this cluster's objects are: dir:PATH reads every .yaml, .yml and .json file below PATH, kubernetes reads the
    /// API server; both follow changes
    #[arg(long, value_name = "dir:PATH|kubernetes")]
    pub source: String,
    /// With --source kubernetes: the namespace of a hub in this cluster, whose policies are the fleet's and not this
    /// cluster's
    #[arg(long, value_name = "NAME", default_value = "meshfed-hub")]
    pub fleet_namespace: String,
    /// Host of all TCP listeners; with a loopback address of its own each, several agents share a machine
    /// [default: xDS on all addresses, admin on 127.0.0.1]
    #[arg(long, value_name = "HOST")]
    pub bind: Option<String>,
    /// xDS over mutual TLS, several times; off leaves the Unix socket alone [default: BIND:15012]
    #[arg(long, value_name = "HOST:PORT|off")]
    pub xds_listen: Vec<ListenFlag>,
    /// Health, metrics and debug pages, several times [default: 15014 on --bind where that is loopback, else on
    /// 127.0.0.1]; other than loopback addresses show health and metrics only
    #[arg(long, value_name = "HOST:PORT|off")]
    pub admin_listen: Vec<ListenFlag>,
    /// DNS for clusterset.local, over UDP and TCP, several times [default: off]
    #[arg(long, value_name = "HOST:PORT|off")]
    pub dns_listen: Vec<ListenFlag>,
    /// The kubeconfig of this cluster, with --source kubernetes or without: proxies of pods are attested by service-account
    /// tokens then, and xDS over TCP shows spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/meshfed-agent [default: KUBECONFIG, ~/.kube/config, the pod's account]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// With --source kubernetes: a context of the kubeconfig [default: its current one]
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
    /// The namespace of this release: a PeerAuthentication in it holds for the whole mesh [default: with --source
    /// kubernetes that of the pod or of the context, else meshfed-system]
    #[arg(long, value_name = "NAMESPACE", env = "POD_NAMESPACE")]
    pub namespace: Option<String>,
    /// With --source kubernetes: which of the agents of this release it is, a pod's name; they share one identity, and the
    /// holder of Lease meshfed-agent joins, offers and writes [default: it is the only one]
    #[arg(long, value_name = "NAME", env = "POD_NAME")]
    pub instance: Option<String>,
    /// With --source kubernetes: the only Secret of its namespace that a Membership may name for its token
    #[arg(long, value_name = "NAME", default_value = "meshfed-join")]
    pub token_secret: String,
    /// With --source kubernetes: imports that one other cluster may cause here, 1 to 10000; what it exports beyond waits
    #[arg(long, value_name = "N", default_value_t = quota::PER_CLUSTER, value_parser = import_limit)]
    pub imports_per_cluster: usize,
    /// With --source kubernetes: those of them in one namespace, 1 to 10000
    #[arg(long, value_name = "N", default_value_t = quota::PER_NAMESPACE, value_parser = import_limit)]
    pub imports_per_namespace: usize,
    /// With --source kubernetes: keep the last good view in Secrets meshfed-view-0 to -7, too, for a pod without a volume
    #[arg(long)]
    pub keep_view: bool,
    /// What is injected into pods, as YAML; makes ConfigMap meshfed-trust be kept in all namespaces with injection
    #[arg(long, value_name = "FILE")]
    pub injection_config: Option<PathBuf>,
    /// HTTPS of the mutating webhook, several times [default: off]
    #[arg(long, value_name = "HOST:PORT|off", requires = "injection_config")]
    pub webhook_listen: Vec<ListenFlag>,
    /// The MutatingWebhookConfiguration whose caBundle is this agent's
    #[arg(long, value_name = "NAME", default_value = crate::webhook::CONFIGURATION)]
    pub webhook_configuration: String,
    /// Life of the webhook's certificate, from 20s; it is made anew at half of it
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = duration)]
    pub webhook_certificate_ttl: Duration,
    /// Where the sockets and addresses.json are [default: run in the data directory]
    #[arg(long, value_name = "DIR")]
    pub run_dir: Option<PathBuf>,
    /// Life of the certificates of workloads, from 10s to 24h; they are renewed at half of it
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = duration)]
    pub svid_ttl: Duration,
    /// Time for streams to end after SIGTERM
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub drain_timeout: Duration,
    /// Form of the logs on stderr
    #[arg(long, value_name = "FORMAT", default_value_t)]
    pub log_format: LogFormat,
    /// error, warn, info, debug, trace, or directives such as info,meshfed_cluster_agent=debug
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log_level: String,
}

/// What `--injection-config` says; it is about the namespace of this release.
pub(crate) fn injection(args: &AgentArgs, problems: &mut Problems) -> Option<Arc<InjectConfig>> {
    if args.webhook_certificate_ttl < WEBHOOK_TTL_MIN {
        let text = format!("{:?} is shorter than 20s", args.webhook_certificate_ttl);
        problems.flag("MF0113", "--webhook-certificate-ttl", text);
    }
    let path = args.injection_config.as_deref()?;
    let read = files::read_text(path, INJECTION_MAX).map_err(|e| chain(&e));
    let config = read.and_then(|text| InjectConfig::read(&text).map_err(|e| e.to_string()));
    if !has_api_server(args) {
        problems.flag("MF0118", "--injection-config", "needs an API server: --source kubernetes, or --kubeconfig");
    }
    let named = args.namespace.as_deref().unwrap_or(RELEASE_NAMESPACE);
    match config {
        Ok(config) if config.release_namespace.as_str() == named => Some(Arc::new(config)),
        Ok(config) => {
            let text = format!("releaseNamespace is {}, --namespace is {named}", config.release_namespace);
            problems.file("MF0118", path.display().to_string(), text);
            None
        }
        Err(text) => {
            problems.file("MF0118", path.display().to_string(), text);
            None
        }
    }
}

/// The sockets must have room in an address.
fn check_sockets(run_dir: &Path, problems: &mut Problems) {
    for name in [XDS_SOCKET, WORKLOAD_SOCKET] {
        let socket = run_dir.join(name);
        let length = socket.as_os_str().len();
        if length > UNIX_PATH_MAX {
            let text = format!(
                "the socket path {} has {length} bytes, at most {UNIX_PATH_MAX} are possible; give a shorter directory with --run-dir",
                socket.display()
            );
            problems.flag("MF0104", "--run-dir", text);
        }
    }
}

/// `10s`, `500ms`, `1m`.
fn import_limit(text: &str) -> Result<usize, String> {
    let limit = text.parse().map_err(|error| format!("'{text}': {error}"))?;
    if !(1..=quota::LIMIT_MAX).contains(&limit) {
        return Err(format!("is {limit}; write 1 to {}, as many as the hub takes of one cluster", quota::LIMIT_MAX));
    }
    Ok(limit)
}

fn duration(text: &str) -> Result<Duration, String> {
    let signed: jiff::SignedDuration = text.parse().map_err(|e| format!("{e}; for example 10s or 500ms"))?;
    Duration::try_from(signed).map_err(|_negative| "a duration is not negative".to_owned())
}

/// `--source`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// `dir:PATH`.
    Directory(PathBuf),
    /// `kubernetes`.
    Kubernetes,
}
impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Directory(path) => write!(f, "dir:{}", path.display()),
            Self::Kubernetes => f.write_str("kubernetes"),
        }
    }
}

/// Everything an agent needs to be built.
#[derive(Debug)]
pub struct Config {
    /// The flags.
    pub args: AgentArgs,
    /// Where the objects are.
    pub source: Source,
    /// The agent's own namespace.
    pub namespace: Namespace,
    /// `E/run` or `--run-dir`.
    pub run_dir: PathBuf,
    /// Where xDS listens on TCP.
    pub xds: Vec<ListenFlag>,
    /// Where the admin port listens.
    pub admin: Vec<ListenFlag>,
    /// `--injection-config`.
    pub inject: Option<Arc<InjectConfig>>,
    /// `E/agent.yaml`.
    pub agent: AgentFile,
    /// The cluster's CA.
    pub authority: Authority,
    /// The agent's own certificate, PEM.
    pub identity_certificate: String,
    /// The agent's own key, PEM.
    pub identity_key: zeroize::Zeroizing<String>,
}

/// Whether there is an API server to ask.
fn has_api_server(args: &AgentArgs) -> bool {
    args.source == "kubernetes" || args.kubeconfig.is_some()
}

impl Config {
    /// Whether there is an API server: pods are attested by it then.
    #[must_use]
    pub fn has_api_server(&self) -> bool {
        has_api_server(&self.args)
    }
    /// The Unix socket of xDS.
    #[must_use]
    pub fn xds_socket(&self) -> PathBuf {
        self.run_dir.join(XDS_SOCKET)
    }
    /// The Unix socket of the SPIFFE Workload API.
    #[must_use]
    pub fn workload_socket(&self) -> PathBuf {
        self.run_dir.join(WORKLOAD_SOCKET)
    }

    /// Reads flags and files.
    ///
    /// # Errors
    /// All problems that were found.
    pub fn load(args: AgentArgs) -> Result<Self, Problems> {
        let mut problems = Problems::new();
        let source = source_of(&args, &mut problems);
        let namespace = Namespace::new(args.namespace.as_deref().unwrap_or(RELEASE_NAMESPACE))
            .map_err(|error| problems.flag("MF0116", "--namespace", error.to_string()))
            .ok();
        let (xds, admin) = listeners(&args, &mut problems);
        let run_dir = args.run_dir.clone().unwrap_or_else(|| args.data_dir.join("run"));
        check_sockets(&run_dir, &mut problems);
        if args.svid_ttl < SVID_TTL_MIN || args.svid_ttl > meshfed_ca::svid::TTL_MAX {
            let text = format!("{:?} is not between 10s and 24h", args.svid_ttl);
            problems.flag("MF0113", "--svid-ttl", text);
        }
        let inject = injection(&args, &mut problems);
        let files = Files::read(&args.data_dir, &mut problems);
        match (source, namespace, files) {
            (Some(source), Some(namespace), Some(files)) if problems.is_empty() => Ok(Self {
                source,
                namespace,
                inject,
                run_dir,
                xds,
                admin,
                agent: files.agent,
                authority: files.authority.with_ttl(args.svid_ttl),
                identity_certificate: files.identity_certificate,
                identity_key: files.identity_key,
                args,
            }),
            _ => Err(problems),
        }
    }

    /// What `/debug/config` shows; no secrets.
    #[must_use]
    pub fn shown(&self) -> serde_json::Value {
        let flags = |all: &[ListenFlag]| all.iter().map(ToString::to_string).collect::<Vec<_>>();
        serde_json::json!({
            "dataDir": self.args.data_dir,
            "source": self.source.to_string(),
            "kubeconfig": self.args.kubeconfig,
            "context": self.args.context,
            "namespace": self.namespace,
            "runDir": self.run_dir,
            "xdsListen": flags(&self.xds),
            "adminListen": flags(&self.admin),
            "svidTtl": format!("{:?}", self.args.svid_ttl),
            "drainTimeout": format!("{:?}", self.args.drain_timeout),
            "cluster": self.agent.cluster,
            "trustDomain": self.agent.trust_domain,
            "fleet": self.agent.fleet,
            "federators": self.agent.federators,
            "networks": self.agent.networks,
            "regions": self.agent.regions,
            "zones": self.agent.zones,
        })
    }
}

/// `dir:PATH` or `kubernetes`; the others are named in the contracts and come later.
fn source_of(args: &AgentArgs, problems: &mut Problems) -> Option<Source> {
    let flag = args.source.as_str();
    if let Some(path) = args.kubeconfig.as_ref().filter(|path| !path.is_file()) {
        problems.file("MF0117", path.display().to_string(), "is no file; --kubeconfig names one");
        return None;
    }
    if flag == "kubernetes" {
        return Some(Source::Kubernetes);
    }
    if let Some(path) = flag.strip_prefix("dir:").filter(|p| !p.is_empty()) {
        let path = PathBuf::from(path);
        if !path.is_dir() {
            problems.file("MF0105", path.display().to_string(), "is no directory; --source dir:PATH names one");
            return None;
        }
        return Some(Source::Directory(path));
    }
    let later = flag.starts_with("consul:") || flag.starts_with("httpsd:");
    let text = if later {
        format!("'{flag}' is not in this version; use dir:PATH or kubernetes")
    } else {
        format!("'{flag}' is no source; use dir:PATH or kubernetes")
    };
    problems.flag("MF0103", "--source", text);
    None
}

/// The admin listeners of these flags.
pub fn admin_listeners(args: &AgentArgs, problems: &mut Problems) -> Vec<ListenFlag> {
    listeners(args, problems).1
}

/// The xDS listeners of these flags.
pub fn xds_listeners(args: &AgentArgs, problems: &mut Problems) -> Vec<ListenFlag> {
    listeners(args, problems).0
}

/// The listeners with their defaults: on `--bind`; the admin port only where that is loopback, else on 127.0.0.1.
fn listeners(args: &AgentArgs, problems: &mut Problems) -> (Vec<ListenFlag>, Vec<ListenFlag>) {
    let at = |hosts: &[IpAddr], port| {
        hosts.iter().map(|host| ListenFlag::At { host: host.to_string(), port }).collect::<Vec<_>>()
    };
    let bind = args.bind.as_deref().map(|host| hosts(host, problems));
    let loopback: Vec<IpAddr> = bind.iter().flatten().copied().filter(IpAddr::is_loopback).collect();
    let xds = if args.xds_listen.is_empty() {
        at(&bind.unwrap_or_else(|| vec![IpAddr::from([0, 0, 0, 0])]), XDS_PORT)
    } else {
        args.xds_listen.clone()
    };
    let admin = if !args.admin_listen.is_empty() {
        args.admin_listen.clone()
    } else if loopback.is_empty() {
        at(&[IpAddr::from([127, 0, 0, 1])], ADMIN_PORT)
    } else {
        at(&loopback, ADMIN_PORT)
    };
    (xds, admin)
}

/// The addresses of `--bind`: an address, in brackets or not, or a name, which may have several.
fn hosts(host: &str, problems: &mut Problems) -> Vec<IpAddr> {
    match (host.trim_matches(['[', ']']), 0u16).to_socket_addrs() {
        Ok(found) => found.map(|a| a.ip()).collect::<BTreeSet<_>>().into_iter().collect(),
        Err(error) => {
            let text = format!("'{host}' does not resolve ({error}); write an address of this host, or a name of one");
            problems.environment("MF0114", "--bind", text);
            Vec::new()
        }
    }
}

/// The PEM files of a member.
const MEMBER_FILES: [&str; 4] = ["identity/cert.pem", "identity/key.pem", "ca/key.pem", "ca/anchor.pem"];

/// The files of a member.
struct Files {
    agent: AgentFile,
    authority: Authority,
    identity_certificate: String,
    identity_key: zeroize::Zeroizing<String>,
}

impl Files {
    fn read(data_dir: &Path, problems: &mut Problems) -> Option<Self> {
        let shown = |p: &Path| p.display().to_string();
        if !["agent.yaml", "identity", "ca"].iter().any(|name| data_dir.join(name).exists()) {
            problems.file("MF0106", shown(data_dir), joins_first(data_dir));
            return None;
        }
        let agent = match AgentFile::read(data_dir) {
            Ok(agent) => Some(agent),
            Err(error) => {
                problems.file("MF0106", shown(&data_dir.join("agent.yaml")), chain(&error));
                None
            }
        };
        // Nothing of a member is there: one line says what to do, five more would only hide it.
        if agent.is_none() && MEMBER_FILES.iter().all(|name| !data_dir.join(name).exists()) {
            return None;
        }
        let mut texts = BTreeMap::new();
        for name in MEMBER_FILES {
            let path = data_dir.join(name);
            match files::read_text(&path, PEM_MAX) {
                Ok(text) => {
                    texts.insert(name, zeroize::Zeroizing::new(text));
                }
                Err(error) => problems.file("MF0106", shown(&path), missing(&error, data_dir)),
            }
        }
        let bundles = data_dir.join("bundles");
        if !bundles.is_dir() {
            let text = format!(
                "is missing; run 'meshfed join https://FEDERATOR:15600 --token-file FILE --data-dir {}'",
                data_dir.display()
            );
            problems.file("MF0106", shown(&bundles), text);
        }
        let agent = agent?;
        let anchor_path = data_dir.join("ca/anchor.pem");
        let anchor = match meshfed_ca::pem::certificates(texts.get("ca/anchor.pem")?) {
            Ok(mut certificates) if certificates.len() == 1 => certificates.pop()?.as_ref().to_vec(),
            Ok(_) => {
                problems.file("MF0107", shown(&anchor_path), "does not hold exactly one certificate");
                return None;
            }
            Err(error) => {
                problems.file("MF0107", shown(&anchor_path), chain(&error));
                return None;
            }
        };
        let authority = match Authority::new(texts.get("ca/key.pem")?, anchor, agent.trust_domain.clone()) {
            Ok(authority) => authority,
            Err(error @ (AuthorityError::Anchor(_) | AuthorityError::OtherKey)) => {
                let text = format!("{}; restore ca/ from a backup, or join again with --replace", chain(&error));
                problems.file("MF0107", shown(&anchor_path), text);
                return None;
            }
            Err(error) => {
                problems.file("MF0107", shown(&data_dir.join("ca/key.pem")), chain(&error));
                return None;
            }
        };
        Some(Self {
            agent,
            authority,
            identity_certificate: texts.get("identity/cert.pem")?.to_string(),
            identity_key: texts.get("identity/key.pem")?.clone(),
        })
    }
}

fn joins_first(data_dir: &Path) -> String {
    let dir = data_dir.display();
    format!("has not joined a fleet; run 'meshfed join https://FEDERATOR:15600 --token-file FILE --data-dir {dir}'")
}

fn missing(error: &files::FileError, data_dir: &Path) -> String {
    if error.is_not_found() {
        let dir = data_dir.display();
        format!("is missing; run 'meshfed join https://FEDERATOR:15600 --token-file FILE --data-dir {dir}'")
    } else {
        chain(error)
    }
}

/// An error with its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(c) = cause {
        text.push_str(": ");
        text.push_str(&c.to_string());
        cause = c.source();
    }
    text
}
