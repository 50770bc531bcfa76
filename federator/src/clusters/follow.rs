//! Edge. Keeps the Cluster objects of the hub's API server in step with the members.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt as _};
use meshfed_api::http;
use meshfed_crds::api_server::{ConnectError, Standing, Steady, connect, custom_watch_config};
use meshfed_crds::custom::{Cluster, ClusterStatus};
use meshfed_model::names::ClusterName;
use meshfed_runtime::clock;
use meshfed_runtime::drain::Watch;
use meshfed_runtime::telemetry::chain;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use super::judge::{Known, clash, differs, labels_to_give, spec_of, status};
use super::owner::{FIELD_MANAGER, Step, step};
use crate::fleet::{FleetRead, Labels, Member, Members};

/// As it is written in `apiVersion:`.
const API_VERSION: &str = "federation.meshfed.io/v1alpha1";
/// Whose object it is.
const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// How often what sessions know is looked at: a session that begins or ends changes no member.
const PERIOD: Duration = Duration::from_secs(1);

/// Why the objects cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum ClustersError {
    /// There is no way to the API server.
    #[error("there is no way to the API server of the fleet's objects")]
    Connect(#[from] ConnectError),
}

/// Follows members and objects until the drain. The API server may be away: what could not be written is written later.
///
/// # Errors
/// [`ClustersError`].
pub async fn follow(
    kubeconfig: Option<PathBuf>,
    context: Option<String>,
    mut members: watch::Receiver<Arc<Members>>,
    fleet: Arc<dyn FleetRead>,
    labels: Arc<dyn Labels>,
    drain: Watch,
) -> Result<(), ClustersError> {
    let client = connect(kubeconfig.as_deref(), context.as_deref()).await?;
    let mut objects = Objects::new(client);
    let mut tick = tokio::time::interval(PERIOD);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = drain.signaled() => return Ok(()),
            () = objects.turn() => {}
            changed = members.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
            }
            _ = tick.tick() => {}
        }
        let now = Arc::clone(&members.borrow_and_update());
        objects.settle(&now, fleet.as_ref(), labels.as_ref()).await;
    }
}

/// The Cluster objects, as far as a list of them was complete.
struct Objects {
    api: Api<Cluster>,
    events: futures::stream::BoxStream<'static, watcher::Result<Event<Cluster>>>,
    seen: Standing<Cluster>,
    /// The last fault of a write that was told.
    told: Option<String>,
}

impl Objects {
    fn new(client: Client) -> Self {
        let api: Api<Cluster> = Api::all(client);
        let events = watcher(api.clone(), custom_watch_config()).backoff(Steady::default()).boxed();
        Self { api, events, seen: Standing::default(), told: None }
    }

    /// Takes the next event; comes back when something has changed.
    async fn turn(&mut self) {
        loop {
            match self.events.next().await {
                Some(Ok(event)) => {
                    if self.seen.take(event) {
                        return;
                    }
                }
                Some(Err(error)) => self.tell(format!("Clusters cannot be watched: {}", chain(&error))),
                None => std::future::pending().await,
            }
        }
    }

    /// Makes what is missing, and writes what statuses are to say.
    async fn settle(&mut self, members: &Members, fleet: &dyn FleetRead, labels: &dyn Labels) {
        // Nothing is made before it is known what is there.
        if !self.seen.is_whole() {
            return;
        }
        let live = members.members.iter().filter(|(_, m)| m.is_live()).map(|(name, _)| name.to_string());
        let names: BTreeSet<String> = live.chain(self.seen.names().cloned()).collect();
        for name in names {
            let known = ClusterName::new(&name).ok();
            let member = known.as_ref().and_then(|name| members.members.get(name));
            let facts = known.as_ref().and_then(|name| fleet.cluster(name));
            match (self.seen.get(&name), member) {
                (None, Some(member)) => self.make(&name, member).await,
                (Some(_), member) => self.hold(&name, member.filter(|m| m.is_live())).await,
                (None, None) => {}
            }
            if let Some(member) = member.filter(|m| m.is_live()) {
                self.label(&name, member, labels).await;
            }
            let Some(cluster) = self.seen.get(&name) else { continue };
            // Workloads come and go: the cluster is what it is without them.
            let own = |w: &&http::Waiting| matches!(w.kind.as_str(), "source" | "gateway");
            let waits = facts.as_ref().and_then(|f| f.waiting_for.iter().find(own)).map(words);
            let connected = facts.as_ref().is_some_and(|f| f.connection == http::Connection::Connected);
            // A member has joined: nothing is in its way.
            let joined = member.is_some_and(Member::is_live);
            let clash = if joined { None } else { self.clash(&name, cluster, members) };
            let known = Known { member, connected, waits: waits.as_deref(), clash: clash.as_deref() };
            let wanted = status(cluster, &name, known, clock::timestamp());
            if differs(cluster, &wanted) {
                self.write(name, &wanted).await;
            }
        }
    }

    /// Gives a member the labels that a user declares of it.
    async fn label(&mut self, name: &str, member: &Member, labels: &dyn Labels) {
        let Some(wanted) = self.seen.get(name).and_then(|cluster| labels_to_give(cluster, name, member)) else {
            return;
        };
        let given = labels.label(&member.member.cluster, member.binding, wanted.clone()).await;
        if let Err(error) = given {
            self.tell(format!("Cluster {name}: {error}"));
        }
    }

    /// Which other cluster gives a network of a Cluster other ranges; members that are bound come before what is declared.
    fn clash(&self, name: &str, cluster: &Cluster, members: &Members) -> Option<String> {
        let live = members.members.iter().filter(|(_, member)| member.is_live());
        let bound = live.map(|(other, member)| (other.as_str(), spec_of(member).networks));
        let declared = self.seen.values().map(|other| (other.name_any(), other.spec.networks.clone()));
        let declared: Vec<_> = declared.collect();
        let declared = declared.iter().map(|(other, networks)| (other.as_str(), networks.clone()));
        clash(name, &cluster.spec, bound.chain(declared))
    }

    async fn make(&mut self, name: &str, member: &Member) {
        let mut made = Cluster::new(name, spec_of(member));
        made.labels_mut().insert(MANAGED_BY.to_owned(), "meshfed".to_owned());
        let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        match self.api.create(&params, &made).await {
            Ok(made) => self.seen.put(made),
            // A user was first.
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => self.tell(format!("Cluster {name} cannot be made: {}", chain(&error))),
        }
    }

    /// Keeps a spec that is ours alone in step with the member, and lets go of one that a user has applied. Either only if
    /// the object still is the one that was seen.
    async fn hold(&mut self, name: &str, member: Option<&Member>) {
        let Some(cluster) = self.seen.get(name) else { return };
        let Some(step) = step(cluster, member.map(spec_of)) else { return };
        let version = &cluster.metadata.resource_version;
        let patch = match step {
            Step::Claim(writers) => {
                Patch::Merge(json!({"metadata": {"resourceVersion": version, "managedFields": writers}}))
            }
            Step::Apply(spec) => {
                let metadata = json!({"name": name, "resourceVersion": version, "labels": {MANAGED_BY: "meshfed"}});
                Patch::Apply(json!({"apiVersion": API_VERSION, "kind": "Cluster", "metadata": metadata, "spec": spec}))
            }
            Step::LetGo => {
                let metadata = json!({"name": name, "resourceVersion": version});
                Patch::Apply(json!({"apiVersion": API_VERSION, "kind": "Cluster", "metadata": metadata}))
            }
        };
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        match self.api.patch(name, &params, &patch).await {
            Ok(cluster) => self.seen.put(cluster),
            // It has changed, or is gone: the watch tells.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
            Err(error) => self.tell(format!("Cluster {name} cannot be kept in step: {}", chain(&error))),
        }
    }

    async fn write(&mut self, name: String, status: &ClusterStatus) {
        let patch = json!({
            "apiVersion": API_VERSION,
            "kind": "Cluster",
            "status": status,
        });
        let params = PatchParams::apply(FIELD_MANAGER).force();
        match self.api.patch_status(&name, &params, &Patch::Apply(patch)).await {
            Ok(cluster) => {
                self.told = None;
                self.seen.put(cluster);
            }
            // It was deleted since.
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => self.tell(format!("the status of Cluster {name} cannot be written: {}", chain(&error))),
        }
    }

    /// Once each, while it stays the same.
    fn tell(&mut self, text: String) {
        if self.told.as_ref() != Some(&text) {
            tracing::warn!("{text}");
            self.told = Some(text);
        }
    }
}

/// What a cluster waits for.
fn words(waiting: &http::Waiting) -> String {
    format!("{} {}: {}", waiting.kind, waiting.name, waiting.reason)
}
