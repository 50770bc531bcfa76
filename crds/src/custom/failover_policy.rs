//! Pure. FailoverPolicy: how clients of a service fail over (`contracts.md` 1.11).

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::condition::PolicyStatus;
use super::shape::{DURATION, LABEL};

/// Tiers in the order in which they take traffic, and when one has enough.
#[derive(CustomResource, KubeSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "federation.meshfed.io",
    version = "v1alpha1",
    kind = "FailoverPolicy",
    plural = "failoverpolicies",
    namespaced,
    status = "PolicyStatus",
    derive = "PartialEq",
    shortname = "mffp",
    category = "meshfed",
    annotation("helm.sh/resource-policy", "keep"),
    label("app.kubernetes.io/part-of", "meshfed"),
    doc = "How clients of a service, or of all services of the namespace, fail over between clusters, regions and zones.",
    printcolumn(name = "TARGET", type_ = "string", json_path = ".spec.targetRef.name"),
    printcolumn(name = "TARGET NAMESPACE", type_ = "string", json_path = ".spec.targetRef.namespace", priority = "1"),
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
pub struct FailoverPolicySpec {
    /// Which service; left out: all services of the namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_ref: Option<TargetRef>,
    /// The tiers.
    #[schemars(length(min = 1, max = 32), extend("x-kubernetes-list-type" = "atomic"))]
    pub tiers: Vec<Tier>,
    /// How long a tier must be healthy again before it takes traffic back. Read, kept, and without effect in this version.
    #[serde(default = "half_a_minute")]
    #[schemars(length(min = 2, max = 16), regex(pattern = DURATION))]
    pub hold_down: String,
    /// How long it takes to take all of it. Read, kept, and without effect in this version.
    #[serde(default = "half_a_minute")]
    #[schemars(length(min = 2, max = 16), regex(pattern = DURATION))]
    pub ramp_up: String,
}

fn half_a_minute() -> String {
    "30s".to_owned()
}

/// What a policy may be about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TargetKind {
    /// A Service, or the import of one.
    Service,
}

/// A service.
#[derive(JsonSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TargetRef {
    /// `Service`.
    pub kind: TargetKind,
    /// The group of Service: the empty one, or nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = [""]))]
    pub group: Option<String>,
    /// The service's name.
    #[schemars(length(min = 1, max = 63), regex(pattern = LABEL))]
    pub name: String,
    /// Its namespace: in the hub's own namespace only, where policies bind the fleet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = LABEL))]
    pub namespace: Option<String>,
}

/// One tier. What may be left out has no default in the schema: the API server would write it into the list, which then is
/// another one than that of whoever applies the same file next.
#[derive(KubeSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tier {
    /// What it is called in status and tables.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub name: Option<String>,
    /// Which endpoints are in it; all items have a weight, or none.
    #[schemars(length(min = 1, max = 256), extend("x-kubernetes-list-type" = "atomic"))]
    #[x_kube(validation = Rule::new("self.all(item, has(item.weight)) || self.all(item, !has(item.weight))").message("give all items of the tier a weight, or none"))]
    pub select: Vec<SelectItem>,
    /// How many of a hundred endpoints must be ready for the tier to take all that reaches it; left out: 70.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub min_healthy_percent: Option<i32>,
    /// How many endpoints must be ready for it to take anything; left out: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub min_healthy_endpoints: Option<i32>,
}

/// Endpoints by exactly one of `cluster`, `region`, `zone` and `relative`.
#[derive(KubeSchema, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("[has(self.cluster), has(self.region), has(self.zone), has(self.relative)].filter(given, given).size() == 1").message("name exactly one of cluster, region, zone and relative"))]
pub struct SelectItem {
    /// Of this cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = LABEL))]
    pub cluster: Option<String>,
    /// In this region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub region: Option<String>,
    /// In this zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub zone: Option<String>,
    /// By where the client is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relative: Option<RelativeTo>,
    /// Its part of the tier's traffic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub weight: Option<i32>,
}

/// By where the client is: `sameCluster`, `sameZone` and `sameRegion`, those of the client's own; `any`, all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum RelativeTo {
    /// In the client's cluster.
    SameCluster,
    /// In its zone.
    SameZone,
    /// In its region.
    SameRegion,
    /// Anywhere.
    Any,
}
