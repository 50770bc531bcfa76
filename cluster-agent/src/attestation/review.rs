//! Pure. What the API server says of a token and of the pod that it is bound to, and who its bearer is by that. The bearer's
//! own words count for nothing.

use std::sync::Arc;

use k8s_openapi::api::authentication::v1::TokenReviewStatus;
use k8s_openapi::api::core::v1::Pod;
use meshfed_model::identity::{SpiffeId, TrustDomain};
use meshfed_model::names::Namespace;

use crate::inject::AUDIENCE;

/// Longest token, in bytes; one of the API server has some 1,100.
pub const TOKEN_MAX: usize = 16 * 1024;
/// Longest word of the API server that is passed on.
const WORD_MAX: usize = 300;
/// Where TokenReview names the pod (KEP-1205).
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
/// Where it names the pod's uid.
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";

/// Who bears a token, by TokenReview.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bearer {
    /// Namespace of pod and service account.
    pub namespace: Namespace,
    /// The service account.
    pub service_account: Arc<str>,
    /// The pod that the token is bound to.
    pub pod: Arc<str>,
    /// The pod's uid: another pod of the same name has another one.
    pub uid: Arc<str>,
}

/// Why a token makes its bearer nobody.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It cannot be a token.
    #[error(
        "this is no service-account token (three parts of base64url, at most {TOKEN_MAX} bytes); \
         --token-file is to name the file of a projected service-account token"
    )]
    Shape,
    /// The API server does not take it.
    #[error(
        "the API server of this cluster does not accept the token: {0}; mount a projected service-account token of this \
         cluster with audience {AUDIENCE}, and let the kubelet renew it"
    )]
    Token(String),
    /// The API server takes it, for somebody else.
    #[error(
        "the token is not for audience {AUDIENCE}: set serviceAccountToken.audience of the projected volume to {AUDIENCE}"
    )]
    Audience,
    /// Its user is none that a pod runs as.
    #[error("the token is that of {0}, which is no service account; a pod's projected token is needed")]
    User(String),
    /// It names no pod.
    #[error(
        "the token of service account {0} is bound to no pod; only projected tokens are, those of Secrets and of \
         'kubectl create token' without --bound-object-kind Pod are not"
    )]
    Unbound(String),
    /// The pod is not there any more, although the token still passes.
    #[error("pod {0} does not exist any more; its token ends with it")]
    Gone(String),
    /// Another pod has its name.
    #[error("pod {pod} is another one now (uid {found}, the token is bound to {wanted}); its token ended with it")]
    Replaced {
        /// The pod's name.
        pod: String,
        /// The uid that the token names.
        wanted: String,
        /// That of the pod of this name.
        found: String,
    },
    /// The pod runs as another service account.
    #[error("pod {pod} runs as service account {found}, the token is that of {wanted}")]
    Account {
        /// The pod's name.
        pod: String,
        /// The account of the token.
        wanted: String,
        /// That of the pod.
        found: String,
    },
    /// All its containers have ended.
    #[error("pod {0} has ended; what has ended gets no identity")]
    Ended(String),
}

impl Bearer {
    /// `NAMESPACE/NAME` of the pod.
    #[must_use]
    pub fn pod_name(&self) -> String {
        format!("{}/{}", self.namespace, self.pod)
    }
    /// Its identity in this cluster's trust domain; none where the account's name fits into none.
    #[must_use]
    pub fn identity(&self, trust_domain: &TrustDomain) -> Option<SpiffeId> {
        SpiffeId::workload(trust_domain.clone(), self.namespace.clone(), &self.service_account).ok()
    }
}

/// Whether this can be a token at all: three parts of base64url (RFC 7519, 3).
#[must_use]
pub(super) fn is_token(text: &str) -> bool {
    let part = |p: &str| !p.is_empty() && p.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    text.len() <= TOKEN_MAX && text.split('.').count() == 3 && text.split('.').all(part)
}

/// Who bears the token of this review.
///
/// # Errors
/// [`Refused`].
pub(super) fn bearer(status: &TokenReviewStatus) -> Result<Bearer, Refused> {
    if status.authenticated != Some(true) {
        let word = status.error.as_deref().filter(|e| !e.is_empty()).unwrap_or("it is unknown, or has expired");
        return Err(Refused::Token(word.chars().take(WORD_MAX).collect()));
    }
    // An API server that does not know audiences says nothing of them, and has checked none.
    if !status.audiences.iter().flatten().any(|a| a == AUDIENCE) {
        return Err(Refused::Audience);
    }
    let user = status.user.clone().unwrap_or_default();
    let name = user.username.unwrap_or_default();
    let account = name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
    let Some((namespace, service_account)) = account.and_then(|(ns, sa)| Some((Namespace::new(ns).ok()?, sa))) else {
        return Err(Refused::User(name.chars().take(WORD_MAX).collect()));
    };
    let extra = user.extra.unwrap_or_default();
    let single = |key| match extra.get(key).map(Vec::as_slice) {
        Some([value]) if !value.is_empty() => Some(Arc::from(value.as_str())),
        Some(_) | None => None,
    };
    let (Some(pod), Some(uid)) = (single(POD_NAME), single(POD_UID)) else {
        return Err(Refused::Unbound(format!("{namespace}/{service_account}")));
    };
    Ok(Bearer { namespace, service_account: service_account.into(), pod, uid })
}

/// The pod that the API server holds, where it is the one of the token. TokenReview itself answers true for some ten seconds
/// after a pod was deleted.
///
/// # Errors
/// [`Refused`].
pub(super) fn check_pod<'a>(bearer: &Bearer, pod: Option<&'a Pod>) -> Result<&'a Pod, Refused> {
    let name = bearer.pod_name();
    let Some(pod) = pod else { return Err(Refused::Gone(name)) };
    let found = pod.metadata.uid.as_deref().unwrap_or_default();
    if found != &*bearer.uid {
        let (wanted, found) = (bearer.uid.to_string(), found.to_owned());
        return Err(Refused::Replaced { pod: name, wanted, found });
    }
    let account = pod.spec.as_ref().and_then(|s| s.service_account_name.as_deref()).unwrap_or("default");
    if account != &*bearer.service_account {
        let (wanted, found) = (bearer.service_account.to_string(), account.to_owned());
        return Err(Refused::Account { pod: name, wanted, found });
    }
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    if matches!(phase, Some("Succeeded" | "Failed")) {
        return Err(Refused::Ended(name));
    }
    Ok(pod)
}
