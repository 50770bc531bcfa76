//! What a GitOps tool does with our objects: apply, change, delete, apply again, and upgrade the kinds under them.

use meshfed_e2e::process::Output;
use serde_json::{Value, json};

use super::world::{SOON, World};

/// Applies as a GitOps controller does.
fn sync(world: &World, yaml: &str) -> Output {
    world.api.kubectl_with(&["apply", "--server-side", "--force-conflicts", "--field-manager=gitops", "-f", "-"], yaml)
}

fn repository(hold: &str) -> String {
    format!(
        "{{apiVersion: federation.meshfed.io/v1alpha1, kind: FailoverPolicy, metadata: {{name: all, namespace: meshfed-hub}}, \
         spec: {{tiers: [{{select: [{{relative: any}}]}}], holdDown: {hold}}}}}
---
{{apiVersion: federation.meshfed.io/v1alpha1, kind: ExportPolicy, metadata: {{name: own, namespace: shop}}, \
         spec: {{services: [{{namespace: shop, name: '*'}}], to: {{clusters: [east]}}}}}}
---
{{apiVersion: federation.meshfed.io/v1alpha1, kind: Mesh, metadata: {{name: default}}, spec: {{outboundTrafficPolicy: ALLOW_ANY}}}}
"
    )
}

const ALL: [&[&str]; 3] =
    [&["failoverpolicy", "all", "-n", "meshfed-hub"], &["exportpolicy", "own", "-n", "shop"], &["mesh", "default"]];
const GOOD: [&str; 4] =
    ["Accepted=True/Accepted", "Programmed=True/Programmed", "Ready=True/Ready", "ResolvedRefs=True/ResolvedRefs"];

/// What all objects say, and when we wrote. Not their versions: the API server may move one for an apply that changes
/// nothing but the time at which its own manager applied.
fn settled(world: &World) -> Vec<Value> {
    let of = |object: &&[&str]| {
        let found = world.says(object, &GOOD);
        let managers = found["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
        let ours =
            managers.into_iter().filter(|m| m["manager"].as_str().is_some_and(|name| name.starts_with("meshfed-")));
        let ours: Vec<Value> = ours.collect();
        assert_eq!(ours.len(), 1, "one of us writes: {found}");
        json!({ "spec": found["spec"], "status": found["status"], "ours": ours })
    };
    ALL.iter().map(of).collect()
}

/// A repository is applied, applied again while nothing has changed, changed, and deleted, while hub and agent write
/// statuses of the same objects: nobody takes a field of anybody, and nothing moves where nothing has changed. The kinds
/// applied once more, as an upgrade does, keep every object.
///
/// Mutation seen to fail: `same` in `next` of `statuses` always false, with a `policy_status` that is given nothing of what
/// was found (by itself the first writes what is there, which moves nothing).
#[test]
fn a_gitops_tool_and_our_controllers_do_not_fight() {
    let mut world = World::start();
    world.join("east");
    assert_eq!(sync(&world, &repository("30s")).code, 0);
    let before = settled(&world);
    for _ in 0..3 {
        let again = sync(&world, &repository("30s"));
        assert_eq!(again.code, 0, "{again:?}");
    }
    World::install_kinds(&world.api);
    // A later object is judged after whatever would still be written of the others.
    world.api.apply("{apiVersion: federation.meshfed.io/v1alpha1, kind: Mesh, metadata: {name: local}, spec: {}}");
    world.says(&["mesh", "local"], &GOOD);
    assert_eq!(settled(&world), before, "nothing has changed");

    // Somebody's hand is drift that the tool takes back; the statuses follow both.
    let edit = "{\"spec\": {\"holdDown\": \"31s\"}}";
    world.api.ok(&["patch", "failoverpolicy", "all", "-n", "meshfed-hub", "--type=merge", "-p", edit]);
    let drifted = world.says(ALL[0], &GOOD);
    assert_eq!(drifted["spec"]["holdDown"], "31s");
    assert_eq!(sync(&world, &repository("30s")).code, 0);
    assert_eq!(world.says(ALL[0], &GOOD)["spec"]["holdDown"], "30s");
    assert_eq!(sync(&world, &repository("45s")).code, 0);
    assert_eq!(world.says(ALL[0], &GOOD)["spec"]["holdDown"], "45s");

    let deleted = world.api.kubectl_with(&["delete", "--wait=true", "-f", "-"], &repository("45s"));
    assert_eq!(deleted.code, 0, "nothing of ours holds an object back: {deleted:?}");
    assert_eq!(sync(&world, &repository("30s")).code, 0);
    settled(&world);
}

/// Kinds that are taken away and come back are watched again by the same processes, and their objects get their statuses.
///
/// Mutation seen to fail: a watch of statuses ends with its first error.
#[test]
fn kinds_that_come_back_are_watched_again() {
    let world = World::start();
    assert_eq!(sync(&world, &repository("30s")).code, 0);
    world.says(ALL[0], &GOOD);
    world.api.ok(&["delete", "crd", "failoverpolicies.federation.meshfed.io"]);
    world.api.until(
        &["get", "crd", "failoverpolicies.federation.meshfed.io", "--ignore-not-found", "-o", "name"],
        "",
        SOON,
    );
    World::install_kinds(&world.api);
    world.api.until(&["get", "failoverpolicies", "-A", "--ignore-not-found"], "", SOON);
    assert_eq!(sync(&world, &repository("30s")).code, 0);
    world.says(ALL[0], &GOOD);
}
