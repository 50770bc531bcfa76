//! Session affinity, `internalTrafficPolicy` and `trafficDistribution`, as clients are given them.

use envoy_types::pb::envoy::config::cluster::v3::{Cluster, cluster::LbPolicy};
use meshfed_model::service::InternalTrafficPolicy;

use super::*;

const OWN: &str = "outbound|8080||b.shop.svc.cluster.local";

fn pod(name: &str, app: &str, address: &str, node: &str, ready: bool) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, uid: u-{name}, labels: {{app: {app}}}, annotations: {{federation.meshfed.io/status: '{{}}'}}}}\nspec: {{serviceAccountName: {app}, nodeName: {node}, containers: [{{ports: [{{containerPort: 8080}}]}}]}}\nstatus: {{phase: Running, podIP: {address}, conditions: [{{type: Ready, status: '{}'}}]}}\n---\n",
        if ready { "True" } else { "False" },
    )
}

fn on_nodes() -> Bench {
    let mut b = Bench::new();
    b.bundles();
    b.members();
    // The token has no zone us-2: what is there is in the region alone.
    let node = |name: &str, zone: &str| {
        format!(
            "apiVersion: v1\nkind: Node\nmetadata: {{name: {name}, labels: {{topology.kubernetes.io/region: us, topology.kubernetes.io/zone: {zone}}}}}\n---\n"
        )
    };
    b.file("nodes.yaml", &(node("n1", "us-1") + &node("n2", "us-1")));
    let clients = [pod("a-1", "a", "127.2.0.1", "n1", true), pod("a-2", "a", "127.2.0.2", "n2", true)];
    b.file("clients.yaml", &(clients.concat() + &entry("c-1", "c", "127.2.0.3")));
    b.file("servers.yaml", &(pod("b-1", "b", "127.2.0.11", "n1", true) + &pod("b-2", "b", "127.2.0.12", "n2", true)));
    b.file("b.yaml", &(asks("") + &export("b")));
    for (id, who) in [(1, "shop/a/a-1"), (2, "shop/a/a-2"), (3, "shop/c")] {
        b.open(id, MINE, node_of(who), &[(Kind::Cluster, &[]), (Kind::Endpoint, &[B, OWN])]);
    }
    b
}

fn node_of(who: &str) -> Node {
    Node::of_claim(who, Claim::Workload(who.parse().unwrap()))
}

/// The service, which asks for something.
fn asks(what: &str) -> String {
    service("b").replace("spec: {selector", &format!("spec: {{{what}selector"))
}

/// `PRIORITY ADDRESS` of what a stream was sent.
fn given(b: &Bench, id: StreamId, name: &str) -> Vec<String> {
    use envoy_types::pb::envoy::config::core::v3::address::Address::SocketAddress;
    use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier::Endpoint;
    let body = &b.held[&(id, Kind::Endpoint, name.into())];
    let assignment = ClusterLoadAssignment::decode(body.clone()).unwrap();
    let mut all = Vec::new();
    for group in &assignment.endpoints {
        for endpoint in &group.lb_endpoints {
            let Some(Endpoint(e)) = &endpoint.host_identifier else { continue };
            let Some(SocketAddress(at)) = e.address.as_ref().and_then(|a| a.address.as_ref()) else { continue };
            all.push(format!("{} {}", group.priority, at.address));
        }
    }
    all.sort();
    all
}

/// Local is the client's node and nothing else; a client of no node has nobody. Under the clusterset's name it is the
/// import's word, that of the oldest export, under the cluster's that of its own Service.
///
/// Mutations seen to fail: `demand_by_node` left out of `refresh_endpoints`; `near.groups.clear()` left out.
#[test]
fn a_local_service_is_what_is_on_the_clients_node() {
    let mut b = on_nodes();
    let all = |b: &Bench, name: &str| [1, 2, 3].map(|id| given(b, id, name));
    let (one, two) = (vec!["0 127.2.0.11".to_owned()], vec!["0 127.2.0.12".to_owned()]);
    let both = [one.clone(), two.clone()].concat();
    let everybody = [both.clone(), both.clone(), both];
    assert_eq!(all(&b, B), everybody);
    let local = asks("internalTrafficPolicy: Local, ") + &export("b");
    b.file("b.yaml", &local);
    let by_node = [one.clone(), two, Vec::new()];
    assert_eq!((all(&b, B), all(&b, OWN)), (by_node.clone(), by_node));
    // Who comes now is told the same.
    b.open(4, MINE, node_of("shop/a/a-1"), &[(Kind::Endpoint, &[B])]);
    assert_eq!(given(&b, 4, B), one);
    // Its endpoint goes: nobody, and not the other node's.
    b.file("servers.yaml", &pod("b-2", "b", "127.2.0.12", "n2", true));
    assert_eq!(given(&b, 1, B), Vec::<String>::new());
    // East's export counts as the older one, and does not ask for it: its gateway is there for everybody.
    b.east(1, 1, 1);
    assert_eq!(given(&b, 1, B), ["0 127.2.0.12", "1 127.1.0.1"]);
    assert_eq!(given(&b, 1, OWN), Vec::<String>::new());
    // Where it does, its gateway is on nobody's node.
    let local = ServiceTraits { internal_traffic_policy: InternalTrafficPolicy::Local, ..ServiceTraits::default() };
    b.east_asks(2, (1, 1), local);
    assert_eq!([1, 2].map(|id| given(&b, id, B)), [Vec::new(), vec!["0 127.2.0.12".to_owned()]]);
    b.file("b.yaml", &(asks("") + &export("b")));
    assert_eq!(given(&b, 3, OWN), ["0 127.2.0.12"]);
    assert!(b.ended.is_empty(), "{:?}", b.ended);
}

/// One endpoint of two in the zone is ready: by default it would take 50/70 of the requests; who prefers the zone stays
/// there. Who prefers the node has the rest behind it. A failover policy for the service counts before either.
///
/// Mutations seen to fail: `min_healthy_percent = 0` left out of `prefer_same_zone`; `first_else` answers `second`.
#[test]
fn what_a_service_prefers_comes_first_unless_a_policy_is_for_it() {
    let mut b = on_nodes();
    b.file(
        "servers.yaml",
        &[
            pod("b-1", "b", "127.2.0.11", "n1", true),
            pod("b-2", "b", "127.2.0.12", "n2", true),
            pod("b-3", "b", "127.2.0.13", "n2", false),
            pod("b-4", "b", "127.2.0.14", "n2", false),
            pod("b-5", "b", "127.2.0.15", "nowhere", true),
        ]
        .concat(),
    );
    let own = |b: &Bench, id| given(b, id, OWN).join(", ");
    // Of 4 in the zone 2 are ready, and 50 is less than 70.
    let spread = "0 127.2.0.11, 0 127.2.0.12, 0 127.2.0.15";
    assert_eq!(own(&b, 1), spread);
    for word in ["PreferClose", "PreferSameZone"] {
        b.file("b.yaml", &asks(&format!("trafficDistribution: {word}, ")));
        assert_eq!(own(&b, 1), "0 127.2.0.11, 0 127.2.0.12, 1 127.2.0.15", "{word}");
    }
    b.file("b.yaml", &asks("trafficDistribution: PreferSameNode, "));
    assert_eq!(own(&b, 1), "0 127.2.0.11, 1 127.2.0.12, 2 127.2.0.15");
    assert_eq!(own(&b, 2), "0 127.2.0.12, 1 127.2.0.11, 2 127.2.0.15");
    assert_eq!(own(&b, 3), "0 127.2.0.11, 0 127.2.0.12, 1 127.2.0.15", "on no node, in the zone");
    b.file(
        "policy.yaml",
        "apiVersion: federation.meshfed.io/v1alpha1\nkind: FailoverPolicy\nmetadata: {name: b, namespace: shop}\nspec: {targetRef: {kind: Service, name: b}, tiers: [{select: [{relative: any}]}]}\n",
    );
    assert_eq!(own(&b, 1), spread);
    b.file("policy.yaml", "");
    b.file("b.yaml", &asks("trafficDistribution: SomethingLater, "));
    assert_eq!(own(&b, 1), spread, "a word that is not known is no preference");
}

/// The cluster says whether a client stays on its endpoint: at the clients, and at gateways. Nothing else changes.
///
/// Mutations seen to fail: `is != was` left out of `refresh_clusters`; `sticky` left out of `table_changed`.
#[test]
fn affinity_changes_the_clusters_and_nothing_else() {
    let mut b = on_nodes();
    b.file("g.yaml", &gateways::gateway_objects());
    b.open(9, MINE, Node { mode: Mode::Gateway, ..node_of("shop/gw") }, &[(Kind::Cluster, &[]), (Kind::Listener, &[])]);
    let policy = |b: &Bench, id: StreamId, name: &str| {
        let body = b
            .held
            .get(&(id, Kind::Cluster, name.into()))
            .unwrap_or_else(|| panic!("{name}: {:?}", b.names(id, Kind::Cluster)));
        Cluster::decode(body.clone()).unwrap().lb_policy
    };
    let of_gateway = "outbound_.8080_._.b.shop.svc.clusterset.local";
    let all = |b: &Bench| [policy(b, 1, B), policy(b, 1, OWN), policy(b, 9, of_gateway)];
    assert_eq!(all(&b), [LbPolicy::RoundRobin as i32; 3]);
    b.sent.clear();
    b.file("b.yaml", &(asks("sessionAffinity: ClientIP, ") + &export("b")));
    assert_eq!(all(&b), [LbPolicy::Maglev as i32; 3]);
    assert!(b.sent.keys().all(|(_, kind)| *kind == Kind::Cluster), "{:?}", b.sent);
}
