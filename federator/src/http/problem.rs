//! Pure. Answers: JSON, problems, and the headers that every answer has.

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use meshfed_api::http::{FieldError, PROBLEM_TYPE, Problem, ProblemKind};
use serde::Serialize;

use crate::operations::Refused;

/// The header of an answer to `dryRun=true`.
pub(super) const DRY_RUN: HeaderName = HeaderName::from_static("x-meshfed-dry-run");
/// What is repeated of a caller's own text, in characters.
const REPEATED_MAX: usize = 80;

/// A handler's answer.
pub(super) type Answer = Result<Response, Refused>;

/// A caller's text, short enough to be repeated in an answer.
pub(super) fn repeated(text: &str) -> String {
    let mut out: String = text.chars().take(REPEATED_MAX).collect();
    if out.len() < text.len() {
        out.push('…');
    }
    out
}

/// A refusal that names one field.
pub(super) fn refuse(kind: ProblemKind, field: &str, reason: &str, message: String, remedy: Option<&str>) -> Refused {
    let error = FieldError {
        field: field.to_owned(),
        reason: reason.to_owned(),
        message: message.clone(),
        remedy: remedy.map(str::to_owned),
    };
    Refused::new(kind, message).with(vec![error])
}

/// A JSON body.
pub(super) fn json(status: StatusCode, body: &impl Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(bytes) => with_type(status, bytes, "application/json"),
        Err(error) => {
            tracing::error!(%error, "an answer could not be written");
            problem(&Refused::new(ProblemKind::Internal, "the answer could not be written"), "")
        }
    }
}

fn with_type(status: StatusCode, bytes: Vec<u8>, media: &'static str) -> Response {
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    response
}

/// The answer to a refused request; `instance` is its path.
pub(super) fn problem(refused: &Refused, instance: &str) -> Response {
    let problem =
        Problem { errors: refused.errors.clone(), ..refused.kind.problem(refused.detail.clone(), repeated(instance)) };
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    // Text and numbers only: this always writes.
    let mut response = with_type(status, serde_json::to_vec(&problem).unwrap_or_default(), PROBLEM_TYPE);
    let headers = response.headers_mut();
    if refused.kind == ProblemKind::Unauthenticated {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"meshfed\""));
    }
    if refused.kind == ProblemKind::TooManyRequests {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// Answers are for their caller only, and nothing but what they say they are.
pub(super) fn seal(response: &mut Response) {
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.remove(header::SERVER);
}

/// The entity tag of a revision.
pub(super) fn etag(revision: &str) -> String {
    format!("\"{revision}\"")
}

/// Whether a list of entity tags (`If-Match`, `If-None-Match`) names that revision; `*` names all.
pub(super) fn names(tags: &str, revision: &str) -> bool {
    let want = etag(revision);
    tags.split(',').map(str::trim).any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == want)
}

/// A body with its entity tag, or 304 where the caller has it already.
pub(super) fn shown(body: &impl Serialize, revision: &str, held: Option<&str>) -> Response {
    let mut response = match held {
        Some(tags) if names(tags, revision) => StatusCode::NOT_MODIFIED.into_response(),
        Some(_) | None => json(StatusCode::OK, body),
    };
    if let Ok(tag) = HeaderValue::from_str(&etag(revision)) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}
