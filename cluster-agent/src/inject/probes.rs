//! Pure. The kubelet's probes of an injected pod. The kubelet has no identity of the mesh, so under STRICT its dials end at
//! the proxy: HTTP, HTTPS, TCP and gRPC probes are asked of the proxy, which asks the application as the kubelet would have
//! (`meshfed proxy --kubelet-probes`). Exec probes do not dial and stay, and so do those that name another host.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{CONTAINERS_MAX, READY_PORT, Refusal, name_of};

/// The probes of a container, and their last part of the path.
const KINDS: [(&str, &str); 3] =
    [("livenessProbe", "livez"), ("readinessProbe", "readyz"), ("startupProbe", "startupz")];
/// Where the proxy answers them.
const PREFIX: &str = "/app-health/";

/// `CONTAINER/KIND` to what the kubelet would have asked.
pub(super) type Originals = BTreeMap<String, Value>;

/// The port of a probe: a number, or the name of a container's port.
fn port(container: &Value, port: &Value) -> Option<u64> {
    match port {
        Value::Number(number) => number.as_u64().filter(|p| (1..=65_535).contains(p)),
        Value::String(name) => {
            let ports = container.get("ports").and_then(Value::as_array).into_iter().flatten();
            let named = ports.into_iter().find(|p| name_of(p) == name.as_str());
            named.and_then(|p| p.get("containerPort")).and_then(Value::as_u64)
        }
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

/// What is to be asked, where the proxy can ask it.
fn original(container: &Value, probe: &Map<String, Value>) -> Option<Map<String, Value>> {
    let mut found = Map::new();
    if let Some(http) = probe.get("httpGet").and_then(Value::as_object) {
        let elsewhere = http.get("host").and_then(Value::as_str).is_some_and(|h| !h.is_empty());
        let https = http.get("scheme").and_then(Value::as_str).is_some_and(|s| s.eq_ignore_ascii_case("https"));
        if elsewhere {
            return None;
        }
        let path = http.get("path").and_then(Value::as_str).filter(|p| !p.is_empty()).unwrap_or("/");
        let mut asked = Map::new();
        asked.insert("path".to_owned(), json!(path));
        asked.insert("port".to_owned(), json!(port(container, http.get("port")?)?));
        if https {
            asked.insert("tls".to_owned(), json!(true));
        }
        if let Some(headers) = http.get("httpHeaders").filter(|h| h.as_array().is_some_and(|h| !h.is_empty())) {
            asked.insert("httpHeaders".to_owned(), headers.clone());
        }
        found.insert("httpGet".to_owned(), Value::Object(asked));
    } else if let Some(tcp) = probe.get("tcpSocket").and_then(Value::as_object) {
        if tcp.get("host").and_then(Value::as_str).is_some_and(|h| !h.is_empty()) {
            return None;
        }
        found.insert("tcpSocket".to_owned(), json!({ "port": port(container, tcp.get("port")?)? }));
    } else if let Some(grpc) = probe.get("grpc").and_then(Value::as_object) {
        let service = grpc.get("service").and_then(Value::as_str).unwrap_or_default();
        found.insert("grpc".to_owned(), json!({ "port": port(container, grpc.get("port")?)?, "service": service }));
    } else {
        return None;
    }
    let seconds = probe.get("timeoutSeconds").and_then(Value::as_u64).filter(|s| *s > 0).unwrap_or(1);
    found.insert("timeoutSeconds".to_owned(), json!(seconds));
    Some(found)
}

/// Whether it is asked of the proxy already.
fn is_ours(probe: &Map<String, Value>, path: &str) -> bool {
    let http = probe.get("httpGet");
    let at = http.and_then(|h| h.get("path")).and_then(Value::as_str);
    let port = http.and_then(|h| h.get("port")).and_then(Value::as_u64);
    at == Some(path) && port == Some(u64::from(READY_PORT))
}

/// Asks the proxy instead of the application, and says what it is to ask. `before`: what an earlier injection has said.
pub(super) fn rewrite(pod: &mut Value, before: Option<&Originals>) -> Result<Originals, Refusal> {
    let mut originals = Originals::new();
    for field in ["initContainers", "containers"] {
        let Some(all) = pod.get_mut("spec").and_then(|s| s.get_mut(field)) else { continue };
        if all.is_null() {
            continue;
        }
        let shape = || Refusal::Shape { place: format!("spec.{field}"), wanted: "a list" };
        for container in all.as_array_mut().ok_or_else(shape)?.iter_mut().take(CONTAINERS_MAX) {
            let (name, seen) = (name_of(container).to_owned(), container.clone());
            for (kind, last) in KINDS {
                let Some(probe) = container.get_mut(kind).and_then(Value::as_object_mut) else { continue };
                let (key, path) = (format!("{name}/{last}"), format!("{PREFIX}{name}/{last}"));
                if is_ours(probe, &path) {
                    originals.extend(before.and_then(|b| b.get_key_value(&key)).map(|(k, v)| (k.clone(), v.clone())));
                    continue;
                }
                let Some(asked) = original(&seen, probe) else { continue };
                originals.insert(key, Value::Object(asked));
                for asked in ["httpGet", "tcpSocket", "grpc"] {
                    probe.shift_remove(asked);
                }
                probe.insert("httpGet".to_owned(), json!({ "path": path, "port": READY_PORT, "scheme": "HTTP" }));
            }
        }
    }
    Ok(originals)
}
