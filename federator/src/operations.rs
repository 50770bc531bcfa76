//! Edge. What the HTTP API asks of the rooms that keep members: tokens and plans. Both rooms know this one, and not each
//! other.

use std::net::SocketAddr;

use meshfed_api::http::{FieldError, Plan, PlanRequest, ProblemKind, Token, TokenCreated, TokenRequest};

/// Why an operation was refused, in the words that the caller is told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Refused {
    /// Status, title and code.
    pub kind: ProblemKind,
    /// This occurrence in words, without secrets.
    pub detail: String,
    /// Fields at fault.
    pub errors: Vec<FieldError>,
}

impl Refused {
    /// With no field at fault.
    pub fn new(kind: ProblemKind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), errors: Vec::new() }
    }
    /// With these fields at fault.
    #[must_use]
    pub fn with(mut self, errors: Vec<FieldError>) -> Self {
        self.errors = errors;
        self
    }
}

/// A token that a dry run asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WouldBe {
    /// The cluster.
    pub cluster: String,
    /// Until when it could be used, RFC 3339.
    pub expires_at: String,
}

/// Tokens and plans, as `members` does them. A change is durable when it returns.
#[tonic::async_trait]
pub trait Operations: Send + Sync + 'static {
    /// Makes a token (201). Bad fields: `InvalidBody` with all of them.
    async fn create_token(&self, request: TokenRequest) -> Result<TokenCreated, Refused>;
    /// What [`Self::create_token`] would make; nothing is changed.
    async fn would_be_token(&self, request: &TokenRequest) -> Result<WouldBe, Refused>;
    /// One token, and the revision of its last change.
    async fn find_token(&self, id: &str) -> Result<Option<(u64, Token)>, Refused>;
    /// All tokens by id, and the revision of the last change of any.
    async fn list_tokens(&self) -> Result<(u64, Vec<Token>), Refused>;
    /// Takes a token back; whether there is one of that id.
    async fn revoke_token(&self, id: &str) -> Result<bool, Refused>;
    /// What a join by the holder of that token (`mf1.ID.SECRET.PIN`, unchecked) from that address would do.
    /// A token that does not work: `Unauthenticated`; too many attempts: `TooManyRequests`.
    async fn plan(&self, token: &str, request: PlanRequest, peer: SocketAddr) -> Result<Plan, Refused>;
}
