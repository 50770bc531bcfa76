//! Pure. Issuing X.509-SVIDs by the template of `security.md` 2.2. What comes out is parsed again and checked against
//! the template before it is released.

use std::time::{Duration, SystemTime};

use meshfed_model::identity::SpiffeId;
use meshfed_model::metadata::WorkloadMetadata;
use meshfed_runtime::tls;
use rcgen::{CustomExtension, DistinguishedName, ExtendedKeyUsagePurpose};
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::X509Certificate;

use crate::keys::SigningKey;
use crate::template::{BACKDATE, IssueError, issuer, params, parse, seconds, subject_key, time_of};

/// The life of an SVID where nothing else is said.
pub const TTL: Duration = Duration::from_secs(3600);
/// The same, for those who import it without its module.
pub const SVID_TTL: Duration = TTL;
/// The longest life of an SVID.
pub const TTL_MAX: Duration = Duration::from_secs(24 * 3600);

/// Issues an SVID for a public key. The caller has decided that the owner of the key is `id`; the request's own wishes
/// never come here. It ends at `now + ttl`, or with the issuer.
///
/// # Errors
/// [`IssueError`].
pub fn issue(
    issuer_key: &SigningKey,
    issuer_cert_der: &[u8],
    id: &SpiffeId,
    subject_spki_der: &[u8],
    ttl: Duration,
    now: SystemTime,
) -> Result<Vec<u8>, IssueError> {
    issue_described(issuer_key, issuer_cert_der, id, None, subject_spki_der, ttl, now)
}

/// As [`issue`], and says of the workload what metrics call it. It is no part of the identity.
///
/// # Errors
/// [`IssueError`].
pub fn issue_described(
    issuer_key: &SigningKey,
    issuer_cert_der: &[u8],
    id: &SpiffeId,
    metadata: Option<&WorkloadMetadata>,
    subject_spki_der: &[u8],
    ttl: Duration,
    now: SystemTime,
) -> Result<Vec<u8>, IssueError> {
    if ttl.as_secs() == 0 || ttl > TTL_MAX {
        return Err(IssueError::Ttl { seconds: ttl.as_secs(), max: TTL_MAX.as_secs() });
    }
    let parent = parse("issuer certificate", issuer_cert_der)?;
    if !parent.is_ca() {
        return Err(IssueError::Input { what: "issuer certificate", reason: "it is no CA certificate".to_owned() });
    }
    let named = tls::anchor_trust_domain(&CertificateDer::from(issuer_cert_der));
    if named.is_ok_and(|t| t != id.trust_domain) {
        let reason = format!("it is the anchor of another trust domain than {}", id.trust_domain);
        return Err(IssueError::Input { what: "issuer certificate", reason });
    }
    let validity = parent.validity();
    if seconds(now) < validity.not_before.timestamp() || seconds(now) >= validity.not_after.timestamp() {
        return Err(IssueError::IssuerExpired);
    }
    let not_after = time_of(seconds(now + ttl).min(validity.not_after.timestamp()));
    // The subject stays empty, so that nothing but the URI SAN, which is critical then, can be taken for a name.
    let mut params = params(&id.to_string(), DistinguishedName::new(), now, not_after)?;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let described = |of| CustomExtension::from_oid_content(tls::DESCRIPTION_EXTENSION, tls::description(of));
    params.custom_extensions.extend(metadata.map(described));
    let key = subject_key(subject_spki_der)?;
    let der = params.signed_by(&key, &issuer(issuer_cert_der, issuer_key)?)?.der().to_vec();
    check(&der, &parent, issuer_cert_der, id, subject_spki_der, ttl, now).map_err(IssueError::Output)?;
    if tls::described(&CertificateDer::from(der.as_slice())).as_ref() != metadata {
        return Err(IssueError::Output("description"));
    }
    Ok(der)
}

/// The template again, read from the output.
fn check(
    der: &[u8],
    parent: &X509Certificate<'_>,
    issuer_cert_der: &[u8],
    id: &SpiffeId,
    spki: &[u8],
    ttl: Duration,
    now: SystemTime,
) -> Result<(), &'static str> {
    let cert = CertificateDer::from(der);
    if tls::peer_spiffe_id(&cert).as_ref() != Ok(id) {
        return Err("identity");
    }
    let parsed = parse("output", der).map_err(|_malformed| "encoding")?;
    let san = parsed.subject_alternative_name().ok().flatten().ok_or("SAN")?;
    if san.value.general_names.len() != 1 || !san.critical || parsed.subject().iter().next().is_some() {
        return Err("SAN and subject");
    }
    let usage = parsed.key_usage().ok().flatten().ok_or("key usage")?;
    // Bit 0 is digitalSignature, and nothing else is set.
    if !usage.critical || usage.value.flags != 1 {
        return Err("key usage");
    }
    let constraints = parsed.basic_constraints().ok().flatten().ok_or("basic constraints")?;
    if !constraints.critical || constraints.value.ca {
        return Err("basic constraints");
    }
    let extended = parsed.extended_key_usage().ok().flatten().ok_or("extended key usage")?.value;
    let only_tls = !extended.any
        && !extended.code_signing
        && !extended.email_protection
        && !extended.time_stamping
        && !extended.ocsp_signing
        && extended.other.is_empty();
    if !extended.server_auth || !extended.client_auth || !only_tls {
        return Err("extended key usage");
    }
    let (begin, end) = (parsed.validity().not_before.timestamp(), parsed.validity().not_after.timestamp());
    if begin != seconds(now - BACKDATE) || end > seconds(now + ttl) || end > parent.validity().not_after.timestamp() {
        return Err("validity");
    }
    if parsed.tbs_certificate.subject_pki.raw != spki || parsed.issuer().as_raw() != parent.subject().as_raw() {
        return Err("key or issuer");
    }
    if !tls::is_signed_by(&cert, &CertificateDer::from(issuer_cert_der)) {
        return Err("signature");
    }
    Ok(())
}
