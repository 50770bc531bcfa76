//! Pure. Lineage: the root's word that a key is the CA key of a trust domain. An end-entity certificate with the
//! anchor's subject, name and key, which no handshake is ever verified through.

use std::time::SystemTime;

use meshfed_model::identity::TrustDomain;
use meshfed_runtime::tls;
use rustls_pki_types::CertificateDer;

use crate::anchor::{self, AnchorError};
use crate::keys::SigningKey;
use crate::proof::{self, Unproved};
use crate::template::IssueError;

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
    let der = proof::issue(root_key, root_der, anchor_der, &trust_domain, now)?;
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
    proof::verify(anchor_der, lineage_der, root_der, trust_domain, now).map_err(|unproved| match unproved {
        Unproved::Malformed => LineageError::Malformed(td()),
        Unproved::Ca => LineageError::Ca(td()),
        Unproved::Key => LineageError::Key(td()),
        Unproved::TrustDomain => LineageError::TrustDomain(td()),
        Unproved::Issuer(reason) => LineageError::Root { trust_domain: td(), reason },
    })
}
