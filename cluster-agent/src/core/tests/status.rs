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
