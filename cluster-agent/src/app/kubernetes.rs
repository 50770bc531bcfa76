//! Edge. The agent of a Kubernetes cluster: it waits for a membership, runs the agent of it, and waits again once the
//! cluster has left. Each phase has the admin listeners for itself.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use futures::FutureExt as _;
use meshfed_runtime::admin::AdminServer;
use meshfed_runtime::config::Problems;
use meshfed_runtime::drain::Signals;
use meshfed_runtime::listen::Addresses;
use meshfed_runtime::metrics::Metrics;
use meshfed_runtime::process::{self, Ended, Stop, refuse, run_parts, run_until_signal};
use meshfed_runtime::readiness::Readiness;
use meshfed_runtime::telemetry;
use tokio::sync::watch;

use super::injection::Injection;
use super::{Agent, Host, chain, leaving, left};
use crate::config::{AgentArgs, Config, admin_listeners, injection};
use crate::downlink;
use crate::enroll::AgentFile;
use crate::lease::{Election, LeaseMetrics};
use crate::membership::connect::{self, Place};
use crate::membership::{Attended, Controller, Facts, Settings, elsewhere};
use crate::mirror::{self, policies};
use crate::source::Unserved;

/// The data directory of the member, in that of the agent: it appears whole, which a volume's own folder cannot.
const MEMBER: &str = "member";
/// Where the image has this program.
const IN_IMAGE: &str = "/meshfed";
/// The Lease by which the agents of a release decide which of them joins, offers and writes.
const LEASE: &str = "meshfed-agent";

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
    let _checked = (admin_listeners(&args, &mut problems), injection(&args, &mut problems));
    if let Err(problems) = problems.finish(()) {
        return refuse(&problems);
    }
    process::keep_memory_private();
    run_until_signal(signals, |stop| host(args, stop))
}

/// The API server of the flags, and the namespace of this release.
pub(super) async fn place(args: &AgentArgs) -> Result<Place, Ended> {
    let options = connect::Options {
        kubeconfig: args.kubeconfig.clone(),
        context: args.context.clone(),
        namespace: args.namespace.clone(),
    };
    connect::connect(&options).await.map_err(|error| Ended { name: "kubernetes", reason: chain(&error) })
}

/// One life after the other: a cluster that has left may join again.
async fn host(args: AgentArgs, stop: Stop) -> Result<(), Ended> {
    let stop = stop.shared();
    let place = place(&args).await?;
    let args = AgentArgs { namespace: Some(place.namespace.clone()), ..args };
    while life(&args, &place, stop.clone()).await?.is_some() {
        tracing::info!("this cluster has left its fleet");
    }
    Ok(())
}

/// From the wait for a membership to its end; `None`: the agent is told to end. What pods need before they start is
/// served all the time: without the webhook nobody would tell them that the cluster has not joined.
async fn life(
    args: &AgentArgs,
    place: &Place,
    stop: impl Future<Output = ()> + Clone + Send + 'static,
) -> Result<Option<Attended>, Ended> {
    let mut problems = Problems::new();
    let mut addresses = Addresses::new();
    let flags = &args.webhook_listen;
    let webhook = process::listen("MF0109", "--webhook-listen", "webhook", flags, &mut addresses, &mut problems);
    let inject = injection(args, &mut problems);
    problems.finish(()).map_err(|problems| Ended { name: "webhook", reason: problems.to_string() })?;
    let metrics = Arc::new(Metrics::new());
    let (anchors, told) = watch::channel(None);
    let (election, among) = among(args, place, &metrics);
    let mut ended = Ok(None);
    let told_to_end = stop.clone();
    let until = async { ended = Box::pin(phases(args, place, &among, anchors, stop)).await };
    run_parts(until, args.drain_timeout, |parts, watch| {
        if let Some(election) = election {
            parts.spawn("lease", election.run(told_to_end, watch.clone()));
        }
        let release = place.namespace.clone();
        let (instance, leads) = (among.instance.clone(), among.writes.clone());
        let others = elsewhere::tell(place.client.clone(), release.clone(), instance, leads, watch.clone());
        parts.spawn("memberships-elsewhere", others);
        let injection = Injection { release, inject, args, listeners: webhook, client: place.client.clone() };
        injection.start(parts, told, &metrics, &watch);
        Ok(())
    })
    .await?;
    ended
}

/// What this agent is among those of the release, and its part in their election; none where it is the only one.
fn among(args: &AgentArgs, place: &Place, metrics: &Arc<Metrics>) -> (Option<Election>, Host) {
    let metrics = Arc::clone(metrics);
    let Some(instance) = args.instance.clone().filter(|name| !name.is_empty()) else {
        return (None, Host { metrics, cli: cli_of(place, "deploy/meshfed-agent"), ..Host::none() });
    };
    let counted = LeaseMetrics::register(&metrics);
    let election = Election::new(place.client.clone(), &place.namespace, LEASE, &instance, counted);
    let (role, latest, writes) = (election.role(), election.latest(), election.writes());
    // People tell this agent, and not whichever of them comes first.
    let cli = cli_of(place, &format!("pod/{instance}"));
    (Some(election), Host { metrics, instance, role, latest, writes, cli, unserved: Unserved::default() })
}

/// How people run the command line beside the data directory of an agent in this cluster.
fn cli_of(place: &Place, agent: &str) -> String {
    format!("kubectl -n {} exec {agent} -- {IN_IMAGE}", place.namespace)
}

/// Waits for a membership, and runs the agent of it.
async fn phases(
    args: &AgentArgs,
    place: &Place,
    among: &Host,
    anchors: watch::Sender<Option<Arc<str>>>,
    stop: impl Future<Output = ()> + Clone,
) -> Result<Option<Attended>, Ended> {
    let member = args.data_dir.join(MEMBER);
    let settings = Settings {
        namespace: place.namespace.clone(),
        token_secret: args.token_secret.clone(),
        data_dir: member.clone(),
        keep_view: args.keep_view,
        writes: among.writes.clone(),
        instance: among.instance.clone(),
    };
    let mut controller = Controller::new(place.client.clone(), settings);
    let Some(file) = wait(args, place, among, &mut controller, stop.clone()).await? else { return Ok(None) };
    let run_dir = args.run_dir.clone().unwrap_or_else(|| args.data_dir.join("run"));
    let inner = AgentArgs {
        data_dir: member.clone(),
        run_dir: Some(run_dir),
        // Served already.
        webhook_listen: Vec::new(),
        injection_config: None,
        ..args.clone()
    };
    let built = Config::load(inner).and_then(|config| {
        anchors.send_replace(Some(super::anchors_of(&config)));
        Agent::build_within(config, Some(among.clone()))
    });
    let agent = built.map_err(|problems| Ended { name: "agent", reason: problems.to_string() })?;
    let attended = attend(agent, &member, &file, &mut controller, stop.clone()).await?;
    let forgotten = match attended {
        None => return Ok(None),
        Some(Attended::Deleted) => {
            anchors.send_replace(None);
            let cleared = mirror::withdraw(place.client.clone(), Some(among.instance.clone()));
            if leaving::within(cleared, stop, args.drain_timeout).await.is_none() {
                // Until it is forgotten it is leaving, and the next agent goes on.
                return Ok(None);
            }
            controller.keeper().forget().await
        }
        Some(Attended::Left) => {
            anchors.send_replace(None);
            controller.keeper().forget_here()
        }
    };
    forgotten.map_err(|error| Ended { name: "membership", reason: chain(&error) })?;
    Ok(attended)
}

/// Waits for a membership; `None`: the agent is told to end. It is ready meanwhile, or no release of it would ever be; but not
/// before it knows that the cluster is no member: a member's agent is ready once it serves, and whoever replaces one by it waits.
async fn wait(
    args: &AgentArgs,
    place: &Place,
    among: &Host,
    controller: &mut Controller,
    stop: impl Future<Output = ()>,
) -> Result<Option<AgentFile>, Ended> {
    let mut problems = Problems::new();
    let flags = admin_listeners(args, &mut problems);
    let mut addresses = Addresses::new();
    let admin = process::listen("MF0109", "--admin-listen", "admin", &flags, &mut addresses, &mut problems);
    problems.finish(()).map_err(|problems| Ended { name: "admin", reason: problems.to_string() })?;
    let mut member = None;
    let readiness = Readiness::new();
    let undecided = readiness.guard("whether this cluster is a member");
    let keeper = controller.keeper().clone();
    let until = async {
        tokio::select! {
            () = stop => {}
            file = controller.join(undecided) => {
                let (cluster, trust_domain) = (&file.cluster, &file.trust_domain);
                tracing::info!(%cluster, %trust_domain, "this cluster is a member: its agent begins");
                member = Some(file);
            }
        }
    };
    let server = AdminServer::new(readiness, Arc::clone(&among.metrics))
        .config(serde_json::json!({ "source": "kubernetes", "joined": false }));
    run_parts(until, args.drain_timeout, |parts, watch| {
        if !admin.is_empty() {
            parts.spawn("admin", server.serve(admin, watch.clone()));
        }
        parts.spawn("left", left::serve(keeper, args.clone(), place.clone(), watch.clone()));
        // Policies hear that nothing is known of them yet.
        let (facts, leads) = (watch::channel(None).1, among.writes.clone());
        parts
            .spawn("statuses", policies::keep(place.client.clone(), args.fleet_namespace.clone(), facts, leads, watch));
        Ok(())
    })
    .await?;
    Ok(member)
}

/// Runs the agent of a member; `None`: it was told to end.
async fn attend(
    agent: Agent,
    member: &Path,
    file: &AgentFile,
    controller: &mut Controller,
    stop: impl Future<Output = ()> + Clone,
) -> Result<Option<Attended>, Ended> {
    let (tell, facts) = watch::channel(Facts::default());
    let follow = agent.facts(tell);
    let identity = Arc::clone(&agent.identity);
    let renewed = || match downlink::renew::load(member) {
        Ok(new) => {
            tracing::info!(id = %new.id, "the agent that leads has renewed the identity of all");
            identity.replace(new);
        }
        Err(error) => tracing::warn!(error = %chain(&error), "the identity that all share cannot be used"),
    };
    let mut attended = None;
    let grace = agent.config.args.drain_timeout;
    let until = async {
        let how = tokio::select! {
            () = stop.clone() => return,
            () = follow => return,
            how = controller.attend(file, facts, renewed) => how,
        };
        attended = match how {
            Attended::Deleted => {
                tracing::info!(cluster = %file.cluster, "the Membership was deleted: this cluster leaves");
                leaving::within(leaving::leave(member, controller), stop, grace).await.map(|()| how)
            }
            Attended::Left => {
                tracing::info!(cluster = %file.cluster, "the agent that leads has left for all");
                Some(how)
            }
        };
    };
    agent.run(until).await?;
    Ok(attended)
}
