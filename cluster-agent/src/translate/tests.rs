use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::listener::v3::{FilterChain, Listener, filter::ConfigType};
use envoy_types::pb::envoy::config::route::v3::{RouteConfiguration, route::Action};
use meshfed_model::horizon::{Assignment, Item, Via};
use meshfed_model::locality::Locality;
use meshfed_model::names::{ClusterName, Namespace, NetworkName, ServiceName};
use meshfed_model::service::{PortProtocol, ServicePort};
use prost::Message as _;
use prost_types::value::Kind as ValueKind;
use prost_types::{Struct, Value};

use super::*;

fn port(name: &str, number: u16) -> ServicePort {
    ServicePort { name: name.to_owned(), port: number, protocol: "TCP".to_owned(), app_protocol: None }
}
fn facts(name: &str, number: u16, clusters: &[&str]) -> PortFacts {
    let ids = |c: &str| format!("spiffe://{c}.mesh.example/ns/shop/sa/b").parse().unwrap();
    let identities = clusters.iter().map(|c| (ClusterName::new(c).unwrap(), BTreeSet::from([ids(c)])));
    PortFacts { port: port(name, number), identities: identities.collect() }
}
fn b(domain: Domain) -> OutboundName {
    OutboundName::new(ServiceName::new("shop", "b").unwrap(), 8080, domain)
}

/// Mutation seen to fail: `rest.strip_prefix("_.")` cuts one character only.
#[test]
fn names_are_read_as_they_are_formed() {
    for domain in Domain::ALL {
        let name = b(domain);
        assert_eq!(OutboundName::parse(&name.to_string()), Some(name.clone()));
        assert_eq!(OutboundName::parse(&name.sni()), Some(name));
    }
    for bad in [
        "",
        "outbound",
        "outbound|8080",
        "outbound|x||b.shop.svc.cluster.local",
        "outbound|8080||b.shop.svc.example",
        "inbound|8080||",
        "outbound|8080||b.svc.cluster.local",
    ] {
        assert_eq!(OutboundName::parse(bad), None, "{bad}");
    }
}

/// Mutation seen to fail: `transport_socket` left out (Envoy's default is plaintext); ALPN on TCP ports; no budget.
#[test]
fn a_cluster_fails_closed() {
    let http = clusters::outbound(&b(Domain::Clusterset), &facts("http", 8080, &["east", "west"]), false);
    let tcp = clusters::outbound(&b(Domain::Clusterset), &facts("db", 8080, &["east"]), false);
    let decoded = Cluster::decode(http.body.clone()).unwrap();
    let names: Vec<&str> = decoded.transport_socket_matches.iter().map(|m| m.name.as_str()).collect();
    assert_eq!(names, ["plaintext", "east", "west"]);
    let shown = format!("{:?}", decoded.transport_socket);
    assert!(shown.contains("envoy.transport_sockets.tls"), "{shown}");
    let bytes = |r: &Resource| String::from_utf8_lossy(&r.body).into_owned();
    assert!(bytes(&http).contains("http/1.1") && !bytes(&tcp).contains("http/1.1"));
    assert!(bytes(&http).contains("spiffe://east.mesh.example/ns/shop/sa/b"));
    assert_eq!(decoded.common_lb_config.unwrap().healthy_panic_threshold.unwrap().value, 0.0);
    let budget = decoded.circuit_breakers.unwrap().thresholds[0].retry_budget.unwrap();
    assert_eq!((budget.budget_percent.unwrap().value, budget.min_retry_concurrency.unwrap().value), (20.0, 100));
    let unknown = PortFacts {
        port: port("http", 8080),
        identities: BTreeMap::from([(ClusterName::new("east").unwrap(), BTreeSet::new())]),
    };
    let decoded = Cluster::decode(clusters::outbound(&b(Domain::Clusterset), &unknown, false).body.clone()).unwrap();
    assert_eq!(decoded.transport_socket_matches.len(), 1, "nobody is expected, so nobody is spoken to");
}

/// Mutation seen to fail: hash maps in `LbEndpoint` (the bytes differ from run to run).
#[test]
fn the_same_input_gives_the_same_bytes() {
    let item = |last: u8, priority: u32| Item {
        address: [10, 0, 0, last].into(),
        port: 8080,
        via: Via::Direct,
        cluster: ClusterName::new("west").unwrap(),
        network: NetworkName::new("net").unwrap(),
        locality: Locality::new("eu", if last.is_multiple_of(2) { "eu-1" } else { "eu-2" }),
        mtls: last != 3,
        tier: priority,
        priority,
        weight: u32::from(last),
        share: meshfed_model::share::Share::default(),
        groups: Vec::new(),
    };
    let assignment = Assignment { items: vec![item(1, 0), item(2, 0), item(3, 1)], dropped: Vec::new() };
    let made: BTreeSet<_> =
        (0..20).map(|_| endpoints::encode(&b(Domain::Cluster).service, &assignment).named("x").body.clone()).collect();
    assert_eq!(made.len(), 1);
    let decoded =
        envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment::decode(made.first().unwrap().clone())
            .unwrap();
    let shape: Vec<(u32, String, usize)> = decoded
        .endpoints
        .iter()
        .map(|l| (l.priority, l.locality.as_ref().unwrap().zone.clone(), l.lb_endpoints.len()))
        .collect();
    assert_eq!(shape, [(0, "eu-1".to_owned(), 1), (0, "eu-2".to_owned(), 1), (1, "eu-2".to_owned(), 1)]);
    let plain = &decoded.endpoints[2].lb_endpoints[0].metadata.as_ref().unwrap().filter_metadata["envoy.transport_socket_match"];
    assert!(plain.fields.contains_key("mode") && !plain.fields.contains_key("cluster"));
}

fn services() -> routes::AllRoutes {
    let name = |ns: &str, n: &str| ServiceName::new(ns, n).unwrap();
    let own = |number| ServiceFacts {
        cluster: BTreeMap::from([(number, facts("http", number, &["west"]))]),
        ..ServiceFacts::default()
    };
    let foreign = ServiceFacts {
        clusterset: BTreeMap::from([(8080, facts("http", 8080, &["east"]))]),
        ..ServiceFacts::default()
    };
    let all = [(name("shop", "a"), own(80)), (name("other", "c"), own(8080)), (name("shop", "b"), foreign)];
    all.into_iter().map(|(name, facts)| (name.clone(), routes::ServiceRoutes::new(&name, &facts))).collect()
}

/// Mutation seen to fail: short names for every domain; bare names in every namespace.
#[test]
fn names_mean_what_the_contract_says() {
    let made = routes::outbound(&Namespace::new("shop").unwrap(), &services());
    let routes = RouteConfiguration::decode(made.body.clone()).unwrap();
    let domains: Vec<String> = routes.virtual_hosts.iter().flat_map(|h| h.domains.clone()).collect();
    let want = [
        "c.other.svc.cluster.local:8080",
        "c.other:8080",
        "c.other.svc:8080",
        "a.shop.svc.cluster.local:80",
        "a.shop.svc.cluster.local",
        "a.shop:80",
        "a.shop",
        "a.shop.svc:80",
        "a.shop.svc",
        "a:80",
        "a",
        "b.shop.svc.clusterset.local:8080",
    ];
    assert_eq!(domains, want);
    let elsewhere = routes::outbound(&Namespace::new("elsewhere").unwrap(), &services());
    let routes = RouteConfiguration::decode(elsewhere.body.clone()).unwrap();
    let domains = routes.virtual_hosts.iter().flat_map(|h| h.domains.clone());
    assert!(domains.eq(want.into_iter().filter(|d| !["a:80", "a"].contains(d))));
    // The parts put together are what the whole message would have been.
    assert_eq!(made.body, RouteConfiguration::decode(made.body.clone()).unwrap().encode_to_vec());
}

/// Mutation seen to fail: the services that hold the workload are refused, too.
#[test]
fn an_inbound_port_refuses_other_services_names() {
    let shop = Namespace::new("shop").unwrap();
    let holding = [ServiceName::new("shop", "a").unwrap()].into_iter().collect();
    let others = routes::other_hosts(&shop, &holding, &services());
    let made = routes::inbound(8080, &others, false);
    let routes = RouteConfiguration::decode(made.body.clone()).unwrap();
    assert_eq!(made.body, routes.encode_to_vec(), "the parts put together are what the whole message would have been");
    assert!(routes.ignore_port_in_host_matching);
    let [refused, rest] = routes.virtual_hosts.as_slice() else { panic!("two virtual hosts") };
    let want = ["c.other.svc.cluster.local", "c.other", "c.other.svc", "b.shop.svc.clusterset.local"];
    assert_eq!(refused.domains, want);
    assert!(matches!(&refused.routes[0].action, Some(Action::DirectResponse(r)) if r.status == 421));
    assert_eq!(rest.domains, ["*"]);
}

/// Mutation seen to fail: `require_client_certificate` is false.
#[test]
fn an_inbound_listener_wants_a_certificate_on_every_address() {
    let at: Vec<SocketAddr> = vec!["127.0.0.1:8080".parse().unwrap(), "[::1]:8080".parse().unwrap()];
    let bind: Vec<std::net::IpAddr> = at.iter().map(SocketAddr::ip).collect();
    let made =
        listeners::inbound(8080, &bind, &at, PortProtocol::Http, &["b.shop.svc.cluster.local".to_owned()]).unwrap();
    let listener = Listener::decode(made.body.clone()).unwrap();
    assert_eq!((listener.name.as_str(), listener.additional_addresses.len()), ("inbound|8080", 1));
    let ours = &listener.metadata.as_ref().unwrap().filter_metadata["meshfed"].fields;
    assert!(format!("{:?}", ours["services"]).contains("b.shop.svc.cluster.local"), "{ours:?}");
    let socket = listener.filter_chains[0].transport_socket.clone().unwrap();
    let Some(envoy_types::pb::envoy::config::core::v3::transport_socket::ConfigType::TypedConfig(any)) =
        socket.config_type
    else {
        panic!()
    };
    let context = envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::DownstreamTlsContext::decode(
        any.value.as_slice(),
    )
    .unwrap();
    assert!(context.require_client_certificate.unwrap().value);
    assert!(listeners::inbound(8080, &bind, &[], PortProtocol::Http, &[]).is_none());
}

fn captured_inbound(strict: bool) -> Listener {
    let at: [SocketAddr; 1] = ["0.0.0.0:15006".parse().unwrap()];
    let ports =
        [(80, Some(PortProtocol::Http)), (3306, Some(PortProtocol::Tcp)), (9101, None)].map(|(port, protocol)| {
            captured::CapturedPort { port, protocol, services: vec!["b.shop.svc.cluster.local".to_owned()] }
        });
    Listener::decode(captured::inbound(&[at[0].ip()], &at, &ports, strict).unwrap().body.clone()).unwrap()
}

/// On ports of which nobody says what they speak (9101, and all that the workload does not declare) HTTP/1 has chains of its
/// own, for mesh peers and for others; where it is said, nothing is looked for.
///
/// Mutations seen to fail: `HTTP_1` of the mesh chain replaced by `[]`; `others` says `Some(PortProtocol::Tcp)`; `declared`
/// of `inbound` is empty.
#[test]
fn http_has_chains_of_its_own_where_nobody_says_what_a_port_speaks() {
    let of = |listener: &Listener, port: Option<u32>| -> Vec<(String, String, bool, bool)> {
        let wanted = |c: &&FilterChain| {
            let said = c.filter_chain_match.as_ref().unwrap();
            said.destination_port.as_ref().map(|p| p.value) == port
        };
        let filter = |c: &FilterChain| match &c.filters[0].config_type {
            Some(ConfigType::TypedConfig(any)) => any.type_url.ends_with("HttpConnectionManager"),
            _ => panic!(),
        };
        let shown = |c: &FilterChain| {
            let said = c.filter_chain_match.as_ref().unwrap();
            let protocols = said.application_protocols.join(",");
            (said.transport_protocol.clone(), protocols, c.transport_socket.is_some(), filter(c))
        };
        listener.filter_chains.iter().filter(wanted).map(shown).collect()
    };
    let row = |transport: &str, protocols: &str, mtls, http| (transport.to_owned(), protocols.to_owned(), mtls, http);
    let http_1 = "http/1.0,http/1.1";
    let (strict, permissive) = (captured_inbound(true), captured_inbound(false));
    for port in [Some(9101), None] {
        assert_eq!(of(&strict, port), [row("", http_1, true, true), row("", "", true, false)]);
        assert_eq!(
            of(&permissive, port),
            [
                row("tls", http_1, true, true),
                row("tls", "", true, false),
                row("raw_buffer", http_1, false, true),
                row("tls", "", false, false),
                row("raw_buffer", "", false, false),
            ]
        );
    }
    assert_eq!(of(&strict, Some(80)), [row("", "", true, true)]);
    assert_eq!(of(&strict, Some(3306)), [row("", "", true, false)]);
    let last = permissive.listener_filters.last().unwrap();
    assert!(last.name.ends_with("http_inspector"), "{last:?}");
    let disabled = format!("{:?}", last.filter_disabled);
    for (port, is_declared) in [(80, true), (3306, true), (9101, false)] {
        assert_eq!(disabled.contains(&format!("start: {port},")), is_declared, "{disabled}");
    }
}

/// Mutation seen to fail: `ENTRIES_MAX` as `usize::MAX`; a wrong port is skipped.
#[test]
fn nodes_are_read_or_refused_by_field() {
    let text = |t: &str| Value { kind: Some(ValueKind::StringValue(t.to_owned())) };
    let map = |all: Vec<(&str, Value)>| Value {
        kind: Some(ValueKind::StructValue(Struct {
            fields: all.into_iter().map(|(k, v)| (k.to_owned(), v)).collect(),
        })),
    };
    let read = |id: &str, all: Vec<(&str, Value)>| {
        Node::parse(id, "envoy", Some(&Struct { fields: [("meshfed".to_owned(), map(all))].into_iter().collect() }))
    };
    let node = read(
        "x",
        vec![
            ("workload", text("shop/a")),
            ("inbound", map(vec![("8080", text("127.1.0.11:18080"))])),
            (
                "outbound",
                map(vec![
                    ("127.0.0.1:9000", text("b.shop.svc.clusterset.local:8080")),
                    ("127.0.0.1:9001", text("b.shop")),
                ]),
            ),
            ("listen", map(vec![("outbound", text("127.2.0.10:15001"))])),
        ],
    )
    .unwrap();
    assert_eq!(node.inbound[&8080], "127.1.0.11:18080".parse().unwrap());
    assert_eq!(node.outbound[0].1, b(Domain::Clusterset));
    assert_eq!(node.outbound[1].1.to_string(), "outbound|80||b.shop.svc.cluster.local");
    assert_eq!(node.listen_outbound, Some(vec!["127.2.0.10:15001".parse().unwrap()]));
    assert!(node.envoy && node.listen_gateway.is_none());
    let by_id = read("sidecar~127.0.0.1~a-1.shop~shop.svc.cluster.local", vec![]).unwrap();
    assert_eq!(by_id.claim, Claim::Object(Namespace::new("shop").unwrap(), "a-1".to_owned()));
    for (id, all, want) in [
        ("x", vec![], "names no workload"),
        ("x", vec![("workload", text("shop"))], "metadata.meshfed.workload"),
        ("x", vec![("workload", text("shop/a")), ("mode", text("router"))], "metadata.meshfed.mode"),
        ("x", vec![("workload", text("shop/a")), ("bind", text("nowhere"))], "metadata.meshfed.bind"),
        (
            "x",
            vec![("workload", text("shop/a")), ("inbound", map(vec![("http", text("127.0.0.1:1"))]))],
            "metadata.meshfed.inbound",
        ),
        (
            "x",
            vec![("workload", text("shop/a")), ("outbound", map(vec![("127.0.0.1:1", text("www.example.com.uk:80"))]))],
            "metadata.meshfed.outbound",
        ),
    ] {
        let error = read(id, all).unwrap_err().to_string();
        assert!(error.contains(want), "{want}: {error}");
    }
    let many = (0..=256).map(|n| Value { kind: Some(ValueKind::StringValue(format!("10.0.0.{}", n % 256))) }).collect();
    let many = Value { kind: Some(ValueKind::ListValue(prost_types::ListValue { values: many })) };
    assert!(
        read("x", vec![("workload", text("shop/a")), ("bind", many)]).unwrap_err().to_string().contains("at most 256")
    );
}
