//! Edge. The gRPC half: who asks, how many may, and the latest word to each stream.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::Stream as FutureStream;
use meshfed_api::proto::spiffe as pb;
use meshfed_api::proto::spiffe::spiffe_workload_api_server as server;
use meshfed_runtime::drain::Watch;
use meshfed_runtime::grpc::{MESSAGE_MAX, PeerInfo};
use meshfed_runtime::metrics::Metrics;
use meshfed_runtime::tasks;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::holders::{Answer, Word};
use crate::core::run::Command;

/// Streams at the same time. A process has one or two.
pub const STREAMS_MAX: usize = 4096;
/// Streams of one user at the same time, so that none takes the others' place.
pub const STREAMS_PER_UID_MAX: usize = 256;
/// The largest request, in bytes: all are empty but those about tokens.
const REQUEST_MAX: usize = 64 * 1024;
/// A client that reads nothing for this long is closed (SY5).
const STALL_DEADLINE: Duration = Duration::from_secs(30);
/// What every request must carry, so that no server that can be made to fetch URLs can be made to ask us.
const HEADER: (&str, &str) = ("workload.spiffe.io", "true");

/// Why a request was not answered.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RefusedLabel {
    /// `no_header`, `no_identity`, `limit`, `limit_uid`, `not_ready`, `stalled` or `unimplemented`.
    pub reason: &'static str,
}

/// The label of answers.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct TypeLabel {
    /// `svids` or `bundles`.
    pub r#type: &'static str,
}

/// What the server counts.
#[derive(Debug, Clone)]
pub struct WorkloadMetrics {
    streams: Gauge,
    answers: Family<TypeLabel, Counter>,
    cut: Counter,
    refused: Family<RefusedLabel, Counter>,
}

impl WorkloadMetrics {
    /// Registers the Workload API's metrics.
    #[must_use]
    pub fn register(metrics: &Metrics) -> Self {
        Self {
            streams: metrics.gauge("meshfed_workload_streams", "Workload API streams that stand"),
            answers: metrics.counters("meshfed_workload_answers", "Answers sent over the Workload API, by type"),
            cut: metrics.counter(
                "meshfed_workload_answers_cut",
                "Answers over the Workload API that leave identities out, because the user has too many",
            ),
            refused: metrics.counters(
                "meshfed_workload_refused",
                "Requests and streams of the Workload API that were refused or ended by the agent, by reason",
            ),
        }
    }
    fn refuse(&self, reason: &'static str, status: Status) -> Status {
        self.refused.get_or_create(&RefusedLabel { reason }).inc();
        status
    }
}

/// The streams that stand, by user.
#[derive(Debug, Default)]
struct Slots(Mutex<BTreeMap<u32, usize>>);

/// The place of one stream.
struct Slot {
    slots: Arc<Slots>,
    uid: u32,
    streams: Gauge,
}

impl Slots {
    /// A place, or which limit is reached.
    fn take(self: &Arc<Self>, uid: u32, streams: &Gauge) -> Result<Slot, &'static str> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.values().sum::<usize>() >= STREAMS_MAX {
            return Err("limit");
        }
        let own = taken.entry(uid).or_default();
        if *own >= STREAMS_PER_UID_MAX {
            return Err("limit_uid");
        }
        *own += 1;
        streams.inc();
        Ok(Slot { slots: Arc::clone(self), uid, streams: streams.clone() })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.streams.dec();
        let mut taken = self.slots.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = taken.get_mut(&self.uid) {
            *own -= 1;
            if *own == 0 {
                taken.remove(&self.uid);
            }
        }
    }
}

/// What a stream carries.
trait Message: Send + 'static {
    const TYPE: &'static str;
    /// Whether two answers are the same to it.
    fn same(one: &Answer, other: &Answer) -> bool;
    fn of(answer: &Answer) -> Self;
}

impl Message for pb::X509svidResponse {
    const TYPE: &'static str = "svids";
    fn same(one: &Answer, other: &Answer) -> bool {
        one == other
    }
    fn of(answer: &Answer) -> Self {
        let svid = |svid: &Arc<super::Svid>| pb::X509svid {
            spiffe_id: svid.id.to_string(),
            x509_svid: svid.certificates.clone(),
            x509_svid_key: svid.key.to_vec(),
            bundle: answer.bundles.own.clone(),
            hint: svid.hint.to_string(),
        };
        let federated = answer.bundles.federated.iter();
        Self {
            svids: answer.svids.iter().map(svid).collect(),
            crl: Vec::new(),
            federated_bundles: federated.map(|(domain, der)| (domain.uri(), der.clone())).collect(),
        }
    }
}

impl Message for pb::X509BundlesResponse {
    const TYPE: &'static str = "bundles";
    fn same(one: &Answer, other: &Answer) -> bool {
        one.bundles == other.bundles
    }
    fn of(answer: &Answer) -> Self {
        let bundles = &answer.bundles;
        let all = std::iter::once((&bundles.trust_domain, &bundles.own)).chain(&bundles.federated);
        Self { crl: Vec::new(), bundles: all.map(|(domain, der)| (domain.uri(), der.clone())).collect() }
    }
}

/// The Workload API.
#[derive(Clone)]
pub struct WorkloadServer {
    core: mpsc::Sender<Command>,
    next: Arc<AtomicU64>,
    slots: Arc<Slots>,
    drain: Watch,
    metrics: WorkloadMetrics,
}

type Out<T> = Pin<Box<dyn FutureStream<Item = Result<T, Status>> + Send>>;

impl WorkloadServer {
    /// A server in front of the core.
    #[must_use]
    pub fn new(core: mpsc::Sender<Command>, drain: Watch, metrics: WorkloadMetrics) -> Self {
        Self { core, next: Arc::new(AtomicU64::new(1)), slots: Arc::default(), drain, metrics }
    }

    /// The routes of the socket: this API alone, as it may not be mixed with others under its name.
    #[must_use]
    pub fn routes(&self) -> tonic::service::Routes {
        let api = server::SpiffeWorkloadApiServer::new(self.clone())
            .max_decoding_message_size(REQUEST_MAX)
            .max_encoding_message_size(MESSAGE_MAX);
        tonic::service::Routes::new(api)
    }

    /// The security header, which comes before everything else.
    fn check<T>(&self, request: &Request<T>) -> Result<(), Status> {
        let (name, value) = HEADER;
        if request.metadata().get(name).is_some_and(|v| v == value) {
            return Ok(());
        }
        let text =
            format!("the security header '{name}: {value}' is missing; a client of the SPIFFE Workload API sends it");
        Err(self.metrics.refuse("no_header", Status::invalid_argument(text)))
    }

    fn unimplemented<T>(&self, request: &Request<T>) -> Status {
        if let Err(status) = self.check(request) {
            return status;
        }
        let text = "JWT-SVIDs are not in this version of meshfed; use X.509-SVIDs (FetchX509SVID, FetchX509Bundles)";
        self.metrics.refuse("unimplemented", Status::unimplemented(text))
    }

    fn serve<T, M: Message>(&self, request: &Request<T>) -> Result<Response<Out<M>>, Status> {
        self.check(request)?;
        let Some(cred) = PeerInfo::of(request).uds_cred else {
            let text = "the kernel does not say who asks; the Workload API is served on a Unix socket only";
            return Err(self.metrics.refuse("no_identity", Status::permission_denied(text)));
        };
        let slot = self.slots.take(cred.uid, &self.metrics.streams).map_err(|reason| {
            let text = format!(
                "too many streams (at most {STREAMS_PER_UID_MAX} of one user, {STREAMS_MAX} of all); \
                 close some, or ask again later"
            );
            self.metrics.refuse(reason, Status::unavailable(text))
        })?;
        let (out, outgoing) = mpsc::channel(1);
        let this = self.clone();
        // The task owns the stream and ends with it; the client sees its end.
        tasks::spawn("workload-stream", async move {
            let slot = slot;
            let id = this.next.fetch_add(1, Ordering::Relaxed);
            let ended = this.pass::<M>(id, slot.uid, &out).await;
            // An error: the core has ended, and the process with it.
            let _core_gone = this.core.send(Command::Released { id }).await;
            if let Err(status) = ended {
                let _client_gone = out.try_send(Err(status));
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing))))
    }

    async fn pass<M: Message>(&self, id: u64, uid: u32, out: &mpsc::Sender<Result<M, Status>>) -> Result<(), Status> {
        let ending = || Status::unavailable("the agent is ending");
        let (words, mut heard) = watch::channel(None);
        self.core.send(Command::Hold { id, uid, words }).await.map_err(|_closed| ending())?;
        let mut last: Option<Arc<Answer>> = None;
        loop {
            tokio::select! {
                // The core ends with the drain, too; the drain is what the client is told.
                biased;
                () = self.drain.signaled() => return Err(Status::unavailable("the agent is draining")),
                () = out.closed() => return Ok(()),
                changed = heard.changed() => changed.map_err(|_closed| ending())?,
            }
            let answer = match heard.borrow_and_update().clone() {
                None => continue,
                Some(Word::Answer(answer)) => answer,
                Some(Word::Denied(text)) => {
                    tracing::debug!(uid, "the Workload API has no identity for this user");
                    return Err(self.metrics.refuse("no_identity", Status::permission_denied(text)));
                }
                Some(Word::Unavailable(text)) => {
                    return Err(self.metrics.refuse("not_ready", Status::unavailable(text)));
                }
            };
            if last.as_ref().is_some_and(|last| M::same(last, &answer)) {
                continue;
            }
            match tokio::time::timeout(STALL_DEADLINE, out.send(Ok(M::of(&answer)))).await {
                Ok(Ok(())) => {}
                Ok(Err(_client_gone)) => return Ok(()),
                Err(_elapsed) => {
                    return Err(self.metrics.refuse("stalled", Status::unavailable("the client reads nothing")));
                }
            }
            self.metrics.answers.get_or_create(&TypeLabel { r#type: M::TYPE }).inc();
            if answer.cut {
                self.metrics.cut.inc();
            }
            last = Some(answer);
        }
    }
}

#[tonic::async_trait]
impl server::SpiffeWorkloadApi for WorkloadServer {
    type FetchX509SVIDStream = Out<pb::X509svidResponse>;
    type FetchX509BundlesStream = Out<pb::X509BundlesResponse>;
    type FetchJWTBundlesStream = Out<pb::JwtBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        request: Request<pb::X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        self.serve(&request)
    }
    async fn fetch_x509_bundles(
        &self,
        request: Request<pb::X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        self.serve(&request)
    }
    async fn fetch_jwtsvid(
        &self,
        request: Request<pb::JwtsvidRequest>,
    ) -> Result<Response<pb::JwtsvidResponse>, Status> {
        Err(self.unimplemented(&request))
    }
    async fn fetch_jwt_bundles(
        &self,
        request: Request<pb::JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        Err(self.unimplemented(&request))
    }
    async fn validate_jwtsvid(
        &self,
        request: Request<pb::ValidateJwtsvidRequest>,
    ) -> Result<Response<pb::ValidateJwtsvidResponse>, Status> {
        Err(self.unimplemented(&request))
    }
}
