//! Edge. One gRPC stream per agent: a task that reads what the agent says, and one that sends what there is to say.

use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures::Stream;
use meshfed_api::border::Hello;
use meshfed_api::proto::federation as wire;
use meshfed_api::proto::federation::federation_server::Federation;
use meshfed_model::identity::{Principal, SpiffeId};
use meshfed_model::names::ClusterName;
use meshfed_runtime::grpc::PeerInfo;
use meshfed_runtime::tasks;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::desk::Untaken;
use super::heard::{Heard, heard};
use super::hub::{BytesLabel, Hub, Wake, now};
use super::state::{HEARTBEAT, OpenError, SILENCE_MAX, SessionId};

/// The session protocol that this hub speaks.
const PROTOCOL: u32 = 1;
/// Time for the first message (SY4).
const HELLO_DEADLINE: Duration = Duration::from_secs(10);
/// A stream that takes nothing for so long is closed (SY5).
const WRITE_STALL_MAX: Duration = Duration::from_secs(30);
/// Time for the status that ends a stream.
const FAREWELL_DEADLINE: Duration = Duration::from_secs(5);
/// Messages between the state and the stream: one is being written, one is ready. More would only age.
const OUTGOING_MAX: usize = 1;

type Sender = mpsc::Sender<Result<wire::HubMessage, Status>>;

/// The gRPC service.
#[derive(Debug, Clone)]
pub struct Sessions(Arc<Hub>);

impl Sessions {
    pub(super) const fn new(hub: Arc<Hub>) -> Self {
        Self(hub)
    }
}

/// Who the agent is, from its certificate alone.
fn agent(
    fleet: &meshfed_model::identity::TrustDomain,
    peer: &PeerInfo,
) -> Result<(SpiffeId, ClusterName, u32), Status> {
    let id = peer.id.clone().ok_or_else(|| Status::unauthenticated("a session needs the agent's certificate"))?;
    match &id.principal {
        Principal::Agent { cluster, replica } if id.trust_domain == *fleet => {
            let (cluster, replica) = (cluster.clone(), *replica);
            Ok((id, cluster, replica))
        }
        Principal::Agent { .. } | Principal::Workload { .. } | Principal::Federator { .. } => {
            Err(Status::permission_denied("only agents of this fleet have sessions"))
        }
    }
}

#[tonic::async_trait]
impl Federation for Sessions {
    type SessionStream = Pin<Box<dyn Stream<Item = Result<wire::HubMessage, Status>> + Send>>;

    async fn session(
        &self,
        request: Request<Streaming<wire::AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let hub = Arc::clone(&self.0);
        let leaf = PeerInfo::of(&request).leaf_sha256;
        let (identity, cluster, replica) =
            agent(&hub.inputs.fleet, &PeerInfo::of(&request)).inspect_err(|_| hub.refuse_session("", "identity"))?;
        let (sender, receiver) = mpsc::channel(OUTGOING_MAX);
        let reader = Reader { hub, cluster, replica, leaf, sender, incoming: request.into_inner() };
        let task = tasks::spawn("session", async move {
            tracing::info!(%identity, "session begins");
            if let Err(status) = reader.run().await {
                tracing::info!(%identity, code = ?status.code(), reason = status.message(), "session ends");
            } else {
                tracing::info!(%identity, "session ends");
            }
        });
        // The task ends when the agent's half of the stream does, or when its own half is dropped with the response.
        let owned = Owned { _abort: tasks::AbortOnDrop::new(&task), receiver: ReceiverStream::new(receiver) };
        Ok(Response::new(Box::pin(owned)))
    }
}

/// The response stream; ends the session's tasks when it is dropped.
struct Owned {
    receiver: ReceiverStream<Result<wire::HubMessage, Status>>,
    _abort: tasks::AbortOnDrop,
}

impl Stream for Owned {
    type Item = Result<wire::HubMessage, Status>;
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<Option<Self::Item>> {
        Pin::new(&mut self.receiver).poll_next(cx)
    }
}

struct Reader {
    hub: Arc<Hub>,
    cluster: ClusterName,
    replica: u32,
    /// SHA-256 of the agent's certificate.
    leaf: Option<[u8; 32]>,
    sender: Sender,
    incoming: Streaming<wire::AgentMessage>,
}

/// Removes the session from the state when its reader ends, however it ends.
struct Open {
    hub: Arc<Hub>,
    id: SessionId,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.hub.change(|state| state.close(self.id));
        self.hub.wakes.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
        let mut questions = self.hub.questions.lock().unwrap_or_else(PoisonError::into_inner);
        questions.retain(|(session, _), _| *session != self.id);
        self.hub.metrics.sessions.dec();
        self.hub.inputs.revisions.bump();
    }
}

impl Reader {
    async fn run(mut self) -> Result<(), Status> {
        let result = self.converse().await;
        if let Err(status) = &result {
            // The agent reads the reason as the end of its stream; one that reads nothing any more loses it.
            let last = self.sender.send(Err(status.clone()));
            let _unread = tokio::time::timeout(FAREWELL_DEADLINE, last).await;
        }
        result
    }

    async fn converse(&mut self) -> Result<(), Status> {
        let hello = self.hello().await?;
        let wake = Arc::new(Wake::default());
        let open = self.open(hello, &wake).await?;
        let pump = Pump {
            hub: Arc::clone(&self.hub),
            id: open.id,
            cluster: self.cluster.clone(),
            sender: self.sender.clone(),
            wake,
        };
        let pump = pump.run();
        let listen = self.listen(open.id);
        tokio::select! {
            ended = pump => ended,
            ended = listen => ended,
        }
    }

    async fn hello(&mut self) -> Result<Hello, Status> {
        let refuse = |text: String| Status::invalid_argument(text);
        let first = tokio::time::timeout(HELLO_DEADLINE, self.incoming.message())
            .await
            .map_err(|_elapsed| Status::deadline_exceeded("no hello within 10 s"))??;
        let Some(wire::AgentMessage { message: Some(wire::agent_message::Message::Hello(hello)) }) = first else {
            self.hub.refuse_session(self.cluster.as_str(), "hello");
            return Err(refuse("the first message must be a hello".to_owned()));
        };
        self.count("in", hello.encoded_len());
        if hello.protocol != PROTOCOL {
            self.hub.refuse_session(self.cluster.as_str(), "protocol");
            let said = hello.protocol;
            return Err(Status::failed_precondition(format!(
                "this federator speaks session protocol {PROTOCOL}, the agent {said}; update the older of the two"
            )));
        }
        Hello::try_from(hello).map_err(|e| {
            self.hub.refuse_session(self.cluster.as_str(), "hello");
            refuse(e.to_string())
        })
    }

    /// The binding of the cluster, if the agent's certificate was given out under it (JT10).
    async fn binding(&self) -> Result<u64, Status> {
        let cluster = &self.cluster;
        let binding = self.hub.with(|s| s.binding(cluster)).ok_or_else(|| OpenError::NoMember(cluster.clone()));
        let binding = binding.map_err(|e| self.unopened(&e))?;
        let leaf = self.leaf.ok_or_else(|| Status::unauthenticated("a session needs the agent's certificate"))?;
        let found = self.hub.inputs.issued.is_of(leaf, cluster, binding).await;
        if found.map_err(|e| Status::unavailable(e.to_string()))? {
            return Ok(binding);
        }
        Err(self.unopened(&OpenError::Binding(cluster.clone())))
    }

    fn unopened(&self, error: &OpenError) -> Status {
        let code = match error {
            OpenError::NoMember(_) | OpenError::Replica { .. } => "member",
            OpenError::Binding(_) => "binding",
        };
        self.hub.refuse_session(self.cluster.as_str(), code);
        Status::permission_denied(error.to_string())
    }

    async fn open(&self, hello: Hello, wake: &Arc<Wake>) -> Result<Open, Status> {
        let binding = self.binding().await?;
        let moment = now();
        let offer = hello.offer;
        let opened = self.hub.change(|state| state.open((&self.cluster, self.replica, binding), hello, moment));
        let opened = opened.map_err(|e| self.unopened(&e))?;
        let (id, follows) = (opened.id, !opened.uplink);
        self.hub.metrics.sessions.inc();
        let open = Open { hub: Arc::clone(&self.hub), id };
        self.hub.wakes.lock().unwrap_or_else(PoisonError::into_inner).insert(id, Arc::clone(wake));
        self.hub.opened(&self.cluster, self.replica, opened);
        self.hub.inputs.revisions.bump();
        self.hub.catch_up(&self.cluster).await.map_err(|e| Status::unavailable(e.to_string()))?;
        let held = self.hub.with(|s| s.catalog().history(&self.cluster).map(meshfed_api::stream::History::version));
        let held = held.filter(|v| *v != meshfed_model::version::Version::default());
        tracing::debug!(cluster = %self.cluster, ?held, %offer, "the agent's offer stands");
        let latest = self.hub.with(|s| s.latest_lease(&self.cluster));
        let latest = latest.map(|l| wire::Lease { held: false, since: l.since, transitions: l.transitions });
        let welcome = wire::Welcome {
            protocol: PROTOCOL,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            federator: self.hub.inputs.federator.to_string(),
            clock: moment.wall.to_string(),
            held_offer: held.map(Into::into),
            federators: self.hub.inputs.federators.clone(),
            follows,
            latest,
        };
        let message = wire::HubMessage { message: Some(wire::hub_message::Message::Welcome(welcome)) };
        self.count("out", message.encoded_len());
        self.sender.send(Ok(message)).await.map_err(|_closed| Status::cancelled("the agent went away"))?;
        wake.signal.notify_one();
        Ok(open)
    }

    fn count(&self, direction: &'static str, bytes: usize) {
        let label = BytesLabel { cluster: self.cluster.to_string(), direction };
        self.hub.metrics.bytes.get_or_create(&label).inc_by(bytes as u64);
    }

    async fn listen(&mut self, id: SessionId) -> Result<(), Status> {
        loop {
            let message = tokio::time::timeout(SILENCE_MAX, self.incoming.message())
                .await
                .map_err(|_elapsed| Status::deadline_exceeded("the agent was silent for 25 s"))?
                .map_err(|status| self.unread(status))?;
            let Some(message) = message else { return Ok(()) };
            self.count("in", message.encoded_len());
            if !self.hub.with(|s| s.is_current(id)) {
                // The pump is telling it why; nothing that it still says counts.
                continue;
            }
            let said = heard(message).map_err(|e| {
                self.hub.refuse_session(self.cluster.as_str(), "message");
                Status::invalid_argument(e.to_string())
            })?;
            if self.hub.change(|s| s.heard(id, now())) {
                self.hub.fresh_again(&self.cluster);
            }
            self.take(id, said).await?;
        }
    }

    /// What the transport did not read. A message that is too large cannot be refused by name: nothing of it is known.
    fn unread(&self, status: Status) -> Status {
        if status.code() != tonic::Code::OutOfRange {
            return status;
        }
        self.hub.refuse_session(self.cluster.as_str(), "size");
        let text = "a message has more than 4 MiB; an offer is sent in parts of at most 256 resources";
        Status::resource_exhausted(text)
    }

    async fn take(&self, id: SessionId, said: Heard) -> Result<(), Status> {
        match said {
            Heard::Endpoints(answer) => {
                let key = (id, answer.id);
                let asker = self.hub.questions.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
                if let Some(asker) = asker {
                    // An asker that has gone away wants no answer.
                    let _gone = asker.send(answer);
                }
                Ok(())
            }
            Heard::Heartbeat => Ok(()),
            Heard::Unexpected(what) => {
                self.hub.refuse_session(self.cluster.as_str(), "message");
                Err(Status::invalid_argument(format!("{what} was not expected here")))
            }
            Heard::Ack(ack) => {
                tracing::debug!(cluster = %self.cluster, origin = %ack.origin, version = %ack.version, refused = ack.refused.len(), "view: ACK");
                for refusal in &ack.refused {
                    let (cluster, origin, resource) = (&self.cluster, &ack.origin, &refusal.subject);
                    let reason = &refusal.message;
                    tracing::warn!(%cluster, %origin, %resource, code = refusal.code, reason, "an importer refused");
                }
                self.submit(id, Heard::Ack(ack)).await
            }
            said @ (Heard::Offer(_) | Heard::Interest(_) | Heard::Status(_) | Heard::Bundle(..)) => {
                self.submit(id, said).await
            }
        }
    }

    /// Has a message taken when it is the cluster's turn, and what it did made durable.
    async fn submit(&self, id: SessionId, said: Heard) -> Result<(), Status> {
        let taken = self.hub.submit(&self.cluster, id, said).await.map_err(|untaken| match &untaken {
            Untaken::Offer(_) => {
                self.hub.refuse_session(self.cluster.as_str(), "offer");
                Status::aborted(untaken.to_string())
            }
            Untaken::Full => {
                self.hub.refuse_session(self.cluster.as_str(), "flood");
                Status::resource_exhausted(untaken.to_string())
            }
            Untaken::Over => Status::unavailable(untaken.to_string()),
        })?;
        let Some(taken) = taken.filter(|t| t.reached) else { return Ok(()) };
        tracing::debug!(
            cluster = %self.cluster,
            base = %taken.base,
            version = %taken.version,
            complete = taken.complete,
            services = taken.services.len(),
            exported = taken.added.len(),
            withdrawn = taken.removed.len(),
            gateways = taken.gateways,
            "offer: a change is taken"
        );
        let settled = self.hub.settle(&self.cluster, &taken).await;
        let settled = settled.map_err(|e| Status::unavailable(e.to_string()))?;
        self.hub.change(|s| s.offered(id, &taken, settled.claims, &settled.dropped));
        if taken.complete || !taken.idle.is_empty() {
            self.hub.reschedule();
        }
        Ok(())
    }
}

/// Sends what there is to say, as fast as the stream takes it and no faster.
struct Pump {
    hub: Arc<Hub>,
    id: SessionId,
    cluster: ClusterName,
    sender: Sender,
    wake: Arc<Wake>,
}

impl Pump {
    /// Waits until the stream can take a message. A session that is over does not wait for an agent that reads nothing.
    async fn place(&self) -> Result<mpsc::Permit<'_, Result<wire::HubMessage, Status>>, Status> {
        let reserve = tokio::time::timeout(WRITE_STALL_MAX, self.sender.reserve());
        let mut reserve = std::pin::pin!(reserve);
        loop {
            tokio::select! {
                biased;
                place = &mut reserve => {
                    return place
                        .map_err(|_elapsed| Status::deadline_exceeded("the agent took nothing for 30 s"))?
                        .map_err(|_closed| Status::cancelled("the agent went away"));
                }
                // What there is to say is looked for again when there is a place.
                () = self.wake.signal.notified() => {
                    if let Some(reason) = self.hub.with(|s| s.fenced(self.id).map(str::to_owned)) {
                        self.hub.refuse_session(self.cluster.as_str(), "fenced");
                        return Err(Status::aborted(format!("fenced: {reason}")));
                    }
                }
            }
        }
    }

    async fn run(self) -> Result<(), Status> {
        let label = BytesLabel { cluster: self.cluster.to_string(), direction: "out" };
        let sent = self.hub.metrics.bytes.get_or_create(&label).clone();
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        heartbeat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        heartbeat.reset();
        loop {
            // A place first, the message then: what waits for a place is computed when there is one.
            let place = self.place().await?;
            let message = loop {
                if let Some(message) = self.hub.next(self.id) {
                    break message;
                }
                tokio::select! {
                    () = self.wake.signal.notified() => {}
                    _ = heartbeat.tick() => self.hub.change(|s| s.heartbeat(self.id)),
                    () = self.hub.inputs.drain.signaled() => {
                        return Err(Status::unavailable("the federator is shutting down"));
                    }
                }
            };
            sent.inc_by(message.encoded_len() as u64);
            let fenced = match &message.message {
                Some(wire::hub_message::Message::Fenced(f)) => Some(f.reason.clone()),
                Some(_) | None => None,
            };
            place.send(Ok(message));
            if let Some(reason) = fenced {
                self.hub.refuse_session(self.cluster.as_str(), "fenced");
                return Err(Status::aborted(format!("fenced: {reason}")));
            }
        }
    }
}
