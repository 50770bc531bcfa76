//! Pure. What injection adds: the two containers, their volumes, and nothing to `spec.containers`.

use serde_json::{Map, Value, json};

use super::annotations::Wishes;
use super::probes::Originals;
use super::{
    AUDIENCE, INIT, InjectConfig, PROXY, PROXY_UID, READY_PORT, Refusal, TOKEN_VOLUME, TRUST, list, name_of, object,
};

/// Metrics of the proxy.
const METRICS_PORT: u16 = 15020;
/// Life of the token, in seconds; the kubelet renews it before.
const TOKEN_SECONDS: u32 = 3600;
/// Where the token is mounted.
const TOKEN_DIR: &str = "/var/run/meshfed/token";
/// Where the anchors are mounted.
const TRUST_DIR: &str = "/var/run/meshfed/trust";
/// The proxy's variable with what it asks applications for the kubelet.
const PROBES: &str = "MESHFED_KUBELET_PROBES";

/// Takes away what an earlier injection has added; gives the probes that it has rewritten.
pub(super) fn take_ours(pod: &mut Value) -> Result<Option<Originals>, Refusal> {
    let spec = object(pod, "spec")?;
    let inits = list(spec, "initContainers", "spec.initContainers")?;
    let env = inits.iter().find(|c| name_of(c) == PROXY).and_then(|c| c.get("env")).and_then(Value::as_array);
    let said = env.into_iter().flatten().find(|v| name_of(v) == PROBES).and_then(|v| v.get("value"));
    // What cannot be read was not written by us.
    let before = said.and_then(Value::as_str).and_then(|text| serde_json::from_str(text).ok());
    inits.retain(|c| name_of(c) != INIT && name_of(c) != PROXY);
    list(spec, "volumes", "spec.volumes")?.retain(|v| name_of(v) != TOKEN_VOLUME && name_of(v) != TRUST);
    Ok(before)
}

fn joined<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|i| i.to_string()).collect::<Vec<_>>().join(",")
}

/// What the proxy is given: by the pod, else by the chart.
fn resources(config: &InjectConfig, wishes: &Wishes) -> Value {
    let default = || json!({ "requests": { "cpu": "10m", "memory": "32Mi" }, "limits": { "memory": "256Mi" } });
    wishes.resources.clone().or_else(|| config.proxy.resources.clone()).unwrap_or_else(default)
}

/// What `meshfed-init` is given: little, and what the proxy is given of resources that this says nothing of. A quota on
/// `limits.cpu` asks every container for one; and since it ends before the proxy begins, a pod asks for no more by it.
fn init_resources(proxy: &Value) -> Value {
    let mut requests = Map::from_iter([("cpu".to_owned(), json!("10m")), ("memory".to_owned(), json!("16Mi"))]);
    let mut limits = Map::from_iter([("memory".to_owned(), json!("64Mi"))]);
    let of_proxy = |group: &str, name: &str| proxy.get(group).and_then(|all| all.get(name)).cloned();
    let named = ["requests", "limits"].iter().filter_map(|group| proxy.get(group)?.as_object()).flat_map(Map::keys);
    for name in named.filter(|name| *name != "memory") {
        // Both of them, or a limit of the proxy may be below the request of this.
        for (group, all) in [("requests", &mut requests), ("limits", &mut limits)] {
            match of_proxy(group, name) {
                Some(amount) => all.insert(name.clone(), amount),
                None => all.remove(name),
            };
        }
    }
    json!({ "requests": requests, "limits": limits })
}

/// Root, and NET_ADMIN alone: with another user the capability does not work.
fn init(config: &InjectConfig, wishes: &Wishes) -> Value {
    let mut args = vec!["proxy".to_owned(), "init".to_owned()];
    let lists = [
        ("--exclude-inbound-ports", joined(&wishes.inbound_ports)),
        ("--exclude-outbound-ports", joined(&wishes.outbound_ports)),
        ("--exclude-outbound-cidrs", joined(&wishes.outbound_cidrs)),
    ];
    args.extend(lists.into_iter().filter(|(_, l)| !l.is_empty()).map(|(flag, l)| format!("{flag}={l}")));
    json!({
        "name": INIT,
        "image": config.image,
        "imagePullPolicy": config.image_pull_policy.as_str(),
        "args": args,
        "resources": init_resources(&resources(config, wishes)),
        "securityContext": {
            "runAsUser": 0,
            "runAsGroup": 0,
            "runAsNonRoot": false,
            "privileged": false,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": { "drop": ["ALL"], "add": ["NET_ADMIN"] },
            "seccompProfile": { "type": "RuntimeDefault" },
        },
    })
}

fn field(name: &str, path: &str) -> Value {
    json!({ "name": name, "valueFrom": { "fieldRef": { "apiVersion": "v1", "fieldPath": path } } })
}

fn proxy(config: &InjectConfig, wishes: &Wishes, originals: &Originals) -> Value {
    let mut args = vec![
        "proxy".to_owned(),
        format!("--agent={}", config.agent_target()),
        format!("--agent-namespace={}", config.release_namespace),
        "--workload=$(POD_NAMESPACE)/$(POD_SERVICE_ACCOUNT)/$(POD_NAME)".to_owned(),
        "--capture=redirect".to_owned(),
        "--app-probe=off".to_owned(),
        format!("--token-file={TOKEN_DIR}/token"),
        format!("--trust-file={TRUST_DIR}/anchors.pem"),
    ];
    let flags = [("--log-level", &config.proxy.log_level), ("--log-format", &config.proxy.log_format)];
    args.extend(flags.into_iter().filter_map(|(flag, value)| value.as_ref().map(|v| format!("{flag}={v}"))));
    let mut env = vec![
        field("POD_NAME", "metadata.name"),
        field("POD_NAMESPACE", "metadata.namespace"),
        field("POD_SERVICE_ACCOUNT", "spec.serviceAccountName"),
        field("POD_IP", "status.podIP"),
    ];
    if !originals.is_empty() {
        let asked: Map<String, Value> = originals.clone().into_iter().collect();
        env.push(json!({ "name": PROBES, "value": Value::Object(asked).to_string() }));
    }
    json!({
        "name": PROXY,
        "image": config.image,
        "imagePullPolicy": config.image_pull_policy.as_str(),
        "restartPolicy": "Always",
        "args": args,
        "env": env,
        "ports": [
            { "name": "meshfed-metrics", "containerPort": METRICS_PORT, "protocol": "TCP" },
            { "name": "meshfed-ready", "containerPort": READY_PORT, "protocol": "TCP" },
        ],
        "startupProbe": {
            "httpGet": { "path": "/healthz/ready", "port": READY_PORT, "scheme": "HTTP" },
            "periodSeconds": 1,
            "timeoutSeconds": 3,
            "failureThreshold": 600,
        },
        "resources": resources(config, wishes),
        "securityContext": {
            "runAsUser": PROXY_UID,
            "runAsGroup": PROXY_UID,
            "runAsNonRoot": true,
            "privileged": false,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": { "drop": ["ALL"] },
            "seccompProfile": { "type": "RuntimeDefault" },
        },
        "volumeMounts": [
            { "name": TOKEN_VOLUME, "mountPath": TOKEN_DIR, "readOnly": true },
            { "name": TRUST, "mountPath": TRUST_DIR, "readOnly": true },
        ],
    })
}

/// Adds them, ours first: what comes later has its connections captured already.
pub(super) fn add(
    pod: &mut Value,
    config: &InjectConfig,
    wishes: &Wishes,
    originals: &Originals,
) -> Result<(), Refusal> {
    let spec = object(pod, "spec")?;
    let inits = list(spec, "initContainers", "spec.initContainers")?;
    inits.splice(0..0, [init(config, wishes), proxy(config, wishes, originals)]);
    let token = json!({
        "serviceAccountToken": {
            "audience": AUDIENCE, "expirationSeconds": TOKEN_SECONDS, "path": "token"
        }
    });
    list(spec, "volumes", "spec.volumes")?.extend([
        json!({ "name": TOKEN_VOLUME, "projected": { "sources": [token] } }),
        json!({ "name": TRUST, "configMap": { "name": TRUST } }),
    ]);
    Ok(())
}
