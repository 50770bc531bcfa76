//! Edge. The agent of a Kubernetes cluster: it waits for a membership, runs the agent of it, and waits again once the
//! cluster has left. Each phase has the admin listeners for itself.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use meshfed_runtime::admin::AdminServer;
use meshfed_runtime::config::Problems;
use meshfed_runtime::drain::Signals;
use meshfed_runtime::listen::Addresses;
use meshfed_runtime::metrics::Metrics;
use meshfed_runtime::process::{self, Ended, Stop, refuse, run_parts, run_until_signal};
use meshfed_runtime::readiness::Readiness;
use meshfed_runtime::telemetry;
use tokio::sync::{oneshot, watch};

use super::{Agent, chain};
use crate::config::{AgentArgs, Config, admin_listeners};
use crate::downlink;
use crate::enroll::AgentFile;
use crate::membership::{Attended, Controller, Facts, Settings, connect};

/// The data directory of the member, in that of the agent: it appears whole, which a volume's own folder cannot.
const MEMBER: &str = "member";
/// Time for one attempt to leave.
const LEAVE: Duration = Duration::from_secs(30);
/// The pause between two of them.
const AGAIN: Duration = Duration::from_secs(5);

/// Whether the membership of this agent is an object: its source is Kubernetes, and nobody joined its data directory.
pub(super) fn by_object(args: &AgentArgs) -> bool {
    args.source == "kubernetes" && !args.data_dir.join("agent.yaml").exists()
}

/// Runs until SIGTERM or SIGINT.
pub(super) fn run(args: AgentArgs, signals: Option<Signals>) -> ExitCode {
    let mut problems = Problems::new();
    if let Err(error) = telemetry::init(args.log_format, &args.log_level) {
        problems.flag("MF0108", "--log-level", error.to_string());
    }
    // What is wrong with the flags is told now, not once a membership has come.
    let _checked = admin_listeners(&args, &mut problems);
    if let Err(problems) = problems.finish(()) {
        return refuse(&problems);
    }
    process::keep_memory_private();
    run_until_signal(signals, |stop| host(args, stop))
}

/// One phase after the other.
async fn host(args: AgentArgs, stop: Stop) -> Result<(), Ended> {
    let stop = stop.shared();
    let options = connect::Options {
        kubeconfig: args.kubeconfig.clone(),
        context: args.context.clone(),
        namespace: args.namespace.clone(),
    };
    let cluster =
        connect::connect(&options).await.map_err(|error| Ended { name: "kubernetes", reason: chain(&error) })?;
    let args = AgentArgs { namespace: Some(cluster.namespace.clone()), ..args };
    let member = args.data_dir.join(MEMBER);
    let settings = Settings {
        namespace: cluster.namespace.clone(),
        token_secret: args.token_secret.clone(),
        data_dir: member.clone(),
    };
    let mut controller = Controller::new(cluster.client, settings);
    loop {
        let Some(file) = wait(&args, &mut controller, stop.clone()).await? else { return Ok(()) };
        tracing::info!(cluster = %file.cluster, trust_domain = %file.trust_domain, "this cluster is a member");
        let attended = Box::pin(attend(&args, member.clone(), &file, &mut controller, stop.clone())).await?;
        let Some(Attended::Deleted) = attended else { return Ok(()) };
        tracing::info!(cluster = %file.cluster, "this cluster has left");
        controller.keeper().forget().await.map_err(|error| Ended { name: "membership", reason: chain(&error) })?;
    }
}

/// Waits for a membership; `None`: the agent is told to end. Nothing is served meanwhile but health: it is ready, or no
/// release of it would ever be.
async fn wait(
    args: &AgentArgs,
    controller: &mut Controller,
    stop: impl Future<Output = ()> + Clone,
) -> Result<Option<AgentFile>, Ended> {
    let (joined, member) = oneshot::channel();
    let mut problems = Problems::new();
    let flags = admin_listeners(args, &mut problems);
    let mut addresses = Addresses::new();
    let admin = process::listen("MF0109", "--admin-listen", "admin", &flags, &mut addresses, &mut problems);
    problems.finish(()).map_err(|problems| Ended { name: "admin", reason: problems.to_string() })?;
    let until = {
        let stop = stop.clone();
        async move {
            tokio::select! {
                () = stop => {}
                file = controller.join() => {
                    let _no_one_waits = joined.send(file);
                }
            }
        }
    };
    let server = AdminServer::new(Readiness::new(), Arc::new(Metrics::new()))
        .config(serde_json::json!({ "source": "kubernetes", "joined": false }));
    run_parts(until, args.drain_timeout, |parts, watch| {
        if !admin.is_empty() {
            parts.spawn("admin", server.serve(admin, watch));
        }
        Ok(())
    })
    .await?;
    Ok(member.await.ok())
}

/// Runs the agent of a member; `None`: it was told to end.
async fn attend(
    args: &AgentArgs,
    member: PathBuf,
    file: &AgentFile,
    controller: &mut Controller,
    stop: impl Future<Output = ()>,
) -> Result<Option<Attended>, Ended> {
    let run_dir = args.run_dir.clone().unwrap_or_else(|| args.data_dir.join("run"));
    let args = AgentArgs { data_dir: member.clone(), run_dir: Some(run_dir), ..args.clone() };
    let built = Config::load(args).and_then(Agent::build);
    let agent = built.map_err(|problems| Ended { name: "agent", reason: problems.to_string() })?;
    let (tell, facts) = watch::channel(Facts::default());
    let follow = agent.facts(tell);
    let mut attended = None;
    let until = async {
        let left = async {
            let how = controller.attend(file, facts).await;
            tracing::info!(cluster = %file.cluster, "the Membership was deleted: this cluster leaves");
            leave(&member).await;
            how
        };
        tokio::select! {
            () = stop => {}
            how = left => attended = Some(how),
            () = follow => {}
        }
    };
    agent.run(until).await?;
    Ok(attended)
}

/// Leaves the fleet while the agent still serves. A federator that is away is waited for: the cluster is a member until
/// it knows.
async fn leave(member: &Path) {
    while let Err(error) = downlink::leave::leave(member, LEAVE).await {
        tracing::warn!(error = %chain(&error), "this cluster has not left yet; it is tried again");
        tokio::time::sleep(AGAIN).await;
    }
}
