//! Edge. Wires the rooms together: `Config` → build → run.

mod host;
mod names;
mod run_dir;
mod sockets;

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;

use meshfed_runtime::config::{EXIT_FLAGS, Problems};
use meshfed_runtime::metrics::Metrics;
use meshfed_runtime::readiness::Readiness;
use meshfed_runtime::tls::{IdentityStore, TrustStore};
use meshfed_runtime::{drain, tasks};
use tokio::sync::{oneshot, watch};
use tonic::transport::Channel;

use crate::admin::{Admin, Needed};
use crate::attest::Attestation;
use crate::config::{AgentAddress, AppProbe, CODE_FLAG, Capture, Config, Mode, ProxyArgs, node};
use crate::discovery::{Agent, Discovery, DiscoveryConfig};
use crate::listen::{Limits, Listeners, Shared};
use crate::passthrough::GatewayMetrics;
use crate::probe::{self, AppState};
use crate::state::StateHandle;
use crate::telemetry::{Telemetry, TelemetrySettings};
use run_dir::RunDir;
use sockets::ProcessSockets;

/// The proxy of `args`, until SIGTERM or SIGINT; `signals` are those that `main` has listened for, if it has.
#[must_use]
pub fn run(args: ProxyArgs, signals: Option<drain::Signals>) -> ExitCode {
    meshfed_runtime::tls::install_provider();
    let config = match configure(&args) {
        Ok(config) => config,
        Err(problems) => return refuse(&problems),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "no runtime");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(serve(config, signals)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(problems) => refuse(&problems),
    }
}

/// Starts the log and checks the flags.
///
/// # Errors
/// All problems that were found.
pub fn configure(args: &ProxyArgs) -> Result<Config, Problems> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut problems = Problems::new();
    if let Err(error) = meshfed_runtime::telemetry::init(args.log_format, &args.log_level) {
        problems.flag(CODE_FLAG, "--log-level", error.to_string());
    }
    match problems.take(Config::new(args, cores)) {
        Some(config) => problems.finish(config),
        None => Err(problems),
    }
}

fn refuse(problems: &Problems) -> ExitCode {
    // The form is a contract, so it does not go through the log.
    let _closed = writeln!(std::io::stderr(), "{problems}");
    ExitCode::from(match problems.exit_code() {
        0 => EXIT_FLAGS,
        code => code,
    })
}

/// Runs until a signal (true) or until something that is needed ended (false).
async fn serve(config: Config, signals: Option<drain::Signals>) -> Result<bool, Problems> {
    let mut signals = signals.map_or_else(drain::Signals::listen, Ok).map_err(|e| problem("SIGTERM", &e))?;
    let (trigger, watch) = drain::channel();
    let readiness = Readiness::new();
    let Parts { discovery, mut sockets, workers, helpers: _helpers } = build(&config, &readiness, &watch)?;
    let clean = tokio::select! {
        () = signals.received() => {
            tracing::info!(timeout = ?config.drain_timeout, "draining");
            true
        }
        ended = discovery.run(&mut sockets, watch.clone()) => {
            ended?;
            false
        }
        worker = first_end(workers) => {
            tracing::error!(worker, "a worker ended");
            false
        }
    };
    let draining = readiness.guard("draining");
    drop((sockets, watch));
    if !trigger.drained(config.drain_timeout).await {
        tracing::warn!("connections were cut: the drain timeout passed");
    }
    drop(draining);
    Ok(clean)
}

/// What runs.
struct Parts {
    discovery: Discovery,
    sockets: ProcessSockets,
    /// Ends of the workers.
    workers: Vec<oneshot::Receiver<()>>,
    /// Tasks beside them.
    helpers: Vec<tasks::AbortOnDrop>,
}

/// Everything up to the first word with the agent.
fn build(config: &Config, readiness: &Readiness, watch: &drain::Watch) -> Result<Parts, Problems> {
    let mut run_dir = config.run_dir.as_deref().map(RunDir::new);
    let metrics = Arc::new(Metrics::new());
    let (identity, trust) = (Arc::new(IdentityStore::empty()), Arc::new(TrustStore::new()));
    let state = StateHandle::new(Arc::clone(&identity), Arc::clone(&trust));
    let telemetry = checked_telemetry(config, &metrics, run_dir.as_mut())?;
    let mut helpers = vec![helper("access log", reopen_on_signal(Arc::clone(&telemetry)))];
    let shared = Shared {
        state: Arc::clone(&state),
        telemetry,
        gateway: Arc::new(GatewayMetrics::register(&metrics)),
        limits: Arc::new(Limits::of_process()),
        drain_timeout: config.drain_timeout,
    };
    let (listeners, workers) =
        Listeners::start(config.workers, &shared, watch).map_err(|e| problem("--workers", &e))?;
    let (joined, seen) = watch::channel(false);
    let (left, has_left) = watch::channel(false);
    let admin = Admin {
        readiness: readiness.clone(),
        metrics: Arc::clone(&metrics),
        state: Arc::clone(&state),
        config: shown(config),
        kubelet: config.kubelet.clone(),
        needed: needed(config, seen, has_left),
    };
    let guard = readiness.guard("agent: no listeners yet");
    let sockets = ProcessSockets::new(config, run_dir, admin, listeners, guard, watch.clone())?;

    let host_addresses: Vec<IpAddr> = if config.mode == Mode::Gateway { host::addresses() } else { Vec::new() };
    let node = node(config, &host_addresses);
    let node_id = node.id.clone();
    let agent = match &config.agent {
        AgentAddress::Unix(path) => Agent::Unix(path.clone()),
        AgentAddress::Tcp(tcp) => {
            let (attestation, attested) =
                Attestation::new(tcp.clone(), &config.workload, Arc::clone(&identity), joined);
            helpers.push(helper("attestation", attestation.run(watch.clone())));
            Agent::Tcp(attested)
        }
    };
    let discovery_config = DiscoveryConfig {
        agent,
        node,
        captures: config.capture == Capture::Redirect,
        inbound_listen: config.listen.get("inbound").cloned().unwrap_or_default(),
        inbound: config.inbound.keys().copied().collect(),
    };
    let (discovery, channel) = Discovery::new(discovery_config, &state, identity, trust, &metrics);
    let discovery = discovery.telling(left);
    helpers.extend(probe_and_report(config, node_id, state, &sockets, channel, watch));
    Ok(Parts { discovery, sockets, workers, helpers })
}

/// The anchors of a gateway on Kubernetes: they come when its cluster joins.
fn needed(config: &Config, joined: watch::Receiver<bool>, left: watch::Receiver<bool>) -> Option<Needed> {
    match &config.agent {
        AgentAddress::Tcp(agent) if config.mode == Mode::Gateway => {
            Some(Needed::new(agent.trust_file.clone(), joined, left))
        }
        AgentAddress::Tcp(_) | AgentAddress::Unix(_) => None,
    }
}

/// Opens the access log, and tells with it every address in use that the flags name: all that can be known by now.
fn checked_telemetry(
    config: &Config,
    metrics: &Metrics,
    run_dir: Option<&mut RunDir>,
) -> Result<Arc<Telemetry>, Problems> {
    let mut problems = Problems::new();
    let settings = TelemetrySettings { access_log: config.access_log.clone(), workload: config.workload.clone() };
    let telemetry = problems.take(Telemetry::new(metrics, settings).map_err(|e| problem("--access-log", &e)));
    sockets::check_known(config, &mut problems);
    // Another's directory alone can wait for the addresses that are known later.
    if let Some(run_dir) = run_dir.filter(|dir| dir.is_broken() || !problems.is_empty()) {
        run_dir.check(&mut problems);
    }
    match telemetry {
        Some(telemetry) => problems.finish(telemetry),
        None => Err(problems),
    }
}

fn helper(name: &'static str, work: impl Future<Output = ()> + Send + 'static) -> tasks::AbortOnDrop {
    tasks::AbortOnDrop::new(&tasks::spawn(name, work))
}

/// Probes the application and tells the agent, once the first listeners stand: who never listened has nothing to say, and a
/// second proxy of the workload must not speak for the first.
fn probe_and_report(
    config: &Config,
    node_id: String,
    state: Arc<StateHandle>,
    sockets: &ProcessSockets,
    channel: watch::Receiver<Option<Channel>>,
    watch: &drain::Watch,
) -> [tasks::AbortOnDrop; 2] {
    let (report, app) = watch::channel(AppState { ready: false, reason: "not probed yet".to_owned() });
    let probing = probe_when_started(config.app_probe.clone(), state, report, sockets.started(), watch.clone());
    let (mut listens, workload) = (sockets.started(), config.workload.to_string());
    let reporting = async move {
        if listens.wait_for(|s| *s).await.is_ok() {
            probe::report(workload, node_id, app, channel).await;
        }
    };
    [helper("probe", probing), helper("report", reporting)]
}

/// The workload is not reported ready before its proxy listens.
async fn probe_when_started(
    probe: AppProbe,
    state: Arc<StateHandle>,
    report: watch::Sender<AppState>,
    mut started: watch::Receiver<bool>,
    drain: drain::Watch,
) {
    tokio::select! {
        () = drain.signaled() => return,
        begun = started.wait_for(|s| *s) => if begun.is_err() { return },
    }
    probe::run(probe, state, report, drain).await;
}

/// SIGUSR1 opens the access log's file anew, as with nginx; without a file it does nothing, and never ends the process.
async fn reopen_on_signal(telemetry: Arc<Telemetry>) {
    use tokio::signal::unix::{SignalKind, signal};
    let mut asked = match signal(SignalKind::user_defined1()) {
        Ok(asked) => asked,
        Err(error) => {
            return tracing::error!(%error, "SIGUSR1 cannot be waited for: the access log follows its name only");
        }
    };
    while asked.recv().await.is_some() {
        if let Some(log) = telemetry.access_log() {
            log.reopen();
        }
    }
}

async fn first_end(workers: Vec<oneshot::Receiver<()>>) -> usize {
    if workers.is_empty() {
        return std::future::pending().await;
    }
    let (_ended, index, _others) = futures::future::select_all(workers).await;
    index
}

fn problem(flag: &str, error: &(dyn std::error::Error + 'static)) -> Problems {
    let mut problems = Problems::new();
    problems.environment(CODE_FLAG, flag, meshfed_runtime::telemetry::chain(error));
    problems
}

/// The configuration for the admin port.
fn shown(config: &Config) -> serde_json::Value {
    let texts = |addresses: &Vec<SocketAddr>| addresses.iter().map(ToString::to_string).collect::<Vec<_>>();
    serde_json::json!({
        "agent": config.agent.to_string(),
        "workload": config.workload.to_string(),
        "mode": config.mode.as_str(),
        "bind": config.bind.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "capture": config.capture.as_str(),
        "inbound": config.inbound.iter().map(|(p, a)| (p.to_string(), a.to_string())).collect::<std::collections::BTreeMap<_, _>>(),
        "outbound": config.outbound.iter().map(|(l, s)| (l.to_string(), s.clone())).collect::<std::collections::BTreeMap<_, _>>(),
        "listen": config.listen.iter().map(|(k, v)| (*k, texts(v))).collect::<std::collections::BTreeMap<_, _>>(),
        "workers": config.workers,
        "drainTimeout": format!("{}s", config.drain_timeout.as_secs_f64()),
    })
}

#[cfg(test)]
mod tests;
