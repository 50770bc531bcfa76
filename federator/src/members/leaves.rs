//! Edge. For the sessions: which certificates were given out under which binding of a cluster.

use meshfed_model::names::ClusterName;

use super::issued;
use crate::fleet::{Issued, IssuedError};
use crate::store::handle::Handle;

/// The certificates that the store knows.
pub struct StoredLeaves(Handle);

impl StoredLeaves {
    /// Those of this store.
    #[must_use]
    pub const fn new(store: Handle) -> Self {
        Self(store)
    }
}

#[tonic::async_trait]
impl Issued for StoredLeaves {
    async fn is_of(&self, leaf_sha256: [u8; 32], cluster: &ClusterName, binding: u64) -> Result<bool, IssuedError> {
        let found = issued::is_of(&self.0, &leaf_sha256, cluster, binding).await;
        found.map_err(|error| IssuedError { reason: meshfed_runtime::telemetry::chain(&error) })
    }
}
