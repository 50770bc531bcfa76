//! Pure. What of an object is kept: the fields that its schema names, for the kinds of Kubernetes; without the server's
//! bookkeeping and status, for all others. What is not kept is not judged either: the server has judged it.

use kube::api::DynamicObject;
use serde_json::{Map, Value};

use crate::kinds::shape_of;
use crate::object::Kind;
use crate::schema::Shape;

/// The domains of the annotations that are read.
const ANNOTATIONS: &[&str] = &["federation.meshfed.io/", "topology.istio.io/"];

/// Whether anybody reads an annotation of this key.
pub(super) fn is_read(annotation: &str) -> bool {
    ANNOTATIONS.iter().any(|domain| annotation.starts_with(domain))
}

/// An object as its reader wants it.
pub(super) fn reduce(kind: Kind, object: DynamicObject) -> Value {
    let DynamicObject { metadata, mut data, .. } = object;
    let mut meta = Map::new();
    let mut text = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            meta.insert(key.to_owned(), Value::String(value));
        }
    };
    text("name", metadata.name);
    text("namespace", metadata.namespace);
    if kind == Kind::Pod {
        text("uid", metadata.uid);
        text("deletionTimestamp", metadata.deletion_timestamp.map(|t| t.0.to_string()));
    }
    if kind == Kind::PeerAuthentication {
        text("creationTimestamp", metadata.creation_timestamp.map(|t| t.0.to_string()));
    }
    let mut map = |key: &str, pairs: Map<String, Value>| {
        if !pairs.is_empty() {
            meta.insert(key.to_owned(), Value::Object(pairs));
        }
    };
    let labels = metadata.labels.unwrap_or_default();
    map("labels", labels.into_iter().map(|(k, v)| (k, Value::String(v))).collect());
    let annotations = metadata.annotations.unwrap_or_default().into_iter().filter(|(key, _)| is_read(key));
    map("annotations", annotations.map(|(k, v)| (k, Value::String(v))).collect());

    if !kind.is_custom() {
        keep(&mut data, shape_of(kind));
    } else if let Value::Object(fields) = &mut data {
        fields.remove("status");
    }
    let mut whole = match data {
        Value::Object(fields) => fields,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => Map::new(),
    };
    whole.insert("apiVersion".to_owned(), Value::String(kind.api_version().to_owned()));
    whole.insert("kind".to_owned(), Value::String(kind.as_str().to_owned()));
    whole.insert("metadata".to_owned(), Value::Object(meta));
    Value::Object(whole)
}

/// Leaves the fields that a schema names.
fn keep(value: &mut Value, shape: Shape) {
    match (shape, value) {
        (Shape::Fields(fields) | Shape::Open(fields), Value::Object(map)) => {
            map.retain(|key, _| fields.iter().any(|f| f.name == key));
            for field in fields {
                if let Some(value) = map.get_mut(field.name) {
                    keep(value, field.shape);
                }
            }
        }
        (Shape::List(item), Value::Array(items)) => items.iter_mut().for_each(|value| keep(value, *item)),
        _ => {}
    }
}
