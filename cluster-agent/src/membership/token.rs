//! Edge. The token of a Membership: the one Secret that is read for it, and what becomes of it after use.

use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, Preconditions};
use kube::{Api, ResourceExt as _};
use meshfed_ca::token::Token;
use meshfed_crds::api_server::said;
use meshfed_crds::custom::Membership;
use meshfed_runtime::telemetry::chain;

use super::judge::Phase;

/// Who made a Secret that may be deleted after use.
const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "meshfed");

/// The Secrets of the release's namespace, and the only one that a token is read from.
pub(super) struct Tokens {
    /// The Secrets.
    pub(super) secrets: Api<Secret>,
    /// Their namespace, for messages.
    pub(super) namespace: String,
    /// The one (`membership.tokenSecret`).
    pub(super) allowed: String,
}

/// A token and where it was found.
pub(super) struct FoundToken {
    /// The token.
    pub(super) token: Token,
    /// The Secret's version.
    pub(super) version: String,
    secret: Secret,
}

impl Tokens {
    /// The token that a Membership names.
    pub(super) async fn of(&self, membership: &Membership) -> Result<FoundToken, Phase> {
        let allowed = &self.allowed;
        let Some(reference) = &membership.spec.token_secret_ref else {
            let message = format!("spec.tokenSecretRef names no Secret; name {allowed}, and put a token into it");
            return Err(Phase::Waiting { reason: "TokenSecretMissing", message });
        };
        let (name, key) = (&reference.name, &reference.key);
        if name != allowed {
            let message = format!(
                "spec.tokenSecretRef names Secret {name}, and the agent may read {allowed} only; write the token there, \
                 or set the chart's membership.tokenSecret"
            );
            return Err(Phase::Refused { reason: "TokenSecretNotAllowed", message });
        }
        let waiting = |message: String| Phase::Waiting { reason: "TokenSecretMissing", message };
        let secret = match self.secrets.get_opt(name).await {
            Ok(Some(secret)) => secret,
            Ok(None) => {
                let namespace = &self.namespace;
                let make = format!("kubectl -n {namespace} create secret generic {name} --from-file={key}=FILE");
                return Err(waiting(format!(
                    "Secret {name} is not there; make it with the token: {make}; it may go once the cluster has joined"
                )));
            }
            Err(error) => return Err(waiting(format!("Secret {name} cannot be read: {}", said(&error)))),
        };
        let version = secret.metadata.resource_version.clone().unwrap_or_default();
        let bytes = secret.data.as_ref().and_then(|data| data.get(key));
        let Some(bytes) = bytes else {
            return Err(waiting(format!("Secret {name} has no key {key}; it is to hold the token")));
        };
        let token = std::str::from_utf8(&bytes.0).ok().and_then(|text| text.trim().parse::<Token>().ok());
        let token = token.ok_or_else(|| {
            let message = format!(
                "Secret {name}, key {key}: this is no token, and no hub was asked; one begins with mf1. and is made by \
                 meshfed token create; put it there in the place of what is there"
            );
            Phase::Refused { reason: "TokenRefused", message }
        })?;
        Ok(FoundToken { token, version, secret })
    }

    /// Deletes a token's Secret that was made for this join alone.
    pub(super) async fn spend(&self, token: &FoundToken) {
        let secret = &token.secret;
        if secret.labels().get(MANAGED_BY.0).map(String::as_str) != Some(MANAGED_BY.1) {
            return;
        }
        let preconditions = Preconditions { uid: secret.uid(), resource_version: secret.resource_version() };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        match self.secrets.delete(&secret.name_any(), &params).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => {}
            Err(error) => tracing::warn!(error = %chain(&error), "the Secret of a used token cannot be deleted"),
        }
    }
}
