//! Edge. The federator as a process: `Config` → build → run. Nothing else wires rooms together.

use std::net::TcpListener;
use std::process::ExitCode;
use std::sync::Arc;

use meshfed_model::identity::{Principal, SpiffeId};
use meshfed_model::policy::FleetPolicies;
use meshfed_runtime::admin::AdminServer;
use meshfed_runtime::config::Problems;
use meshfed_runtime::grpc::{self, ConnectionMetrics, Limits, ServeOptions};
use meshfed_runtime::listen::{Addresses, forget};
use meshfed_runtime::metrics::Metrics;
use meshfed_runtime::process::{Ended, keep_memory_private, listen, refuse, run_parts, run_until_signal};
use meshfed_runtime::readiness::Readiness;
use meshfed_runtime::tasks::TaskGroup;
use meshfed_runtime::telemetry::{self, chain};
use meshfed_runtime::tls::{self, ClientAuth};
use meshfed_runtime::{drain, files};
use tokio::sync::watch;

use crate::admin_secret::AdminSecret;
use crate::clusters::{self, Declared};
use crate::config::{Config, FederatorArgs};
use crate::fleet::{Declarations, FleetNames, FleetRead, Inputs, Labels, Revisions};
use crate::http::{self, Api, Standing};
use crate::members::claims::StoredClaims;
use crate::members::leaves::StoredLeaves;
use crate::members::{Enroll, Registry, RegistryError};
use crate::session::Hub;
use crate::source::{self, Faults, FleetSource, Place, statuses};
use crate::store::redb::{Closed, OpenError, RedbStore};
use crate::trust::{self, Trust};

/// Connections on port 15600: two per agent of the largest fleet, and again as many joiners and handshakes.
const CONNECTIONS_MAX: usize = 4096;
/// The registry's file in the data directory.
const REGISTRY: &str = "registry.redb";
/// How long the end of the process waits for the registry's last user, after the drain.
const CLOSE_WITHIN: std::time::Duration = std::time::Duration::from_secs(10);

/// Runs a federator until SIGTERM or SIGINT; `signals` are those that `main` has listened for, if it has.
#[must_use]
pub fn run(args: FederatorArgs, signals: Option<drain::Signals>) -> ExitCode {
    tls::install_provider();
    let config = match configure(args) {
        Ok(config) => config,
        Err(problems) => return refuse(&problems),
    };
    keep_memory_private();
    let federator = match Federator::build(config) {
        Ok(federator) => federator,
        Err(problems) => return refuse(&problems),
    };
    run_until_signal(signals, |stop| federator.run(stop))
}

/// Starts the log and checks the flags.
///
/// # Errors
/// All problems that were found.
pub fn configure(args: FederatorArgs) -> Result<Config, Problems> {
    let mut problems = Problems::new();
    if let Err(error) = telemetry::init(args.log_format, &args.log_level) {
        problems.flag("MF0206", "--log-level", error.to_string());
    }
    match problems.take(Config::load(args)) {
        Some(config) => problems.finish(config),
        None => Err(problems),
    }
}

/// A federator with its listeners bound and its registry open.
pub struct Federator {
    config: Config,
    registry: Arc<Registry>,
    closed: Closed,
    credentials: Standing,
    metrics: Arc<Metrics>,
    readiness: Readiness,
    grpc: Vec<TcpListener>,
    http: Vec<TcpListener>,
    admin: Vec<TcpListener>,
    source: Option<FleetSource>,
    addresses: Addresses,
}

/// Where agents reach us: what is advertised, else where we listen, as far as that names a host.
fn federators(config: &Config, addresses: &Addresses) -> Vec<String> {
    if !config.args.advertise.is_empty() {
        return config.args.advertise.clone();
    }
    let bound = addresses.0.get("grpc").into_iter().flatten();
    bound.filter(|a| !a.ip().is_unspecified()).map(ToString::to_string).collect()
}

/// The registry, and the moment at which its file is free for another process.
fn open(config: &Config, federators: Vec<String>, problems: &mut Problems) -> Option<(Registry, Closed)> {
    let path = config.args.data_dir.join(REGISTRY);
    let store = match RedbStore::open(&path) {
        Ok(store) => Arc::new(store),
        Err(error @ (OpenError::InUse | OpenError::Damaged(_) | OpenError::File(_))) => {
            problems.file("MF0208", path.display().to_string(), chain(&error));
            return None;
        }
    };
    let closed = store.closed();
    let root_key = config.args.root_key.as_deref();
    match Registry::open(&config.args.data_dir, store, config.fleet.clone(), root_key, federators) {
        Ok(registry) => Some((registry, closed)),
        Err(error @ RegistryError::NoFleet) => {
            problems.flag("MF0209", "--fleet", chain(&error));
            None
        }
        Err(error) => {
            problems.file("MF0210", config.args.data_dir.display().to_string(), chain(&error));
            None
        }
    }
}

impl Federator {
    /// Opens the registry, binds everything.
    ///
    /// # Errors
    /// All problems that were found.
    pub fn build(config: Config) -> Result<Self, Problems> {
        let mut problems = Problems::new();
        if config.fleet.is_none() && !config.args.data_dir.join(REGISTRY).exists() {
            problems.flag("MF0209", "--fleet", chain(&RegistryError::NoFleet));
        }
        let mut addresses = Addresses::new();
        let grpc = listen("MF0207", "--grpc-listen", "grpc", &config.grpc, &mut addresses, &mut problems);
        let http = listen("MF0207", "--http-listen", "http", &config.http, &mut addresses, &mut problems);
        let admin = listen("MF0207", "--admin-listen", "admin", &config.admin, &mut addresses, &mut problems);
        if !problems.is_empty() {
            return Err(problems);
        }
        let data_dir = &config.args.data_dir;
        if let Err(error) = files::create_data_dir(data_dir) {
            problems.file("MF0211", data_dir.display().to_string(), chain(&error));
            return Err(problems);
        }
        let registry = open(&config, federators(&config, &addresses), &mut problems);
        if registry.is_none() {
            // Whoever has the registry open goes on: its credentials and addresses.json are not ours to write.
            return Err(problems);
        }
        if let Err(error) = forget(&data_dir.join("run")) {
            problems.file("MF0211", data_dir.join("run").display().to_string(), chain(&error));
        }
        let http_addresses = addresses.0.get("http").cloned().unwrap_or_default();
        let credentials = match http::ensure(data_dir, &http_addresses, &config.args.http_san) {
            Ok(made) => Some(Standing::new(data_dir, http_addresses, config.args.http_san.clone(), &made)),
            Err(error) => {
                problems.file("MF0212", data_dir.display().to_string(), chain(&error));
                None
            }
        };
        let opened = config.source.clone().map(|place| FleetSource::open(place, data_dir)).transpose();
        let source = opened.unwrap_or_else(|error| {
            problems.file("MF0213", data_dir.join("state").display().to_string(), chain(&error));
            None
        });
        match (registry, credentials) {
            (Some((registry, closed)), Some(credentials)) if problems.is_empty() => Ok(Self {
                config,
                registry: Arc::new(registry),
                closed,
                credentials,
                metrics: Arc::new(Metrics::new()),
                readiness: Readiness::new(),
                grpc,
                http,
                admin,
                source,
                addresses,
            }),
            _ => Err(problems),
        }
    }

    /// Where it listens.
    #[must_use]
    pub const fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Runs until `stop`, then drains. When it returns, another process can open the data directory.
    ///
    /// # Errors
    /// [`Ended`] when a required part ends before.
    pub async fn run(mut self, stop: impl Future<Output = ()>) -> Result<(), Ended> {
        tokio::pin!(stop);
        if let Some(source) = &mut self.source {
            tokio::select! {
                begun = source.begin() => begun.map_err(|error| Ended { name: "fleet source", reason: chain(&error) })?,
                () = &mut stop => return Ok(()),
            }
        }
        let (timeout, closed) = (self.config.args.drain_timeout, self.closed.clone());
        let run_dir = self.config.args.data_dir.join("run");
        // Last of all: who reads it finds a daemon that listens, and that can be told to end.
        let published = self.addresses.write(&run_dir);
        let _published = published.map_err(|error| Ended { name: "addresses.json", reason: chain(&error) })?;
        let trust = self.registry.trust();
        let root = meshfed_ca::anchor::spki_sha256(trust.root()).map(|key| meshfed_ca::bundle::hex(&key));
        tracing::info!(
            fleet = %trust.fleet(),
            root_sha256 = root.as_deref().unwrap_or_default(),
            listeners = ?self.addresses.0,
            credentials = %self.config.args.data_dir.join("admin.yaml").display(),
            "the federator listens"
        );
        if !trust.root_online() {
            tracing::warn!("the root key is offline: no cluster can join until a start with --root-key FILE");
        }
        run_parts(stop, timeout, |parts, watch| self.start(parts, watch)).await?;
        if tokio::time::timeout(CLOSE_WITHIN, closed.wait()).await.is_err() {
            tracing::warn!("the registry is still in use; the end of the process closes it");
        }
        Ok(())
    }

    fn start(self, tasks: &mut TaskGroup, watch: drain::Watch) -> Result<(), Ended> {
        let Self {
            config, registry, credentials, metrics, readiness, grpc: grpc_listeners, http, admin, source, ..
        } = self;
        let guards = ["grpc", "http"].map(|name| readiness.guard(format!("{name}: not serving yet")));
        let trust = Arc::clone(registry.trust());
        let ended = |name: &'static str, reason: String| Ended { name, reason };
        let claims = StoredClaims::open(registry.store().clone(), Arc::clone(registry.revisions()))
            .map_err(|error| ended("claims", chain(&error)))?;
        let policies = watch::Sender::new(Arc::new(FleetPolicies::default()));
        if let Some(source) = &source {
            policies.send_replace(Arc::new(source.policies(registry.revisions().bump())));
        }
        let hub = Hub::new(Inputs {
            fleet: trust.fleet().clone(),
            federator: trust.id().clone(),
            federators: registry.federators().to_vec(),
            members: registry.members(),
            bundles: registry.bundles(),
            policies: policies.subscribe(),
            claims: Arc::new(claims),
            issued: Arc::new(StoredLeaves::new(registry.store().clone())),
            revisions: Arc::clone(registry.revisions()),
            metrics: Arc::clone(&metrics),
            drain: watch.clone(),
        });
        tasks.spawn("sessions", Arc::clone(&hub).run());
        keep_objects(&config, &registry, &credentials, Arc::clone(&hub) as Arc<dyn FleetRead>, tasks, &watch);
        tasks.spawn("identity", trust::keep_fresh(Arc::clone(&trust), watch.clone()));
        tasks.spawn("upkeep", upkeep(Arc::clone(&registry), policies.clone(), Arc::clone(&metrics), watch.clone()));
        let mut debug = axum::Router::new();
        if let Some(mut source) = source {
            let names = Arc::clone(&hub) as Arc<dyn FleetNames>;
            source.serve_faults(&metrics, Arc::clone(&names));
            let faults = source.faults();
            debug = debug.route("/debug/source", axum::routing::get(move || std::future::ready(source_page(&faults))));
            follow(source, &config, names, policies, Arc::clone(registry.revisions()), tasks, &watch);
        }
        let enroll = Enroll::new(Arc::clone(&registry), Arc::clone(&hub) as Arc<dyn FleetRead>, &metrics)
            .with_declarations(declarations(&config));
        let routes = enroll.routes(tonic::service::Routes::new(hub.service()));
        let tls = agents_and_joiners(&trust).map_err(|error| ended("grpc", error.to_string()))?;
        let counted = ConnectionMetrics::register(&metrics, "meshfed_grpc");
        let options = ServeOptions { limits: limits(config.args.drain_timeout), metrics: counted };
        tasks.spawn("grpc", grpc::serve_tls(grpc_listeners, tls, routes, watch.clone(), options));

        let api = Api {
            fleet: hub as Arc<dyn FleetRead>,
            operations: Arc::new(enroll),
            admin_token_sha256: credentials.token(),
            domain: trust.fleet().clone(),
            root: trust.root().to_vec(),
            root_online: trust.root_online(),
            members: registry.members(),
            bundles: registry.bundles(),
            revisions: Arc::clone(registry.revisions()),
            requests: http::requests(&metrics),
        };
        if !http.is_empty() {
            let counted = ConnectionMetrics::register(&metrics, "meshfed_http");
            tasks.spawn("http", http::serve(http, credentials.tls(), http::router(api), watch.clone(), counted));
        }
        tasks.spawn("credentials", http::follow(credentials, watch.clone()));
        let admin_server = AdminServer::new(readiness, metrics).config(config.shown()).route(debug);
        if !admin.is_empty() {
            tasks.spawn("admin", admin_server.serve(admin, watch));
        }
        guards.into_iter().for_each(meshfed_runtime::readiness::Guard::ready);
        Ok(())
    }
}

/// Follows the fleet's policies and settings, and on Kubernetes says what became of them.
fn follow(
    source: FleetSource,
    config: &Config,
    names: Arc<dyn FleetNames>,
    policies: watch::Sender<Arc<FleetPolicies>>,
    revisions: Arc<Revisions>,
    tasks: &mut TaskGroup,
    drain: &drain::Watch,
) {
    if let Some(place) = config.source.clone() {
        let of_hub = statuses::Hub { standing: source.standing(), names, revisions: Arc::clone(&revisions) };
        tasks.spawn("statuses", statuses::keep(place, of_hub, drain.clone()));
    }
    tasks.spawn("fleet source", source::follow(source, policies, revisions, drain.clone()));
}

/// On Kubernetes: what tokens may leave out.
fn declarations(config: &Config) -> Option<Arc<dyn Declarations>> {
    match config.source.clone()? {
        Place::ApiServer { kubeconfig, context, .. } => Some(Arc::new(Declared::new(kubeconfig, context))),
        Place::Directory(_) => None,
    }
}

/// On Kubernetes: members as objects, and the administrator's credentials as a Secret.
fn keep_objects(
    config: &Config,
    registry: &Arc<Registry>,
    credentials: &Standing,
    fleet: Arc<dyn FleetRead>,
    tasks: &mut TaskGroup,
    watch: &drain::Watch,
) {
    if let Some(Place::ApiServer { kubeconfig, context, .. }) = config.source.clone() {
        let labels = Arc::clone(registry) as Arc<dyn Labels>;
        let members = registry.members();
        tasks.spawn("clusters", clusters::follow(kubeconfig, context, members, fleet, labels, watch.clone()));
    }
    let args = &config.args;
    if let Some(name) = args.admin_secret.clone() {
        let place = (args.kubeconfig.clone(), args.context.clone(), args.namespace.clone());
        let secret = AdminSecret { name, place, server: args.admin_server.clone(), data_dir: args.data_dir.clone() };
        tasks.spawn("admin secret", secret.keep(credentials.token(), watch.clone()));
    }
}

/// TLS of port 15600. Only agents have business there with a certificate; everybody else comes without one.
fn agents_and_joiners(trust: &Trust) -> Result<Arc<rustls::ServerConfig>, rustls::Error> {
    let fleet = trust.fleet().clone();
    let policy = move |id: &SpiffeId| id.trust_domain == fleet && matches!(id.principal, Principal::Agent { .. });
    let (identity, peers) = (Arc::clone(trust.identity()), Arc::clone(trust.peers()));
    tls::server_config(identity, peers, Arc::new(policy), ClientAuth::Optional, &[b"h2"])
}

fn limits(drain_deadline: std::time::Duration) -> Limits {
    let (connections, strangers) = (CONNECTIONS_MAX, CONNECTIONS_MAX);
    Limits { connections, strangers, strangers_each: strangers / 2, drain_deadline, ..Limits::default() }
}

/// `/debug/source`: the faults of the fleet source.
fn source_page(faults: &Faults) -> axum::Json<serde_json::Value> {
    let faults = faults.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    axum::Json(serde_json::json!({ "errors": *faults }))
}

/// The registry's upkeep, which also keeps the policies' watch open.
async fn upkeep(
    registry: Arc<Registry>,
    _policies: watch::Sender<Arc<FleetPolicies>>,
    metrics: Arc<Metrics>,
    drain: drain::Watch,
) -> Result<(), crate::store::StoreError> {
    crate::members::upkeep::run(registry, metrics, drain).await
}
