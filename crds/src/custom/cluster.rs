//! Pure. Cluster: a member as the hub's side sees it (`contracts-kubernetes.md` 5.2).

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::condition::Condition;
use super::shape::{LABEL, labels};

/// What a member's tokens bind it to.
#[derive(CustomResource, KubeSchema, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "federation.meshfed.io",
    version = "v1alpha1",
    kind = "Cluster",
    status = "ClusterStatus",
    derive = "PartialEq",
    shortname = "mfc",
    category = "meshfed",
    annotation("helm.sh/resource-policy", "keep"),
    label("app.kubernetes.io/part-of", "meshfed"),
    doc = "A member of the fleet, on the hub's cluster. Its name is the cluster's; tokens for it take networks, regions and zones from here.",
    printcolumn(name = "TRUST DOMAIN", type_ = "string", json_path = ".status.trustDomain"),
    printcolumn(name = "READY", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "REASON", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].reason"),
    printcolumn(name = "REGIONS", type_ = "string", json_path = ".spec.regions", priority = "1"),
    printcolumn(name = "LABELS", type_ = "string", json_path = ".spec.labels", priority = "1"),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("size(self.metadata.name) <= 63 && self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')").message("the name of a cluster is a DNS label: at most 63 of a-z, 0-9 and '-'"),
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterSpec {
    /// Its networks; the first is that of endpoints which name none.
    #[serde(default)]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub networks: Vec<ClusterNetwork>,
    /// Where its nodes may be; the first is that of nodes which name none.
    #[serde(default)]
    #[schemars(length(max = 32), inner(length(min = 1, max = 63)), extend("x-kubernetes-list-type" = "set"))]
    pub regions: Vec<String>,
    /// Likewise, narrower; empty: every zone of the regions.
    #[serde(default)]
    #[schemars(length(max = 64), inner(length(min = 1, max = 63)), extend("x-kubernetes-list-type" = "set"))]
    pub zones: Vec<String>,
    /// What ExportPolicies select it by.
    #[serde(default)]
    #[schemars(schema_with = "labels")]
    pub labels: BTreeMap<String, String>,
}

/// A network: addresses in it reach each other.
#[derive(KubeSchema, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterNetwork {
    /// Its name in the fleet.
    #[schemars(length(min = 1, max = 63), regex(pattern = LABEL))]
    pub name: String,
    /// The addresses of this cluster's endpoints in it.
    #[serde(default)]
    #[schemars(length(max = 64), inner(length(min = 1, max = 49)), extend("x-kubernetes-list-type" = "set"))]
    #[x_kube(validation = Rule::new("self.all(range, isCIDR(range))").message("write ranges as ADDRESS/BITS, say 10.244.0.0/16"))]
    pub cidrs: Vec<String>,
    /// The addresses of this cluster's gateways, as other networks dial them; empty: `cidrs`.
    #[serde(default, rename = "gatewayCIDRs")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 49)), extend("x-kubernetes-list-type" = "set"))]
    #[x_kube(validation = Rule::new("self.all(range, isCIDR(range))").message("write ranges as ADDRESS/BITS, say 203.0.113.7/32"))]
    pub gateway_cidrs: Vec<String>,
}

/// What the hub knows of it. Conditions: `Accepted`, `Programmed`, `ResolvedRefs`, `Ready`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterStatus {
    /// The trust domain of its workloads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 255))]
    pub trust_domain: Option<String>,
    /// The generation that was judged.
    #[serde(default)]
    pub observed_generation: i64,
    /// What is true of it.
    #[serde(default)]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
