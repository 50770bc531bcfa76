//! Pure. The anchor of a trust domain: a self-signed CA certificate, the whole content of that domain's bundle.

use std::time::{Duration, SystemTime};

use meshfed_model::identity::TrustDomain;
use meshfed_runtime::tls;
use rcgen::{BasicConstraints, IsCa, KeyUsagePurpose};
use rustls_pki_types::CertificateDer;

use crate::keys::SigningKey;
use crate::template::{IssueError, domain_subject, params, parse, seconds};

/// How long an anchor lives; until trust rotation comes, nothing replaces it.
pub const TTL: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Why a certificate is not the anchor of a trust domain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnchorError {
    /// Not a certificate.
    #[error("not an X.509 certificate")]
    Malformed,
    /// Not a CA, or it may not sign certificates.
    #[error("not a CA certificate that may sign")]
    NotCa,
    /// Signed by another key.
    #[error("not self-signed; an anchor is signed by its own key")]
    NotSelfSigned,
    /// Its one URI SAN is not that trust domain.
    #[error("its URI SAN is not spiffe://{expected}")]
    TrustDomain {
        /// The expected trust domain.
        expected: TrustDomain,
    },
    /// Outside its validity.
    #[error("not valid at this time; check the clock")]
    Expired,
}

/// Makes the anchor of `trust_domain`: CA:TRUE with path length 0, keyCertSign, one URI SAN `spiffe://<trust domain>`,
/// the same subject as its lineage.
///
/// # Errors
/// [`IssueError`].
pub fn self_signed(
    key: &SigningKey,
    trust_domain: &TrustDomain,
    now: SystemTime,
    ttl: Duration,
) -> Result<Vec<u8>, IssueError> {
    let mut params = params(&trust_domain.uri(), domain_subject(trust_domain), now, now + ttl)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let der = params.self_signed(key)?.der().to_vec();
    verify(&der, trust_domain, now).map_err(|_refused| IssueError::Output("anchor"))?;
    Ok(der)
}

/// Checks that a certificate is an anchor of `trust_domain` and valid now. Says nothing about lineage.
///
/// # Errors
/// [`AnchorError`].
pub fn verify(der: &[u8], trust_domain: &TrustDomain, now: SystemTime) -> Result<(), AnchorError> {
    let parsed = parse("anchor", der).map_err(|_malformed| AnchorError::Malformed)?;
    let may_sign = parsed.key_usage().ok().flatten().is_some_and(|u| u.value.key_cert_sign());
    if !parsed.is_ca() || !may_sign {
        return Err(AnchorError::NotCa);
    }
    let der = CertificateDer::from(der);
    if !tls::is_self_signed(&der) {
        return Err(AnchorError::NotSelfSigned);
    }
    if tls::anchor_trust_domain(&der).as_ref() != Ok(trust_domain) {
        return Err(AnchorError::TrustDomain { expected: trust_domain.clone() });
    }
    let (begin, end) = (parsed.validity().not_before.timestamp(), parsed.validity().not_after.timestamp());
    if seconds(now) < begin || seconds(now) > end {
        return Err(AnchorError::Expired);
    }
    Ok(())
}

/// SHA-256 of the DER SubjectPublicKeyInfo of a certificate: what a token pins and the API shows.
#[must_use]
pub fn spki_sha256(der: &[u8]) -> Option<[u8; 32]> {
    let parsed = parse("certificate", der).ok()?;
    Some(crate::keys::sha256(parsed.tbs_certificate.subject_pki.raw))
}

/// Begin and end of a certificate.
#[must_use]
pub fn validity(der: &[u8]) -> Option<(SystemTime, SystemTime)> {
    let parsed = parse("certificate", der).ok()?;
    let validity = parsed.validity();
    Some((
        crate::template::time_of(validity.not_before.timestamp()),
        crate::template::time_of(validity.not_after.timestamp()),
    ))
}
