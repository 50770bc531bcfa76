//! Edge. `--source`: policies of the fleet from a directory or an API server, with the error behaviour of `contracts.md` 1.6.
//!
//! The first look happens before anybody is served: a policy that takes exports away is in force from the first offer
//! on. What each file gave last is kept in `D/state/source.json`, so that a file that is broken at a restart does not
//! lift what it forbade.

pub mod statuses;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use meshfed_crds::api_server::{ApiServer, ConnectError, Selection, connect};
use meshfed_crds::directory::{Stamp, Walker};
use meshfed_crds::error::errors_by_code;
use meshfed_crds::{Body, FileChange, Kind, LastGood, Object, ObjectError, PolicyTarget as WrittenTarget, Scope};
use meshfed_model::policy::{
    ExportPolicy, FailoverPolicy, FleetPolicies, FleetSettings, PolicySource, PolicyTarget, ServicePattern,
};
use meshfed_runtime::drain::Watch;
use meshfed_runtime::files::{self, FileError};
use meshfed_runtime::metrics::Metrics;
use meshfed_runtime::{clock, tasks};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::fleet::{FleetNames, Revisions};
use statuses::Standing;

/// How often the directory is looked at; a changed file is read once it looked the same twice, so within a second.
const PERIOD: Duration = Duration::from_millis(300);
/// The largest state file that is read, in bytes.
const STATE_MAX: usize = 64 << 20;
/// The format of the state file.
const FORMAT: u32 = 1;

/// How long a hub that has policies of its last run waits for the first complete lists of an API server. Then it begins with
/// those. One that has none waits until it knows: a policy may forbid what it would show.
const FIRST_WITHIN: Duration = Duration::from_secs(5);
/// How often faults of an API server are looked at that end by themselves.
const FAULTS_EVERY: Duration = Duration::from_secs(5);

/// Where the fleet's objects are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In the files of a directory.
    Directory(PathBuf),
    /// In an API server.
    ApiServer {
        /// Where it is and who we are there; none: what is usual, in a pod its service account.
        kubeconfig: Option<PathBuf>,
        /// A context of the kubeconfig; none: its current one.
        context: Option<String>,
        /// The hub's namespace: policies in no other are the fleet's.
        namespace: String,
    },
}
impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Directory(path) => write!(f, "dir:{}", path.display()),
            Self::ApiServer { .. } => f.write_str("kubernetes"),
        }
    }
}

/// Why the source cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The state cannot be read or written.
    #[error("the fleet source's state cannot be kept")]
    State(#[source] FileError),
    /// The state is of another version, or damaged.
    #[error("{}: not the state of a fleet source; remove it to begin with what the directory holds now", path.display())]
    Form {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// There is no client of the API server.
    #[error("the fleet source is an API server, and there is no way to it")]
    Connect(#[source] ConnectError),
    /// A look at the directory ended with a panic.
    #[error("the look at the fleet source panicked")]
    Panicked,
}

#[derive(Debug, Serialize, Deserialize)]
struct State {
    format: u32,
    files: BTreeMap<Arc<str>, Vec<Object>>,
}

/// The faults of the last look, for `/debug/source`.
pub type Faults = Arc<Mutex<Vec<ObjectError>>>;

/// What is looked at.
#[derive(Debug)]
enum From {
    Directory(Walker),
    /// None until [`FleetSource::begin`].
    ApiServer(Place, Option<ApiServer>),
}

/// Policies of the fleet.
#[derive(Debug)]
pub struct FleetSource {
    from: From,
    last_good: LastGood,
    settling: BTreeMap<Arc<str>, Stamp>,
    state: PathBuf,
    faults: Faults,
    names: Option<Arc<dyn FleetNames>>,
    counted: Option<Family<FaultLabels, Gauge>>,
    standing: watch::Sender<Arc<Standing>>,
}

/// Labels of `meshfed_source_errors`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct FaultLabels {
    code: &'static str,
    severity: &'static str,
}

impl FleetSource {
    /// Takes up what was known, and looks at a directory for the first time. Blocks.
    ///
    /// # Errors
    /// [`SourceError`]. A directory that is not there is none: it is a fault, and what was known stays.
    pub fn open(place: Place, data_dir: &Path) -> Result<Self, SourceError> {
        let dir = data_dir.join("state");
        files::create_private_dir(&dir).map_err(SourceError::State)?;
        let state = dir.join("source.json");
        let scope = match &place {
            Place::Directory(_) => Scope::Fleet,
            Place::ApiServer { .. } => Scope::Hub,
        };
        let mut last_good = LastGood::new(scope, None);
        match files::read_limited(&state, STATE_MAX) {
            Ok(bytes) => {
                let form = |source| SourceError::Form { path: state.clone(), source };
                let known: State = serde_json::from_slice(&bytes).map_err(form)?;
                if known.format != FORMAT {
                    return Err(form(serde::de::Error::custom(format!("its format is {}", known.format))));
                }
                for (path, objects) in known.files {
                    last_good.restore(&path, objects);
                }
            }
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(SourceError::State(error)),
        }
        // What another kind of source gave is not this one's.
        let of_server =
            |path: &str| path.split_once('/').is_some_and(|(of, _)| Kind::ALL.iter().any(|k| k.as_str() == of));
        let foreign = last_good.files().filter(|path| scope == Scope::Hub && !of_server(path)).map(Arc::clone);
        let gone: Vec<FileChange> = foreign.map(|path| FileChange::Removed { path }).collect();
        let _nobody_has_them = last_good.apply(gone);
        let from = match place {
            Place::Directory(root) => {
                From::Directory(Walker::new(root, last_good.files().map(Arc::clone).collect::<Vec<_>>()))
            }
            Place::ApiServer { .. } => From::ApiServer(place, None),
        };
        let mut source = Self {
            from,
            last_good,
            settling: BTreeMap::new(),
            state,
            faults: Faults::default(),
            names: None,
            counted: None,
            standing: watch::Sender::default(),
        };
        source.look(|_, _| false)?;
        source.show_standing();
        Ok(source)
    }

    fn show_standing(&self) {
        let standing = self.last_good.objects().map(|object| (object.key(), Arc::clone(object)));
        self.standing.send_replace(Arc::new(standing.collect()));
    }

    /// What stands, after every change.
    #[must_use]
    pub fn standing(&self) -> watch::Receiver<Arc<Standing>> {
        self.standing.subscribe()
    }

    /// Where the faults are told.
    #[must_use]
    pub fn faults(&self) -> Faults {
        Arc::clone(&self.faults)
    }

    /// Shows how many faults there are from now on.
    pub fn count_in(&mut self, metrics: &Metrics) {
        self.counted = Some(metrics.gauges("meshfed_source_errors", "Faults of the fleet source, by code"));
        self.count_faults(&self.last_good.errors());
    }

    /// Shows how many faults there are from now on, names in policies that nobody has among them.
    pub fn serve_faults(&mut self, metrics: &Metrics, names: Arc<dyn FleetNames>) {
        self.names = Some(names);
        self.count_in(metrics);
    }

    /// The faults of files and objects, and names that nobody has.
    fn all_faults(&self) -> Vec<ObjectError> {
        let mut all = self.last_good.errors();
        if let Some(names) = &self.names {
            let objects: Vec<&Object> = self.last_good.objects().map(AsRef::as_ref).collect();
            all.extend(names.unknown_names(&objects));
        }
        all
    }

    fn count_faults(&self, faults: &[ObjectError]) {
        let Some(gauges) = &self.counted else { return };
        gauges.clear();
        for ((code, severity), count) in errors_by_code(faults.iter()) {
            let gauge = gauges.get_or_create(&FaultLabels { code, severity });
            let _before = gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// The policies that stand, in the order of their names.
    #[must_use]
    pub fn policies(&self, revision: u64) -> FleetPolicies {
        let mut policies = FleetPolicies { revision, ..FleetPolicies::default() };
        for object in self.last_good.objects() {
            match &object.body {
                Body::FailoverPolicy(policy) => policies.failover.push(FailoverPolicy {
                    target: match &policy.target {
                        WrittenTarget::Default => PolicyTarget::Default,
                        WrittenTarget::Namespace(namespace) => PolicyTarget::Namespace(namespace.clone()),
                        WrittenTarget::Service(service) => PolicyTarget::Service(service.clone()),
                    },
                    source: PolicySource::Fleet,
                    spec: policy.spec.clone(),
                }),
                Body::ExportPolicy(policy) => policies.export.push(ExportPolicy {
                    services: policy
                        .services
                        .iter()
                        .map(|s| ServicePattern { namespace: s.namespace.clone(), name: s.name.clone() })
                        .collect(),
                    to: policy.to.clone(),
                }),
                // The schema of the fleet's scope refuses these; they bind nobody here.
                Body::Service(_)
                | Body::Namespace(_)
                | Body::WorkloadEntry(_)
                | Body::ServiceExport(_)
                | Body::EndpointSlice(_)
                | Body::Pod(_)
                | Body::Node(_)
                | Body::PeerAuthentication(_) => {}
                Body::Mesh(mesh) => {
                    policies.settings = FleetSettings {
                        outbound: mesh.outbound,
                        clusterset_domain: mesh.clusterset_domain.as_deref().map(str::to_owned),
                    };
                }
            }
        }
        policies
    }

    /// Looks, and keeps what stands. Whether a policy changed.
    fn look(&mut self, wait: impl FnMut(&Arc<str>, Stamp) -> bool) -> Result<bool, SourceError> {
        let From::Directory(walker) = &mut self.from else { return Ok(false) };
        let walk = walker.walk(true, wait);
        let faults = walker.errors().to_vec();
        self.settling.retain(|path, _| walk.unsettled.contains(path));
        self.take(walk.changes, faults)
    }

    /// Takes changes, and keeps what stands. Whether a policy changed.
    fn take(&mut self, changes: Vec<FileChange>, faults: Vec<ObjectError>) -> Result<bool, SourceError> {
        let touched = !changes.is_empty();
        let changed = !self.last_good.apply(changes).is_empty();
        self.last_good.set_walk_errors(faults);
        self.tell_faults();
        if changed {
            self.show_standing();
        }
        if touched {
            self.keep()?;
        }
        Ok(changed)
    }

    /// Waits until an API server has told everything, or has not for a while and policies of the last run are known. Nobody
    /// may be served before. A directory was looked at when it was opened.
    ///
    /// # Errors
    /// [`SourceError`]. An API server that does not answer is none.
    pub async fn begin(&mut self) -> Result<(), SourceError> {
        let known: Vec<Arc<str>> = self.last_good.files().map(Arc::clone).collect();
        let From::ApiServer(Place::ApiServer { kubeconfig, context, namespace }, server) = &mut self.from else {
            return Ok(());
        };
        let client = connect(kubeconfig.as_deref(), context.as_deref()).await.map_err(SourceError::Connect)?;
        let selection = Selection { scope: Scope::Hub, fleet_namespace: Some(namespace.as_str().into()) };
        *server = Some(ApiServer::new(&client, &selection, known));
        let restored = !self.last_good.is_empty();
        let late = clock::instant() + FIRST_WITHIN;
        while !self.is_settled() {
            let left = late.saturating_duration_since(clock::instant());
            if restored && left.is_zero() {
                break;
            }
            let _told_with_the_first = self.hear(if restored { left } else { FAULTS_EVERY }).await?;
        }
        Ok(())
    }

    fn is_settled(&self) -> bool {
        match &self.from {
            From::Directory(_) | From::ApiServer(_, None) => true,
            From::ApiServer(_, Some(server)) => server.kinds().is_settled(clock::instant()),
        }
    }

    /// Waits for an API server, but not longer than this. Whether a policy changed.
    async fn hear(&mut self, within: Duration) -> Result<bool, SourceError> {
        let From::ApiServer(_, Some(server)) = &mut self.from else { return Ok(false) };
        let changes = tokio::select! {
            changes = server.next(clock::instant) => changes,
            () = tokio::time::sleep(within) => Vec::new(),
        };
        let faults = server.kinds().faults(clock::instant());
        self.take(changes, faults)
    }

    /// Looks again; a file is read only once it has looked the same for a whole period.
    fn look_again(&mut self) -> Result<bool, SourceError> {
        let before = std::mem::take(&mut self.settling);
        let mut settling = BTreeMap::new();
        let changed = self.look(|path, stamp| {
            let waits = before.get(path) != Some(&stamp);
            if waits {
                settling.insert(Arc::clone(path), stamp);
            }
            waits
        })?;
        self.settling = settling;
        Ok(changed)
    }

    fn tell_faults(&self) {
        let now = self.all_faults();
        let mut told = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        if *told == now {
            return;
        }
        let known: BTreeSet<&ObjectError> = told.iter().collect();
        for fault in now.iter().filter(|fault| !known.contains(fault)) {
            // `file:line:column: error[CODE]: text`, as at a start.
            tracing::warn!("fleet source: {fault}");
        }
        self.count_faults(&now);
        *told = now;
    }

    fn keep(&self) -> Result<(), SourceError> {
        let files = self.last_good.files().map(|path| {
            let objects = self.last_good.given_by(path).unwrap_or_default();
            (Arc::clone(path), objects.iter().map(|o| Object::clone(o)).collect())
        });
        let state = State { format: FORMAT, files: files.collect() };
        let form = |source| SourceError::Form { path: self.state.clone(), source };
        let bytes = serde_json::to_vec(&state).map_err(form)?;
        files::write_secret(&self.state, &bytes).map_err(SourceError::State)
    }
}

/// Follows the source until the drain. The watch holds the policies of the first look already.
///
/// # Errors
/// [`SourceError`]: what cannot be kept ends the process.
pub async fn follow(
    mut source: FleetSource,
    policies: watch::Sender<Arc<FleetPolicies>>,
    revisions: Arc<Revisions>,
    drain: Watch,
) -> Result<(), SourceError> {
    while let From::ApiServer(..) = &source.from {
        let changed = tokio::select! {
            changed = source.hear(FAULTS_EVERY) => changed?,
            () = drain.signaled() => return Ok(()),
        };
        if changed {
            policies.send_replace(Arc::new(source.policies(revisions.bump())));
        }
    }
    loop {
        tokio::select! {
            () = tokio::time::sleep(PERIOD) => {}
            () = drain.signaled() => return Ok(()),
        }
        let (back, changed) = tasks::spawn_blocking("fleet source", move || {
            let changed = source.look_again();
            (source, changed)
        })
        .await
        .map_err(|_panicked| SourceError::Panicked)?;
        source = back;
        if changed? {
            policies.send_replace(Arc::new(source.policies(revisions.bump())));
        }
    }
}

#[cfg(test)]
mod tests;
