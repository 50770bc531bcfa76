//! Pure. The border of Service.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use meshfed_model::names::{NetworkName, ServiceName, check_label, check_object_name};
use meshfed_model::service::{
    InternalTrafficPolicy, IpFamily, ServicePort, ServiceTraits, ServiceType, SessionAffinity,
};

use super::common::{GATEWAY_ADDRESSES, NETWORK, Reader, SERVICE_IMPORT, socket_address};
use crate::bounds::GATEWAY_PORT;
use crate::error::Code;
use crate::object::{Scope, ServiceObject, ServicePortObject, TargetPort};
use crate::tree::Node;

/// The most ports of a service.
const PORTS_MAX: usize = 256;
/// The most addresses of a gateway.
const ADDRESSES_MAX: usize = 64;
/// The most addresses of one service: one of each family.
const CLUSTER_IPS_MAX: usize = 2;
/// The type of a service that stands for a name elsewhere.
const EXTERNAL_NAME: &str = "ExternalName";
/// What `clusterIP` says of a headless service.
const NO_ADDRESS: &str = "None";
/// How long a client stays on its endpoint where nothing is said, in seconds (Kubernetes' default).
const AFFINITY_SECONDS: u32 = 10_800;
const ADDRESS_FORM: &str = "write IP:PORT or [IPv6]:PORT, several with commas between";

pub(super) fn read(r: &mut Reader<'_>) -> Option<ServiceObject> {
    let name = r.checked("metadata.name", ServiceName::new(&*r.key.namespace, &*r.key.name))?;
    let external = r.get(&["spec", "type"]).and_then(Node::text) == Some(EXTERNAL_NAME);
    // An API server's users have such Services for others than the mesh: what is wrong with exporting one is told there.
    if external
        && r.scope != Scope::Member
        && let Some(kind) = r.get(&["spec", "type"])
    {
        let message = format!("{EXTERNAL_NAME} is not served in this version; nobody is sent there by the mesh");
        r.find(Code::NoEffectYet, kind.place, "spec.type", message, None);
    }
    let headless = r.get(&["spec", "clusterIP"]).and_then(Node::text) == Some(NO_ADDRESS);
    let cluster_ips = if headless { Box::default() } else { cluster_ips(r) };
    let traits = traits(r, &cluster_ips);
    let ports = if external { Vec::new() } else { ports(r, headless) };
    let network_label = r.get(&["metadata", "labels", NETWORK]);
    let gateway_network = network_label.and_then(|node| {
        r.mark("metadata.labels.topology.istio.io/network", node);
        r.parsed(node, "metadata.labels.topology.istio.io/network", "write the name of a network", |t| {
            NetworkName::new(t)
        })
    });
    let gateway_addresses = gateway_addresses(r);
    let has_tls = ports.iter().any(|p| p.port.name == GATEWAY_PORT);
    if let Some(node) = r.annotation(GATEWAY_ADDRESSES)
        && (gateway_network.is_none() || !has_tls)
    {
        let field = format!("metadata.annotations.{GATEWAY_ADDRESSES}");
        let message = "the service is no gateway: that needs the label topology.istio.io/network and a port named tls";
        r.bad(node, &field, message, "add what is missing, or take the annotation away");
    }
    let external_ips = ips(r, &["spec", "externalIPs"], "spec.externalIPs");
    let (mut load_balancer_ips, mut load_balancer_hosts) = (Vec::new(), Vec::new());
    let ingress = r.get(&["status", "loadBalancer", "ingress"]).map(Node::items).unwrap_or_default();
    for (i, item) in ingress.iter().take(ADDRESSES_MAX).enumerate() {
        if let Some(node) = item.get("ip") {
            r.mark("status.loadBalancer.ingress", node);
            load_balancer_ips.extend(r.address(node, &format!("status.loadBalancer.ingress[{i}].ip")));
        } else if let (Some(node), Some(_)) = (item.get("hostname"), &gateway_network) {
            let field = format!("status.loadBalancer.ingress[{i}].hostname");
            r.mark("status.loadBalancer.ingress", node);
            let remedy = "write a DNS name in lower case, as the load balancer has it";
            load_balancer_hosts.extend(
                r.parsed(node, &field, remedy, |text| check_object_name("host name", text).map(|()| Arc::from(text))),
            );
        }
    }
    Some(ServiceObject {
        name,
        labels: r.labels(&["metadata", "labels"]),
        selector: r.labels(&["spec", "selector"]),
        ports,
        service_type: if headless { ServiceType::Headless } else { ServiceType::ClusterSetIP },
        cluster_ips,
        traits,
        import: r.annotation(SERVICE_IMPORT).and_then(Node::text).map(Arc::from),
        external,
        gateway_network,
        gateway_addresses,
        external_ips,
        load_balancer_ips,
        load_balancer_hosts,
    })
}

/// `clusterIPs`, else `clusterIP`; none before the API server has given one.
fn cluster_ips(r: &mut Reader<'_>) -> Box<[IpAddr]> {
    let listed = r.get(&["spec", "clusterIPs"]).map(Node::items).unwrap_or_default();
    let nodes: Vec<(String, &Node)> = if listed.is_empty() {
        r.get(&["spec", "clusterIP"]).map(|node| ("spec.clusterIP".to_owned(), node)).into_iter().collect()
    } else {
        listed.iter().enumerate().map(|(i, node)| (format!("spec.clusterIPs[{i}]"), node)).collect()
    };
    let written = nodes.into_iter().filter(|(_, node)| node.text().is_some_and(|text| !text.is_empty()));
    written.take(CLUSTER_IPS_MAX).filter_map(|(field, node)| r.address(node, &field)).collect()
}

/// What the service asks of its clients. The schema has judged the words.
fn traits(r: &Reader<'_>, cluster_ips: &[IpAddr]) -> ServiceTraits {
    let text = |name: &str| r.get(&["spec", name]).and_then(Node::text);
    let timeout = r.get(&["spec", "sessionAffinityConfig", "clientIP", "timeoutSeconds"]).and_then(Node::integer);
    let families = r.get(&["spec", "ipFamilies"]).map(Node::items).unwrap_or_default().iter();
    let mut ip_families: Vec<IpFamily> = families
        .filter_map(|node| match node.text()? {
            "IPv4" => Some(IpFamily::IPv4),
            "IPv6" => Some(IpFamily::IPv6),
            _ => None,
        })
        .take(CLUSTER_IPS_MAX)
        .collect();
    if ip_families.is_empty() {
        ip_families.extend(cluster_ips.iter().copied().map(IpFamily::of));
    }
    ServiceTraits {
        session_affinity: match text("sessionAffinity") {
            Some("ClientIP") => SessionAffinity::ClientIP {
                timeout_seconds: timeout.and_then(|n| u32::try_from(n).ok()).unwrap_or(AFFINITY_SECONDS),
            },
            _ => SessionAffinity::None,
        },
        internal_traffic_policy: match text("internalTrafficPolicy") {
            Some("Local") => InternalTrafficPolicy::Local,
            _ => InternalTrafficPolicy::Cluster,
        },
        traffic_distribution: text("trafficDistribution").filter(|t| !t.is_empty()).map(str::to_owned),
        ip_families,
    }
}

fn gateway_addresses(r: &mut Reader<'_>) -> Vec<SocketAddr> {
    let Some(node) = r.annotation(GATEWAY_ADDRESSES) else { return Vec::new() };
    let field = format!("metadata.annotations.{GATEWAY_ADDRESSES}");
    r.mark(field.clone(), node);
    let mut found: Vec<SocketAddr> = Vec::new();
    for part in node.text().unwrap_or_default().split(',') {
        match socket_address(part) {
            Err(e) => r.bad(node, &field, e, ADDRESS_FORM),
            Ok(address) if found.contains(&address) => {
                r.bad(node, &field, format_args!("{address} occurs twice"), "leave one of them");
            }
            Ok(_) if found.len() >= ADDRESSES_MAX => {
                r.bad(node, &field, format_args!("more than {ADDRESSES_MAX} addresses"), "leave some out");
                break;
            }
            Ok(address) => found.push(address),
        }
    }
    found
}

fn ips(r: &mut Reader<'_>, path: &[&str], field: &'static str) -> Vec<IpAddr> {
    let items = r.get(path).map(Node::items).unwrap_or_default();
    let mut found = Vec::new();
    for (i, node) in items.iter().take(ADDRESSES_MAX).enumerate() {
        r.mark(field, node);
        found.extend(r.address(node, &format!("{field}[{i}]")));
    }
    found
}

fn ports(r: &mut Reader<'_>, headless: bool) -> Vec<ServicePortObject> {
    let Some(list) = r.get(&["spec", "ports"]) else {
        if !headless {
            r.missing("spec.ports", "name at least one port");
        }
        return Vec::new();
    };
    let items = list.items();
    if list.is_empty_list() && !headless {
        r.bad(list, "spec.ports", "has no port", "name at least one port");
    }
    if items.len() > PORTS_MAX {
        r.find(Code::TooLarge, list.place, "spec.ports", format!("has more than {PORTS_MAX} ports"), None);
    }
    let mut seen = Seen::default();
    let several = items.len() > 1;
    items.iter().take(PORTS_MAX).enumerate().filter_map(|(i, item)| port(r, i, item, several, &mut seen)).collect()
}

/// Names and numbers of the ports before.
#[derive(Default)]
struct Seen<'a> {
    names: BTreeMap<&'a str, usize>,
    numbers: BTreeMap<(u16, &'a str), usize>,
}

/// One port; `None` where it is left out.
fn port<'a>(
    r: &mut Reader<'_>,
    i: usize,
    item: &'a Node,
    several: bool,
    seen: &mut Seen<'a>,
) -> Option<ServicePortObject> {
    let field = |name: &str| format!("spec.ports[{i}].{name}");
    let name = item.get("name").and_then(Node::text).unwrap_or_default();
    if let Some(node) = item.get("name") {
        let form = "lower-case letters, digits and '-', at most 63";
        r.parsed(node, &field("name"), form, |t| check_label("port name", t));
    } else if several {
        r.bad(item, &field("name"), "is required where a service has several ports", "give each port a name");
    }
    let Some(node) = item.get("port") else {
        r.bad(item, &field("port"), "is required", "write a number from 1 to 65535");
        return None;
    };
    let number = node.integer().and_then(|n| u16::try_from(n).ok()).filter(|n| *n > 0)?;
    let protocol = item.get("protocol").and_then(Node::text).unwrap_or("TCP");
    if let Some(first) = seen.numbers.insert((number, protocol), i) {
        let message = format!("is also the port of spec.ports[{first}]");
        r.find(Code::Duplicate, node.place, &field("port"), message, None);
    }
    if let Some(first) = seen.names.insert(name, i)
        && !name.is_empty()
    {
        let message = format!("is also the name of spec.ports[{first}]");
        r.find(Code::Duplicate, item.place, &field("name"), message, None);
    }
    let target = target_port(r, item, &field("targetPort"));
    if protocol != "TCP" {
        // No fault by itself: it is told where the Service is exported.
        r.mark(field("protocol"), item.get("protocol").unwrap_or(item));
    }
    if let TargetPort::Name(_) = target
        && let Some(node) = item.get("targetPort")
    {
        r.mark(field("targetPort"), node);
    }
    let app_protocol = item.get("appProtocol").and_then(Node::text).map(str::to_owned);
    let port = ServicePort { name: name.to_owned(), port: number, protocol: protocol.to_owned(), app_protocol };
    Some(ServicePortObject { port, target })
}

fn target_port(r: &mut Reader<'_>, item: &Node, field: &str) -> TargetPort {
    const REMEDY: &str = "write a number from 1 to 65535, or the name of a port of the workloads";
    let Some(node) = item.get("targetPort") else { return TargetPort::Same };
    if let Some(n) = node.integer() {
        return match u16::try_from(n).ok().filter(|n| *n > 0) {
            Some(n) => TargetPort::Number(n),
            None => {
                r.bad(node, field, format_args!("{n} is out of range"), REMEDY);
                TargetPort::Same
            }
        };
    }
    let Some(text) = node.text() else { return TargetPort::Same };
    match check_label("port name", text) {
        // Kubernetes refuses names without a letter, which catches numbers in quotes.
        Ok(()) if text.bytes().any(|b| b.is_ascii_lowercase()) => TargetPort::Name(Arc::from(text)),
        Ok(()) | Err(_) => {
            r.bad(node, field, format_args!("{:?} is no port name", text.chars().take(80).collect::<String>()), REMEDY);
            TargetPort::Same
        }
    }
}
