//! Pure. Keys and values of an offer.

use std::collections::{BTreeMap, BTreeSet};

use meshfed_model::export::{ClusterSelector, ExportTo};
use meshfed_model::names::{ServiceName, SubsetName};
use meshfed_model::offer::{
    EndpointKey, EndpointOffer, Exported, GatewayKey, GatewayOffer, GroupKey, GroupOffer, OfferKey, OfferValue,
    ServiceOffer,
};
use meshfed_model::service::{
    InternalTrafficPolicy, IpFamily, ServicePort, ServiceTraits, ServiceType, SessionAffinity,
};

use super::common::{address, at_most, octets, parsed, port, required, text};
use super::error::{InvalidMessage, Within};
use crate::proto::federation as pb;

/// Ports of one service.
pub const PORTS_MAX: usize = 256;
/// Identities of one service in one cluster.
pub const IDENTITIES_MAX: usize = 256;
/// Selectors of one audience, and names, patterns and labels of one selector.
pub const SELECTORS_MAX: usize = 256;
/// The highest weight of one endpoint; higher ones are taken as this.
pub const WEIGHT_MAX: u32 = 1_000_000;
/// The highest count in one group.
pub const COUNT_MAX: u32 = 1_000_000;
/// Exported labels and annotations of one service.
pub const EXPORTED_MAX: usize = 256;
/// Their keys and values together, in bytes.
pub const EXPORTED_BYTES: usize = 16 << 10;
/// The longest session affinity, in seconds (Kubernetes: a day).
const AFFINITY_SECONDS_MAX: u32 = 86_400;
/// Families of addresses.
const FAMILIES_MAX: usize = 2;
/// The longest name of a port or of an application protocol, in bytes.
const PORT_NAME_MAX: usize = 253;
/// The longest label key or value, in bytes (Kubernetes: prefix 253, `/`, name 63).
const LABEL_MAX: usize = 317;

impl TryFrom<pb::ServiceKey> for ServiceName {
    type Error = InvalidMessage;
    fn try_from(k: pb::ServiceKey) -> Result<Self, InvalidMessage> {
        let shown = |s: &str| s.chars().take(80).collect::<String>();
        Self::new(&k.namespace, &k.name)
            .map_err(|e| InvalidMessage::new("service", format!("'{}/{}': {e}", shown(&k.namespace), shown(&k.name))))
    }
}
impl From<&ServiceName> for pb::ServiceKey {
    fn from(s: &ServiceName) -> Self {
        Self { namespace: s.namespace.to_string(), name: s.name().to_owned() }
    }
}

fn service(key: Option<pb::ServiceKey>) -> Result<ServiceName, InvalidMessage> {
    required(key, "service")?.try_into()
}

fn subset(name: &str) -> Result<SubsetName, InvalidMessage> {
    SubsetName::new(name).map_err(|e| InvalidMessage::new("subset", e))
}

impl TryFrom<pb::GroupKey> for GroupKey {
    type Error = InvalidMessage;
    fn try_from(k: pb::GroupKey) -> Result<Self, InvalidMessage> {
        Ok(Self {
            service: service(k.service)?,
            port: port(k.port, "port")?,
            subset: subset(&k.subset)?,
            network: parsed(&k.network, "network")?,
            locality: parsed(&k.locality, "locality")?,
        })
    }
}
impl TryFrom<pb::EndpointKey> for EndpointKey {
    type Error = InvalidMessage;
    fn try_from(k: pb::EndpointKey) -> Result<Self, InvalidMessage> {
        Ok(Self {
            service: service(k.service)?,
            port: port(k.port, "port")?,
            subset: subset(&k.subset)?,
            network: parsed(&k.network, "network")?,
            address: address(&k.address, "address")?,
            target_port: port(k.target_port, "target_port")?,
        })
    }
}
impl TryFrom<pb::GatewayKey> for GatewayKey {
    type Error = InvalidMessage;
    fn try_from(k: pb::GatewayKey) -> Result<Self, InvalidMessage> {
        Ok(Self {
            network: parsed(&k.network, "network")?,
            address: address(&k.address, "address")?,
            port: port(k.port, "port")?,
        })
    }
}

impl TryFrom<pb::ResourceKey> for OfferKey {
    type Error = InvalidMessage;
    fn try_from(k: pb::ResourceKey) -> Result<Self, InvalidMessage> {
        use pb::resource_key::Key;
        Ok(match required(k.key, "key")? {
            Key::Service(s) => Self::Service(s.try_into()?),
            Key::Group(g) => Self::Group(GroupKey::try_from(g).within("group")?),
            Key::Endpoint(e) => Self::Endpoint(EndpointKey::try_from(e).within("endpoint")?),
            Key::Gateway(g) => Self::Gateway(GatewayKey::try_from(g).within("gateway")?),
        })
    }
}
impl From<&OfferKey> for pb::ResourceKey {
    fn from(k: &OfferKey) -> Self {
        use pb::resource_key::Key;
        let key = match k {
            OfferKey::Service(s) => Key::Service(s.into()),
            OfferKey::Group(g) => Key::Group(pb::GroupKey {
                service: Some((&g.service).into()),
                port: g.port.into(),
                subset: g.subset.to_string(),
                network: g.network.to_string(),
                locality: g.locality.to_string(),
            }),
            OfferKey::Endpoint(e) => Key::Endpoint(pb::EndpointKey {
                service: Some((&e.service).into()),
                port: e.port.into(),
                subset: e.subset.to_string(),
                network: e.network.to_string(),
                address: octets(e.address),
                target_port: e.target_port.into(),
            }),
            OfferKey::Gateway(g) => Key::Gateway(pb::GatewayKey {
                network: g.network.to_string(),
                address: octets(g.address),
                port: g.port.into(),
            }),
        };
        Self { key: Some(key) }
    }
}

impl TryFrom<pb::ServicePort> for ServicePort {
    type Error = InvalidMessage;
    fn try_from(p: pb::ServicePort) -> Result<Self, InvalidMessage> {
        Ok(Self {
            name: text(p.name, PORT_NAME_MAX, "name")?,
            port: port(p.port, "port")?,
            protocol: text(p.protocol, PORT_NAME_MAX, "protocol")?,
            app_protocol: p.app_protocol.map(|a| text(a, PORT_NAME_MAX, "app_protocol")).transpose()?,
        })
    }
}
impl From<&ServicePort> for pb::ServicePort {
    fn from(p: &ServicePort) -> Self {
        Self {
            name: p.name.clone(),
            port: p.port.into(),
            protocol: p.protocol.clone(),
            app_protocol: p.app_protocol.clone(),
        }
    }
}

pub(super) fn service_ports(ports: Vec<pb::ServicePort>) -> Result<Vec<ServicePort>, InvalidMessage> {
    at_most(ports.len(), PORTS_MAX, "ports")?;
    let indexed = ports.into_iter().enumerate();
    indexed.map(|(i, p)| ServicePort::try_from(p).within(format_args!("ports[{i}]"))).collect()
}

pub(super) fn service_type(name: &str) -> Result<ServiceType, InvalidMessage> {
    match name {
        "ClusterSetIP" => Ok(ServiceType::ClusterSetIP),
        "Headless" => Ok(ServiceType::Headless),
        _ => Err(InvalidMessage::new("type", "is neither ClusterSetIP nor Headless")),
    }
}

pub(super) const fn service_type_name(service_type: ServiceType) -> &'static str {
    match service_type {
        ServiceType::ClusterSetIP => "ClusterSetIP",
        ServiceType::Headless => "Headless",
    }
}

impl TryFrom<pb::ClusterSelector> for ClusterSelector {
    type Error = InvalidMessage;
    fn try_from(s: pb::ClusterSelector) -> Result<Self, InvalidMessage> {
        at_most(s.clusters.len(), SELECTORS_MAX, "clusters")?;
        let clusters = s.clusters.into_iter().map(|c| text(c, LABEL_MAX, "clusters"));
        Ok(Self { clusters: clusters.collect::<Result<_, _>>()?, labels: labels(s.labels)? })
    }
}
impl From<&ClusterSelector> for pb::ClusterSelector {
    fn from(s: &ClusterSelector) -> Self {
        Self { clusters: s.clusters.iter().cloned().collect(), labels: s.labels.clone() }
    }
}

pub(super) fn labels(labels: BTreeMap<String, String>) -> Result<BTreeMap<String, String>, InvalidMessage> {
    at_most(labels.len(), SELECTORS_MAX, "labels")?;
    let checked = labels.into_iter().map(|(k, v)| Ok((text(k, LABEL_MAX, "labels")?, text(v, LABEL_MAX, "labels")?)));
    checked.collect()
}

/// Absent stands for nobody: who is not told to whom something is exported must not pass it on.
pub(super) fn export_to(value: Option<pb::ExportTo>) -> Result<ExportTo, InvalidMessage> {
    let Some(value) = value else { return Ok(ExportTo::Selected(BTreeSet::new())) };
    if value.everyone {
        return Ok(ExportTo::Everyone);
    }
    at_most(value.selectors.len(), SELECTORS_MAX, "selectors")?;
    let selectors: Result<_, _> = value.selectors.into_iter().map(ClusterSelector::try_from).collect();
    Ok(ExportTo::Selected(selectors?))
}

pub(super) fn export_to_message(value: &ExportTo) -> Option<pb::ExportTo> {
    match value {
        ExportTo::Everyone => Some(pb::ExportTo { everyone: true, selectors: Vec::new() }),
        ExportTo::Selected(s) if s.is_empty() => None,
        ExportTo::Selected(s) => Some(pb::ExportTo { everyone: false, selectors: s.iter().map(Into::into).collect() }),
    }
}

impl TryFrom<pb::ServiceOffer> for ServiceOffer {
    type Error = InvalidMessage;
    fn try_from(s: pb::ServiceOffer) -> Result<Self, InvalidMessage> {
        at_most(s.identities.len(), IDENTITIES_MAX, "identities")?;
        Ok(Self {
            service_type: service_type(&s.r#type)?,
            ports: service_ports(s.ports)?,
            export_to: export_to(s.export_to).within("export_to")?,
            identities: s.identities.iter().map(|i| parsed(i, "identities")).collect::<Result<_, _>>()?,
            traits: ServiceTraits {
                session_affinity: affinity(s.affinity_seconds)?,
                internal_traffic_policy: if s.internal_local {
                    InternalTrafficPolicy::Local
                } else {
                    InternalTrafficPolicy::Cluster
                },
                traffic_distribution: s
                    .traffic_distribution
                    .map(|t| text(t, PORT_NAME_MAX, "traffic_distribution"))
                    .transpose()?,
                ip_families: families(&s.ip_families)?,
            },
            exported: exported(s.exported_labels, s.exported_annotations)?,
        })
    }
}

fn affinity(seconds: Option<u32>) -> Result<SessionAffinity, InvalidMessage> {
    match seconds {
        None => Ok(SessionAffinity::None),
        Some(timeout_seconds @ 1..=AFFINITY_SECONDS_MAX) => Ok(SessionAffinity::ClientIP { timeout_seconds }),
        Some(other) => {
            let problem = format!("{other} is not from 1 to {AFFINITY_SECONDS_MAX}");
            Err(InvalidMessage::new("affinity_seconds", problem))
        }
    }
}

fn families(names: &[String]) -> Result<Vec<IpFamily>, InvalidMessage> {
    at_most(names.len(), FAMILIES_MAX, "ip_families")?;
    let family = |name: &String| match name.as_str() {
        "IPv4" => Ok(IpFamily::IPv4),
        "IPv6" => Ok(IpFamily::IPv6),
        _ => Err(InvalidMessage::new("ip_families", "is neither IPv4 nor IPv6")),
    };
    names.iter().map(family).collect()
}

const fn family_name(family: &IpFamily) -> &'static str {
    match family {
        IpFamily::IPv4 => "IPv4",
        IpFamily::IPv6 => "IPv6",
    }
}

/// Annotations hold any text, lines too.
fn exported(
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
) -> Result<Exported, InvalidMessage> {
    let exported = Exported { labels, annotations };
    let (pairs, bytes) = exported.size();
    at_most(pairs, EXPORTED_MAX, "exported_labels and exported_annotations")?;
    if bytes > EXPORTED_BYTES {
        let problem = format!("have {bytes} bytes, at most {EXPORTED_BYTES} are allowed");
        return Err(InvalidMessage::new("exported_labels and exported_annotations", problem));
    }
    Ok(exported)
}
impl TryFrom<pb::GroupOffer> for GroupOffer {
    type Error = InvalidMessage;
    fn try_from(g: pb::GroupOffer) -> Result<Self, InvalidMessage> {
        if g.ready > g.total {
            return Err(InvalidMessage::new("ready", format!("{} of {} is too many", g.ready, g.total)));
        }
        if g.total > COUNT_MAX {
            return Err(InvalidMessage::new("total", format!("{} is more than {COUNT_MAX}", g.total)));
        }
        let weight = g.weight.min(u64::from(g.ready) * u64::from(WEIGHT_MAX));
        Ok(Self { ready: g.ready, total: g.total, weight })
    }
}
impl TryFrom<pb::EndpointOffer> for EndpointOffer {
    type Error = InvalidMessage;
    fn try_from(e: pb::EndpointOffer) -> Result<Self, InvalidMessage> {
        Ok(Self {
            locality: parsed(&e.locality, "locality")?,
            weight: e.weight.min(WEIGHT_MAX),
            ready: e.ready,
            draining: e.draining,
            identity: parsed(&e.identity, "identity")?,
            workload: text(e.workload, PORT_NAME_MAX, "workload")?,
        })
    }
}
impl TryFrom<pb::GatewayOffer> for GatewayOffer {
    type Error = InvalidMessage;
    fn try_from(g: pb::GatewayOffer) -> Result<Self, InvalidMessage> {
        Ok(Self { locality: parsed(&g.locality, "locality")?, ready: g.ready })
    }
}

impl TryFrom<pb::resource::Value> for OfferValue {
    type Error = InvalidMessage;
    fn try_from(v: pb::resource::Value) -> Result<Self, InvalidMessage> {
        use pb::resource::Value;
        Ok(match v {
            Value::Service(s) => Self::Service(ServiceOffer::try_from(s).within("service")?),
            Value::Group(g) => Self::Group(GroupOffer::try_from(g).within("group")?),
            Value::Endpoint(e) => Self::Endpoint(EndpointOffer::try_from(e).within("endpoint")?),
            Value::Gateway(g) => Self::Gateway(GatewayOffer::try_from(g).within("gateway")?),
        })
    }
}
impl From<&OfferValue> for pb::resource::Value {
    fn from(v: &OfferValue) -> Self {
        match v {
            OfferValue::Service(s) => Self::Service(pb::ServiceOffer {
                r#type: service_type_name(s.service_type).to_owned(),
                ports: s.ports.iter().map(Into::into).collect(),
                export_to: export_to_message(&s.export_to),
                identities: s.identities.iter().map(ToString::to_string).collect(),
                affinity_seconds: match s.traits.session_affinity {
                    SessionAffinity::None => None,
                    SessionAffinity::ClientIP { timeout_seconds } => Some(timeout_seconds),
                },
                internal_local: s.traits.internal_traffic_policy == InternalTrafficPolicy::Local,
                traffic_distribution: s.traits.traffic_distribution.clone(),
                ip_families: s.traits.ip_families.iter().map(|f| family_name(f).to_owned()).collect(),
                exported_labels: s.exported.labels.clone(),
                exported_annotations: s.exported.annotations.clone(),
            }),
            OfferValue::Group(g) => Self::Group(pb::GroupOffer { ready: g.ready, total: g.total, weight: g.weight }),
            OfferValue::Endpoint(e) => Self::Endpoint(pb::EndpointOffer {
                locality: e.locality.to_string(),
                weight: e.weight,
                ready: e.ready,
                draining: e.draining,
                identity: e.identity.to_string(),
                workload: e.workload.clone(),
            }),
            OfferValue::Gateway(g) => {
                Self::Gateway(pb::GatewayOffer { locality: g.locality.to_string(), ready: g.ready })
            }
        }
    }
}
