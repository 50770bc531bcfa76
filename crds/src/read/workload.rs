//! Pure. The border of WorkloadEntry.

use std::net::IpAddr;
use std::sync::Arc;

use meshfed_model::locality::Locality;
use meshfed_model::names::{Namespace, NetworkName, check_object_name};

use super::common::{ADDRESSES, NETWORK, Reader, SIDECAR, UNIX_UID};
use crate::error::Code;
use crate::object::{WorkloadObject, WorkloadPorts};
use crate::tree::Node;

/// The most addresses of a workload.
const ADDRESSES_MAX: usize = 16;
/// The most ports of a workload.
const PORTS_MAX: usize = 256;

pub(super) fn read(r: &mut Reader<'_>) -> Option<WorkloadObject> {
    let namespace = r.checked("metadata.namespace", Namespace::new(&*r.key.namespace))?;
    let addresses = addresses(r);
    let service_account = service_account(r);
    let network = network(r);
    let locality = r.get(&["spec", "locality"]).and_then(|node| {
        r.mark("spec.locality", node);
        r.parsed(node, "spec.locality", "write REGION, REGION/ZONE or REGION/ZONE/SUBZONE", |text| {
            text.parse::<Locality>()
                .map_err(|e| e.to_string())
                .and_then(|l| if l.region.is_empty() { Err("the region is empty".to_owned()) } else { Ok(l) })
        })
    });
    let without_sidecar = r.annotation(SIDECAR).is_some_and(|node| {
        let none = node.text() == Some("none");
        if !none {
            let field = format!("metadata.annotations.{SIDECAR}");
            r.bad(
                node,
                &field,
                "only \"none\" is known",
                "write \"none\" for a workload without proxy, or leave it out",
            );
        }
        none
    });
    let unix_uid = r.annotation(UNIX_UID).and_then(|node| {
        let field = format!("metadata.annotations.{UNIX_UID}");
        r.parsed(node, &field, "write the uid as a number in quotes", |text| text.parse::<u32>())
    });
    let weight = r.get(&["spec", "weight"]).and_then(Node::integer).and_then(|n| u32::try_from(n).ok()).unwrap_or(1);
    Some(WorkloadObject {
        namespace,
        name: Arc::clone(&r.key.name),
        addresses: addresses.into(),
        ports: ports(r),
        labels: r.labels(&["spec", "labels"]),
        service_account: service_account?,
        network,
        locality,
        weight,
        without_sidecar,
        unix_uid,
    })
}

fn addresses(r: &mut Reader<'_>) -> Vec<IpAddr> {
    let mut found = Vec::new();
    match r.get(&["spec", "address"]) {
        None => r.missing("spec.address", "write the IP address that peers dial"),
        Some(node) => {
            r.mark("spec.address", node);
            found.extend(r.address(node, "spec.address"));
        }
    }
    let Some(node) = r.annotation(ADDRESSES) else { return found };
    let field = "metadata.annotations.federation.meshfed.io/addresses";
    r.mark(field, node);
    for part in node.text().unwrap_or_default().split(',').map(str::trim) {
        let shown: String = part.chars().take(80).collect();
        match part.parse::<IpAddr>() {
            Err(_) => {
                r.bad(node, field, format_args!("{shown:?} is no IP address"), "write addresses with commas between")
            }
            Ok(address) if found.contains(&address) => {
                r.bad(node, field, format_args!("{address} occurs twice"), "leave one of them");
            }
            Ok(_) if found.len() >= ADDRESSES_MAX => {
                r.find(Code::TooLarge, node.place, field, format!("more than {ADDRESSES_MAX} addresses"), None);
                break;
            }
            Ok(address) => found.push(address),
        }
    }
    found
}

fn service_account(r: &mut Reader<'_>) -> Option<Arc<str>> {
    let Some(node) = r.get(&["spec", "serviceAccount"]) else {
        r.missing(
            "spec.serviceAccount",
            "write the service account: with the namespace, it is the workload's identity",
        );
        return None;
    };
    let remedy = "lower-case letters, digits, '-' and '.'";
    r.parsed(node, "spec.serviceAccount", remedy, |t| check_object_name("service account", t).map(|()| Arc::from(t)))
}

fn network(r: &mut Reader<'_>) -> Option<NetworkName> {
    let places = [
        (r.get(&["spec", "network"]), "spec.network"),
        (r.get(&["spec", "labels", NETWORK]), "spec.labels.topology.istio.io/network"),
        (r.get(&["metadata", "labels", NETWORK]), "metadata.labels.topology.istio.io/network"),
    ];
    let (node, field) = places.into_iter().find_map(|(node, field)| Some((node?, field)))?;
    r.mark("spec.network", node);
    r.parsed(node, field, "write the name of a network of the cluster's token", |t| NetworkName::new(t))
}

fn ports(r: &mut Reader<'_>) -> WorkloadPorts {
    let Some(map) = r.get(&["spec", "ports"]) else { return WorkloadPorts::default() };
    if map.entries().len() > PORTS_MAX {
        r.find(Code::TooLarge, map.place, "spec.ports", format!("has more than {PORTS_MAX} ports"), None);
    }
    let entries = map.entries().iter().take(PORTS_MAX);
    let port = |n: &Node| n.integer().and_then(|n| u16::try_from(n).ok());
    entries.filter_map(|e| Some((Arc::from(&*e.key), port(&e.value)?))).collect()
}
