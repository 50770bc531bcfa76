//! Pure. ExportPolicy: to whom exports go (`contracts.md` 1.10).

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::condition::PolicyStatus;
use super::shape::{PATTERN, labels};

/// To whom the exports of some services go. Where none matches a service, its export goes to all.
#[derive(CustomResource, KubeSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "federation.meshfed.io",
    version = "v1alpha1",
    kind = "ExportPolicy",
    plural = "exportpolicies",
    namespaced,
    status = "PolicyStatus",
    derive = "PartialEq",
    shortname = "mfep",
    category = "meshfed",
    annotation("helm.sh/resource-policy", "keep"),
    label("app.kubernetes.io/part-of", "meshfed"),
    doc = "To whom the exports of some services go; several policies add up, and 'to: {}' is nobody.",
    printcolumn(name = "CLUSTERS", type_ = "string", json_path = ".spec.to.clusters"),
    printcolumn(name = "LABELS", type_ = "string", json_path = ".spec.to.labels"),
    printcolumn(name = "READY", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(
        name = "RESOLVED",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='ResolvedRefs')].status"
    ),
    printcolumn(
        name = "REASON",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].reason",
        priority = "1"
    ),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExportPolicySpec {
    /// Which services.
    #[schemars(length(min = 1, max = 256), extend("x-kubernetes-list-type" = "atomic"))]
    pub services: Vec<ServiceSelector>,
    /// Which other clusters; the exporting one has the service in any case.
    pub to: ExportTarget,
}

/// Services by namespace and name; `*` stands for any run of characters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServiceSelector {
    /// The namespace.
    #[schemars(length(min = 1, max = 63), regex(pattern = PATTERN))]
    pub namespace: String,
    /// The name.
    #[schemars(length(min = 1, max = 63), regex(pattern = PATTERN))]
    pub name: String,
}

/// Clusters by name and by label; without any it is nobody.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExportTarget {
    /// By name; `*` stands for any run of characters.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(min = 1, max = 63), regex(pattern = PATTERN)), extend("x-kubernetes-list-type" = "set"))]
    pub clusters: Vec<String>,
    /// By all of these labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "labels")]
    pub labels: BTreeMap<String, String>,
}
