//! Pure. Rollover: the word of an anchor that is held for the anchor that follows it in the same trust domain. Lineage
//! says that the root certifies the new key; only a rollover says that the cluster itself wants it, so that neither the
//! hub nor the root can put a key of theirs in its place (`contracts.md` 1.1).

use std::time::SystemTime;

use meshfed_model::identity::TrustDomain;
use meshfed_runtime::tls;
use rustls_pki_types::CertificateDer;

use crate::anchor::{self, AnchorError};
use crate::keys::SigningKey;
use crate::proof::{self, Unproved};
use crate::template::IssueError;

/// Why a rollover certificate does not bring in a new anchor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RolloverError {
    /// The new anchor itself is wrong.
    #[error("the new anchor of {trust_domain} cannot be taken")]
    Anchor {
        /// The trust domain.
        trust_domain: TrustDomain,
        /// What is wrong.
        #[source]
        source: AnchorError,
    },
    /// Not a certificate.
    #[error("the rollover certificate of {0} is malformed")]
    Malformed(TrustDomain),
    /// It could sign certificates.
    #[error("the rollover certificate of {0} is a CA certificate; it must not be able to sign")]
    Ca(TrustDomain),
    /// It is for another key or subject than the new anchor's.
    #[error("the rollover certificate of {0} is for another key or subject than the new anchor's")]
    Key(TrustDomain),
    /// It names another trust domain.
    #[error("the rollover certificate does not name trust domain {0}")]
    TrustDomain(TrustDomain),
    /// No anchor that is held and valid now has signed it, or it is outside its validity.
    #[error("the rollover certificate of {0} is by no anchor that is held of it and valid now")]
    NotByHeld(TrustDomain),
}

/// Vouches for `new_anchor_der` with the key of the anchor that is to be followed.
///
/// # Errors
/// [`IssueError`]; also when the two are not anchors of one trust domain.
pub fn issue(
    old_key: &SigningKey,
    old_anchor_der: &[u8],
    new_anchor_der: &[u8],
    now: SystemTime,
) -> Result<Vec<u8>, IssueError> {
    let refuse = |what, e: &dyn std::error::Error| IssueError::Input { what, reason: e.to_string() };
    let trust_domain =
        tls::anchor_trust_domain(&CertificateDer::from(old_anchor_der)).map_err(|e| refuse("old anchor", &e))?;
    anchor::verify(old_anchor_der, &trust_domain, now).map_err(|e| refuse("old anchor", &e))?;
    anchor::verify(new_anchor_der, &trust_domain, now).map_err(|e| refuse("new anchor", &e))?;
    let der = proof::issue(old_key, old_anchor_der, new_anchor_der, &trust_domain, now)?;
    verify(new_anchor_der, &der, [old_anchor_der], &trust_domain, now)
        .map_err(|_refused| IssueError::Output("rollover"))?;
    Ok(der)
}

/// Checks that `rollover_der` is the word of one of the held anchors for the new one.
///
/// # Errors
/// [`RolloverError`].
pub fn verify<'a>(
    new_anchor_der: &[u8],
    rollover_der: &[u8],
    held: impl IntoIterator<Item = &'a [u8]>,
    trust_domain: &TrustDomain,
    now: SystemTime,
) -> Result<(), RolloverError> {
    let td = || trust_domain.clone();
    anchor::verify(new_anchor_der, trust_domain, now)
        .map_err(|source| RolloverError::Anchor { trust_domain: td(), source })?;
    // What has ended vouches for nothing: its key may lie on a disk that was thrown away.
    let valid = held.into_iter().filter(|held| anchor::verify(held, trust_domain, now).is_ok());
    for issuer in valid {
        match proof::verify(new_anchor_der, rollover_der, issuer, trust_domain, now) {
            Ok(()) => return Ok(()),
            Err(Unproved::Issuer(_)) => {}
            Err(Unproved::Malformed) => return Err(RolloverError::Malformed(td())),
            Err(Unproved::Ca) => return Err(RolloverError::Ca(td())),
            Err(Unproved::Key) => return Err(RolloverError::Key(td())),
            Err(Unproved::TrustDomain) => return Err(RolloverError::TrustDomain(td())),
        }
    }
    Err(RolloverError::NotByHeld(td()))
}
