//! Pure. TrustDomain: a foreign trust domain. Accepted and kept; not served in this version.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::condition::PolicyStatus;

/// A trust domain that is no member's, and the anchors to verify it by.
#[derive(CustomResource, KubeSchema, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "federation.meshfed.io",
    version = "v1alpha1",
    kind = "TrustDomain",
    status = "PolicyStatus",
    derive = "PartialEq",
    shortname = "mftd",
    category = "meshfed",
    annotation("helm.sh/resource-policy", "keep"),
    label("app.kubernetes.io/part-of", "meshfed"),
    doc = "A trust domain that belongs to no member, by its name. Kept, and not served in this version: its condition Ready says so.",
    printcolumn(name = "READY", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "REASON", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].reason"),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrustDomainSpec {
    /// Its anchors: PEM certificates.
    #[schemars(length(min = 1, max = 8), inner(length(min = 1, max = 16384)), extend("x-kubernetes-list-type" = "atomic"))]
    pub anchors: Vec<String>,
}
