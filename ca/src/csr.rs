//! Pure. Certificate requests: only the public key is used, and possession of its private key is proven.

use meshfed_runtime::limits::LimitExceeded;
use rcgen::{CertificateParams, DistinguishedName};
use rustls_pki_types::SignatureVerificationAlgorithm;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer as _;

use crate::algorithm::{algorithm, is_ed25519};
use crate::keys::{SigningKey, sha256};
use crate::template::{IssueError, subject_key};

/// Most bytes of a request.
pub const CSR_MAX: usize = 16 * 1024;

const SEQUENCE: u8 = 0x30;

/// Why a request was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    /// Over [`CSR_MAX`].
    #[error("the certificate request is too large")]
    TooLarge(#[source] LimitExceeded),
    /// Not a PKCS#10 request.
    #[error("not a PKCS#10 certificate request")]
    Malformed,
    /// Another kind of key.
    #[error("the request's key is none of ECDSA P-256 with SHA-256, ECDSA P-384 with SHA-384, Ed25519")]
    Algorithm,
    /// The signature is not by the request's key.
    #[error("the request is not signed by its own key")]
    Possession,
}

/// A public key whose owner has proven to hold the private one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey(Vec<u8>);

impl PublicKey {
    /// DER SubjectPublicKeyInfo.
    #[must_use]
    pub fn spki_der(&self) -> &[u8] {
        &self.0
    }
    /// SHA-256 of [`Self::spki_der`]: what a binding stores (JT3).
    #[must_use]
    pub fn sha256(&self) -> [u8; 32] {
        sha256(&self.0)
    }
}

/// A request for a key; it names nothing, because nothing that it named would be used.
///
/// # Errors
/// [`IssueError`].
pub fn create(key: &SigningKey) -> Result<Vec<u8>, IssueError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    Ok(params.serialize_request(key)?.der().to_vec())
}

/// Takes the key out of a request. Subject, SANs, extensions and attributes are ignored.
///
/// # Errors
/// [`CsrError`].
pub fn verify(der: &[u8]) -> Result<PublicKey, CsrError> {
    LimitExceeded::check("csr_bytes", der.len(), CSR_MAX).map_err(CsrError::TooLarge)?;
    let (rest, request) = X509CertificationRequest::from_der(der).map_err(|_asn1| CsrError::Malformed)?;
    if !rest.is_empty() {
        return Err(CsrError::Malformed);
    }
    let info = &request.certification_request_info;
    let algorithm = algorithm(&info.subject_pki, &request.signature_algorithm).ok_or(CsrError::Algorithm)?;
    let key = &info.subject_pki.subject_public_key;
    // A key of another length could be a compressed point, which peers read differently.
    let length_ok = if is_ed25519(&info.subject_pki) {
        key.data.len() == 32
    } else {
        key.data.first() == Some(&4) && matches!(key.data.len(), 65 | 97)
    };
    if !length_ok || key.unused_bits != 0 || request.signature_value.unused_bits != 0 {
        return Err(CsrError::Algorithm);
    }
    // What the signature does not cover, and the parser is lenient about.
    let tail = tail(algorithm, &request.signature_value.data);
    if der.first() != Some(&SEQUENCE) || !tail.is_some_and(|tail| der.ends_with(&tail)) {
        return Err(CsrError::Malformed);
    }
    subject_key(info.subject_pki.raw).map_err(|_encoding| CsrError::Algorithm)?;
    algorithm
        .verify_signature(&key.data, info.raw, &request.signature_value.data)
        .map_err(|_invalid| CsrError::Possession)?;
    Ok(PublicKey(info.subject_pki.raw.to_vec()))
}

/// The end of a request in its one form (RFC 2986, 4.2): `signatureAlgorithm` and `signature` in DER. Signatures of the
/// algorithms that are taken have fewer than 127 bytes; none: a longer one.
fn tail(algorithm: &dyn SignatureVerificationAlgorithm, signature: &[u8]) -> Option<Vec<u8>> {
    const BIT_STRING: u8 = 0x03;
    let short = |length: usize| u8::try_from(length).ok().filter(|n| *n < 0x80);
    let identifier = algorithm.signature_alg_id();
    let mut tail = vec![SEQUENCE, short(identifier.len())?];
    tail.extend_from_slice(&identifier);
    tail.extend_from_slice(&[BIT_STRING, short(signature.len() + 1)?, 0]);
    tail.extend_from_slice(signature);
    Some(tail)
}
