//! Edge. `E/agent.yaml`: what a member knows of itself. Written by join, kept fresh by the session.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use meshfed_model::identity::TrustDomain;
use meshfed_model::names::ClusterName;
use meshfed_model::network::{Cidr, Network};
use meshfed_runtime::files::{self, FileError};
use serde::{Deserialize, Serialize};

/// The name of the file inside the data directory.
const FILE: &str = "agent.yaml";
/// The largest file that is read, in bytes.
const FILE_LIMIT: usize = 1 << 20;

/// Why `agent.yaml` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AgentFileError {
    /// It is not there.
    #[error("{} is missing: {} has not joined a fleet; run 'meshfed join https://FEDERATOR:15600 --token-file FILE --data-dir {}'", .0.display(), .1.display(), .1.display())]
    Missing(PathBuf, PathBuf),
    /// It cannot be read or written.
    #[error("the member's own file cannot be used")]
    File(#[source] FileError),
    /// It is no `agent.yaml`.
    #[error("{}: {message}; it is written by 'meshfed join' and not meant to be edited", path.display())]
    Form {
        /// The file.
        path: PathBuf,
        /// What is wrong, with line and column.
        message: String,
    },
}

/// The content of `agent.yaml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AgentFile {
    /// The cluster.
    pub cluster: ClusterName,
    /// Its trust domain.
    pub trust_domain: TrustDomain,
    /// The fleet's trust domain.
    pub fleet: TrustDomain,
    /// `HOST:PORT` of every known federator, in the order to try.
    pub federators: Vec<String>,
    /// Its networks; the first is the default of its endpoints.
    pub networks: Vec<Network>,
    /// Ranges its gateway addresses may lie in; empty: those of the network.
    #[serde(default)]
    pub gateway_cidrs: BTreeSet<Cidr>,
    /// Regions it may claim; the first is the default.
    pub regions: Vec<String>,
    /// Zones it may claim; empty: any zone.
    #[serde(default)]
    pub zones: Vec<String>,
    /// The id of the token it joined with.
    pub token_id: String,
}

impl AgentFile {
    /// Reads the file of a data directory.
    ///
    /// # Errors
    /// [`AgentFileError`] naming the file.
    pub fn read(data_dir: &Path) -> Result<Self, AgentFileError> {
        let path = data_dir.join(FILE);
        let text = match files::read_text(&path, FILE_LIMIT) {
            Ok(text) => text,
            Err(error) if error.is_not_found() => return Err(AgentFileError::Missing(path, data_dir.to_owned())),
            Err(error) => return Err(AgentFileError::File(error)),
        };
        Self::parse(&text).map_err(|message| AgentFileError::Form { path, message })
    }

    /// What the text of such a file says.
    ///
    /// # Errors
    /// What is wrong with it, with line and column.
    pub fn parse(text: &str) -> Result<Self, String> {
        serde_saphyr::from_str(text).map_err(|error| error.to_string())
    }

    /// Whether two files are of one join: of the same token at the same fleet. Files that say nothing are.
    #[must_use]
    pub fn are_of_one_join(one: &[u8], other: &[u8]) -> bool {
        let read = |bytes| Self::parse(std::str::from_utf8(bytes).ok()?).ok();
        match (read(one), read(other)) {
            (Some(one), Some(other)) => (&one.token_id, &one.fleet) == (&other.token_id, &other.fleet),
            _ => true,
        }
    }

    /// Writes the file of a data directory, atomically.
    ///
    /// # Errors
    /// [`AgentFileError`].
    pub fn write(&self, data_dir: &Path) -> Result<(), AgentFileError> {
        let path = data_dir.join(FILE);
        let text = serde_saphyr::to_string(self)
            .map_err(|error| AgentFileError::Form { path: path.clone(), message: error.to_string() })?;
        files::write_atomic(&path, text.as_bytes(), files::MODE_SECRET).map_err(AgentFileError::File)
    }
}
