//! Edge. Keeps the webhook's certificate: made at the start, its CA put into the `caBundle` of the chart's
//! MutatingWebhookConfiguration, looked after, and made anew at half of its life, the CA first and the certificate after it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use kube::api::{Api, Patch, PatchParams};
use meshfed_runtime::backoff::Backoff;
use meshfed_runtime::drain::Watch;
use meshfed_runtime::{clock, telemetry};
use prometheus_client::metrics::gauge::Gauge;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use serde_json::{Value, json};

use super::certificate::{self, Pair};

/// How often the `caBundle` is looked after: a chart's upgrade or a person may have replaced it.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How long a new CA lies in the `caBundle` before its certificate is shown: API servers learn of it by their watches.
const SETTLE: Duration = Duration::from_secs(5);

/// What the listener shows.
#[derive(Debug, Default)]
pub(super) struct Shown(ArcSwapOption<CertifiedKey>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()
    }
}

/// For which names, and how long.
#[derive(Debug, Clone)]
pub(super) struct Names {
    pub(super) dns: Vec<String>,
    pub(super) addresses: Vec<std::net::IpAddr>,
    pub(super) ttl: Duration,
    /// The MutatingWebhookConfiguration.
    pub(super) configuration: String,
}

#[derive(Debug, thiserror::Error)]
enum RotateError {
    #[error("a certificate could not be made")]
    Make(#[source] rcgen::Error),
    #[error("its key could not be used")]
    Key(#[source] rustls::Error),
    #[error("MutatingWebhookConfiguration {0} does not exist; the chart makes it where injection.enabled is true")]
    Missing(String),
    #[error("MutatingWebhookConfiguration {0} could not be read or patched")]
    Api(String, #[source] Box<kube::Error>),
}

/// One rotation: a pair that is shown, or that waits until its CA has settled.
struct Held {
    ca: Vec<u8>,
    certified: Option<Arc<CertifiedKey>>,
    renew: Instant,
    settled: Option<Instant>,
}

pub(super) struct Rotation {
    pub(super) client: kube::Client,
    pub(super) names: Names,
    pub(super) shown: Arc<Shown>,
    pub(super) rotations: Gauge,
}

impl Rotation {
    fn make(&self) -> Result<Held, RotateError> {
        let Names { dns, addresses, ttl, .. } = &self.names;
        let Pair { ca, chain, key } =
            certificate::make(dns, addresses, clock::wall(), *ttl).map_err(RotateError::Make)?;
        let provider = meshfed_runtime::tls::provider();
        let key = provider.key_provider.load_private_key(key).map_err(RotateError::Key)?;
        let certified = Some(Arc::new(CertifiedKey::new(chain, key)));
        Ok(Held { ca, certified, renew: clock::instant() + *ttl / 2, settled: None })
    }

    /// Puts the CA into every webhook's `caBundle`, unless it is there.
    async fn patch(&self, ca: &[u8]) -> Result<(), RotateError> {
        let name = &self.names.configuration;
        let failed = |e: kube::Error| RotateError::Api(name.clone(), Box::new(e));
        let api: Api<MutatingWebhookConfiguration> = Api::all(self.client.clone());
        let found = api.get_opt(name).await.map_err(failed)?.ok_or_else(|| RotateError::Missing(name.clone()))?;
        let version = found.metadata.resource_version.clone();
        let mut changed = false;
        let mut webhooks = Vec::new();
        for webhook in found.webhooks.into_iter().flatten() {
            let held = webhook.client_config.ca_bundle.as_ref().map(|b| b.0.clone()).unwrap_or_default();
            let merged = certificate::merged(&String::from_utf8_lossy(&held), ca, clock::wall());
            changed |= merged.as_bytes() != held.as_slice();
            let mut value = serde_json::to_value(&webhook).unwrap_or(Value::Null);
            value["clientConfig"]["caBundle"] = json!(STANDARD.encode(merged));
            webhooks.push(value);
        }
        if changed {
            // The version is a precondition: two agents that add at the same time do not undo each other.
            let patch = json!({ "metadata": { "resourceVersion": version }, "webhooks": webhooks });
            let params = PatchParams { field_manager: Some("meshfed-agent".to_owned()), ..PatchParams::default() };
            let _patched = api.patch(name, &params, &Patch::Merge(patch)).await.map_err(failed)?;
        }
        Ok(())
    }

    /// One look: makes what is due, patches, shows what has settled. Says when to look again.
    async fn look(&self, held: &mut Option<Held>) -> Result<Duration, RotateError> {
        let now = clock::instant();
        if held.as_ref().is_none_or(|h| h.renew <= now) {
            *held = Some(self.make()?);
        }
        let Some(current) = held else { return Ok(LOOK_EVERY) };
        self.patch(&current.ca).await?;
        let first = self.shown.0.load().is_none();
        let settled = *current.settled.get_or_insert_with(|| if first { now } else { now + SETTLE });
        if settled > now {
            return Ok(settled - now);
        }
        if let Some(certified) = current.certified.take() {
            self.shown.0.store(Some(certified));
            self.rotations.inc();
            tracing::info!(configuration = self.names.configuration, "webhook: a new certificate is shown");
        }
        Ok(LOOK_EVERY.min(current.renew.saturating_duration_since(now)).max(Duration::from_millis(100)))
    }

    /// Until the drain.
    pub(super) async fn run(self, drain: Watch) -> Result<(), std::convert::Infallible> {
        let mut backoff = Backoff::with(Duration::from_millis(200), LOOK_EVERY, fastrand::u64(..));
        let (mut held, mut told) = (None, String::new());
        loop {
            let looked = tokio::select! {
                () = drain.signaled() => return Ok(()),
                looked = self.look(&mut held) => looked,
            };
            let pause = match looked {
                Ok(pause) => {
                    told.clear();
                    backoff.reset();
                    pause
                }
                Err(error) => {
                    let why = telemetry::chain(&error);
                    if why != told {
                        tracing::warn!(reason = why, "webhook: pods cannot be injected; trying again");
                        told = why;
                    }
                    backoff.failed(clock::instant())
                }
            };
            tokio::select! {
                () = drain.signaled() => return Ok(()),
                () = tokio::time::sleep(pause) => {}
            }
        }
    }
}
