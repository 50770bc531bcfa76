//! What a drained cluster's own clients are given.

use super::*;

const OWN: &str = "outbound|8080||b.shop.svc.cluster.local";

fn pod(name: &str, app: &str, address: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, uid: u-{name}, labels: {{app: {app}}}, annotations: {{federation.meshfed.io/status: '{{}}'}}}}\nspec: {{serviceAccountName: {app}, containers: [{{ports: [{{containerPort: 8080}}]}}]}}\nstatus: {{phase: Running, podIP: {address}, conditions: [{{type: Ready, status: 'True'}}]}}\n---\n"
    )
}

/// A drain, and a leave, which begins with one, sends the fleet's requests elsewhere; what a cluster calls by its own
/// names goes on as if nothing was.
///
/// Mutation seen to fail: the own cluster is among the drained before the domain is looked at.
#[test]
fn a_drained_cluster_serves_its_own_names() {
    let mut b = Bench::new();
    b.bundles();
    b.members();
    b.file("pods.yaml", &(pod("a-1", "a", "127.2.0.1") + &pod("b-1", "b", "127.2.0.11")));
    b.file("b.yaml", &(service("b") + &export("b")));
    b.east(1, 1, 1);
    b.open(1, MINE, node("shop/a"), &[(Kind::Cluster, &[]), (Kind::Endpoint, &[B, OWN])]);
    assert_eq!(b.endpoints(1, OWN), ["127.2.0.11"]);
    assert_eq!(b.endpoints(1, B), ["127.2.0.11", "127.1.0.1"]);
    let mut members: BTreeMap<ClusterName, Member> = [member("east"), member("west")].into_iter().collect();
    members.get_mut(&ClusterName::new("west").unwrap()).unwrap().drained = true;
    b.core.set_members(Members { revision: 2, members }, b.now, b.wall);
    b.drain();
    assert_eq!(b.endpoints(1, OWN), ["127.2.0.11"]);
    assert_eq!(b.endpoints(1, B), ["127.1.0.1"]);
}

/// The own clients of a cluster that leaves stay with its own endpoints, whatever a policy says: they have them for as long as
/// they hold what they were told, and the other clusters shut them out soon. What the cluster has no ready endpoint of, they call
/// elsewhere to the last.
///
/// Mutations seen to fail: the return left out; `e.ready` left out; `is_leaving` not compared in
/// `set_members`.
#[test]
fn a_cluster_that_leaves_keeps_its_own_clients() {
    let mut b = Bench::new();
    b.bundles();
    b.members();
    let prefer = "apiVersion: federation.meshfed.io/v1alpha1\nkind: FailoverPolicy\nmetadata: {name: b, namespace: shop}\nspec: {targetRef: {kind: Service, name: b}, tiers: [{select: [{cluster: east}]}, {select: [{relative: any}]}]}\n---\n";
    b.file("pods.yaml", &(pod("a-1", "a", "127.2.0.1") + &pod("b-1", "b", "127.2.0.11")));
    b.file("b.yaml", &(service("b") + &export("b") + prefer));
    b.east(1, 1, 1);
    b.open(1, MINE, node("shop/a"), &[(Kind::Cluster, &[]), (Kind::Endpoint, &[B])]);
    assert_eq!(b.endpoints(1, B), ["127.1.0.1", "127.2.0.11"]);
    let standing = |b: &mut Bench, revision: u64, leaving: bool| {
        let mut members: BTreeMap<ClusterName, Member> = [member("east"), member("west")].into_iter().collect();
        let west = members.get_mut(&ClusterName::new("west").unwrap()).unwrap();
        (west.drained, west.leaving) = (true, leaving);
        b.core.set_members(Members { revision, members }, b.now, b.wall);
        b.drain();
    };
    standing(&mut b, 2, false);
    assert_eq!(b.endpoints(1, B), ["127.1.0.1"]);
    standing(&mut b, 3, true);
    assert_eq!(b.endpoints(1, B), ["127.2.0.11"]);
    b.file("pods.yaml", &(pod("a-1", "a", "127.2.0.1") + &pod("b-1", "b", "127.2.0.11").replace("'True'", "'False'")));
    b.drain();
    assert_eq!(b.endpoints(1, B), ["127.1.0.1"]);
}
