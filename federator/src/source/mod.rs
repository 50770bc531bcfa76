//! Edge. `--source dir:PATH`: policies of the fleet from a directory, with the error behaviour of `contracts.md` 1.6.
//!
//! The first look happens before anybody is served: a policy that takes exports away is in force from the first offer
//! on. What each file gave last is kept in `D/state/source.json`, so that a file that is broken at a restart does not
//! lift what it forbade.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use meshfed_crds::directory::{Stamp, Walker};
use meshfed_crds::error::errors_by_code;
use meshfed_crds::{Body, LastGood, Object, ObjectError, PolicyTarget as WrittenTarget, Scope};
use meshfed_model::policy::{ExportPolicy, FailoverPolicy, FleetPolicies, PolicySource, PolicyTarget, ServicePattern};
use meshfed_runtime::drain::Watch;
use meshfed_runtime::files::{self, FileError};
use meshfed_runtime::metrics::Metrics;
use meshfed_runtime::tasks;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::fleet::{FleetNames, Revisions};

/// How often the directory is looked at; a changed file is read once it looked the same twice, so within a second.
const PERIOD: Duration = Duration::from_millis(300);
/// The largest state file that is read, in bytes.
const STATE_MAX: usize = 64 << 20;
/// The format of the state file.
const FORMAT: u32 = 1;

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

/// A directory with policies of the fleet.
#[derive(Debug)]
pub struct FleetSource {
    walker: Walker,
    last_good: LastGood,
    settling: BTreeMap<Arc<str>, Stamp>,
    state: PathBuf,
    faults: Faults,
    names: Option<Arc<dyn FleetNames>>,
    counted: Option<Family<FaultLabels, Gauge>>,
}

/// Labels of `meshfed_source_errors`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct FaultLabels {
    code: &'static str,
    severity: &'static str,
}

impl FleetSource {
    /// Takes up what was known, and looks for the first time. Blocks.
    ///
    /// # Errors
    /// [`SourceError`]. A directory that is not there is none: it is a fault, and what was known stays.
    pub fn open(root: PathBuf, data_dir: &Path) -> Result<Self, SourceError> {
        let dir = data_dir.join("state");
        files::create_private_dir(&dir).map_err(SourceError::State)?;
        let state = dir.join("source.json");
        let mut last_good = LastGood::new(Scope::Fleet, None);
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
        let known: Vec<Arc<str>> = last_good.files().map(Arc::clone).collect();
        let walker = Walker::new(root, known);
        let mut source = Self {
            walker,
            last_good,
            settling: BTreeMap::new(),
            state,
            faults: Faults::default(),
            names: None,
            counted: None,
        };
        source.look(|_, _| false)?;
        Ok(source)
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
                // Its warning says so: members hold by their own settings until the hub passes these on.
                Body::Mesh(_) => {}
            }
        }
        policies
    }

    /// Looks, and keeps what stands. Whether a policy changed.
    fn look(&mut self, wait: impl FnMut(&Arc<str>, Stamp) -> bool) -> Result<bool, SourceError> {
        let walk = self.walker.walk(true, wait);
        self.settling.retain(|path, _| walk.unsettled.contains(path));
        let touched = !walk.changes.is_empty();
        let changed = !self.last_good.apply(walk.changes).is_empty();
        self.last_good.set_walk_errors(self.walker.errors().to_vec());
        self.tell_faults();
        if touched {
            self.keep()?;
        }
        Ok(changed)
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

/// Follows the directory until the drain. The watch holds the policies of the first look already.
///
/// # Errors
/// [`SourceError`]: what cannot be kept ends the process.
pub async fn follow(
    mut source: FleetSource,
    policies: watch::Sender<Arc<FleetPolicies>>,
    revisions: Arc<Revisions>,
    drain: Watch,
) -> Result<(), SourceError> {
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
