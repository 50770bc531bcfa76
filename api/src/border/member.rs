//! Pure. Members of the fleet and their bundles.

use std::collections::BTreeMap;

use meshfed_model::bundle::Bundle;
use meshfed_model::member::{Member, Members};

use super::common::{PLACES_MAX, at_most, cidrs, parsed, places};
use super::error::{InvalidMessage, Within};
use super::offer::labels;
use crate::proto::federation as pb;

/// Members of one fleet.
pub const MEMBERS_MAX: usize = 10_000;
/// Anchors of one trust domain; two while one rolls over.
pub const ANCHORS_MAX: usize = 8;
/// The longest certificate, in bytes (DER).
pub const CERTIFICATE_MAX: usize = 8192;

impl TryFrom<pb::Bundle> for Bundle {
    type Error = InvalidMessage;
    fn try_from(b: pb::Bundle) -> Result<Self, InvalidMessage> {
        at_most(b.anchors.len(), ANCHORS_MAX, "anchors")?;
        if b.anchors.len() != b.lineages.len() {
            let problem = format!("{} for {} anchors", b.lineages.len(), b.anchors.len());
            return Err(InvalidMessage::new("lineages", problem));
        }
        for certificate in b.anchors.iter().chain(&b.lineages) {
            if certificate.is_empty() || certificate.len() > CERTIFICATE_MAX {
                let problem = format!("a certificate of {} bytes (1 to {CERTIFICATE_MAX})", certificate.len());
                return Err(InvalidMessage::new("anchors and lineages", problem));
            }
        }
        Ok(Self {
            trust_domain: parsed(&b.trust_domain, "trust_domain")?,
            serial: b.serial,
            anchors: b.anchors,
            lineages: b.lineages,
        })
    }
}
impl From<&Bundle> for pb::Bundle {
    fn from(b: &Bundle) -> Self {
        Self {
            trust_domain: b.trust_domain.to_string(),
            serial: b.serial,
            anchors: b.anchors.clone(),
            lineages: b.lineages.clone(),
        }
    }
}

impl TryFrom<pb::Member> for Member {
    type Error = InvalidMessage;
    fn try_from(m: pb::Member) -> Result<Self, InvalidMessage> {
        at_most(m.networks.len(), PLACES_MAX, "networks")?;
        let networks = m.networks.into_iter().enumerate();
        Ok(Self {
            cluster: parsed(&m.cluster, "cluster")?,
            trust_domain: parsed(&m.trust_domain, "trust_domain")?,
            labels: labels(m.labels)?,
            drained: m.drained,
            leaving: m.leaving,
            networks: networks
                .map(|(i, n)| n.try_into().within(format_args!("networks[{i}]")))
                .collect::<Result<_, _>>()?,
            gateway_cidrs: cidrs(&m.gateway_cidrs, "gateway_cidrs")?,
            regions: places(&m.regions, "regions")?.into_iter().collect(),
        })
    }
}
impl From<&Member> for pb::Member {
    fn from(m: &Member) -> Self {
        Self {
            cluster: m.cluster.to_string(),
            trust_domain: m.trust_domain.to_string(),
            labels: m.labels.clone(),
            drained: m.drained,
            leaving: m.leaving,
            networks: m.networks.iter().map(Into::into).collect(),
            gateway_cidrs: m.gateway_cidrs.iter().map(ToString::to_string).collect(),
            regions: m.regions.iter().cloned().collect(),
        }
    }
}

impl TryFrom<pb::Members> for Members {
    type Error = InvalidMessage;
    fn try_from(m: pb::Members) -> Result<Self, InvalidMessage> {
        at_most(m.members.len(), MEMBERS_MAX, "members")?;
        let mut members = BTreeMap::new();
        for (i, member) in m.members.into_iter().enumerate() {
            let member = Member::try_from(member).within(format_args!("members[{i}]"))?;
            if let Some(twice) = members.insert(member.cluster.clone(), member) {
                return Err(InvalidMessage::new(format!("members[{i}]"), format!("{} comes twice", twice.cluster)));
            }
        }
        Ok(Self { revision: m.revision, members })
    }
}
impl From<&Members> for pb::Members {
    fn from(m: &Members) -> Self {
        Self { revision: m.revision, members: m.members.values().map(Into::into).collect() }
    }
}
