//! Edge. The agent's end of the session: one task that owns offer, view store and bundles, keeps a stream to a hub
//! open, and serves the core actor's mailbox also while there is none.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use meshfed_api::border::{Ack, LeaseEpoch, NAMESPACES_MAX, Seniority};
use meshfed_api::proto::federation as wire;
use meshfed_model::bundle::Bundle;
use meshfed_model::identity::{Principal, SpiffeId, TrustDomain};
use meshfed_model::names::{ClusterName, Namespace};
use meshfed_model::offer::OfferKey;
use meshfed_model::version::Version;
use meshfed_runtime::backoff::{BASE, Backoff};
use meshfed_runtime::drain::Watch;
use meshfed_runtime::files::{self, FileError};
use meshfed_runtime::metrics::Metrics;
use meshfed_runtime::tls::{self, IdentityStore, TrustStore};
use meshfed_runtime::{clock, grpc};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{mpsc, watch};
use tonic::transport::Channel;

use super::bundles::Bundles;
use super::converse::{Ended, Old};
use super::renew::Renewal;
use super::{CORE_COMMANDS_MAX, CoreCommand};
use crate::enroll::AgentFile;
use crate::lease::Role;
use crate::records::RecordError;
use crate::uplink::UplinkHandle;
use crate::uplink::journal::{OfferJournal, boot_id};
use crate::uplink::ledger::Ledger;
use crate::view::persist::{Loaded, ViewStore};

/// The longest pause between two attempts to reach a federator.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Bytes of the pinned root's file.
const ROOT_FILE_MAX: usize = 64 << 10;
/// How often it is looked for approvals while a changed anchor waits for one: they count within a second.
pub(super) const APPROVALS_PERIOD: Duration = Duration::from_millis(500);
/// Time between attempts to renew an identity: the hub's clock or store may be away for a moment.
const RENEW_PAUSE: Duration = Duration::from_secs(30);
/// Time between attempts to go on in another role.
const ROLE_PAUSE: Duration = Duration::from_secs(1);

/// What the session needs.
#[derive(Debug, Clone)]
pub struct LinkConfig {
    /// `E`.
    pub data_dir: PathBuf,
    /// `E/agent.yaml`.
    pub file: AgentFile,
    /// The replica: agents of one cluster share 0.
    pub replica: u32,
    /// Which of those that share it; empty where there is one.
    pub instance: String,
    /// What it is among them.
    pub role: watch::Receiver<Role>,
    /// Where it is told which holding of their Lease is the latest that the hub has seen.
    pub latest: watch::Sender<LeaseEpoch>,
    /// The agent's identity, see [`super::renew::load`]; may be empty or expired.
    pub identity: Arc<IdentityStore>,
    /// Filled from `E/bundles/`, and kept fresh.
    pub trust: Arc<TrustStore>,
    /// How people run the command line where `data_dir` is, see [`super::bundles::CLI`].
    pub cli: String,
}

/// Why the session cannot be kept. The loss of a hub is no reason.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// A file of `E`.
    #[error("the data directory cannot be used")]
    File(#[from] FileError),
    /// The state cannot be kept.
    #[error("the agent's state cannot be kept")]
    Journal(#[from] RecordError),
    /// The pinned root is no certificate.
    #[error("{0} holds no certificate; join again with a new data directory")]
    Root(PathBuf),
    /// TLS cannot be set up.
    #[error("TLS cannot be set up")]
    Tls(#[from] rustls::Error),
    /// The core actor is gone.
    #[error("the core actor has ended")]
    CoreGone,
}

/// What the rest of the agent starts with.
#[derive(Debug)]
pub struct Opened {
    /// For the core actor.
    pub uplink: UplinkHandle,
    /// For the core actor.
    pub commands: mpsc::Receiver<CoreCommand>,
    /// The last good view, members and policies.
    pub loaded: Loaded,
    /// The bundles held; they are in the trust store already.
    pub bundles: BTreeMap<TrustDomain, Bundle>,
    /// How it stands with the federators.
    pub hub: watch::Receiver<Hub>,
    /// Trust domains whose changed anchor waits for an approval, each with the command line that gives it.
    pub awaiting: watch::Receiver<BTreeMap<TrustDomain, String>>,
}

/// How it stands with the federators.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hub {
    /// None is reached, for this reason; empty: not yet.
    Away(String),
    /// A session to one is open.
    Connected,
    /// What answers at their addresses is none of this fleet, for this reason.
    Untrusted(String),
}

/// Why no federator was reached.
#[derive(Debug)]
pub(super) struct Undialled {
    /// What each of them, or the way to it, has said.
    pub reasons: String,
    /// Whether each of them was reached, and showed no certificate of this fleet. One that is away may still be of it.
    pub untrusted: bool,
}

/// Labels of bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct DirectionLabel {
    /// `in` (from the hub) or `out`.
    pub direction: &'static str,
}

/// Labels of refusals.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RefusedLabel {
    /// `offer` (by the hub), `view`, `bundle`, `message`.
    pub what: &'static str,
    /// A stable code.
    pub code: String,
}

/// What the session counts.
#[derive(Debug, Clone)]
pub struct LinkMetrics {
    /// Encoded bytes of session messages.
    pub bytes: Family<DirectionLabel, Counter>,
    /// 1 while a session is open.
    pub connected: Gauge,
    /// What was refused.
    pub refused: Family<RefusedLabel, Counter>,
    /// Views that came whole.
    pub complete_views: Counter,
    /// Identities renewed.
    pub renewals: Counter,
}

impl LinkMetrics {
    fn new(metrics: &Metrics) -> Self {
        Self {
            bytes: metrics.counters("meshfed_session_bytes", "Encoded bytes of session messages"),
            connected: metrics.gauge("meshfed_session_connected", "1 while a session to a federator is open"),
            refused: metrics.counters("meshfed_session_refused", "What was refused by name"),
            complete_views: metrics.counter("meshfed_view_complete", "Views of one origin that were sent whole"),
            renewals: metrics.counter("meshfed_identity_renewals", "Renewals of the agent's identity"),
        }
    }
    pub(super) fn refuse(&self, what: &'static str, code: &str) {
        self.refused.get_or_create(&RefusedLabel { what, code: code.to_owned() }).inc();
    }
}

/// Small things to tell the hub; the offer itself is in the ledger.
#[derive(Debug, Default)]
pub(super) struct Pending {
    pub(super) interest: bool,
    pub(super) report: bool,
    pub(super) acks: BTreeMap<ClusterName, Ack>,
    pub(super) bundle_acks: BTreeMap<TrustDomain, u64>,
    pub(super) resync: bool,
}

/// The session and all that it keeps.
#[derive(Debug)]
pub struct Link {
    pub(super) config: LinkConfig,
    pub(super) metrics: LinkMetrics,
    pub(super) uplink: UplinkHandle,
    pub(super) core: mpsc::Sender<CoreCommand>,
    pub(super) ledger: Ledger,
    journal: OfferJournal,
    /// Whether the journal holds all that the ledger does: only then it is sent.
    pub(super) journaled: bool,
    /// The holding of the Lease under which what the hub holds was numbered here.
    pub(super) led: Option<LeaseEpoch>,
    pub(super) store: ViewStore,
    pub(super) bundles: Bundles,
    /// What the core has been handed of each origin, with the hub's filter.
    pub(super) vector: BTreeMap<ClusterName, (Version, u64)>,
    pub(super) interest: BTreeSet<Namespace>,
    /// Whether the source has said it in this life of the agent.
    pub(super) interest_known: bool,
    /// In which order the hub first saw exports.
    pub(super) order: Seniority,
    pub(super) policy_revision: u64,
    pub(super) report: Option<wire::StatusReport>,
    pub(super) pending: Pending,
    /// Whether a session is open, for whoever shows it.
    pub(super) open: watch::Sender<Hub>,
    /// What waits for people, for whoever shows it.
    awaiting: watch::Sender<BTreeMap<TrustDomain, String>>,
    /// What is too large to be sent, as far as it was said.
    oversized: BTreeSet<OfferKey>,
}

impl Link {
    /// Opens the state of `E`: journal, view, bundles.
    ///
    /// # Errors
    /// [`LinkError`].
    pub fn open(config: LinkConfig, metrics: &Metrics) -> Result<(Self, Opened), LinkError> {
        let state = config.data_dir.join("state");
        let now = clock::unix_seconds(clock::wall());
        let (journal, ledger) = OfferJournal::open(&state, &boot_id(), now)?;
        let (store, loaded) = ViewStore::open(&state.join("view"))?;
        let path = config.data_dir.join("ca/root.pem");
        let root = meshfed_ca::pem::certificates(&files::read_text(&path, ROOT_FILE_MAX)?);
        let root = root.ok().and_then(|c| c.first().map(|c| c.to_vec())).ok_or(LinkError::Root(path))?;
        let (fleet, own) = (config.file.fleet.clone(), config.file.trust_domain.clone());
        let bundles = Bundles::open(&config.data_dir, root, fleet, own, Arc::clone(&config.trust))?;
        let bundles = bundles.with_cli(config.cli.clone());
        let (core, commands) = mpsc::channel(CORE_COMMANDS_MAX);
        let uplink = UplinkHandle::new();
        let (open, hub) = watch::channel(Hub::Away(String::new()));
        let (awaiting, awaited) = watch::channel(bundles.all_awaiting());
        let opened = Opened {
            uplink: uplink.clone(),
            commands,
            loaded: loaded.clone(),
            bundles: bundles.held().clone(),
            hub,
            awaiting: awaited,
        };
        let link = Self {
            config,
            metrics: LinkMetrics::new(metrics),
            uplink,
            core,
            ledger,
            journal,
            journaled: true,
            led: None,
            store,
            bundles,
            vector: loaded.changes.iter().map(|c| (c.origin.clone(), (c.delta.version, c.filter))).collect(),
            interest: loaded.interest,
            interest_known: false,
            order: loaded.order,
            policy_revision: loaded.policies.revision,
            report: None,
            pending: Pending::default(),
            open,
            awaiting,
            oversized: BTreeSet::new(),
        };
        Ok((link, opened))
    }

    /// Keeps a session open until the drain.
    ///
    /// # Errors
    /// [`LinkError`] when the agent's own parts fail, never for the loss of a hub.
    pub async fn run(mut self, drain: Watch) -> Result<(), LinkError> {
        // A federator that is back should be found at once, also after a long outage; the jitter keeps a whole fleet
        // from coming in the same moment.
        let mut backoff = Backoff::with(BASE, PAUSE_MAX, fastrand::u64(..));
        let mut next = 0;
        let mut ready: Option<(Channel, Option<Old>)> = None;
        loop {
            let (channel, old) = match ready.take() {
                Some(made) => made,
                None => {
                    let Some(dialled) = self.while_serving(dial(self.config.clone(), next), &drain).await? else {
                        break;
                    };
                    next = next.wrapping_add(1);
                    match dialled {
                        Ok(channel) => (channel, None),
                        Err(Undialled { reasons, untrusted }) => {
                            tracing::warn!(reason = reasons, "no federator can be reached");
                            self.open.send_replace(if untrusted {
                                Hub::Untrusted(reasons)
                            } else {
                                Hub::Away(reasons)
                            });
                            if !self.pause(&mut backoff, &drain).await? {
                                break;
                            }
                            continue;
                        }
                    }
                }
            };
            backoff.connected(clock::instant());
            let ended = self.converse(channel, old, &drain).await?;
            self.metrics.connected.set(0);
            let reason = if let Ended::Lost(reason) = &ended { reason.clone() } else { String::new() };
            self.open.send_replace(Hub::Away(reason));
            match ended {
                Ended::Drained => break,
                Ended::Replaced(channel, old) => ready = Some((channel, Some(old))),
                Ended::Lost(reason) => {
                    tracing::warn!(reason, "the session ended");
                    self.tell(CoreCommand::Session { connected: false }).await?;
                    if !self.pause(&mut backoff, &drain).await? {
                        break;
                    }
                }
            }
        }
        self.absorb()?;
        if self.journaled { Ok(self.journal.close()?) } else { Ok(()) }
    }

    /// Waits before the next attempt; `false`: the drain has begun.
    async fn pause(&mut self, backoff: &mut Backoff, drain: &Watch) -> Result<bool, LinkError> {
        let pause = backoff.failed(clock::instant());
        Ok(self.while_serving(tokio::time::sleep(pause), drain).await?.is_some())
    }

    /// Waits for something and serves the mailbox meanwhile; `None`: the drain has begun.
    async fn while_serving<T>(&mut self, work: impl Future<Output = T>, drain: &Watch) -> Result<Option<T>, LinkError> {
        let mut work = std::pin::pin!(work);
        let uplink = self.uplink.clone();
        let mut look = tokio::time::interval(APPROVALS_PERIOD);
        loop {
            tokio::select! {
                done = &mut work => return Ok(Some(done)),
                () = uplink.changed() => self.absorb()?,
                _ = look.tick(), if self.bundles.has_refused() => self.take_approved().await?,
                () = drain.signaled() => return Ok(None),
            }
        }
    }

    /// Takes what the core actor left: numbers and journals the offer, keeps the rest for the hub.
    pub(super) fn absorb(&mut self) -> Result<(), LinkError> {
        let mut outgoing = self.uplink.take();
        let offered = !outgoing.services.is_empty();
        let changes = self.ledger.take(&mut outgoing);
        self.keep(&changes);
        if offered {
            self.tell_oversized();
        }
        self.interest_known |= outgoing.interest.is_some();
        if let Some(namespaces) = outgoing.interest.map(within_limit)
            && namespaces != self.interest
        {
            // Not saved: a crash only costs that the hub sends once more what it would filter anew.
            if let Err(error) = self.store.save_interest(&namespaces) {
                tracing::warn!(%error, "the interest cannot be saved");
            }
            self.interest = namespaces;
            self.pending.interest = true;
        }
        if let Some(report) = outgoing.report {
            self.report = Some(report);
            self.pending.report = true;
        }
        self.pending.acks.extend(outgoing.acks);
        if let Some(stands) = outgoing.resync {
            self.resync(&stands)?;
        }
        Ok(())
    }

    /// Says what is too large to be sent, once for each; the hub shows it with the source's errors.
    fn tell_oversized(&mut self) {
        let now: BTreeSet<OfferKey> =
            self.ledger.oversized().filter_map(|refusal| refusal.subject.key().cloned()).collect();
        if now == self.oversized {
            return;
        }
        for refusal in self.ledger.oversized() {
            if refusal.subject.key().is_none_or(|key| !self.oversized.contains(key)) {
                self.metrics.refuse("offer", &refusal.code);
                let (resource, code, reason) = (&refusal.subject, &refusal.code, &refusal.message);
                tracing::warn!(%resource, code, reason, "a resource is too large to be offered; the last good one stays");
            }
        }
        self.oversized = now;
        self.pending.report = self.report.is_some();
    }

    /// Journals changes before they may be sent. When the disk does not take them, nothing is sent until it does; what
    /// proxies are served does not depend on it.
    fn keep(&mut self, changes: &[meshfed_api::stream::Delta]) {
        let result = if !self.journaled || self.journal.is_long() {
            self.journal.rewrite(&self.ledger.snapshot())
        } else if changes.is_empty() {
            return;
        } else {
            self.journal.append(changes)
        };
        self.journaled = result.is_ok();
        if let Err(error) = result {
            self.metrics.refuse("offer", "Journal");
            tracing::error!(error = meshfed_runtime::telemetry::chain_of(&error), "the offer cannot be journaled");
        }
    }

    /// The view of the core stands elsewhere than it was handed: forget the difference, so that it is sent again.
    fn resync(&mut self, stands: &BTreeMap<ClusterName, (Version, u64)>) -> Result<(), LinkError> {
        let origins: Vec<ClusterName> =
            self.vector.keys().filter(|o| stands.get(*o) != self.vector.get(*o)).cloned().collect();
        for origin in origins {
            self.forget(&origin)?;
        }
        self.pending.resync = true;
        Ok(())
    }

    /// Forgets what is kept of an origin.
    pub(super) fn forget(&mut self, origin: &ClusterName) -> Result<(), LinkError> {
        self.vector.remove(origin);
        self.pending.acks.remove(origin);
        Ok(self.store.remove(origin)?)
    }

    /// Numbers the offer anew, above what the hub holds: it holds something that this numbering cannot explain.
    pub(super) fn renumber(&mut self, above: u64) -> Result<(), LinkError> {
        let epoch = self.journal.next_epoch(above.max(self.ledger.version().epoch))?;
        self.ledger.renumber(epoch);
        self.journaled = false;
        self.keep(&[]);
        Ok(())
    }

    pub(super) async fn tell(&self, command: CoreCommand) -> Result<(), LinkError> {
        self.core.send(command).await.map_err(|_closed| LinkError::CoreGone)
    }

    pub(super) fn renewal(&self) -> Renewal {
        Renewal {
            data_dir: self.config.data_dir.clone(),
            cluster: self.config.file.cluster.clone(),
            replica: self.config.replica,
            identity: Arc::clone(&self.config.identity),
        }
    }

    /// Says which changed anchors wait for an approval.
    pub(super) fn tell_awaiting(&self) {
        let now = self.bundles.all_awaiting();
        self.awaiting.send_if_modified(|before| {
            let changed = *before != now;
            *before = now;
            changed
        });
    }

    /// Keeps the addresses that a hub told.
    pub(super) fn know(&mut self, federators: Vec<String>) {
        if federators.is_empty() || federators == self.config.file.federators {
            return;
        }
        self.config.file.federators = federators;
        if let Err(error) = self.config.file.write(&self.config.data_dir) {
            tracing::warn!(%error, "the federators' addresses cannot be saved");
        }
    }
}

/// The time until the next renewal is due.
pub(super) fn renew_in(identity: &IdentityStore) -> Duration {
    let now = clock::wall();
    identity.get().map_or(Duration::ZERO, |i| i.renew_at().duration_since(now).unwrap_or_default())
}

/// The pause after a renewal that failed.
pub(super) const fn renew_pause() -> Duration {
    RENEW_PAUSE
}

/// The pause after a change of roles that failed.
pub(super) const fn role_pause() -> Duration {
    ROLE_PAUSE
}

/// Waits until the role is another one than this; for ever where nobody changes it.
pub(super) async fn another_role(mut role: watch::Receiver<Role>, than: Role) {
    if role.wait_for(|now| *now != than).await.is_err() {
        std::future::pending().await
    }
}

/// The TLS of a session: our identity if `identified`, and a federator of our fleet at the other end.
pub(super) fn client_tls(config: &LinkConfig, identified: bool) -> Result<Arc<rustls::ClientConfig>, rustls::Error> {
    let fleet = config.file.fleet.clone();
    let policy = move |id: &SpiffeId| {
        id.trust_domain == fleet
            && match id.principal {
                Principal::Federator { .. } => true,
                Principal::Agent { .. } | Principal::Workload { .. } => false,
            }
    };
    let identity = identified.then(|| Arc::clone(&config.identity));
    tls::client_config(identity, Arc::clone(&config.trust), Arc::new(policy), &[b"h2"])
}

/// Dials the federators in turn, from the `first` one on. An expired identity is renewed on the way.
pub(super) async fn dial(config: LinkConfig, first: usize) -> Result<Channel, Undialled> {
    let renewal = Renewal {
        data_dir: config.data_dir.clone(),
        cluster: config.file.cluster.clone(),
        replica: config.replica,
        identity: Arc::clone(&config.identity),
    };
    let count = config.file.federators.len();
    let mut reasons = vec![format!("{} names no federator", config.data_dir.join("agent.yaml").display())];
    let mut untrusted = 0;
    for i in 0..count {
        let Some(target) = config.file.federators.get((first + i) % count) else { continue };
        if renewal.has_expired(clock::wall()) {
            if !config.role.borrow().leads() {
                reasons.push("the identity has expired, and the agent that leads has not renewed it yet".to_owned());
                continue;
            }
            let renewed = async {
                let tls = client_tls(&config, false).map_err(|e| e.to_string())?;
                let channel = grpc::connect(target, tls).await.map_err(|e| e.to_string())?;
                let renewed = renewal.clone().renew(channel, true).await;
                renewed.map_err(|e| meshfed_runtime::telemetry::chain_of(&e))
            };
            if let Err(reason) = renewed.await {
                reasons.push(reason);
                continue;
            }
        }
        let tls = client_tls(&config, true).map_err(|e| Undialled { reasons: e.to_string(), untrusted: false })?;
        match grpc::connect(target, tls).await {
            Ok(channel) => return Ok(channel),
            Err(error) => {
                untrusted += usize::from(error.refusal().is_some());
                reasons.push(error.to_string());
            }
        }
    }
    if count > 0 {
        reasons.remove(0);
    }
    Err(Undialled { reasons: reasons.join("; "), untrusted: count > 0 && untrusted == count })
}

/// The namespaces that one message may name, in their order. Nobody has so many: who has is told which are left out.
fn within_limit(mut namespaces: BTreeSet<Namespace>) -> BTreeSet<Namespace> {
    if let Some(first) = namespaces.iter().nth(NAMESPACES_MAX).cloned() {
        let left_out = namespaces.split_off(&first).len();
        tracing::warn!(
            left_out, %first,
            "more than {NAMESPACES_MAX} namespaces: nothing is imported into the last of them; take namespaces that \
             need no imports out of the source"
        );
    }
    namespaces
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mutation seen to fail: `split_off` of nothing.
    #[test]
    fn no_more_namespaces_are_named_than_the_hub_takes() {
        let some = |count: usize| (0..count).map(|n| Namespace::new(format!("n{n:06}")).unwrap()).collect();
        let all: BTreeSet<Namespace> = some(NAMESPACES_MAX + 5);
        assert_eq!(within_limit(all), some(NAMESPACES_MAX));
        assert_eq!(within_limit(some(3)), some(3));
    }
}
