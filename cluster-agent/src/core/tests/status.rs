//! What people are told of a cluster that is not ready, and of faults that no single object has.

use super::*;

fn waiting(b: &Bench) -> Vec<(String, String)> {
    let report = crate::status::report(&b.core, &crate::status::rows(&b.core));
    report.waiting_for.into_iter().map(|p| (p.name, p.reason)).collect()
}

/// A service whose selector selects nothing is told from one whose workloads lack the port.
///
/// Mutation seen to fail: `why_no_endpoint` does not look at what is selected.
#[test]
fn a_selector_that_selects_nothing_is_shown() {
    let mut b = Bench::new();
    let why = |b: &Bench| waiting(b).into_iter().find(|(name, _)| name == "shop/a:8080").map(|(_, why)| why);
    b.file("a.yaml", &(service("a") + &export("a")));
    let nothing = "its selector {app: a} selects no WorkloadEntry; give one of namespace shop these labels";
    assert_eq!(why(&b).as_deref(), Some(nothing));
    let unnamed = service("a").replace("port: 8080}", "port: 8080, targetPort: nope}").replace("name: http, ", "");
    b.file("a.yaml", &(unnamed + &export("a") + &entry("a-1", "a", "127.2.0.10")));
    let no_port = "no WorkloadEntry that its selector {app: a} selects has this port";
    assert_eq!(why(&b).as_deref(), Some(no_port));
}

/// The log names a fault between objects once, and again when it comes back.
///
/// Mutations seen to fail: `told_faults` is not kept; it keeps what was mended.
#[test]
fn a_fault_between_objects_is_new_once() {
    let mut b = Bench::new();
    let new = |b: &mut Bench| -> Vec<String> {
        b.core.check_names();
        b.core.new_faults().iter().map(|e| format!("{} {}", e.code, e.name.as_deref().unwrap_or_default())).collect()
    };
    for _ in 0..2 {
        b.file("a.yaml", &export("a"));
        assert_eq!(new(&mut b), ["MF2007 a"]);
        assert_eq!(new(&mut b), Vec::<String>::new());
        b.file("a.yaml", &(service("a") + &export("a")));
        assert_eq!(new(&mut b), Vec::<String>::new());
    }
}

/// A port that a service does not have is no empty list of endpoints.
///
/// Mutation seen to fail: the arm is left out of `answer`.
#[test]
fn a_port_that_nobody_has_is_refused_with_those_there_are() {
    use crate::downlink::{EndpointsAnswer, EndpointsQuery};
    let mut b = Bench::new();
    b.bundles();
    b.members();
    b.east(1, 1, 1);
    let query = |port| EndpointsQuery {
        namespace: "shop".to_owned(),
        name: "b".to_owned(),
        port,
        client: String::new(),
        locality: String::new(),
    };
    let EndpointsAnswer::Problem { status, detail } = crate::status::endpoints(&b.core, &query(81)) else {
        panic!("no problem")
    };
    assert_eq!((status, &*detail), (404, "shop/b has port 8080 and no port 81"));
    assert!(matches!(crate::status::endpoints(&b.core, &query(8080)), EndpointsAnswer::Body(_)));
}

fn refused_service(name: &str, code: meshfed_crds::Code, message: &str) -> ObjectError {
    let mut fault = ObjectError::new(code, message).field("spec.x");
    let (namespace, name) = name.split_once('/').unwrap();
    (fault.kind, fault.namespace, fault.name) =
        (Some("Service".to_owned()), Some(namespace.to_owned()), Some(name.to_owned()));
    fault
}

/// Tells of the faults of the source; gives the names of which something else is said by then.
fn tell(b: &mut Bench, errors: &[ObjectError]) -> BTreeSet<ServiceName> {
    b.revision += 1;
    let version = Version::new(1, b.revision);
    let update = SourceUpdate { version, objects: 0, changes: Vec::new(), errors: errors.into() };
    b.core.apply_source(update, b.now, b.wall);
    b.core.take_effects().mirrored
}

/// An export whose Service is there and refused says what is wrong with it, and no other export does.
///
/// Mutations seen to fail: `services` left out of `Refused::changed`; `refused` passed over in `export_facts`.
#[test]
fn an_export_of_a_refused_service_says_why() {
    let mut b = Bench::new();
    b.file("a.yaml", &(export("many") + &export("none")));
    let state = |b: &Bench, name: &str| b.core.mirrored(&name.parse().unwrap()).export.unwrap().state;
    let fault = refused_service("shop/many", meshfed_crds::Code::TooLarge, "has more than 256 ports");
    assert!(tell(&mut b, &[fault]).contains(&"shop/many".parse().unwrap()));
    let why = "spec.x: has more than 256 ports; make it smaller, or split it".to_owned();
    assert_eq!(state(&b, "shop/many"), ExportState::InvalidService(why));
    assert_eq!(state(&b, "shop/none"), ExportState::NoService);
    assert!(tell(&mut b, &[]).contains(&"shop/many".parse().unwrap()));
    assert_eq!(state(&b, "shop/many"), ExportState::NoService);
}

/// A cluster without a gateway says so of every export. A gateway whose addresses the token does not allow is declared and not ready: the status waits for it, and every export
/// says that no other network reaches it, while no other gateway is offered.
///
/// Mutations seen to fail: `refused_gateways` left out of `rows`; `note_gateways` that tells no export;
/// `gateway_offers().is_empty()` not asked.
#[test]
fn a_gateway_that_is_refused_is_waited_for() {
    let mut b = Bench::new();
    b.file("a.yaml", &(service("a") + &export("a") + &entry("a-1", "a", "127.2.0.10")));
    let fault =
        refused_service("shop/gw2", meshfed_crds::Code::NotAllowed, "the address 1.2.3.4 lies outside 10.0.0.0/8");
    let unreachable = |b: &Bench| b.core.mirrored(&"shop/a".parse().unwrap()).export.unwrap().unreachable;
    assert!(unreachable(&b).unwrap().contains("declares no gateway"));
    assert!(tell(&mut b, std::slice::from_ref(&fault)).contains(&"shop/a".parse().unwrap()));
    let found = waiting(&b);
    assert!(found.iter().any(|(name, why)| name == "shop/gw2" && why.contains("1.2.3.4")), "{found:?}");
    assert!(unreachable(&b).unwrap().contains("gateway shop/gw2 is not offered"));
    assert!(b.core.gateway_lack().is_some());
    b.file("g.yaml", &gateways::gateway_objects());
    tell(&mut b, &[fault]);
    assert_eq!((unreachable(&b), b.core.gateway_lack()), (None, None));
    assert!(waiting(&b).iter().any(|(name, _)| name == "shop/gw2"), "it still is declared, and not ready");
}

/// A gateway's proxy is one that is expected, also where it is a pod without a sidecar.
///
/// Mutation seen to fail: `gateways.contains` answered `false`.
#[test]
fn the_proxies_of_gateways_are_expected() {
    let mut b = Bench::new();
    let objects = gateways::gateway_objects();
    let objects = objects.replace(
        "kind: WorkloadEntry\nmetadata: {",
        "kind: WorkloadEntry\nmetadata: {annotations: {federation.meshfed.io/sidecar: none}, ",
    );
    assert!(objects.contains("sidecar: none"), "{objects}");
    b.file("g.yaml", &objects);
    let report = crate::status::report(&b.core, &crate::status::rows(&b.core));
    assert_eq!(report.proxies_expected, 1);
    let found = waiting(&b);
    assert!(found.iter().any(|(_, why)| why == "its proxy is not connected"), "{found:?}");
}
