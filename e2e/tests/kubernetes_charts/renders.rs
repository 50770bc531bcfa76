//! Renders: as they were, and what is true of every one of them.

use meshfed_e2e::binary::workspace;
use serde_json::{Value, json};

use crate::{CHARTS, chart, objects, render};

/// A name, a chart, and its values.
pub(crate) fn matrix() -> Vec<(&'static str, &'static str, Value)> {
    let image = json!({ "repository": "localhost/meshfed", "pullPolicy": "Never" });
    let everything = json!({
        "image": { "repository": "registry.example:5000/mesh/fed", "digest": format!("sha256:{}", "0".repeat(64)) },
        "imagePullSecrets": [{ "name": "pull" }],
        "nodeSelector": { "kubernetes.io/os": "linux" },
        "tolerations": [{ "key": "dedicated", "operator": "Exists", "effect": "NoSchedule" }],
        "affinity": { "podAntiAffinity": { "preferredDuringSchedulingIgnoredDuringExecution": [{
            "weight": 1, "podAffinityTerm": { "topologyKey": "kubernetes.io/hostname", "labelSelector": { "matchLabels": { "a": "b" } } } }] } },
        "topologySpreadConstraints": [{ "maxSkew": 1, "topologyKey": "example.org/rack", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": { "matchLabels": { "a": "b" } } }],
        "priorityClassName": "system-cluster-critical",
        "podAnnotations": { "example.org/a": "b: \"c\" {{ d }}" },
        "logLevel": "info,meshfed_proxy=debug",
        "logFormat": "text",
        "serviceMonitor": { "enabled": true },
        "resources": { "requests": { "cpu": 1 }, "limits": { "memory": "1Gi" } },
    });
    let with = |mut values: Value, more: Value| {
        values.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        values
    };
    vec![
        (
            "hub-walk",
            "meshfed-hub",
            json!({
            "image": image, "fleet": "mesh.example", "persistence": { "enabled": false },
            "service": { "type": "NodePort", "nodePorts": { "grpc": 31560, "http": 31580 } },
            "advertise": ["172.30.0.11:31560"], "http": { "advertise": ["172.30.0.11:31580"] } }),
        ),
        ("hub-default", "meshfed-hub", json!({ "fleet": "mesh.example" })),
        (
            "hub-everything",
            "meshfed-hub",
            with(
                everything.clone(),
                json!({
            "fleet": "mesh.example", "persistence": { "existingClaim": "held" }, "service": { "type": "LoadBalancer" },
            "advertise": ["hub.example:443", "[2001:db8::1]:15600"], "http": { "advertise": ["[2001:db8::1]:443"] } }),
            ),
        ),
        (
            "cluster-walk",
            "meshfed-cluster",
            json!({
            "image": image,
            "gateway": { "network": "net-east", "service": { "type": "NodePort", "nodePort": 31443 }, "addresses": ["172.30.0.11:31443"] } }),
        ),
        ("cluster-default", "meshfed-cluster", json!({})),
        (
            "cluster-everything",
            "meshfed-cluster",
            with(
                everything,
                json!({
            "agent": { "replicas": 3 }, "injection": { "default": "all" },
            "gateway": { "replicas": 2, "network": "net", "addresses": ["gw.example:443", "[2001:db8::1]:15443"] },
            "dns": { "clusterIP": "10.96.0.20" }, "imports": { "perCluster": 10000, "perNamespace": 3000 }, "proxy": { "resources": {}, "logLevel": "warn" },
            "membership": { "create": true, "hub": "https://hub.example:443", "tokenSecret": "from-the-vault" } }),
            ),
        ),
        (
            "cluster-least",
            "meshfed-cluster",
            json!({
            "gateway": { "enabled": false }, "injection": { "enabled": false }, "networkPolicy": { "enabled": false },
            "persistence": { "enabled": true, "storageClass": "fast", "size": "10Gi" } }),
        ),
    ]
}

/// Renders are as they are committed: a change of a chart shows what it changes. `UPDATE=1` writes them anew.
///
/// Mutation seen to fail: `maxUnavailable: 1` of the PodDisruptionBudgets set to 2.
#[test]
#[expect(clippy::disallowed_methods, reason = "UPDATE says to write the expected renders")]
fn renders_are_as_they_were() {
    let mut stale = Vec::new();
    for (name, chart, values) in matrix() {
        let render = render(chart, &values).ok(name);
        let path = workspace().join("e2e/tests/kubernetes_charts/golden").join(format!("{name}.yaml"));
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&path, &render).unwrap();
        }
        if std::fs::read_to_string(&path).unwrap_or_default() != render {
            stale.push(name);
        }
    }
    assert!(
        stale.is_empty(),
        "{stale:?} are not as committed: UPDATE=1 cargo test -p meshfed-e2e --test kubernetes_charts"
    );
}

/// What `field` of a container or pod is, for the message of a failed test.
fn at<'a>(object: &'a Value, path: &str) -> &'a Value {
    object.pointer(path).unwrap_or(&Value::Null)
}

/// Every pod of every render runs as nobody, on a root that cannot be written, without capabilities, with the runtime's
/// seccomp profile and nothing of its node (HE4), is alive and ready by different probes (HE5), and is never injected.
///
/// Mutation seen to fail: `readOnlyRootFilesystem: true` of `_helpers.tpl` set to `false`.
#[test]
fn every_pod_is_confined() {
    let mut pods = 0;
    for (name, chart, values) in matrix() {
        for object in objects(&render(chart, &values).ok(name)) {
            let pod = match object["kind"].as_str() {
                Some("Deployment") => &object["spec"]["template"],
                Some("Pod") => &object,
                _ => continue,
            };
            pods += 1;
            let spec = &pod["spec"];
            assert_eq!(at(pod, "/metadata/labels/federation.meshfed.io~1injection"), "disabled", "{name}");
            assert_eq!(at(spec, "/securityContext/runAsNonRoot"), true, "{name}");
            assert_eq!(at(spec, "/securityContext/seccompProfile/type"), "RuntimeDefault", "{name}");
            assert!(["hostNetwork", "hostPID", "hostIPC"].iter().all(|field| spec.get(field).is_none()), "{name}");
            let volumes = spec["volumes"].as_array().map_or(&[][..], Vec::as_slice);
            assert!(volumes.iter().all(|v| v.get("hostPath").is_none()), "{name}: {volumes:?}");
            for container in spec["containers"].as_array().unwrap() {
                let security = &container["securityContext"];
                assert_eq!(security["allowPrivilegeEscalation"], false, "{name}");
                assert_eq!(security["readOnlyRootFilesystem"], true, "{name}");
                assert_eq!(security["capabilities"], json!({ "drop": ["ALL"] }), "{name}");
                if object["kind"] == "Deployment" {
                    assert!(
                        container["livenessProbe"].is_object() && container["readinessProbe"].is_object(),
                        "{name}"
                    );
                    assert_ne!(container["livenessProbe"]["httpGet"], container["readinessProbe"]["httpGet"], "{name}");
                }
                let ports = container["ports"].as_array().map_or(&[][..], Vec::as_slice);
                assert!(ports.iter().all(|p| p["containerPort"].as_u64() > Some(1024)), "{name}: {ports:?}");
            }
        }
    }
    assert!(pods >= 14, "{pods} pods were looked at");
}

/// Every Deployment has a PodDisruptionBudget and a NetworkPolicy that selects exactly its pods; no release holds a token
/// or any other secret (HE5, HE7); what holds identities is kept when the release goes.
///
/// Mutation seen to fail: `helm.sh/resource-policy: keep` taken from the agent's Secrets.
#[test]
fn every_deployment_is_guarded_and_secrets_are_empty_and_kept() {
    for (name, chart, values) in matrix() {
        let objects = objects(&render(chart, &values).ok(name));
        let of = |kind: &str| objects.iter().filter(|o| o["kind"] == kind).collect::<Vec<_>>();
        for deployment in of("Deployment") {
            let selector = &deployment["spec"]["selector"];
            let labels = at(deployment, "/spec/template/metadata/labels");
            let matched = selector["matchLabels"].as_object().unwrap();
            assert!(matched.iter().all(|(key, value)| labels.get(key) == Some(value)), "{name}: {labels}");
            assert!(of("PodDisruptionBudget").iter().any(|o| o["spec"]["selector"] == *selector), "{name}");
            if name != "cluster-least" {
                assert!(of("NetworkPolicy").iter().any(|o| o["spec"]["podSelector"] == *selector), "{name}");
            }
        }
        for secret in of("Secret") {
            assert!(secret.get("data").is_none() && secret.get("stringData").is_none(), "{name}: {secret}");
            assert_eq!(at(secret, "/metadata/annotations/helm.sh~1resource-policy"), "keep", "{name}");
        }
        for webhook in of("MutatingWebhookConfiguration") {
            for hook in webhook["webhooks"].as_array().unwrap() {
                assert!(hook["clientConfig"].get("caBundle").is_none(), "{name}: the agent's to write");
            }
        }
    }
}

/// The kinds of others are those of their modules, byte for byte, behind their flags; ours are kept.
///
/// Mutation seen to fail: a byte changed in a file of `helm/meshfed-crds/files`.
#[test]
fn foreign_kinds_are_unchanged_and_behind_flags() {
    let fresh = tempfile::tempdir().unwrap();
    let mut script = std::process::Command::new(workspace().join("helm/foreign-crds.sh"));
    let _silent = meshfed_e2e::process::run(script.arg(fresh.path())).ok("helm/foreign-crds.sh");
    let mut compared = 0;
    for entry in std::fs::read_dir(fresh.path()).unwrap().flatten() {
        let committed = chart("meshfed-crds").join("files").join(entry.file_name());
        assert!(std::fs::read(entry.path()).unwrap() == std::fs::read(&committed).unwrap(), "{}", committed.display());
        compared += 1;
    }
    assert_eq!(compared, 7);
    let groups = |values: Value| {
        let objects = objects(&render("meshfed-crds", &values).ok("meshfed-crds"));
        let mut groups: Vec<String> = objects.iter().map(|o| o["spec"]["group"].as_str().unwrap().to_owned()).collect();
        groups.sort();
        for ours in objects.iter().filter(|o| o["spec"]["group"] == "federation.meshfed.io") {
            assert_eq!(at(ours, "/metadata/annotations/helm.sh~1resource-policy"), "keep");
        }
        groups.dedup();
        groups.join(" ")
    };
    assert_eq!(groups(json!({})), "federation.meshfed.io multicluster.x-k8s.io networking.istio.io security.istio.io");
    assert_eq!(groups(json!({ "istio": false })), "federation.meshfed.io multicluster.x-k8s.io");
    assert_eq!(groups(json!({ "mcs": false, "istio": false })), "federation.meshfed.io");
}

/// No template asks the cluster what is there, so that GitOps renders what Helm renders; the charts share their helpers.
///
/// Mutation seen to fail: a word changed in one `_helpers.tpl`.
#[test]
fn templates_look_nothing_up_and_share_their_helpers() {
    let helpers = ["meshfed-hub", "meshfed-cluster"]
        .map(|name| std::fs::read_to_string(chart(name).join("templates/_helpers.tpl")).unwrap());
    assert_eq!(helpers[0], helpers[1]);
    for (name, ..) in CHARTS {
        let mut pending = vec![chart(name).join("templates")];
        while let Some(folder) = pending.pop() {
            for entry in std::fs::read_dir(folder).unwrap().flatten() {
                if entry.path().is_dir() {
                    pending.push(entry.path());
                    continue;
                }
                let text = std::fs::read_to_string(entry.path()).unwrap();
                let actions = text.split("{{").skip(1).filter_map(|t| t.split("}}").next());
                for action in actions {
                    for word in ["lookup", "tpl ", "now", "rand", "genCA", "genSelf"] {
                        assert!(!action.contains(word), "{}: {action}", entry.path().display());
                    }
                }
            }
        }
    }
}
