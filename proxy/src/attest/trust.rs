//! Edge. The anchors of `--trust-file`: those of the own cluster's trust domain.

use std::collections::BTreeMap;
use std::path::Path;

use meshfed_model::identity::TrustDomain;
use meshfed_runtime::files::{self, FileError};
use meshfed_runtime::tls::{InvalidAnchor, SvidError, TrustStore, anchor_trust_domain};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

/// Largest file.
const FILE_MAX: usize = 128 * 1024;
/// Most anchors.
const ANCHORS_MAX: usize = 16;

/// Why a file holds no anchors to verify the agent by.
#[derive(Debug, thiserror::Error)]
pub(super) enum TrustError {
    /// It cannot be read.
    #[error("it cannot be read yet: ConfigMap meshfed-trust is made by the agent once its cluster has joined")]
    File(#[source] FileError),
    /// It is not PEM.
    #[error("certificate {0} is not PEM")]
    Pem(usize),
    /// None, or too many.
    #[error("it holds {0} certificates, 1 to {ANCHORS_MAX} are expected")]
    Count(usize),
    /// A certificate names no trust domain.
    #[error("certificate {0} is no anchor of a trust domain")]
    Anchor(usize, #[source] SvidError),
    /// Two clusters.
    #[error("it holds anchors of several trust domains, {0} and {1}; only those of the own cluster belong there")]
    Several(TrustDomain, TrustDomain),
    /// An anchor cannot be used.
    #[error(transparent)]
    Invalid(#[from] InvalidAnchor),
}

/// Reads it.
pub(super) fn read(path: &Path) -> Result<TrustStore, TrustError> {
    let bytes = files::read_limited(path, FILE_MAX).map_err(TrustError::File)?;
    let mut anchors: BTreeMap<TrustDomain, Vec<CertificateDer<'static>>> = BTreeMap::new();
    let mut count = 0;
    for (index, found) in CertificateDer::pem_slice_iter(&bytes).enumerate() {
        let certificate = found.map_err(|_pem| TrustError::Pem(index + 1))?;
        let domain = anchor_trust_domain(&certificate).map_err(|e| TrustError::Anchor(index + 1, e))?;
        anchors.entry(domain).or_default().push(certificate);
        count = index + 1;
        if count > ANCHORS_MAX {
            return Err(TrustError::Count(count));
        }
    }
    let mut domains = anchors.keys();
    match (domains.next(), domains.next()) {
        (None, _) => Err(TrustError::Count(count)),
        (Some(one), Some(other)) => Err(TrustError::Several(one.clone(), other.clone())),
        (Some(_), None) => Ok(TrustStore::with(anchors)?),
    }
}
