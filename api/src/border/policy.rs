//! Pure. Policies of the fleet.

use meshfed_model::names::{Namespace, ServiceName, check_label};
use meshfed_model::policy::{
    ExportPolicy, FailoverPolicy, FailoverSpec, FleetPolicies, FleetSettings, OutboundPolicy, PolicySource,
    PolicyTarget, Relative, SelectItem, Selector, ServicePattern, Tier,
};

use super::common::{TEXT_MAX, at_most, parsed, place, required, text};
use super::error::{InvalidMessage, Within};
use super::offer::WEIGHT_MAX;
use crate::proto::federation as pb;

/// Policies of one kind in a fleet.
pub const POLICIES_MAX: usize = 10_000;
/// The longest domain of imported services, in characters.
const DOMAIN_MAX: usize = 128;
/// Tiers of one policy.
pub const TIERS_MAX: usize = 64;
/// Items of one tier, and patterns of one export policy.
pub const ITEMS_MAX: usize = 256;

impl TryFrom<pb::SelectItem> for SelectItem {
    type Error = InvalidMessage;
    fn try_from(s: pb::SelectItem) -> Result<Self, InvalidMessage> {
        use pb::select_item::Selector as Wire;
        let selector = match required(s.selector, "selector")? {
            Wire::Cluster(c) => Selector::Cluster(parsed(&c, "cluster")?),
            Wire::Region(r) => Selector::Region(place(&r, "region")?),
            Wire::Zone(z) => Selector::Zone(place(&z, "zone")?),
            Wire::Relative(r) => Selector::Relative(match r.as_str() {
                "sameCluster" => Relative::SameCluster,
                "sameZone" => Relative::SameZone,
                "sameRegion" => Relative::SameRegion,
                "any" => Relative::Any,
                _ => return Err(InvalidMessage::new("relative", "is not sameCluster, sameZone, sameRegion or any")),
            }),
        };
        Ok(Self { selector, weight: s.weight.map(|w| w.min(WEIGHT_MAX)) })
    }
}
impl From<&SelectItem> for pb::SelectItem {
    fn from(s: &SelectItem) -> Self {
        use pb::select_item::Selector as Wire;
        let selector = match &s.selector {
            Selector::Cluster(c) => Wire::Cluster(c.to_string()),
            Selector::Region(r) => Wire::Region(r.clone()),
            Selector::Zone(z) => Wire::Zone(z.clone()),
            Selector::Relative(r) => Wire::Relative(
                match r {
                    Relative::SameCluster => "sameCluster",
                    Relative::SameZone => "sameZone",
                    Relative::SameRegion => "sameRegion",
                    Relative::Any => "any",
                }
                .to_owned(),
            ),
        };
        Self { selector: Some(selector), weight: s.weight }
    }
}

impl TryFrom<pb::Tier> for Tier {
    type Error = InvalidMessage;
    fn try_from(t: pb::Tier) -> Result<Self, InvalidMessage> {
        at_most(t.select.len(), ITEMS_MAX, "select")?;
        let items = t.select.into_iter().enumerate();
        let select: Vec<SelectItem> =
            items.map(|(i, s)| s.try_into().within(format_args!("select[{i}]"))).collect::<Result<_, _>>()?;
        let weighted = select.iter().filter(|s| s.weight.is_some()).count();
        if weighted != 0 && weighted != select.len() {
            return Err(InvalidMessage::new("select", "the items of a tier have all a weight or none"));
        }
        if t.min_healthy_percent > 100 {
            return Err(InvalidMessage::new("min_healthy_percent", format!("{} is above 100", t.min_healthy_percent)));
        }
        Ok(Self {
            name: text(t.name, TEXT_MAX, "name")?,
            select,
            min_healthy_percent: t.min_healthy_percent,
            min_healthy_endpoints: t.min_healthy_endpoints,
        })
    }
}
impl From<&Tier> for pb::Tier {
    fn from(t: &Tier) -> Self {
        Self {
            name: t.name.clone(),
            select: t.select.iter().map(Into::into).collect(),
            min_healthy_percent: t.min_healthy_percent,
            min_healthy_endpoints: t.min_healthy_endpoints,
        }
    }
}

impl TryFrom<pb::FailoverPolicy> for FailoverPolicy {
    type Error = InvalidMessage;
    fn try_from(p: pb::FailoverPolicy) -> Result<Self, InvalidMessage> {
        at_most(p.tiers.len(), TIERS_MAX, "tiers")?;
        let target = match (p.namespace.as_str(), p.name.as_str()) {
            ("", "") => PolicyTarget::Default,
            ("", _) => return Err(InvalidMessage::new("namespace", "is missing")),
            (namespace, "") => PolicyTarget::Namespace(parsed::<Namespace>(namespace, "namespace")?),
            (namespace, name) => {
                PolicyTarget::Service(ServiceName::new(namespace, name).map_err(|e| InvalidMessage::new("name", e))?)
            }
        };
        let source = match p.source.as_str() {
            "fleet" => PolicySource::Fleet,
            "api" => PolicySource::Api,
            _ => return Err(InvalidMessage::new("source", "is neither fleet nor api")),
        };
        let tiers = p.tiers.into_iter().enumerate();
        let tiers = tiers.map(|(i, t)| t.try_into().within(format_args!("tiers[{i}]"))).collect::<Result<_, _>>()?;
        let spec = FailoverSpec { tiers, hold_down_seconds: p.hold_down_seconds, ramp_up_seconds: p.ramp_up_seconds };
        Ok(Self { target, source, spec })
    }
}
impl From<&FailoverPolicy> for pb::FailoverPolicy {
    fn from(p: &FailoverPolicy) -> Self {
        let (namespace, name) = match &p.target {
            PolicyTarget::Default => (String::new(), String::new()),
            PolicyTarget::Namespace(n) => (n.to_string(), String::new()),
            PolicyTarget::Service(s) => (s.namespace.to_string(), s.name().to_owned()),
        };
        Self {
            namespace,
            name,
            tiers: p.spec.tiers.iter().map(Into::into).collect(),
            hold_down_seconds: p.spec.hold_down_seconds,
            ramp_up_seconds: p.spec.ramp_up_seconds,
            source: match p.source {
                PolicySource::Fleet => "fleet",
                PolicySource::Api => "api",
            }
            .to_owned(),
        }
    }
}

impl TryFrom<pb::ExportPolicy> for ExportPolicy {
    type Error = InvalidMessage;
    fn try_from(p: pb::ExportPolicy) -> Result<Self, InvalidMessage> {
        at_most(p.services.len(), ITEMS_MAX, "services")?;
        let services = p.services.into_iter().map(|s| {
            Ok(ServicePattern {
                namespace: text(s.namespace, TEXT_MAX, "services.namespace")?,
                name: text(s.name, TEXT_MAX, "services.name")?,
            })
        });
        Ok(Self {
            services: services.collect::<Result<_, InvalidMessage>>()?,
            to: p.to.unwrap_or_default().try_into().within("to")?,
        })
    }
}
impl From<&ExportPolicy> for pb::ExportPolicy {
    fn from(p: &ExportPolicy) -> Self {
        let pattern = |s: &ServicePattern| pb::ServicePattern { namespace: s.namespace.clone(), name: s.name.clone() };
        Self { services: p.services.iter().map(pattern).collect(), to: Some((&p.to).into()) }
    }
}

impl TryFrom<pb::Settings> for FleetSettings {
    type Error = InvalidMessage;
    fn try_from(s: pb::Settings) -> Result<Self, InvalidMessage> {
        let outbound = match s.outbound_traffic_policy.as_str() {
            "" => None,
            "ALLOW_ANY" => Some(OutboundPolicy::AllowAny),
            "REGISTRY_ONLY" => Some(OutboundPolicy::RegistryOnly),
            _ => return Err(InvalidMessage::new("outbound_traffic_policy", "is not ALLOW_ANY or REGISTRY_ONLY")),
        };
        let domain = text(s.clusterset_domain, DOMAIN_MAX, "clusterset_domain")?;
        if !domain.is_empty() && domain.split('.').any(|part| check_label("domain", part).is_err()) {
            return Err(InvalidMessage::new("clusterset_domain", "is no DNS name"));
        }
        Ok(Self { outbound, clusterset_domain: (!domain.is_empty()).then_some(domain) })
    }
}
impl From<&FleetSettings> for pb::Settings {
    fn from(s: &FleetSettings) -> Self {
        Self {
            outbound_traffic_policy: s.outbound.map(|o| o.as_str().to_owned()).unwrap_or_default(),
            clusterset_domain: s.clusterset_domain.clone().unwrap_or_default(),
        }
    }
}

impl TryFrom<pb::Policies> for FleetPolicies {
    type Error = InvalidMessage;
    fn try_from(p: pb::Policies) -> Result<Self, InvalidMessage> {
        at_most(p.failover.len(), POLICIES_MAX, "failover")?;
        at_most(p.export.len(), POLICIES_MAX, "export")?;
        let failover = p.failover.into_iter().enumerate();
        let export = p.export.into_iter().enumerate();
        Ok(Self {
            revision: p.revision,
            failover: failover
                .map(|(i, f)| f.try_into().within(format_args!("failover[{i}]")))
                .collect::<Result<_, _>>()?,
            export: export.map(|(i, e)| e.try_into().within(format_args!("export[{i}]"))).collect::<Result<_, _>>()?,
            settings: p.settings.unwrap_or_default().try_into().within("settings")?,
        })
    }
}
impl From<&FleetPolicies> for pb::Policies {
    fn from(p: &FleetPolicies) -> Self {
        Self {
            revision: p.revision,
            failover: p.failover.iter().map(Into::into).collect(),
            export: p.export.iter().map(Into::into).collect(),
            settings: Some((&p.settings).into()),
        }
    }
}
