//! Pure. The rule by which a receiver takes a trust bundle: lineage by the root pinned at join, a serial that only
//! rises, and for a changed anchor of a trust domain that is known already the word of an anchor that is held.

use std::collections::BTreeSet;
use std::time::SystemTime;

use meshfed_model::bundle::Bundle;
use meshfed_model::identity::TrustDomain;
use meshfed_runtime::limits::LimitExceeded;

use crate::anchor;
use crate::lineage::{self, LineageError};
use crate::rollover::{self, RolloverError};

/// Most anchors of one bundle: the active one, the next, and those that retire.
pub const ANCHORS_MAX: usize = 8;
/// Most bytes of one certificate in a bundle.
pub const CERTIFICATE_MAX: usize = 8 * 1024;

/// Why a bundle was not taken; the held one stays.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// The two bundles are of different trust domains.
    #[error("a bundle of {offered} cannot replace that of {held}")]
    OtherDomain {
        /// Of the held bundle.
        held: TrustDomain,
        /// Of the offered bundle.
        offered: TrustDomain,
    },
    /// No anchor; a trust domain is withdrawn by removing its bundle, not by emptying it.
    #[error("the bundle of {0} has no anchor")]
    Empty(TrustDomain),
    /// Too many anchors, or too large.
    #[error("the bundle of {trust_domain} is too large")]
    Limit {
        /// The trust domain.
        trust_domain: TrustDomain,
        /// Which limit.
        #[source]
        source: LimitExceeded,
    },
    /// Not one lineage certificate for each anchor.
    #[error("the bundle of {trust_domain} has {anchors} anchors and {lineages} lineage certificates")]
    Count {
        /// The trust domain.
        trust_domain: TrustDomain,
        /// Anchors found.
        anchors: usize,
        /// Lineage certificates found.
        lineages: usize,
    },
    /// A lower serial: a replay.
    #[error("the bundle of {trust_domain} has serial {offered}, but {held} is held; an older one is never taken")]
    Rollback {
        /// The trust domain.
        trust_domain: TrustDomain,
        /// The serial held.
        held: u64,
        /// The serial offered.
        offered: u64,
    },
    /// The same serial with other content.
    #[error("the bundle of {trust_domain} changed without a new serial ({serial})")]
    SameSerial {
        /// The trust domain.
        trust_domain: TrustDomain,
        /// The serial.
        serial: u64,
    },
    /// The pinned root does not vouch for an anchor.
    #[error("anchor {index} of the bundle of {trust_domain} is not proven")]
    Lineage {
        /// The trust domain.
        trust_domain: TrustDomain,
        /// Its place in the bundle, from 0.
        index: usize,
        /// What is wrong.
        #[source]
        source: LineageError,
    },
    /// A new key whose rollover certificates do not prove it.
    #[error("the new anchor of known trust domain {trust_domain} is not proven by what is held of it")]
    Rollover {
        /// The trust domain.
        trust_domain: TrustDomain,
        /// What is wrong with the last of them.
        #[source]
        source: RolloverError,
    },
    /// A key that is not yet held for a known trust domain, and nobody vouches for it.
    #[error(
        "the anchor of known trust domain {trust_domain} changed to a key that is not held here; \
         if its owner confirms it, run: meshfed trust approve {trust_domain} --sha256 {sha256}"
    )]
    AnchorChanged {
        /// The trust domain.
        trust_domain: TrustDomain,
        /// SHA-256 of the new anchor's SubjectPublicKeyInfo, hexadecimal.
        sha256: String,
    },
}

impl BundleError {
    /// A stable word for metric labels and events.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::OtherDomain { .. } => "other_domain",
            Self::Empty(_) => "empty",
            Self::Limit { .. } => "limit",
            Self::Count { .. } => "count",
            Self::Rollback { .. } => "rollback",
            Self::SameSerial { .. } => "same_serial",
            Self::Lineage { .. } => "lineage",
            Self::Rollover { .. } => "rollover",
            Self::AnchorChanged { .. } => "anchor_changed",
        }
    }
}

/// Decides whether `offered` takes the place of `held` (`None`: the trust domain is not known yet).
/// The receiver keeps what it ever held of a trust domain, also while it is withdrawn: forgetting it would let a hub
/// withdraw a bundle and bring it back with another key.
///
/// # Errors
/// [`BundleError`]; the held bundle stays.
pub fn accept(
    held: Option<&Bundle>,
    offered: &Bundle,
    root_der: &[u8],
    now: SystemTime,
) -> Result<Bundle, BundleError> {
    accept_with(held, offered, &[], root_der, now)
}

/// [`accept`] where people of the receiving cluster have approved keys, by the SHA-256 of their SubjectPublicKeyInfo: a
/// changed anchor over one of them is taken. Lineage, serial and size are asked for all the same.
///
/// # Errors
/// [`BundleError`]; the held bundle stays.
pub fn accept_approved(
    held: Option<&Bundle>,
    offered: &Bundle,
    approved: &BTreeSet<[u8; 32]>,
    root_der: &[u8],
    now: SystemTime,
) -> Result<Bundle, BundleError> {
    judge(held, offered, &Words { rollovers: &[], approved }, root_der, now)
}

/// [`accept`] of a bundle that came with rollover certificates, DER: a new anchor of a known trust domain needs one by an
/// anchor that is held of it already. They prove a change and are not kept.
///
/// # Errors
/// [`BundleError`]; the held bundle stays.
pub fn accept_with(
    held: Option<&Bundle>,
    offered: &Bundle,
    rollovers: &[Vec<u8>],
    root_der: &[u8],
    now: SystemTime,
) -> Result<Bundle, BundleError> {
    judge(held, offered, &Words { rollovers, approved: &BTreeSet::new() }, root_der, now)
}

/// Who vouches for a new anchor of a known trust domain.
struct Words<'a> {
    /// Anchors that are held, DER rollover certificates.
    rollovers: &'a [Vec<u8>],
    /// People of this cluster, by the hash of the key.
    approved: &'a BTreeSet<[u8; 32]>,
}

fn judge(
    held: Option<&Bundle>,
    offered: &Bundle,
    words: &Words<'_>,
    root_der: &[u8],
    now: SystemTime,
) -> Result<Bundle, BundleError> {
    let td = || offered.trust_domain.clone();
    check_size(offered, words.rollovers)?;
    if let Some(held) = held {
        if held.trust_domain != offered.trust_domain {
            return Err(BundleError::OtherDomain { held: held.trust_domain.clone(), offered: td() });
        }
        if offered.serial < held.serial {
            return Err(BundleError::Rollback { trust_domain: td(), held: held.serial, offered: offered.serial });
        }
        if offered.serial == held.serial {
            let same = held == offered;
            return if same {
                Ok(held.clone())
            } else {
                Err(BundleError::SameSerial { trust_domain: td(), serial: held.serial })
            };
        }
    }
    for (index, (anchor, proof)) in offered.anchors.iter().zip(&offered.lineages).enumerate() {
        lineage::verify(anchor, proof, root_der, &offered.trust_domain, now)
            .map_err(|source| BundleError::Lineage { trust_domain: td(), index, source })?;
    }
    if let Some(held) = held {
        let known: Vec<_> = held.anchors.iter().filter_map(|a| anchor::spki_sha256(a)).collect();
        // A renewed certificate over a held key is signed by that key: the owner vouches for it.
        for new in &offered.anchors {
            let key = anchor::spki_sha256(new).unwrap_or_default();
            if !known.contains(&key) && !words.approved.contains(&key) {
                proven(new, &key, held, words.rollovers, now)?;
            }
        }
    }
    Ok(offered.clone())
}

/// Whether one of the rollover certificates is the word of a held anchor for the new one.
fn proven(
    new: &[u8],
    key: &[u8; 32],
    held: &Bundle,
    rollovers: &[Vec<u8>],
    now: SystemTime,
) -> Result<(), BundleError> {
    let trust_domain = held.trust_domain.clone();
    let mut refused = BundleError::AnchorChanged { trust_domain: trust_domain.clone(), sha256: hex(key) };
    for rollover in rollovers {
        let anchors = held.anchors.iter().map(Vec::as_slice);
        match rollover::verify(new, rollover, anchors, &held.trust_domain, now) {
            Ok(()) => return Ok(()),
            // One for another anchor of the same bundle is not worth telling.
            Err(RolloverError::Key(_)) => {}
            Err(source) => refused = BundleError::Rollover { trust_domain: trust_domain.clone(), source },
        }
    }
    Err(refused)
}

fn check_size(offered: &Bundle, rollovers: &[Vec<u8>]) -> Result<(), BundleError> {
    let td = || offered.trust_domain.clone();
    if offered.anchors.is_empty() {
        return Err(BundleError::Empty(td()));
    }
    let limit = |source| BundleError::Limit { trust_domain: td(), source };
    LimitExceeded::check("anchors", offered.anchors.len(), ANCHORS_MAX).map_err(limit)?;
    if offered.anchors.len() != offered.lineages.len() {
        let (anchors, lineages) = (offered.anchors.len(), offered.lineages.len());
        return Err(BundleError::Count { trust_domain: td(), anchors, lineages });
    }
    LimitExceeded::check("rollovers", rollovers.len(), ANCHORS_MAX).map_err(limit)?;
    for cert in offered.anchors.iter().chain(&offered.lineages).chain(rollovers) {
        LimitExceeded::check("certificate_bytes", cert.len(), CERTIFICATE_MAX).map_err(limit)?;
    }
    Ok(())
}

/// The keys of a bundle's anchors that are not held: what an approval is for. SHA-256 of each SubjectPublicKeyInfo.
#[must_use]
pub fn new_keys(held: &Bundle, offered: &Bundle) -> BTreeSet<[u8; 32]> {
    let keys = |bundle: &Bundle| -> BTreeSet<[u8; 32]> {
        bundle.anchors.iter().filter_map(|a| anchor::spki_sha256(a)).collect()
    };
    &keys(offered) - &keys(held)
}

/// The hash that 64 hexadecimal digits tell; none for any other text.
#[must_use]
pub fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut out = [0; 32];
    if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, digits) in out.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(out)
}

/// Lower-case hexadecimal, as hashes are shown.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
