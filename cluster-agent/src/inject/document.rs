//! Pure. Injection of whole objects: pods, and all kinds that have templates of pods.

use serde_json::Value;

use super::{InjectConfig, NamespaceFacts, Outcome, Refusal, Skip, inject, warnings};

/// Deepest `List` within a `List`.
const DEPTH_MAX: usize = 4;

/// Why an object cannot be injected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {name}: {refusal}")]
pub struct DocumentError {
    /// Its kind.
    pub kind: String,
    /// `NAMESPACE/NAME`.
    pub name: String,
    /// Why.
    #[source]
    pub refusal: Refusal,
}

/// What became of an object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Injected {
    /// Pods and templates that were injected.
    pub changed: usize,
    /// Those that were left as they are, with their names.
    pub skipped: Vec<(String, Skip)>,
    /// What injected ones ask for that means nothing, with their names.
    pub warnings: Vec<(String, String)>,
}

/// Where the pod, or its template, lies in an object of this kind; none where it has none.
fn pod_at(api_version: &str, kind: &str) -> Option<&'static str> {
    let group = api_version.rsplit_once('/').map_or("", |(group, _)| group);
    match (group, kind) {
        ("", "Pod") => Some(""),
        ("", "PodTemplate") => Some("/template"),
        ("", "ReplicationController")
        | ("apps", "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet")
        | ("batch", "Job") => Some("/spec/template"),
        ("batch", "CronJob") => Some("/spec/jobTemplate/spec/template"),
        _ => None,
    }
}

/// Injects an object in place. `facts`: what is known of a namespace; objects without one are in `default`.
///
/// # Errors
/// [`DocumentError`]; the object is as it was.
pub fn inject_object(
    object: &mut Value,
    facts: &dyn Fn(&str) -> NamespaceFacts,
    config: &InjectConfig,
) -> Result<Injected, DocumentError> {
    let mut done = Injected::default();
    let mut injected = object.clone();
    walk(&mut injected, ("", ""), facts, config, &mut done, 0)?;
    *object = injected;
    Ok(done)
}

/// `of`: what an object is that does not say it, API version and kind.
fn walk(
    object: &mut Value,
    of: (&str, &str),
    facts: &dyn Fn(&str) -> NamespaceFacts,
    config: &InjectConfig,
    done: &mut Injected,
    depth: usize,
) -> Result<(), DocumentError> {
    let text = |at: &str| object.pointer(at).and_then(Value::as_str).unwrap_or_default().to_owned();
    let said =
        |at: &str, otherwise: &str| Some(text(at)).filter(|t| !t.is_empty()).unwrap_or_else(|| otherwise.to_owned());
    let (api_version, kind) = (said("/apiVersion", of.0), said("/kind", of.1));
    let (namespace, name) = (text("/metadata/namespace"), text("/metadata/name"));
    if let Some(single) = kind.strip_suffix("List").filter(|_| depth < DEPTH_MAX) {
        for item in object.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten() {
            walk(item, (&api_version, single), facts, config, done, depth + 1)?;
        }
        return Ok(());
    }
    let Some(pod) = pod_at(&api_version, &kind).and_then(|at| object.pointer_mut(at)) else { return Ok(()) };
    let namespace = if namespace.is_empty() { "default".to_owned() } else { namespace };
    let shown = format!("{namespace}/{name}");
    match inject(pod, &facts(&namespace), config) {
        Ok(Outcome::Inject(new)) => {
            done.warnings.extend(warnings(pod).into_iter().map(|warning| (format!("{kind} {shown}"), warning)));
            *pod = *new;
            done.changed += 1;
        }
        Ok(Outcome::Skip(skip)) => done.skipped.push((format!("{kind} {shown}"), skip)),
        Err(refusal) => return Err(DocumentError { kind, name: shown, refusal }),
    }
    Ok(())
}
