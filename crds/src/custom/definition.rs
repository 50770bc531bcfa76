//! Pure. The CustomResourceDefinitions, as they are written into the chart and printed by `meshfed crds`.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt as _;
use serde_json::{Map, Value};

use super::{Cluster, ExportPolicy, FailoverPolicy, Membership, Mesh, TrustDomain};

/// One definition.
#[derive(Debug, Clone)]
pub struct Definition {
    /// The plural name, which names its file.
    pub plural: String,
    /// The definition as the API server takes it.
    pub body: Value,
}

/// All definitions, by their names.
///
/// # Errors
/// A definition that is no JSON.
pub fn definitions() -> Result<Vec<Definition>, serde_json::Error> {
    let all: [CustomResourceDefinition; 6] = [
        Cluster::crd(),
        ExportPolicy::crd(),
        FailoverPolicy::crd(),
        Membership::crd(),
        Mesh::crd(),
        TrustDomain::crd(),
    ];
    all.into_iter()
        .map(|crd| {
            let plural = crd.spec.names.plural.clone();
            let mut body = serde_json::to_value(crd)?;
            if let Some(spec) = body.get_mut("spec") {
                plain(spec);
            }
            Ok(Definition { plural, body })
        })
        .collect()
}

/// Takes out what says nothing to an API server: it prunes `null`, has no unsigned formats, and a text of ours is no
/// title.
fn plain(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            if is_schema(fields) {
                fields.remove("nullable");
                let unsigned = fields.get("format").and_then(Value::as_str).is_some_and(|f| f.starts_with("uint"));
                if unsigned {
                    fields.remove("format");
                }
                if let Some(text) = fields.get_mut("description")
                    && let Some(words) = text.as_str()
                {
                    // One line, whatever the width of the source was.
                    *text = Value::String(words.split_whitespace().collect::<Vec<_>>().join(" "));
                }
            }
            fields.values_mut().for_each(plain);
        }
        Value::Array(items) => items.iter_mut().for_each(plain),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// A schema has a type; a property that is called `nullable` has none beside it.
fn is_schema(fields: &Map<String, Value>) -> bool {
    fields.get("type").is_some_and(Value::is_string)
}

/// One definition as a YAML document, without `---`.
///
/// # Errors
/// A value that YAML cannot hold.
pub fn yaml(definition: &Definition) -> Result<String, serde_saphyr::ser::Error> {
    serde_saphyr::to_string(&definition.body)
}
