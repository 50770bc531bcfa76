//! Pure. The fleet root: it certifies lineage and nothing else, so no handshake ever leads to it.

use std::time::{Duration, SystemTime};

use meshfed_model::identity::TrustDomain;
use meshfed_runtime::tls;
use rcgen::{BasicConstraints, DistinguishedName, DnType, IsCa, KeyUsagePurpose};
use rustls_pki_types::CertificateDer;

use crate::keys::SigningKey;
use crate::template::{IssueError, params, parse};

/// How long a root lives.
pub const TTL: Duration = Duration::from_secs(20 * 365 * 24 * 3600);

/// Makes a self-signed root for the fleet: CA:TRUE, path length 0, keyCertSign, no SAN.
///
/// # Errors
/// [`IssueError`].
pub fn create(key: &SigningKey, fleet: &TrustDomain, now: SystemTime, ttl: Duration) -> Result<Vec<u8>, IssueError> {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::OrganizationName, "meshfed");
    subject.push(DnType::OrganizationalUnitName, "fleet root");
    subject.push(DnType::CommonName, fleet.as_str().chars().take(64).collect::<String>());
    let mut params = params(&fleet.uri(), subject, now, now + ttl)?;
    // Without a SAN it can never be mistaken for the anchor of the fleet's own trust domain.
    params.subject_alt_names = Vec::new();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let der = params.self_signed(key)?.der().to_vec();
    if !verify(&der) {
        return Err(IssueError::Output("root"));
    }
    Ok(der)
}

/// Whether a certificate can be a root: a CA that may sign, signed by its own key.
#[must_use]
pub fn verify(der: &[u8]) -> bool {
    let Ok(parsed) = parse("root", der) else { return false };
    let may_sign = parsed.key_usage().ok().flatten().is_none_or(|u| u.value.key_cert_sign());
    parsed.is_ca() && may_sign && tls::is_self_signed(&CertificateDer::from(der))
}
