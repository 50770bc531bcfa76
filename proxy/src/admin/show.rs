//! Edge. What discovery knows, as JSON for the admin port. No key and no certificate is in it.

use serde_json::{Value, json};

use crate::state::{CapturedPort, Cluster, Listener, ListenerKind, RouteAction, RouteTable, StateHandle, Transport};

/// Everything that is in use, in the order of names.
#[must_use]
pub(super) fn state(state: &StateHandle) -> Value {
    let clusters: serde_json::Map<String, Value> = state
        .clusters()
        .iter()
        .map(|(n, c)| (n.to_string(), c.get().map_or_else(|| json!("not usable yet"), |c| cluster(&c))))
        .collect();
    let routes: serde_json::Map<String, Value> =
        state.routes().iter().map(|(n, r)| (n.to_string(), r.get().map_or(Value::Null, |r| route(&r)))).collect();
    let listeners: serde_json::Map<String, Value> =
        state.listeners().iter().map(|(n, l)| (n.to_string(), l.get().map_or(Value::Null, |l| listener(&l)))).collect();
    let trust = state.trust().map(|t| t.snapshot());
    json!({
        "identity": state.identity().and_then(|i| i.get()).map(|i| json!({
            "id": i.id.to_string(),
            "notAfter": meshfed_runtime::clock::to_timestamp(i.not_after).to_string(),
        })),
        "trustDomains": trust.map(|t| t.bundles().keys().map(ToString::to_string).collect::<Vec<_>>()),
        "listeners": listeners,
        "routes": routes,
        "clusters": clusters,
    })
}

fn cluster(cluster: &Cluster) -> Value {
    let endpoints = cluster.endpoints.priorities.iter().enumerate().flat_map(|(priority, group)| {
        group.endpoints.iter().map(move |e| {
            json!({
                "address": e.address.to_string(), "priority": priority, "weight": e.weight, "cluster": &*e.cluster,
                "network": &*e.network, "locality": &*e.locality, "via": if e.via_gateway { "gateway" } else { "direct" },
                "mtls": e.transport.is_tls(), "identities": identities(&e.transport),
            })
        })
    });
    json!({ "endpoints": endpoints.collect::<Vec<_>>(), "listed": cluster.endpoints.total })
}

fn identities(transport: &Transport) -> Vec<String> {
    match transport {
        Transport::Plaintext => Vec::new(),
        Transport::Tls(tls) => tls.identities.iter().map(ToString::to_string).collect(),
    }
}

fn action(action: &RouteAction) -> Value {
    match action {
        RouteAction::Cluster(cell, _) => json!(&**cell.name()),
        RouteAction::Respond(status) => json!(status),
    }
}

fn route(table: &RouteTable) -> Value {
    let hosts: std::collections::BTreeMap<&str, Value> = table.hosts.iter().map(|(h, a)| (&**h, action(a))).collect();
    json!({ "hosts": hosts, "others": table.fallback.as_ref().map(action) })
}

fn listener(listener: &Listener) -> Value {
    let addresses: Vec<String> = listener.addresses.iter().map(ToString::to_string).collect();
    let (kind, to) = match &listener.kind {
        ListenerKind::OutboundHttp { routes } => ("outboundHttp", json!(&**routes.name())),
        ListenerKind::OutboundTcp { cluster } => ("outboundTcp", json!(&**cluster.name())),
        ListenerKind::OutboundAny { cluster, .. } => ("outboundAny", json!(&**cluster.name())),
        ListenerKind::CapturedOutbound { unknown } => ("capturedOutbound", json!({ "unknown": &**unknown.name() })),
        ListenerKind::CapturedInbound(captured) => {
            let mode = |port: &CapturedPort| if port.plain.is_some() { "PERMISSIVE" } else { "STRICT" };
            let ports: std::collections::BTreeMap<u16, &str> =
                captured.ports.iter().map(|(number, port)| (*number, mode(port))).collect();
            ("capturedInbound", json!({ "ports": ports, "others": captured.others.as_ref().map(mode) }))
        }
        ListenerKind::InboundHttp { routes, .. } => ("inboundHttp", json!(&**routes.name())),
        ListenerKind::InboundTcp { cluster, .. } => ("inboundTcp", json!(&**cluster.name())),
        ListenerKind::Gateway { sni } => {
            let names: std::collections::BTreeMap<&str, &str> =
                sni.routes.iter().map(|(name, route)| (&**name, &**route.cluster.name())).collect();
            ("gateway", json!(names))
        }
    };
    json!({ "addresses": addresses, "kind": kind, "to": to })
}
