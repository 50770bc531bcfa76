use meshfed_crds::{Code, MtlsMode, OutboundPolicy};
use meshfed_model::policy::FleetSettings;

use super::super::tests::{Setup, group, key, service, set, settings};
use super::super::{Endpoint, FleetPolicies, Index, IndexSettings};

const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: b, namespace: shop}\nspec: {selector: {app: b}, ports: [{name: http, port: 8080, targetPort: 9090}]}\n---\napiVersion: multicluster.x-k8s.io/v1beta1\nkind: ServiceExport\nmetadata: {name: b, namespace: shop}\n";

fn pod(name: &str, address: &str, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, uid: u-{name}, labels: {{app: b}}, annotations: {{federation.meshfed.io/status: '{{}}'}}}}\nspec: {{serviceAccountName: b, nodeName: n1}}\nstatus: {{phase: Running, podIP: {address}, conditions: [{{type: Ready, status: 'True'}}]}}\n---\n"
    )
    .replace("nodeName: n1", &format!("nodeName: n1{more}"))
}

fn node(labels: &str) -> String {
    format!("apiVersion: v1\nkind: Node\nmetadata: {{name: n1, labels: {{{labels}}}}}\n")
}

fn slice(name: &str, endpoints: &str) -> String {
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}, namespace: shop, labels: {{kubernetes.io/service-name: b}}}}\naddressType: IPv4\nports: [{{name: http, port: 9090}}]\nendpoints: [{endpoints}]\n---\n"
    )
}

fn at(pod: &str, address: &str, conditions: &str) -> String {
    format!("{{addresses: [{address}], targetRef: {{kind: Pod, name: {pod}}}, conditions: {{{conditions}}}}}, ")
}

/// `address ready offered identity`, by workload.
fn endpoints(index: &Index) -> Vec<String> {
    let shown = |e: &Endpoint| {
        let addresses: Vec<String> = e.addresses.iter().map(ToString::to_string).collect();
        let who = e.identity.as_ref().map_or_else(|| "nobody".to_owned(), ToString::to_string);
        let account = who.rsplit('/').next().unwrap_or_default().to_owned();
        format!("{}:{} {} {} {account}", addresses.join(","), e.target_port, e.ready, e.offered)
    };
    index.service(&service("shop/b")).unwrap().endpoints.values().flatten().map(shown).collect()
}

/// Where there is no slice a pod is selected; where there is one it alone says, and nothing counts twice.
///
/// Mutation seen to fail: `slices.is_none()` of `Behind::of` answered `true`.
#[test]
fn pods_are_endpoints_by_slices_where_there_are_some() {
    let mut s = Setup::new();
    s.write("s.yaml", SERVICE);
    s.write("p.yaml", &(pod("b-1", "10.0.0.1", "") + &pod("b-2", "10.0.0.2", "")));
    assert_eq!(endpoints(&s.index), ["10.0.0.1:9090 true true b", "10.0.0.2:9090 true true b"]);
    assert_eq!(group(&s.index, "shop/b", "net-east", "eu"), Some((2, 2, 2)));
    let dirty = s.write("e.yaml", &slice("b-x", &at("b-1", "10.0.0.1", "ready: true")));
    assert_eq!((dirty.services, endpoints(&s.index).len()), (set(&["shop/b"]), 1));
    // The other family, and a second slice with the same pod: one endpoint.
    s.write("e2.yaml", &slice("b-y", &(at("b-1", "10.0.0.1", "") + &at("b-2", "10.0.0.2", "ready: false"))));
    assert_eq!(endpoints(&s.index), ["10.0.0.1:9090 true true b", "10.0.0.2:9090 false true b"]);
    assert_eq!(group(&s.index, "shop/b", "net-east", "eu"), Some((1, 2, 1)));
    s.remove("e.yaml");
    s.remove("e2.yaml");
    assert_eq!(endpoints(&s.index).len(), 2, "selected again");
    // A WorkloadEntry, of which Kubernetes knows nothing, is selected beside them.
    s.write("e.yaml", &slice("b-x", &at("b-1", "10.0.0.1", "")));
    s.write("w.yaml", "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: vm, namespace: shop}\nspec: {address: 10.0.0.9, labels: {app: b}, serviceAccount: vm}\n");
    assert_eq!(endpoints(&s.index).len(), 2);
}

/// Mutations seen to fail: `endpoint.terminating && !endpoint.ready` of `endpoint_listed` answered `false`;
/// `w.addresses.contains(a)` answered `true`.
#[test]
fn a_slice_is_taken_at_its_word_but_not_about_who_answers() {
    let mut s = Setup::new();
    s.write("s.yaml", SERVICE);
    s.write("e.yaml", &slice("b-x", &at("b-1", "10.0.0.1", "")));
    assert_eq!(endpoints(&s.index), Vec::<String>::new(), "nobody dials a pod before it is known");
    s.write("p.yaml", &pod("b-1", "10.0.0.1", ""));
    assert_eq!(endpoints(&s.index), ["10.0.0.1:9090 true true b"]);
    s.write("e.yaml", &slice("b-x", &at("b-1", "10.0.0.1", "ready: false, serving: true, terminating: true")));
    assert_eq!(endpoints(&s.index), Vec::<String>::new(), "it ends");
    s.write("e.yaml", &slice("b-x", &at("b-1", "10.0.0.1", "ready: true, terminating: true")));
    assert_eq!(endpoints(&s.index).len(), 1, "publishNotReadyAddresses");
    s.write("e.yaml", &slice("b-x", &at("b-1", "10.0.0.66", "")));
    assert_eq!(endpoints(&s.index), Vec::<String>::new(), "an address that is not the pod's");
    // Without pod: who has the address, else nobody, who is not offered.
    s.write("e.yaml", &slice("b-x", "{addresses: [10.0.0.1]}, {addresses: [10.0.0.7]}"));
    assert_eq!(endpoints(&s.index), ["10.0.0.7:9090 true false nobody", "10.0.0.1:9090 true true b"]);
    assert_eq!(group(&s.index, "shop/b", "net-east", "eu"), Some((1, 1, 1)));
    s.write("q.yaml", &pod("b-7", "10.0.0.7", ""));
    assert_eq!(endpoints(&s.index), ["10.0.0.1:9090 true true b", "10.0.0.7:9090 true true b"]);
    s.remove("q.yaml");
    assert_eq!(endpoints(&s.index), ["10.0.0.7:9090 true false nobody", "10.0.0.1:9090 true true b"]);
}

/// One endpoint of a slice of a hundred: the others are not looked at again.
///
/// Mutation seen to fail: `if !same` of `ServiceSlices::replace` answered `true`.
#[test]
fn one_changed_endpoint_of_a_slice_dirties_what_it_is_behind() {
    let mut s = Setup::new();
    s.write("s.yaml", SERVICE);
    let mut list = String::new();
    for n in 1..=100 {
        s.write(&format!("p{n}.yaml"), &pod(&format!("b-{n}"), &format!("10.0.0.{n}"), ""));
        list += &at(&format!("b-{n}"), &format!("10.0.0.{n}"), "ready: true");
    }
    s.write("e.yaml", &slice("b-x", &list));
    let changed = list.replacen(
        "10.0.0.50], targetRef: {kind: Pod, name: b-50}, conditions: {ready: true",
        "10.0.0.50], targetRef: {kind: Pod, name: b-50}, conditions: {ready: false",
        1,
    );
    let before = s.index.looked_at();
    let dirty = s.write("e.yaml", &slice("b-x", &changed));
    assert_eq!((dirty.services, dirty.workloads.len(), s.index.looked_at() - before), (set(&["shop/b"]), 0, 1));
}

/// Mutations seen to fail: `move_pods` left out of `put_node`; `!in_zone` left out of `locality_on`.
#[test]
fn a_pod_is_where_its_node_is() {
    let mut s = Setup::new();
    s.write("s.yaml", SERVICE);
    s.write("p.yaml", &pod("b-1", "10.0.0.1", ""));
    let locality = |s: &Setup| s.index.workload_by_key(&key("b-1")).unwrap().locality.to_string();
    assert_eq!(locality(&s), "eu", "until its node is known: the first region");
    for (labels, wanted, codes) in [
        ("topology.kubernetes.io/region: eu, topology.kubernetes.io/zone: eu-1", "eu/eu-1", 0),
        ("topology.kubernetes.io/zone: eu-1", "eu/eu-1", 0),
        ("topology.kubernetes.io/region: eu", "eu", 0),
        ("topology.kubernetes.io/region: eu, topology.kubernetes.io/zone: eu-9", "eu", 1),
        ("topology.kubernetes.io/region: us, topology.kubernetes.io/zone: eu-1", "eu", 1),
        ("", "eu", 0),
    ] {
        let dirty = s.write("n.yaml", &node(labels));
        assert_eq!((locality(&s).as_str(), s.index.errors().count()), (wanted, codes), "{labels}");
        assert!(s.index.errors().all(|e| e.code == Code::LocalityNotAllowed && !e.is_error()));
        assert!(dirty.errors || codes == 0);
    }
    // Without zones in the token every zone is allowed.
    let mut any = Setup { index: Index::new(IndexSettings { zones: Vec::new(), ..settings() }), ..Setup::new() };
    any.write("n.yaml", &node("topology.kubernetes.io/region: eu, topology.kubernetes.io/zone: eu-9"));
    any.write("p.yaml", &pod("b-1", "10.0.0.1", ""));
    assert_eq!((locality(&any).as_str(), any.index.errors().count()), ("eu/eu-9", 0));
}

/// Mutation seen to fail: `!workload.outside` left out of `endpoint`.
#[test]
fn what_has_no_sidecar_or_lies_outside_the_ranges_is_not_offered_and_its_service_stays() {
    let ranges = IndexSettings {
        networks: vec![meshfed_model::network::Network {
            name: "net-east".parse().unwrap(),
            cidrs: ["10.0.0.0/24".parse().unwrap()].into(),
        }],
        ..settings()
    };
    let mut s = Setup { index: Index::new(ranges), ..Setup::new() };
    s.write("s.yaml", SERVICE);
    let plain = pod("b-2", "10.0.0.2", "").replace("federation.meshfed.io/status: '{}'", "");
    let host = pod("b-3", "172.30.0.11", ", hostNetwork: true");
    let far = pod("b-4", "10.9.0.1", "");
    s.write("p.yaml", &(pod("b-1", "10.0.0.1", "") + &plain + &host + &far));
    assert_eq!(s.index.errors().count(), 0, "a daemon of the node is nobody's concern");
    let all = at("b-1", "10.0.0.1", "")
        + &at("b-2", "10.0.0.2", "")
        + &at("b-3", "172.30.0.11", "")
        + &at("b-4", "10.9.0.1", "");
    s.write("e.yaml", &slice("b-x", &all));
    assert_eq!(
        endpoints(&s.index),
        [
            "10.0.0.1:9090 true true b",
            "10.0.0.2:9090 true false b",
            "172.30.0.11:9090 true false b",
            "10.9.0.1:9090 true false b"
        ]
    );
    assert_eq!(group(&s.index, "shop/b", "net-east", "eu"), Some((1, 1, 1)));
    let faults: Vec<_> = s.index.errors().map(|e| (e.code, e.name.clone().unwrap())).collect();
    let told = |name: &str| (Code::AddressNotAllowed, name.to_owned());
    assert_eq!(faults, [told("b-3"), told("b-4")]);
    s.write("e.yaml", &slice("b-x", &at("b-1", "10.0.0.1", "")));
    assert_eq!(s.index.errors().count(), 0);
}

/// Mutation seen to fail: `pod.ended` of `workload_of_pod` answered `false`.
#[test]
fn a_pod_stands_before_an_entry_of_its_name_and_not_after_its_end() {
    let mut s = Setup::new();
    s.write("s.yaml", SERVICE);
    let entry = "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: b-1, namespace: shop}\nspec: {address: 10.0.0.9, labels: {app: b}, serviceAccount: vm}\n";
    s.write("w.yaml", entry);
    let account = |s: &Setup| s.index.workload_by_key(&key("b-1")).map(|w| w.service_account.to_string());
    assert_eq!(account(&s).as_deref(), Some("vm"));
    s.write("p.yaml", &pod("b-1", "10.0.0.1", ""));
    assert_eq!(account(&s).as_deref(), Some("b"));
    assert_eq!(s.index.workload_by_key(&key("b-1")).unwrap().pod.as_ref().unwrap().uid.as_ref(), "u-b-1");
    assert!(s.codes()[0].ends_with("MF2011"), "{:?}", s.codes());
    s.write("p.yaml", &pod("b-1", "10.0.0.1", "").replace("Running", "Succeeded"));
    assert_eq!((account(&s), endpoints(&s.index).len()), (None, 0));
    s.remove("p.yaml");
    assert_eq!((account(&s).as_deref(), s.codes().len()), (Some("vm"), 0));
}

/// Mutations seen to fail: the mesh's mode not asked in `mtls_mode`; `!new.selects` answered `true`.
#[test]
fn the_mode_of_a_namespace_is_its_own_else_that_of_the_mesh() {
    let mut s = Setup::new();
    s.index.set_root_namespace("meshfed-system".parse().unwrap());
    let of = |name: &str, namespace: &str, created: &str, spec: &str| {
        format!(
            "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: {name}, namespace: {namespace}, creationTimestamp: '{created}'}}\nspec: {spec}\n"
        )
    };
    let mode = |s: &Setup, namespace: &str| s.index.mtls_mode(&namespace.parse().unwrap());
    assert_eq!(mode(&s, "shop"), None);
    assert!(s.write("m.yaml", &of("mesh", "meshfed-system", "", "{mtls: {mode: STRICT}}")).mesh);
    assert_eq!(mode(&s, "shop"), Some(MtlsMode::Strict));
    s.write("young.yaml", &of("a", "shop", "2026-02-01T00:00:00Z", "{mtls: {mode: DISABLE}}"));
    assert_eq!((mode(&s, "shop"), mode(&s, "other")), (Some(MtlsMode::Disable), Some(MtlsMode::Strict)));
    s.write("old.yaml", &of("b", "shop", "2026-01-01T00:00:00Z", "{mtls: {mode: PERMISSIVE}}"));
    assert_eq!(mode(&s, "shop"), Some(MtlsMode::Permissive), "the older holds");
    assert!(s.codes()[0].starts_with("young.yaml") && s.codes()[0].ends_with("MF2011"), "{:?}", s.codes());
    s.write(
        "old.yaml",
        &of("b", "shop", "2026-01-01T00:00:00Z", "{selector: {matchLabels: {app: b}}, mtls: {mode: PERMISSIVE}}"),
    );
    assert_eq!((mode(&s, "shop"), s.codes().len()), (Some(MtlsMode::Disable), 0), "one with a selector has no effect");
    s.write("young.yaml", &of("a", "shop", "", "{mtls: {mode: UNSET}}"));
    assert_eq!(mode(&s, "shop"), Some(MtlsMode::Strict), "UNSET is what the mesh says");
    assert!(s.remove("m.yaml").mesh);
    assert_eq!(mode(&s, "shop"), None);
}

/// Mutations seen to fail: `dirty.mesh` not set in `remove_mesh`; `set_fleet_settings` that never says it changed; the
/// fleet's word before the cluster's own in `outbound_said`.
#[test]
fn the_mesh_says_what_may_be_reached() {
    let mut s = Setup::new();
    assert_eq!((s.index.outbound_policy(), s.index.clusterset_domain()), (OutboundPolicy::AllowAny, None));
    let mesh = "apiVersion: federation.meshfed.io/v1alpha1\nkind: Mesh\nmetadata: {name: local}\nspec: {outboundTrafficPolicy: REGISTRY_ONLY, clustersetDomain: set.example}\n";
    assert!(s.write("m.yaml", mesh).mesh);
    assert_eq!(
        (s.index.outbound_policy(), s.index.clusterset_domain()),
        (OutboundPolicy::RegistryOnly, Some("set.example"))
    );
    // The fleet's settings hold where the cluster's own say nothing.
    let fleet = |outbound| FleetPolicies {
        settings: FleetSettings { outbound, clusterset_domain: Some("fleet.example".to_owned()) },
        ..FleetPolicies::default()
    };
    assert!(s.index.set_fleet_policies(fleet(Some(OutboundPolicy::AllowAny))).mesh);
    assert_eq!(s.index.outbound_said(), Some((OutboundPolicy::RegistryOnly, "Mesh/local")));
    assert_eq!(s.index.clusterset_domain(), Some("set.example"));
    assert!(s.remove("m.yaml").mesh);
    assert_eq!(s.index.outbound_policy(), OutboundPolicy::AllowAny);
    assert!(s.index.set_fleet_policies(fleet(Some(OutboundPolicy::RegistryOnly))).mesh);
    assert!(!s.index.set_fleet_policies(fleet(Some(OutboundPolicy::RegistryOnly))).mesh);
    assert_eq!(s.index.outbound_said(), Some((OutboundPolicy::RegistryOnly, "Mesh/default")));
    assert_eq!(s.index.clusterset_domain(), Some("fleet.example"));
}
