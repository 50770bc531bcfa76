//! Pure. AdmissionReview v1: what is asked, and the answer's form.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};

/// The version that is understood.
const API_VERSION: &str = "admission.k8s.io/v1";

/// Why a body is no question.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReviewError {
    /// Not its form.
    #[error("not an AdmissionReview: {0}")]
    Form(#[source] serde_json::Error),
    /// Another version.
    #[error("AdmissionReview is of version '{0}'; {API_VERSION} is understood")]
    Version(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review {
    api_version: String,
    request: Question,
}

/// What the API server asks.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Question {
    /// Repeated in the answer.
    pub(super) uid: String,
    kind: Kind,
    operation: String,
    #[serde(default)]
    sub_resource: String,
    /// Where the pod is to be; its own metadata may say nothing.
    #[serde(default)]
    pub(super) namespace: String,
    /// Nothing is to be written for it.
    #[serde(default)]
    pub(super) dry_run: Option<bool>,
    /// The pod.
    #[serde(default)]
    pub(super) object: Value,
}

#[derive(Debug, Clone, Deserialize)]
struct Kind {
    group: String,
    kind: String,
}

impl Question {
    /// Reads a body.
    pub(super) fn read(body: &[u8]) -> Result<Self, ReviewError> {
        let review: Review = serde_json::from_slice(body).map_err(ReviewError::Form)?;
        if review.api_version != API_VERSION {
            return Err(ReviewError::Version(review.api_version.chars().take(100).collect()));
        }
        Ok(review.request)
    }
    /// Whether it is about a pod that is to be made.
    pub(super) fn is_new_pod(&self) -> bool {
        self.kind.group.is_empty()
            && self.kind.kind == "Pod"
            && self.operation == "CREATE"
            && self.sub_resource.is_empty()
    }
}

/// The answer.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Answer {
    /// As it is.
    Allow,
    /// With this JSON patch.
    Patch(String),
    /// Not at all: HTTP status, and why.
    Deny(u16, String),
}

impl Answer {
    /// The body of the answer, with warnings for whoever makes the pod.
    pub(super) fn write(&self, uid: &str, warnings: &[String]) -> Value {
        let mut response = json!({ "uid": uid, "allowed": !matches!(self, Self::Deny(..)) });
        if !warnings.is_empty() {
            response["warnings"] = json!(warnings);
        }
        match self {
            Self::Allow => {}
            Self::Patch(patch) => {
                response["patchType"] = json!("JSONPatch");
                response["patch"] = json!(STANDARD.encode(patch));
            }
            Self::Deny(code, message) => {
                let reason = if *code == 422 { "Invalid" } else { "ServiceUnavailable" };
                let message = format!("meshfed: {message}");
                response["status"] = json!({ "code": code, "reason": reason, "message": message });
            }
        }
        json!({ "apiVersion": API_VERSION, "kind": "AdmissionReview", "response": response })
    }
}
