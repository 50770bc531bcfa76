//! Pure. Whether a pod is injected at all.

use serde_json::Value;

use super::{
    CONTAINERS_MAX, INIT, InjectConfig, NamespaceFacts, PROXY, PROXY_UID, Refusal, Selection, Skip, TOKEN_VOLUME,
    TRUST, name_of,
};

/// What a label says.
fn enabled(label: Option<&str>, of: impl Fn() -> String) -> Result<Option<bool>, Refusal> {
    match label {
        None => Ok(None),
        Some("enabled") => Ok(Some(true)),
        Some("disabled") => Ok(Some(false)),
        Some(other) => Err(Refusal::Label { of: of(), value: other.chars().take(63).collect() }),
    }
}

/// The pod's label wins, then the namespace's, then the default; those of hub and release are left alone whatever they say.
pub(super) fn by_labels(
    pod: Option<&str>,
    namespace: &NamespaceFacts,
    config: &InjectConfig,
) -> Result<Option<Skip>, Refusal> {
    let name = namespace.name.as_str();
    if name == config.release_namespace.as_str() || config.excluded_namespaces.contains(name) {
        // No API server asks about these: whoever does is none.
        return Ok(Some(Skip::Namespace));
    }
    match enabled(pod, || "pod".to_owned())? {
        Some(true) => return Ok(None),
        Some(false) => return Ok(Some(Skip::Pod)),
        None => {}
    }
    let wanted = match enabled(namespace.injection.as_deref(), || format!("namespace {name}"))? {
        Some(said) => said,
        None => match config.default {
            Selection::Labelled => false,
            Selection::All => !name.starts_with("kube-"),
        },
    };
    Ok((!wanted).then_some(Skip::Namespace))
}

/// What cannot have a sidecar.
pub(super) fn by_spec(pod: &Value) -> Option<Skip> {
    if pod.pointer("/spec/hostNetwork") == Some(&Value::Bool(true)) {
        return Some(Skip::HostNetwork);
    }
    let windows = |at: &str| pod.pointer(at).and_then(Value::as_str) == Some("windows");
    (windows("/spec/os/name") || windows("/spec/nodeSelector/kubernetes.io~1os")).then_some(Skip::Windows)
}

/// Said here, and not by the API server after the injection: there the pod would be blamed for what it did not ask for.
pub(super) fn pod_security(namespace: &NamespaceFacts) -> Result<(), Refusal> {
    match namespace.enforce.as_deref() {
        Some(level @ ("baseline" | "restricted")) => {
            Err(Refusal::PodSecurity { namespace: namespace.name.clone(), level: level.to_owned() })
        }
        Some(_) | None => Ok(()),
    }
}

/// Its containers of both kinds, each with its place.
fn containers(pod: &Value) -> impl Iterator<Item = (String, &Value)> {
    ["initContainers", "containers"].into_iter().flat_map(move |field| {
        let all = pod.pointer(&format!("/spec/{field}")).and_then(Value::as_array);
        let all = all.into_iter().flatten().take(CONTAINERS_MAX).enumerate();
        all.map(move |(i, container)| (format!("spec.{field}[{i}]"), container))
    })
}

/// Names of ours that others have.
pub(super) fn names_free(pod: &Value) -> Result<(), Refusal> {
    let volumes = pod.pointer("/spec/volumes").and_then(Value::as_array).into_iter().flatten().enumerate();
    let volumes = volumes.map(|(i, volume)| (format!("spec.volumes[{i}]"), volume, [TOKEN_VOLUME, TRUST]));
    let containers = containers(pod).map(|(place, container)| (place, container, [INIT, PROXY]));
    for (place, found, ours) in containers.chain(volumes) {
        let name = name_of(found);
        if ours.contains(&name) {
            return Err(Refusal::NameTaken { place, name: name.to_owned() });
        }
    }
    Ok(())
}

/// Nobody else runs as the proxy's user.
pub(super) fn no_proxy_uid(pod: &Value) -> Result<(), Refusal> {
    let is_ours =
        |value: &Value| value.pointer("/securityContext/runAsUser").and_then(Value::as_i64) == Some(PROXY_UID);
    if pod.get("spec").is_some_and(is_ours) {
        return Err(Refusal::ProxyUid { place: "spec.securityContext.runAsUser".to_owned() });
    }
    match containers(pod).find(|(_, container)| is_ours(container)) {
        Some((place, _)) => Err(Refusal::ProxyUid { place: format!("{place}.securityContext.runAsUser") }),
        None => Ok(()),
    }
}
