//! What `examples/` and the documentation tell people to apply: taken by the API server where it knows the kind, and by the
//! charts where it is a chart's value.

use std::path::{Path, PathBuf};

use meshfed_e2e::binary::workspace;
use serde_json::Value;

use crate::render;
use crate::server::prepared;

/// Groups whose kinds the test's API server has.
const KNOWN: [&str; 5] =
    ["apps", "federation.meshfed.io", "multicluster.x-k8s.io", "security.istio.io", "networking.istio.io"];
/// Kinds of the tools that apply the examples, which it has not.
const TOOLS: [&str; 6] = [
    "argoproj.io/v1alpha1/Application",
    "argoproj.io/v1alpha1/ApplicationSet",
    "external-secrets.io/v1/ExternalSecret",
    "helm.toolkit.fluxcd.io/v2/HelmRelease",
    "kustomize.toolkit.fluxcd.io/v1/Kustomization",
    "source.toolkit.fluxcd.io/v1/GitRepository",
];

fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut pending = vec![folder.to_owned()];
    while let Some(folder) = pending.pop() {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                pending.push(path);
            } else if path.extension().is_some_and(|e| e == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn documents(text: &str, place: &str) -> Vec<Value> {
    let all: Vec<Option<Value>> = serde_saphyr::from_multiple(text).unwrap_or_else(|e| panic!("{place}: {e}"));
    all.into_iter().flatten().filter(|d| !d.is_null()).collect()
}

/// The whole objects in the YAML blocks of a page, with the line of each block.
fn blocks(page: &str) -> Vec<(usize, String)> {
    let mut found: Vec<(usize, String)> = Vec::new();
    let mut is_inside = false;
    for (number, line) in page.lines().enumerate() {
        match line {
            "```yaml" => {
                is_inside = true;
                found.push((number + 2, String::new()));
            }
            "```" => is_inside = false,
            _ if is_inside => found.last_mut().unwrap().1.push_str(&format!("{line}\n")),
            _ => {}
        }
    }
    found.retain(|(_, text)| {
        text.starts_with("apiVersion:") || text.starts_with("# ") && text.contains("\napiVersion:")
    });
    found
}

fn text(object: &Value, path: &str) -> String {
    object.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// All objects that people are told to apply, with the place of each.
fn told() -> Vec<(String, Value)> {
    let mut found = Vec::new();
    for file in files(&workspace().join("examples"), "yaml") {
        let place = file.strip_prefix(workspace()).unwrap().display().to_string();
        let read = documents(&std::fs::read_to_string(&file).unwrap(), &place);
        found.extend(read.into_iter().map(|object| (place.clone(), object)));
    }
    for page in files(&workspace().join("docs"), "md") {
        let place = page.strip_prefix(workspace()).unwrap().display().to_string();
        for (line, block) in blocks(&std::fs::read_to_string(&page).unwrap()) {
            let read = documents(&block, &format!("{place}:{line}"));
            found.extend(read.into_iter().map(|object| (format!("{place}:{line}"), object)));
        }
    }
    found
}

/// Each object that the examples and pages show is taken by an API server with our kinds, strictly and without a word; each
/// of another tool is of a kind that the tool has. Every kind of ours that people write has an example.
///
/// Mutation seen to fail: `gatewayCIDRs` of `examples/gitops/fleet/clusters/east.yaml` written `gatewayCidrs`.
#[test]
fn what_people_are_told_to_apply_is_taken() {
    let server = prepared();
    let _made = server.ok(&["create", "namespace", "shop"]);
    let _made = server.ok(&["create", "namespace", "argocd"]);
    let mut kinds = std::collections::BTreeSet::new();
    for (place, object) in told() {
        let (api_version, kind) = (text(&object, "/apiVersion"), text(&object, "/kind"));
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        if !group.is_empty() && !KNOWN.contains(&group) {
            let name = format!("{api_version}/{kind}");
            assert!(TOOLS.contains(&name.as_str()), "{place}: {name} is no kind that we know");
            continue;
        }
        let args = ["apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-"];
        let output = server.kubectl_with(&args, &object.to_string());
        assert_eq!((output.code, output.stderr.as_str()), (0, ""), "{place}: {kind}");
        kinds.insert(kind);
    }
    for kind in [
        "Cluster",
        "ExportPolicy",
        "FailoverPolicy",
        "Membership",
        "Mesh",
        "PeerAuthentication",
        "ServiceExport",
        "WorkloadEntry",
    ] {
        assert!(kinds.contains(kind), "no example of {kind}");
    }
}

/// Where a template of another tool has a hole, any word.
fn filled(value: &Value) -> Value {
    match value {
        Value::String(text) => {
            let holes = [("{{.name}}", "east"), ("${cluster}", "east")];
            let named = holes.iter().fold(text.clone(), |text, (hole, word)| text.replace(hole, word));
            let hosts = ["{{.gateway}}", "${gateway}"];
            Value::String(hosts.iter().fold(named, |text, hole| text.replace(hole, "203.0.113.11:15443")))
        }
        Value::Array(all) => all.iter().map(filled).collect(),
        Value::Object(all) => all.iter().map(|(key, value)| (key.clone(), filled(value))).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    }
}

/// The charts that an object installs, with their values; and the folders of this repository's example that it reads.
fn sources(object: &Value) -> (Vec<(String, Value)>, Vec<String>) {
    let spec = object.pointer("/spec/template/spec").unwrap_or_else(|| &object["spec"]);
    let mut charts = Vec::new();
    let mut folders = Vec::new();
    let several = spec["sources"].as_array().into_iter().flatten();
    for source in several.chain(spec.get("source")) {
        match text(source, "/path").strip_prefix("helm/") {
            Some(chart) => charts.push((chart.to_owned(), source["helm"]["valuesObject"].clone())),
            None => folders.push(text(source, "/path")),
        }
    }
    if let Some(chart) = text(spec, "/chart/spec/chart").strip_prefix("./helm/") {
        charts.push((chart.to_owned(), spec["values"].clone()));
    }
    if let Some(folder) = text(spec, "/path").strip_prefix("./") {
        folders.push(folder.to_owned());
    }
    (charts, folders)
}

/// The objects of Argo CD and Flux install our charts with values that these take, read folders that are there, and Argo CD's
/// ConfigMap holds the script for the health of every kind of ours.
///
/// Mutation seen to fail: `advertise` of `examples/gitops/argocd/hub.yaml` written `advertised`.
#[test]
fn what_gitops_tools_are_given_fits_the_charts() {
    let (mut charts, mut folders) = (0, 0);
    let mut health = None;
    for (place, object) in told() {
        if text(&object, "/metadata/name") == "argocd-cm" {
            health = Some(object["data"].clone());
        }
        let (installs, reads) = sources(&object);
        for (chart, values) in installs {
            let rendered = render(&chart, &filled(&values));
            assert_eq!(rendered.code, 0, "{place}: {chart}: {}", rendered.stderr);
            charts += 1;
        }
        for folder in reads {
            let folder = filled(&Value::String(folder));
            let path = workspace().join("examples/gitops").join(folder.as_str().unwrap());
            assert!(path.is_dir(), "{place}: there is no {}", path.display());
            folders += 1;
        }
    }
    assert!(charts >= 6 && folders >= 8, "{charts} charts, {folders} folders");
    let script = std::fs::read_to_string(workspace().join("docs/kubernetes/argocd/health.lua")).unwrap();
    let health = health.unwrap();
    for kind in ["Cluster", "ExportPolicy", "FailoverPolicy", "Membership", "Mesh", "TrustDomain"] {
        let key = format!("resource.customizations.health.federation.meshfed.io_{kind}");
        assert_eq!(health[&key].as_str(), Some(script.as_str()), "{kind}");
    }
}
