//! Edge. gRPC streams as commands to the core actor, and its responses as messages.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use envoy_types::pb::envoy::service::status::v3 as csds;
use futures::Stream as FutureStream;
use meshfed_api::proto::envoy::service::discovery::v3 as pb;
use meshfed_api::proto::envoy::service::discovery::v3::aggregated_discovery_service_server as ads_server;
use meshfed_api::proto::envoy::service::secret::v3::secret_discovery_service_server as sds_server;
use meshfed_api::proto::workload as report_pb;
use meshfed_api::proto::workload::workload_server as report_server;
use meshfed_model::identity::{Principal, SpiffeId, TrustDomain};
use meshfed_runtime::drain::Watch;
use meshfed_runtime::grpc::{MESSAGE_MAX, PeerInfo};
use meshfed_runtime::metrics::Metrics;
use meshfed_runtime::tasks;
use meshfed_runtime::tls::{self, ClientAuth, IdentityStore, TrustStore};
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::stream::Protocol;
use super::wire;
use crate::core::command::Outbound;
use crate::core::run::{Command, RESPONSES_MAX};
use crate::core::store::StreamId;
use crate::identity::Peer;
use crate::translate::{Claim, Kind, Node};

/// A client that reads nothing for this long is closed (SY5).
const STALL_DEADLINE: Duration = Duration::from_secs(30);
/// Time for the first request (SY4).
const FIRST_REQUEST_DEADLINE: Duration = Duration::from_secs(10);
/// Time for a single fetch.
const FETCH_DEADLINE: Duration = Duration::from_secs(5);

/// What the server counts.
#[derive(Debug, Clone)]
pub struct XdsMetrics {
    /// Streams that stand.
    pub streams: Gauge,
}

impl XdsMetrics {
    /// Registers `meshfed_xds_streams`.
    #[must_use]
    pub fn register(metrics: &Metrics) -> Self {
        Self { streams: metrics.gauge("meshfed_xds_streams", "xDS streams that stand") }
    }
}

/// TLS of the TCP port: an SVID of a workload of the own trust domain; every other certificate is refused in the
/// handshake, and so is none where `client_auth` requires one. Where it does not, the services are to be behind
/// [`crate::attestation::closed_to_strangers`].
///
/// # Errors
/// When the provider does not support TLS 1.3.
pub fn tcp_tls(
    identity: Arc<IdentityStore>,
    trust: Arc<TrustStore>,
    trust_domain: TrustDomain,
    client_auth: ClientAuth,
) -> Result<Arc<rustls::ServerConfig>, rustls::Error> {
    let own = move |id: &SpiffeId| {
        id.trust_domain == trust_domain
            && match id.principal {
                Principal::Workload { .. } => true,
                Principal::Agent { .. } | Principal::Federator { .. } => false,
            }
    };
    tls::server_config(identity, trust, Arc::new(own), client_auth, &[b"h2"])
}

/// Who speaks.
struct Caller {
    peer: Peer,
    /// Its process, where the kernel tells.
    process: Option<i32>,
}

/// Counts a stream while it stands.
struct Counted(Gauge);
impl Counted {
    fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}
impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// All services of the xDS ports.
#[derive(Clone)]
pub struct XdsServer {
    core: mpsc::Sender<Command>,
    next: Arc<AtomicU64>,
    drain: Watch,
    trust_domain: TrustDomain,
    metrics: XdsMetrics,
}

type Out<T> = Pin<Box<dyn FutureStream<Item = Result<T, Status>> + Send>>;

/// A protocol's messages.
trait Messages: Send + 'static {
    type In: Send + 'static;
    type Out: Send + 'static;
    const PROTOCOL: Protocol;
    fn node(message: &Self::In) -> Option<&pb::Node>;
    fn type_url(message: &Self::In) -> &str;
    fn read(message: Self::In) -> super::stream::Request;
    fn write(response: super::stream::Response) -> Self::Out;
}

struct Sotw;
impl Messages for Sotw {
    type In = pb::DiscoveryRequest;
    type Out = pb::DiscoveryResponse;
    const PROTOCOL: Protocol = Protocol::Sotw;
    fn node(message: &Self::In) -> Option<&pb::Node> {
        message.node.as_ref()
    }
    fn type_url(message: &Self::In) -> &str {
        &message.type_url
    }
    fn read(message: Self::In) -> super::stream::Request {
        wire::sotw_request(message)
    }
    fn write(response: super::stream::Response) -> Self::Out {
        wire::sotw_response(response)
    }
}

struct Delta;
impl Messages for Delta {
    type In = pb::DeltaDiscoveryRequest;
    type Out = pb::DeltaDiscoveryResponse;
    const PROTOCOL: Protocol = Protocol::Delta;
    fn node(message: &Self::In) -> Option<&pb::Node> {
        message.node.as_ref()
    }
    fn type_url(message: &Self::In) -> &str {
        &message.type_url
    }
    fn read(message: Self::In) -> super::stream::Request {
        wire::delta_request(message)
    }
    fn write(response: super::stream::Response) -> Self::Out {
        wire::delta_response(response)
    }
}

/// Where requests come from: a gRPC stream, or one request.
enum Incoming<T> {
    Stream(Box<Streaming<T>>),
    Once(Box<Option<T>>),
}

impl<T> Incoming<T> {
    async fn message(&mut self) -> Result<Option<T>, Status> {
        match self {
            Self::Stream(s) => s.message().await,
            Self::Once(m) => match m.take() {
                Some(m) => Ok(Some(m)),
                None => std::future::pending().await,
            },
        }
    }
}

impl XdsServer {
    /// A server in front of the core.
    #[must_use]
    pub fn new(core: mpsc::Sender<Command>, trust_domain: TrustDomain, drain: Watch, metrics: XdsMetrics) -> Self {
        Self { core, next: Arc::new(AtomicU64::new(1)), drain, trust_domain, metrics }
    }

    /// The routes of an xDS port.
    #[must_use]
    pub fn routes(
        &self,
        health: impl FnOnce(tonic::service::Routes) -> tonic::service::Routes,
    ) -> tonic::service::Routes {
        let routes = tonic::service::Routes::new(
            ads_server::AggregatedDiscoveryServiceServer::new(self.clone()).max_decoding_message_size(MESSAGE_MAX),
        )
        .add_service(sds_server::SecretDiscoveryServiceServer::new(self.clone()).max_decoding_message_size(MESSAGE_MAX))
        .add_service(report_server::WorkloadServer::new(self.clone()))
        .add_service(csds::client_status_discovery_service_server::ClientStatusDiscoveryServiceServer::new(
            self.clone(),
        ));
        health(routes)
    }

    /// Who speaks, by the kernel or by a verified certificate of our own trust domain; nobody else may.
    fn caller<T>(&self, request: &Request<T>) -> Result<Caller, Status> {
        let info = PeerInfo::of(request);
        if let Some(cred) = info.uds_cred {
            // 0: a process that this namespace does not see.
            return Ok(Caller { peer: Peer::Unix { uid: cred.uid }, process: cred.pid.filter(|p| *p > 0) });
        }
        let Some(id) = info.id else {
            return Err(Status::unauthenticated("no certificate was presented; an SVID of this cluster is needed"));
        };
        match &id.principal {
            Principal::Workload { .. } if id.trust_domain == self.trust_domain => {
                Ok(Caller { peer: Peer::Svid(id), process: None })
            }
            Principal::Workload { .. } | Principal::Agent { .. } | Principal::Federator { .. } => {
                Err(Status::permission_denied(format!("{id} is no workload of {}", self.trust_domain)))
            }
        }
    }

    fn id(&self) -> StreamId {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    fn serve<M: Messages>(&self, caller: Caller, incoming: Incoming<M::In>, secrets_only: bool) -> Out<M::Out> {
        let (out, outgoing) = mpsc::channel(RESPONSES_MAX);
        let this = self.clone();
        // The task owns the stream and ends with it; the client sees its end.
        tasks::spawn("xds-stream", async move {
            let _counted = Counted::new(&this.metrics.streams);
            let id = this.id();
            let ended = this.pass::<M>(id, caller, incoming, secrets_only, &out).await;
            // An error: the core has ended, and the process with it.
            let _core_gone = this.core.send(Command::Closed { id }).await;
            if let Err(status) = ended {
                let _client_gone = out.try_send(Err(status));
            }
        });
        Box::pin(ReceiverStream::new(outgoing))
    }

    async fn pass<M: Messages>(
        &self,
        id: StreamId,
        caller: Caller,
        mut incoming: Incoming<M::In>,
        secrets_only: bool,
        out: &mpsc::Sender<Result<M::Out, Status>>,
    ) -> Result<(), Status> {
        let gone = |_closed| Status::unavailable("the agent is ending");
        let (responses, mut answers) = mpsc::channel(RESPONSES_MAX);
        let mut first = tokio::time::timeout(FIRST_REQUEST_DEADLINE, incoming.message())
            .await
            .map_err(|_elapsed| Status::deadline_exceeded("no request within 10 s"))??;
        let node = wire::node(first.as_ref().and_then(M::node)).map_err(|e| Status::invalid_argument(e.to_string()))?;
        let Caller { peer, process } = caller;
        let node = Node { process, ..node };
        let open = Command::Open { id, peer, node: Box::new(node), protocol: M::PROTOCOL, secrets_only, responses };
        self.core.send(open).await.map_err(gone)?;
        loop {
            let message = match first.take() {
                Some(message) => Some(message),
                None => tokio::select! {
                    answer = answers.recv() => {
                        match answer {
                            Some(Outbound::Response(response)) => {
                                let sent = tokio::time::timeout(STALL_DEADLINE, out.send(Ok(M::write(response)))).await;
                                if !matches!(sent, Ok(Ok(()))) {
                                    return Err(Status::deadline_exceeded("the client reads nothing"));
                                }
                            }
                            Some(Outbound::End(end)) => return Err(wire::status(end)),
                            None => return Err(Status::unavailable("the agent is ending")),
                        }
                        continue;
                    }
                    message = incoming.message() => message?,
                    () = self.drain.signaled() => return Err(Status::unavailable("the agent is draining")),
                },
            };
            let Some(message) = message else { return Ok(()) };
            // Unknown kinds are ignored (XD6).
            let Some(kind) = Kind::of_type_url(M::type_url(&message)) else { continue };
            let request = Command::Request { id, kind, request: M::read(message) };
            self.core.send(request).await.map_err(gone)?;
        }
    }
}

#[tonic::async_trait]
impl ads_server::AggregatedDiscoveryService for XdsServer {
    type StreamAggregatedResourcesStream = Out<pb::DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Out<pb::DeltaDiscoveryResponse>;
    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<pb::DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        let caller = self.caller(&request)?;
        Ok(Response::new(self.serve::<Sotw>(caller, Incoming::Stream(Box::new(request.into_inner())), false)))
    }
    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<pb::DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let caller = self.caller(&request)?;
        Ok(Response::new(self.serve::<Delta>(caller, Incoming::Stream(Box::new(request.into_inner())), false)))
    }
}

/// On TCP the key is made in the proxy (XD2): a secret never crosses it.
fn local_only(peer: &Peer) -> Result<(), Status> {
    match peer {
        Peer::Unix { .. } => Ok(()),
        Peer::Svid(_) => Err(Status::permission_denied("secrets are served on the Unix socket only")),
    }
}

#[tonic::async_trait]
impl sds_server::SecretDiscoveryService for XdsServer {
    type DeltaSecretsStream = Out<pb::DeltaDiscoveryResponse>;
    type StreamSecretsStream = Out<pb::DiscoveryResponse>;
    async fn delta_secrets(
        &self,
        request: Request<Streaming<pb::DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaSecretsStream>, Status> {
        let caller = self.caller(&request)?;
        local_only(&caller.peer)?;
        Ok(Response::new(self.serve::<Delta>(caller, Incoming::Stream(Box::new(request.into_inner())), true)))
    }
    async fn stream_secrets(
        &self,
        request: Request<Streaming<pb::DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamSecretsStream>, Status> {
        let caller = self.caller(&request)?;
        local_only(&caller.peer)?;
        Ok(Response::new(self.serve::<Sotw>(caller, Incoming::Stream(Box::new(request.into_inner())), true)))
    }
    async fn fetch_secrets(
        &self,
        request: Request<pb::DiscoveryRequest>,
    ) -> Result<Response<pb::DiscoveryResponse>, Status> {
        use futures::StreamExt as _;
        let caller = self.caller(&request)?;
        local_only(&caller.peer)?;
        let mut message = request.into_inner();
        if message.type_url.is_empty() {
            Kind::Secret.type_url().clone_into(&mut message.type_url);
        }
        let mut answers = self.serve::<Sotw>(caller, Incoming::Once(Box::new(Some(message))), true);
        match tokio::time::timeout(FETCH_DEADLINE, answers.next()).await {
            Ok(Some(answer)) => answer.map(Response::new),
            Ok(None) => Err(Status::unavailable("the agent is ending")),
            Err(_elapsed) => Err(Status::unavailable("no object names the workload, or there is no such secret")),
        }
    }
}

#[tonic::async_trait]
impl csds::client_status_discovery_service_server::ClientStatusDiscoveryService for XdsServer {
    type StreamClientStatusStream = Out<csds::ClientStatusResponse>;
    async fn stream_client_status(
        &self,
        _request: Request<Streaming<csds::ClientStatusRequest>>,
    ) -> Result<Response<Self::StreamClientStatusStream>, Status> {
        Err(Status::unimplemented("CSDS is not in this version"))
    }
    async fn fetch_client_status(
        &self,
        _request: Request<csds::ClientStatusRequest>,
    ) -> Result<Response<csds::ClientStatusResponse>, Status> {
        Err(Status::unimplemented("CSDS is not in this version"))
    }
}

#[tonic::async_trait]
impl report_server::Workload for XdsServer {
    type ReportStream = Out<report_pb::WorkloadReportAck>;
    async fn report(
        &self,
        request: Request<Streaming<report_pb::WorkloadReport>>,
    ) -> Result<Response<Self::ReportStream>, Status> {
        let caller = self.caller(&request)?;
        let incoming = request.into_inner();
        let (out, outgoing) = mpsc::channel(RESPONSES_MAX);
        let this = self.clone();
        // As for ADS streams: ends with the stream.
        tasks::spawn("workload-report", async move {
            let id = this.id();
            let ended = this.pass_reports(id, caller, incoming, &out).await;
            let _core_gone = this.core.send(Command::ReportClosed { id }).await;
            if let Err(status) = ended {
                let _client_gone = out.try_send(Err(status));
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing))))
    }
}

impl XdsServer {
    async fn pass_reports(
        &self,
        id: StreamId,
        caller: Caller,
        mut incoming: Streaming<report_pb::WorkloadReport>,
        out: &mpsc::Sender<Result<report_pb::WorkloadReportAck, Status>>,
    ) -> Result<(), Status> {
        let (responses, mut answers) = mpsc::channel(RESPONSES_MAX);
        loop {
            let message = tokio::select! {
                message = incoming.message() => message?,
                answer = answers.recv() => match answer {
                    Some(Outbound::End(end)) => return Err(wire::status(end)),
                    Some(Outbound::Response(_)) => continue,
                    None => return Err(Status::unavailable("the agent is ending")),
                },
                () = self.drain.signaled() => return Err(Status::unavailable("the agent is draining")),
            };
            let Some(report) = message else { return Ok(()) };
            let claim = report.workload.parse().map_err(|e| Status::invalid_argument(format!("workload: {e}")))?;
            let node = Node::of_claim(&report.node_id, Claim::Workload(claim));
            let node = Node { process: caller.process, ..node };
            let command = Command::Report {
                id,
                peer: caller.peer.clone(),
                node: Box::new(node),
                app_ready: report.app_ready,
                reason: report.reason.chars().take(512).collect(),
                responses: responses.clone(),
            };
            self.core.send(command).await.map_err(|_closed| Status::unavailable("the agent is ending"))?;
            // An ack that the client does not read is dropped: the next one says the same.
            let _full = out.try_send(Ok(report_pb::WorkloadReportAck {}));
        }
    }
}
