//! Edge. TokenReview, and the pod as the API server holds it.

use std::time::Duration;

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use k8s_openapi::api::core::v1::Pod;
use kube::api::PostParams;
use kube::{Api, Client};

use super::review::Bearer;
use crate::inject::AUDIENCE;

/// Time for one question to the API server.
const DEADLINE: Duration = Duration::from_secs(5);

/// The API server gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    /// In time.
    #[error("the API server did not answer within {} s", DEADLINE.as_secs())]
    Late,
    /// At all, or it refused us.
    #[error("the API server could not be asked")]
    Failed(#[source] Box<kube::Error>),
}

/// What attestation asks of an API server.
pub trait Reviewer: Send + Sync + 'static {
    /// What it says of a token.
    fn review(&self, token: &str) -> impl Future<Output = Result<TokenReviewStatus, Unavailable>> + Send;
    /// The pod of that name.
    fn pod(&self, bearer: &Bearer) -> impl Future<Output = Result<Option<Pod>, Unavailable>> + Send;
}

/// A real one.
#[derive(Clone)]
pub struct ApiServer(Client);

impl std::fmt::Debug for ApiServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiServer").finish_non_exhaustive()
    }
}

impl ApiServer {
    /// Behind this client.
    #[must_use]
    pub const fn new(client: Client) -> Self {
        Self(client)
    }
}

async fn in_time<T>(call: impl Future<Output = Result<T, kube::Error>> + Send) -> Result<T, Unavailable> {
    let done = tokio::time::timeout(DEADLINE, call).await.map_err(|_elapsed| Unavailable::Late)?;
    done.map_err(|e| Unavailable::Failed(Box::new(e)))
}

impl Reviewer for ApiServer {
    async fn review(&self, token: &str) -> Result<TokenReviewStatus, Unavailable> {
        let asked = TokenReview {
            spec: TokenReviewSpec { token: Some(token.to_owned()), audiences: Some(vec![AUDIENCE.to_owned()]) },
            ..TokenReview::default()
        };
        let api: Api<TokenReview> = Api::all(self.0.clone());
        let answer = in_time(api.create(&PostParams::default(), &asked)).await?;
        Ok(answer.status.unwrap_or_default())
    }
    async fn pod(&self, bearer: &Bearer) -> Result<Option<Pod>, Unavailable> {
        let api: Api<Pod> = Api::namespaced(self.0.clone(), bearer.namespace.as_str());
        in_time(api.get_opt(&bearer.pod)).await
    }
}
