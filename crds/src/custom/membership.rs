//! Pure. Membership: this cluster's place in a fleet (`contracts-kubernetes.md` 5.3).

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::condition::Condition;
use super::shape::SUBDOMAIN;

/// The fleet that this cluster joins, and the token that lets it in.
#[derive(CustomResource, KubeSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "federation.meshfed.io",
    version = "v1alpha1",
    kind = "Membership",
    namespaced,
    status = "MembershipStatus",
    derive = "PartialEq",
    shortname = "mfm",
    category = "meshfed",
    annotation("helm.sh/resource-policy", "keep"),
    label("app.kubernetes.io/part-of", "meshfed"),
    doc = "This cluster's place in a fleet. One is read, in the namespace of the agent's release; deleting it makes the cluster leave.",
    printcolumn(
        name = "CLUSTER",
        type_ = "string",
        json_path = ".status.cluster",
        description = "The name by which the fleet knows this cluster."
    ),
    printcolumn(name = "READY", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "REASON", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].reason"),
    printcolumn(name = "HUB", type_ = "string", json_path = ".spec.hub", priority = "1"),
    printcolumn(name = "TRUST DOMAIN", type_ = "string", json_path = ".status.trustDomain", priority = "1"),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MembershipSpec {
    /// Where the federator's gRPC port is, say `https://hub.example:15600`.
    #[schemars(length(min = 9, max = 512))]
    #[x_kube(validation = Rule::new("self.matches('^https://[^/?#@ ]+:[0-9]{1,5}/?$')").message("write https://HOST:PORT, the address of the federator's port 15600"))]
    pub hub: String,
    /// The Secret that holds the join token, in the same namespace. Read once, and only if it is the one that the chart
    /// names (`membership.tokenSecret`); ignored once the cluster has joined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_secret_ref: Option<TokenSecretRef>,
}

/// One key of a Secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenSecretRef {
    /// The Secret's name.
    #[schemars(length(min = 1, max = 253), regex(pattern = SUBDOMAIN))]
    pub name: String,
    /// The key in it.
    #[serde(default = "token_key")]
    #[schemars(length(min = 1, max = 253), regex(pattern = "^[-._a-zA-Z0-9]+$"))]
    pub key: String,
}

fn token_key() -> String {
    "token".to_owned()
}

/// What came of it. Conditions: `Joined`, `Connected`, `Ready`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MembershipStatus {
    /// The name by which the fleet knows this cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub cluster: Option<String>,
    /// The trust domain of its workloads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 255))]
    pub trust_domain: Option<String>,
    /// The id of the token that it joined with, which is no secret.
    #[serde(default, rename = "tokenID", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub token_id: Option<String>,
    /// The generation that was judged.
    #[serde(default)]
    pub observed_generation: i64,
    /// What is true of it.
    #[serde(default)]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
