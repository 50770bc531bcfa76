//! Edge. One gRPC stream per agent: a task that reads what the agent says, and one that sends what there is to say.

use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures::Stream;
use meshfed_api::border::Hello;
use meshfed_api::proto::federation as wire;
use meshfed_api::proto::federation::federation_server::Federation;
use meshfed_api::stream::Delta;
use meshfed_model::identity::{Principal, SpiffeId};
use meshfed_model::names::ClusterName;
use meshfed_runtime::grpc::PeerInfo;
use meshfed_runtime::{clock, tasks};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::heard::{Heard, heard};
use super::hub::{BytesLabel, ClusterLabel, Hub, RefusedLabel, Wake};
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
        let (identity, cluster, replica) =
            agent(&hub.inputs.fleet, &PeerInfo::of(&request)).inspect_err(|_| hub.refuse_session("", "identity"))?;
        let (sender, receiver) = mpsc::channel(OUTGOING_MAX);
        let reader = Reader { hub, cluster, replica, sender, incoming: request.into_inner() };
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

    async fn open(&self, hello: Hello, wake: &Arc<Wake>) -> Result<Open, Status> {
        let now = clock::timestamp();
        let offer = hello.offer;
        let id = self.hub.change(|state| state.open(&self.cluster, self.replica, hello, now)).map_err(|e| {
            self.hub.refuse_session(self.cluster.as_str(), "member");
            match &e {
                OpenError::NoMember(_) | OpenError::Replica { .. } => Status::permission_denied(e.to_string()),
            }
        })?;
        self.hub.metrics.sessions.inc();
        let open = Open { hub: Arc::clone(&self.hub), id };
        self.hub.wakes.lock().unwrap_or_else(PoisonError::into_inner).insert(id, Arc::clone(wake));
        self.hub.inputs.revisions.bump();
        let held = self.hub.with(|s| s.catalog().history(&self.cluster).map(meshfed_api::stream::History::version));
        let held = held.filter(|v| *v != meshfed_model::version::Version::default());
        tracing::debug!(cluster = %self.cluster, ?held, %offer, "the agent's offer stands");
        let welcome = wire::Welcome {
            protocol: PROTOCOL,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            federator: self.hub.inputs.federator.to_string(),
            clock: now.to_string(),
            held_offer: held.map(Into::into),
            federators: self.hub.inputs.federators.clone(),
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
                .map_err(|_elapsed| Status::deadline_exceeded("the agent was silent for 25 s"))??;
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
            self.hub.change(|s| s.heard(id, clock::timestamp()));
            self.take(id, said).await?;
        }
    }

    async fn take(&self, id: SessionId, said: Heard) -> Result<(), Status> {
        match said {
            Heard::Offer(part) => self.offer(id, part).await?,
            Heard::Interest(namespaces) => self.hub.change(|s| s.interest(id, namespaces)),
            Heard::Status(report) => {
                if self.hub.change(|s| s.report(id, *report)) {
                    self.hub.inputs.revisions.bump();
                }
            }
            Heard::Ack(ack) => {
                for refusal in &ack.refused {
                    let (cluster, origin) = (&self.cluster, &ack.origin);
                    tracing::warn!(%cluster, %origin, code = refusal.code, reason = refusal.message, "an importer refused");
                }
                self.hub.change(|s| s.acked(id, &ack));
                self.hub.inputs.revisions.bump();
            }
            Heard::Bundle(trust_domain, serial) => {
                self.hub.change(|s| s.bundle_acked(id, trust_domain, serial));
                self.hub.inputs.revisions.bump();
            }
            Heard::Endpoints(answer) => {
                let key = (id, answer.id);
                let asker = self.hub.questions.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
                if let Some(asker) = asker {
                    // An asker that has gone away wants no answer.
                    let _gone = asker.send(answer);
                }
            }
            Heard::Heartbeat => {}
            Heard::Unexpected(what) => {
                self.hub.refuse_session(self.cluster.as_str(), "message");
                return Err(Status::invalid_argument(format!("{what} was not expected here")));
            }
        }
        Ok(())
    }

    async fn offer(&self, id: SessionId, part: Delta) -> Result<(), Status> {
        let taken = self.hub.change(|s| s.offer(id, part)).map_err(|e| {
            self.hub.refuse_session(self.cluster.as_str(), "offer");
            Status::aborted(format!("the offer was refused: {e}"))
        })?;
        if !taken.reached {
            return Ok(());
        }
        self.hub.inputs.revisions.bump();
        for refusal in &taken.refused {
            let label = RefusedLabel { cluster: self.cluster.to_string(), code: refusal.code.clone() };
            self.hub.metrics.offer_refused.get_or_create(&label).inc();
            tracing::warn!(cluster = %self.cluster, key = ?refusal.key, code = refusal.code, reason = refusal.message, "refused");
        }
        let mut dropped = taken.removed.clone();
        if taken.complete {
            let label = ClusterLabel { cluster: self.cluster.to_string() };
            self.hub.metrics.complete_offers.get_or_create(&label).inc();
            dropped = self.hub.with(|s| s.catalog().idle_claims(&self.cluster));
        }
        let mut claims = std::collections::BTreeMap::new();
        if !taken.added.is_empty() || !dropped.is_empty() {
            let claimed = self.hub.inputs.claims.change(&self.cluster, taken.added.clone(), dropped.clone()).await;
            claims = claimed.map_err(|e| Status::unavailable(e.to_string()))?;
        }
        self.hub.change(|s| s.offered(id, &taken, claims, &dropped));
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
    async fn run(self) -> Result<(), Status> {
        let label = BytesLabel { cluster: self.cluster.to_string(), direction: "out" };
        let sent = self.hub.metrics.bytes.get_or_create(&label).clone();
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        heartbeat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        heartbeat.reset();
        loop {
            // A place first, the message then: what waits for a place is computed when there is one.
            let place = tokio::time::timeout(WRITE_STALL_MAX, self.sender.reserve())
                .await
                .map_err(|_elapsed| Status::deadline_exceeded("the agent took nothing for 30 s"))?
                .map_err(|_closed| Status::cancelled("the agent went away"))?;
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
