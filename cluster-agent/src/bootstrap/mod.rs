//! Pure. What a stock Envoy needs to become a client-side sidecar of this cluster's mesh (`contracts.md` 1.13).

use meshfed_model::names::WorkloadRef;
use serde_json::{Value, json};

#[cfg(test)]
mod tests;

/// What `meshfed bootstrap envoy` was told beside agent and workload.
#[derive(Debug, Clone, Default)]
pub struct EnvoyFlags {
    /// `HOST:PORT` of Envoy's admin listener; without it a free port of 127.0.0.1.
    pub admin: Option<std::net::SocketAddr>,
    /// Hosts of its listeners; none: all addresses of the workload.
    pub bind: Vec<std::net::IpAddr>,
    /// Outbound HTTP listeners; none: the hosts at 15001.
    pub outbound_listen: Vec<std::net::SocketAddr>,
    /// Plain TCP listeners, `LISTEN` to `HOST:PORT` of a service.
    pub outbound: Vec<(String, String)>,
}

/// The bootstrap, as JSON (which is YAML, too). `agent_socket` is the path of `E/run/xds.sock`.
#[must_use]
pub fn envoy_bootstrap(agent_socket: &str, workload: &WorkloadRef, flags: &EnvoyFlags) -> Value {
    let namespace = &workload.namespace;
    // With a service account only, the agent knows the object; the id may name the account.
    let object = workload.name.as_deref().unwrap_or(&workload.service_account);
    let ip = flags.bind.first().map_or_else(|| "0.0.0.0".to_owned(), ToString::to_string);
    let admin = flags.admin.unwrap_or_else(|| std::net::SocketAddr::from(([127, 0, 0, 1], 0)));
    let mut meshfed = json!({
        "workload": workload.to_string(),
        "mode": "sidecar",
        "capture": "none",
        "clientOnly": true,
        "bind": flags.bind.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "outbound": flags.outbound.iter().cloned().map(|(k, v)| (k, Value::String(v))).collect::<serde_json::Map<_, _>>(),
    });
    if !flags.outbound_listen.is_empty() {
        let listen: Vec<String> = flags.outbound_listen.iter().map(ToString::to_string).collect();
        if let Some(fields) = meshfed.as_object_mut() {
            fields.insert("listen".to_owned(), json!({ "outbound": listen }));
        }
    }
    let http2 = json!({
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": { "http2_protocol_options": { "connection_keepalive": { "interval": "20s", "timeout": "10s" } } }
        }
    });
    let ads = json!({ "ads": {}, "resource_api_version": "V3" });
    json!({
        "node": {
            "id": format!("sidecar~{ip}~{object}.{namespace}~{namespace}.svc.cluster.local"),
            "cluster": workload.to_string(),
            "metadata": { "meshfed": meshfed },
        },
        "admin": { "address": { "socket_address": { "address": admin.ip().to_string(), "port_value": admin.port() } } },
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "set_node_on_first_message_only": true,
                "grpc_services": [{ "envoy_grpc": { "cluster_name": "xds" } }],
            },
            "cds_config": ads,
            "lds_config": ads,
        },
        "static_resources": {
            "clusters": [{
                "name": "xds",
                "type": "STATIC",
                "connect_timeout": "1s",
                "typed_extension_protocol_options": http2,
                "load_assignment": {
                    "cluster_name": "xds",
                    "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": { "pipe": { "path": agent_socket } } } }] }],
                },
            }],
        },
    })
}
