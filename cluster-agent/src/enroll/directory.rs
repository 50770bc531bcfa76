//! Edge. The data directory of a member: built beside its place as `E.pending`, and moved there whole.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use meshfed_ca::anchor::AnchorError;
use meshfed_ca::keys::SigningKey;
use meshfed_ca::{anchor, pem};
use meshfed_model::identity::TrustDomain;
use meshfed_runtime::files::{self, FileError};
use zeroize::Zeroizing;

use super::{AgentFile, EnrollError};

/// The largest key file, in bytes.
const KEY_LIMIT: usize = 64 << 10;

/// The largest anchor file, in bytes.
const ANCHOR_LIMIT: usize = 64 << 10;
/// The cluster's CA key.
pub(super) const CA_KEY: &str = "ca/key.pem";
/// The cluster's anchor.
const ANCHOR: &str = "ca/anchor.pem";
/// Which token was asked with, and the trust domain it is for: what a repetition needs to be the same join.
const ASKED: &str = "asked";
/// The largest such file, in bytes.
const ASKED_LIMIT: usize = 4 << 10;

/// A directory that is not yet a member's.
pub(super) struct Pending {
    path: PathBuf,
    target: PathBuf,
}

/// What a member keeps.
pub(super) struct Content<'a> {
    /// `agent.yaml`.
    pub agent_file: &'a AgentFile,
    /// The cluster's anchor, DER.
    pub anchor: &'a [u8],
    /// Its lineage certificate, DER.
    pub lineage: &'a [u8],
    /// The fleet's root, DER.
    pub root: &'a [u8],
    /// The agent's certificate, DER.
    pub agent_certificate: &'a [u8],
    /// Anchors by trust domain, DER.
    pub bundles: Vec<(TrustDomain, Vec<Vec<u8>>)>,
}

impl Pending {
    /// `E.pending` for data directory `E`.
    ///
    /// # Errors
    /// When `E` is there already and is not empty.
    pub(super) fn open(data_dir: &Path) -> Result<Self, EnrollError> {
        let refuse = |problem: &str| EnrollError::Directory { path: data_dir.to_owned(), problem: problem.to_owned() };
        let name = data_dir.file_name().ok_or_else(|| refuse("is no name for a data directory"))?;
        match std::fs::read_dir(data_dir) {
            Ok(entries) => {
                if entries.count() > 0 {
                    return Err(refuse("is not empty and no meshfed data directory; name a new one with --data-dir"));
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(refuse(&format!("cannot be used: {error}"))),
        }
        let path = beside(data_dir, name);
        files::create_data_dir(&path).map_err(|error| failure(&error))?;
        Ok(Self { path, target: data_dir.to_owned() })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The trust domain that a join of `data_dir` with this token asked for before it broke off, if one did.
    pub(super) fn asked(data_dir: &Path, token_id: &str) -> Option<TrustDomain> {
        let text = files::read_text(&beside(data_dir, data_dir.file_name()?).join(ASKED), ASKED_LIMIT).ok()?;
        let (id, trust_domain) = text.trim_end().split_once(' ')?;
        TrustDomain::new(trust_domain).ok().filter(|_| id == token_id)
    }

    /// Remembers what is about to be asked: the federator takes a repetition for the same join by key and anchor.
    pub(super) fn ask(&self, token_id: &str, trust_domain: &TrustDomain, anchor: &[u8]) -> Result<(), EnrollError> {
        self.secret(ANCHOR, &pem::encode_certificates([anchor]))?;
        self.secret(ASKED, &format!("{token_id} {trust_domain}\n"))
    }

    /// The anchor that was asked with, where it is (still) one of the trust domain.
    pub(super) fn anchor(&self, trust_domain: &TrustDomain, now: SystemTime) -> Option<Vec<u8>> {
        let text = files::read_text(&self.path.join(ANCHOR), ANCHOR_LIMIT).ok()?;
        let anchor = pem::certificates(&text).ok()?.into_iter().next()?.to_vec();
        anchor::verify(&anchor, trust_domain, now).ok().map(|()| anchor)
    }

    /// Takes over the CA key and the anchor of another data directory of the cluster.
    pub(super) fn keep_ca(&self, from: &Path, trust_domain: &TrustDomain) -> Result<(), EnrollError> {
        let (key, anchor) = read_ca(from, trust_domain)?;
        files::create_private_dir(&self.path.join("ca")).map_err(|error| failure(&error))?;
        self.secret(CA_KEY, &key)?;
        self.secret(ANCHOR, &anchor)
    }

    /// The key of that name, made when it is not there: a join that broke off is repeated with the same key.
    pub(super) fn key(&self, file: &str) -> Result<SigningKey, EnrollError> {
        let path = self.path.join(file);
        match files::read_text(&path, KEY_LIMIT) {
            Ok(text) => {
                if let Ok(key) = SigningKey::from_pkcs8_pem(&text) {
                    return Ok(key);
                }
            }
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(failure(&error)),
        }
        let key = SigningKey::generate().map_err(|error| EnrollError::Directory {
            path: path.clone(),
            problem: format!("no key can be made: {error}"),
        })?;
        if let Some(parent) = path.parent() {
            files::create_private_dir(parent).map_err(|error| failure(&error))?;
        }
        files::write_secret(&path, key.to_pkcs8_pem().as_bytes()).map_err(|error| failure(&error))?;
        Ok(key)
    }

    /// Writes everything and moves the directory to its place.
    pub(super) fn finish(self, content: &Content<'_>) -> Result<(), EnrollError> {
        let written = self.write(content);
        let moved = written.and_then(|()| {
            let _removed = files::remove(&self.path.join(ASKED)).map_err(|error| failure(&error))?;
            std::fs::rename(&self.path, &self.target).map_err(|error| EnrollError::Directory {
                path: self.target.clone(),
                problem: format!("cannot be put in its place: {error}"),
            })
        });
        moved?;
        let parent = self.target.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
        files::sync_dir(parent).map_err(|error| failure(&error))
    }

    fn write(&self, content: &Content<'_>) -> Result<(), EnrollError> {
        for directory in ["identity", "ca", "bundles", "state"] {
            files::create_private_dir(&self.path.join(directory)).map_err(|error| failure(&error))?;
        }
        let certificates = [
            (ANCHOR, content.anchor),
            ("ca/lineage.pem", content.lineage),
            ("ca/root.pem", content.root),
            ("identity/cert.pem", content.agent_certificate),
        ];
        for (name, der) in certificates {
            self.secret(name, &pem::encode_certificates([der]))?;
        }
        for (trust_domain, anchors) in &content.bundles {
            let text = pem::encode_certificates(anchors.iter().map(Vec::as_slice));
            self.secret(&format!("bundles/{trust_domain}.pem"), &text)?;
        }
        content
            .agent_file
            .write(&self.path)
            .map_err(|error| EnrollError::Directory { path: self.path.clone(), problem: error.to_string() })
    }

    fn secret(&self, name: &str, text: &str) -> Result<(), EnrollError> {
        files::write_secret(&self.path.join(name), text.as_bytes()).map_err(|error| failure(&error))
    }

    /// Removes `E.pending`: the token was refused, so its key is of no use.
    pub(super) fn discard(self) {
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "a refused join left its pending directory");
        }
    }
}

/// The CA key and the anchor of a data directory of the cluster, both PEM.
///
/// # Errors
/// When they cannot be read, are of another trust domain, or do not belong together.
fn read_ca(from: &Path, trust_domain: &TrustDomain) -> Result<(Zeroizing<String>, String), EnrollError> {
    let refuse = |file: &str, problem: String| EnrollError::Directory { path: from.join(file), problem };
    let read = |file: &str| files::read_text(&from.join(file), KEY_LIMIT).map_err(|error| failure(&error));
    let (key, anchor) = (Zeroizing::new(read(CA_KEY)?), read(ANCHOR)?);
    let own = SigningKey::from_pkcs8_pem(&key).map_err(|error| refuse(CA_KEY, error.to_string()))?;
    let der = pem::certificates(&anchor).map_err(|error| refuse(ANCHOR, error.to_string()))?;
    let now = meshfed_runtime::clock::wall();
    let der = der.first().map(|der| der.as_ref()).unwrap_or_default();
    anchor::verify(der, trust_domain, now).map_err(|error| match error {
        AnchorError::TrustDomain { expected } => {
            EnrollError::AnotherCluster { path: from.join(ANCHOR), wanted: expected }
        }
        AnchorError::Malformed | AnchorError::NotCa | AnchorError::NotSelfSigned | AnchorError::Expired => {
            refuse(ANCHOR, error.to_string())
        }
    })?;
    if anchor::spki_sha256(der) != Some(own.spki_sha256()) {
        return Err(refuse(ANCHOR, format!("is not over the key in {CA_KEY}")));
    }
    Ok((key, anchor))
}

/// Whether a join with `--ca-from` that directory can keep its CA.
///
/// # Errors
/// As of the join itself.
pub fn check_ca(from: &Path, trust_domain: &TrustDomain) -> Result<(), EnrollError> {
    read_ca(from, trust_domain).map(drop)
}

/// `E.pending`.
fn beside(data_dir: &Path, name: &OsStr) -> PathBuf {
    let mut pending = name.to_owned();
    pending.push(".pending");
    data_dir.with_file_name(pending)
}

fn failure(error: &FileError) -> EnrollError {
    let path = match error {
        FileError::Io { path, .. } | FileError::TooLarge { path, .. } => path.clone(),
    };
    EnrollError::Directory { path, problem: meshfed_runtime::telemetry::chain(error) }
}
