//! Edge. What the TCP port shows on Kubernetes: an identity of the cluster's own trust domain, which proxies verify by the
//! anchors of their `meshfed-trust`, issued and renewed by the agent for itself.

use std::sync::Arc;
use std::time::Duration;

use meshfed_ca::keys::SigningKey;
use meshfed_model::identity::SpiffeId;
use meshfed_runtime::backoff::Backoff;
use meshfed_runtime::drain::Watch;
use meshfed_runtime::tls::{Identity, IdentityStore};
use meshfed_runtime::{clock, telemetry};
use rustls_pki_types::CertificateDer;
use tokio::sync::{mpsc, oneshot};

use crate::core::run::Command;

/// The service account of the agent.
pub const AGENT_ACCOUNT: &str = "meshfed-agent";

async fn issue(core: &mpsc::Sender<Command>, id: &SpiffeId) -> Result<Identity, String> {
    let key = SigningKey::generate().map_err(|e| e.to_string())?;
    let (answer, certificate) = oneshot::channel();
    let key_der = key.public_key_der().to_vec();
    let command = Command::Certify { id: Box::new(id.clone()), metadata: None, key: key_der, named: false, answer };
    let gone = || "the core has ended".to_owned();
    core.send(command).await.map_err(|_closed| gone())?;
    let certificate = certificate.await.map_err(|_closed| gone())??;
    Identity::new(vec![CertificateDer::from(certificate)], key.to_private_key_der()).map_err(|e| telemetry::chain(&e))
}

/// Keeps the identity until the drain: issued at once, renewed at half of its life.
///
/// # Errors
/// Never.
pub async fn keep_identity(
    core: mpsc::Sender<Command>,
    id: SpiffeId,
    store: Arc<IdentityStore>,
    drain: Watch,
) -> Result<(), std::convert::Infallible> {
    let mut backoff = Backoff::new();
    loop {
        let pause = match issue(&core, &id).await {
            Ok(identity) => {
                let due = identity.renew_at().duration_since(clock::wall()).unwrap_or(Duration::ZERO);
                store.replace(identity);
                backoff.connected(clock::instant());
                due.max(Duration::from_secs(1))
            }
            Err(reason) => {
                tracing::error!(%id, reason, "the identity of the TCP port cannot be issued; trying again");
                backoff.failed(clock::instant())
            }
        };
        tokio::select! {
            () = drain.signaled() => return Ok(()),
            () = tokio::time::sleep(pause) => {}
        }
    }
}
