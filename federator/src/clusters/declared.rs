//! Edge. What users declare of clusters, as tokens ask for it.

use std::path::PathBuf;
use std::time::Duration;

use kube::{Api, Client};
use meshfed_crds::api_server::connect;
use meshfed_crds::custom::Cluster;
use meshfed_model::names::ClusterName;
use meshfed_runtime::telemetry::chain;
use tokio::sync::OnceCell;

use super::judge::declared_by;
use crate::fleet::{Declaration, DeclarationError, Declarations};

/// How long the API server has for the answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The Clusters of an API server, read at the moment that a token is asked for: what was applied a moment ago counts.
pub struct Declared {
    kubeconfig: Option<PathBuf>,
    context: Option<String>,
    client: OnceCell<Client>,
}

impl Declared {
    /// Connects with the first question.
    #[must_use]
    pub fn new(kubeconfig: Option<PathBuf>, context: Option<String>) -> Self {
        Self { kubeconfig, context, client: OnceCell::new() }
    }
}

#[tonic::async_trait]
impl Declarations for Declared {
    async fn of(&self, cluster: &ClusterName) -> Result<Option<Declaration>, DeclarationError> {
        let connecting = || connect(self.kubeconfig.as_deref(), self.context.as_deref());
        let client = self.client.get_or_try_init(connecting).await.map_err(|e| failed(&e))?;
        let api = Api::<Cluster>::all(client.clone());
        let found = tokio::time::timeout(PATIENCE, api.get_opt(cluster.as_str())).await.map_err(|e| failed(&e))?;
        match found {
            Ok(found) => Ok(found.as_ref().map(declared_by)),
            // A server without the kind has none declared.
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
            Err(error) => Err(failed(&error)),
        }
    }
}

fn failed<E: std::error::Error + 'static>(error: &E) -> DeclarationError {
    DeclarationError { reason: chain(error) }
}
