//! Pure. What lineage and rollover share: an end-entity certificate with an anchor's subject, trust domain and key, by
//! which its issuer vouches for that anchor, and through which no handshake is ever verified.

use std::time::{Duration, SystemTime};

use meshfed_model::identity::TrustDomain;
use meshfed_runtime::tls;
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage};

use crate::keys::SigningKey;
use crate::template::{IssueError, domain_subject, issuer, params, parse, seconds, subject_key, time_of};

/// Why a certificate does not vouch for an anchor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unproved {
    /// Not a certificate.
    Malformed,
    /// It could sign certificates.
    Ca,
    /// It is for another key or subject.
    Key,
    /// It names another trust domain.
    TrustDomain,
    /// The issuer did not sign it, or it is outside its validity; what rustls-webpki said.
    Issuer(String),
}

/// Vouches for an anchor: CA:FALSE, no keyCertSign, valid as long as the anchor and the issuer.
pub(crate) fn issue(
    issuer_key: &SigningKey,
    issuer_der: &[u8],
    anchor_der: &[u8],
    trust_domain: &TrustDomain,
    now: SystemTime,
) -> Result<Vec<u8>, IssueError> {
    let anchor = parse("anchor", anchor_der)?;
    let parent = parse("issuer certificate", issuer_der)?;
    let end = anchor.validity().not_after.timestamp().min(parent.validity().not_after.timestamp());
    if end <= seconds(now) {
        return Err(IssueError::IssuerExpired);
    }
    let key = subject_key(anchor.tbs_certificate.subject_pki.raw)?;
    let params = params(&trust_domain.uri(), domain_subject(trust_domain), now, time_of(end))?;
    Ok(params.signed_by(&key, &issuer(issuer_der, issuer_key)?)?.der().to_vec())
}

/// Checks that `proof_der` is the issuer's word for this anchor's key and this trust domain.
pub(crate) fn verify(
    anchor_der: &[u8],
    proof_der: &[u8],
    issuer_der: &[u8],
    trust_domain: &TrustDomain,
    now: SystemTime,
) -> Result<(), Unproved> {
    let proof = CertificateDer::from(proof_der);
    let parsed = parse("proof", proof_der).map_err(|_malformed| Unproved::Malformed)?;
    let anchor = parse("anchor", anchor_der).map_err(|_malformed| Unproved::Malformed)?;
    let usage = parsed.key_usage().map_err(|_duplicate| Unproved::Malformed)?;
    if parsed.is_ca() || usage.is_none_or(|u| u.value.key_cert_sign() || u.value.crl_sign()) {
        return Err(Unproved::Ca);
    }
    let same = parsed.tbs_certificate.subject_pki.raw == anchor.tbs_certificate.subject_pki.raw
        && parsed.subject().as_raw() == anchor.subject().as_raw();
    if !same {
        return Err(Unproved::Key);
    }
    if tls::anchor_trust_domain(&proof).as_ref() != Ok(trust_domain) {
        return Err(Unproved::TrustDomain);
    }
    let refuse = |e: webpki::Error| Unproved::Issuer(format!("{e:?}"));
    let issuer = CertificateDer::from(issuer_der);
    let issuer = webpki::anchor_from_trusted_cert(&issuer).map_err(refuse)?;
    let now = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(seconds(now)).unwrap_or(0)));
    let algorithms = tls::provider().signature_verification_algorithms;
    let cert = EndEntityCert::try_from(&proof).map_err(refuse)?;
    // Such a certificate has no extended key usage, so that it is of no use in TLS; `client_auth` takes that.
    cert.verify_for_usage(algorithms.all, &[issuer], &[], now, KeyUsage::client_auth(), None, None).map_err(refuse)?;
    Ok(())
}
