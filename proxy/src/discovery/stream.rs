//! Edge. One delta ADS stream: subscriptions out, resources in, an answer to each response.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use meshfed_api::proto::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use meshfed_api::proto::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Status};
use meshfed_runtime::clock;
use meshfed_runtime::config::Problems;
use meshfed_runtime::grpc::{LEFT, MEMBERSHIP};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use super::held::ListenerChange;
use super::metrics::{KindLabel, ListenerLabel};
use super::{Discovery, Kind, Sockets};

/// A response may be this large: the agent is on this host, and one route configuration names all services.
const MESSAGE_MAX: usize = 64 * 1024 * 1024;
/// Requests under way: five types, each with an answer and a subscription, several times over.
const REQUESTS: usize = 64;
/// How long listeners wait for what they refer to before they are refused, and for the first clusters.
const WARM_DEADLINE: Duration = Duration::from_secs(5);
/// How long a stream may bring nothing to listen on before that is told, once.
const QUIET: Duration = Duration::from_secs(3);
/// Names of one response or subscription that the log shows.
const NAMES_SHOWN: usize = 8;
/// Longest text of a refusal.
const REFUSAL_MAX: usize = 4096;
/// gRPC's INVALID_ARGUMENT.
const INVALID_ARGUMENT: i32 = 3;
/// The kinds in the order in which they are asked for.
const ASKED: [Kind; 5] = [Kind::Cluster, Kind::Secret, Kind::Endpoint, Kind::Listener, Kind::Route];

/// A response with listeners that was not answered yet: it is, once each of them listens or cannot.
#[derive(Debug)]
struct Unanswered {
    nonce: String,
    waiting: BTreeSet<Arc<str>>,
    refused: Vec<(String, String)>,
    deadline: Instant,
}

/// What was said on this stream.
struct Conversation {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    subscribed: BTreeMap<Kind, BTreeSet<String>>,
    open: BTreeSet<Kind>,
    unanswered: Vec<Unanswered>,
    clusters_answered: bool,
    /// Until when listeners are not asked for although clusters are not usable yet.
    clusters_deadline: Option<Instant>,
    /// Before the start: what could not be bound, by listener. It is told when all were tried.
    unbound: BTreeMap<Arc<str>, Problems>,
}

enum Event {
    Response(Box<DeltaDiscoveryResponse>),
    End(String),
    Deadline,
    Quiet,
}

/// Follows one stream to its end and says why it ended.
pub(super) async fn follow<S: Sockets>(
    this: &mut Discovery,
    channel: Channel,
    sockets: &mut S,
) -> Result<String, Problems> {
    let (requests, queue) = mpsc::channel(REQUESTS);
    let mut client = AggregatedDiscoveryServiceClient::new(channel.clone()).max_decoding_message_size(MESSAGE_MAX);
    let mut talk = Conversation {
        requests,
        subscribed: BTreeMap::new(),
        open: BTreeSet::new(),
        unanswered: Vec::new(),
        clusters_answered: false,
        clusters_deadline: None,
        unbound: BTreeMap::new(),
    };
    talk.begin(this);
    let opened = client.delta_aggregated_resources(ReceiverStream::new(queue)).await;
    this.left.send_replace(opened.as_ref().is_err_and(says_left));
    let mut responses = match opened {
        Ok(response) => response.into_inner(),
        Err(status) => return Ok(describe(&status)),
    };
    this.metrics.connected.set(1);
    this.channel.send_replace(Some(channel));
    let mut quiet = Some(Instant::from_std(clock::instant()) + QUIET);
    loop {
        quiet = quiet.filter(|_| !this.started || this.is_lost());
        let event = tokio::select! {
            message = responses.message() => match message {
                Ok(Some(response)) => Event::Response(Box::new(response)),
                Ok(None) => Event::End("the agent ended the stream".to_owned()),
                Err(status) => Event::End(describe(&status)),
            },
            () = sleep_until(talk.deadline()) => Event::Deadline,
            () = sleep_until(quiet) => Event::Quiet,
        };
        match event {
            Event::End(why) => return Ok(why),
            Event::Response(response) => {
                // Endpoints are most of all changes and refer to nothing: their cost must not grow with what is held.
                let refers = Kind::of_type_url(&response.type_url) != Some(Kind::Endpoint)
                    || !talk.open.contains(&Kind::Listener);
                this.regained();
                talk.take(this, &response);
                if !refers {
                    continue;
                }
            }
            Event::Deadline => talk.expire(this),
            Event::Quiet => {
                quiet = None;
                if this.started {
                    // It answers nothing to who holds everything.
                    this.regained();
                    continue;
                }
                tracing::warn!(
                    node = this.config.node.id,
                    "the agent has nothing for this workload yet: no WorkloadEntry names it, or --mode gateway and no gateway Service selects it; the agent's log says what its namespace has; waiting"
                );
                continue;
            }
        }
        talk.settle(this, sockets)?;
        if talk.requests.is_closed() {
            return Ok("the stream to the agent is closed".to_owned());
        }
    }
}

/// The first of some names, and how many there are.
struct Names<'a>(Vec<&'a str>);

impl std::fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown: Vec<&str> = self.0.iter().take(NAMES_SHOWN).copied().collect();
        match self.0.len().saturating_sub(shown.len()) {
            0 => write!(f, "[{}]", shown.join(", ")),
            more => write!(f, "[{}, and {more} more]", shown.join(", ")),
        }
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Whether the agent says that its cluster is a member of no fleet any more.
fn says_left(status: &tonic::Status) -> bool {
    status.metadata().get(MEMBERSHIP).is_some_and(|said| said == LEFT)
}

fn describe(status: &tonic::Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}

impl Discovery {
    fn is_lost(&self) -> bool {
        !self.lost.is_empty()
    }
    /// The agent is there: it answers, or a stream to it has stood for a while. Told once.
    pub(super) fn regained(&mut self) {
        if self.is_lost() {
            self.lost.clear();
            tracing::info!(agent = %self.config.agent, "discovery: connected to the agent again");
        }
    }
    /// Warns of what leads nowhere: once, and again when it has been otherwise meanwhile.
    fn tell_nowhere(&mut self) {
        let now = self.held.nowhere(&self.config.inbound);
        for line in now.difference(&self.told) {
            tracing::warn!("{line}");
        }
        self.told = now;
    }
}

impl Conversation {
    /// The first requests: clusters and secrets; on a reconnect everything that is held.
    fn begin(&mut self, this: &Discovery) {
        for kind in ASKED {
            let held = this.held.versions(kind);
            let names = this.held.wanted(kind);
            let known = !held.is_empty() || (this.started && kind.has_wildcard());
            if matches!(kind, Kind::Cluster | Kind::Secret) || known || (this.started && !names.is_empty()) {
                self.open(this, kind, names, held);
            }
        }
        // What is held was usable before: nothing to wait for. An agent that has nothing new does not answer.
        self.clusters_answered = this.started || !this.held.versions(Kind::Cluster).is_empty();
        if self.clusters_answered && !this.started {
            self.clusters_deadline = Some(Instant::from_std(clock::instant()) + WARM_DEADLINE);
        }
    }

    fn open(&mut self, this: &Discovery, kind: Kind, names: BTreeSet<String>, held: BTreeMap<String, String>) {
        let first = self.open.is_empty();
        self.open.insert(kind);
        self.send(DeltaDiscoveryRequest {
            node: first.then(|| this.config.node.clone()),
            type_url: kind.type_url().to_owned(),
            resource_names_subscribe: names.iter().cloned().collect(),
            initial_resource_versions: held,
            ..DeltaDiscoveryRequest::default()
        });
        self.subscribed.insert(kind, names);
    }

    fn send(&self, request: DeltaDiscoveryRequest) {
        // The queue holds several answers per type and gRPC takes them at once; a stream that does not is dead.
        if let Err(error) = self.requests.try_send(request) {
            tracing::debug!(%error, "discovery: request not sent");
        }
    }

    fn answer(&self, kind: Kind, nonce: &str, refused: &[(String, String)]) {
        let error_detail = (!refused.is_empty()).then(|| {
            let mut message = String::new();
            for (i, (name, why)) in refused.iter().enumerate() {
                if message.len() > REFUSAL_MAX {
                    message.push_str(&format!("; and {} more", refused.len() - i));
                    break;
                }
                let separator = if i > 0 { "; " } else { "" };
                message.push_str(&format!("{separator}{name}: {why}"));
            }
            Status { code: INVALID_ARGUMENT, message }
        });
        self.send(DeltaDiscoveryRequest {
            type_url: kind.type_url().to_owned(),
            response_nonce: nonce.to_owned(),
            error_detail,
            ..DeltaDiscoveryRequest::default()
        });
    }

    fn take(&mut self, this: &mut Discovery, response: &DeltaDiscoveryResponse) {
        let Some(kind) = Kind::of_type_url(&response.type_url) else {
            tracing::warn!(type_url = %response.type_url, "discovery: a type that was not asked for");
            return;
        };
        let label = KindLabel { kind: kind.as_str() };
        let bytes: usize = response.resources.iter().filter_map(|r| r.resource.as_ref()).map(|a| a.value.len()).sum();
        this.metrics.resources.get_or_create(&label).inc_by(response.resources.len() as u64);
        this.metrics.bytes.get_or_create(&label).inc_by(bytes as u64);
        let applied = this.held.apply(kind, response);
        let names = Names(response.resources.iter().map(|r| r.name.as_str()).collect());
        let (removed, refused) = (response.removed_resources.len(), applied.refused.len());
        tracing::debug!(kind = kind.as_str(), %names, removed, refused, nonce = response.nonce, "discovery: resources");
        for (name, why) in &applied.refused {
            this.metrics.refused.get_or_create(&label).inc();
            tracing::warn!(kind = kind.as_str(), name = %name, why = %why, "discovery: resource refused, the last good one stays");
        }
        if kind == Kind::Listener {
            let refused: BTreeSet<&str> = applied.refused.iter().map(|(n, _)| n.as_str()).collect();
            let names = response
                .resources
                .iter()
                .map(|r| r.name.as_str())
                .filter(|n| !refused.contains(n) && this.held.is_installed(n));
            self.unanswered.push(Unanswered {
                nonce: response.nonce.clone(),
                waiting: names.map(Arc::from).collect(),
                refused: applied.refused,
                deadline: Instant::from_std(clock::instant()) + WARM_DEADLINE,
            });
            return;
        }
        if kind == Kind::Cluster && !self.clusters_answered {
            self.clusters_answered = true;
            self.clusters_deadline = Some(Instant::from_std(clock::instant()) + WARM_DEADLINE);
        }
        self.answer(kind, &response.nonce, &applied.refused);
    }

    /// Listeners whose references did not come in time are refused; they are taken up when the references come.
    fn expire(&mut self, this: &Discovery) {
        let now = Instant::from_std(clock::instant());
        if self.clusters_deadline.is_some_and(|d| d <= now) {
            self.clusters_deadline = None;
        }
        for response in self.unanswered.iter_mut().filter(|u| u.deadline <= now) {
            for name in std::mem::take(&mut response.waiting) {
                let why = this.held.missing(&name).unwrap_or_else(|| "could not be installed in time".to_owned());
                response.refused.push((name.to_string(), why));
            }
        }
    }

    fn deadline(&self) -> Option<Instant> {
        self.unanswered.iter().map(|u| u.deadline).chain(self.clusters_deadline).min()
    }

    /// After each event: subscriptions follow what is referred to, sockets follow the listeners, answers follow them.
    fn settle<S: Sockets>(&mut self, this: &mut Discovery, sockets: &mut S) -> Result<(), Problems> {
        self.subscribe(this);
        self.install(this, sockets);
        let mut answers = Vec::new();
        self.unanswered.retain_mut(|u| {
            if u.waiting.is_empty() {
                answers.push((std::mem::take(&mut u.nonce), std::mem::take(&mut u.refused)));
                return false;
            }
            true
        });
        for (nonce, refused) in &answers {
            self.answer(Kind::Listener, nonce, refused);
        }
        // The hosts of the process's own listeners are those of its first ones: an answer without any is no start.
        let bind = this.held.bind();
        if !answers.is_empty() && !this.started && !bind.is_empty() {
            this.started = true;
            let mut failed = Problems::new();
            std::mem::take(&mut self.unbound).into_values().for_each(|problems| failed.extend(problems));
            sockets.started(&bind, failed)?;
            tracing::info!("discovery: listeners stand");
        }
        if this.started {
            this.tell_nowhere();
        }
        Ok(())
    }

    fn subscribe(&mut self, this: &mut Discovery) {
        for kind in [Kind::Secret, Kind::Endpoint, Kind::Route] {
            let wanted = this.held.wanted(kind);
            let Some(have) = self.subscribed.get(&kind) else {
                if !wanted.is_empty() {
                    self.open(this, kind, wanted, BTreeMap::new());
                }
                continue;
            };
            let add: Vec<String> = wanted.difference(have).cloned().collect();
            let gone: Vec<String> = have.difference(&wanted).cloned().collect();
            if add.is_empty() && gone.is_empty() {
                continue;
            }
            let (more, fewer) = (Names(add.iter().map(String::as_str).collect()), gone.len());
            tracing::debug!(kind = kind.as_str(), %more, fewer, "discovery: subscription");
            this.held.unsubscribed(kind, &gone);
            self.send(DeltaDiscoveryRequest {
                type_url: kind.type_url().to_owned(),
                resource_names_subscribe: add,
                resource_names_unsubscribe: gone,
                ..DeltaDiscoveryRequest::default()
            });
            self.subscribed.insert(kind, wanted);
        }
        let warm = this.held.clusters_are_warm() || self.clusters_deadline.is_none();
        if !self.open.contains(&Kind::Listener) && self.clusters_answered && warm {
            self.clusters_deadline = None;
            self.open(this, Kind::Listener, BTreeSet::new(), BTreeMap::new());
        }
    }

    /// At the start an address in use ends the process, once the others were tried; later it is the agent's to know, and
    /// what worked stays.
    fn install<S: Sockets>(&mut self, this: &mut Discovery, sockets: &mut S) {
        let changes = this.held.listener_changes();
        if changes.is_empty() {
            return;
        }
        for change in changes {
            let (cell, listener) = match change {
                ListenerChange::Remove(name) => {
                    sockets.remove(&name);
                    self.unbound.remove(&name);
                    continue;
                }
                ListenerChange::Install(cell, listener) => (cell, listener),
            };
            let result = sockets.install(&cell, &listener);
            for u in &mut self.unanswered {
                if u.waiting.remove(&listener.name) {
                    let why = |errors: &Vec<_>| {
                        errors.iter().map(meshfed_runtime::telemetry::chain_of).collect::<Vec<_>>().join(", ")
                    };
                    u.refused.extend(result.as_ref().err().map(|e| (listener.name.to_string(), why(e))));
                }
            }
            self.unbound.remove(&listener.name);
            if let Err(errors) = result {
                this.held.failed(&listener.name);
                this.metrics.bind_failures.get_or_create(&ListenerLabel { listener: listener.name.to_string() }).inc();
                let mut problems = Problems::new();
                for error in errors {
                    // At the start it is told once, as the configuration error that the process may end with.
                    if this.started {
                        tracing::error!(listener = %listener.name, error = %meshfed_runtime::telemetry::chain(&error), "cannot listen");
                    }
                    error.note(&mut problems);
                }
                if !this.started {
                    self.unbound.insert(Arc::clone(&listener.name), problems);
                }
            }
        }
        this.held.publish_listeners();
        sockets.changed();
    }
}
