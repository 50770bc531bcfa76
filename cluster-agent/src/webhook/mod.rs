//! Edge. The mutating webhook: HTTPS with a certificate of its own making, AdmissionReview v1, and what injection says.

mod certificate;
mod review;
mod rotate;
mod serve;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody as _, to_bytes};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use axum::{Extension, Router};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::Api;
use meshfed_runtime::drain::Watch;
use meshfed_runtime::metrics::Metrics;
use meshfed_runtime::tasks::TaskGroup;
use meshfed_runtime::telemetry;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use rustls::ServerConfig;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::inject::{self, InjectConfig, LABEL, NamespaceFacts, Outcome};
use crate::trust_map::{TrustMap, TrustMapError};
use review::{Answer, Question};
use rotate::{Names, Rotation, Shown};
use serve::{CONNECTIONS, Room};

/// Where API servers ask.
pub const PATH: &str = "/inject";
/// The chart's MutatingWebhookConfiguration.
pub const CONFIGURATION: &str = "meshfed-injector";
/// Largest body: the API server's own limit for an object is 3 MiB, and a review holds it once on CREATE.
const BODY_MAX: usize = 4 * 1024 * 1024;
/// Questions at the same time.
const QUESTIONS_MAX: usize = 64;
/// Time for a question to arrive, and for an answer: together less than the five seconds that the chart gives the webhook.
const DEADLINE: Duration = Duration::from_secs(4);
/// Life of the certificate.
pub const CERTIFICATE_TTL: Duration = Duration::from_secs(24 * 3600);
/// The label of Pod Security admission.
const ENFORCE: &str = "pod-security.kubernetes.io/enforce";

/// The label of injections.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ResultLabel {
    /// `injected`, `skipped`, `refused`, `failed` or `invalid`.
    pub result: &'static str,
}

/// What the webhook counts.
#[derive(Debug, Clone, Default)]
pub struct WebhookMetrics {
    injections: Family<ResultLabel, Counter>,
    rotations: Gauge,
}

impl WebhookMetrics {
    /// Registers `meshfed_injections` and `meshfed_webhook_certificates`.
    #[must_use]
    pub fn register(metrics: &Metrics) -> Self {
        Self {
            injections: metrics.counters("meshfed_injections", "Pods that API servers asked about, by result"),
            rotations: metrics
                .gauge("meshfed_webhook_certificates", "Certificates that the webhook has shown since the start"),
        }
    }
    fn count(&self, result: &'static str) {
        self.injections.get_or_create(&ResultLabel { result }).inc();
    }
}

/// How the webhook is run.
#[derive(Debug, Clone)]
pub struct WebhookConfig {
    /// What is injected.
    pub inject: Arc<InjectConfig>,
    /// The MutatingWebhookConfiguration to patch.
    pub configuration: String,
    /// Life of its certificates; they are made anew at half of it.
    pub certificate_ttl: Duration,
}

struct Webhook {
    config: Arc<InjectConfig>,
    client: kube::Client,
    trust: TrustMap,
    turns: Semaphore,
    deadline: Duration,
    metrics: WebhookMetrics,
}

/// Serves API servers until the drain.
pub fn start(
    tasks: &mut TaskGroup,
    listeners: Vec<TcpListener>,
    config: WebhookConfig,
    client: kube::Client,
    trust: TrustMap,
    metrics: &Metrics,
    drain: &Watch,
) {
    let metrics = WebhookMetrics::register(metrics);
    let namespace = &config.inject.release_namespace;
    let names = Names {
        dns: ["svc", "svc.cluster.local"].map(|end| format!("meshfed-agent.{namespace}.{end}")).to_vec(),
        addresses: addresses(&listeners),
        ttl: config.certificate_ttl,
        configuration: config.configuration,
    };
    let shown = Arc::new(Shown::default());
    let rotation =
        Rotation { client: client.clone(), names, shown: Arc::clone(&shown), rotations: metrics.rotations.clone() };
    tasks.spawn("webhook-certificate", rotation.run(drain.clone()));
    let (turns, deadline) = (Semaphore::new(QUESTIONS_MAX), DEADLINE);
    let webhook = Webhook { config: config.inject, client, trust, turns, deadline, metrics };
    let router = Router::new().route(PATH, post(answer)).with_state(Arc::new(webhook));
    match tls(shown) {
        Ok(tls) => tasks.spawn("webhook", serve::serve(listeners, tls, router, CONNECTIONS, drain.clone())),
        Err(error) => tasks.spawn("webhook", async move { Err::<(), _>(error) }),
    }
}

/// The addresses that are certified: those that the listeners have, where they have one.
fn addresses(listeners: &[TcpListener]) -> Vec<IpAddr> {
    let bound = listeners.iter().filter_map(|l| l.local_addr().ok()).map(|a| a.ip());
    bound.filter(|ip| !ip.is_unspecified()).collect()
}

fn tls(shown: Arc<Shown>) -> Result<Arc<ServerConfig>, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(meshfed_runtime::tls::provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(shown);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Why a question was not taken, for who asked.
type NotTaken = (StatusCode, &'static str);

/// Takes a question within the room that its connection has. The room is held until the answer.
async fn take(room: &Room, body: Body) -> Result<(Bytes, OwnedSemaphorePermit), NotTaken> {
    let most = u64::try_from(BODY_MAX).unwrap_or(u64::MAX);
    let length = body.size_hint().exact().unwrap_or(most);
    if length > most {
        return Err((StatusCode::PAYLOAD_TOO_LARGE, "an AdmissionReview has 4 MiB at most\n"));
    }
    let kib = u32::try_from(length.div_ceil(1024)).unwrap_or(u32::MAX);
    let taken = Arc::clone(&room.0).acquire_many_owned(kib).await;
    let held = taken.map_err(|_closed| (StatusCode::SERVICE_UNAVAILABLE, "the agent is ending\n"))?;
    let bytes = to_bytes(body, BODY_MAX).await;
    Ok((bytes.map_err(|_broken| (StatusCode::BAD_REQUEST, "the body broke off\n"))?, held))
}

async fn answer(State(webhook): State<Arc<Webhook>>, Extension(room): Extension<Room>, body: Body) -> Response {
    let deadline = tokio::time::Instant::now() + webhook.deadline;
    let late = (StatusCode::REQUEST_TIMEOUT, "the question did not arrive in time\n");
    let taken = tokio::time::timeout_at(deadline, take(&room, body)).await.unwrap_or(Err(late));
    let (body, _held) = match taken {
        Ok(taken) => taken,
        Err(not_taken) => {
            webhook.metrics.count("invalid");
            return not_taken.into_response();
        }
    };
    let question = match Question::read(&body) {
        Ok(question) => question,
        Err(error) => {
            webhook.metrics.count("invalid");
            return (StatusCode::BAD_REQUEST, telemetry::chain(&error) + "\n").into_response();
        }
    };
    let late = || Answer::Deny(503, format!("no answer within {} s; it is tried again", DEADLINE.as_secs()));
    let answer = tokio::time::timeout_at(deadline, webhook.judge(&question)).await.unwrap_or_else(|_elapsed| late());
    webhook.metrics.count(match &answer {
        Answer::Patch(_) => "injected",
        Answer::Allow => "skipped",
        Answer::Deny(422, _) => "refused",
        Answer::Deny(..) => "failed",
    });
    if let Answer::Deny(_, reason) = &answer {
        tracing::warn!(namespace = question.namespace, reason, "a pod is not admitted");
    }
    let injected = matches!(answer, Answer::Patch(_));
    let warnings = if injected { inject::warnings(&question.object) } else { Vec::new() };
    axum::Json(answer.write(&question.uid, &warnings)).into_response()
}

impl Webhook {
    async fn judge(&self, question: &Question) -> Answer {
        if !question.is_new_pod() {
            return Answer::Allow;
        }
        let Ok(_turn) = self.turns.acquire().await else {
            return Answer::Deny(503, "the agent is ending".to_owned());
        };
        let api: Api<Namespace> = Api::all(self.client.clone());
        let found = match api.get_metadata_opt(&question.namespace).await {
            Ok(Some(found)) => found,
            Ok(None) => return Answer::Deny(503, format!("namespace {} does not exist", question.namespace)),
            Err(error) => {
                let why = telemetry::chain(&error);
                return Answer::Deny(503, format!("namespace {} could not be read: {why}", question.namespace));
            }
        };
        let label = |name: &str| found.metadata.labels.as_ref().and_then(|l| l.get(name)).cloned();
        let facts =
            NamespaceFacts { name: question.namespace.clone(), injection: label(LABEL), enforce: label(ENFORCE) };
        let injected = match inject::inject(&question.object, &facts, &self.config) {
            Ok(Outcome::Inject(injected)) => injected,
            Ok(Outcome::Skip(skip)) => {
                tracing::debug!(namespace = question.namespace, reason = %skip, "a pod is not injected");
                return Answer::Allow;
            }
            Err(refusal) => return Answer::Deny(422, refusal.to_string()),
        };
        let uid = found.metadata.uid.unwrap_or_default();
        // Who asks is not known to be an API server: for a pod that its own label alone has injected, nothing is written
        // before the API server shows it.
        let written = if question.dry_run == Some(true) || !inject::selected(&facts, &self.config) {
            self.trust.joined().map(drop)
        } else {
            self.trust.ensure(&question.namespace, &uid).await
        };
        match written {
            Ok(()) => {}
            Err(error @ TrustMapError::NotJoined) => return Answer::Deny(503, error.to_string()),
            Err(error) => return Answer::Deny(503, telemetry::chain(&error)),
        }
        match serde_json::to_string(&inject::patch(&question.object, &injected)) {
            Ok(patch) => Answer::Patch(patch),
            Err(error) => Answer::Deny(503, error.to_string()),
        }
    }
}
