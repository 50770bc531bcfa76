//! Pure. Failover policies as written: ordered tiers that select clusters, regions or zones (`contracts.md` 1.11).

use serde::{Deserialize, Serialize};

use crate::export::{ClusterSelector, matches_pattern};
use crate::names::{ClusterName, Namespace, ServiceName};

/// What one item of a tier selects.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Selector {
    /// One cluster.
    Cluster(ClusterName),
    /// One region.
    Region(String),
    /// One zone, by its name alone.
    Zone(String),
    /// By relation to the client.
    Relative(Relative),
}

/// Relations of an endpoint to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Relative {
    /// The client's own cluster.
    SameCluster,
    /// The client's zone.
    SameZone,
    /// The client's region.
    SameRegion,
    /// Anywhere.
    Any,
}

/// One item of a tier.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SelectItem {
    /// What it selects.
    #[serde(flatten)]
    pub selector: Selector,
    /// Its weight inside the tier; the items of a tier have all a weight or none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
}

/// One tier.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tier {
    /// A name for people; may be empty.
    #[serde(default)]
    pub name: String,
    /// What it selects; the first item that selects an endpoint takes it.
    pub select: Vec<SelectItem>,
    /// Health, in percent of listed endpoints, from which the tier takes all that reaches it.
    #[serde(default = "default_percent")]
    pub min_healthy_percent: u32,
    /// Ready endpoints below which the tier takes nothing, unless no tier reaches its own.
    #[serde(default = "default_endpoints")]
    pub min_healthy_endpoints: u32,
}

/// Default of `minHealthyPercent`.
pub const MIN_HEALTHY_PERCENT: u32 = 70;
/// Default of `minHealthyEndpoints`.
pub const MIN_HEALTHY_ENDPOINTS: u32 = 1;
/// Default of `holdDown` and `rampUp`, in seconds.
pub const HOLD_SECONDS: u32 = 30;

const fn default_percent() -> u32 {
    MIN_HEALTHY_PERCENT
}
const fn default_endpoints() -> u32 {
    MIN_HEALTHY_ENDPOINTS
}

/// The body of a failover policy, `holdDown` and `rampUp` in seconds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FailoverSpec {
    /// The tiers, in order.
    pub tiers: Vec<Tier>,
    /// Time before fail-back begins.
    pub hold_down_seconds: u32,
    /// Time over which fail-back is ramped.
    pub ramp_up_seconds: u32,
}

impl FailoverSpec {
    /// The client's zone as long as one endpoint there is ready, then anywhere: what `trafficDistribution` means.
    #[must_use]
    pub fn prefer_same_zone() -> Self {
        let mut spec = Self::default();
        spec.tiers.retain(|tier| tier.name != "same-region");
        for tier in &mut spec.tiers {
            tier.min_healthy_percent = 0;
        }
        spec
    }
}

impl Default for FailoverSpec {
    /// Same zone, same region, anywhere; 70 %; 1; 30 s; 30 s.
    fn default() -> Self {
        let tier = |name: &str, relative| Tier {
            name: name.to_owned(),
            select: vec![SelectItem { selector: Selector::Relative(relative), weight: None }],
            min_healthy_percent: MIN_HEALTHY_PERCENT,
            min_healthy_endpoints: MIN_HEALTHY_ENDPOINTS,
        };
        Self {
            tiers: vec![
                tier("same-zone", Relative::SameZone),
                tier("same-region", Relative::SameRegion),
                tier("any", Relative::Any),
            ],
            hold_down_seconds: HOLD_SECONDS,
            ramp_up_seconds: HOLD_SECONDS,
        }
    }
}

/// What a failover policy applies to; the most specific one that exists wins.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum PolicyTarget {
    /// The whole fleet.
    Default,
    /// All services of a namespace.
    Namespace(Namespace),
    /// One service.
    Service(ServiceName),
}

/// Where a policy of the fleet was written. At one level the fleet source wins over the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PolicySource {
    /// The fleet source.
    Fleet,
    /// The HTTP API.
    Api,
}

/// A failover policy of the fleet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FailoverPolicy {
    /// What it applies to.
    pub target: PolicyTarget,
    /// Where it was written.
    pub source: PolicySource,
    /// Its body.
    pub spec: FailoverSpec,
}

/// Services by pattern; `*` stands for any run of characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ServicePattern {
    /// The namespace pattern.
    pub namespace: String,
    /// The name pattern.
    pub name: String,
}

impl ServicePattern {
    /// Whether it names the service.
    #[must_use]
    pub fn matches(&self, service: &ServiceName) -> bool {
        matches_pattern(&self.namespace, service.namespace.as_str()) && matches_pattern(&self.name, service.name())
    }
}

/// To whom some services are exported; the union of all that match a service counts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ExportPolicy {
    /// Which services.
    pub services: Vec<ServicePattern>,
    /// To whom.
    pub to: ClusterSelector,
}

/// What a captured workload may reach besides the mesh (`Mesh`, `spec.outboundTrafficPolicy`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum OutboundPolicy {
    /// Everything.
    #[default]
    AllowAny,
    /// Nothing.
    RegistryOnly,
}
impl OutboundPolicy {
    /// As it is written in a `Mesh`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AllowAny => "ALLOW_ANY",
            Self::RegistryOnly => "REGISTRY_ONLY",
        }
    }
}

/// The settings of the fleet (`Mesh/default`, `contracts.md` 1.16). A member's own say otherwise one by one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FleetSettings {
    /// What captured workloads may reach, if it is said.
    pub outbound: Option<OutboundPolicy>,
    /// The domain of imported services, if it is said.
    pub clusterset_domain: Option<String>,
}

/// All policies of the fleet, and its settings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FleetPolicies {
    /// Grows with every change.
    pub revision: u64,
    /// Failover policies.
    pub failover: Vec<FailoverPolicy>,
    /// Export policies; they bind every cluster.
    pub export: Vec<ExportPolicy>,
    /// The settings.
    #[serde(default)]
    pub settings: FleetSettings,
}
