//! Pure. Join tokens and the plan of a join.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Network;

/// `POST tokens`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TokenRequest {
    /// The cluster that may join.
    pub cluster: String,
    /// Its networks; the first is the default.
    pub networks: Vec<Network>,
    /// Its regions.
    pub regions: Vec<String>,
    /// Its zones; empty: any.
    #[serde(default)]
    pub zones: Vec<String>,
    /// Where its gateways lie; empty: the CIDRs of its networks.
    #[serde(default)]
    pub gateway_cidrs: Vec<String>,
    /// How long it may be used, say `15m`; null: 15 minutes.
    #[serde(default)]
    pub ttl: Option<String>,
    /// Whether it may take the place of a live cluster of that name.
    #[serde(default)]
    pub replace: bool,
    /// Labels of the cluster, for export policies.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// Where a token stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenState {
    /// May be used.
    Unused,
    /// Bound a cluster.
    Used,
    /// Too old.
    Expired,
    /// Taken back.
    Revoked,
}

/// An item of `GET tokens`. The secret is never shown again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Token {
    /// Its id: ten letters and digits.
    pub id: String,
    /// The cluster that may join.
    pub cluster: String,
    /// Its end.
    pub expires_at: String,
    /// Where it stands.
    pub state: TokenState,
}

/// The answer to `POST tokens`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenCreated {
    /// Its id.
    pub id: String,
    /// The token itself, shown once.
    pub token: String,
    /// The cluster that may join.
    pub cluster: String,
    /// Its end.
    pub expires_at: String,
    /// What to run in the cluster.
    pub command: Vec<String>,
}

/// `POST joins/plan`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PlanRequest {
    /// The joiner's protocol version.
    pub protocol: u32,
    /// Its software version.
    pub version: String,
    /// Its clock.
    pub clock: String,
    /// What it would export.
    #[serde(default)]
    pub offers: Vec<PlannedOffer>,
}

/// A service that a joiner would export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PlannedOffer {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its ports.
    #[serde(default)]
    pub ports: Vec<PlannedPort>,
    /// `ClusterSetIP` or `Headless`.
    #[serde(rename = "type", default)]
    pub service_type: Option<String>,
}

/// A port of a service that a joiner would export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PlannedPort {
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// Its number.
    pub port: u16,
    /// `TCP`.
    #[serde(default)]
    pub protocol: Option<String>,
    /// As written.
    #[serde(default)]
    pub app_protocol: Option<String>,
}

/// The answer to `POST joins/plan`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// The cluster that would join.
    pub cluster: String,
    /// Its trust domain.
    pub trust_domain: String,
    /// Its networks.
    pub networks: Vec<Network>,
    /// Where its gateways lie.
    pub gateway_cidrs: Vec<String>,
    /// Its regions.
    pub regions: Vec<String>,
    /// Its zones.
    pub zones: Vec<String>,
    /// Whether no check fails.
    pub allowed: bool,
    /// The checks.
    pub checks: Vec<PlanCheck>,
    /// Services that would merge.
    pub merges: Vec<PlanMerge>,
    /// Services that nobody exports yet.
    pub new_services: Vec<String>,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanCheck {
    /// `TokenValid`, `NameFree`, `TrustDomainFree`, `NetworkClash`, `Reachable`, `ClockSkew`, `VersionSkew`,
    /// `AddressesAllowed` or `Conflicts`.
    pub id: String,
    /// The outcome.
    pub result: CheckResult,
    /// In words.
    pub message: String,
    /// What to do about it.
    pub remedy: Option<String>,
}

/// The outcome of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckResult {
    /// Fine.
    Pass,
    /// Worth a look; does not block.
    Warn,
    /// Blocks.
    Fail,
}

/// A service that would merge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanMerge {
    /// `NAMESPACE/NAME`.
    pub service: String,
    /// Clusters that export it already.
    pub with: Vec<String>,
    /// What they contradict, if anything.
    pub conflict: Option<String>,
}
