//! Edge. The fleet's keys: the root that certifies lineage, the anchor of the fleet's own domain, and this federator's
//! identity under it. Keys lie in `D/ca/`, mode 0600; they are made once, and never over a registry that exists.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use meshfed_ca::keys::{KeyError, SigningKey};
use meshfed_ca::{IssueError, anchor, csr, lineage, pem, root, svid};
use meshfed_model::bundle::Bundle;
use meshfed_model::identity::{SpiffeId, TrustDomain};
use meshfed_runtime::files::{self, FileError};
use meshfed_runtime::tls::{Identity, IdentityError, IdentityStore, TrustStore};

/// The life of root and fleet anchor: ten years.
const ANCHOR_TTL: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// The largest PEM that is read, in bytes.
const PEM_LIMIT: usize = 64 * 1024;
/// Where the root's key lies when no `--root-key` names another place.
const ROOT_KEY: &str = "root-key.pem";

/// Why trust could not be set up, or nothing be issued.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// A file cannot be read or written.
    #[error("a file of the fleet's trust cannot be used")]
    File(#[from] FileError),
    /// A key or certificate is missing although the registry knows the fleet.
    #[error("{} is missing, but the registry knows this fleet; restore D/ca from a backup, it is never made anew", .0.display())]
    Missing(PathBuf),
    /// A key is no key.
    #[error("{}: not a usable key", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: KeyError,
    },
    /// A certificate file holds none.
    #[error("{}: not one PEM certificate", .0.display())]
    Certificate(PathBuf),
    /// Key and certificate do not belong together.
    #[error("{}: not the key of the root certificate {}", key.display(), certificate.display())]
    OtherRoot {
        /// The key.
        key: PathBuf,
        /// The certificate.
        certificate: PathBuf,
    },
    /// The root's word for the fleet's anchor is none.
    #[error("{}: not the root's word for the fleet's anchor; restore D/ca from a backup", path.display())]
    Lineage {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: lineage::LineageError,
    },
    /// No root key at hand.
    #[error("the root key is offline; name it with --root-key FILE")]
    RootOffline,
    /// Issuing failed.
    #[error("a certificate was not issued")]
    Issue(#[from] IssueError),
    /// A key could not be made.
    #[error("a key was not made")]
    Generate(#[source] KeyError),
    /// What was issued cannot be used.
    #[error("the federator's own identity cannot be used")]
    Identity(#[from] IdentityError),
    /// The fleet's anchor cannot be used.
    #[error("the fleet's anchor cannot be used")]
    Anchor(#[from] meshfed_runtime::tls::InvalidAnchor),
    /// An agent's request for a certificate.
    #[error("the agent's certificate request is refused")]
    Request(#[from] csr::CsrError),
}

/// The fleet's trust.
pub struct Trust {
    fleet: TrustDomain,
    id: SpiffeId,
    root: Vec<u8>,
    root_key: Option<SigningKey>,
    anchor: Vec<u8>,
    anchor_key: SigningKey,
    lineage: Vec<u8>,
    identity: Arc<IdentityStore>,
    peers: Arc<TrustStore>,
}

impl std::fmt::Debug for Trust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trust").field("fleet", &self.fleet).field("id", &self.id).finish_non_exhaustive()
    }
}

fn key(path: &Path, create: bool) -> Result<Option<SigningKey>, TrustError> {
    match files::read_text(path, PEM_LIMIT) {
        Ok(text) => SigningKey::from_pkcs8_pem(&text)
            .map(Some)
            .map_err(|source| TrustError::Key { path: path.to_owned(), source }),
        Err(error) if error.is_not_found() && create => {
            let key = SigningKey::generate().map_err(TrustError::Generate)?;
            files::write_secret(path, key.to_pkcs8_pem().as_bytes())?;
            Ok(Some(key))
        }
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// A certificate file, made by `make` when it is not there and may be made.
fn certificate(
    path: &Path,
    create: bool,
    make: impl FnOnce() -> Result<Vec<u8>, TrustError>,
) -> Result<Vec<u8>, TrustError> {
    match files::read_text(path, PEM_LIMIT) {
        Ok(text) => match pem::certificates(&text).as_deref() {
            Ok([one]) => Ok(one.to_vec()),
            Ok(_) | Err(_) => Err(TrustError::Certificate(path.to_owned())),
        },
        Err(error) if error.is_not_found() && create => {
            let der = make()?;
            files::write_secret(path, pem::encode_certificates([der.as_slice()]).as_bytes())?;
            Ok(der)
        }
        Err(error) if error.is_not_found() => Err(TrustError::Missing(path.to_owned())),
        Err(error) => Err(error.into()),
    }
}

impl Trust {
    /// Opens `D/ca`, making what is missing when the registry is new.
    ///
    /// # Errors
    /// [`TrustError`].
    pub fn open(
        data_dir: &Path,
        fleet: TrustDomain,
        federator: u32,
        new: bool,
        external_root: Option<&Path>,
        now: SystemTime,
    ) -> Result<Self, TrustError> {
        let dir = data_dir.join("ca");
        files::create_private_dir(&dir)?;
        let root_key_path = external_root.map_or_else(|| dir.join(ROOT_KEY), Path::to_owned);
        let root_key = key(&root_key_path, new && external_root.is_none())?;
        let root_path = dir.join("root.pem");
        let root = certificate(&root_path, new, || {
            let key = root_key.as_ref().ok_or(TrustError::RootOffline)?;
            Ok(root::create(key, &fleet, now, ANCHOR_TTL)?)
        })?;
        if let Some(key) = &root_key
            && !holds(&root, key)
        {
            return Err(TrustError::OtherRoot { key: root_key_path, certificate: root_path });
        }
        let anchor_key_path = dir.join("fleet-key.pem");
        let anchor_key = key(&anchor_key_path, new)?.ok_or(TrustError::Missing(anchor_key_path))?;
        let anchor = certificate(&dir.join("fleet.pem"), new, || {
            Ok(anchor::self_signed(&anchor_key, &fleet, now, ANCHOR_TTL)?)
        })?;
        let lineage_path = dir.join("fleet-lineage.pem");
        let lineage = certificate(&lineage_path, new, || {
            let key = root_key.as_ref().ok_or(TrustError::RootOffline)?;
            Ok(lineage::issue(key, &root, &anchor, now)?)
        })?;
        // No joiner would take a bundle without it, and each would have spent its token. Not by the clock: one that is
        // wrong at the start must not keep a federator away.
        let begin = anchor::validity(&lineage).map_or(now, |(begin, _)| begin);
        lineage::verify(&anchor, &lineage, &root, &fleet, begin)
            .map_err(|source| TrustError::Lineage { path: lineage_path, source })?;
        let peers = TrustStore::with([(fleet.clone(), vec![anchor.clone().into()])].into())?;
        let trust = Self {
            id: SpiffeId::federator(fleet.clone(), federator),
            fleet,
            root,
            root_key,
            anchor,
            anchor_key,
            lineage,
            identity: Arc::new(IdentityStore::empty()),
            peers: Arc::new(peers),
        };
        trust.renew(now)?;
        Ok(trust)
    }

    /// F.
    #[must_use]
    pub const fn fleet(&self) -> &TrustDomain {
        &self.fleet
    }
    /// This federator.
    #[must_use]
    pub const fn id(&self) -> &SpiffeId {
        &self.id
    }
    /// The root's certificate, DER.
    #[must_use]
    pub fn root(&self) -> &[u8] {
        &self.root
    }
    /// Whether lineage can be certified now.
    #[must_use]
    pub const fn root_online(&self) -> bool {
        self.root_key.is_some()
    }
    /// What join tokens pin: SHA-256 of the SubjectPublicKeyInfo of F's anchor.
    #[must_use]
    pub fn pin(&self) -> [u8; 32] {
        self.anchor_key.spki_sha256()
    }
    /// What port 15600 shows.
    #[must_use]
    pub const fn identity(&self) -> &Arc<IdentityStore> {
        &self.identity
    }
    /// What agents are verified with: F's anchor alone.
    #[must_use]
    pub const fn peers(&self) -> &Arc<TrustStore> {
        &self.peers
    }
    /// The bundle of F itself.
    #[must_use]
    pub fn bundle(&self) -> Bundle {
        Bundle {
            trust_domain: self.fleet.clone(),
            serial: 1,
            anchors: vec![self.anchor.clone()],
            lineages: vec![self.lineage.clone()],
        }
    }

    /// A new identity of this federator. The chain carries F's anchor too, so that a joiner who holds only its hash
    /// can verify (`contracts.md` 1.1). Gives the time to renew.
    ///
    /// # Errors
    /// [`TrustError`].
    pub fn renew(&self, now: SystemTime) -> Result<SystemTime, TrustError> {
        let key = SigningKey::generate().map_err(TrustError::Generate)?;
        let leaf = svid::issue(&self.anchor_key, &self.anchor, &self.id, key.public_key_der(), svid::TTL, now)?;
        let identity = Identity::new(vec![leaf.into(), self.anchor.clone().into()], key.to_private_key_der())?;
        let renew_at = identity.renew_at();
        self.identity.replace(identity);
        Ok(renew_at)
    }

    /// The root's word for a cluster's anchor.
    ///
    /// # Errors
    /// [`TrustError::RootOffline`], or when the anchor is none.
    pub fn certify(&self, anchor: &[u8], now: SystemTime) -> Result<Vec<u8>, TrustError> {
        let key = self.root_key.as_ref().ok_or(TrustError::RootOffline)?;
        Ok(lineage::issue(key, &self.root, anchor, now)?)
    }

    /// An agent's certificate.
    ///
    /// # Errors
    /// [`TrustError`].
    pub fn issue_agent(&self, id: &SpiffeId, spki: &[u8], now: SystemTime) -> Result<Vec<u8>, TrustError> {
        Ok(svid::issue(&self.anchor_key, &self.anchor, id, spki, svid::TTL, now)?)
    }
}

/// Whether a certificate is for a key.
fn holds(certificate: &[u8], key: &SigningKey) -> bool {
    use x509_parser::prelude::FromDer as _;
    x509_parser::prelude::X509Certificate::from_der(certificate)
        .is_ok_and(|(_, parsed)| parsed.tbs_certificate.subject_pki.raw == key.public_key_der())
}

/// Keeps the federator's identity fresh until the drain.
///
/// # Errors
/// Never: a failed renewal is tried again a minute later.
pub async fn keep_fresh(
    trust: Arc<Trust>,
    drain: meshfed_runtime::drain::Watch,
) -> Result<(), std::convert::Infallible> {
    const RETRY: Duration = Duration::from_secs(60);
    let mut renew_at = trust.identity.get().map_or_else(meshfed_runtime::clock::wall, |i| i.renew_at());
    loop {
        let wait = renew_at.duration_since(meshfed_runtime::clock::wall()).unwrap_or_default();
        tokio::select! {
            () = tokio::time::sleep(wait.max(Duration::from_secs(1))) => {}
            () = drain.signaled() => return Ok(()),
        }
        let now = meshfed_runtime::clock::wall();
        match trust.renew(now) {
            Ok(next) => renew_at = next,
            Err(error) => {
                tracing::error!(
                    error = meshfed_runtime::telemetry::chain(&error),
                    "the federator's identity was not renewed"
                );
                renew_at = now + RETRY;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A fleet whose own anchor nobody would take does not start: each joiner would spend its token and fail.
    ///
    /// Mutation seen to fail: `lineage::verify` left out of `open`.
    #[test]
    fn the_roots_word_for_the_fleets_anchor_is_checked() {
        let now = meshfed_runtime::clock::wall();
        let fleet = || TrustDomain::new("mesh.example").unwrap();
        let dir = tempfile::tempdir().unwrap();
        let open = |new| Trust::open(dir.path(), fleet(), 1, new, None, now).map(drop);
        open(true).unwrap();
        open(false).unwrap();
        let lineage = dir.path().join("ca/fleet-lineage.pem");
        let other = tempfile::tempdir().unwrap();
        Trust::open(other.path(), fleet(), 1, true, None, now).map(drop).unwrap();
        std::fs::copy(other.path().join("ca/fleet-lineage.pem"), &lineage).unwrap();
        let refused = open(false).unwrap_err();
        assert!(matches!(&refused, TrustError::Lineage { path, .. } if *path == lineage), "{refused}");
    }
}
