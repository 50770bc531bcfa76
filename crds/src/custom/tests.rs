use std::collections::BTreeSet;
use std::path::PathBuf;

use serde_json::Value;

use super::*;
use crate::kinds::shape_of;
use crate::object::Kind;
use crate::schema::Shape;

fn written(plural: &str) -> PathBuf {
    let file = format!("../helm/meshfed-crds/templates/{GROUP}_{plural}.yaml");
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(file)
}

/// The chart holds what this code says. To write it anew: `meshfed crds --out helm/meshfed-crds/templates`.
///
/// Mutation seen to fail: any text of a field's description changed.
#[test]
fn the_charts_definitions_are_those_of_the_code() {
    for definition in definitions().unwrap() {
        let path = written(&definition.plural);
        let expected = yaml(&definition).unwrap();
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(found == expected, "{} is stale: meshfed crds --out helm/meshfed-crds/templates", path.display());
    }
}

/// The reference is what this code says. To write it anew: `meshfed crds --reference > docs/reference/kinds.md`.
///
/// Mutation seen to fail: a row of `JUDGED` taken out.
#[test]
fn the_reference_is_that_of_the_code() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/kinds.md");
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == reference().unwrap(), "docs/reference/kinds.md is stale: meshfed crds --reference > it");
}

/// Defaults that an API server writes into lists which it takes for one value, as paths.
fn defaults_within(path: &str, schema: &Value, atomic: bool, found: &mut Vec<String>) {
    if atomic && schema.get("default").is_some() {
        found.push(path.to_owned());
    }
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        defaults_within(&format!("{path}.{name}"), inner, atomic, found);
    }
    if let Some(items) = schema.get("items") {
        let one = schema.get("x-kubernetes-list-type").is_none_or(|kind| kind == "atomic");
        defaults_within(&format!("{path}[]"), items, atomic || one, found);
    }
}

/// Two who apply the same file own it together: what the API server adds to a list of its own accord would make it another one
/// than theirs, and a conflict.
///
/// Mutation seen to fail: `min_healthy_percent` of a tier with a default.
#[test]
fn no_list_that_is_one_value_has_defaults() {
    for definition in definitions().unwrap() {
        let mut found = Vec::new();
        let schema = &definition.body["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        assert!(schema["properties"].is_object(), "{}", definition.plural);
        defaults_within(&definition.plural, schema, false, &mut found);
        assert_eq!(found, Vec::<String>::new());
    }
}

/// Where schema and reader differ about one field, as `PATH: what`.
fn differences(path: &str, schema: &Value, shape: &Shape, found: &mut Vec<String>) {
    let mut differ = |what: String| found.push(format!("{path}: {what}"));
    match shape {
        Shape::Fields(fields) => {
            let properties = schema["properties"].as_object().cloned().unwrap_or_default();
            for name in properties.keys().filter(|name| fields.iter().all(|f| f.name != **name)) {
                differ(format!("the reader does not know {name}"));
            }
            for field in *fields {
                match properties.get(field.name) {
                    None => found.push(format!("{path}: the schema does not know {}", field.name)),
                    Some(inner) => differences(&format!("{path}.{}", field.name), inner, &field.shape, found),
                }
            }
        }
        Shape::List(item) if schema["type"] == "array" => {
            differences(&format!("{path}[]"), &schema["items"], item, found);
        }
        Shape::OneOf(words) => {
            let allowed = schema["enum"].as_array().cloned().unwrap_or_default();
            let allowed: BTreeSet<&str> = allowed.iter().filter_map(Value::as_str).collect();
            if allowed != words.iter().copied().collect() {
                differ(format!("{allowed:?} in the schema, {words:?} in the reader"));
            }
        }
        Shape::Integer(least, most) => {
            let bounds = (schema["minimum"].as_f64(), schema["maximum"].as_f64());
            let read = (Some(*least as f64), Some(*most as f64));
            if bounds != read {
                differ(format!("{bounds:?} in the schema, {read:?} in the reader"));
            }
        }
        Shape::Text if schema["type"] == "string" => {}
        Shape::Bool if schema["type"] == "boolean" => {}
        Shape::TextMap if schema["additionalProperties"]["type"] == "string" => {}
        Shape::Any => {}
        other @ (Shape::Text
        | Shape::Bool
        | Shape::IntegerOrText
        | Shape::TextMap
        | Shape::PortMap
        | Shape::List(_)
        | Shape::Open(_)) => differ(format!("{} in the schema, {other:?} in the reader", schema["type"])),
    }
}

/// The kinds that files hold, too, have the same fields, words and ranges in the API server's schema and in the reader's
/// tables (CR2): what one takes is never an error of the other.
///
/// Mutations seen to fail: `sameness` left out of `kinds::MESH`; the largest weight of a tier's item halved in its schema.
#[test]
fn schema_and_reader_agree() {
    let all = definitions().unwrap();
    let mut found = Vec::new();
    for (plural, kind) in
        [("exportpolicies", Kind::ExportPolicy), ("failoverpolicies", Kind::FailoverPolicy), ("meshes", Kind::Mesh)]
    {
        let definition = all.iter().find(|d| d.plural == plural).unwrap();
        let schema = &definition.body["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
        let Shape::Fields(fields) = shape_of(kind) else { panic!("{kind} is open") };
        let spec = fields.iter().find(|f| f.name == "spec").unwrap();
        differences(plural, schema, &spec.shape, &mut found);
    }
    assert_eq!(found, Vec::<String>::new());
}
