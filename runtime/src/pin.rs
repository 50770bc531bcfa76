//! Edge. First contact: a joiner knows the hash of the fleet anchor's key from its token, and nothing else.

use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::digest::{SHA256, digest};
use meshfed_model::identity::{Principal, SpiffeId, TrustDomain};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::{DigitallySignedStruct, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::tls::{self, Role, SvidError, TrustStore};

/// What a handshake with a matching pin proved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinnedFleet {
    /// The fleet's trust domain `F`, as its anchor says.
    pub trust_domain: TrustDomain,
    /// The fleet's anchor.
    pub anchor: CertificateDer<'static>,
    /// The federator that answered.
    pub federator: SpiffeId,
}

/// Accepts a server whose chain is `[leaf, anchor]`, where the anchor's key has the pinned hash, the anchor signed
/// itself, and the leaf is `spiffe://F/federator/<n>` of the anchor's own trust domain `F`.
#[derive(Debug)]
pub struct PinnedFleetVerifier {
    spki_sha256: [u8; 32],
    accepted: Mutex<Option<PinnedFleet>>,
    provider: Arc<CryptoProvider>,
}

impl PinnedFleetVerifier {
    /// With the SHA-256 of the DER SubjectPublicKeyInfo of the fleet's anchor.
    #[must_use]
    pub fn new(spki_sha256: [u8; 32]) -> Self {
        Self { spki_sha256, accepted: Mutex::new(None), provider: tls::provider() }
    }
    /// What the last handshake proved.
    #[must_use]
    pub fn accepted(&self) -> Option<PinnedFleet> {
        self.accepted.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The decision, apart from rustls.
    ///
    /// # Errors
    /// [`SvidError`].
    pub fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<PinnedFleet, SvidError> {
        let [anchor] = rest else { return Err(SvidError::WrongPin) };
        if leaf.len() + anchor.len() > tls::CHAIN_BYTES_MAX {
            return Err(SvidError::WrongPin);
        }
        let (tail, parsed) =
            X509Certificate::from_der(anchor).map_err(|_asn1| SvidError::Malformed("the anchor is not X.509 DER"))?;
        let spki = digest(&SHA256, parsed.tbs_certificate.subject_pki.raw);
        if !tail.is_empty() || spki.as_ref() != self.spki_sha256 {
            return Err(SvidError::WrongPin);
        }
        // The pin binds the key only. What else the anchor says, its trust domain before all, is bound by its own
        // signature, which nobody without that key can make.
        if !tls::is_self_signed(anchor) {
            return Err(SvidError::WrongPin);
        }
        let trust_domain = tls::anchor_trust_domain(anchor)?;
        let anchor = anchor.clone().into_owned();
        let trust = TrustStore::with([(trust_domain.clone(), vec![anchor.clone()])].into())
            .map_err(|_invalid| SvidError::Malformed("the fleet's anchor is no CA certificate"))?;
        let federator = tls::verify_svid(&trust.snapshot(), leaf, &[], Role::Server, now)?;
        let is_federator = match federator.principal {
            Principal::Federator { .. } => federator.trust_domain == trust_domain,
            Principal::Agent { .. } | Principal::Workload { .. } => false,
        };
        if !is_federator {
            return Err(SvidError::NotAccepted { id: federator });
        }
        Ok(PinnedFleet { trust_domain, anchor, federator })
    }
}

impl ServerCertVerifier for PinnedFleetVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let fleet = self.verify(end_entity, intermediates, now).map_err(tls::to_rustls)?;
        *self.accepted.lock().unwrap_or_else(PoisonError::into_inner) = Some(fleet);
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(tls::tls12_refused())
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
