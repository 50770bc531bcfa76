//! The charts, by the real Helm and the real API server: what they render and print, what their schemas refuse, what a value can do
//! to a render, whether the server takes it, and what the accounts of the chart may do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod drift;
mod examples;
mod notes;
mod permissions;
mod renders;
mod server;
mod values;

use std::path::PathBuf;
use std::process::Command;

use meshfed_e2e::binary::workspace;
use meshfed_e2e::kube::helm;
use meshfed_e2e::process::{Output, run};
use serde_json::Value;

/// The charts, with the release and the namespace that the walk gives each.
const CHARTS: [(&str, &str, &str); 3] = [
    ("meshfed-crds", "meshfed-crds", "default"),
    ("meshfed-hub", "hub", "meshfed-hub"),
    ("meshfed-cluster", "meshfed", "meshfed-system"),
];

fn chart(name: &str) -> PathBuf {
    workspace().join("helm").join(name)
}

/// Runs Helm without any cluster.
fn run_helm(configure: impl FnOnce(&mut Command)) -> Output {
    let scratch = tempfile::tempdir().unwrap();
    let mut command = helm(None, scratch.path());
    configure(&mut command);
    run(&mut command)
}

/// Renders a chart with values in JSON.
fn render(name: &str, values: &Value) -> Output {
    let (_, release, namespace) = CHARTS.into_iter().find(|(chart, ..)| *chart == name).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), values.to_string()).unwrap();
    run_helm(|command| {
        command.args(["template", release]).arg(chart(name)).args(["--namespace", namespace, "--values"]);
        command.arg(file.path()).args(["--kube-version", "1.30.0"]);
    })
}

/// The objects of a render.
fn objects(render: &str) -> Vec<Value> {
    let objects: Vec<Option<Value>> = serde_saphyr::from_multiple(render).expect("a render is YAML");
    objects.into_iter().flatten().filter(|object| !object.is_null()).collect()
}

/// What the smallest render needs.
fn required(name: &str) -> Value {
    if name == "meshfed-hub" { serde_json::json!({ "fleet": "mesh.example" }) } else { serde_json::json!({}) }
}
