//! Edge. Who this proxy is, at an agent over TCP: a key made here, and the certificate that the agent gives for the token
//! of the pod; renewed at half of its life with the token that the kubelet has put there meanwhile, and at once when the
//! anchors of `--trust-file` are those of another CA: a cluster that was joined anew may have one.

mod trust;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use meshfed_api::proto::workload::AttestRequest;
use meshfed_api::proto::workload::attestation_client::AttestationClient;
use meshfed_model::identity::{Principal, SpiffeId};
use meshfed_model::names::{Namespace, WorkloadRef};
use meshfed_runtime::backoff::Backoff;
use meshfed_runtime::drain::Watch;
use meshfed_runtime::tls::{self, Identity, IdentityStore, TrustStore};
use meshfed_runtime::{clock, files, grpc, telemetry};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tonic::transport::Channel;

use crate::config::TcpAgent;

/// The service account of agents.
const AGENT_ACCOUNT: &str = "meshfed-agent";
/// Longest token file.
const TOKEN_MAX: usize = 16 * 1024;
/// Time for the agent's answer: it asks the API server twice.
const ANSWER_DEADLINE: Duration = Duration::from_secs(15);
/// First ceiling of the pause between two attempts.
const RETRY_BASE: Duration = Duration::from_millis(100);
/// Longest pause: a pod does not start before its proxy is somebody.
const RETRY_CAP: Duration = Duration::from_secs(5);
/// How long the agent's port may take to accept a connection.
const ACCEPTS_WITHIN: Duration = Duration::from_secs(2);
/// How often it is looked whether the anchors are those of our certificate still. The kubelet writes them within a minute
/// or so, at another moment in each pod, so agents are asked by a few at a time.
const LOOK_PERIOD: Duration = Duration::from_secs(2);
/// Renewals are spread over this part of an identity's life before they are due.
const SPREAD: f64 = 0.1;

/// Why there is no identity yet.
#[derive(Debug, thiserror::Error)]
enum AttestError {
    #[error("--token-file")]
    Token(#[source] files::FileError),
    #[error("--trust-file")]
    Trust(#[source] trust::TrustError),
    #[error("a key or its request could not be made")]
    Key(#[source] rcgen::Error),
    #[error("TLS cannot be set up")]
    Tls(#[source] rustls::Error),
    #[error(
        "the certificate of this pod is of a CA that --trust-file does not name any more; another one is asked for"
    )]
    Outdated,
    #[error(transparent)]
    Connect(#[from] grpc::ConnectError),
    #[error("the agent refuses ({:?}): {}", .0.code(), .0.message())]
    Refused(Box<tonic::Status>),
    #[error("the agent did not answer within {} s", ANSWER_DEADLINE.as_secs())]
    Late,
    #[error("what the agent answered is no certificate of our key")]
    Answer(#[source] tls::IdentityError),
}

/// Gets and keeps the identity.
#[derive(Debug)]
pub struct Attestation {
    agent: TcpAgent,
    claimed: (Namespace, String),
    identity: Arc<IdentityStore>,
    there: watch::Sender<bool>,
    joined: watch::Sender<bool>,
}

/// Connects to the agent, once there is an identity.
#[derive(Debug, Clone)]
pub struct Attested {
    agent: TcpAgent,
    identity: Arc<IdentityStore>,
    there: watch::Receiver<bool>,
}

/// Whether it is an agent of that namespace: nobody but its chart and its admins runs as that service account there.
fn is_agent(id: &SpiffeId, namespace: &Namespace) -> bool {
    match &id.principal {
        Principal::Workload { namespace: ns, service_account } => {
            ns == namespace && &**service_account == AGENT_ACCOUNT
        }
        Principal::Agent { .. } | Principal::Federator { .. } => false,
    }
}

fn is_valid(identity: &Identity) -> bool {
    clock::wall() < identity.not_after
}

/// Whether one of the anchors has issued it: agents issue by the anchor's own key.
fn is_issued_by(identity: &Identity, anchors: &TrustStore) -> bool {
    let anchors = anchors.snapshot();
    let mut all = anchors.bundles().values().flatten();
    identity.chain().first().is_some_and(|leaf| all.any(|anchor| tls::is_signed_by(leaf, anchor)))
}

/// Whether the cluster has another CA by now than the one that has issued our certificate. Anchors that cannot be read say
/// nothing.
fn is_outdated(agent: &TcpAgent, identity: &IdentityStore) -> bool {
    let Some(identity) = identity.get() else { return false };
    trust::read(&agent.trust_file).is_ok_and(|anchors| !is_issued_by(&identity, &anchors))
}

/// Waits until it has.
async fn outdated(agent: &TcpAgent, identity: &IdentityStore) {
    loop {
        tokio::time::sleep(LOOK_PERIOD).await;
        if is_outdated(agent, identity) {
            return;
        }
    }
}

/// A connection that has verified the agent, with our certificate where it has one to take.
async fn connect(
    agent: &TcpAgent,
    anchors: TrustStore,
    identity: Option<Arc<IdentityStore>>,
) -> Result<Channel, AttestError> {
    let namespace = agent.namespace.clone();
    let policy = move |id: &SpiffeId| is_agent(id, &namespace);
    let config =
        tls::client_config(identity, Arc::new(anchors), Arc::new(policy), &[b"h2"]).map_err(AttestError::Tls)?;
    Ok(grpc::connect(&agent.target, config).await?)
}

impl Attested {
    /// `HOST:PORT`.
    #[must_use]
    pub fn target(&self) -> impl fmt::Display {
        &self.agent.target
    }

    /// A connection with our certificate; waits until there is one that is valid.
    pub(crate) async fn connect(&mut self) -> Result<Channel, String> {
        if self.there.wait_for(|there| *there).await.is_err() {
            return Err("the attestation has ended".to_owned());
        }
        self.dial().await.map_err(|error| told(&error))
    }

    async fn dial(&self) -> Result<Channel, AttestError> {
        let anchors = trust::read(&self.agent.trust_file).map_err(AttestError::Trust)?;
        if self.identity.get().is_some_and(|identity| !is_issued_by(&identity, &anchors)) {
            return Err(AttestError::Outdated);
        }
        connect(&self.agent, anchors, Some(Arc::clone(&self.identity))).await
    }
}

fn told(error: &AttestError) -> String {
    let text = telemetry::chain(error);
    match error {
        AttestError::Connect(e) if e.refusal().is_some() => format!(
            "{text}; the agent is not of this cluster or of --agent-namespace, or --trust-file is that of another cluster"
        ),
        AttestError::Connect(_) => format!("{text}; does the agent run, and may this pod reach it?"),
        AttestError::Token(_)
        | AttestError::Trust(_)
        | AttestError::Key(_)
        | AttestError::Tls(_)
        | AttestError::Outdated
        | AttestError::Refused(_)
        | AttestError::Late
        | AttestError::Answer(_) => text,
    }
}

/// Whether somebody takes connections where the agent is: it does so once its cluster has joined. Nothing is sent, and
/// nobody is trusted by it.
async fn accepts(target: &str) -> bool {
    tokio::time::timeout(ACCEPTS_WITHIN, TcpStream::connect(target)).await.is_ok_and(|connected| connected.is_ok())
}

impl Attestation {
    /// For the identity store of the process, and what connects by it. In `joined` it says whether the anchors alone are
    /// missing: the agent's port is open, and `--trust-file` is not there.
    #[must_use]
    pub fn new(
        agent: TcpAgent,
        workload: &WorkloadRef,
        identity: Arc<IdentityStore>,
        joined: watch::Sender<bool>,
    ) -> (Self, Attested) {
        let (there, seen) = watch::channel(false);
        let attested = Attested { agent: agent.clone(), identity: Arc::clone(&identity), there: seen };
        let claimed = (workload.namespace.clone(), workload.service_account.to_string());
        (Self { agent, claimed, identity, there, joined }, attested)
    }

    /// Until the drain.
    pub async fn run(self, drain: Watch) {
        let mut backoff = Backoff::with(RETRY_BASE, RETRY_CAP, fastrand::u64(..));
        let mut said = String::new();
        loop {
            let asked = tokio::select! {
                () = drain.signaled() => return,
                asked = self.attempt() => asked,
            };
            let pause = match asked {
                Ok(identity) => {
                    said.clear();
                    backoff.reset();
                    self.take(identity)
                }
                Err(error) => {
                    let why = told(&error);
                    // The same reason again and again would bury everything else in the log.
                    if why == said {
                        tracing::debug!(reason = why, "attestation: still none");
                    } else {
                        tracing::warn!(
                            agent = self.agent.target,
                            reason = why,
                            "attestation: no identity by the token of this pod; trying again"
                        );
                    }
                    said = why;
                    self.there.send_replace(self.identity.get().is_some_and(|i| is_valid(&i)));
                    backoff.failed(clock::instant())
                }
            };
            tokio::select! {
                () = drain.signaled() => return,
                () = tokio::time::sleep(pause) => {}
                () = outdated(&self.agent, &self.identity) => tracing::info!(
                    "attestation: this cluster has another CA; traffic goes on with the certificate that is there until \
                     there is one of it"
                ),
            }
        }
    }

    /// Uses it from now on; says when it is to be renewed.
    fn take(&self, identity: Identity) -> Duration {
        let (namespace, account) = &self.claimed;
        let same = match &identity.id.principal {
            Principal::Workload { namespace: ns, service_account } => ns == namespace && **service_account == **account,
            Principal::Agent { .. } | Principal::Federator { .. } => false,
        };
        if !same {
            tracing::error!(id = %identity.id, claimed = %format!("{namespace}/{account}"), "this pod is not what --workload says; the agent will refuse it");
        }
        let left = identity.renew_at().duration_since(clock::wall()).unwrap_or(Duration::ZERO);
        let life = identity.not_after.duration_since(identity.not_before).unwrap_or_default();
        let due = left.saturating_sub(life.mul_f64(SPREAD * fastrand::f64())).max(Duration::from_secs(1));
        tracing::info!(id = %identity.id, renewed_in = ?due, "attestation: this pod has its identity");
        self.identity.replace(identity);
        self.there.send_replace(true);
        due
    }

    async fn attempt(&self) -> Result<Identity, AttestError> {
        let asked = self.ask().await;
        let waits = matches!(&asked, Err(AttestError::Trust(trust::TrustError::File(_))));
        self.joined.send_replace(waits && accepts(&self.agent.target).await);
        asked
    }

    async fn ask(&self) -> Result<Identity, AttestError> {
        let token = files::read_text(&self.agent.token_file, TOKEN_MAX).map_err(AttestError::Token)?;
        let key = KeyPair::generate().map_err(AttestError::Key)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let request = params.serialize_request(&key).map_err(AttestError::Key)?.der().to_vec();
        let anchors = trust::read(&self.agent.trust_file).map_err(AttestError::Trust)?;
        // An agent refuses who shows what it cannot verify, and takes who shows nothing.
        let shown = self.identity.get().is_some_and(|i| is_valid(&i) && is_issued_by(&i, &anchors));
        let shown = shown.then(|| Arc::clone(&self.identity));
        let mut client = AttestationClient::new(connect(&self.agent, anchors, shown).await?);
        let asked = client.attest(AttestRequest { token: token.trim().to_owned(), request });
        let answer = tokio::time::timeout(ANSWER_DEADLINE, asked).await.map_err(|_elapsed| AttestError::Late)?;
        let certificate = answer.map_err(|s| AttestError::Refused(Box::new(s)))?.into_inner().certificate;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Identity::new(vec![CertificateDer::from(certificate)], key).map_err(AttestError::Answer)
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// That the cluster has joined is known when the agent's port is open and the anchors are missing.
    ///
    /// Mutations seen to fail: `waits &&` left out; `&& accepts(...)` left out.
    #[tokio::test]
    async fn a_gateway_without_anchors_notices_that_its_cluster_has_joined() {
        let dir = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let agent = TcpAgent {
            target: listener.local_addr().unwrap().to_string(),
            namespace: Namespace::new("meshfed-system").unwrap(),
            token_file: dir.path().join("token"),
            trust_file: dir.path().join("anchors.pem"),
        };
        std::fs::write(&agent.token_file, "x").unwrap();
        let workload = "meshfed-system/meshfed-eastwest/g-0".parse().unwrap();
        let (joined, seen) = watch::channel(false);
        let (attestation, _attested) =
            Attestation::new(agent.clone(), &workload, Arc::new(IdentityStore::empty()), joined);
        assert!(matches!(attestation.attempt().await, Err(AttestError::Trust(_))) && *seen.borrow());
        drop(listener);
        assert!(attestation.attempt().await.is_err() && !*seen.borrow());
        std::fs::write(&agent.trust_file, "no PEM").unwrap();
        let _again = TcpListener::bind(&agent.target).unwrap();
        assert!(attestation.attempt().await.is_err() && !*seen.borrow(), "what is wrong with them is another matter");
    }
}
