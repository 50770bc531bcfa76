//! Edge. The rustls verifiers: both directions, one rule.

use std::fmt;
use std::sync::Arc;

use meshfed_model::identity::SpiffeId;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::svid::{Role, SvidError, verify_svid};
use super::{PeerPolicy, TrustStore, provider};

/// Whether a server asks for the peer's SVID.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAuth {
    /// A handshake without one fails.
    Required,
    /// A peer may come without one; a presented one must verify.
    Optional,
    /// It is not asked for.
    None,
}

/// Verifies SVIDs against a [`TrustStore`] and a [`PeerPolicy`].
pub struct SpiffeVerifier {
    trust: Arc<TrustStore>,
    policy: Arc<dyn PeerPolicy>,
    client_auth: ClientAuth,
    provider: Arc<CryptoProvider>,
}

impl fmt::Debug for SpiffeVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpiffeVerifier").field("client_auth", &self.client_auth).finish_non_exhaustive()
    }
}

impl SpiffeVerifier {
    /// Client certificates are required; see [`Self::with_client_auth`].
    #[must_use]
    pub fn new(trust: Arc<TrustStore>, policy: Arc<dyn PeerPolicy>) -> Self {
        Self { trust, policy, client_auth: ClientAuth::Required, provider: provider() }
    }
    /// Sets what a server asks for.
    #[must_use]
    pub fn with_client_auth(mut self, client_auth: ClientAuth) -> Self {
        self.client_auth = client_auth;
        self
    }
    /// Verifies a peer and asks the policy.
    ///
    /// # Errors
    /// [`SvidError`].
    pub fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        role: Role,
        now: UnixTime,
    ) -> Result<SpiffeId, SvidError> {
        let snapshot = self.trust.snapshot();
        let id = verify_svid(&snapshot, leaf, intermediates, role, now)?;
        if self.policy.accepts(&id) { Ok(id) } else { Err(SvidError::NotAccepted { id }) }
    }
}

/// The alert follows from the rustls error, the text from ours: [`refusal`] finds it again.
pub(crate) fn to_rustls(error: SvidError) -> Error {
    tracing::debug!(reason = error.as_str(), error = %error, "peer refused");
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
}

/// Why our verifier refused the peer, if that is what failed: looks through an error and its causes.
#[must_use]
pub fn refusal<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a SvidError> {
    let mut next = Some(error);
    while let Some(e) = next {
        if let Some(Error::InvalidCertificate(CertificateError::Other(OtherError(inner)))) = e.downcast_ref::<Error>() {
            return inner.downcast_ref::<SvidError>();
        }
        // std::io::Error shows the cause of its inner error as its own: look at the inner error, too.
        next = match e.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
            Some(inner) => Some(inner as &(dyn std::error::Error + 'static)),
            None => e.source(),
        };
    }
    None
}

impl ServerCertVerifier for SpiffeVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(end_entity, intermediates, Role::Server, now).map_err(to_rustls)?;
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(tls12_refused())
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

impl ClientCertVerifier for SpiffeVerifier {
    fn offer_client_auth(&self) -> bool {
        self.client_auth != ClientAuth::None
    }
    fn client_auth_mandatory(&self) -> bool {
        self.client_auth == ClientAuth::Required
    }
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }
    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify(end_entity, intermediates, Role::Client, now).map_err(to_rustls)?;
        Ok(ClientCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(tls12_refused())
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

pub(crate) fn tls12_refused() -> Error {
    Error::PeerIncompatible(rustls::PeerIncompatible::Tls12NotOffered)
}
