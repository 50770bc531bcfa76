//! Pure. What the two ends of a session say about where they stand.

use std::collections::{BTreeMap, BTreeSet};

use meshfed_model::identity::TrustDomain;
use meshfed_model::names::{ClusterName, Namespace, NetworkName};
use meshfed_model::version::Version;

use super::common::{PLACES_MAX, TEXT_MAX, at_most, parsed, required, text};
use super::error::{InvalidMessage, Within};
use super::member::MEMBERS_MAX;
use super::refusal::Refusal;
use crate::proto::federation as pb;

/// Namespaces that one cluster announces.
pub const NAMESPACES_MAX: usize = 50_000;
/// The longest name of one of several agents, in bytes: that of a pod.
pub const INSTANCE_MAX: usize = 253;
/// Refusals in one acknowledgement; more are counted, not named.
pub const REFUSALS_MAX: usize = 256;

/// The first message of an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The session protocol.
    pub protocol: u32,
    /// The agent's version of meshfed.
    pub version: String,
    /// Its clock, RFC 3339.
    pub clock: String,
    /// Its replica.
    pub replica: u32,
    /// The version of its offer.
    pub offer: Version,
    /// The oldest revision it can send a delta from.
    pub offer_floor: u64,
    /// What it holds of each origin.
    pub view: BTreeMap<ClusterName, HeldOrigin>,
    /// The bundles it holds.
    pub bundles: BTreeMap<TrustDomain, u64>,
    /// The revision of the policies it holds.
    pub policy_revision: u64,
    /// What it wants to see.
    pub interest: Interest,
    /// Which of several agents that share the replica; empty where there is one.
    pub instance: String,
    /// By what they decide which of them offers; `None`: this one does.
    pub lease: Option<Lease>,
}

/// A Lease as an agent last saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// Whether the agent holds it.
    pub held: bool,
    /// Its epoch.
    pub epoch: LeaseEpoch,
}

/// Which holding of a Lease: a later one is higher, also over a Lease that was deleted and made anew.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeaseEpoch {
    /// When the Lease was made, in Unix seconds.
    pub since: u64,
    /// `spec.leaseTransitions`.
    pub transitions: u64,
}

impl std::fmt::Display for LeaseEpoch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.since, self.transitions)
    }
}

/// What an agent holds of one origin.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeldOrigin {
    /// The origin's version.
    pub version: Version,
    /// The filter by which the hub chose what it holds.
    pub filter: u64,
}

/// What a cluster wants to see: services of these namespaces.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interest {
    /// The namespaces.
    pub namespaces: BTreeSet<Namespace>,
}

impl TryFrom<pb::Hello> for Hello {
    type Error = InvalidMessage;
    fn try_from(h: pb::Hello) -> Result<Self, InvalidMessage> {
        at_most(h.view.len(), MEMBERS_MAX, "view")?;
        at_most(h.bundles.len(), MEMBERS_MAX, "bundles")?;
        let bundles = h.bundles.iter().map(|b| Ok((parsed(&b.trust_domain, "bundles.trust_domain")?, b.serial)));
        Ok(Self {
            protocol: h.protocol,
            version: text(h.version, TEXT_MAX, "version")?,
            clock: text(h.clock, TEXT_MAX, "clock")?,
            replica: h.replica,
            offer: h.offer.map(Version::from).unwrap_or_default(),
            offer_floor: h.offer_floor,
            view: h.view.into_iter().map(origin_version).collect::<Result<_, _>>().within("view")?,
            bundles: bundles.collect::<Result<_, InvalidMessage>>()?,
            policy_revision: h.policy_revision,
            interest: h.interest.unwrap_or_default().try_into().within("interest")?,
            instance: text(h.instance, INSTANCE_MAX, "instance")?,
            lease: h
                .lease
                .map(|l| Lease { held: l.held, epoch: LeaseEpoch { since: l.since, transitions: l.transitions } }),
        })
    }
}
impl From<&Hello> for pb::Hello {
    fn from(h: &Hello) -> Self {
        Self {
            protocol: h.protocol,
            version: h.version.clone(),
            clock: h.clock.clone(),
            replica: h.replica,
            offer: Some(h.offer.into()),
            offer_floor: h.offer_floor,
            view: h.view.iter().map(|(c, v)| origin_version_message(c, v)).collect(),
            bundles: h.bundles.iter().map(|(t, s)| bundle_serial_message(t, *s)).collect(),
            policy_revision: h.policy_revision,
            interest: Some((&h.interest).into()),
            instance: h.instance.clone(),
            lease: h.lease.map(|l| pb::Lease { held: l.held, since: l.epoch.since, transitions: l.epoch.transitions }),
        }
    }
}

impl TryFrom<pb::Interest> for Interest {
    type Error = InvalidMessage;
    fn try_from(i: pb::Interest) -> Result<Self, InvalidMessage> {
        Ok(Self { namespaces: namespaces(&i.namespaces, "namespaces")? })
    }
}
impl From<&Interest> for pb::Interest {
    fn from(i: &Interest) -> Self {
        Self { namespaces: i.namespaces.iter().map(ToString::to_string).collect() }
    }
}

fn namespaces(names: &[String], field: &'static str) -> Result<BTreeSet<Namespace>, InvalidMessage> {
    at_most(names.len(), NAMESPACES_MAX, field)?;
    names.iter().map(|n| parsed(n, field)).collect()
}

/// Networks that the receiver shares with other clusters.
///
/// # Errors
/// Names the field.
pub fn shared_networks(message: pb::SharedNetworks) -> Result<BTreeSet<NetworkName>, InvalidMessage> {
    at_most(message.networks.len(), PLACES_MAX, "networks")?;
    message.networks.iter().map(|n| parsed(n, "networks")).collect()
}
/// The message that names shared networks.
#[must_use]
pub fn shared_networks_message(networks: &BTreeSet<NetworkName>) -> pb::SharedNetworks {
    pb::SharedNetworks { networks: networks.iter().map(ToString::to_string).collect() }
}

/// What an agent holds of one origin.
///
/// # Errors
/// Names the field.
pub fn origin_version(message: pb::OriginVersion) -> Result<(ClusterName, HeldOrigin), InvalidMessage> {
    let held = HeldOrigin { version: message.version.map(Version::from).unwrap_or_default(), filter: message.filter };
    Ok((parsed(&message.cluster, "cluster")?, held))
}
/// The message of what an agent holds of one origin.
#[must_use]
pub fn origin_version_message(cluster: &ClusterName, held: &HeldOrigin) -> pb::OriginVersion {
    pb::OriginVersion { cluster: cluster.to_string(), version: Some(held.version.into()), filter: held.filter }
}

/// The serial of a bundle that somebody holds.
///
/// # Errors
/// Names the field.
pub fn bundle_serial(message: pb::BundleSerial) -> Result<(TrustDomain, u64), InvalidMessage> {
    Ok((parsed(&message.trust_domain, "trust_domain")?, message.serial))
}
/// The message that names the serial of a bundle.
#[must_use]
pub fn bundle_serial_message(trust_domain: &TrustDomain, serial: u64) -> pb::BundleSerial {
    pb::BundleSerial { trust_domain: trust_domain.to_string(), serial }
}

/// "I stand at this version of that origin."
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ack {
    /// The origin.
    pub origin: ClusterName,
    /// The version.
    pub version: Version,
    /// What was refused, at most [`REFUSALS_MAX`].
    pub refused: Vec<Refusal>,
}

impl TryFrom<pb::Ack> for Ack {
    type Error = InvalidMessage;
    fn try_from(a: pb::Ack) -> Result<Self, InvalidMessage> {
        at_most(a.refused.len(), REFUSALS_MAX, "refused")?;
        let refused = a.refused.into_iter().map(Refusal::try_from);
        Ok(Self {
            origin: parsed(&a.origin, "origin")?,
            version: required(a.version, "version")?.into(),
            refused: refused.collect::<Result<_, InvalidMessage>>().within("refused")?,
        })
    }
}
impl From<&Ack> for pb::Ack {
    fn from(a: &Ack) -> Self {
        Self {
            origin: a.origin.to_string(),
            version: Some(a.version.into()),
            refused: a.refused.iter().take(REFUSALS_MAX).map(Into::into).collect(),
        }
    }
}
