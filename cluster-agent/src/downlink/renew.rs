//! Edge. The agent's own identity: renewed at half of its life over the old one, and, when that has expired, by
//! signing the hub's challenge with the cluster CA key.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use meshfed_api::proto::federation as wire;
use meshfed_api::proto::federation::enrollment_client::EnrollmentClient;
use meshfed_ca::keys::{KeyError, SigningKey};
use meshfed_ca::{csr, pem};
use meshfed_model::names::ClusterName;
use meshfed_runtime::files::{self, FileError};
use meshfed_runtime::tls::{Identity, IdentityError, IdentityStore};
use rustls_pki_types::CertificateDer;
use tonic::transport::Channel;

/// What precedes nonce and request in what the cluster CA key signs, so that the signature means nothing else.
const CONTEXT: &[u8] = b"meshfed renew v1\0";
/// The largest key or certificate file, in bytes.
const FILE_MAX: usize = 64 << 10;

/// Why there is no new identity. The old one stays.
#[derive(Debug, thiserror::Error)]
pub enum RenewError {
    /// No key, or no request of it.
    #[error("a key cannot be made or used")]
    Key(#[from] KeyError),
    /// No request.
    #[error("a certificate request cannot be made")]
    Request(#[from] meshfed_ca::IssueError),
    /// The hub refused.
    #[error("the federator did not renew the identity: {}", .0.message())]
    Refused(#[from] tonic::Status),
    /// The hub's answer is no identity of ours.
    #[error("the federator's answer is no identity of this agent")]
    Answer(#[from] IdentityError),
    /// It is somebody else's.
    #[error("the federator issued an identity for {0}")]
    Other(String),
    /// A file.
    #[error("the identity cannot be read or saved")]
    File(#[from] FileError),
}

/// Where the agent's identity lies.
#[derive(Debug, Clone)]
pub struct Renewal {
    /// `E`.
    pub data_dir: PathBuf,
    /// The cluster.
    pub cluster: ClusterName,
    /// The replica.
    pub replica: u32,
    /// What TLS uses.
    pub identity: Arc<IdentityStore>,
}

/// Reads `E/identity/{cert,key}.pem`.
///
/// # Errors
/// [`RenewError`].
pub fn load(data_dir: &Path) -> Result<Identity, RenewError> {
    let directory = data_dir.join("identity");
    let chain = files::read_text(&directory.join("cert.pem"), FILE_MAX)?;
    let key = files::read_text(&directory.join("key.pem"), FILE_MAX)?;
    let key = SigningKey::from_pkcs8_pem(&key)?;
    let chain = pem::certificates(&chain).map_err(|_form| IdentityError::Empty)?;
    Ok(Identity::new(chain, key.to_private_key_der())?)
}

impl Renewal {
    /// Whether the present identity is over.
    #[must_use]
    pub fn has_expired(&self, now: SystemTime) -> bool {
        self.identity.get().is_none_or(|i| i.not_after <= now)
    }

    /// Gets a new identity over a channel with the present one, or, when `challenged`, over one without.
    ///
    /// # Errors
    /// [`RenewError`].
    pub async fn renew(self, channel: Channel, challenged: bool) -> Result<Vec<String>, RenewError> {
        let key = SigningKey::generate()?;
        let agent_request = csr::create(&key)?;
        let mut client = EnrollmentClient::new(channel);
        let mut request = wire::RenewRequest {
            agent_request,
            cluster: self.cluster.to_string(),
            replica: self.replica,
            ..wire::RenewRequest::default()
        };
        if challenged {
            let question = wire::ChallengeRequest { cluster: self.cluster.to_string() };
            let nonce = client.challenge(question).await?.into_inner().nonce;
            let ca = files::read_text(&self.data_dir.join("ca/key.pem"), FILE_MAX)?;
            let ca = SigningKey::from_pkcs8_pem(&ca)?;
            request.signature = ca.sign(&[CONTEXT, &nonce, &request.agent_request].concat())?;
            request.nonce = nonce;
        }
        let answer = client.renew(request).await?.into_inner();
        let leaf = CertificateDer::from(answer.agent_certificate);
        let identity = Identity::new(vec![leaf.clone()], key.to_private_key_der())?;
        let same = self.identity.id().is_none_or(|id| id == identity.id);
        if !same {
            return Err(RenewError::Other(identity.id.to_string()));
        }
        self.save(&key, &leaf)?;
        tracing::info!(id = %identity.id, "the agent's identity was renewed");
        self.identity.replace(identity);
        Ok(answer.federators)
    }

    /// Saves key and certificate. A crash between the two leaves a pair that does not match; the next start then takes
    /// the way of an expired identity, for which the cluster CA key is enough.
    fn save(&self, key: &SigningKey, leaf: &CertificateDer<'_>) -> Result<(), FileError> {
        let directory = self.data_dir.join("identity");
        files::write_secret(&directory.join("key.pem"), key.to_pkcs8_pem().as_bytes())?;
        files::write_secret(&directory.join("cert.pem"), pem::encode_certificates([leaf.as_ref()]).as_bytes())
    }
}
