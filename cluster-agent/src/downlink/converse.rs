//! Edge. One stream to a hub, from hello to its end.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use meshfed_api::border::{HeldOrigin, Hello, Interest, Lease, LeaseEpoch, Refusal, bundle_serial_message};
use meshfed_api::proto::federation as wire;
use meshfed_api::proto::federation::federation_client::FederationClient;
use meshfed_api::stream::Delta;
use meshfed_model::identity::TrustDomain;
use meshfed_model::names::ClusterName;
use meshfed_model::version::Version;
use meshfed_runtime::clock;
use meshfed_runtime::drain::Watch;
use meshfed_runtime::grpc::MESSAGE_MAX;
use prost::Message as _;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;
use wire::agent_message::Message as Say;

use super::session::{
    APPROVALS_PERIOD, DirectionLabel, Hub, Link, LinkError, Undialled, another_role, client_tls, dial, renew_in,
    renew_pause, role_pause,
};
use super::{CoreCommand, EndpointsAnswer};
use crate::lease::Role;

/// The session protocol that this agent speaks.
const PROTOCOL: u32 = 1;
/// Time for the hub's first message.
const WELCOME_DEADLINE: Duration = Duration::from_secs(10);
/// Time between signs of life.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// A hub that is silent for longer is given up: two signs of life are lost.
const SILENCE_MAX: Duration = Duration::from_secs(25);
/// Messages between this task and the stream: what waits longer is better computed later.
const OUTGOING_MAX: usize = 1;

/// How a conversation ended.
#[expect(clippy::large_enum_variant, reason = "one per conversation, taken apart at once")]
pub(super) enum Ended {
    /// The agent drains.
    Drained,
    /// The stream is gone.
    Lost(String),
    /// The identity was renewed: go on over this channel, and let the old stream stand until the hub has answered.
    Replaced(Channel, Old),
}

/// The halves of a stream that is to be replaced: kept open, not read.
pub(super) struct Old {
    _outgoing: mpsc::Sender<wire::AgentMessage>,
    _incoming: Streaming<wire::HubMessage>,
}

type Later<T> = Pin<Box<dyn Future<Output = T> + Send>>;
/// `Sync`, because it is lent out across an await of a task that may move between threads.
pub(super) type Answers = FuturesUnordered<Pin<Box<dyn Future<Output = wire::EndpointsAnswer> + Send + Sync>>>;

/// What one stream has been told and is being told.
#[derive(Default)]
pub(super) struct Stream {
    /// As what this agent said hello.
    role: Role,
    /// Whether the hub takes no offer over it.
    follows: bool,
    /// Whether a stream in another role is being opened.
    moving: bool,
    /// Where the hub stands once it has all that was sent.
    sent: Version,
    parts: std::collections::VecDeque<Delta>,
    heartbeat: bool,
    ready_answers: std::collections::VecDeque<wire::EndpointsAnswer>,
    /// How often it was said over it what this cluster is interested in, since the hello.
    pub(super) interests: u64,
    /// Of how many of these the hub has told all.
    pub(super) caught_up: Option<u64>,
    /// Whether the core knows.
    pub(super) caught_up_told: bool,
    /// Parts of a view delta whose last part has not come.
    pub(super) staged: Option<(ClusterName, u64, Delta)>,
}

impl Link {
    pub(super) async fn converse(
        &mut self,
        channel: Channel,
        old: Option<Old>,
        drain: &Watch,
    ) -> Result<Ended, LinkError> {
        self.absorb()?;
        self.pending.resync = false;
        let (outgoing, receiver) = mpsc::channel(OUTGOING_MAX);
        let role = *self.config.role.borrow();
        let (mut incoming, welcome) = tokio::select! {
            opened = self.greet(channel, role, &outgoing, receiver) => match opened {
                Ok(opened) => opened,
                Err(reason) => return Ok(Ended::Lost(reason)),
            },
            () = drain.signaled() => return Ok(Ended::Drained),
        };
        drop(old);
        let mut stream = self.begin(role, welcome)?;
        self.metrics.connected.set(1);
        self.open.send_replace(Hub::Connected);
        self.tell(CoreCommand::Session { connected: true }).await?;
        let ended = self.talk(&mut stream, &outgoing, &mut incoming, drain).await?;
        Ok(match ended {
            Talked::Drained => Ended::Drained,
            Talked::Lost(reason) => Ended::Lost(reason),
            Talked::Replaced(channel) => Ended::Replaced(channel, Old { _outgoing: outgoing, _incoming: incoming }),
        })
    }

    /// Hello and welcome.
    async fn greet(
        &self,
        channel: Channel,
        role: Role,
        outgoing: &mpsc::Sender<wire::AgentMessage>,
        receiver: mpsc::Receiver<wire::AgentMessage>,
    ) -> Result<(Streaming<wire::HubMessage>, wire::Welcome), String> {
        let hello = wire::AgentMessage { message: Some(Say::Hello((&self.hello(role)).into())) };
        self.count("out", hello.encoded_len());
        outgoing.try_send(hello).map_err(|e| e.to_string())?;
        let mut client = FederationClient::new(channel)
            .max_decoding_message_size(MESSAGE_MAX)
            .max_encoding_message_size(MESSAGE_MAX);
        let opened = async {
            let mut incoming = client.session(ReceiverStream::new(receiver)).await?.into_inner();
            let first = incoming.message().await?;
            Ok::<_, tonic::Status>((incoming, first))
        };
        let (incoming, first) = tokio::time::timeout(WELCOME_DEADLINE, opened)
            .await
            .map_err(|_elapsed| "the federator did not answer the hello within 10 s".to_owned())?
            .map_err(|status| refused(&status))?;
        let first = first.ok_or_else(|| "the federator closed the stream".to_owned())?;
        self.count("in", first.encoded_len());
        match first.message {
            Some(wire::hub_message::Message::Welcome(welcome)) if welcome.protocol == PROTOCOL => {
                Ok((incoming, welcome))
            }
            Some(wire::hub_message::Message::Welcome(welcome)) => {
                Err(format!("the federator speaks session protocol {}, this agent {PROTOCOL}", welcome.protocol))
            }
            Some(_) | None => Err("the federator's first message is no welcome".to_owned()),
        }
    }

    fn hello(&self, role: Role) -> Hello {
        let held = |(version, filter): &(Version, u64)| HeldOrigin { version: *version, filter: *filter };
        Hello {
            protocol: PROTOCOL,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            clock: clock::timestamp().to_string(),
            replica: self.config.replica,
            offer: self.ledger.version(),
            offer_floor: self.ledger.floor(),
            view: self.vector.iter().map(|(origin, stands)| (origin.clone(), held(stands))).collect(),
            bundles: self.bundles.held().iter().map(|(t, b)| (t.clone(), b.serial)).collect(),
            policy_revision: self.policy_revision,
            interest: Interest { namespaces: self.interest.clone() },
            instance: self.config.instance.clone(),
            lease: match role {
                Role::Alone => None,
                Role::Leads(epoch) => Some(Lease { held: true, epoch }),
                Role::Follows(epoch) => Some(Lease { held: false, epoch }),
            },
        }
    }

    /// Takes the welcome: from where the offer is to be sent.
    fn begin(&mut self, role: Role, welcome: wire::Welcome) -> Result<Stream, LinkError> {
        let follows = welcome.follows;
        tracing::info!(federator = welcome.federator, version = welcome.version, follows, "session opened");
        if follows && role.leads() {
            let latest = welcome.latest.map(|l| LeaseEpoch { since: l.since, transitions: l.transitions });
            tracing::warn!(
                latest = latest.map(|latest| latest.to_string()),
                "the hub has seen a later holder of the Lease: nothing is offered until this agent holds it"
            );
            self.config.latest.send_replace(latest.unwrap_or_default());
        }
        self.know(welcome.federators);
        let held = welcome.held_offer.map(Version::from).unwrap_or_default();
        // What others of this cluster have offered is not this agent's to number before it leads.
        if !follows {
            let led = match role {
                Role::Leads(epoch) => Some(epoch),
                Role::Alone | Role::Follows(_) => None,
            };
            // Agents of one cluster number what each of them reads: the same number may be another offer.
            let is_anothers = led.is_some() && led != self.led && held != Version::default();
            if is_anothers || held > self.ledger.version() {
                tracing::info!(%held, ours = %self.ledger.version(), "the hub holds what was not offered under this numbering; a new epoch begins");
                self.renumber(held.epoch)?;
            }
            self.led = led;
        }
        self.pending.interest = false;
        self.pending.report = self.report.is_some();
        // What the hello said of the view counts as acknowledged.
        self.pending.acks.clear();
        self.pending.bundle_acks.clear();
        Ok(Stream { role, follows, sent: held, ..Stream::default() })
    }

    fn count(&self, direction: &'static str, bytes: usize) {
        self.metrics.bytes.get_or_create(&DirectionLabel { direction }).inc_by(bytes as u64);
    }

    async fn talk(
        &mut self,
        stream: &mut Stream,
        outgoing: &mpsc::Sender<wire::AgentMessage>,
        incoming: &mut Streaming<wire::HubMessage>,
        drain: &Watch,
    ) -> Result<Talked, LinkError> {
        let uplink = self.uplink.clone();
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        heartbeat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        heartbeat.reset();
        let mut look = tokio::time::interval(APPROVALS_PERIOD);
        let mut answers = Answers::new();
        let mut silence = tokio::time::Instant::now() + SILENCE_MAX;
        let mut renewal: Renewing = Renewing::Waiting(Box::pin(tokio::time::sleep(renew_in(&self.config.identity))));
        loop {
            if self.pending.resync {
                return Ok(Talked::Lost("the view refused a change; it is asked for again".to_owned()));
            }
            self.tell_caught_up(stream).await?;
            tokio::select! {
                place = outgoing.reserve(), if self.has_news(stream) => {
                    let Ok(place) = place else { return Ok(Talked::Lost("the stream was closed".to_owned())) };
                    if let Some(message) = self.news(stream) {
                        self.count("out", message.encoded_len());
                        place.send(message);
                    }
                }
                message = tokio::time::timeout_at(silence, incoming.message()) => {
                    silence = tokio::time::Instant::now() + SILENCE_MAX;
                    let message = match message {
                        Err(_elapsed) => return Ok(Talked::Lost("the federator was silent for 25 s".to_owned())),
                        Ok(Err(status)) => return Ok(Talked::Lost(refused(&status))),
                        Ok(Ok(None)) => return Ok(Talked::Lost("the federator closed the stream".to_owned())),
                        Ok(Ok(Some(message))) => message,
                    };
                    self.count("in", message.encoded_len());
                    if let Some(reason) = self.take(stream, message, &mut answers).await? {
                        return Ok(Talked::Lost(reason));
                    }
                }
                () = uplink.changed() => self.absorb()?,
                _ = look.tick(), if self.bundles.has_refused() => self.take_approved().await?,
                Some(answer) = answers.next() => stream.ready_answers.push_back(answer),
                _ = heartbeat.tick() => {
                    stream.heartbeat = true;
                    self.absorb()?;
                }
                step = renewal.next() => {
                    if let Some(channel) = self.renewed(stream.moving, &mut renewal, step) {
                        return Ok(Talked::Replaced(channel));
                    }
                }
                () = another_role(self.config.role.clone(), stream.role), if !stream.moving && renewal.is_waiting() => {
                    stream.moving = true;
                    renewal = Renewing::Dialling(Box::pin(dial(self.config.clone(), 0)));
                }
                () = drain.signaled() => return Ok(Talked::Drained),
            }
        }
    }

    /// One step of the renewal; gives the channel to go on with at its end.
    fn renewed(&self, moving: bool, renewal: &mut Renewing, step: Step) -> Option<Channel> {
        let wait = |pause| Renewing::Waiting(Box::pin(tokio::time::sleep(pause)));
        match step {
            Step::Due if moving => {
                *renewal = Renewing::Dialling(Box::pin(dial(self.config.clone(), 0)));
                None
            }
            // The agent that leads renews for all of them, and the others are handed what it got.
            Step::Due if !self.config.role.borrow().leads() => {
                *renewal = wait(renew_pause());
                None
            }
            Step::Due => {
                let (config, own) = (self.config.clone(), self.renewal());
                *renewal = Renewing::Asking(Box::pin(async move {
                    let tls = client_tls(&config, true).map_err(|e| e.to_string())?;
                    let mut last = "no federator is known".to_owned();
                    for target in &config.file.federators {
                        let channel = match meshfed_runtime::grpc::connect(target, tls.clone()).await {
                            Ok(channel) => channel,
                            Err(error) => {
                                last = error.to_string();
                                continue;
                            }
                        };
                        match own.clone().renew(channel, false).await {
                            Ok(_federators) => return Ok(()),
                            Err(error) => last = meshfed_runtime::telemetry::chain_of(&error),
                        }
                    }
                    Err(last)
                }));
                None
            }
            Step::Asked(Ok(())) => {
                self.metrics.renewals.inc();
                *renewal = Renewing::Dialling(Box::pin(dial(self.config.clone(), 0)));
                None
            }
            Step::Asked(Err(reason)) => {
                tracing::warn!(reason, "the agent's identity was not renewed");
                *renewal = wait(renew_pause());
                None
            }
            Step::Dialled(Ok(channel)) => Some(channel),
            Step::Dialled(Err(Undialled { reasons, .. })) if moving => {
                tracing::warn!(reason = reasons, "no stream in the new role");
                *renewal = wait(role_pause());
                None
            }
            Step::Dialled(Err(Undialled { reasons, .. })) => {
                // The old stream stands; the new identity is used at the latest when it ends.
                tracing::warn!(reason = reasons, "no new stream with the renewed identity");
                *renewal = wait(renew_in(&self.config.identity).max(renew_pause()));
                None
            }
        }
    }

    /// Whether there is something to send now: looked at often, so it costs nothing.
    fn has_news(&self, stream: &Stream) -> bool {
        stream.heartbeat
            || !stream.ready_answers.is_empty()
            || !stream.parts.is_empty()
            || self.pending.interest
            || self.pending.report
            || !self.pending.acks.is_empty()
            || !self.pending.bundle_acks.is_empty()
            || self.may_offer(stream)
    }

    fn may_offer(&self, stream: &Stream) -> bool {
        !stream.follows && self.journaled && self.ledger.may_send() && stream.sent != self.ledger.version()
    }

    /// The next message for the hub. A status before acknowledgements: the hub must not hear "acknowledged" before
    /// "proxies lag". Small things before the offer.
    fn news(&mut self, stream: &mut Stream) -> Option<wire::AgentMessage> {
        let say = |message| Some(wire::AgentMessage { message: Some(message) });
        if std::mem::take(&mut stream.heartbeat) {
            return say(Say::Heartbeat(wire::Heartbeat { clock: clock::timestamp().to_string() }));
        }
        if let Some(answer) = stream.ready_answers.pop_front() {
            return say(Say::Endpoints(answer));
        }
        if let Some((trust_domain, serial)) = self.pending.bundle_acks.pop_first() {
            return say(Say::BundleAck(bundle_serial_message(&trust_domain, serial)));
        }
        if std::mem::take(&mut self.pending.interest) {
            stream.interests += 1;
            return say(Say::Interest((&Interest { namespaces: self.interest.clone() }).into()));
        }
        if std::mem::take(&mut self.pending.report)
            && let Some(report) = &self.report
        {
            let offer = self.ledger.is_complete().then(|| self.ledger.version().into());
            let mut report = wire::StatusReport { offer, ..report.clone() };
            report.source_errors.extend(self.ledger.oversized().map(too_large));
            // Before all else: a report is cut at its end.
            report.waiting_for.splice(0..0, self.bundles.awaiting().map(|(of, remedy)| anchor_awaits(of, &remedy)));
            report.source_errors.extend(self.bundles.awaiting().map(|(of, remedy)| anchor_changed(of, remedy)));
            return say(Say::Status(report));
        }
        if let Some((_, ack)) = self.pending.acks.pop_first() {
            return say(Say::Ack((&ack).into()));
        }
        if stream.parts.is_empty() && self.may_offer(stream) {
            stream.parts = self.ledger.since(stream.sent).into();
            stream.sent = self.ledger.version();
        }
        let part = stream.parts.pop_front()?;
        say(Say::Offer((&part).into()))
    }

    /// Hands a question to the core; its answer comes later.
    #[allow(clippy::needless_pass_by_ref_mut, reason = "a shared reference to it is not Send")]
    pub(super) async fn ask(&self, query: wire::EndpointsQuery, answers: &mut Answers) -> Result<(), LinkError> {
        let id = query.id;
        let (answer, receiver) = oneshot::channel::<EndpointsAnswer>();
        self.tell(CoreCommand::Endpoints { query: query.into(), answer }).await?;
        answers.push(Box::pin(async move {
            let away = EndpointsAnswer::Problem { status: 504, detail: "the agent gave no answer".to_owned() };
            receiver.await.unwrap_or(away).into_wire(id)
        }));
        Ok(())
    }
}

enum Talked {
    Drained,
    Lost(String),
    Replaced(Channel),
}

/// The renewal of the identity beside the conversation: make before break.
enum Renewing {
    Waiting(Pin<Box<tokio::time::Sleep>>),
    Asking(Later<Result<(), String>>),
    Dialling(Later<Result<Channel, Undialled>>),
}

enum Step {
    Due,
    Asked(Result<(), String>),
    Dialled(Result<Channel, Undialled>),
}

impl Renewing {
    const fn is_waiting(&self) -> bool {
        matches!(self, Self::Waiting(_))
    }
    /// Cancelling this loses nothing: the futures stay where they are.
    async fn next(&mut self) -> Step {
        match self {
            Self::Waiting(sleep) => {
                sleep.as_mut().await;
                Step::Due
            }
            Self::Asking(asking) => Step::Asked(asking.as_mut().await),
            Self::Dialling(dialling) => Step::Dialled(dialling.as_mut().await),
        }
    }
}

fn refused(status: &tonic::Status) -> String {
    format!("the federator ended the stream: {:?}: {}", status.code(), status.message())
}

/// A resource that is not sent, among the source's errors.
fn anchor_changed(trust_domain: &TrustDomain, remedy: String) -> wire::SourceError {
    let message = format!("{trust_domain} has a changed anchor, which is not trusted here; ask its owner for its hash");
    let (code, kind) = ("AnchorChanged".to_owned(), "TrustDomain".to_owned());
    wire::SourceError { code, kind, name: trust_domain.to_string(), message, remedy, ..wire::SourceError::default() }
}

/// What keeps the cluster from being ready while it trusts less than the hub names.
fn anchor_awaits(trust_domain: &TrustDomain, command: &str) -> wire::Pending {
    let reason = format!(
        "its changed anchor is not trusted here, so its workloads and these do not reach each other; compare the hash \
         with its owner's, then: {command}"
    );
    wire::Pending { kind: "session".to_owned(), name: trust_domain.to_string(), reason }
}

fn too_large(refusal: &Refusal) -> wire::SourceError {
    let service = refusal.subject.key().and_then(|key| key.service());
    wire::SourceError {
        code: refusal.code.clone(),
        kind: "Service".to_owned(),
        namespace: service.map(|s| s.namespace.to_string()).unwrap_or_default(),
        name: service.map(|s| s.name().to_owned()).unwrap_or_default(),
        message: format!("{}: {}: {}", refusal.class.as_str(), refusal.subject, refusal.message),
        ..wire::SourceError::default()
    }
}
