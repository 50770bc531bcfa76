//! Values: which ones the schemas refuse, and that none adds anything to a render.

use serde_json::{Map, Value, json};

use crate::{CHARTS, chart, objects, render, required, run_helm};

/// Texts that would end a string, a line, a document or a template, or begin something else, if they were pasted.
const EVIL: [&str; 2] =
    ["a\"\n  injected: true\n---\nkind: Injected\nmetadata:\n  name: x\n", "*a: {{ .Values | toYaml }}' : [ # z"];

/// The paths of all strings of the default values, and of what the empty lists and maps may hold.
fn texts(value: &Value, path: &[String], out: &mut Vec<Vec<String>>) {
    match value {
        Value::String(_) => out.push(path.to_vec()),
        Value::Object(map) => {
            for (key, value) in map {
                texts(value, &[path, std::slice::from_ref(key)].concat(), out);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => {}
    }
}

fn set(values: &mut Value, path: &[String], value: Value) {
    let Some((first, rest)) = path.split_first() else {
        *values = value;
        return;
    };
    if !values.is_object() {
        *values = Value::Object(Map::new());
    }
    set(&mut values[first.as_str()], rest, value);
}

/// The shape of a render: every path of it, without what stands there.
fn shape(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            map.iter().map(|(key, value)| (key.clone(), shape_of(key, value))).collect::<Map<_, _>>().into()
        }
        Value::Array(list) => list.iter().map(shape).collect::<Vec<_>>().into(),
        Value::String(_) => "text".into(),
        Value::Null | Value::Bool(_) | Value::Number(_) => "other".into(),
    }
}

/// The shape of a field; a file in a ConfigMap is looked into.
fn shape_of(key: &str, value: &Value) -> Value {
    match value.as_str().filter(|_| key.ends_with(".yaml")) {
        Some(file) => shape(&serde_saphyr::from_str(file).expect("a file of a ConfigMap is YAML")),
        None => shape(value),
    }
}

/// Renders with a value at a place; the render's shape, or nothing when the schema refuses it.
fn shape_with(name: &str, place: &[String], value: &Value) -> Option<Value> {
    let mut values = required(name);
    set(&mut values, place, value.clone());
    let output = render(name, &values);
    // A render that Helm cannot read is no refusal: the text came through.
    let refused = output.code != 0 && output.stderr.contains("schema");
    assert!(output.code == 0 || refused, "{name}: {} = {value}: {}", place.join("."), output.stderr);
    (!refused).then(|| shape(&Value::Array(objects(&output.stdout))))
}

/// Puts each evil text, in a form (`$` stands for it), at a place.
fn try_at(name: &str, place: &[String], form: &Value) -> usize {
    let filled = |text: &str| -> Value {
        let json = form.to_string().replace("\"$\"", &Value::String(text.to_owned()).to_string());
        serde_json::from_str(&json).unwrap()
    };
    let taken: Vec<_> = EVIL.iter().filter_map(|evil| Some((evil, shape_with(name, place, &filled(evil))?))).collect();
    if !taken.is_empty() {
        let plain = shape_with(name, place, &filled("plain"));
        for (evil, found) in &taken {
            assert_eq!(Some(found), plain.as_ref(), "{name}: {} = {evil:?} changes the render", place.join("."));
        }
    }
    taken.len()
}

/// No text adds a key, an object or a line to a render: the schema refuses it, or it stays a text (HE6).
///
/// Mutation seen to fail: `toYaml` of `nodeSelector` replaced by a loop that prints `{{ $key }}: {{ $value }}`.
#[test]
fn no_value_can_add_to_a_render() {
    for (name, ..) in &CHARTS[1..] {
        let text = std::fs::read_to_string(chart(name).join("values.yaml")).unwrap();
        let defaults: Value = serde_saphyr::from_str(&text).unwrap();
        let mut places = Vec::new();
        texts(&defaults, &[], &mut places);
        assert!(places.len() > 8, "{places:?}");
        let mut cases: Vec<(Vec<String>, Value)> = places.into_iter().map(|place| (place, json!("$"))).collect();
        let free = [
            ("podAnnotations", json!({ "example.org/a": "$" })),
            ("nodeSelector", json!({ "example.org/a": "$" })),
            ("tolerations", json!([{ "key": "$", "operator": "Exists" }])),
            ("affinity", json!({ "nodeAffinity": { "a": "$" } })),
            ("imagePullSecrets", json!([{ "name": "$" }])),
            ("topologySpreadConstraints", json!([{ "topologyKey": "$" }])),
            ("resources", json!({ "limits": { "memory": "$" } })),
        ];
        cases.extend(free.map(|(place, form)| (vec![place.to_owned()], form)));
        if *name == "meshfed-cluster" {
            // Goes into a file of a ConfigMap.
            cases.push((vec!["proxy".to_owned()], json!({ "resources": { "limits": { "memory": "$" } } })));
        }
        let lists: &[&str] =
            if *name == "meshfed-hub" { &["advertise", "http.advertise"] } else { &["gateway.addresses"] };
        cases.extend(lists.iter().map(|l| (l.split('.').map(str::to_owned).collect(), json!(["$"]))));
        let taken: usize = cases.iter().map(|(place, form)| try_at(name, place, form)).sum();
        // The maps and lists of free texts at least: else this tried nothing.
        assert!(taken >= 3 * EVIL.len(), "{name}: {taken} texts came through");
    }
}

/// A schema is closed: what it does not know, and what cannot be, is refused before anything is rendered.
///
/// Mutation seen to fail: the first `"additionalProperties": false` of a schema set to `true`.
#[test]
fn schemas_refuse_what_they_do_not_know() {
    let refused = [
        ("meshfed-crds", json!({ "msc": true }), "msc"),
        ("meshfed-crds", json!({ "mcs": "yes" }), "mcs"),
        ("meshfed-hub", json!({}), "fleet"),
        ("meshfed-hub", json!({ "fleet": "a.b", "flet": "a.b" }), "flet"),
        ("meshfed-cluster", json!({ "agents": {} }), "agents"),
        ("meshfed-hub", json!({ "fleet": "Mesh Example" }), "fleet"),
        ("meshfed-hub", json!({ "fleet": "a.b", "replicas": 2 }), "replicas"),
        ("meshfed-hub", json!({ "fleet": "a.b", "store": "etcd" }), "store"),
        ("meshfed-hub", json!({ "fleet": "a.b", "advertise": ["hub.example"] }), "advertise"),
        ("meshfed-hub", json!({ "fleet": "a.b", "service": { "nodePorts": { "grcp": 1 } } }), "grcp"),
        ("meshfed-hub", json!({ "fleet": "a.b", "image": { "digest": "sha256:abc" } }), "digest"),
        ("meshfed-cluster", json!({ "injection": { "default": "none" } }), "default"),
        ("meshfed-cluster", json!({ "gateway": { "address": [] } }), "address"),
        ("meshfed-cluster", json!({ "membership": { "create": true } }), "hub"),
        ("meshfed-cluster", json!({ "membership": { "tokenSecret": "meshfed-identity" } }), "tokenSecret"),
        ("meshfed-cluster", json!({ "membership": { "token": "mf1.x" } }), "token"),
        ("meshfed-cluster", json!({ "persistence": { "enabled": true }, "agent": { "replicas": 2 } }), "replicas"),
        ("meshfed-cluster", json!({ "resources": { "limit": {} } }), "limit"),
        ("meshfed-cluster", json!({ "logLevel": "loud" }), "logLevel"),
        ("meshfed-cluster", json!({ "proxy": { "logLevel": "info,h2" } }), "logLevel"),
        ("meshfed-hub", json!({ "fleet": "a.b", "logLevel": "warning" }), "logLevel"),
    ];
    for (name, values, word) in refused {
        let output = render(name, &values);
        assert!(output.code != 0 && output.stderr.contains(word), "{name} {values}: {}{}", output.code, output.stderr);
    }
}

/// Helm's own rules find nothing to warn of.
///
/// Mutation seen to fail: `version` taken out of a `Chart.yaml`.
#[test]
fn helm_lint_finds_nothing() {
    for (name, ..) in CHARTS {
        let output = run_helm(|command| {
            command.args(["lint", "--strict"]).arg(chart(name));
            if name == "meshfed-hub" {
                command.args(["--set", "fleet=mesh.example"]);
            }
        });
        assert_eq!(output.code, 0, "{}{}", output.stdout, output.stderr);
    }
}
