//! Edge. Keeps the last good view in the Secrets that the chart has made, for a pod that has no volume, and lays it out
//! again where a data directory has none.

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{Patch, PatchParams};

use super::shelf::{PIECE_MAX, Piece, SLOTS, cut, newest};
use crate::records::RecordError;
use crate::view::kept::{LayError, Signature, lay, pack, signature};

/// Why the view is not kept, or not brought back.
#[derive(Debug, thiserror::Error)]
pub(super) enum ViewsError {
    /// The chart makes them, empty, and the agent may not.
    #[error("Secret {0} is not there; it comes with the chart meshfed-cluster: install or upgrade the release")]
    Missing(String),
    /// The API server.
    #[error("Secret {0}")]
    Api(String, #[source] Box<kube::Error>),
    /// There is no room for it.
    #[error(
        "it has {0} bytes, and the Secrets of the release hold {max}; set the chart's persistence.enabled, or import into \
         fewer namespaces",
        max = PIECE_MAX * SLOTS
    )]
    TooLarge(usize),
    /// The data directory.
    #[error("the saved view cannot be read")]
    Record(#[from] RecordError),
    /// What was kept.
    #[error("what was kept of the view cannot be used")]
    Lay(#[from] LayError),
}

/// The Secrets and the directory that they stand for.
#[derive(Debug)]
pub(super) struct Views {
    secrets: Api<Secret>,
    directory: PathBuf,
    /// What was kept last.
    kept: Option<Signature>,
}

impl Views {
    /// For the member in `data_dir`.
    pub(super) fn new(secrets: Api<Secret>, data_dir: &Path) -> Self {
        Self { secrets, directory: data_dir.join("state/view"), kept: None }
    }

    async fn read(&self) -> Result<(Vec<Option<Piece>>, Vec<Option<String>>), ViewsError> {
        let (mut pieces, mut versions) = (Vec::with_capacity(SLOTS), Vec::with_capacity(SLOTS));
        for name in (0..SLOTS).map(name) {
            let found = self.secrets.get_opt(&name).await.map_err(|e| ViewsError::Api(name.clone(), Box::new(e)))?;
            let secret = found.ok_or(ViewsError::Missing(name))?;
            pieces.push(secret.data.as_ref().and_then(Piece::read));
            versions.push(secret.metadata.resource_version);
        }
        Ok((pieces, versions))
    }

    /// Keeps the view that the data directory holds, where it is another one than was kept last.
    pub(super) async fn keep(&mut self) -> Result<(), ViewsError> {
        let now = signature(&self.directory)?;
        if self.kept.as_ref() == Some(&now) {
            return Ok(());
        }
        let Some(packed) = pack(&self.directory)? else { return Ok(()) };
        let (found, versions) = self.read().await?;
        if newest(&found).is_none_or(|whole| whole.bytes != packed) {
            for (slot, piece) in cut(&packed, &found).ok_or(ViewsError::TooLarge(packed.len()))? {
                let version = versions.get(slot).cloned().flatten();
                let patch = serde_json::json!({ "metadata": { "resourceVersion": version }, "data": piece.data() });
                let params = PatchParams { field_manager: Some(super::FIELD_MANAGER.to_owned()), ..Default::default() };
                let patched = self.secrets.patch_metadata(&name(slot), &params, &Patch::Merge(patch)).await;
                let _metadata = patched.map_err(|e| ViewsError::Api(name(slot), Box::new(e)))?;
            }
        }
        self.kept = Some(now);
        Ok(())
    }

    /// Lays out what was kept, where the data directory has no view of its own: that one is the fresher.
    pub(super) async fn restore(&self) -> Result<(), ViewsError> {
        if !signature(&self.directory)?.is_empty() {
            return Ok(());
        }
        let (found, _versions) = self.read().await?;
        let Some(whole) = newest(&found) else { return Ok(()) };
        lay(&whole.bytes, &self.directory)?;
        tracing::info!(bytes = whole.bytes.len(), number = whole.number, "the last good view was brought back");
        Ok(())
    }
}

fn name(slot: usize) -> String {
    format!("meshfed-view-{slot}")
}
