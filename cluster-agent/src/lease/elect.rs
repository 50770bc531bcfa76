//! Edge. Holds the Lease, or waits for it.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{Api, Patch, PatchParams, PostParams};
use meshfed_api::border::LeaseEpoch;
use meshfed_runtime::clock;
use meshfed_runtime::drain::Watch;
use meshfed_runtime::metrics::Metrics;
use meshfed_runtime::telemetry::chain;
use prometheus_client::metrics::gauge::Gauge;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::Role;
use super::judge::{Act, LEASE, RENEW_WITHIN, SINCE, Seen, Watched, holding};

/// How often it is looked at, and renewed.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Time for one look.
const LOOK_WITHIN: Duration = Duration::from_secs(4);
/// Who writes.
const FIELD_MANAGER: &str = "meshfed-agent";

/// What the election shows.
#[derive(Debug, Clone, Default)]
pub struct LeaseMetrics {
    leads: Gauge,
}

impl LeaseMetrics {
    /// Registers `meshfed_lease_leads`.
    #[must_use]
    pub fn register(metrics: &Metrics) -> Self {
        Self {
            leads: metrics.gauge("meshfed_lease_leads", "1 while this agent is the one that joins, offers and writes"),
        }
    }
}

/// Why one look came to nothing.
#[derive(Debug, thiserror::Error)]
enum LookError {
    #[error("the API server did not answer within 4 s")]
    Late,
    #[error("the API server refused, or is away")]
    Api(#[from] kube::Error),
}

/// One agent's part in the election.
pub struct Election {
    leases: Api<Lease>,
    name: String,
    me: String,
    watched: Watched,
    role: watch::Sender<Role>,
    writes: watch::Sender<bool>,
    /// The latest holding that the hub has seen.
    latest: watch::Sender<LeaseEpoch>,
    /// When the Lease was last known to be ours.
    renewed: Option<Instant>,
    metrics: LeaseMetrics,
}

impl Election {
    /// An agent `me` that has not looked at Lease `name` yet: it follows.
    #[must_use]
    pub fn new(client: kube::Client, namespace: &str, name: &str, me: &str, metrics: LeaseMetrics) -> Self {
        Self {
            leases: Api::namespaced(client, namespace),
            name: name.to_owned(),
            me: me.to_owned(),
            watched: Watched::default(),
            role: watch::channel(Role::Follows(LeaseEpoch::default())).0,
            writes: watch::channel(false).0,
            latest: watch::Sender::default(),
            renewed: None,
            metrics,
        }
    }

    /// What the agent is; changes are told.
    #[must_use]
    pub fn role(&self) -> watch::Receiver<Role> {
        self.role.subscribe()
    }

    /// Whether it may write to the API server: it leads, and has said so there within [`RENEW_WITHIN`].
    #[must_use]
    pub fn writes(&self) -> watch::Receiver<bool> {
        self.writes.subscribe()
    }

    /// Where the latest holding is told that the hub has seen: one that holds the Lease raises it above that.
    #[must_use]
    pub fn latest(&self) -> watch::Sender<LeaseEpoch> {
        self.latest.clone()
    }

    /// Takes part until `stop` or the drain, and gives the Lease up then, so that nobody has to wait for its end.
    ///
    /// # Errors
    /// Never: the API server may be away for as long as it likes.
    pub async fn run(mut self, stop: impl Future<Output = ()>, drain: Watch) -> Result<(), Infallible> {
        let mut stop = std::pin::pin!(stop);
        let mut told = String::new();
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let end = self.renewed.and_then(|at| at.checked_add(RENEW_WITHIN)).filter(|_| *self.writes.borrow());
            let over = async {
                match end {
                    Some(end) => tokio::time::sleep_until(end.into()).await,
                    None => std::future::pending().await,
                }
            };
            let looked = tokio::select! {
                () = &mut stop => break,
                () = drain.signaled() => break,
                // A look that takes longer than the agent may write for does not keep it writing.
                () = over => {
                    self.writes.send_replace(false);
                    tracing::warn!("the Lease could not be renewed for 10 s: nothing is written to the API server");
                    continue;
                }
                looked = async { look.tick().await; tokio::time::timeout(LOOK_WITHIN, self.look()).await } => looked,
            };
            match looked.map_err(|_elapsed| LookError::Late).flatten() {
                Ok(Some((role, at))) => {
                    tracing::debug!(lease = self.name, ?role, renewed = at.is_some(), "lease: looked at");
                    told.clear();
                    self.renewed = at;
                    self.tell(role, at.is_some());
                }
                // Somebody else wrote it first; the next look says who.
                Ok(None) => {}
                Err(error) => {
                    let why = chain(&error);
                    if why != told {
                        tracing::warn!(
                            lease = self.name,
                            reason = why,
                            "the Lease cannot be looked at; it is tried again"
                        );
                        told = why;
                    }
                }
            }
        }
        self.give_up().await;
        drain.signaled().await;
        Ok(())
    }

    fn tell(&self, role: Role, writes: bool) {
        let changed = self.role.send_if_modified(|before| std::mem::replace(before, role) != role);
        self.writes.send_if_modified(|before| std::mem::replace(before, writes) != writes);
        self.metrics.leads.set(i64::from(role.leads()));
        if changed {
            match role {
                Role::Leads(epoch) => tracing::info!(lease = self.name, %epoch, "this agent leads"),
                Role::Alone | Role::Follows(_) => tracing::info!(lease = self.name, "another agent leads"),
            }
        }
    }

    /// Looks at the Lease and does what it asks for; with a time: it was ours then. `None`: nothing is known.
    async fn look(&mut self) -> Result<Option<(Role, Option<Instant>)>, LookError> {
        // Before it is asked: what is written after has so long, and not longer.
        let now = clock::instant();
        let Some(found) = self.leases.get_opt(&self.name).await? else {
            return written(self.create().await, now);
        };
        let seen = Seen::of(&found);
        let taken = match self.watched.judge(&seen, &self.me, now) {
            Act::Wait => return Ok(Some((Role::Follows(seen.epoch), None))),
            Act::Renew => false,
            Act::Take => true,
        };
        let epoch = holding(seen.epoch, *self.latest.borrow(), taken);
        let since = (epoch.since != seen.epoch.since).then_some(epoch.since);
        written(self.patch(&seen.version, since, self.held(epoch.transitions, taken)).await, now)
    }

    /// The fields of a Lease that is ours.
    fn held(&self, transitions: u64, anew: bool) -> Value {
        let now = json!(MicroTime(clock::timestamp()));
        let mut spec = json!({
            "holderIdentity": self.me,
            "leaseDurationSeconds": LEASE.as_secs(),
            "leaseTransitions": i32::try_from(transitions).unwrap_or(i32::MAX),
            "renewTime": now,
        });
        if anew {
            spec["acquireTime"] = now;
        }
        spec
    }

    async fn create(&self) -> kube::Result<Lease> {
        let lease = json!({ "metadata": { "name": self.name }, "spec": self.held(0, true) });
        let lease: Lease = serde_json::from_value(lease).map_err(kube::Error::SerdeError)?;
        let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        self.leases.create(&params, &lease).await
    }

    /// The version is a precondition: of two that take it at the same time one does.
    async fn patch(&self, version: &str, since: Option<u64>, spec: Value) -> kube::Result<Lease> {
        let mut patch = json!({ "metadata": { "resourceVersion": version }, "spec": spec });
        if let Some(since) = since {
            patch["metadata"]["annotations"] = json!({ SINCE: since.to_string() });
        }
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        self.leases.patch(&self.name, &params, &Patch::Merge(patch)).await
    }

    /// Leaves the Lease to nobody, if it is ours.
    async fn give_up(&self) {
        self.writes.send_replace(false);
        let give = async {
            let Some(found) = self.leases.get_opt(&self.name).await? else { return Ok(()) };
            let seen = Seen::of(&found);
            if seen.holder == self.me {
                self.patch(&seen.version, None, json!({ "holderIdentity": "", "leaseDurationSeconds": 1 })).await?;
            }
            Ok::<_, kube::Error>(())
        };
        match tokio::time::timeout(LOOK_WITHIN, give).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(error = %chain(&error), "the Lease is not given up; it ends by itself"),
            Err(_elapsed) => tracing::warn!("the Lease is not given up in time; it ends by itself"),
        }
    }
}

/// What an answer to a write means.
fn written(answer: kube::Result<Lease>, at: Instant) -> Result<Option<(Role, Option<Instant>)>, LookError> {
    match answer {
        Ok(lease) => Ok(Some((Role::Leads(Seen::of(&lease).epoch), Some(at)))),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(None),
        Err(error) => Err(error.into()),
    }
}
