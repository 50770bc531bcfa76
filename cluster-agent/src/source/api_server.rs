//! Edge. Follows an API server, and tells the core what changed; keeps the last good objects over a restart as for a
//! directory, so that an agent that starts while the API server is away serves what it had.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use meshfed_crds::api_server::{ApiServer, Kinds, Selection, connect};
use meshfed_crds::{Change, FileChange, Kind, LastGood, ObjectError, Scope};
use meshfed_model::names::Namespace;
use meshfed_model::version::Version;
use meshfed_runtime::drain::Watch;
use meshfed_runtime::metrics::Metrics;
use meshfed_runtime::readiness::{Guard, Readiness};
use meshfed_runtime::{clock, tasks};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::mpsc;

use super::state::{self, Keeper};
use super::{SourceConfig, SourceError, SourceUpdate, Unserved, path_of, send, tell_faults};

/// How long an agent that has objects of its last run waits for the first complete lists. Then it begins with those:
/// what has changed follows when the lists are there, and nothing is taken away before.
const FIRST_WITHIN: Duration = Duration::from_secs(5);
/// How often faults are looked at that end by themselves.
const FAULTS_EVERY: Duration = Duration::from_secs(5);

/// Which API server, and who asks.
#[derive(Debug, Clone)]
pub struct ApiServerConfig {
    /// Where it is and who we are there; none: the service account of our pod.
    pub kubeconfig: Option<PathBuf>,
    /// A context of the kubeconfig; none: its current one.
    pub context: Option<String>,
    /// The agent's own namespace.
    pub namespace: Namespace,
    /// The hub's namespace, if the hub runs in this cluster: its policies are the fleet's, and not ours.
    pub fleet_namespace: Option<Arc<str>>,
    /// Shows which kinds are waited for.
    pub readiness: Readiness,
    /// Shows which kinds the API server does not serve.
    pub unserved: Unserved,
    /// What is counted.
    pub metrics: SourceMetrics,
}

/// Labels of the metrics of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct KindLabels {
    kind: &'static str,
}

/// What is counted of each kind.
#[derive(Debug, Clone)]
pub struct SourceMetrics {
    objects: Family<KindLabels, Gauge>,
    lists: Family<KindLabels, Counter>,
    errors: Family<KindLabels, Counter>,
    last_event: Family<KindLabels, Gauge>,
}

impl SourceMetrics {
    /// Registers them.
    #[must_use]
    pub fn register(metrics: &Metrics) -> Self {
        Self {
            objects: metrics.gauges("meshfed_source_objects", "Objects of the API server, by kind"),
            lists: metrics.counters(
                "meshfed_source_lists",
                "Complete lists of the API server, by kind; more than one is a relist",
            ),
            errors: metrics
                .counters("meshfed_source_watch_errors", "Lists and watches of the API server that failed, by kind"),
            last_event: metrics.gauges(
                "meshfed_source_last_event_timestamp_seconds",
                "When the API server was last heard of, by kind, in seconds since 1970",
            ),
        }
    }

    fn show(&self, kinds: &Kinds, now: Instant) {
        let wall = clock::unix_seconds(clock::wall());
        for (kind, watched) in kinds.iter() {
            let (labels, counts) = (KindLabels { kind: kind.as_str() }, watched.counts());
            self.objects.get_or_create(&labels).set(i64::try_from(counts.objects).unwrap_or(i64::MAX));
            for (family, count) in [(&self.lists, counts.lists), (&self.errors, counts.errors)] {
                let counter = family.get_or_create(&labels);
                counter.inc_by(count.saturating_sub(counter.get()));
            }
            if let Some(at) = counts.last_event {
                let seconds = wall.saturating_sub(now.saturating_duration_since(at).as_secs());
                self.last_event.get_or_create(&labels).set(i64::try_from(seconds).unwrap_or(i64::MAX));
            }
        }
    }
}

/// Runs until the drain starts or nobody takes updates.
pub(super) async fn run(
    config: SourceConfig,
    from: ApiServerConfig,
    updates: &mpsc::Sender<SourceUpdate>,
    drain: &Watch,
) -> Result<(), SourceError> {
    let client = connect(from.kubeconfig.as_deref(), from.context.as_deref()).await.map_err(SourceError::Connect)?;
    let SourceConfig { state, bounds, .. } = config;
    let dir = state.clone();
    let loaded = tasks::spawn_blocking("source-state", move || {
        let mut last_good = LastGood::new(Scope::Member, Some(bounds));
        load(&dir, &mut last_good).map(|epoch| (last_good, epoch))
    });
    let (last_good, epoch) = loaded.await.map_err(|_panicked| SourceError::Panicked)??;
    let selection = Selection { scope: Scope::Member, fleet_namespace: from.fleet_namespace };
    let server = ApiServer::new(&client, &selection, last_good.files().map(Arc::clone));
    let guards = server.kinds().iter().map(|(kind, _)| {
        let text = format!("source: waiting for the first list of {kind} ({})", kind.api_version());
        (kind, from.readiness.guard(text))
    });
    let (keeper, writer) = Keeper::start(state);
    let mut following = Following {
        guards: guards.collect(),
        restored: !last_good.is_empty(),
        server,
        last_good,
        version: Version::new(epoch, 0),
        keeper,
        faults: Arc::from([]),
        unserved: from.unserved,
        metrics: from.metrics,
    };
    following.follow(updates, drain).await;
    // The last state is written before the process ends.
    drop(following);
    writer.await.map_err(|_panicked| SourceError::Panicked)
}

/// What is left of a directory's objects is no object of an API server: only paths of kinds are taken up.
fn load(dir: &Path, last_good: &mut LastGood) -> Result<u64, SourceError> {
    let epoch = state::load(dir, last_good).map_err(SourceError::State)?;
    let foreign = |path: &&Arc<str>| {
        let kind = path.split('/').next().unwrap_or_default();
        path.ends_with(".yaml") || path.ends_with(".json") || !Kind::ALL.iter().any(|k| k.as_str() == kind)
    };
    let gone: Vec<FileChange> =
        last_good.files().filter(foreign).map(|path| FileChange::Removed { path: Arc::clone(path) }).collect();
    let _nobody_has_them = last_good.apply(gone);
    Ok(epoch)
}

struct Following {
    server: ApiServer,
    last_good: LastGood,
    /// Revision 0: nothing was sent yet.
    version: Version,
    restored: bool,
    keeper: Keeper,
    faults: Arc<[ObjectError]>,
    guards: BTreeMap<Kind, Guard>,
    unserved: Unserved,
    metrics: SourceMetrics,
}

impl Following {
    async fn follow(&mut self, updates: &mpsc::Sender<SourceUpdate>, drain: &Watch) {
        let begin = clock::instant() + FIRST_WITHIN;
        loop {
            let first = self.version.revision == 0;
            let mut late = false;
            let pause =
                if first && self.restored { begin.saturating_duration_since(clock::instant()) } else { FAULTS_EVERY };
            let changes = tokio::select! {
                changes = self.server.next(clock::instant) => changes,
                () = tokio::time::sleep(pause) => {
                    late = first && self.restored;
                    Vec::new()
                }
                () = drain.signaled() => return,
            };
            if !self.take(changes, late, updates, drain).await {
                return;
            }
        }
    }

    /// Takes changes, and sends what they are. False: nobody listens, or the drain began while nobody took them.
    async fn take(
        &mut self,
        files: Vec<FileChange>,
        late: bool,
        updates: &mpsc::Sender<SourceUpdate>,
        drain: &Watch,
    ) -> bool {
        let now = clock::instant();
        let paths: Vec<Arc<str>> = files.iter().map(path_of).collect();
        let mut changes = self.last_good.apply(files);
        self.last_good.set_walk_errors(self.server.kinds().faults(now));
        let told = tell_faults(&self.last_good, &mut self.faults);
        self.metrics.show(self.server.kinds(), now);
        for (kind, watched) in self.server.kinds().iter().filter(|(kind, _)| !kind.is_istios()) {
            self.unserved.set(kind.as_str(), kind.api_version(), watched.is_missing());
        }
        let settled: Vec<Kind> =
            self.server.kinds().iter().filter(|(_, w)| w.is_settled(now)).map(|(kind, _)| kind).collect();
        for kind in settled {
            self.guards.remove(&kind);
        }
        let mut heard = true;
        if self.version.revision > 0 {
            if !changes.is_empty() {
                self.version.revision += 1;
            }
            if !changes.is_empty() || told {
                heard = send(self.update(changes), updates, drain.signaled()).await;
            }
        } else if late || self.server.kinds().is_settled(now) {
            // Everything at once: a part of a cluster is nothing to tell others of.
            changes = self.last_good.objects().map(|o| Change::Put(Arc::clone(o))).collect();
            self.version.revision = 1;
            self.guards.clear();
            heard = send(self.update(changes), updates, drain.signaled()).await;
        }
        self.keeper.keep(paths.into_iter(), &self.last_good);
        heard
    }

    fn update(&self, changes: Vec<Change>) -> SourceUpdate {
        SourceUpdate { version: self.version, changes, objects: self.last_good.len(), errors: Arc::clone(&self.faults) }
    }
}
