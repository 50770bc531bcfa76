//! Pure. Certificate requests: only the public key is used, and possession of its private key is proven.

use meshfed_runtime::limits::LimitExceeded;
use rcgen::{CertificateParams, DistinguishedName};
use rustls_pki_types::SignatureVerificationAlgorithm;
use webpki::aws_lc_rs::{ECDSA_P256_SHA256, ECDSA_P384_SHA384, ED25519};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::{AlgorithmIdentifier, SubjectPublicKeyInfo};

use crate::keys::{SigningKey, sha256};
use crate::template::{IssueError, subject_key};

/// Most bytes of a request.
pub const CSR_MAX: usize = 16 * 1024;

const OID_EC_PUBLIC_KEY: &str = "1.2.840.10045.2.1";
const OID_P256: &str = "1.2.840.10045.3.1.7";
const OID_P384: &str = "1.3.132.0.34";
const OID_ED25519: &str = "1.3.101.112";
const OID_ECDSA_SHA256: &str = "1.2.840.10045.4.3.2";
const OID_ECDSA_SHA384: &str = "1.2.840.10045.4.3.3";

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

fn oid_of(algorithm: &AlgorithmIdentifier<'_>) -> String {
    algorithm.algorithm.to_id_string()
}

fn curve_of(spki: &SubjectPublicKeyInfo<'_>) -> Option<String> {
    let parameters = spki.algorithm.parameters.as_ref()?;
    parameters.as_oid().ok().map(|o| o.to_id_string())
}

pub(crate) fn is_p256(spki: &SubjectPublicKeyInfo<'_>) -> bool {
    oid_of(&spki.algorithm) == OID_EC_PUBLIC_KEY && curve_of(spki).as_deref() == Some(OID_P256)
}

fn algorithm(
    spki: &SubjectPublicKeyInfo<'_>,
    signature: &AlgorithmIdentifier<'_>,
) -> Option<&'static dyn SignatureVerificationAlgorithm> {
    let (key, signature) = (oid_of(&spki.algorithm), oid_of(signature));
    let curve = curve_of(spki);
    match (key.as_str(), curve.as_deref(), signature.as_str()) {
        (OID_EC_PUBLIC_KEY, Some(OID_P256), OID_ECDSA_SHA256) => Some(ECDSA_P256_SHA256),
        (OID_EC_PUBLIC_KEY, Some(OID_P384), OID_ECDSA_SHA384) => Some(ECDSA_P384_SHA384),
        (OID_ED25519, None, OID_ED25519) => Some(ED25519),
        _ => None,
    }
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
    let length_ok = match oid_of(&info.subject_pki.algorithm).as_str() {
        OID_ED25519 => key.data.len() == 32,
        _ => key.data.first() == Some(&4) && matches!(key.data.len(), 65 | 97),
    };
    if !length_ok || key.unused_bits != 0 || request.signature_value.unused_bits != 0 {
        return Err(CsrError::Algorithm);
    }
    subject_key(info.subject_pki.raw).map_err(|_encoding| CsrError::Algorithm)?;
    algorithm
        .verify_signature(&key.data, info.raw, &request.signature_value.data)
        .map_err(|_invalid| CsrError::Possession)?;
    Ok(PublicKey(info.subject_pki.raw.to_vec()))
}
