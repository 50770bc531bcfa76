//! Pure. Mesh: settings of the whole mesh (`contracts.md` 1.16).

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::condition::PolicyStatus;
use super::shape::{DURATION, SUBDOMAIN};

/// Settings of the whole mesh: `default` in the fleet's source, `local` for what one cluster has differently.
#[derive(CustomResource, KubeSchema, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "federation.meshfed.io",
    version = "v1alpha1",
    kind = "Mesh",
    plural = "meshes",
    status = "PolicyStatus",
    derive = "PartialEq",
    shortname = "mfmesh",
    category = "meshfed",
    annotation("helm.sh/resource-policy", "keep"),
    label("app.kubernetes.io/part-of", "meshfed"),
    doc = "Settings of the whole mesh: 'default' on the hub's cluster, 'local' for what one cluster has differently.",
    printcolumn(name = "OUTBOUND", type_ = "string", json_path = ".spec.outboundTrafficPolicy"),
    printcolumn(name = "DOMAIN", type_ = "string", json_path = ".spec.clustersetDomain"),
    printcolumn(name = "READY", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "REASON", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].reason", priority = "1"),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name in ['default', 'local']").message("a Mesh is named 'default' (the fleet's) or 'local' (this cluster's own)"),
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MeshSpec {
    /// What a captured workload may reach besides the mesh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outbound_traffic_policy: Option<OutboundTrafficPolicy>,
    /// The domain of imported services; `clusterset.local` where nothing is said. Another one is kept and passed on, and
    /// without effect in this version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128), regex(pattern = SUBDOMAIN))]
    pub clusterset_domain: Option<String>,
    /// Whether a name means the same service in every cluster. Read, and without effect in this version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sameness: Option<Sameness>,
    /// How often a request is tried that certainly did no harm. Read, and without effect in this version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retries: Option<Retries>,
    /// What proxies write of each request. Read, and without effect in this version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_log: Option<AccessLog>,
    /// Trust domains that count as the cluster's own in policies. Read, and without effect in this version.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 255)), extend("x-kubernetes-list-type" = "set"))]
    pub trust_domain_aliases: Vec<String>,
}

/// What a captured workload may reach besides the mesh: `ALLOW_ANY`, which is what holds where nothing is said, everything;
/// `REGISTRY_ONLY`, nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OutboundTrafficPolicy {
    /// Everything.
    #[serde(rename = "ALLOW_ANY")]
    AllowAny,
    /// Nothing.
    #[serde(rename = "REGISTRY_ONLY")]
    RegistryOnly,
}

/// Whether a name means the same service in every cluster (KEP-1645, namespace sameness): `ON`, it does; `OFF`, it does not.
/// Read, and without effect in this version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Sameness {
    /// It does.
    #[serde(rename = "ON")]
    On,
    /// It does not.
    #[serde(rename = "OFF")]
    Off,
}

/// How often a request is tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Retries {
    /// How often after the first time.
    #[schemars(range(min = 0, max = 10))]
    pub attempts: i32,
    /// How long one try may take, say `2s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 16), regex(pattern = DURATION))]
    pub per_try_timeout: Option<String>,
}

/// What proxies write of each request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AccessLog {
    /// Which requests: `OFF`, none; `ERRORS`, those that a proxy answered itself, and 5xx; `ALL`, all.
    pub mode: AccessLogMode,
}

/// Which requests are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AccessLogMode {
    /// None.
    #[serde(rename = "OFF")]
    Off,
    /// Those that a proxy answered itself, and 5xx.
    #[serde(rename = "ERRORS")]
    Errors,
    /// All.
    #[serde(rename = "ALL")]
    All,
}
