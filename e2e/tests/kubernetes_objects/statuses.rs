//! What the statuses of policies, settings and trust domains say.

use meshfed_e2e::wait::until;
use serde_json::Value;

use super::world::{SOON, World, conditions, message};

const GOOD: [&str; 4] =
    ["Accepted=True/Accepted", "Programmed=True/Programmed", "Ready=True/Ready", "ResolvedRefs=True/ResolvedRefs"];
/// In force, and it names what nobody has.
const DANGLING: [&str; 4] = [
    "Accepted=True/Accepted",
    "Programmed=True/Programmed",
    "Ready=True/UnresolvedRefs",
    "ResolvedRefs=False/NotFound",
];

fn policy(kind: &str, namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "---\n{{apiVersion: federation.meshfed.io/v1alpha1, kind: {kind}, metadata: {{name: {name}, namespace: {namespace}}}, \
         spec: {spec}}}\n"
    )
}
fn refused(reason: &str) -> [String; 5] {
    let no = |type_: &str| format!("{type_}=False/{reason}");
    [
        no("Accepted"),
        no("Programmed"),
        no("Ready"),
        format!("ResolvedRefs=Unknown/{reason}"),
        format!("Stalled=True/{reason}"),
    ]
}
/// Who wrote the status.
fn writer(object: &Value) -> Vec<String> {
    let all = object["metadata"]["managedFields"].as_array().unwrap().iter();
    let of_status = all.filter(|entry| entry["subresource"] == "status");
    of_status.map(|entry| entry["manager"].as_str().unwrap().to_owned()).collect()
}

/// On one API server the hub speaks for the objects of its namespace, `Mesh/default` and trust domains, the agent for all
/// other policies and `Mesh/local`; each says whether it is taken, in force, and what it names that is not there, for the
/// generation that it is about, and a refused change leaves the last good version in force.
///
/// Mutations seen to fail: the agent's judge without the fleet's namespace (two writers of one status); `force` always
/// `InForce`; `observed_generation` of the status left at 0.
#[test]
fn each_side_speaks_for_its_own_objects() {
    let mut world = World::start();
    world.join("east");
    let any = "{tiers: [{select: [{relative: any}]}]}";
    let named =
        |cluster: &str| format!("{{services: [{{namespace: shop, name: 'b*'}}], to: {{clusters: [{cluster}]}}}}");
    let of_service = |namespace: &str, hold: &str| {
        format!(
            "{{targetRef: {{kind: Service, name: b, namespace: {namespace}}}, tiers: [{{select: [{{relative: any}}]}}], holdDown: {hold}}}"
        )
    };
    world.api.apply(&[
        policy("ExportPolicy", "meshfed-hub", "fleet", &named("east")),
        policy("ExportPolicy", "meshfed-hub", "typo", &named("esat")),
        policy("FailoverPolicy", "meshfed-hub", "all", any),
        policy("FailoverPolicy", "meshfed-hub", "nowhere", "{targetRef: {kind: Service, name: b}, tiers: [{select: [{relative: any}]}]}"),
        policy("ExportPolicy", "shop", "own", &named("east")),
        policy("FailoverPolicy", "shop", "own", any),
        policy("FailoverPolicy", "shop", "foreign", &of_service("bank", "30s")),
        "---\n{apiVersion: federation.meshfed.io/v1alpha1, kind: Mesh, metadata: {name: local}, spec: {outboundTrafficPolicy: ALLOW_ANY}}\n".to_owned(),
        "---\n{apiVersion: federation.meshfed.io/v1alpha1, kind: Mesh, metadata: {name: default}, spec: {outboundTrafficPolicy: ALLOW_ANY}}\n".to_owned(),
        "---\n{apiVersion: federation.meshfed.io/v1alpha1, kind: TrustDomain, metadata: {name: partner.example}, spec: {anchors: [x]}}\n".to_owned(),
    ].concat());

    let of_hub = world.says(&["exportpolicy", "fleet", "-n", "meshfed-hub"], &GOOD);
    assert_eq!(writer(&of_hub), ["meshfed-federator"]);
    let own = world.says(&["failoverpolicy", "own", "-n", "shop"], &GOOD);
    assert_eq!(writer(&own), ["meshfed-agent"]);
    world.says(&["exportpolicy", "own", "-n", "shop"], &GOOD);
    world.says(&["failoverpolicy", "all", "-n", "meshfed-hub"], &GOOD);
    assert_eq!(writer(&world.says(&["mesh", "local"], &GOOD)), ["meshfed-agent"]);
    assert_eq!(writer(&world.says(&["mesh", "default"], &GOOD)), ["meshfed-federator"]);
    let typo = world.says(&["exportpolicy", "typo", "-n", "meshfed-hub"], &DANGLING);
    assert!(message(&typo, "ResolvedRefs").contains("no cluster esat"), "{typo}");
    let says_refused = |object: &[&str], reason: &str| {
        let wanted = refused(reason);
        world.says(object, &wanted.each_ref().map(String::as_str))
    };
    let foreign = says_refused(&["failoverpolicy", "foreign", "-n", "shop"], "NamespaceNotAllowed");
    assert!(message(&foreign, "Accepted").contains("put the policy into the namespace of the service"), "{foreign}");
    let nowhere = says_refused(&["failoverpolicy", "nowhere", "-n", "meshfed-hub"], "Invalid");
    assert!(message(&nowhere, "Accepted").contains("spec.targetRef.namespace"), "{nowhere}");
    says_refused(&["trustdomain", "partner.example"], "Invalid");

    // A change that the schema lets through and that makes no sense: the last good version stays, and that is told.
    world.api.apply(&policy("FailoverPolicy", "shop", "foreign", &of_service("shop", "30s")));
    world.says(&["failoverpolicy", "foreign", "-n", "shop"], &DANGLING);
    world.api.apply(&policy("FailoverPolicy", "shop", "foreign", &of_service("shop", "999h")));
    let kept = says_refused(&["failoverpolicy", "foreign", "-n", "shop"], "Invalid");
    assert!(message(&kept, "Ready").contains("its last good version stays in force"), "{kept}");
}

/// Many objects at once all get their status, and then nobody writes any more.
///
/// Mutation seen to fail: `same` in `next` always false (all statuses are written whenever anything is news).
#[test]
fn a_flood_of_objects_is_judged_and_then_nothing_moves() {
    let world = World::start();
    let spec = "{services: [{namespace: shop, name: b}], to: {}}";
    let all: Vec<String> = (0..150).map(|n| policy("ExportPolicy", "meshfed-hub", &format!("p{n}"), spec)).collect();
    world.api.apply(&all.concat());
    let versions = || {
        let list = world.get(&["exportpolicies", "-n", "meshfed-hub"]);
        let items = list["items"].as_array().unwrap().clone();
        let ready = items.iter().filter(|item| conditions(item).contains(&DANGLING[2].to_owned())).count();
        let versions: Vec<String> = items.iter().map(|i| i["metadata"]["resourceVersion"].to_string()).collect();
        (ready, versions)
    };
    until("all have a status", SOON, || match versions() {
        (150, _) => Ok(()),
        (ready, _) => Err(format!("{ready} of 150")),
    });
    // A write that changes nothing moves no version; the API server counts it all the same.
    let written = || -> f64 {
        let metrics = world.api.ok(&["get", "--raw", "/metrics"]);
        let labels = ["resource=\"exportpolicies\"", "subresource=\"status\"", "verb=\"APPLY\""];
        let of_statuses =
            |l: &&str| l.starts_with("apiserver_request_total{") && labels.iter().all(|label| l.contains(label));
        metrics.lines().filter(of_statuses).filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    };
    let (before, writes) = (versions(), written());
    assert!(writes >= 150.0, "{writes}");
    // A later object is judged after whatever would still be written of the others.
    world.api.apply(&policy("ExportPolicy", "meshfed-hub", "q", spec));
    world.says(&["exportpolicy", "q", "-n", "meshfed-hub"], &DANGLING);
    let after = versions();
    assert_eq!(before.1[..], after.1[..150]);
    let more = written() - writes;
    assert!(more < 20.0, "{more} writes for one object");
}
