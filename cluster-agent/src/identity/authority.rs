//! Pure. The cluster's CA at work: SVIDs for attested workloads, in the cluster's own trust domain only.

use std::time::{Duration, SystemTime};

use meshfed_ca::keys::SigningKey;
use meshfed_ca::pem::encode_certificates;
use meshfed_ca::{IssueError, anchor, keys, svid};
use meshfed_model::identity::{SpiffeId, TrustDomain};
use meshfed_model::metadata::WorkloadMetadata;
use zeroize::Zeroizing;

/// Life of an SVID where `--svid-ttl` says nothing; it is renewed at half of it.
pub const SVID_TTL: Duration = Duration::from_secs(3600);

/// Why no identity could be issued.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// Another trust domain, or no workload.
    #[error("{id} is no workload of trust domain {own}")]
    Foreign {
        /// What was asked for.
        id: SpiffeId,
        /// The cluster's own.
        own: TrustDomain,
    },
    /// No key could be made or read.
    #[error("a key could not be made or read")]
    Key(#[source] keys::KeyError),
    /// The anchor is none of this cluster's.
    #[error("is not this cluster's anchor")]
    Anchor(#[source] anchor::AnchorError),
    /// Key and anchor do not belong together.
    #[error("does not hold the key of ca/key.pem")]
    OtherKey,
    /// The certificate could not be issued.
    #[error("the certificate could not be issued")]
    Issue(#[source] IssueError),
    /// The wall clock has jumped.
    #[error("the clock is not to be trusted")]
    Clock(#[source] meshfed_runtime::steady::ClockJump),
}

/// A workload's certificate with its key.
pub struct Issued {
    certificate: Vec<u8>,
    key: SigningKey,
}

impl Issued {
    /// The chain, DER: the certificate alone, as the anchor issues it itself.
    #[must_use]
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }
    /// The chain, PEM.
    #[must_use]
    pub fn chain_pem(&self) -> String {
        encode_certificates([self.certificate.as_slice()])
    }
    /// The key, PKCS#8 PEM.
    #[must_use]
    pub fn key_pem(&self) -> Zeroizing<String> {
        self.key.to_pkcs8_pem()
    }
    /// The key, PKCS#8 DER.
    #[must_use]
    pub fn key_der(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(self.key.to_private_key_der().secret_der().to_vec())
    }
}

/// The cluster's CA key and anchor.
pub struct Authority {
    key: SigningKey,
    anchor: Vec<u8>,
    trust_domain: TrustDomain,
    ttl: Duration,
}

impl Authority {
    /// From the files of `E/ca`: the key as PKCS#8 PEM, the anchor as DER.
    ///
    /// Whether the anchor is valid now is not asked: a clock that is wrong at the start must not keep an agent away.
    ///
    /// # Errors
    /// [`AuthorityError::Key`], [`AuthorityError::Anchor`], [`AuthorityError::OtherKey`].
    pub fn new(key_pem: &str, anchor: Vec<u8>, trust_domain: TrustDomain) -> Result<Self, AuthorityError> {
        let key = SigningKey::from_pkcs8_pem(key_pem).map_err(AuthorityError::Key)?;
        let begin = anchor::validity(&anchor).map_or(SystemTime::UNIX_EPOCH, |(begin, _)| begin);
        anchor::verify(&anchor, &trust_domain, begin).map_err(AuthorityError::Anchor)?;
        if anchor::spki_sha256(&anchor) != Some(key.spki_sha256()) {
            return Err(AuthorityError::OtherKey);
        }
        Ok(Self { key, anchor, trust_domain, ttl: SVID_TTL })
    }
    /// With another life of what it issues.
    #[must_use]
    pub const fn with_ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }
    /// How long after its issue a certificate is to be renewed.
    #[must_use]
    pub fn renew_after(&self) -> Duration {
        self.ttl / 2
    }
    /// The trust domain it issues for.
    #[must_use]
    pub const fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }
    /// The anchor, DER.
    #[must_use]
    pub fn anchor(&self) -> &[u8] {
        &self.anchor
    }
    /// A new key and certificate for a workload, with what metrics call it, where that is known.
    ///
    /// # Errors
    /// [`AuthorityError`].
    pub fn issue(
        &self,
        id: &SpiffeId,
        metadata: Option<&WorkloadMetadata>,
        now: SystemTime,
    ) -> Result<Issued, AuthorityError> {
        let key = SigningKey::generate().map_err(AuthorityError::Key)?;
        let certificate = self.certify(id, metadata, key.public_key_der(), now)?;
        Ok(Issued { certificate, key })
    }
    /// A certificate, DER, for a workload that has made its key itself: `key` is its DER SubjectPublicKeyInfo, whose
    /// owner has proven to hold the private one.
    ///
    /// # Errors
    /// [`AuthorityError`].
    pub fn certify(
        &self,
        id: &SpiffeId,
        metadata: Option<&WorkloadMetadata>,
        key: &[u8],
        now: SystemTime,
    ) -> Result<Vec<u8>, AuthorityError> {
        if id.trust_domain != self.trust_domain || !id.is_workload() {
            return Err(AuthorityError::Foreign { id: id.clone(), own: self.trust_domain.clone() });
        }
        svid::issue_described(&self.key, &self.anchor, id, metadata, key, self.ttl, now).map_err(AuthorityError::Issue)
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("trust_domain", &self.trust_domain).finish_non_exhaustive()
    }
}
