//! Edge. Wires the rooms together: `Config` → build → run.

mod host;
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

use crate::admin::Admin;
use crate::config::{AppProbe, CODE_FLAG, Config, Mode, ProxyArgs, node};
use crate::discovery::{Discovery, DiscoveryConfig};
use crate::listen::{Limits, Listeners, Shared};
use crate::passthrough::GatewayMetrics;
use crate::probe::{self, AppState};
use crate::state::StateHandle;
use crate::telemetry::{Telemetry, TelemetrySettings};
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
    let metrics = Arc::new(Metrics::new());
    let (identity, trust) = (Arc::new(IdentityStore::empty()), Arc::new(TrustStore::new()));
    let state = StateHandle::new(Arc::clone(&identity), Arc::clone(&trust));
    let settings = TelemetrySettings { access_log: config.access_log.clone(), workload: config.workload.clone() };
    let telemetry = Telemetry::new(&metrics, settings).map_err(|e| problem("--access-log", &e))?;
    let reopening = tasks::spawn("access log", reopen_on_signal(Arc::clone(&telemetry)));
    let _reopening = tasks::AbortOnDrop::new(&reopening);
    let shared = Shared {
        state: Arc::clone(&state),
        telemetry,
        gateway: Arc::new(GatewayMetrics::register(&metrics)),
        limits: Arc::new(Limits::of_process()),
    };
    let (listeners, workers) =
        Listeners::start(config.workers, &shared, &watch).map_err(|e| problem("--workers", &e))?;
    let admin = Admin {
        readiness: readiness.clone(),
        metrics: Arc::clone(&metrics),
        state: Arc::clone(&state),
        config: shown(&config),
    };
    let guard = readiness.guard("agent: no listeners yet");
    let mut sockets = ProcessSockets::new(&config, admin, listeners, guard, watch.clone())?;

    let host_addresses: Vec<IpAddr> = if config.mode == Mode::Gateway { host::addresses() } else { Vec::new() };
    let node = node(&config, &host_addresses);
    let (node_id, workload) = (node.id.clone(), config.workload.to_string());
    let discovery_config = DiscoveryConfig {
        agent: config.agent.clone(),
        node,
        inbound_listen: config.listen.get("inbound").cloned().unwrap_or_default(),
    };
    let (discovery, channel) = Discovery::new(discovery_config, &state, identity, trust, &metrics);
    let started = sockets.started();
    let (report, app) = watch::channel(AppState { ready: false, reason: "not probed yet".to_owned() });
    let probing =
        tasks::spawn("probe", probe_when_started(config.app_probe.clone(), state, report, started, watch.clone()));
    let _probing = tasks::AbortOnDrop::new(&probing);
    // Who never listened has nothing to say: a second proxy of the workload must not speak for the first.
    let mut listens = sockets.started();
    let reporting = tasks::spawn("report", async move {
        if listens.wait_for(|s| *s).await.is_ok() {
            probe::report(workload, node_id, app, channel).await;
        }
    });
    let _reporting = tasks::AbortOnDrop::new(&reporting);

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
        "agent": config.agent.display().to_string(),
        "workload": config.workload.to_string(),
        "mode": config.mode.as_str(),
        "bind": config.bind.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "capture": "none",
        "inbound": config.inbound.iter().map(|(p, a)| (p.to_string(), a.to_string())).collect::<std::collections::BTreeMap<_, _>>(),
        "outbound": config.outbound.iter().map(|(l, s)| (l.to_string(), s.clone())).collect::<std::collections::BTreeMap<_, _>>(),
        "listen": config.listen.iter().map(|(k, v)| (*k, texts(v))).collect::<std::collections::BTreeMap<_, _>>(),
        "workers": config.workers,
        "drainTimeout": format!("{}s", config.drain_timeout.as_secs_f64()),
    })
}

#[cfg(test)]
mod tests;
