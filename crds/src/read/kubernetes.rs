//! Pure. The borders of the kinds that Kubernetes itself writes. A server has judged them, and later ones have fields
//! that we do not know: only what is used is looked at.

use std::net::IpAddr;
use std::sync::Arc;

use meshfed_model::names::{Namespace, NetworkName, ServiceName, check_object_name};

use super::common::{INJECTED, NETWORK, Reader};
use crate::error::Code;
use crate::object::{EndpointSliceObject, NodeHealth, NodeObject, PodObject, SliceEndpoint, WorkloadPorts};
use crate::tree::{Node, Value};

/// Label of a node (`k8s.io/api/core/v1`, LabelTopologyRegion).
const REGION: &str = "topology.kubernetes.io/region";
/// Label of a node (`k8s.io/api/core/v1`, LabelTopologyZone).
const ZONE: &str = "topology.kubernetes.io/zone";
/// Label of a slice: its service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Label of a slice: who writes it.
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// What that label says of ours.
const OURS: &str = "meshfed.io";
/// What the labels of slices of the multi-cluster API begin with (KEP-1645).
const MCS: &str = "multicluster.kubernetes.io/";
/// The account of a pod that names none (Kubernetes' admission writes it).
const DEFAULT_ACCOUNT: &str = "default";
/// The most endpoints of a slice (`discovery.k8s.io/v1`).
const ENDPOINTS_MAX: usize = 1000;
/// The most addresses of an endpoint (`discovery.k8s.io/v1`), and more than a pod has.
const ADDRESSES_MAX: usize = 100;
/// The most named ports of a pod, and ports of a slice.
const PORTS_MAX: usize = 256;

fn flag(node: &Node, key: &str) -> Option<bool> {
    match node.get(key)?.value {
        Value::Bool(b) => Some(b),
        Value::Null | Value::Integer(_) | Value::Float(_) | Value::Text(_) | Value::List(_) | Value::Map(_) => None,
    }
}

fn text<'a>(r: &Reader<'a>, path: &[&str]) -> Option<&'a str> {
    r.get(path).and_then(Node::text).filter(|t| !t.is_empty())
}

/// The status of a condition.
fn condition<'a>(r: &Reader<'a>, name: &str) -> Option<&'a str> {
    let all = r.get(&["status", "conditions"]).map(Node::items).unwrap_or_default();
    all.iter().find(|c| c.get("type").and_then(Node::text) == Some(name))?.get("status").and_then(Node::text)
}

pub(super) fn read_pod(r: &mut Reader<'_>) -> Option<PodObject> {
    let namespace = r.checked("metadata.namespace", Namespace::new(&*r.key.namespace))?;
    let account = text(r, &["spec", "serviceAccountName"]).unwrap_or(DEFAULT_ACCOUNT);
    let service_account = match check_object_name("service account", account) {
        Ok(()) => Arc::from(account),
        Err(error) => {
            let node = r.get(&["spec", "serviceAccountName"]).unwrap_or(r.object);
            r.bad(node, "spec.serviceAccountName", error, "lower-case letters, digits, '-' and '.'");
            return None;
        }
    };
    let network = r.get(&["metadata", "labels", NETWORK]).and_then(|node| {
        let field = "metadata.labels.topology.istio.io/network";
        r.mark(field, node);
        r.parsed(node, field, "write the name of a network of the cluster's token", |t| NetworkName::new(t))
    });
    let is_true = |name: &str| condition(r, name) == Some("True");
    let (ready, containers_ready) = (is_true("Ready"), is_true("ContainersReady"));
    let gates = r.get(&["spec", "readinessGates"]).map(Node::items).unwrap_or_default().iter();
    let mut gates = gates.filter_map(|gate| gate.get("conditionType").and_then(Node::text));
    let kubelet_ready = containers_ready && gates.all(is_true);
    let phase = text(r, &["status", "phase"]);
    Some(PodObject {
        namespace,
        name: Arc::clone(&r.key.name),
        uid: text(r, &["metadata", "uid"]).unwrap_or_default().into(),
        service_account,
        node: text(r, &["spec", "nodeName"]).map(Arc::from),
        addresses: pod_addresses(r),
        host_network: r.get(&["spec"]).and_then(|spec| flag(spec, "hostNetwork")).unwrap_or_default(),
        ports: container_ports(r),
        labels: r.labels(&["metadata", "labels"]),
        network,
        ready,
        kubelet_ready,
        terminating: r.get(&["metadata", "deletionTimestamp"]).is_some(),
        ended: matches!(phase, Some("Succeeded" | "Failed")),
        injected: r.annotation(INJECTED).is_some(),
    })
}

fn pod_addresses(r: &mut Reader<'_>) -> Box<[IpAddr]> {
    let mut found: Vec<IpAddr> = Vec::new();
    let several = r.get(&["status", "podIPs"]).map(Node::items).unwrap_or_default();
    let listed = several.iter().take(ADDRESSES_MAX).filter_map(|item| item.get("ip"));
    for node in listed.chain(r.get(&["status", "podIP"])) {
        if let Some(address) = r.address(node, "status.podIPs").filter(|a| !found.contains(a)) {
            r.mark("status.podIPs", node);
            found.push(address);
        }
    }
    found.into()
}

/// The named TCP ports; of two with one name that of the first container.
fn container_ports(r: &Reader<'_>) -> WorkloadPorts {
    let of = |list: &str| r.get(&["spec", list]).map(Node::items).unwrap_or_default();
    // An init container that restarts always goes on beside the others (KEP-753), and its ports are served.
    let beside = |node: &&Node| node.get("restartPolicy").and_then(Node::text) == Some("Always");
    let containers = of("containers").iter().chain(of("initContainers").iter().filter(beside));
    let mut found: Vec<(Arc<str>, u16)> = Vec::new();
    for port in containers.flat_map(|c| c.get("ports").map(Node::items).unwrap_or_default()) {
        let Some(name) = port.get("name").and_then(Node::text).filter(|n| !n.is_empty()) else { continue };
        let tcp = port.get("protocol").and_then(Node::text).is_none_or(|p| p == "TCP");
        let number = port.get("containerPort").and_then(Node::integer).and_then(|n| u16::try_from(n).ok());
        if let Some(number) = number.filter(|n| tcp && *n > 0)
            && found.len() < PORTS_MAX
            && found.iter().all(|(known, _)| **known != *name)
        {
            found.push((name.into(), number));
        }
    }
    found.into_iter().collect()
}

pub(super) fn read_node(r: &Reader<'_>) -> NodeObject {
    let label = |name| text(r, &["metadata", "labels", name]).unwrap_or_default().into();
    let health = match condition(r, "Ready") {
        Some("Unknown") => NodeHealth::Unheard,
        Some("False") => NodeHealth::Unwell,
        Some(_) | None => NodeHealth::Well,
    };
    NodeObject { name: Arc::clone(&r.key.name), region: label(REGION), zone: label(ZONE), health }
}

pub(super) fn read_slice(r: &mut Reader<'_>) -> Option<EndpointSliceObject> {
    let namespace = r.checked("metadata.namespace", Namespace::new(&*r.key.namespace))?;
    let labels = r.get(&["metadata", "labels"]);
    let label = |name| labels.and_then(|l| l.get(name)).and_then(Node::text);
    let of_mcs = labels.map(Node::entries).unwrap_or_default().iter().any(|e| e.key.starts_with(MCS));
    let service = label(SERVICE_NAME)
        .filter(|_| !of_mcs && label(MANAGED_BY) != Some(OURS))
        .and_then(|name| ServiceName::new(namespace.as_str(), name).ok());
    // Host names (addressType FQDN) are nothing to dial.
    let addressed = matches!(text(r, &["addressType"]), Some("IPv4" | "IPv6"));
    let mut slice = EndpointSliceObject {
        namespace,
        name: Arc::clone(&r.key.name),
        service,
        ports: WorkloadPorts::default(),
        endpoints: Box::default(),
    };
    if slice.service.is_none() || !addressed {
        return Some(slice);
    }
    slice.ports = slice_ports(r);
    let Some(list) = r.get(&["endpoints"]) else { return Some(slice) };
    if list.items().len() > ENDPOINTS_MAX {
        let message = format!("has more than {ENDPOINTS_MAX} endpoints");
        r.find(Code::TooLarge, list.place, "endpoints", message, Some("write several slices".to_owned()));
    }
    let endpoints = list.items().iter().take(ENDPOINTS_MAX).enumerate();
    slice.endpoints = endpoints.filter_map(|(i, item)| endpoint(r, i, item, &slice.namespace)).collect();
    Some(slice)
}

fn endpoint(r: &mut Reader<'_>, i: usize, item: &Node, namespace: &Namespace) -> Option<SliceEndpoint> {
    let mut addresses = Vec::new();
    for node in item.get("addresses").map(Node::items).unwrap_or_default().iter().take(ADDRESSES_MAX) {
        addresses.extend(r.address(node, &format!("endpoints[{i}].addresses")));
    }
    let condition = |key| item.get("conditions").and_then(|c| flag(c, key));
    let ready = condition("ready").unwrap_or(true);
    let pod = item.get("targetRef").and_then(|target| {
        let of = |key| target.get(key).and_then(Node::text);
        let here = of("namespace").is_none_or(|n| n == namespace.as_str());
        if of("kind") == Some("Pod") && here { of("name").map(Arc::from) } else { None }
    });
    (!addresses.is_empty()).then(|| SliceEndpoint {
        addresses: addresses.into(),
        pod,
        ready,
        serving: condition("serving").unwrap_or(ready),
        terminating: condition("terminating").unwrap_or_default(),
    })
}

fn slice_ports(r: &Reader<'_>) -> WorkloadPorts {
    let items = r.get(&["ports"]).map(Node::items).unwrap_or_default();
    let port = |item: &Node| {
        let tcp = item.get("protocol").and_then(Node::text).is_none_or(|p| p == "TCP");
        let number = item.get("port").and_then(Node::integer).and_then(|n| u16::try_from(n).ok());
        let name = item.get("name").and_then(Node::text).unwrap_or_default();
        number.filter(|n| tcp && *n > 0).map(|number| (Arc::from(name), number))
    };
    items.iter().take(PORTS_MAX).filter_map(port).collect()
}

#[cfg(test)]
mod tests;
