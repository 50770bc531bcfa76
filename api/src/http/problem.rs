//! Pure. `application/problem+json` (RFC 9457) with our codes.

use serde::{Deserialize, Serialize};

/// The media type of a problem.
pub const PROBLEM_TYPE: &str = "application/problem+json";

/// What went wrong, where, and how to fix it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// `https://meshfed.io/problems/<slug>`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The kind in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// This occurrence in words.
    pub detail: String,
    /// The path that was asked for.
    pub instance: String,
    /// `MF1…`: stable, for scripts.
    pub code: String,
    /// Fields at fault.
    pub errors: Vec<FieldError>,
}

/// One field at fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldError {
    /// Its path, say `spec.tiers[0].select[1].cluster`.
    pub field: String,
    /// One word: `Invalid`, `NotFound`, `Required`, `TooMany`, `Unknown`, `Contradicts`.
    pub reason: String,
    /// In words.
    pub message: String,
    /// What to do about it.
    pub remedy: Option<String>,
}

/// The kinds of problem, each with its slug, title, status and code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProblemKind {
    /// The request is not understood.
    BadRequest,
    /// A query parameter that does not exist.
    UnknownParameter,
    /// A query parameter with a bad value.
    InvalidParameter,
    /// The body is no JSON of the expected shape.
    InvalidBody,
    /// No or wrong credentials.
    Unauthenticated,
    /// No such path.
    UnknownPath,
    /// No such cluster.
    UnknownCluster,
    /// No such service.
    UnknownService,
    /// No such token.
    UnknownToken,
    /// The path does not take that method.
    MethodNotAllowed,
    /// The object changed, or is in use.
    Conflict,
    /// A `continue` that has expired.
    Gone,
    /// `If-Match` does not hold.
    PreconditionFailed,
    /// The body is too long.
    TooLarge,
    /// The body is of another media type.
    UnsupportedMediaType,
    /// `If-Match` is missing.
    PreconditionRequired,
    /// Too many requests.
    TooManyRequests,
    /// The head has too many fields.
    HeadTooLarge,
    /// Our fault.
    Internal,
    /// Named in the contracts, not in this version.
    NotInThisVersion,
    /// A part of the hub does not answer now.
    Unavailable,
    /// The agent of the cluster asked about does not answer.
    AgentUnavailable,
}

impl ProblemKind {
    /// All of them, in the order of their codes.
    pub const ALL: [Self; 22] = [
        Self::BadRequest,
        Self::UnknownParameter,
        Self::InvalidParameter,
        Self::InvalidBody,
        Self::Unauthenticated,
        Self::UnknownCluster,
        Self::UnknownPath,
        Self::MethodNotAllowed,
        Self::UnknownService,
        Self::UnknownToken,
        Self::Conflict,
        Self::Gone,
        Self::PreconditionFailed,
        Self::TooLarge,
        Self::UnsupportedMediaType,
        Self::PreconditionRequired,
        Self::TooManyRequests,
        Self::HeadTooLarge,
        Self::Internal,
        Self::NotInThisVersion,
        Self::Unavailable,
        Self::AgentUnavailable,
    ];

    const fn row(self) -> (&'static str, &'static str, u16, &'static str) {
        match self {
            Self::BadRequest => ("bad-request", "Bad request", 400, "MF1400"),
            Self::UnknownParameter => ("unknown-parameter", "Unknown query parameter", 400, "MF1410"),
            Self::InvalidParameter => ("invalid-parameter", "Invalid query parameter", 400, "MF1420"),
            Self::InvalidBody => ("invalid-body", "Invalid body", 400, "MF1430"),
            Self::Unauthenticated => ("unauthenticated", "Not authenticated", 401, "MF1401"),
            Self::UnknownCluster => ("unknown-cluster", "Unknown cluster", 404, "MF1404"),
            Self::UnknownPath => ("unknown-path", "Unknown path", 404, "MF1440"),
            Self::UnknownService => ("unknown-service", "Unknown service", 404, "MF1444"),
            Self::UnknownToken => ("unknown-token", "Unknown token", 404, "MF1454"),
            Self::MethodNotAllowed => ("method-not-allowed", "Method not allowed", 405, "MF1405"),
            Self::Conflict => ("conflict", "Conflict", 409, "MF1409"),
            Self::Gone => ("expired", "Expired", 410, "MF1411"),
            Self::PreconditionFailed => ("precondition-failed", "Changed since it was read", 412, "MF1412"),
            Self::TooLarge => ("too-large", "Body too large", 413, "MF1413"),
            Self::UnsupportedMediaType => ("unsupported-media-type", "Unsupported media type", 415, "MF1415"),
            Self::PreconditionRequired => ("precondition-required", "If-Match is needed", 428, "MF1428"),
            Self::TooManyRequests => ("too-many-requests", "Too many requests", 429, "MF1429"),
            Self::HeadTooLarge => ("head-too-large", "Request header fields too large", 431, "MF1431"),
            Self::Internal => ("internal", "Internal error", 500, "MF1500"),
            Self::NotInThisVersion => ("not-in-this-version", "Not in this version", 501, "MF1501"),
            Self::Unavailable => ("unavailable", "Unavailable", 503, "MF1503"),
            Self::AgentUnavailable => ("AgentUnavailable", "Agent unavailable", 504, "MF1504"),
        }
    }
    /// The HTTP status.
    #[must_use]
    pub const fn status(self) -> u16 {
        self.row().2
    }
    /// The stable code.
    #[must_use]
    pub const fn code(self) -> &'static str {
        self.row().3
    }
    /// The problem of this kind.
    #[must_use]
    pub fn problem(self, detail: impl Into<String>, instance: impl Into<String>) -> Problem {
        let (slug, title, status, code) = self.row();
        Problem {
            kind: format!("https://meshfed.io/problems/{slug}"),
            title: title.to_owned(),
            status,
            detail: detail.into(),
            instance: instance.into(),
            code: code.to_owned(),
            errors: Vec::new(),
        }
    }
}
