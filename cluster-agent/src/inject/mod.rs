//! Pure. Injection (`contracts-kubernetes.md` 5.4): a pod, its namespace and the configuration give the pod with
//! `meshfed-init` and `meshfed-proxy`, or a reason why not. Webhook and `meshfed inject` do the same by this.

mod annotations;
mod config;
mod containers;
mod decide;
mod document;
mod probes;
mod quantity;
#[cfg(test)]
mod tests;
mod text;

use serde_json::{Map, Value, json};

pub use config::{InjectConfig, InjectConfigError, ProxyConfig, PullPolicy, Selection};
pub use document::{DocumentError, Injected, inject_object};
pub use text::{InjectedText, TextError, inject_text};

/// Injection of namespaces and pods: `enabled` or `disabled`.
pub const LABEL: &str = "federation.meshfed.io/injection";
/// What an injected pod carries.
pub const STATUS: &str = "federation.meshfed.io/status";
/// The init container that leads connections to the proxy.
pub const INIT: &str = "meshfed-init";
/// The native sidecar (KEP-753).
pub const PROXY: &str = "meshfed-proxy";
/// The audience of the projected token: one for the API server itself is never sent to anybody else.
pub const AUDIENCE: &str = "meshfed";
/// The volume of the projected token.
pub const TOKEN_VOLUME: &str = "meshfed-token";
/// The ConfigMap with the cluster's anchors, and the volume of it.
pub const TRUST: &str = "meshfed-trust";
/// The proxy's user: its own connections are not captured.
pub const PROXY_UID: i64 = 1337;
/// The proxy's readiness, and where it answers the kubelet's probes for the application.
pub const READY_PORT: u16 = 15021;
/// Most containers of one pod that are looked at.
const CONTAINERS_MAX: usize = 1000;

/// What is known of the pod's namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NamespaceFacts {
    /// Its name.
    pub name: String,
    /// Value of [`LABEL`].
    pub injection: Option<String>,
    /// Value of `pod-security.kubernetes.io/enforce` (KEP-2579).
    pub enforce: Option<String>,
}

/// Why a pod stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Skip {
    /// Its own label.
    #[error("the pod's label {LABEL} is disabled")]
    Pod,
    /// Its namespace's label, or none.
    #[error("injection is not enabled for the namespace")]
    Namespace,
    /// It has the node's network, whose connections are not to be captured.
    #[error("the pod has hostNetwork: true")]
    HostNetwork,
    /// Another operating system.
    #[error("the pod is for Windows")]
    Windows,
}

/// Why a pod is not admitted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A label with another value.
    #[error("{of}: label {LABEL} is '{value}'; write enabled or disabled")]
    Label {
        /// `pod` or `namespace NAME`.
        of: String,
        /// What it says.
        value: String,
    },
    /// An annotation that cannot be followed.
    #[error("annotation {name}: {reason}")]
    Annotation {
        /// Its name.
        name: &'static str,
        /// What is wrong, and what to write.
        reason: String,
    },
    /// The application runs as the proxy's user, whose connections are not captured.
    #[error("{place} is {PROXY_UID}, the user of {PROXY}, whose connections are not captured; run as another user")]
    ProxyUid {
        /// The field.
        place: String,
    },
    /// A name of ours.
    #[error("{place} is named '{name}', which injection adds; rename it")]
    NameTaken {
        /// The field.
        place: String,
        /// The name.
        name: String,
    },
    /// Pod Security forbids what `meshfed-init` needs.
    #[error(
        "namespace {namespace} enforces Pod Security level '{level}', which forbids the capability NET_ADMIN and the user \
         root of {INIT}; label it pod-security.kubernetes.io/enforce=privileged, or label the pod {LABEL}=disabled"
    )]
    PodSecurity {
        /// The namespace.
        namespace: String,
        /// The level.
        level: String,
    },
    /// Not the shape of a pod.
    #[error("{place} is not {wanted}")]
    Shape {
        /// The field.
        place: String,
        /// What belongs there.
        wanted: &'static str,
    },
}

/// What becomes of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The injected pod.
    Inject(Box<Value>),
    /// As it is.
    Skip(Skip),
}

/// What a pod asks for that means nothing to us, a sentence each. It is no reason to refuse it.
#[must_use]
pub fn warnings(pod: &Value) -> Vec<String> {
    annotations::unknown(pod)
}

/// Injects a pod, or the template of one. Done again, also after others have changed the result, it gives the same.
///
/// # Errors
/// [`Refusal`].
pub fn inject(pod: &Value, namespace: &NamespaceFacts, config: &InjectConfig) -> Result<Outcome, Refusal> {
    let mut pod = pod.clone();
    let text = |pod: &Value, at: &str| pod.pointer(at).and_then(Value::as_str).map(str::to_owned);
    let label = text(&pod, &format!("/metadata/labels/{}", escape(LABEL)));
    if let Some(skip) = decide::by_labels(label.as_deref(), namespace, config)? {
        return Ok(Outcome::Skip(skip));
    }
    if let Some(skip) = decide::by_spec(&pod) {
        return Ok(Outcome::Skip(skip));
    }
    decide::pod_security(namespace)?;
    let wishes = annotations::read(&pod)?;
    let again = text(&pod, &format!("/metadata/annotations/{}", escape(STATUS))).is_some();
    let before = if again { containers::take_ours(&mut pod)? } else { None };
    decide::names_free(&pod)?;
    decide::no_proxy_uid(&pod)?;
    let originals = probes::rewrite(&mut pod, before.as_ref())?;
    containers::add(&mut pod, config, &wishes, &originals)?;
    let status = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "initContainers": [INIT, PROXY],
        "volumes": [TOKEN_VOLUME, TRUST],
    });
    let metadata = object(&mut pod, "metadata")?;
    let annotations = child(metadata, "annotations", "metadata.annotations")?;
    annotations.insert(STATUS.to_owned(), Value::String(status.to_string()));
    Ok(Outcome::Inject(Box::new(pod)))
}

/// Whether pods of a namespace are injected that say nothing themselves.
#[must_use]
pub fn selected(namespace: &NamespaceFacts, config: &InjectConfig) -> bool {
    matches!(decide::by_labels(None, namespace, config), Ok(None))
}

/// The JSON patch (RFC 6902) from a pod to its injected form.
#[must_use]
pub fn patch(before: &Value, after: &Value) -> json_patch::Patch {
    json_patch::diff(before, after)
}

/// A token of a JSON pointer (RFC 6901).
fn escape(token: &str) -> String {
    token.replace('~', "~0").replace('/', "~1")
}

fn object<'a>(value: &'a mut Value, place: &'static str) -> Result<&'a mut Map<String, Value>, Refusal> {
    let shape = || Refusal::Shape { place: place.to_owned(), wanted: "an object" };
    let parent = value.as_object_mut().ok_or_else(shape)?;
    child(parent, place, place)
}

/// A field that is an object, made where it is missing or null.
fn child<'a>(
    parent: &'a mut Map<String, Value>,
    name: &str,
    place: &str,
) -> Result<&'a mut Map<String, Value>, Refusal> {
    let entry = parent.entry(name).or_insert(Value::Null);
    if entry.is_null() {
        *entry = Value::Object(Map::new());
    }
    entry.as_object_mut().ok_or_else(|| Refusal::Shape { place: place.to_owned(), wanted: "an object" })
}

/// A field that is a list, made where it is missing or null.
fn list<'a>(parent: &'a mut Map<String, Value>, name: &str, place: &str) -> Result<&'a mut Vec<Value>, Refusal> {
    let entry = parent.entry(name).or_insert(Value::Null);
    if entry.is_null() {
        *entry = Value::Array(Vec::new());
    }
    entry.as_array_mut().ok_or_else(|| Refusal::Shape { place: place.to_owned(), wanted: "a list" })
}

fn name_of(value: &Value) -> &str {
    value.get("name").and_then(Value::as_str).unwrap_or_default()
}
