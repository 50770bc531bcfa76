//! Ports: those that nobody serves, and those of others that Kubernetes would not take.

use super::*;

/// Ports that nobody serves yet give a warning on the export, which is valid all the same.
///
/// Mutation seen to fail: `Write::Warn` left out.
#[test]
fn ports_that_nobody_serves_give_a_warning() {
    let mut facts = Facts { export: own(ExportState::Offered), ..exported(&[("east", offer())]) };
    facts.export.as_mut().unwrap().unserved = vec!["42/UDP".to_owned(), "43/SCTP".to_owned()];
    let mut server = Server::with_export();
    server.settle(&facts);
    let want = "42/UDP, 43/SCTP of the Service have no endpoints in other clusters: only TCP is served in this version";
    assert_eq!(server.plan(&facts), [Write::Warn(want.to_owned())]);
    assert_eq!(server.conditions()[..2], ["Valid=True/Valid", "Ready=True/Exported"]);
}

/// What the ports of one cluster say keeps nobody's objects from being written: one that no API server takes is no port,
/// one without a name beside others gets one, and so does one whose name Kubernetes does not take.
///
/// Mutations seen to fail: `several` of the Service answered `false`; `is_known` answered `true`; `is_name` answered
/// `true`; `app_protocol` not filtered.
#[test]
fn ports_of_others_are_what_kubernetes_takes() {
    let alone = ServiceOffer { ports: vec![port("", 80, "TCP")], ..offer() };
    let mut odd = port("Not_A_Name", 83, "UDP");
    odd.app_protocol = Some("no protocol!".to_owned());
    let strange = ServiceOffer { ports: vec![port("http", 81, "TCP"), port("x", 82, "NONE"), odd], ..offer() };
    let said = |server: &Server| -> Vec<String> {
        let ports = server.seen.service.as_ref().unwrap().spec.clone().unwrap().ports.unwrap();
        let shown = |p: &PortOfService| format!("{:?} {} {:?}", p.name, p.port, p.app_protocol);
        ports.iter().map(shown).collect()
    };
    let mut server = Server::default();
    server.settle(&exported(&[("east", alone.clone())]));
    assert_eq!(said(&server), ["None 80 None"], "alone it needs no name");
    server.settle(&exported(&[("east", alone), ("west", strange)]));
    let named = |name: &str, port: u16| format!("{:?} {port} None", Some(name));
    assert_eq!(said(&server), [named("tcp-80", 80), named("http", 81), named("udp-83", 83)]);
    let slices = |cluster: &str| -> Vec<Option<String>> {
        let slice = server.seen.slices.iter().find(|(name, _)| name.ends_with(&format!("-{cluster}-ipv4"))).unwrap().1;
        slice.ports.iter().flatten().map(|p| p.name.clone()).collect()
    };
    assert_eq!(slices("east"), [Some(String::new())]);
    assert_eq!(slices("west"), [Some("http".to_owned()), Some("udp-83".to_owned())]);
}

/// No name of a port keeps the derived Service from being written, or another Service of the cluster from being programmed:
/// one that is too long for what kube-proxy makes of it has another name there, and a name that is made is nobody's.
///
/// Mutations seen to fail: `longest` left out of `keeps`; `taken` left out of `named`.
#[test]
fn a_name_of_a_port_is_in_nobodys_way() {
    let offered = |ports: Vec<ServicePort>| ServiceOffer { ports, ..offer() };
    let (first, second) = (offered(vec![port("", 80, "TCP")]), offered(vec![port("tcp-80", 81, "TCP")]));
    let long = offered(vec![port(&"h".repeat(63), 82, "TCP")]);
    let mut server = Server::default();
    server.settle(&exported(&[("east", first), ("west", second), ("north", long)]));
    let service = server.seen.service.clone().unwrap();
    let names: Vec<String> = service.spec.unwrap().ports.unwrap().into_iter().map(|p| p.name.unwrap()).collect();
    assert_eq!(names, ["tcp-80-2", "tcp-80", &"h".repeat(63)]);

    let far = ServiceName::new("n".repeat(63), "b").unwrap();
    let server = Server::default();
    let facts = exported(&[("east", offered(vec![port(&"h".repeat(63), 82, "TCP")]))]);
    let context = server.context();
    let writes = plan(&far, &facts, &server.seen, &context);
    let made =
        writes.iter().find_map(|w| if let Write::Service { object, .. } = w { Some(object.clone()) } else { None });
    let (meta, spec) = made.map(|s| (s.metadata, s.spec.unwrap())).unwrap();
    let port = spec.ports.unwrap().remove(0).name.unwrap();
    assert_eq!(port, "tcp-82");
    assert!(format!("{}/{}:{port}", meta.namespace.unwrap(), meta.name.unwrap()).len() <= 128);
}
