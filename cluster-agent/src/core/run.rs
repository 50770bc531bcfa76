//! Edge. The core actor: one task that feeds the core its inputs one by one, and carries out what it says.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use meshfed_crds::ObjectError;
use meshfed_model::identity::SpiffeId;
use meshfed_model::metadata::WorkloadMetadata;
use meshfed_model::names::ServiceName;
use meshfed_runtime::clock;
use meshfed_runtime::dns::Zone;
use meshfed_runtime::drain::Watch;
use meshfed_runtime::metrics::Metrics;
use meshfed_runtime::readiness::{Guard, Readiness};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{mpsc, oneshot, watch};

use super::command::{Effects, Outbound};
use super::issuing::Issuing;
use super::kept::ImportsFile;
use super::store::StreamId;
use super::{Core, Kept};
use crate::downlink::CoreCommand;
use crate::identity::Peer;
use crate::lookup::Lookup;
use crate::mirror::Mailbox;
use crate::mirror::facts::PolicyFacts;
use crate::source::SourceUpdate;
use crate::status;
use crate::translate::{Kind, Node};
use crate::uplink::UplinkHandle;
use crate::workload::Word;
use crate::xds::stream::{Protocol, Request};

/// Commands of streams that wait for the core. A stream has few on their way: it waits for answers.
pub const COMMANDS_MAX: usize = 256;
/// Answers of one stream: one per kind (five), and its end.
pub const RESPONSES_MAX: usize = 8;
/// How long rows of the status may be older than what they tell of: they cost a walk over all workloads.
const ROWS_PAUSE: Duration = Duration::from_millis(50);
/// How long names may be older than what they tell of: they are made of all imports together.
const NAMES_PAUSE: Duration = Duration::from_millis(50);
/// Faults of one moment that the log names; the others are in `GET /debug/source`.
const LOGGED_MAX: usize = 20;
/// How long streams wait for a first view before they are answered without one.
const VIEW_PATIENCE: Duration = Duration::from_secs(5);

/// What streams and the admin port say.
#[derive(Debug)]
pub enum Command {
    /// A stream whose first request named a node.
    Open {
        /// The stream.
        id: StreamId,
        /// What is known of the peer.
        peer: Peer,
        /// What it says of itself.
        node: Box<Node>,
        /// The protocol.
        protocol: Protocol,
        /// Whether it is the SDS service.
        secrets_only: bool,
        /// Where answers go.
        responses: mpsc::Sender<Outbound>,
    },
    /// A request of a stream.
    Request {
        /// The stream.
        id: StreamId,
        /// The kind it is about.
        kind: Kind,
        /// What it says.
        request: Request,
    },
    /// A stream is gone.
    Closed {
        /// The stream.
        id: StreamId,
    },
    /// A proxy's report on its application.
    Report {
        /// The report stream.
        id: StreamId,
        /// What is known of the peer.
        peer: Peer,
        /// Who it says it is.
        node: Box<Node>,
        /// Whether the application passes its probe.
        app_ready: bool,
        /// Why not.
        reason: String,
        /// Told when it is refused.
        responses: mpsc::Sender<Outbound>,
    },
    /// A report stream is gone.
    ReportClosed {
        /// The report stream.
        id: StreamId,
    },
    /// A stream of the Workload API.
    Hold {
        /// The stream, among those of the Workload API.
        id: StreamId,
        /// Who asks, by the kernel.
        uid: u32,
        /// Where the latest word goes; nothing before the first.
        words: watch::Sender<Option<Word>>,
    },
    /// A stream of the Workload API is gone.
    Released {
        /// The stream.
        id: StreamId,
    },
    /// A certificate for an attested workload that has made its key itself.
    Certify {
        /// The identity.
        id: Box<SpiffeId>,
        /// What metrics call the workload, where that is known.
        metadata: Option<Box<WorkloadMetadata>>,
        /// The key, DER SubjectPublicKeyInfo.
        key: Vec<u8>,
        /// Only where an object names such a workload.
        named: bool,
        /// Where the certificate goes, DER, or why there is none.
        answer: oneshot::Sender<Result<Vec<u8>, String>>,
    },
    /// The addresses of all derived Services, by import.
    ImportAddresses(BTreeMap<ServiceName, Vec<IpAddr>>),
    /// `GET /debug/source`.
    DebugSource {
        /// Where the body goes.
        answer: oneshot::Sender<serde_json::Value>,
    },
}

/// The label of counters per kind.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct TypeLabel {
    /// `cds`, `eds`, `lds`, `rds` or `sds`.
    pub r#type: &'static str,
}

/// The labels of faults of the source.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct FaultLabel {
    /// The stable code.
    pub code: &'static str,
    /// `error` or `warning`.
    pub severity: &'static str,
}

/// What the core counts.
#[derive(Debug, Clone)]
pub struct CoreMetrics {
    pushes: Family<TypeLabel, Counter>,
    nacks: Family<TypeLabel, Counter>,
    encoded: Family<TypeLabel, Counter>,
    issued: Counter,
    faults: Family<FaultLabel, Gauge>,
    missing: Gauge,
    clock_jump: Gauge,
}

impl CoreMetrics {
    /// Registers the core's metrics.
    #[must_use]
    pub fn register(metrics: &Metrics) -> Self {
        Self {
            pushes: metrics.counters("meshfed_xds_pushes", "Responses sent to proxies, by type"),
            nacks: metrics.counters("meshfed_xds_nacks", "Responses that proxies refused, by type"),
            encoded: metrics.counters("meshfed_xds_encoded_bytes", "Bytes of encoded resources, by type"),
            issued: metrics.counter("meshfed_svids_issued", "Certificates issued to workloads"),
            faults: metrics.gauges("meshfed_source_errors", "Faults of the source, by code"),
            missing: metrics.gauge(
                "meshfed_view_missing_parts",
                "Parts of the view that the hub has to tell again; sidecars keep what they hold of it meanwhile",
            ),
            clock_jump: metrics.gauge(
                "meshfed_clock_jump_seconds",
                "How far the wall clock is from where it should be, behind as negative; nothing is issued while it is not 0",
            ),
        }
    }
}

/// Pending guards of the agent's readiness.
#[derive(Debug, Default)]
pub struct Guards {
    /// Until the source was scanned.
    pub source: Option<Guard>,
    /// Until a view is there, loaded or from the hub.
    pub view: Option<Guard>,
}

/// The inputs of the core.
#[derive(Debug)]
pub struct Inputs {
    /// From streams and the admin port.
    pub commands: mpsc::Receiver<Command>,
    /// From the session.
    pub downlink: mpsc::Receiver<CoreCommand>,
    /// From the source.
    pub source: mpsc::Receiver<SourceUpdate>,
    /// From the resolver.
    pub lookups: mpsc::Receiver<Lookup>,
}

/// The core actor.
#[derive(Debug)]
pub struct Actor {
    core: Core,
    uplink: UplinkHandle,
    metrics: CoreMetrics,
    guards: Guards,
    streams: BTreeMap<StreamId, mpsc::Sender<Outbound>>,
    holders: BTreeMap<StreamId, watch::Sender<Option<Word>>>,
    rows: status::Rows,
    rows_due: Option<Instant>,
    view_due: Option<Instant>,
    issuing: Issuing,
    kept: watch::Sender<Kept>,
    mirror: Option<Mailbox>,
    policies: watch::Sender<Option<Arc<PolicyFacts>>>,
    remarks: watch::Sender<Arc<[ObjectError]>>,
    lack: watch::Sender<Option<String>>,
    hosts: watch::Sender<BTreeSet<Arc<str>>>,
    imports: ImportsFile,
    zone: watch::Sender<Option<Arc<Zone>>>,
    zone_due: Option<Instant>,
}

/// The core actor has ended: an input is gone.
#[derive(Debug, thiserror::Error)]
#[error("the {0} of the core is gone")]
pub struct InputGone(&'static str);

impl Actor {
    /// An actor around a core.
    #[must_use]
    pub fn new(
        core: Core,
        uplink: UplinkHandle,
        metrics: CoreMetrics,
        readiness: Readiness,
        guards: Guards,
        imports: ImportsFile,
    ) -> Self {
        let issuing = Issuing::start(readiness, metrics.clock_jump.clone());
        let (kept, _) = watch::channel(Kept::default());
        let (hosts, _) = watch::channel(BTreeSet::new());
        Self {
            core,
            uplink,
            metrics,
            guards,
            streams: BTreeMap::new(),
            holders: BTreeMap::new(),
            rows: status::Rows::default(),
            rows_due: None,
            view_due: None,
            issuing,
            kept,
            mirror: None,
            policies: watch::Sender::default(),
            remarks: watch::channel(Arc::from([])).0,
            lack: watch::Sender::default(),
            hosts,
            imports,
            zone: watch::channel(None).0,
            zone_due: None,
        }
    }

    /// Tells the mirror what it has to show.
    #[must_use]
    pub fn mirrored(mut self, mailbox: Mailbox) -> Self {
        self.core.await_import_addresses();
        Self { mirror: Some(mailbox), ..self }
    }

    /// What statuses of policies are made of, for [`crate::mirror::policies::keep`].
    #[must_use]
    pub fn policies(&self) -> watch::Receiver<Option<Arc<PolicyFacts>>> {
        self.policies.subscribe()
    }

    /// The faults of objects that have no conditions, for [`crate::mirror::remarks::tell`].
    #[must_use]
    pub fn remarks(&self) -> watch::Receiver<Arc<[ObjectError]>> {
        self.remarks.subscribe()
    }

    /// Says there why no gateway of this cluster can be reached.
    #[must_use]
    pub fn lacking(self, lack: watch::Sender<Option<String>>) -> Self {
        Self { lack, ..self }
    }

    /// The host names that are to be resolved, for [`crate::lookup::run`].
    #[must_use]
    pub fn hosts(&self) -> watch::Receiver<BTreeSet<Arc<str>>> {
        self.hosts.subscribe()
    }

    /// What imports are called, for [`crate::dns::serve`].
    #[must_use]
    pub fn zone(&self) -> watch::Receiver<Option<Arc<Zone>>> {
        self.zone.subscribe()
    }

    /// What is known of proxies, for [`super::kept::keep`].
    #[must_use]
    pub fn kept(&self) -> watch::Receiver<Kept> {
        self.kept.subscribe()
    }

    /// Runs until the drain.
    ///
    /// # Errors
    /// [`InputGone`] when an input ends before the drain.
    pub async fn run(mut self, mut inputs: Inputs, drain: Watch) -> Result<(), InputGone> {
        self.view_due = Some(clock::instant() + VIEW_PATIENCE);
        loop {
            let dues =
                [self.core.deadline(), self.rows_due, self.zone_due, self.view_due, Some(self.issuing.deadline())];
            let deadline = dues.into_iter().flatten().min();
            let timer = async {
                match deadline {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                command = inputs.commands.recv() => self.command(command.ok_or(InputGone("server"))?),
                command = inputs.downlink.recv() => self.downlink(command.ok_or(InputGone("session"))?),
                update = inputs.source.recv() => {
                    let update = update.ok_or(InputGone("source"))?;
                    let (now, wall) = self.time_to_issue();
                    self.core.apply_source(update, now, wall);
                    self.guards.source = None;
                }
                lookup = inputs.lookups.recv() => {
                    let Lookup { host, found } = lookup.ok_or(InputGone("resolver"))?;
                    let (now, wall) = self.time_to_issue();
                    self.core.set_resolved(&host, found, now, wall);
                }
                () = timer => self.time(),
                () = drain.signaled() => return Ok(()),
            }
            let mut effects = self.core.take_effects();
            if let Some(numbers) = effects.imports.take() {
                self.imports.keep(numbers).await;
            }
            self.carry_out(effects);
            let missing = self.core.missing().count();
            self.metrics.missing.set(i64::try_from(missing).unwrap_or(i64::MAX));
            if missing == 0 {
                self.guards.view = None;
            }
        }
    }

    /// Now, and the time to issue by; the core hears whether it may.
    fn time_to_issue(&mut self) -> (Instant, SystemTime) {
        let now = clock::instant();
        let (wall, jump) = self.issuing.now(now);
        self.core.set_clock_jump(jump);
        (now, wall)
    }

    fn time(&mut self) {
        let (now, wall) = self.time_to_issue();
        if self.view_due.is_some_and(|t| t <= now) {
            self.view_due = None;
            self.core.give_up_on_view(now, wall);
        }
        if self.rows_due.is_some_and(|t| t <= now) {
            self.rows_due = None;
            self.core.check_names();
            for fault in self.core.new_faults().iter().take(LOGGED_MAX) {
                tracing::warn!("source: {fault}");
            }
            self.tell_policies();
            self.tell_remarks();
            self.rows = status::rows(&self.core);
            self.count_faults();
            self.uplink.report(status::report(&self.core, &self.rows));
        }
        if self.zone_due.is_some_and(|t| t <= now) {
            self.zone_due = None;
            self.zone.send_replace(self.core.zone(now, wall));
        }
        self.core.tick(now, wall);
    }

    fn tell_policies(&self) {
        if self.policies.is_closed() {
            return;
        }
        let now = self.core.policy_facts();
        self.policies.send_if_modified(|before| {
            let changed = before.as_deref() != Some(&now);
            if changed {
                *before = Some(Arc::new(now));
            }
            changed
        });
    }

    fn tell_remarks(&self) {
        let lack = self.core.gateway_lack();
        self.lack.send_if_modified(|before| {
            let changed = *before != lack;
            *before = lack;
            changed
        });
        if !self.remarks.is_closed() {
            // Compared where they lie: most of the time nothing has changed, and there may be many.
            self.remarks.send_if_modified(|before| {
                let changed = !self.core.remarks().eq(before.iter());
                if changed {
                    *before = self.core.remarks().cloned().collect();
                }
                changed
            });
        }
    }

    fn count_faults(&self) {
        self.metrics.faults.clear();
        for ((code, severity), count) in meshfed_crds::error::errors_by_code(self.core.faults()) {
            let gauge = self.metrics.faults.get_or_create(&FaultLabel { code, severity });
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    fn command(&mut self, command: Command) {
        let (now, wall) = self.time_to_issue();
        match command {
            Command::Open { id, peer, node, protocol, secrets_only, responses } => {
                self.streams.insert(id, responses);
                self.core.open(id, peer, *node, protocol, secrets_only);
            }
            Command::Request { id, kind, request } => self.core.request(id, kind, request, now, wall),
            Command::Closed { id } => {
                self.streams.remove(&id);
                self.core.closed(id, now, wall);
            }
            Command::Report { id, peer, node, app_ready, reason, responses } => {
                self.streams.insert(id, responses);
                self.core.report(id, peer, *node, app_ready, reason, now, wall);
            }
            Command::ReportClosed { id } => {
                self.streams.remove(&id);
                self.core.report_closed(id, now, wall);
            }
            Command::Hold { id, uid, words } => {
                self.holders.insert(id, words);
                self.core.hold(id, uid, now, wall);
            }
            Command::Released { id } => {
                self.holders.remove(&id);
                self.core.released(id);
            }
            Command::Certify { id, metadata, key, named, answer } => {
                // An error: who asked went away.
                let _gone = answer.send(self.core.certify(&id, metadata.as_deref(), &key, named, wall));
            }
            Command::ImportAddresses(addresses) => self.core.set_import_addresses(addresses, now, wall),
            Command::DebugSource { answer } => {
                self.core.check_names();
                let (source, errors) = (self.core.source(), self.core.faults());
                // An error: who asked went away.
                let _gone = answer.send(crate::source::debug_body(
                    source.version,
                    source.objects,
                    self.core.outbound_said(),
                    errors,
                ));
            }
        }
    }

    fn downlink(&mut self, command: CoreCommand) {
        let (now, wall) = self.time_to_issue();
        match command {
            CoreCommand::View(change) => self.core.apply_view(change, now, wall),
            CoreCommand::OriginGone(origin) => self.core.origin_gone(&origin, now, wall),
            CoreCommand::Members(members) => self.core.set_members(members, now, wall),
            CoreCommand::Policies(policies) => self.core.set_policies(policies, now, wall),
            CoreCommand::SharedNetworks(networks) => self.core.set_shared_networks(networks, now, wall),
            CoreCommand::Order(order) => self.core.set_order(order, now, wall),
            CoreCommand::Bundles(bundles) => self.core.set_bundles(&bundles, now, wall),
            CoreCommand::CaughtUp => self.core.caught_up(now, wall),
            CoreCommand::Endpoints { query, answer } => {
                // An error: the session ended meanwhile, and with it the question.
                let _gone = answer.send(status::endpoints(&self.core, &query));
            }
            CoreCommand::Session { connected } => {
                tracing::info!(connected, "session with the hub");
                if connected {
                    self.core.hub_found(now);
                    self.rows_due = Some(now);
                } else {
                    self.core.hub_lost();
                }
            }
        }
    }

    fn carry_out(&mut self, effects: Effects) {
        for (id, outbound) in effects.outbound {
            let Some(responses) = self.streams.get(&id) else { continue };
            let last = matches!(outbound, Outbound::End(_));
            // Never full: at most one response per kind is unanswered. Closed: its task says so itself.
            if responses.try_send(outbound).is_err() || last {
                self.streams.remove(&id);
            }
        }
        for (id, word) in effects.words {
            if let Some(words) = self.holders.get(&id) {
                words.send_replace(Some(word));
            }
        }
        for (service, resources) in effects.offers {
            self.uplink.offer_service(service, resources);
        }
        if let Some(gateways) = effects.gateways {
            self.uplink.offer_gateways(gateways);
        }
        if let Some(namespaces) = effects.interest {
            self.uplink.interest(namespaces);
        }
        if effects.complete {
            self.uplink.offer_complete();
        }
        if effects.names && self.zone_due.is_none() {
            self.zone_due = Some(clock::instant() + NAMES_PAUSE);
        }
        if effects.rows && self.rows_due.is_none() {
            self.rows_due = Some(clock::instant() + ROWS_PAUSE);
        }
        if effects.report && !self.rows.is_empty() {
            self.uplink.report(status::report(&self.core, &self.rows));
        }
        for origin in &effects.acks {
            self.uplink.ack(self.core.view(), origin);
        }
        if effects.resync {
            self.uplink.resync(self.core.view());
        }
        if let Some(mirror) = &self.mirror {
            for name in effects.mirrored {
                let facts = self.core.mirrored(&name);
                mirror.say(name, facts);
            }
            mirror.set_whole(self.core.is_open() && self.core.is_whole(), self.core.is_current());
        }
        if let Some(hosts) = effects.hosts {
            self.hosts.send_replace(hosts);
        }
        if effects.kept_changed {
            self.kept.send_replace(self.core.kept());
        }
        let label = |kind: Kind| TypeLabel { r#type: kind.as_str() };
        for (kind, count) in effects.pushes {
            self.metrics.pushes.get_or_create(&label(kind)).inc_by(count);
        }
        for (kind, bytes) in effects.encoded {
            self.metrics.encoded.get_or_create(&label(kind)).inc_by(bytes);
        }
        for (kind, _error) in effects.nacks {
            self.metrics.nacks.get_or_create(&label(kind)).inc();
        }
        self.metrics.issued.inc_by(effects.issued);
    }
}
