//! Pure. Lineage: the root's word that a key is the CA key of a trust domain. An end-entity certificate with the
//! anchor's subject, name and key, which no handshake is ever verified through.

use std::time::SystemTime;

use meshfed_model::identity::TrustDomain;
use meshfed_runtime::tls;
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage};

use crate::anchor::{self, AnchorError};
use crate::keys::SigningKey;
use crate::template::{IssueError, domain_subject, issuer, params, parse, seconds, subject_key, time_of};

/// Why a lineage certificate does not prove an anchor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LineageError {
    /// The anchor itself is wrong.
    #[error("the anchor of {trust_domain} cannot be taken")]
    Anchor {
        /// The trust domain.
        trust_domain: TrustDomain,
        /// What is wrong.
        #[source]
        source: AnchorError,
    },
    /// Not a certificate.
    #[error("the lineage certificate of {0} is malformed")]
    Malformed(TrustDomain),
    /// The pinned root did not sign it, or it is outside its validity.
    #[error("the lineage certificate of {trust_domain} is not by the root pinned at join ({reason})")]
    Root {
        /// The trust domain.
        trust_domain: TrustDomain,
        /// What rustls-webpki said.
        reason: String,
    },
    /// It names another trust domain.
    #[error("the lineage certificate does not name trust domain {0}")]
    TrustDomain(TrustDomain),
    /// It is for another key or subject than the anchor's.
    #[error("the lineage certificate of {0} is for another key or subject than the anchor's")]
    Key(TrustDomain),
    /// It could sign certificates.
    #[error("the lineage certificate of {0} is a CA certificate; lineage must not be able to sign")]
    Ca(TrustDomain),
}

/// Certifies an anchor: CA:FALSE, no keyCertSign, the anchor's trust domain, subject and key, valid as long as anchor
/// and root.
///
/// # Errors
/// [`IssueError`]; also when `anchor_der` is no anchor.
pub fn issue(
    root_key: &SigningKey,
    root_der: &[u8],
    anchor_der: &[u8],
    now: SystemTime,
) -> Result<Vec<u8>, IssueError> {
    let refuse = |what, e: &dyn std::error::Error| IssueError::Input { what, reason: e.to_string() };
    let anchor = CertificateDer::from(anchor_der);
    let trust_domain = tls::anchor_trust_domain(&anchor).map_err(|e| refuse("anchor", &e))?;
    anchor::verify(anchor_der, &trust_domain, now).map_err(|e| refuse("anchor", &e))?;
    let parsed = parse("anchor", anchor_der)?;
    let root = parse("root", root_der)?;
    let end = parsed.validity().not_after.timestamp().min(root.validity().not_after.timestamp());
    if end <= seconds(now) {
        return Err(IssueError::IssuerExpired);
    }
    let key = subject_key(parsed.tbs_certificate.subject_pki.raw)?;
    let params = params(&trust_domain.uri(), domain_subject(&trust_domain), now, time_of(end))?;
    let der = params.signed_by(&key, &issuer(root_der, root_key)?)?.der().to_vec();
    verify(anchor_der, &der, root_der, &trust_domain, now).map_err(|_refused| IssueError::Output("lineage"))?;
    Ok(der)
}

/// Checks that `lineage_der` is the word of the pinned root for this anchor's key and this trust domain.
///
/// # Errors
/// [`LineageError`].
pub fn verify(
    anchor_der: &[u8],
    lineage_der: &[u8],
    root_der: &[u8],
    trust_domain: &TrustDomain,
    now: SystemTime,
) -> Result<(), LineageError> {
    let td = || trust_domain.clone();
    anchor::verify(anchor_der, trust_domain, now)
        .map_err(|source| LineageError::Anchor { trust_domain: td(), source })?;
    let lineage = CertificateDer::from(lineage_der);
    let parsed = parse("lineage", lineage_der).map_err(|_malformed| LineageError::Malformed(td()))?;
    let anchor = parse("anchor", anchor_der).map_err(|_malformed| LineageError::Malformed(td()))?;
    let usage = parsed.key_usage().map_err(|_duplicate| LineageError::Malformed(td()))?;
    if parsed.is_ca() || usage.is_none_or(|u| u.value.key_cert_sign() || u.value.crl_sign()) {
        return Err(LineageError::Ca(td()));
    }
    let same = parsed.tbs_certificate.subject_pki.raw == anchor.tbs_certificate.subject_pki.raw
        && parsed.subject().as_raw() == anchor.subject().as_raw();
    if !same {
        return Err(LineageError::Key(td()));
    }
    if tls::anchor_trust_domain(&lineage).as_ref() != Ok(trust_domain) {
        return Err(LineageError::TrustDomain(td()));
    }
    let refuse = |e: webpki::Error| LineageError::Root { trust_domain: td(), reason: format!("{e:?}") };
    let root = CertificateDer::from(root_der);
    let root = webpki::anchor_from_trusted_cert(&root).map_err(refuse)?;
    let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(u64::try_from(seconds(now)).unwrap_or(0)));
    let algorithms = tls::provider().signature_verification_algorithms;
    let cert = EndEntityCert::try_from(&lineage).map_err(refuse)?;
    // A lineage certificate has no extended key usage, so that it is of no use in TLS; `client_auth` takes that.
    cert.verify_for_usage(algorithms.all, &[root], &[], now, KeyUsage::client_auth(), None, None).map_err(refuse)?;
    Ok(())
}
