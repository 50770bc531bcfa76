//! Pure. What the proxy was started with: flags, checked all at once.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use meshfed_model::names::{Namespace, WorkloadRef};
use meshfed_runtime::config::Problems;
use meshfed_runtime::listen::ListenFlag;
use meshfed_runtime::telemetry::LogFormat;

use crate::kubelet::Probes;
use crate::telemetry::AccessLogTarget;

mod agent;
mod node;
pub use agent::{AgentAddress, TcpAgent};
pub use node::node;

/// A flag whose value cannot be used.
pub const CODE_FLAG: &str = "MF0101";
/// A flag that this version does not have yet.
pub const CODE_LATER: &str = "MF0103";

/// What a proxy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Beside one workload
    Sidecar,
    /// The east-west gateway of a network
    Gateway,
}

impl Mode {
    /// As in flags, node id and metadata.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sidecar => "sidecar",
            Self::Gateway => "gateway",
        }
    }
}

/// How connections come to the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Capture {
    /// The application names the proxy
    None,
    /// By nftables REDIRECT, as `meshfed proxy init` sets it up
    Redirect,
    /// By nftables TPROXY (not in this version)
    Tproxy,
}

impl Capture {
    /// As in flags and metadata.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Redirect => "redirect",
            Self::Tproxy => "tproxy",
        }
    }
}

/// `meshfed proxy`: the data plane, beside a workload or as east-west gateway.
#[derive(Debug, Clone, Args)]
pub struct ProxyArgs {
    /// The agent: unix:PATH of its run/xds.sock; on Kubernetes HOST:PORT, with --token-file and --trust-file
    #[arg(long, value_name = "unix:PATH|HOST:PORT")]
    pub agent: String,
    /// The pod's projected service-account token with audience meshfed, for an agent at HOST:PORT; read anew each time
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// The anchors by which an agent at HOST:PORT is verified: anchors.pem of ConfigMap meshfed-trust
    #[arg(long, value_name = "FILE")]
    pub trust_file: Option<PathBuf>,
    /// The namespace of an agent at HOST:PORT: it is spiffe://TRUST_DOMAIN/ns/NS/sa/meshfed-agent [default: NS of a HOST
    /// like meshfed-agent.NS.svc, else meshfed-system]
    #[arg(long, value_name = "NS")]
    pub agent_namespace: Option<Namespace>,
    /// What the kubelet would ask the application, as injection writes it: answered at the readiness port
    #[arg(long, value_name = "JSON", env = "MESHFED_KUBELET_PROBES", requires = "pod_ip", hide = true)]
    pub kubelet_probes: Option<String>,
    /// The pod's address, at which the application is asked
    #[arg(long, value_name = "ADDRESS", env = "POD_IP", hide = true)]
    pub pod_ip: Option<IpAddr>,
    /// The workload: namespace, service account, and the WorkloadEntry's name where several have that account
    #[arg(long, value_name = "NS/SA[/NAME]")]
    pub workload: String,
    /// What to be
    #[arg(long, value_enum, default_value = "sidecar")]
    pub mode: Mode,
    /// Host of all listeners, several times [default: all addresses of the WorkloadEntry; with --capture redirect all
    /// addresses of the host]
    #[arg(long, value_name = "HOST")]
    pub bind: Vec<String>,
    /// How connections come to the proxy
    #[arg(long, value_enum, default_value = "none")]
    pub capture: Capture,
    /// Where the application listens for a port of the workload, several times [default: PORT=127.0.0.1:PORT]
    #[arg(long, value_name = "PORT=HOST:PORT")]
    pub inbound: Vec<String>,
    /// A plain TCP listener for one service, say 127.0.0.1:9000=db.shop.svc.clusterset.local:5432, several times
    #[arg(long, value_name = "LISTEN=HOST:PORT")]
    pub outbound: Vec<String>,
    /// How the application is probed: a connect to each inbound target, a GET of a URL, or not at all
    #[arg(long, value_name = "http://…|tcp|off", default_value = "tcp")]
    pub app_probe: String,
    /// Where the application's outbound HTTP is taken, several times [default: BIND:15001]
    #[arg(long, value_name = "HOST:PORT|off")]
    pub outbound_listen: Vec<ListenFlag>,
    /// Where peers are taken, several times [default: BIND:PORT for each port of the workload; with --capture redirect
    /// BIND:15006]
    #[arg(long, value_name = "HOST:PORT")]
    pub inbound_listen: Vec<ListenFlag>,
    /// Where a gateway listens, several times [default: its declared addresses]
    #[arg(long, value_name = "HOST:PORT")]
    pub gateway_listen: Vec<ListenFlag>,
    /// Health, metrics and debug pages, several times [default: 15000 on the workload's address where that is loopback,
    /// else on 127.0.0.1]; other than loopback addresses show health and metrics only
    #[arg(long, value_name = "HOST:PORT|off")]
    pub admin_listen: Vec<ListenFlag>,
    /// Metrics, several times [default: BIND:15020]
    #[arg(long, value_name = "HOST:PORT|off")]
    pub metrics_listen: Vec<ListenFlag>,
    /// Readiness, GET /healthz/ready, several times [default: BIND:15021]
    #[arg(long, value_name = "HOST:PORT|off")]
    pub ready_listen: Vec<ListenFlag>,
    /// Where captured DNS queries to the first resolver are taken, over UDP and TCP, several times; those to further
    /// resolvers one port higher each [default: with --capture redirect 15053 on loopback, else off]
    #[arg(long, value_name = "HOST:PORT|off")]
    pub dns_listen: Vec<ListenFlag>,
    /// The file that names the resolvers, as for `proxy init`
    #[arg(long, value_name = "FILE", default_value = "/etc/resolv.conf")]
    pub resolv_conf: PathBuf,
    /// Where addresses.json is written, the directory of this proxy alone [default: nowhere]
    #[arg(long, value_name = "DIR")]
    pub run_dir: Option<PathBuf>,
    /// Worker threads [default: one per core]
    #[arg(long, visible_alias = "concurrency", value_name = "N")]
    pub workers: Option<usize>,
    /// Where a line for each request goes; a file is opened anew on SIGUSR1, or when its name is another file
    #[arg(long, value_name = "off|stderr|FILE", default_value = "off")]
    pub access_log: String,
    /// Time for connections to end after SIGTERM
    #[arg(long, value_name = "DURATION", default_value = "10s")]
    pub drain_timeout: String,
    /// Form of the logs on stderr
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "text")]
    pub log_format: LogFormat,
    /// error, warn, info, debug, trace, or directives such as info,meshfed_proxy=debug
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log_level: String,
}

/// How the application's readiness is found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AppProbe {
    /// A connect to each inbound target.
    Tcp,
    /// A GET that must be answered 200 to 399.
    Http {
        /// Where to connect.
        address: SocketAddr,
        /// The Host header.
        authority: String,
        /// Path and query.
        path: String,
    },
    /// The application counts as ready.
    Off,
}

/// Flags that were given for the proxy's own listeners; empty: the default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OwnListeners {
    /// `--admin-listen`.
    pub admin: Vec<ListenFlag>,
    /// `--metrics-listen`.
    pub metrics: Vec<ListenFlag>,
    /// `--ready-listen`.
    pub ready: Vec<ListenFlag>,
}

/// Captured DNS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsConfig {
    /// `--dns-listen`; empty: the default.
    pub listen: Vec<ListenFlag>,
    /// Whether the default is to serve it.
    pub by_default: bool,
    /// The file that names the resolvers.
    pub resolv_conf: PathBuf,
}

/// The checked configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// The agent.
    pub agent: AgentAddress,
    /// Who we are to be.
    pub workload: WorkloadRef,
    /// What we are.
    pub mode: Mode,
    /// How connections come to us.
    pub capture: Capture,
    /// `--bind`, resolved; empty: the workload's addresses.
    pub bind: Vec<IpAddr>,
    /// Port of the workload to the application's address.
    pub inbound: BTreeMap<u16, SocketAddr>,
    /// Listen address to service authority.
    pub outbound: BTreeMap<SocketAddr, String>,
    /// The application's probe.
    pub app_probe: AppProbe,
    /// Listen flags of `outbound`, `inbound` and `gateway`, where they were given; without addresses: off.
    pub listen: BTreeMap<&'static str, Vec<SocketAddr>>,
    /// Listeners that are ours alone.
    pub own: OwnListeners,
    /// Captured DNS.
    pub dns: DnsConfig,
    /// Where `addresses.json` goes.
    pub run_dir: Option<PathBuf>,
    /// Worker threads.
    pub workers: usize,
    /// The access log.
    pub access_log: AccessLogTarget,
    /// Deadline of the drain.
    pub drain_timeout: Duration,
    /// What is asked for the kubelet, and where.
    pub kubelet: Option<(Probes, IpAddr)>,
}

/// Most worker threads.
const WORKERS_MAX: usize = 256;

impl Config {
    /// Checks the flags.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub fn new(args: &ProxyArgs, cores: usize) -> Result<Self, Problems> {
        let mut problems = Problems::new();
        let agent = agent::agent(args, &mut problems);
        let workload =
            args.workload.parse::<WorkloadRef>().map_err(|e| problems.flag(CODE_FLAG, "--workload", e.to_string()));
        capture(args, &mut problems);
        let mut bind: Vec<IpAddr> = Vec::new();
        for host in &args.bind {
            match (host.trim_matches(['[', ']']), 0u16).to_socket_addrs() {
                Ok(found) => bind.extend(found.map(|a| a.ip())),
                Err(e) => problems.environment(
                    CODE_FLAG,
                    "--bind",
                    format!("'{host}' does not resolve ({e}); write an address of this host, or a name of one"),
                ),
            }
        }
        if bind.is_empty() && args.capture == Capture::Redirect {
            bind = wildcards();
        }
        bind.dedup();
        let inbound = inbound(args, &mut problems);
        let outbound = outbound(&args.outbound, &mut problems);
        let app_probe = if args.mode == Mode::Gateway { AppProbe::Off } else { probe(&args.app_probe, &mut problems) };
        let workers = args.workers.unwrap_or(cores).max(1);
        if args.workers.is_some_and(|w| w == 0 || w > WORKERS_MAX) {
            problems.flag(CODE_FLAG, "--workers", format!("must be 1 to {WORKERS_MAX}"));
        }
        let drain_timeout = duration(&args.drain_timeout).unwrap_or_else(|| {
            problems.flag(
                CODE_FLAG,
                "--drain-timeout",
                format!("'{}' is no duration; say 10s or 500ms", args.drain_timeout),
            );
            Duration::ZERO
        });
        let listen = listen_flags(args, &mut problems);
        let kubelet = kubelet(args, &mut problems);
        let (Some(agent), Ok(workload)) = (agent, workload) else { return Err(problems) };
        problems.finish(Self {
            agent,
            workload,
            mode: args.mode,
            capture: args.capture,
            bind,
            inbound,
            outbound,
            app_probe,
            listen,
            own: OwnListeners {
                admin: args.admin_listen.clone(),
                metrics: args.metrics_listen.clone(),
                ready: args.ready_listen.clone(),
            },
            dns: DnsConfig {
                listen: args.dns_listen.clone(),
                by_default: args.capture == Capture::Redirect,
                resolv_conf: args.resolv_conf.clone(),
            },
            run_dir: args.run_dir.clone(),
            workers,
            access_log: match args.access_log.as_str() {
                "off" => AccessLogTarget::Off,
                "stderr" => AccessLogTarget::Stderr,
                file => AccessLogTarget::File(file.into()),
            },
            drain_timeout,
            kubelet,
        })
    }
}

/// The probes that are answered for the kubelet, and the pod's address.
fn kubelet(args: &ProxyArgs, problems: &mut Problems) -> Option<(Probes, IpAddr)> {
    let (text, host) = args.kubelet_probes.as_deref().zip(args.pod_ip)?;
    let read = Probes::read(text).map_err(|e| problems.flag(CODE_FLAG, "--kubelet-probes", e.to_string()));
    Some((read.ok()?, host))
}

fn capture(args: &ProxyArgs, problems: &mut Problems) {
    match args.capture {
        Capture::Redirect if args.mode == Mode::Gateway => {
            problems.flag(CODE_FLAG, "--capture", "a gateway captures nothing; leave the flag out");
        }
        Capture::None | Capture::Redirect => {}
        Capture::Tproxy => {
            problems.flag(CODE_LATER, "--capture", "tproxy is not in this version; use redirect or none");
        }
    }
}

fn inbound(args: &ProxyArgs, problems: &mut Problems) -> BTreeMap<u16, SocketAddr> {
    let mut map = BTreeMap::new();
    if args.mode == Mode::Gateway && !args.inbound.is_empty() {
        problems.flag(CODE_FLAG, "--inbound", "a gateway has no inbound targets");
    }
    for text in &args.inbound {
        let parsed = text.split_once('=').and_then(|(port, target)| {
            let port = port.parse::<u16>().ok().filter(|p| *p != 0)?;
            let target = target.to_socket_addrs().ok()?.next().filter(|a| a.port() != 0)?;
            Some((port, target))
        });
        match parsed {
            Some((port, target)) => {
                if map.insert(port, target).is_some() {
                    problems.flag(CODE_FLAG, "--inbound", format!("port {port} is given twice"));
                }
            }
            None => problems.flag(
                CODE_FLAG,
                "--inbound",
                format!("'{text}' is not PORT=HOST:PORT, for example 8080=127.0.0.1:18080"),
            ),
        }
    }
    map
}

fn outbound(texts: &[String], problems: &mut Problems) -> BTreeMap<SocketAddr, String> {
    let mut map = BTreeMap::new();
    for text in texts {
        let parsed = text.split_once('=').and_then(|(listen, service)| {
            let listen = listen.to_socket_addrs().ok()?.next()?;
            let (host, port) = service.rsplit_once(':')?;
            port.parse::<u16>().ok().filter(|p| *p != 0)?;
            let host_ok = !host.is_empty()
                && host.len() <= 253
                && host.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.');
            host_ok.then(|| (listen, service.to_ascii_lowercase()))
        });
        match parsed {
            Some((listen, service)) => {
                if map.insert(listen, service).is_some() && listen.port() != 0 {
                    problems.flag(CODE_FLAG, "--outbound", format!("{listen} is given twice"));
                }
            }
            None => problems.flag(
                CODE_FLAG,
                "--outbound",
                format!(
                    "'{text}' is not LISTEN=HOST:PORT, for example 127.0.0.1:9000=b.shop.svc.clusterset.local:8080"
                ),
            ),
        }
    }
    map
}

fn probe(text: &str, problems: &mut Problems) -> AppProbe {
    match text {
        "tcp" => return AppProbe::Tcp,
        "off" => return AppProbe::Off,
        _ => {}
    }
    let parsed = text.strip_prefix("http://").and_then(|rest| {
        let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
        let plain = |s: &str| s.bytes().all(|b| b.is_ascii_graphic());
        if !plain(authority) || !plain(path) {
            return None;
        }
        let with_port = if authority.parse::<SocketAddr>().is_ok()
            || authority.rsplit_once(':').is_some_and(|(_, p)| p.parse::<u16>().is_ok())
        {
            authority.to_owned()
        } else {
            format!("{authority}:80")
        };
        let address = with_port.to_socket_addrs().ok()?.next()?;
        Some(AppProbe::Http { address, authority: authority.to_owned(), path: path.to_owned() })
    });
    parsed.unwrap_or_else(|| {
        problems.flag(CODE_FLAG, "--app-probe", format!("'{text}' is not tcp, off or http://HOST:PORT/PATH"));
        AppProbe::Off
    })
}

fn listen_flags(args: &ProxyArgs, problems: &mut Problems) -> BTreeMap<&'static str, Vec<SocketAddr>> {
    let mut map = BTreeMap::new();
    let groups: [(&'static str, &str, &[ListenFlag]); 3] = [
        ("outbound", "--outbound-listen", &args.outbound_listen),
        ("inbound", "--inbound-listen", &args.inbound_listen),
        ("gateway", "--gateway-listen", &args.gateway_listen),
    ];
    for (key, flag, given) in groups {
        let mut addresses = Vec::new();
        for value in given {
            match value {
                ListenFlag::Off if key == "outbound" => {}
                ListenFlag::Off => problems.flag(CODE_FLAG, flag, "cannot be off; leave the flag out for the default"),
                ListenFlag::At { .. } => match value.resolve() {
                    Ok(found) => addresses.extend(found),
                    Err(e) => problems.environment(
                        CODE_FLAG,
                        flag,
                        format!("'{value}' does not resolve ({e}); write an address of this host, or a name of one"),
                    ),
                },
            }
        }
        if !given.is_empty() {
            map.insert(key, addresses);
        }
    }
    map
}

/// The wildcard of each family that this host has: captured connections come to any of its addresses.
fn wildcards() -> Vec<IpAddr> {
    let v6 = std::net::UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
    let v4 = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    if v6 { vec![v4, IpAddr::V6(Ipv6Addr::UNSPECIFIED)] } else { vec![v4] }
}

/// `500ms`, `10s`, `2m`, `1h`.
fn duration(text: &str) -> Option<Duration> {
    let split = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(split);
    let number: u64 = number.parse().ok()?;
    match unit {
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" => number.checked_mul(60).map(Duration::from_secs),
        "h" => number.checked_mul(3600).map(Duration::from_secs),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
