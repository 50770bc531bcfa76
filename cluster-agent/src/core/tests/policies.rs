//! What policies name, and whom they let in.

use super::*;

/// A name in a policy that nobody has is told while nobody has it; before the hub has spoken, nothing is.
///
/// Mutations seen to fail: `check_names` without `knows_fleet`; `objects` not emptied by `remove`; `labelled` answered `true`.
#[test]
fn names_that_nobody_has_come_and_go_with_the_names() {
    let mut b = Bench::new();
    let policy = "apiVersion: federation.meshfed.io/v1alpha1\nkind: FailoverPolicy\nmetadata: {name: b, namespace: shop}\nspec: {targetRef: {kind: Service, name: b}, tiers: [{select: [{cluster: east}, {cluster: esat}, {region: eu}, {zone: us-1}, {zone: eu-1}]}]}\n---\n";
    b.file("p.yaml", policy);
    let told = |b: &mut Bench| -> Vec<String> {
        b.core.check_names();
        b.core.faults().map(|e| format!("{} {}", e.code, e.field.as_deref().unwrap_or_default())).collect()
    };
    assert_eq!(told(&mut b), Vec::<String>::new(), "the hub has not spoken");
    b.members();
    let all = ["spec.targetRef.name", "spec.tiers[0].select[1].cluster", "spec.tiers[0].select[4].zone"];
    assert_eq!(told(&mut b), all.map(|field| format!("MF2107 {field}")));
    b.east(1, 1, 1);
    assert_eq!(told(&mut b), ["MF2107 spec.tiers[0].select[1].cluster"]);
    let policy = "apiVersion: federation.meshfed.io/v1alpha1\nkind: ExportPolicy\nmetadata: {name: p, namespace: shop}\nspec: {services: [{namespace: shop, name: 'b*'}], to: {labels: {tier: one}}}\n---\n";
    b.file("p.yaml", policy);
    assert_eq!(told(&mut b), ["MF2107 spec.to.labels"]);
    let (east, mut labelled) = member("east");
    labelled.labels.insert("tier".to_owned(), "one".to_owned());
    let members = [member("west"), (east, labelled)].into_iter().collect();
    b.core.set_members(Members { revision: 2, members }, b.now, b.wall);
    assert_eq!(told(&mut b), Vec::<String>::new());
}

/// Mutation seen to fail: `allowed` starts with all members; `export_to` of `InboundPort` is ignored.
#[test]
fn a_port_trusts_those_it_is_exported_to() {
    let mut b = Bench::new();
    b.bundles();
    b.members();
    b.file("a.yaml", &(service("a") + &entry("a-1", "a", "127.2.0.10")));
    b.open(1, MINE, node("shop/a"), ALL);
    assert_eq!(b.trust_domains(1, "inbound|8080"), ["west.mesh.example"]);
    assert_eq!(b.trust_domains(1, "trust"), ["east.mesh.example", "south.mesh.example", "west.mesh.example"]);
    let policy = "apiVersion: federation.meshfed.io/v1alpha1\nkind: ExportPolicy\nmetadata: {name: p, namespace: shop}\nspec: {services: [{namespace: shop, name: a}], to: {clusters: [east]}}\n---\n";
    b.file("e.yaml", &(export("a") + policy));
    assert_eq!(b.trust_domains(1, "inbound|8080"), ["east.mesh.example", "west.mesh.example"]);
    b.file("e.yaml", &export("a"));
    assert_eq!(b.trust_domains(1, "inbound|8080").len(), 3);
    b.file("e.yaml", "");
    assert_eq!(b.trust_domains(1, "inbound|8080"), ["west.mesh.example"]);
}

/// An ExportPolicy is about other clusters: the own clients of the clusterset name keep their own endpoints, whoever it names,
/// also where it names nobody.
///
/// Mutation seen to fail: `import` without what the own cluster exports.
#[test]
fn a_policy_that_does_not_name_its_own_cluster_takes_nothing_from_its_clients() {
    const NAME: &str = "outbound|8080||a.shop.svc.clusterset.local";
    let mut b = Bench::new();
    b.bundles();
    b.members();
    b.file("a.yaml", &(service("a") + &entry("a-1", "a", "127.2.0.10")));
    b.file("e.yaml", &export("a"));
    b.open(1, MINE, node("shop/a"), &[(Kind::Cluster, &[]), (Kind::Listener, &[]), (Kind::Endpoint, &[NAME])]);
    b.report(2, "shop/a", true);
    let name: ServiceName = "shop/a".parse().unwrap();
    for to in ["{clusters: [east]}", "{labels: {tier: one}}", "{}"] {
        b.file("p.yaml", &format!("apiVersion: federation.meshfed.io/v1alpha1\nkind: ExportPolicy\nmetadata: {{name: p, namespace: shop}}\nspec: {{services: [{{namespace: shop, name: a}}], to: {to}}}\n---\n"));
        let import = b.core.import(&name).unwrap();
        assert!(import.ports[0].clusters.iter().any(|c| c.as_str() == "west"), "{to}: {import:?}");
        assert_eq!(b.endpoints(1, NAME), ["127.2.0.10"], "{to}");
    }
}
