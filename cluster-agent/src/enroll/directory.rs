//! Edge. The data directory of a member: built beside its place as `E.pending`, and moved there whole.

use std::path::{Path, PathBuf};

use meshfed_ca::keys::SigningKey;
use meshfed_ca::pem;
use meshfed_model::identity::TrustDomain;
use meshfed_runtime::files::{self, FileError};

use super::{AgentFile, EnrollError};

/// The largest key file, in bytes.
const KEY_LIMIT: usize = 64 << 10;

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
        let mut pending = name.to_owned();
        pending.push(".pending");
        let path = data_dir.with_file_name(pending);
        files::create_data_dir(&path).map_err(|error| failure(&error))?;
        Ok(Self { path, target: data_dir.to_owned() })
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
            ("ca/anchor.pem", content.anchor),
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

fn failure(error: &FileError) -> EnrollError {
    let path = match error {
        FileError::Io { path, .. } | FileError::TooLarge { path, .. } => path.clone(),
    };
    EnrollError::Directory { path, problem: meshfed_runtime::telemetry::chain(error) }
}
