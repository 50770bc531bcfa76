//! Edge. Keeps the last good view in the Secrets that the chart has made, for a pod that has no volume, and lays it out
//! again where a data directory has none.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{Patch, PatchParams};

use super::shelf::{PIECE_MAX, Piece, SLOTS, cut, newest};
use crate::records::RecordError;
use crate::view::kept::{LayError, Signature, lay, pack, signature};

/// The shortest time between two writes of the Secrets (`contracts-kubernetes.md` 5.1).
const PERIOD: Duration = Duration::from_secs(30);

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
    /// When it was tried last.
    tried: Option<Instant>,
}

impl Views {
    /// For the member in `data_dir`.
    pub(super) fn new(secrets: Api<Secret>, data_dir: &Path) -> Self {
        Self { secrets, directory: data_dir.join("state/view"), kept: None, tried: None }
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

    /// Keeps the view that the data directory holds: at once where it is another one than was kept last, and at most once
    /// in a [`PERIOD`]. `None`: there is nothing to do now.
    pub(super) async fn keep(&mut self, now: Instant) -> Option<Result<(), ViewsError>> {
        if self.tried.is_some_and(|tried| now.saturating_duration_since(tried) < PERIOD) {
            return None;
        }
        let kept = self.keep_changed().await.transpose()?;
        self.tried = Some(now);
        Some(kept)
    }

    /// `None`: it is the same, or it is not whole.
    async fn keep_changed(&mut self) -> Result<Option<()>, ViewsError> {
        let now = signature(&self.directory)?;
        if self.kept.as_ref() == Some(&now) {
            return Ok(None);
        }
        let Some(packed) = pack(&self.directory)? else { return Ok(None) };
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
        Ok(Some(()))
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use kube::Client;
    use kube::client::Body;
    use meshfed_runtime::clock;

    use super::*;
    use crate::view::persist::ViewStore;

    /// The Secrets as the chart makes them; counts what is written.
    fn secrets(written: &Arc<AtomicUsize>) -> Api<Secret> {
        let written = Arc::clone(written);
        let service = tower::service_fn(move |request: http::Request<Body>| {
            let writes = *request.method() == http::Method::PATCH;
            written.fetch_add(usize::from(writes), Ordering::SeqCst);
            let (version, kind) = if writes { ("meta.k8s.io/v1", "PartialObjectMetadata") } else { ("v1", "Secret") };
            let name = request.uri().path().rsplit('/').next().unwrap_or_default();
            let metadata = serde_json::json!({ "name": name, "resourceVersion": "1" });
            let answer = serde_json::json!({ "apiVersion": version, "kind": kind, "metadata": metadata });
            let answer = http::Response::new(Body::from(answer.to_string().into_bytes()));
            async move { Ok::<_, std::convert::Infallible>(answer) }
        });
        Api::namespaced(Client::new(service, "meshfed-system"), "meshfed-system")
    }

    /// A change is kept as soon as it is seen, what follows within the half minute with the next one, and nothing twice.
    ///
    /// Mutations seen to fail: `< PERIOD` made `<= PERIOD`; `self.tried = Some(now)` left out.
    #[tokio::test]
    async fn a_view_is_kept_at_once_and_at_most_every_half_minute() {
        let dir = tempfile::tempdir().unwrap();
        let written = Arc::new(AtomicUsize::new(0));
        let mut views = Views::new(secrets(&written), dir.path());
        let (mut store, _empty) = ViewStore::open(&dir.path().join("state/view")).unwrap();
        let begin = clock::instant();
        assert!(views.keep(begin).await.is_none(), "there is none yet");
        store.save_members(&crate::view::tests::members("10.1.0.0/16")).unwrap();
        let mut kept = async |seconds: u64| {
            let due = views.keep(begin + Duration::from_secs(seconds)).await;
            (due.map(|kept| kept.is_ok()), written.load(Ordering::SeqCst))
        };
        assert_eq!(kept(1).await, (Some(true), 1));
        store.append(&crate::view::tests::change_of_east()).unwrap();
        assert_eq!(kept(30).await, (None, 1), "29 s after");
        assert_eq!(kept(31).await, (Some(true), 2));
        assert_eq!(kept(99).await, (None, 2), "the same");
        store.save_members(&crate::view::tests::members("10.2.0.0/16")).unwrap();
        assert_eq!(kept(100).await, (Some(true), 3), "at once");
    }
}
