use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

use meshfed_crds::{Body, FileChange, LastGood, Scope};
use meshfed_model::export::ExportTo;
use meshfed_model::names::{ClusterName, NetworkName, ServiceName};
use meshfed_model::network::Network;
use meshfed_model::offer::{GroupKey, OfferKey, OfferValue};
use meshfed_model::service::PortProtocol;

use super::*;

mod history;

pub(super) fn settings() -> IndexSettings {
    let network = |name: &str| Network { name: NetworkName::new(name).unwrap(), cidrs: BTreeSet::new() };
    IndexSettings {
        cluster: ClusterName::new("east").unwrap(),
        fleet: "mesh.example".parse().unwrap(),
        trust_domain: "east.mesh.example".parse().unwrap(),
        networks: vec![network("net-east"), network("net-2")],
        regions: vec!["eu".to_owned()],
        zones: vec!["eu-1".to_owned()],
        gateway_cidrs: BTreeSet::new(),
    }
}

/// A source and an index behind it.
pub(super) struct Setup {
    pub(super) source: LastGood,
    pub(super) index: Index,
}

impl Setup {
    pub(super) fn new() -> Self {
        Self { source: LastGood::new(Scope::Cluster, None), index: Index::new(settings()) }
    }
    pub(super) fn write(&mut self, file: &str, text: &str) -> Dirty {
        let change = FileChange::Content { path: file.into(), bytes: text.as_bytes().to_vec() };
        let changes = self.source.apply(vec![change]);
        self.index.apply(&changes)
    }
    pub(super) fn remove(&mut self, file: &str) -> Dirty {
        let changes = self.source.apply(vec![FileChange::Removed { path: file.into() }]);
        self.index.apply(&changes)
    }
    fn state(&mut self, name: &str, ready: bool) -> Dirty {
        let key = key(name);
        self.index.set_workload_state(&key, WorkloadState { connected: ready, app_ready: ready })
    }
    pub(super) fn codes(&self) -> Vec<String> {
        self.index.errors().map(|e| format!("{}:{} {}", e.file.as_ref().unwrap(), e.line.unwrap(), e.code)).collect()
    }
}

pub(super) fn key(name: &str) -> WorkloadKey {
    let (namespace, name) = name.split_once('/').unwrap_or(("shop", name));
    WorkloadKey { namespace: namespace.parse().unwrap(), name: name.into() }
}

pub(super) fn service(name: &str) -> ServiceName {
    name.parse().unwrap()
}

const EAST: &str = include_str!("../../../crds/fixtures/east.yaml");

fn entry(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{{spec}}}\n---\n"
    )
}

pub(super) fn set(names: &[&str]) -> BTreeSet<ServiceName> {
    names.iter().map(|n| service(n)).collect()
}

pub(super) fn group(index: &Index, name: &str, network: &str, locality: &str) -> Option<(u32, u32, u64)> {
    let key = OfferKey::Group(GroupKey {
        service: service(name),
        port: 8080,
        subset: meshfed_model::names::SubsetName::all(),
        network: network.parse().unwrap(),
        locality: locality.parse().unwrap(),
    });
    match index.offer_of(&service(name)).get(&key) {
        Some(OfferValue::Group(g)) => Some((g.ready, g.total, g.weight)),
        _ => None,
    }
}

/// Mutation seen to fail: `ready` of `Workload` answered `self.state.connected`.
#[test]
fn the_minimal_example_is_offered_once_its_proxies_are_ready() {
    let mut s = Setup::new();
    let dirty = s.write("east.yaml", EAST);
    assert_eq!(dirty.services, set(&["meshfed-system/eastwest", "shop/b"]));
    assert!(dirty.gateways && dirty.namespaces && !dirty.policies);
    let names: Vec<String> = s.index.namespaces().iter().map(ToString::to_string).collect();
    assert_eq!(names, ["meshfed-system", "shop"]);
    assert_eq!(s.codes(), Vec::<String>::new());
    let b = s.index.service(&service("shop/b")).unwrap();
    let identities: Vec<String> = b.identities().map(ToString::to_string).collect();
    assert_eq!(identities, ["spiffe://east.mesh.example/ns/shop/sa/b"]);
    assert_eq!(group(&s.index, "shop/b", "net-east", "eu/eu-1"), Some((0, 1, 0)));
    let ready = |s: &Setup| -> Vec<bool> {
        let ready = |v: &OfferValue| matches!(v, OfferValue::Gateway(g) if g.ready);
        s.index.gateway_offers().values().map(ready).collect()
    };
    assert_eq!(ready(&s), [false], "declared, and shown as what it is");
    assert!(s.index.offer_of(&service("meshfed-system/eastwest")).is_empty());

    let connected = WorkloadState { connected: true, app_ready: false };
    let dirty = s.index.set_workload_state(&key("b-east-1"), connected);
    assert!(dirty.services.is_empty() && dirty.workloads.len() == 1);
    let dirty = s.state("b-east-1", true);
    assert_eq!((dirty.services, dirty.gateways), (set(&["shop/b"]), false));
    assert_eq!(group(&s.index, "shop/b", "net-east", "eu/eu-1"), Some((1, 1, 1)));
    assert!(s.state("meshfed-system/eastwest-1", true).gateways);
    assert_eq!(ready(&s), [true]);
    let gateways: Vec<String> = s.index.gateway_offers().keys().map(|k| format!("{k:?}")).collect();
    assert!(gateways.len() == 1 && gateways[0].contains("127.1.0.1") && gateways[0].contains("15443"), "{gateways:?}");
    let listen = s.index.gateway_listen(&key("meshfed-system/eastwest-1")).unwrap();
    assert_eq!((listen.own, listen.port), (vec!["127.1.0.1:15443".parse().unwrap()], 15443));
    let inbound = s.index.inbound(&key("b-east-1"));
    assert_eq!((inbound.len(), inbound[&8080].protocol), (1, PortProtocol::Http));
    assert_eq!(
        (inbound[&8080].services.as_slice(), inbound[&8080].export_to.as_slice()),
        ([(service("shop/b"), 8080)].as_slice(), [ExportTo::Everyone].as_slice())
    );
    // Single endpoints only where the network is shared.
    let endpoints =
        |i: &Index| i.offer_of(&service("shop/b")).keys().filter(|k| matches!(k, OfferKey::Endpoint(_))).count();
    assert_eq!(endpoints(&s.index), 0);
    assert!(s.index.set_shared_networks(["net-2".parse().unwrap()].into()).services.is_empty());
    assert_eq!(s.index.set_shared_networks(["net-east".parse().unwrap()].into()).services, set(&["shop/b"]));
    assert_eq!(endpoints(&s.index), 1);
    // The export goes: nothing is offered.
    let dirty = s.write("east.yaml", EAST.rsplit_once("---").unwrap().0);
    assert_eq!((dirty.services, dirty.gateways, dirty.namespaces), (set(&["shop/b"]), false, false));
    assert!(s.index.offer_of(&service("shop/b")).is_empty());
}

#[test]
fn a_moved_line_dirties_nothing_but_places() {
    let mut s = Setup::new();
    s.write("east.yaml", EAST);
    assert_eq!(s.write("east.yaml", &format!("# comment\n{EAST}")), Dirty::default());
    s.write(
        "x.yaml",
        "apiVersion: multicluster.x-k8s.io/v1beta1\nkind: ServiceExport\nmetadata: {name: x, namespace: shop}\n",
    );
    assert_eq!(s.codes(), ["x.yaml:3 MF2007"]);
    let dirty = s.write(
        "x.yaml",
        "\napiVersion: multicluster.x-k8s.io/v1beta1\nkind: ServiceExport\nmetadata: {name: x, namespace: shop}\n",
    );
    assert_eq!((dirty, s.codes()), (Dirty { errors: true, ..Dirty::default() }, vec!["x.yaml:4 MF2007".to_owned()]));
}

/// Mutation seen to fail: `check_export` left out of `put_service`.
#[test]
fn an_export_without_service_heals() {
    let mut s = Setup::new();
    let (services, export) = EAST.rsplit_once("---\n").unwrap();
    let dirty = s.write("export.yaml", export);
    assert!(dirty.errors && dirty.services.is_empty());
    assert_eq!(s.codes(), ["export.yaml:3 MF2007"]);
    assert!(s.write("east.yaml", services).errors);
    assert!(s.codes().is_empty());
    assert_eq!(s.index.service(&service("shop/b")).unwrap().export_to, Some(ExportTo::Everyone));
    assert!(s.remove("east.yaml").errors);
    assert_eq!(s.codes(), ["export.yaml:3 MF2007"]);
}

const PORTS: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: p, namespace: shop}\nspec:\n  selector: {app: p}\n  ports:\n  \
    - {name: web, port: 80, targetPort: 8000}\n  - {name: same, port: 90}\n  - {name: named, port: 91, targetPort: adm}\n---\n";

/// A port that one service declares to be HTTP and another says nothing of is looked at; one word against it settles it.
///
/// Mutations seen to fail: `before ||` left out; `says_other` of `of` without `port.declares()`.
#[test]
fn what_a_port_speaks_is_what_all_say_who_hold_it() {
    let mut s = Setup::new();
    let service = |name: &str, ports: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{selector: {{app: p}}, ports: [{ports}]}}\n---\n"
        )
    };
    let first = "{name: http, port: 80}, {name: any, port: 81}, {name: tcp-x, port: 82}, {name: http-y, port: 83}, \
                 {name: z, port: 84, appProtocol: http}, {name: mysql, port: 85}";
    let second = "{name: any, port: 80}, {name: other, port: 81}, {name: any82, port: 82}, {name: tcp, port: 83}";
    s.write("s.yaml", &(service("p", first) + &service("q", second)));
    s.write(
        "w.yaml",
        &entry("w1", "address: 10.0.0.1, serviceAccount: p, labels: {app: p}, ports: {tcp-own: 81, x: 86}"),
    );
    let said: Vec<_> = s.index.inbound(&key("w1")).iter().map(|(port, inbound)| (*port, inbound.said())).collect();
    let (http, tcp) = (Some(PortProtocol::Http), Some(PortProtocol::Tcp));
    assert_eq!(said, [(80, None), (81, None), (82, tcp), (83, tcp), (84, http), (85, tcp), (86, None)]);
}

/// Mutation seen to fail: `TargetPort::Number` answered with the number alone.
#[test]
fn target_ports_are_numbers_or_names_of_the_workload() {
    let mut s = Setup::new();
    s.write("s.yaml", PORTS);
    let dirty = s.write(
        "w.yaml",
        &(entry("w1", "address: 10.0.0.1, serviceAccount: p, labels: {app: p}, ports: {web: 81, adm: 7}")
            + &entry("w2", "address: 10.0.0.2, serviceAccount: p, labels: {app: p}")),
    );
    assert!(dirty.errors);
    let of = |i: &Index, name: &str| -> Vec<(u16, u16)> {
        i.service(&service("shop/p")).unwrap().endpoints[&key(name)].iter().map(|e| (e.port, e.target_port)).collect()
    };
    assert_eq!(of(&s.index, "w1"), [(80, 81), (90, 90), (91, 7)]);
    assert_eq!(of(&s.index, "w2"), [(80, 8000), (90, 90)]);
    assert_eq!(s.codes(), ["s.yaml:9 MF2007"]);
    assert!(s.index.errors().next().unwrap().message.contains("WorkloadEntry w2"));
    assert_eq!(s.index.inbound(&key("w1")).keys().copied().collect::<Vec<_>>(), [7, 81, 90]);
    s.write("w.yaml", &entry("w1", "address: 10.0.0.1, serviceAccount: p, labels: {app: p}, ports: {web: 81, adm: 7}"));
    assert!(s.codes().is_empty());
}

/// Mutation seen to fail: `.filter(|e| e.mtls)` left out of `add_groups`.
#[test]
fn workloads_without_sidecar_are_ready_and_never_offered() {
    let mut s = Setup::new();
    s.write("east.yaml", EAST);
    s.state("b-east-1", true);
    let plain =
        entry("b-2", "address: 127.1.0.12, serviceAccount: plain, labels: {app: b}, locality: eu/eu-2, weight: 5")
            .replace("namespace: shop}", "namespace: shop, annotations: {federation.meshfed.io/sidecar: \"none\"}}");
    let dirty = s.write("plain.yaml", &plain);
    assert_eq!(dirty.services, set(&["shop/b"]));
    let b = s.index.service(&service("shop/b")).unwrap();
    let ready: Vec<(bool, bool)> = b.candidates(8080, &settings().cluster).iter().map(|c| (c.ready, c.mtls)).collect();
    assert_eq!(ready, [(true, false), (true, true)]);
    assert_eq!(b.identities().count(), 1);
    assert_eq!(group(&s.index, "shop/b", "net-east", "eu/eu-2"), None);
    assert_eq!(group(&s.index, "shop/b", "net-east", "eu/eu-1"), Some((1, 1, 1)));
    let more = entry("b-3", "address: 127.1.0.13, serviceAccount: b, labels: {app: b}, weight: 7");
    s.write("more.yaml", &more);
    s.state("b-3", true);
    assert_eq!(group(&s.index, "shop/b", "net-east", "eu/eu-1"), Some((2, 2, 8)));
    s.write("more.yaml", &more.replace("labels:", "network: net-2, labels:"));
    assert_eq!(group(&s.index, "shop/b", "net-2", "eu/eu-1"), Some((1, 1, 7)));
}

#[test]
fn gateway_addresses_follow_their_owner() {
    let mut s = Setup::new();
    let two = EAST.split("---").next().unwrap().replace("127.1.0.1:15443", "127.1.0.1:15443,127.1.0.9:443");
    let gateway = |name: &str, address: &str| {
        entry(
            name,
            &format!("address: {address}, serviceAccount: eastwest, labels: {{app: eastwest}}, ports: {{tls: 15443}}"),
        )
        .replace("namespace: shop", "namespace: meshfed-system")
    };
    s.write("gw.yaml", &format!("{two}---\n{}{}", gateway("g1", "127.1.0.1"), gateway("g2", "127.1.0.2")));
    let offered = |s: &Setup| -> Vec<String> {
        let address = |(k, v): (&OfferKey, &OfferValue)| match (k, v) {
            (OfferKey::Gateway(k), OfferValue::Gateway(v)) => v.ready.then(|| format!("{}:{}", k.address, k.port)),
            other => panic!("{other:?}"),
        };
        s.index.gateway_offers().iter().filter_map(address).collect()
    };
    assert!(offered(&s).is_empty());
    s.state("meshfed-system/g2", true);
    assert_eq!(offered(&s), ["127.1.0.9:443"]);
    s.state("meshfed-system/g1", true);
    assert_eq!(offered(&s), ["127.1.0.1:15443", "127.1.0.9:443"]);
    let listen = |s: &Setup, name: &str| s.index.gateway_listen(&key(&format!("meshfed-system/{name}"))).unwrap();
    let g1 = listen(&s, "g1");
    assert_eq!((g1.own.len(), g1.shared.len(), g1.port), (1, 1, 15443));
    assert_eq!((listen(&s, "g2").own.len(), listen(&s, "g2").shared), (0, vec!["127.1.0.9:443".parse().unwrap()]));
    assert!(s.state("meshfed-system/g1", false).gateways);
    assert_eq!(offered(&s), ["127.1.0.9:443"]);
    // The next place for addresses, with the port tls; and none at all.
    let external = two
        .replace("annotations:", "x:")
        .replace("  x: {federation.meshfed.io/gateway-addresses: \"127.1.0.1:15443,127.1.0.9:443\"}\n", "");
    s.write(
        "gw.yaml",
        &format!("{}\n  externalIPs: [127.1.0.7]\n---\n{}", external.trim_end(), gateway("g1", "127.1.0.1")),
    );
    s.state("meshfed-system/g1", true);
    assert_eq!(offered(&s), ["127.1.0.7:15443"]);
    s.write("gw.yaml", &format!("{external}---\n{}", gateway("g1", "127.1.0.1")));
    assert_eq!((offered(&s), s.codes()), (Vec::new(), vec!["gw.yaml:1 MF2004".to_owned()]));
    assert!(s.remove("gw.yaml").gateways && s.index.gateways().next().is_none() && s.codes().is_empty());
}

/// A hub refuses a whole offer with one such service, and the cluster would have no session at all.
///
/// Mutation seen to fail: `has_too_many_identities` answered `false`.
#[test]
fn a_service_with_too_many_identities_is_an_error_and_not_offered() {
    let max = meshfed_api::border::IDENTITIES_MAX;
    let account = |i: usize| {
        let spec = format!(
            "address: 10.0.{}.{}, labels: {{app: b}}, ports: {{http: 8080}}, serviceAccount: sa{i}",
            i / 250,
            1 + i % 250
        );
        entry(&format!("many-{i}"), &spec)
    };
    let mut s = Setup::new();
    s.write("east.yaml", EAST);
    // One more is in east.yaml.
    let many: String = (1..max).map(account).collect();
    s.write("many.yaml", &many);
    assert_eq!((s.codes(), s.index.offer_of(&service("shop/b")).is_empty()), (Vec::new(), false));
    let dirty = s.write("more.yaml", &account(max));
    assert!(dirty.services.contains(&service("shop/b")) && dirty.errors, "{dirty:?}");
    assert!(s.index.offer_of(&service("shop/b")).is_empty());
    assert_eq!(s.codes().len(), 1);
    assert!(s.index.errors().any(|e| e.message.contains("256 service accounts")));
    s.remove("more.yaml");
    assert_eq!((s.codes(), s.index.offer_of(&service("shop/b")).is_empty()), (Vec::new(), false));
}

fn export_policy(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: federation.meshfed.io/v1alpha1\nkind: ExportPolicy\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{{spec}}}\n---\n"
    )
}

/// Mutation seen to fail: `ExportTo::Everyone` answered where selectors are empty sets of clusters.
#[test]
fn export_policies_are_a_union_and_none_is_everyone() {
    let mut s = Setup::new();
    s.write("east.yaml", EAST);
    let to = |s: &Setup, cluster: &str| {
        let export_to = s.index.service(&service("shop/b")).unwrap().export_to.clone().unwrap();
        export_to.includes(&ClusterName::new(cluster).unwrap(), &BTreeMap::new())
    };
    assert!(to(&s, "west"));
    let dirty = s.write("p.yaml", &export_policy("p", "services: [{namespace: shop, name: \"*\"}], to: {}"));
    assert_eq!(dirty.services, set(&["shop/b"]));
    assert!(!to(&s, "west"));
    s.write("q.yaml", &export_policy("q", "services: [{namespace: sh*, name: b}], to: {clusters: [we*]}"));
    assert!(to(&s, "west") && !to(&s, "south"));
    assert!(
        s.write("r.yaml", &export_policy("r", "services: [{namespace: shop, name: c}], to: {clusters: [south]}"))
            .services
            .is_empty()
    );
    let mut fleet = LastGood::new(Scope::Fleet, None);
    let text = export_policy("f", "services: [{namespace: \"*\", name: \"*\"}], to: {clusters: [south]}");
    fleet.apply(vec![FileChange::Content { path: "f.yaml".into(), bytes: text.into_bytes() }]);
    let export =
        fleet.objects().filter_map(|o| if let Body::ExportPolicy(p) = &o.body { Some(p.clone()) } else { None });
    let policies = FleetPolicies { export: export.collect(), ..FleetPolicies::default() };
    assert_eq!(s.index.set_fleet_policies(policies).services, set(&["shop/b"]));
    assert!(to(&s, "south") && to(&s, "west") && !to(&s, "north"));
}

fn failover(name: &str, namespace: &str, spec: &str) -> String {
    format!(
        "apiVersion: federation.meshfed.io/v1alpha1\nkind: FailoverPolicy\nmetadata: {{name: {name}{namespace}}}\nspec: {{{spec}tiers: [{{select: [{{relative: any}}], minHealthyPercent: 50}}]}}\n---\n"
    )
}

/// Mutation seen to fail: the order of `levels` in `choose` reversed.
#[test]
fn the_most_specific_policy_wins_and_the_fleet_before_the_cluster() {
    let mut s = Setup::new();
    s.write("east.yaml", EAST);
    let chosen = |s: &Setup| {
        let choice = s.index.policy_for(&service("shop/b"), None);
        format!("{} {}", choice.source, choice.name)
    };
    assert_eq!(chosen(&s), "builtin default");
    let dirty = s.write("ns.yaml", &failover("all", ", namespace: shop", ""));
    assert!(dirty.policies && dirty.services == set(&["shop/b"]), "a new threshold touches every export");
    assert_eq!(chosen(&s), "cluster:east all");
    let mut fleet = LastGood::new(Scope::Fleet, None);
    let text = failover("default", "", "") + &failover("shop", ", namespace: shop", "");
    fleet.apply(vec![FileChange::Content { path: "f.yaml".into(), bytes: text.into_bytes() }]);
    let own = |source| {
        let all =
            fleet.objects().filter_map(|o| if let Body::FailoverPolicy(p) = &o.body { Some(p.clone()) } else { None });
        all.map(|p| (source, p)).collect::<Vec<_>>()
    };
    let mut failovers = own(FleetSource::Api);
    s.index.set_fleet_policies(FleetPolicies { failover: failovers.clone(), ..FleetPolicies::default() });
    assert_eq!(chosen(&s), "api shop");
    failovers.extend(own(FleetSource::Fleet));
    s.index.set_fleet_policies(FleetPolicies { failover: failovers, ..FleetPolicies::default() });
    assert_eq!(chosen(&s), "fleet shop");
    s.write("b.yaml", &failover("b", ", namespace: shop", "targetRef: {kind: Service, name: b}, "));
    assert_eq!(chosen(&s), "cluster:east b");
    assert_eq!(s.index.policy_for(&service("other/x"), None).name, "default");
    assert!(s.write("c.yaml", &failover("a", ", namespace: shop", "targetRef: {kind: Service, name: b}, ")).errors);
    assert_eq!((chosen(&s), s.codes()), ("cluster:east a".to_owned(), vec!["b.yaml:4 MF2011".to_owned()]));
    s.remove("c.yaml");
    assert_eq!((chosen(&s), s.codes()), ("cluster:east b".to_owned(), Vec::new()));
}

#[test]
fn workloads_are_found_by_account_and_name() {
    let mut s = Setup::new();
    s.write("east.yaml", EAST);
    let of = |s: &Setup, w: &str| {
        s.index.workload(&w.parse().unwrap()).map(|w| w.key.to_string()).map_err(|e| e.to_string())
    };
    assert_eq!(of(&s, "shop/b"), Ok("shop/b-east-1".to_owned()));
    s.write("b2.yaml", &entry("b-east-2", "address: 127.1.0.12, serviceAccount: b"));
    assert_eq!(of(&s, "shop/b/b-east-2"), Ok("shop/b-east-2".to_owned()));
    let ambiguous = of(&s, "shop/b").unwrap_err();
    assert!(ambiguous.contains("shop/b/b-east-1, shop/b/b-east-2"), "{ambiguous}");
    let none = of(&s, "shop/x").unwrap_err();
    assert!(none.contains("shop/b/b-east-1"), "{none}");
    assert!(of(&s, "shop/x/b-east-1").is_err());
}

/// What an agent has made of an import is never a source and cannot be exported; what only looks like it is somebody's own,
/// hidden from nobody, and hides nothing: neither our label on a Service, nor our annotation, nor the name.
///
/// Mutations seen to fail: `is_derived` answered `false`; `is_derived` by the label alone.
#[test]
fn only_a_derived_service_is_passed_over() {
    let mut setup = Setup::new();
    let of = |name: &str, labels: &str, annotations: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop, labels: {{{labels}}}, annotations: {{{annotations}}}}}\n\
             spec: {{selector: {{app: x}}, ports: [{{name: http, port: 80}}]}}\n---\n\
             apiVersion: multicluster.x-k8s.io/v1beta1\nkind: ServiceExport\nmetadata: {{name: {name}, namespace: shop}}\n---\n"
        )
    };
    let (label, annotation) = ("app.kubernetes.io/managed-by: meshfed", "federation.meshfed.io/service-import: b");
    let derived = "meshfed-fpb10cdl9jeo0624lg99";
    setup.write("a.yaml", &of("b", label, ""));
    setup.write("b.yaml", &of("c", label, annotation));
    setup.write("c.yaml", &of(derived, "", annotation));
    let exported = |setup: &Setup, name: &str| setup.index.export(&service(&format!("shop/{name}"))).is_some();
    assert!(exported(&setup, "b") && exported(&setup, "c") && exported(&setup, derived));
    setup.write("c.yaml", &of(derived, label, annotation));
    assert!(exported(&setup, "b") && exported(&setup, "c") && !exported(&setup, derived));
    assert!(setup.index.service(&service(&format!("shop/{derived}"))).is_none());
}
