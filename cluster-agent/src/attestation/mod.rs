//! Edge. Identities for proxies that reach the agent over TCP (`contracts-kubernetes.md` 5.4): the proxy makes its key,
//! presents the projected service-account token of its pod, and gets the certificate of what the API server says the pod
//! is. 15012 answers a peer without a certificate here and nowhere else.

mod api_server;
mod floods;
mod gate;
mod own;
mod owner;
mod review;
#[cfg(test)]
mod tests;

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use meshfed_api::proto::workload::attestation_server::{Attestation, AttestationServer};
use meshfed_api::proto::workload::{AttestAnswer, AttestRequest};
use meshfed_ca::csr;
use meshfed_model::identity::{SpiffeId, TrustDomain};
use meshfed_model::metadata::WorkloadMetadata;
use meshfed_runtime::grpc::PeerInfo;
use meshfed_runtime::metrics::Metrics;
use meshfed_runtime::{clock, telemetry};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tonic::{Request, Response, Status};

use crate::core::run::Command;
pub use api_server::{ApiServer, Reviewer, Unavailable};
use floods::{Floods, Reviewed};
pub use gate::{closed_to_strangers, exchange_alone};
pub use own::{AGENT_ACCOUNT, keep_identity};
pub use review::{Bearer, Refused, TOKEN_MAX};

/// Most bytes of a request: a token and a certificate request, 16 KiB each.
const REQUEST_MAX: usize = 40 * 1024;
/// Questions to the API server at the same time.
const ASKING_MAX: usize = 16;
/// How long a request waits for its turn to ask.
const TURN_DEADLINE: Duration = Duration::from_secs(3);

/// The label of attestations.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ResultLabel {
    /// `issued`, `kept` (renewed without the API server), `refused`, `limited`, `unavailable` or `invalid`.
    pub result: &'static str,
}

/// What attestation counts.
#[derive(Debug, Clone, Default)]
pub struct AttestationMetrics(Family<ResultLabel, Counter>);

impl AttestationMetrics {
    /// Registers `meshfed_attestations`.
    #[must_use]
    pub fn register(metrics: &Metrics) -> Self {
        Self(metrics.counters("meshfed_attestations", "Requests of proxies for an identity by a token, by result"))
    }
    fn count(&self, result: &'static str) {
        self.0.get_or_create(&ResultLabel { result }).inc();
    }
}

/// The service.
#[derive(Debug)]
pub struct Attester<R> {
    api: R,
    core: mpsc::Sender<Command>,
    trust_domain: TrustDomain,
    floods: Mutex<Floods>,
    turns: Semaphore,
    metrics: AttestationMetrics,
}

/// Who is certified.
struct Certified {
    id: SpiffeId,
    /// What metrics call the workload, where that is known.
    metadata: Option<WorkloadMetadata>,
    /// Only the certificate that it has stands for it, and an object's word: the API server could not be asked.
    kept: bool,
}

/// Why there is no certificate.
enum Without {
    Refused(Refused),
    Limited(&'static str),
    Unavailable(String),
}

impl<R: Reviewer> Attester<R> {
    /// A service that asks this API server, and has the core issue.
    #[must_use]
    pub fn new(api: R, core: mpsc::Sender<Command>, trust_domain: TrustDomain, metrics: AttestationMetrics) -> Self {
        let (floods, turns) = (Mutex::default(), Semaphore::new(ASKING_MAX));
        Self { api, core, trust_domain, floods, turns, metrics }
    }

    /// Its routes, for the TCP port.
    #[must_use]
    pub fn service(self) -> AttestationServer<Self> {
        AttestationServer::new(self).max_decoding_message_size(REQUEST_MAX)
    }

    /// Decides nothing, and is held for no await.
    fn floods(&self) -> std::sync::MutexGuard<'_, Floods> {
        self.floods.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who the bearer of the token is, by the API server, and what metrics call its pod.
    async fn bearer(&self, token: &str) -> Result<(Bearer, WorkloadMetadata), Without> {
        if !review::is_token(token) {
            return Err(Without::Refused(Refused::Shape));
        }
        let away = |e: Unavailable| Without::Unavailable(telemetry::chain(&e));
        let turn = tokio::time::timeout(TURN_DEADLINE, self.turns.acquire()).await;
        let Ok(Ok(_turn)) = turn else { return Err(Without::Limited("too many proxies ask at the same time")) };
        let mut hash = [0u8; 32];
        hash.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        let known = self.floods().recent(&hash, clock::instant());
        tracing::debug!(remembered = known.is_some(), "attestation: a token is reviewed");
        let said: Reviewed = match known {
            Some(said) => said,
            None => {
                let said = review::bearer(&self.api.review(token).await.map_err(away)?);
                self.floods().remember(hash, said.clone(), clock::instant());
                said
            }
        };
        let bearer = said.map_err(Without::Refused)?;
        let pod = self.api.pod(&bearer).await.map_err(away)?;
        let metadata = owner::metadata(review::check_pod(&bearer, pod.as_ref()).map_err(Without::Refused)?);
        if !self.floods().may_be_issued(&bearer.uid, clock::instant()) {
            return Err(Without::Limited("this pod asks for certificates too often"));
        }
        Ok((bearer, metadata))
    }

    /// The identity to issue.
    async fn identity(&self, peer: PeerInfo, token: &str) -> Result<Certified, Without> {
        match self.bearer(token).await {
            Ok((bearer, metadata)) => {
                let id = bearer.identity(&self.trust_domain);
                let id = id.ok_or_else(|| Without::Refused(Refused::User(bearer.service_account.to_string())))?;
                tracing::info!(pod = bearer.pod_name(), uid = &*bearer.uid, %id, "attested by TokenReview");
                Ok(Certified { id, metadata: Some(metadata), kept: false })
            }
            // Who shows a certificate that is valid still was attested when it was issued.
            Err(Without::Unavailable(why)) => match peer.id {
                Some(id) => {
                    tracing::warn!(%id, reason = why, "renewed by its valid certificate: the API server cannot be asked");
                    Ok(Certified { id, metadata: peer.metadata, kept: true })
                }
                None => Err(Without::Unavailable(why)),
            },
            Err(other) => Err(other),
        }
    }

    async fn certify(&self, certified: Certified, key: &csr::PublicKey) -> Result<Vec<u8>, Status> {
        let ending = |_gone| Status::unavailable("the agent is ending");
        let (answer, certificate) = oneshot::channel();
        let Certified { id, metadata, kept } = certified;
        let (id, metadata, key) = (Box::new(id), metadata.map(Box::new), key.spki_der().to_vec());
        let command = Command::Certify { id, metadata, key, named: kept, answer };
        self.core.send(command).await.map_err(|_closed| Status::unavailable("the agent is ending"))?;
        certificate.await.map_err(ending)?.map_err(Status::unavailable)
    }

    fn status(&self, without: Without) -> Status {
        match without {
            Without::Refused(why) => {
                self.metrics.count("refused");
                tracing::info!(reason = %why, "no identity by token");
                Status::permission_denied(why.to_string())
            }
            Without::Limited(why) => {
                self.metrics.count("limited");
                Status::resource_exhausted(format!("{why}; wait, and ask again"))
            }
            Without::Unavailable(why) => {
                self.metrics.count("unavailable");
                tracing::warn!(reason = why, "a token cannot be reviewed");
                Status::unavailable(format!("{why}; new pods wait, running ones keep and renew what they have"))
            }
        }
    }
}

#[tonic::async_trait]
impl<R: Reviewer> Attestation for Attester<R> {
    async fn attest(&self, request: Request<AttestRequest>) -> Result<Response<AttestAnswer>, Status> {
        let peer = PeerInfo::of(&request);
        let Some(address) = peer.address else {
            return Err(Status::failed_precondition("tokens are taken on the TCP port only"));
        };
        if !self.floods().may_ask(peer.id.is_some(), address.ip(), clock::instant()) {
            return Err(self.status(Without::Limited("too many requests from this address")));
        }
        let AttestRequest { token, request } = request.into_inner();
        let key = csr::verify(&request).map_err(|e| {
            self.metrics.count("invalid");
            Status::invalid_argument(telemetry::chain(&e))
        })?;
        let certified = self.identity(peer, token.trim()).await.map_err(|without| self.status(without))?;
        let kept = certified.kept;
        tracing::debug!(%address, id = %certified.id, metadata = ?certified.metadata, kept, "attestation: a certificate is issued");
        let certificate = self.certify(certified, &key).await?;
        self.metrics.count(if kept { "kept" } else { "issued" });
        Ok(Response::new(AttestAnswer { certificate }))
    }
}
