//! Edge. The agent as a process: `Config` → build → run. Nothing else wires rooms together.

mod begin;
mod injection;
mod leaving;
mod left;
mod tcp;

use std::net::{TcpListener, UdpSocket};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use meshfed_api::border::LeaseEpoch;
use meshfed_crds::ObjectError;
use meshfed_runtime::admin::AdminServer;
use meshfed_runtime::config::Problems;
use meshfed_runtime::drain;
use meshfed_runtime::files;
use meshfed_runtime::grpc::{self, ConnectionMetrics, Limits, ServeOptions};
use meshfed_runtime::listen::{self, Addresses};
use meshfed_runtime::metrics::Metrics;
use meshfed_runtime::process::{self, Ended, keep_memory_private, refuse, run_parts, run_until_signal};
use meshfed_runtime::readiness::Readiness;
use meshfed_runtime::tasks::TaskGroup;
use meshfed_runtime::tls::{self, Identity, IdentityStore, TrustStore};
use meshfed_runtime::{clock, telemetry};
use rustls_pki_types::pem::PemObject as _;
use tokio::sync::{mpsc, oneshot, watch};

use begin::{Known, core_of, guards_of, restore};
use injection::Injection;

use crate::config::{AgentArgs, Config, Source, chain};
use crate::core::kept;
use crate::core::run::{Actor, COMMANDS_MAX, Command, CoreMetrics, Inputs};
use crate::dns;
use crate::downlink::bundles::CLI;
use crate::downlink::session::{Hub, Link, LinkConfig, Opened};
use crate::lease::Role;
use crate::lookup::{self, LOOKUPS_MAX, Pauses};
use crate::membership::Facts;
use crate::mirror::facts::PolicyFacts;
use crate::mirror::{ImportLimits, Mailbox, Mirror, MirrorMetrics, MirrorSettings};
use crate::mirror::{policies, remarks};
use crate::source::{self, Unserved};
use crate::workload::{WorkloadMetrics, WorkloadServer};

mod kubernetes;

/// Connections on the sockets: a proxy has one or two.
const CONNECTIONS_MAX: usize = 8192;
/// Scans that wait for the core: the next one waits in the source.
const SOURCE_UPDATES_MAX: usize = 2;

/// Runs an agent until SIGTERM or SIGINT.
#[must_use]
pub fn run(args: AgentArgs, signals: Option<drain::Signals>) -> ExitCode {
    tls::install_provider();
    if kubernetes::by_object(&args) {
        return kubernetes::run(args, signals);
    }
    let config = match configure(args) {
        Ok(config) => config,
        Err(problems) => return refuse(&problems),
    };
    keep_memory_private();
    let agent = match Agent::build(config) {
        Ok(agent) => agent,
        Err(problems) => return refuse(&problems),
    };
    run_until_signal(signals, |stop| agent.run(stop))
}

/// Starts the log and checks flags and files.
///
/// # Errors
/// All problems that were found.
pub fn configure(args: AgentArgs) -> Result<Config, Problems> {
    let mut problems = Problems::new();
    if let Err(error) = telemetry::init(args.log_format, &args.log_level) {
        problems.flag("MF0108", "--log-level", error.to_string());
    }
    match problems.take(Config::load(args)) {
        Some(config) => problems.finish(config),
        None => Err(problems),
    }
}

/// An agent with its listeners bound.
#[derive(Debug)]
pub struct Agent {
    config: Config,
    bound: Bound,
    host: Host,
    readiness: Readiness,
    identity: Arc<IdentityStore>,
    trust: Arc<TrustStore>,
    link: Link,
    opened: Opened,
    /// Why no gateway of the cluster can be reached.
    lack: watch::Sender<Option<String>>,
    /// What is not imported because another cluster exports more than the limit.
    over: watch::Sender<Option<String>>,
    /// Whether webhook and `meshfed-trust` are this agent's own to serve.
    injects: bool,
    /// Keeps a second agent away from the data directory while this one uses it.
    lock: std::fs::File,
}

#[derive(Debug)]
struct Bound {
    unix: UnixListener,
    workload: UnixListener,
    xds: Vec<TcpListener>,
    webhook: Vec<TcpListener>,
    admin: Vec<TcpListener>,
    dns: (Vec<UdpSocket>, Vec<TcpListener>),
    addresses: Addresses,
}

impl Bound {
    fn bind(config: &Config, problems: &mut Problems) -> Option<Self> {
        let mut addresses = Addresses::new();
        let xds = process::listen("MF0109", "--xds-listen", "xds", &config.xds, &mut addresses, problems);
        let flags = &config.args.webhook_listen;
        let webhook = process::listen("MF0109", "--webhook-listen", "webhook", flags, &mut addresses, problems);
        let admin = process::listen("MF0109", "--admin-listen", "admin", &config.admin, &mut addresses, problems);
        let dns = process::listen("MF0109", "--dns-listen", "dns", &config.args.dns_listen, &mut addresses, problems);
        let udp = listen::beside("--dns-listen", &dns, problems);
        let mut socket = |path| match grpc::bind_unix("--run-dir", path) {
            Ok(unix) => Some(unix),
            Err(error) => {
                problems.environment("MF0110", "--run-dir", chain(&error));
                None
            }
        };
        let (unix, workload) = (socket(&config.xds_socket()), socket(&config.workload_socket()));
        Some(Self { unix: unix?, workload: workload?, xds, webhook, admin, dns: (udp, dns), addresses })
    }
}

/// What an agent is given by who runs it in a Kubernetes cluster.
#[derive(Debug, Clone)]
struct Host {
    /// Where all of it counts.
    metrics: Arc<Metrics>,
    /// Which of the agents of the release it is; empty: the only one.
    instance: String,
    /// What it is among them.
    role: watch::Receiver<Role>,
    /// The latest holding of their Lease that the hub has seen.
    latest: watch::Sender<LeaseEpoch>,
    /// Whether it may write to the API server.
    writes: watch::Receiver<bool>,
    /// How people run the command line beside its data directory.
    cli: String,
    /// Kinds that the API server does not serve.
    unserved: Unserved,
}

impl Host {
    /// Of an agent that is run by itself.
    fn none() -> Self {
        let (role, writes) = (watch::channel(Role::Alone).1, watch::channel(true).1);
        let (metrics, unserved) = (Arc::default(), Unserved::default());
        Self {
            metrics,
            instance: String::new(),
            role,
            latest: watch::Sender::default(),
            writes,
            cli: CLI.to_owned(),
            unserved,
        }
    }
}

impl Agent {
    /// Opens the state, binds everything.
    ///
    /// # Errors
    /// All problems that were found.
    pub fn build(config: Config) -> Result<Self, Problems> {
        Self::build_within(config, None)
    }

    /// As [`Self::build`]; `host`: what pods need before they start is served by somebody else, who counts in these
    /// metrics.
    fn build_within(config: Config, host: Option<Host>) -> Result<Self, Problems> {
        let injects = host.is_none();
        let host = host.unwrap_or_else(Host::none);
        let metrics = Arc::clone(&host.metrics);
        let mut problems = Problems::new();
        let data_dir = &config.args.data_dir;
        let lock = lock(data_dir)?;
        for made in [files::create_data_dir(data_dir), files::create_dir(&config.run_dir, files::MODE_RUN_DIR)] {
            if let Err(error) = made {
                problems.file("MF0111", config.run_dir.display().to_string(), chain(&error));
            }
        }
        if let Err(error) = listen::forget(&config.run_dir) {
            problems.file("MF0111", config.run_dir.display().to_string(), chain(&error));
        }
        let bound = Bound::bind(&config, &mut problems);
        let identity = match identity(&config) {
            Ok(identity) => Some(Arc::new(IdentityStore::new(identity))),
            Err(text) => {
                problems.file("MF0107", data_dir.join("identity").display().to_string(), text);
                None
            }
        };
        let trust = Arc::new(TrustStore::new());
        let link_config = identity.as_ref().map(|identity| LinkConfig {
            data_dir: data_dir.clone(),
            file: config.agent.clone(),
            replica: 0,
            instance: host.instance.clone(),
            role: host.role.clone(),
            latest: host.latest.clone(),
            identity: Arc::clone(identity),
            trust: Arc::clone(&trust),
            cli: host.cli.clone(),
        });
        let link = link_config.and_then(|c| match Link::open(c, &metrics) {
            Ok(link) => Some(link),
            Err(error) => {
                problems.file("MF0112", data_dir.display().to_string(), chain(&error));
                None
            }
        });
        match (bound, identity, link) {
            (Some(bound), Some(identity), Some((link, opened))) if problems.is_empty() => {
                let readiness = Readiness::new();
                let (lack, over) = (watch::Sender::default(), watch::Sender::default());
                Ok(Self { config, bound, host, readiness, identity, trust, link, opened, lack, over, injects, lock })
            }
            _ => Err(problems),
        }
    }

    /// Follows what a Membership's status tells of it; ends with the agent.
    fn facts(&self, facts: watch::Sender<Facts>) -> impl Future<Output = ()> + use<> {
        let (readiness, mut pending) = (self.readiness.clone(), self.readiness.changes());
        let (mut hub, mut lack) = (self.opened.hub.clone(), self.lack.subscribe());
        let (mut awaiting, mut unserved) = (self.opened.awaiting.clone(), self.host.unserved.subscribe());
        let mut over = self.over.subscribe();
        async move {
            loop {
                let (connected, away, untrusted) = match &*hub.borrow_and_update() {
                    Hub::Away(why) => (false, why.clone(), None),
                    Hub::Connected => (true, String::new(), None),
                    Hub::Untrusted(why) => (false, String::new(), Some(why.clone())),
                };
                let now = Facts {
                    connected,
                    away,
                    untrusted,
                    pending: readiness.pending(),
                    unserved: unserved.borrow_and_update().clone(),
                    unreachable: lack.borrow_and_update().clone(),
                    awaiting: awaiting.borrow_and_update().clone(),
                    over_limit: over.borrow_and_update().clone(),
                    ..Facts::default()
                };
                facts.send_if_modified(|before| {
                    let changed = *before != now;
                    *before = now;
                    changed
                });
                let ended = tokio::select! {
                    ended = hub.changed() => ended.is_err(),
                    ended = lack.changed() => ended.is_err(),
                    ended = awaiting.changed() => ended.is_err(),
                    ended = unserved.changed() => ended.is_err(),
                    // Told by the mirror, which a source of files does not have.
                    Ok(()) = over.changed() => false,
                    ended = pending.changed() => ended.is_err(),
                };
                if ended {
                    return;
                }
            }
        }
    }

    /// Where it listens.
    #[must_use]
    pub const fn addresses(&self) -> &Addresses {
        &self.bound.addresses
    }

    /// Runs until `stop`, then drains.
    ///
    /// # Errors
    /// [`Ended`] when a required part ends before.
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<(), Ended> {
        let timeout = self.config.args.drain_timeout;
        let run_dir = self.config.run_dir.clone();
        // Last of all: who reads it finds a daemon that listens, and that can be told to end.
        let published = self.bound.addresses.write(&run_dir);
        let _published = published.map_err(|error| Ended { name: "addresses.json", reason: chain(&error) })?;
        let agent = &self.config.agent;
        tracing::info!(
            cluster = %agent.cluster,
            trust_domain = %agent.trust_domain,
            federators = %agent.federators.join(", "),
            listeners = ?self.bound.addresses.0,
            xds = %self.config.xds_socket().display(),
            workload_api = %self.config.workload_socket().display(),
            "the agent listens"
        );
        let client = match self.config.has_api_server() {
            true => Some(kubernetes::place(&self.config.args).await?.client),
            false => None,
        };
        run_parts(stop, timeout, |parts, watch| Ok(self.start(parts, watch, client))).await
    }

    fn start(self, tasks: &mut TaskGroup, watch: drain::Watch, client: Option<kube::Client>) -> Held {
        let Self { config, bound, host, readiness, identity, trust, link, opened, lack, over, injects, lock } = self;
        let (metrics, state) = (Arc::clone(&host.metrics), config.args.data_dir.join("state"));
        let Opened { uplink, commands: downlink, loaded, bundles, hub: _, awaiting: _ } = opened;
        let guards = guards_of(&readiness, &loaded);
        let served = ["xds", "workload"].map(|name| readiness.guard(format!("{name}: not bound yet")));

        let sockets = files::RemoveOnDrop(vec![config.xds_socket(), config.workload_socket()]);
        let shown = config.shown();
        let source_config = source_of(&config, state.join("source"), &readiness, &host);
        let anchors = client.clone().filter(|_| injects).map(|client| {
            let (told, anchors) = watch::channel(Some(anchors_of(&config)));
            injection_of(&config, bound.webhook, client).start(tasks, anchors, &metrics, &watch);
            told
        });
        let known = Known { loaded, bundles, shared: !host.instance.is_empty() };
        let mut core = core_of(&config.agent, config.namespace.clone(), config.authority, known);
        let (proxies_file, hosts_file) = (state.join("proxies.json"), state.join("hosts.json"));
        let (commands, received) = mpsc::channel(COMMANDS_MAX);
        let imports = restore(&mut core, &state, clock::instant());
        let actor = Actor::new(core, uplink, CoreMetrics::register(&metrics), readiness.clone(), guards, imports);
        let mut actor = actor.lacking(lack);
        if config.source == Source::Kubernetes {
            let mailbox = Mailbox::default();
            let told = Told { mailbox: mailbox.clone(), policies: actor.policies(), remarks: actor.remarks(), over };
            tasks.spawn("mirror", show(&config.args, &host, told, commands.clone(), watch.clone()));
            actor = actor.mirrored(mailbox);
        }
        let zone = actor.zone();
        tasks.spawn("proxies-file", kept::keep(proxies_file, actor.kept()));
        let (answers, lookups) = mpsc::channel(LOOKUPS_MAX);
        tasks.spawn("lookup", lookup::run(hosts_file, lookup::System, Pauses::default(), actor.hosts(), answers));
        let (updates, scanned) = mpsc::channel(SOURCE_UPDATES_MAX);
        tasks.spawn("source", source::run(source_config, updates, watch.clone()));
        let inputs = Inputs { commands: received, downlink, source: scanned, lookups };
        tasks.spawn("core", actor.run(inputs, watch.clone()));
        tasks.spawn("session", link.run(watch.clone()));

        // The servers.
        let (udp, tcp) = bound.dns;
        if !tcp.is_empty() {
            tasks.spawn("dns", dns::serve(udp, tcp, zone, watch.clone()));
        }
        let port = tcp::Port {
            identity,
            trust,
            trust_domain: config.agent.trust_domain,
            unix: bound.unix,
            listeners: bound.xds,
            drain_deadline: config.args.drain_timeout,
        };
        let kubernetes = client.map(|client| (config.namespace.clone(), client));
        let reporter = port.serve(tasks, kubernetes, &commands, &metrics, &watch);
        tasks.spawn("workload", workload_api(bound.workload, &commands, &metrics, &watch, config.args.drain_timeout));
        served.into_iter().for_each(meshfed_runtime::readiness::Guard::ready);
        tasks.spawn("health", health_of(readiness.clone(), reporter, watch.clone()));

        let pages = Router::new().route("/debug/source", get(debug_source)).with_state(commands);
        let admin = AdminServer::new(readiness, metrics).route(pages).config(shown);
        if !bound.admin.is_empty() {
            tasks.spawn("admin", admin.serve(bound.admin, watch));
        }
        Held { _sockets: sockets, _anchors: anchors, _lock: lock }
    }
}

/// What is given up at the very end, in this order: the next agent may bind only once the data directory is free.
struct Held {
    _sockets: files::RemoveOnDrop,
    _anchors: Option<watch::Sender<Option<Arc<str>>>>,
    _lock: std::fs::File,
}

/// The cluster's anchor, PEM.
fn anchors_of(config: &Config) -> Arc<str> {
    meshfed_ca::pem::encode_certificates([config.authority.anchor()]).into()
}

/// What the core says to those who write to the API server.
struct Told {
    mailbox: Mailbox,
    policies: watch::Receiver<Option<Arc<PolicyFacts>>>,
    remarks: watch::Receiver<Arc<[ObjectError]>>,
    over: watch::Sender<Option<String>>,
}

/// Shows imports, and what became of exports, as objects of the API server.
fn show(
    args: &AgentArgs,
    host: &Host,
    Told { mailbox, policies, remarks, over }: Told,
    commands: mpsc::Sender<Command>,
    watch: drain::Watch,
) -> impl Future<Output = Result<(), meshfed_crds::api_server::ConnectError>> + use<> {
    let metrics = MirrorMetrics::register(&host.metrics);
    let (kubeconfig, context) = (args.kubeconfig.clone(), args.context.clone());
    let (leads, instance) = (host.writes.clone(), Some(host.instance.clone()).filter(|name| !name.is_empty()));
    let (addresses, mut changed) = watch::channel(Arc::default());
    let unserved = host.unserved.clone();
    let fleet_namespace = args.fleet_namespace.clone();
    let limits = ImportLimits { per_cluster: args.imports_per_cluster, per_namespace: args.imports_per_namespace };
    async move {
        let client = meshfed_crds::api_server::connect(kubeconfig.as_deref(), context.as_deref()).await?;
        let settings = MirrorSettings { instance: instance.clone(), unserved, limits, over };
        let tell = async {
            while changed.changed().await.is_ok() {
                let addresses = Arc::unwrap_or_clone(Arc::clone(&changed.borrow_and_update()));
                if commands.send(Command::ImportAddresses(addresses)).await.is_err() {
                    return;
                }
            }
        };
        let statuses = policies::keep(client.clone(), fleet_namespace, policies, leads.clone(), watch.clone());
        let events = remarks::tell(client.clone(), instance, remarks, leads.clone(), watch.clone());
        let mirror = Mirror::new(client, settings, mailbox, leads, addresses, metrics).run(watch);
        let ((), Ok(()), Ok(()), Ok(())) = tokio::join!(tell, mirror, statuses, events);
        Ok(())
    }
}

/// Serves the SPIFFE Workload API. A socket of its own with limits of its own: who exhausts it stops no proxy.
fn workload_api(
    listener: UnixListener,
    commands: &mpsc::Sender<Command>,
    metrics: &Metrics,
    watch: &drain::Watch,
    drain_deadline: std::time::Duration,
) -> impl Future<Output = Result<(), grpc::ServeError>> + use<> {
    let server = WorkloadServer::new(commands.clone(), watch.clone(), WorkloadMetrics::register(metrics));
    let options = ServeOptions {
        limits: Limits { connections: CONNECTIONS_MAX, drain_deadline, ..Limits::default() },
        metrics: ConnectionMetrics::register(metrics, "meshfed_workload"),
    };
    grpc::serve_unix(listener, server.routes(), watch.clone(), options)
}

/// The data directory, for this agent alone: two that share one would take turns at the hub and undo each other.
fn lock(data_dir: &Path) -> Result<std::fs::File, Problems> {
    let state = data_dir.join("state");
    let taken = files::create_private_dir(&state).and_then(|()| files::lock(&state.join("lock")));
    let mut problems = Problems::new();
    match taken {
        Ok(Some(lock)) => return Ok(lock),
        Ok(None) => {
            let text = "another agent runs with this data directory; stop it first, or name another --data-dir";
            problems.file("MF0115", data_dir.display().to_string(), text);
        }
        Err(error) => problems.file("MF0115", state.display().to_string(), chain(&error)),
    }
    Err(problems)
}

/// The injection of an agent that was joined by command.
fn injection_of(config: &Config, listeners: Vec<TcpListener>, client: kube::Client) -> Injection<'_> {
    Injection {
        release: config.namespace.to_string(),
        inject: config.inject.clone(),
        args: &config.args,
        listeners,
        client,
    }
}

fn source_of(config: &Config, state: PathBuf, readiness: &Readiness, host: &Host) -> source::SourceConfig {
    let place = match &config.source {
        Source::Directory(path) => source::Place::Directory(path.clone()),
        Source::Kubernetes => source::Place::ApiServer(Box::new(source::ApiServerConfig {
            kubeconfig: config.args.kubeconfig.clone(),
            context: config.args.context.clone(),
            namespace: config.namespace.clone(),
            fleet_namespace: Some(config.args.fleet_namespace.as_str().into()),
            readiness: readiness.clone(),
            unserved: host.unserved.clone(),
            metrics: source::SourceMetrics::register(&host.metrics),
        })),
    };
    source::SourceConfig {
        place,
        state,
        bounds: meshfed_crds::Bounds {
            networks: config.agent.networks.clone(),
            regions: config.agent.regions.clone(),
            zones: config.agent.zones.clone(),
            gateway_cidrs: config.agent.gateway_cidrs.clone(),
            gateways_in: (config.source == Source::Kubernetes).then(|| config.namespace.clone()),
        },
    }
}

fn identity(config: &Config) -> Result<Identity, String> {
    let chain_of =
        meshfed_ca::pem::certificates(&config.identity_certificate).map_err(|e| format!("cert.pem: {}", chain(&e)))?;
    let key = rustls_pki_types::PrivateKeyDer::from_pem_slice(config.identity_key.as_bytes())
        .map_err(|e| format!("key.pem: {e}"))?;
    Identity::new(chain_of, key).map_err(|e| chain(&e))
}

/// gRPC health follows readiness.
async fn health_of(
    readiness: Readiness,
    reporter: tonic_health::server::HealthReporter,
    watch: drain::Watch,
) -> Result<(), std::convert::Infallible> {
    use tonic_health::ServingStatus;
    reporter.set_service_status("", ServingStatus::NotServing).await;
    tokio::select! {
        () = readiness.wait_ready() => reporter.set_service_status("", ServingStatus::Serving).await,
        () = watch.signaled() => {}
    }
    watch.signaled().await;
    reporter.set_service_status("", ServingStatus::NotServing).await;
    Ok(())
}

async fn debug_source(State(core): State<mpsc::Sender<Command>>) -> Response {
    let (answer, body) = oneshot::channel();
    if core.send(Command::DebugSource { answer }).await.is_ok()
        && let Ok(body) = body.await
    {
        return axum::Json(body).into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, "the agent is ending\n").into_response()
}
