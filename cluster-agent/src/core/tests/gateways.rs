//! What gateways forward to, and how they are found.

use super::*;

const GATEWAY: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: gw, namespace: shop, labels: {topology.istio.io/network: net-west}, annotations: {federation.meshfed.io/gateway-addresses: \"127.2.0.1:15443\"}}\nspec: {selector: {app: gw}, ports: [{name: tls, port: 15443}]}\n---\n";

fn gateway_entry() -> String {
    entry("gw-1", "gw", "127.2.0.1").replace("http: 8080", "tls: 15443")
}

/// A gateway of west, and its workload.
pub(super) fn gateway_objects() -> String {
    GATEWAY.to_owned() + &gateway_entry()
}

/// Addresses of an assignment, with their weight, by priority.
fn shares(b: &Bench, id: StreamId, name: &str) -> Vec<(String, u32, u32)> {
    let body = &b.held[&(id, Kind::Endpoint, name.into())];
    let mut all = Vec::new();
    for locality in ClusterLoadAssignment::decode(body.clone()).unwrap().endpoints {
        for endpoint in &locality.lb_endpoints {
            let text = format!("{:?}", endpoint.host_identifier);
            let address = text.split("address: \"").nth(1).unwrap().split('"').next().unwrap().to_owned();
            all.push((address, endpoint.load_balancing_weight.unwrap().value, locality.priority));
        }
    }
    all.sort();
    all
}

/// A gateway of west in us-1 in front of b in us-1 and us-2, both ready.
fn behind() -> Bench {
    let mut b = Bench::new();
    b.bundles();
    b.file("g.yaml", &gateway_objects());
    let far = entry("b-2", "b", "127.2.0.12").replace("us/us-1", "us/us-2");
    b.file("b.yaml", &(service("b") + &export("b") + &entry("b-1", "b", "127.2.0.11") + &far));
    for (n, name) in [(2, "b-1"), (3, "b-2")] {
        b.open(n, MINE, node(&format!("shop/b/{name}")), &[(Kind::Listener, &[])]);
        b.report(n + 10, &format!("shop/b/{name}"), true);
    }
    b
}

/// The zone behind a gateway is chosen by the policy of the service; what its tiers do not select comes last.
///
/// Mutations seen to fail: `FailoverSpec::default()` in the place of the service's policy; the last tier of
/// `behind_gateway` left out.
#[test]
fn zones_behind_a_gateway_follow_the_services_policy() {
    let sni = "outbound_.8080_._.b.shop.svc.clusterset.local";
    let mut b = behind();
    let gateway = Node { mode: Mode::Gateway, ..node("shop/gw") };
    b.open(1, MINE, gateway, &[(Kind::Listener, &[]), (Kind::Endpoint, &[sni])]);
    let (near, far) = ("127.2.0.11".to_owned(), "127.2.0.12".to_owned());
    assert_eq!(shares(&b, 1, sni), [(near.clone(), 1, 0), (far.clone(), 1, 1)], "the default: its own zone first");
    let policy = |tiers: &str| {
        format!(
            "apiVersion: federation.meshfed.io/v1alpha1\nkind: FailoverPolicy\nmetadata: {{name: p, namespace: shop}}\nspec: {{targetRef: {{kind: Service, name: b}}, tiers: [{tiers}]}}\n---\n"
        )
    };
    b.file("p.yaml", &policy("{name: x, select: [{zone: us-2}]}, {name: y, select: [{relative: any}]}"));
    assert_eq!(shares(&b, 1, sni), [(near.clone(), 1, 1), (far.clone(), 1, 0)], "the other zone first");
    b.file("p.yaml", &policy("{name: x, select: [{zone: us-1, weight: 25}, {zone: us-2, weight: 75}]}"));
    assert_eq!(shares(&b, 1, sni), [(near.clone(), 1, 0), (far.clone(), 3, 0)]);
    b.file("p.yaml", &policy("{name: x, select: [{cluster: east}]}"));
    assert_eq!(shares(&b, 1, sni), [(near.clone(), 1, 0), (far.clone(), 1, 0)], "nobody who came is left without");
    b.file("p.yaml", "");
    assert_eq!(shares(&b, 1, sni), [(near, 1, 0), (far, 1, 1)]);
}

/// A headless service offers a group per ready endpoint, under a name of its own, and the gateway forwards each name to
/// that endpoint alone.
///
/// Mutations seen to fail: `add_names` left out; `names` lists endpoints that are not ready; `own_endpoints` does not
/// look at the subset.
#[test]
fn a_headless_service_offers_each_endpoint() {
    let mut b = behind();
    let headless = service("b").replace("spec: {", "spec: {clusterIP: None, ");
    let unready = entry("b-3", "b", "127.2.0.13");
    let text = headless + &export("b") + &entry("b-1", "b", "127.2.0.11") + &entry("b-2", "b", "127.2.0.12") + &unready;
    b.file("b.yaml", &text);
    let subsets = |b: &Bench| -> Vec<(String, u32, u32)> {
        let offer = &b.offers[&ServiceName::new("shop", "b").unwrap()];
        let groups = offer.iter().filter_map(|(k, v)| match (k, v) {
            (OfferKey::Group(k), OfferValue::Group(v)) => Some((k.subset.to_string(), v.ready, v.total)),
            _ => None,
        });
        let mut all: Vec<_> = groups.collect();
        all.sort();
        all
    };
    let one = |name: &str| (name.to_owned(), 1, 1);
    assert_eq!(subsets(&b), [one("127-2-0-11"), one("127-2-0-12"), ("_".to_owned(), 2, 3)]);
    let all = "outbound_.8080_._.b.shop.svc.clusterset.local";
    let second = "outbound_.8080_.127-2-0-12_.b.shop.svc.clusterset.local";
    let gateway = Node { mode: Mode::Gateway, ..node("shop/gw") };
    b.open(1, MINE, gateway, &[(Kind::Cluster, &[]), (Kind::Listener, &[]), (Kind::Endpoint, &[all, second])]);
    let first = "outbound_.8080_.127-2-0-11_.b.shop.svc.clusterset.local";
    assert_eq!(b.names(1, Kind::Cluster), [first, second, all]);
    assert_eq!(b.endpoints(1, all), ["127.2.0.11", "127.2.0.12"]);
    assert_eq!(b.endpoints(1, second), ["127.2.0.12"]);
    b.report(13, "shop/b/b-2", false);
    assert_eq!(subsets(&b), [one("127-2-0-11"), ("_".to_owned(), 1, 3)]);
    assert_eq!(b.names(1, Kind::Cluster), [first, all], "a name that is not ready is in no table");
}

/// The other end: a name that east offers is a group of its own, reached through east's gateway.
///
/// Mutation seen to fail: `here` does not look at the subset.
#[test]
fn a_name_of_another_cluster_is_reached_through_its_gateway() {
    let mut b = Bench::new();
    b.bundles();
    b.members();
    b.file("a.yaml", &entry("a-1", "a", "127.2.0.10"));
    b.east(1, 1, 2);
    let named = "outbound|8080|127-1-0-11|b.shop.svc.clusterset.local";
    b.open(1, MINE, node("shop/a"), &[(Kind::Endpoint, &[B, named])]);
    assert_eq!((b.endpoints(1, B), b.endpoints(1, named)), (vec!["127.1.0.1".to_owned()], vec![]));
    let key = GroupKey {
        service: ServiceName::new("shop", "b").unwrap(),
        port: 8080,
        subset: SubsetName::new("127-1-0-11").unwrap(),
        network: NetworkName::new("net-east").unwrap(),
        locality: Locality::new("eu", "eu-1"),
    };
    let value = OfferValue::Group(GroupOffer { ready: 1, total: 1, weight: 1 });
    let upserts = vec![Upsert { key: OfferKey::Group(key), revision: 2, value }];
    let delta = Delta { base: Version::new(1, 1), version: Version::new(1, 2), upserts, ..Delta::default() };
    let change = ViewChange { origin: ClusterName::new("east").unwrap(), delta, filter: 0 };
    b.core.apply_view(change, b.now, b.wall);
    b.drain();
    assert_eq!(b.endpoints(1, named), ["127.1.0.1"]);
    assert_eq!(b.endpoints(1, B), ["127.1.0.1"]);
}

/// Mutations seen to fail: `set_resolved` drops the addresses on an error; `addresses_of` does not look at the ranges;
/// `forget_hosts` never called.
#[test]
fn host_names_of_gateways_are_resolved() {
    let mut b = Bench::new();
    let annotation = ", annotations: {federation.meshfed.io/gateway-addresses: \"127.2.0.1:15443\"}";
    let status = "status: {loadBalancer: {ingress: [{ip: 127.2.0.1}, {hostname: lb.example}]}}\n---\n";
    let text = GATEWAY.replace(annotation, "").replace("---\n", status);
    let wanted = |b: &mut Bench| b.core.effects.hosts.take();
    b.now += Duration::from_secs(1);
    let changes = b.source.apply(vec![FileChange::Content { path: "g.yaml".into(), bytes: text.clone().into_bytes() }]);
    assert!(b.source.errors().is_empty(), "{:?}", b.source.errors());
    let update = |changes| SourceUpdate { version: Version::new(1, 1), objects: 1, changes, errors: Arc::from([]) };
    b.core.apply_source(update(changes), b.now, b.wall);
    assert_eq!(wanted(&mut b), Some(BTreeSet::from(["lb.example".into()])));
    let addresses = |b: &Bench| -> Vec<String> {
        b.core.index.gateways().flat_map(|g| &g.addresses).map(|a| a.address.to_string()).collect()
    };
    assert_eq!(addresses(&b), ["127.2.0.1:15443"]);
    let host: Arc<str> = "lb.example".into();
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    // fd00::1 is in no range of the network.
    let found = vec![ip("127.2.0.7"), ip("127.2.0.1"), ip("fd00::1"), ip("127.2.0.7")];
    b.core.set_resolved(&host, Ok(found), b.now, b.wall);
    assert_eq!(addresses(&b), ["127.2.0.1:15443", "127.2.0.7:15443"]);
    let errors = |b: &Bench| b.core.index.errors().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    assert!(errors(&b).contains("lb.example") && errors(&b).contains("fd00::1"), "{}", errors(&b));
    b.core.set_resolved(&host, Err("the resolver is down".to_owned()), b.now, b.wall);
    assert_eq!(addresses(&b), ["127.2.0.1:15443", "127.2.0.7:15443"], "the last good ones stay");
    assert!(errors(&b).contains("the resolver is down; what it resolved to before stays"), "{}", errors(&b));
    b.core.set_resolved(&host, Ok(vec![ip("127.2.0.8")]), b.now, b.wall);
    assert_eq!(
        (addresses(&b), errors(&b)),
        (vec!["127.2.0.1:15443".to_owned(), "127.2.0.8:15443".to_owned()], String::new())
    );
    b.file("g.yaml", "");
    let changes = b.source.apply(vec![FileChange::Content { path: "h.yaml".into(), bytes: text.into_bytes() }]);
    b.core.apply_source(update(changes), b.now, b.wall);
    assert_eq!(addresses(&b), ["127.2.0.1:15443"], "what nobody names any more is forgotten");
}
