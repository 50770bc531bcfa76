//! Pure. The derived Service: it carries the addresses of an import, and nothing else.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use meshfed_model::import::Import;
use meshfed_model::names::ServiceName;
use meshfed_model::service::{IpFamily, ServiceType};

use super::{Context, Deleted, Seen, Write, lacks_family, meta, ports};
use crate::mirror::names::{IMPORT_NAME, derived_service};

/// The addresses of a Service, in order.
#[must_use]
pub fn cluster_ips(service: &Service) -> Vec<IpAddr> {
    let listed = service.spec.iter().flat_map(|spec| spec.cluster_ips.iter().flatten());
    listed.filter_map(|ip| ip.parse().ok()).collect()
}

/// The families that are asked for: those of the oldest export, without those that this cluster does not have.
pub(super) fn families(import: &Import, context: &Context) -> Vec<IpFamily> {
    import.traits.ip_families.iter().copied().filter(|family| !context.unsupported.contains(family)).collect()
}

pub(super) fn plan(name: &ServiceName, import: &Import, seen: &Seen, context: &Context) -> Vec<Write> {
    if import.service_type == ServiceType::Headless {
        return remove(seen);
    }
    let asked = families(import, context);
    if lacks_family(import, seen, context) {
        return Vec::new();
    }
    let object = wanted(name, import, seen, context, &asked);
    match &seen.service {
        Some(service) if is_as_wanted(service, &object) => Vec::new(),
        service => vec![Write::Service { object: Box::new(object), new: service.is_none() }],
    }
}

pub(super) fn remove(seen: &Seen) -> Vec<Write> {
    let delete = |service: &Service| Write::Delete {
        kind: Deleted::Service,
        name: service.metadata.name.clone().unwrap_or_default(),
        uid: service.metadata.uid.clone(),
    };
    seen.service.iter().map(delete).collect()
}

/// The longest `namespace/service:port`, in bytes: in its nftables mode kube-proxy writes it as the comment of a Service without
/// endpoints, nft takes 128 bytes, and one that it refuses keeps all Services of the cluster from being programmed.
const COMMENT_MAX: usize = 128;

fn wanted(name: &ServiceName, import: &Import, seen: &Seen, context: &Context, asked: &[IpFamily]) -> Service {
    let known = import.ports.iter().map(|p| &p.port).filter(|p| ports::is_known(p));
    let (object, namespace) = (derived_service(name), name.namespace.as_str());
    let longest = COMMENT_MAX.saturating_sub(namespace.len() + object.len() + "/:".len());
    let port = |(p, name): (&meshfed_model::service::ServicePort, String)| ServicePort {
        name: Some(name).filter(|name| !name.is_empty()),
        protocol: Some(p.protocol.clone()),
        app_protocol: ports::app_protocol(p),
        port: p.port.into(),
        // Nobody is behind it; what somebody else writes here is undone like the rest.
        target_port: Some(IntOrString::Int(p.port.into())),
        ..ServicePort::default()
    };
    // An import keeps its addresses for as long as it lives: also when its Service was deleted and is made again.
    let held = match &seen.service {
        Some(service) => cluster_ips(service),
        None if context.address_taken => Vec::new(),
        None => {
            let ips = seen.import.iter().flat_map(|i| &i.spec.ips);
            ips.filter_map(|ip| ip.parse().ok()).collect()
        }
    };
    let families: Vec<IpFamily> =
        if held.is_empty() { asked.to_vec() } else { held.iter().copied().map(IpFamily::of).collect() };
    let policy = if families.len() > 1 { "PreferDualStack" } else { "SingleStack" };
    let uid = seen.service.as_ref().and_then(|s| s.metadata.uid.clone());
    let annotations = BTreeMap::from([(IMPORT_NAME.to_owned(), name.name().to_owned())]);
    Service {
        metadata: meta::ours(name, object, uid, BTreeMap::new(), annotations),
        spec: Some(ServiceSpec {
            type_: Some("ClusterIP".to_owned()),
            cluster_ip: held.first().map(ToString::to_string),
            cluster_ips: (!held.is_empty()).then(|| held.iter().map(ToString::to_string).collect()),
            ip_families: (!families.is_empty()).then(|| families.iter().map(family_name).collect()),
            ip_family_policy: Some(policy.to_owned()),
            internal_traffic_policy: Some("Cluster".to_owned()),
            session_affinity: Some("None".to_owned()),
            ports: Some(known.clone().zip(ports::names(known, longest)).map(port).collect()),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

pub(super) fn family_name(family: &IpFamily) -> String {
    match family {
        IpFamily::IPv4 => "IPv4",
        IpFamily::IPv6 => "IPv6",
    }
    .to_owned()
}

/// Whether a derived Service says what it is to say, and nothing more.
#[must_use]
pub fn is_as_wanted(seen: &Service, wanted: &Service) -> bool {
    let (Some(a), Some(b)) = (&seen.spec, &wanted.spec) else { return false };
    let target = |port: &ServicePort| match &port.target_port {
        Some(IntOrString::Int(number)) => number.to_string(),
        Some(IntOrString::String(name)) => name.clone(),
        None => String::new(),
    };
    let ports = |spec: &ServiceSpec| {
        let ports = spec.ports.iter().flatten();
        let mut all: Vec<_> =
            ports.map(|p| (p.port, p.protocol.clone(), p.name.clone(), p.app_protocol.clone(), target(p))).collect();
        all.sort();
        all
    };
    meta::same(&seen.metadata, &wanted.metadata)
        && ports(a) == ports(b)
        && a.selector.as_ref().is_none_or(BTreeMap::is_empty)
        && a.external_ips.as_ref().is_none_or(Vec::is_empty)
        && a.traffic_distribution.is_none()
        && (&a.type_, &a.session_affinity, &a.internal_traffic_policy)
            == (&b.type_, &b.session_affinity, &b.internal_traffic_policy)
}
