use envoy_types::pb::envoy::config::cluster::v3 as cds;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::listener::v3 as lds;
use envoy_types::pb::envoy::config::route::v3 as rds;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3 as tcp_proxy;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3 as tls;
use envoy_types::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};
use envoy_types::pb::google::protobuf as pb;
use prost::Message;

use super::*;

fn any<M: Message>(name: &str, body: &M) -> Any {
    Any { type_url: format!("type.googleapis.com/{name}"), value: body.encode_to_vec() }
}

fn socket<M: Message>(name: &str, body: &M) -> core::TransportSocket {
    core::TransportSocket {
        name: "tls".to_owned(),
        config_type: Some(core::transport_socket::ConfigType::TypedConfig(any(name, body))),
    }
}

fn uri(matcher: MatchPattern) -> tls::SubjectAltNameMatcher {
    tls::SubjectAltNameMatcher {
        san_type: tls::subject_alt_name_matcher::SanType::Uri as i32,
        matcher: Some(StringMatcher { match_pattern: Some(matcher), ..Default::default() }),
        ..Default::default()
    }
}

fn secret(name: &str) -> tls::SdsSecretConfig {
    tls::SdsSecretConfig { name: name.to_owned(), sds_config: None }
}

fn common(peers: Vec<tls::SubjectAltNameMatcher>) -> tls::CommonTlsContext {
    use tls::common_tls_context::{CombinedCertificateValidationContext, ValidationContextType};
    let expected = tls::CertificateValidationContext { match_typed_subject_alt_names: peers, ..Default::default() };
    tls::CommonTlsContext {
        tls_certificate_sds_secret_configs: vec![secret("default")],
        alpn_protocols: vec!["http/1.1".to_owned()],
        validation_context_type: Some(ValidationContextType::CombinedValidationContext(
            CombinedCertificateValidationContext {
                default_validation_context: Some(expected),
                validation_context_sds_secret_config: Some(secret("trust")),
                ..Default::default()
            },
        )),
        ..Default::default()
    }
}

fn eds(peers: Vec<tls::SubjectAltNameMatcher>) -> Result<ClusterSpec, Invalid> {
    let context = tls::UpstreamTlsContext {
        sni: "outbound_.8080_._.b.shop.svc.clusterset.local".to_owned(),
        common_tls_context: Some(common(peers)),
        ..Default::default()
    };
    cluster(&cds::Cluster {
        name: "outbound|8080||b.shop.svc.clusterset.local".to_owned(),
        cluster_discovery_type: Some(cds::cluster::ClusterDiscoveryType::Type(cds::cluster::DiscoveryType::Eds as i32)),
        transport_socket_matches: vec![cds::cluster::TransportSocketMatch {
            name: "east".to_owned(),
            r#match: Some(Struct {
                fields: [(
                    "cluster".to_owned(),
                    pb::Value { kind: Some(pb::value::Kind::StringValue("east".to_owned())) },
                )]
                .into(),
            }),
            transport_socket: Some(socket("envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext", &context)),
        }],
        ..Default::default()
    })
}

/// Mutations seen to fail: `retry_budget` not looked at; `* 100.0` left out of `retry_limit`.
#[test]
fn a_retry_budget_counts_before_max_retries() {
    use cds::circuit_breakers::{Thresholds, thresholds::RetryBudget};

    use crate::state::RetryLimit;
    let number = |value| Some(pb::UInt32Value { value });
    let percent = |value| Some(envoy_types::pb::envoy::r#type::v3::Percent { value });
    let read = |thresholds: Option<Thresholds>| {
        let message = cds::Cluster {
            circuit_breakers: thresholds
                .map(|t| cds::CircuitBreakers { thresholds: vec![t], ..cds::CircuitBreakers::default() }),
            cluster_discovery_type: Some(cds::cluster::ClusterDiscoveryType::Type(
                cds::cluster::DiscoveryType::Eds as i32,
            )),
            ..Default::default()
        };
        cluster(&message).unwrap().circuit_breakers.retries
    };
    let with = |max_retries, retry_budget| read(Some(Thresholds { max_retries, retry_budget, ..Default::default() }));
    let budget = |budget_percent, min_retry_concurrency| {
        Some(RetryBudget { budget_percent, min_retry_concurrency, ..RetryBudget::default() })
    };
    let limit = |share, least| RetryLimit::Budget { share, least };
    assert_eq!(read(None), limit(2_000, 3));
    assert_eq!(with(None, None), limit(2_000, 3));
    assert_eq!(with(number(7), None), RetryLimit::Fixed(7));
    assert_eq!(with(number(7), budget(None, None)), limit(2_000, 3));
    assert_eq!(with(number(7), budget(percent(12.5), number(0))), limit(1_250, 0));
    assert_eq!(with(None, budget(percent(f64::NAN), number(9))), limit(0, 9));
    assert_eq!(with(None, budget(percent(1e9), None)), limit(10_000, 3));
}

const B: &str = "spiffe://east.mesh.example/ns/shop/sa/b";

/// Mutation seen to fail: `if identities.is_empty()` of `validation` replaced by `if false`.
#[test]
fn a_cluster_expects_exact_identities_or_is_refused() {
    let spec = eds(vec![uri(MatchPattern::Exact(B.to_owned()))]).unwrap();
    let (name, matches, TransportSpec::Tls { identities, identity, trust, alpn, .. }) = &spec.matches[0] else {
        panic!()
    };
    assert_eq!((name.as_str(), matches[0].1.as_str()), ("east", "east"));
    assert_eq!(identities.iter().map(ToString::to_string).collect::<Vec<_>>(), [B]);
    assert_eq!((identity.as_str(), trust.as_str(), alpn.len()), ("default", "trust", 1));
    for bad in [
        vec![],
        vec![uri(MatchPattern::Prefix("spiffe://east".to_owned()))],
        vec![uri(MatchPattern::Exact("https://east/ns/shop/sa/b".to_owned()))],
        vec![tls::SubjectAltNameMatcher { san_type: 2, ..uri(MatchPattern::Exact("b.local".to_owned())) }],
    ] {
        assert_eq!(eds(bad).unwrap_err().field, "match_typed_subject_alt_names");
    }
}

fn chain(require: bool, with_tls: bool) -> lds::FilterChain {
    let proxy = tcp_proxy::TcpProxy {
        cluster_specifier: Some(tcp_proxy::tcp_proxy::ClusterSpecifier::Cluster("inbound|9000||".to_owned())),
        ..Default::default()
    };
    let context = tls::DownstreamTlsContext {
        common_tls_context: Some(tls::CommonTlsContext {
            validation_context_type: Some(
                tls::common_tls_context::ValidationContextType::ValidationContextSdsSecretConfig(secret(
                    "inbound|9000",
                )),
            ),
            ..common(vec![])
        }),
        require_client_certificate: Some(pb::BoolValue { value: require }),
        ..Default::default()
    };
    lds::FilterChain {
        filters: vec![lds::Filter {
            config_type: Some(lds::filter::ConfigType::TypedConfig(any(
                "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
                &proxy,
            ))),
            ..Default::default()
        }],
        transport_socket: with_tls
            .then(|| socket("envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext", &context)),
        ..Default::default()
    }
}

fn message(name: &str, filter_chains: Vec<lds::FilterChain>) -> lds::Listener {
    let port = core::socket_address::PortSpecifier::PortValue(9000);
    let at = core::SocketAddress { address: "127.1.0.1".to_owned(), port_specifier: Some(port), ..Default::default() };
    lds::Listener {
        name: name.to_owned(),
        address: Some(core::Address { address: Some(core::address::Address::SocketAddress(at)) }),
        filter_chains,
        ..Default::default()
    }
}

fn inbound(require: bool, with_tls: bool) -> Result<ListenerSpec, Invalid> {
    listener(&message("inbound|9000", vec![chain(require, with_tls)]))
}

/// The chains of one captured port: mTLS, and with `plain` what is none.
fn captured(port: Option<u32>, plain: bool) -> Vec<lds::FilterChain> {
    let matched = |with_tls, transport: &str| lds::FilterChain {
        filter_chain_match: Some(lds::FilterChainMatch {
            destination_port: port.map(|value| pb::UInt32Value { value }),
            transport_protocol: transport.to_owned(),
            ..Default::default()
        }),
        ..chain(true, with_tls)
    };
    let strict = vec![matched(true, "")];
    if plain { vec![matched(true, "tls"), matched(false, "tls"), matched(false, "raw_buffer")] } else { strict }
}

/// Mutations seen to fail: `plain: true` always; the listener's own port not passed over; `use_original_dst` not looked at.
#[test]
fn a_captured_workload_takes_by_port_what_its_chains_take() {
    let own = lds::FilterChain { transport_socket: None, ..captured(Some(9000), false).remove(0) };
    let chains = [vec![own], captured(Some(8080), true), captured(None, false)].concat();
    let original = Some(pb::BoolValue { value: true });
    let good = lds::Listener { use_original_dst: original, ..message("virtualInbound", chains) };
    let ListenerSpecKind::CapturedInbound { ports, others } = listener(&good).unwrap().kind else { panic!() };
    assert_eq!(ports.iter().map(|(number, port)| (*number, port.plain)).collect::<Vec<_>>(), [(8080, true)]);
    assert!(others.is_some_and(|port| !port.plain && port.cluster == "inbound|9000||"));
    let refused = |listener_of: lds::Listener| listener(&listener_of).unwrap_err().field;
    assert_eq!(refused(lds::Listener { use_original_dst: None, ..good.clone() }), "use_original_dst");
    let without_tls = vec![chain(true, false)];
    assert_eq!(refused(lds::Listener { filter_chains: without_tls, ..good.clone() }), "filter_chains");
    let mut halves = captured(Some(8080), true);
    halves.truncate(2);
    assert_eq!(refused(lds::Listener { filter_chains: halves, ..good }), "filter_chains");
}

/// Beside each chain of bytes one of HTTP that carries its own routes: the port does not say what it speaks.
fn unsaid(port: u32, plain: bool) -> Vec<lds::FilterChain> {
    let of_http = |chain: &lds::FilterChain| {
        let mut http = chain.clone();
        http.filter_chain_match.as_mut().unwrap().application_protocols = vec!["http/1.1".to_owned()];
        let manager = hcm::HttpConnectionManager {
            route_specifier: Some(hcm::http_connection_manager::RouteSpecifier::RouteConfig(
                rds::RouteConfiguration::default(),
            )),
            ..Default::default()
        };
        let name = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
        let filter = lds::filter::ConfigType::TypedConfig(any(name, &manager));
        http.filters = vec![lds::Filter { config_type: Some(filter), ..Default::default() }];
        http
    };
    let bytes = captured(Some(port), plain);
    let http: Vec<_> = bytes
        .iter()
        .filter(|c| c.transport_socket.is_some() || c.filter_chain_match.as_ref().unwrap().transport_protocol != "tls")
        .map(of_http)
        .collect();
    [http, bytes].concat()
}

/// Mutations seen to fail: `unsaid` is `None` always; the check that both sides look for HTTP or neither left out; other
/// `application_protocols` taken.
#[test]
fn a_port_that_does_not_say_what_it_speaks_has_chains_for_http_and_bytes() {
    let original = Some(pb::BoolValue { value: true });
    let of = |chains: Vec<lds::FilterChain>| {
        let timeout = Some(pb::Duration { seconds: 0, nanos: 150_000_000 });
        let whole = lds::Listener {
            use_original_dst: original,
            listener_filters_timeout: timeout,
            ..message("virtualInbound", chains)
        };
        listener(&whole).map(|spec| {
            let ListenerSpecKind::CapturedInbound { ports, .. } = spec.kind else { panic!() };
            ports
        })
    };
    let ports = of([unsaid(8080, true), unsaid(8081, false), captured(Some(8082), true)].concat()).unwrap();
    let patience = |port: u16| ports[&port].unsaid.as_ref().map(|(_, patience)| patience.as_millis());
    assert_eq!([8080, 8081, 8082].map(patience), [Some(150), Some(150), None]);
    assert!([8080, 8082].map(|port| ports[&port].plain) == [true, true] && !ports[&8081].plain);
    // One side alone: what the other says would go past it.
    for left_out in [0, 1] {
        let mut one_side = unsaid(8080, true);
        one_side.remove(left_out);
        assert_eq!(of(one_side).unwrap_err().field, "filter_chains", "{left_out}");
    }
    let mut other = unsaid(8080, true);
    other[0].filter_chain_match.as_mut().unwrap().application_protocols = vec!["h2".to_owned()];
    assert_eq!(of(other).unwrap_err().field, "application_protocols");
}

/// Mutation seen to fail: `bind_to_port` not looked at.
#[test]
fn a_service_at_virtual_addresses_has_no_socket() {
    let unbound = Some(pb::BoolValue { value: false });
    let good = message("captured|80||b.shop.svc.cluster.local", vec![chain(true, false)]);
    let good = lds::Listener { bind_to_port: unbound, ..good };
    let spec = listener(&good).unwrap();
    assert!(!spec.bound && matches!(spec.kind, ListenerSpecKind::OutboundTcp { .. }));
    assert_eq!(listener(&lds::Listener { bind_to_port: None, ..good.clone() }).unwrap_err().field, "bind_to_port");
    let twice = lds::Listener { filter_chains: vec![chain(true, false), chain(true, false)], ..good };
    assert_eq!(listener(&twice).unwrap_err().field, "filter_chains");
}

/// Mutation seen to fail: the check of `require_client_certificate` left out.
#[test]
fn an_inbound_listener_that_would_take_anybody_is_refused() {
    let spec = inbound(true, true).unwrap();
    let ListenerSpecKind::InboundTcp { port: 9000, tls, cluster, .. } = spec.kind else { panic!() };
    assert_eq!((tls.trust.as_str(), cluster.as_str()), ("inbound|9000", "inbound|9000||"));
    assert_eq!(inbound(false, true).unwrap_err().field, "require_client_certificate");
    assert_eq!(inbound(true, false).unwrap_err().field, "transport_socket");
}

/// Mutation seen to fail: `m.path_specifier == Some(…)` of `action` replaced by `true`.
#[test]
fn routes_that_this_version_cannot_serve_are_refused() {
    let route = |path: &str, domain: &str| {
        route(&rds::RouteConfiguration {
            name: "15001".to_owned(),
            virtual_hosts: vec![rds::VirtualHost {
                name: "b".to_owned(),
                domains: vec![domain.to_owned()],
                routes: vec![rds::Route {
                    r#match: Some(rds::RouteMatch {
                        path_specifier: Some(rds::route_match::PathSpecifier::Prefix(path.to_owned())),
                        ..Default::default()
                    }),
                    action: Some(rds::route::Action::DirectResponse(rds::DirectResponseAction {
                        status: 421,
                        ..Default::default()
                    })),
                    ..Default::default()
                }],
                ..Default::default()
            }],
            ..Default::default()
        })
    };
    assert_eq!(route("/", "B.Shop:8080").unwrap().hosts["b.shop:8080"], ActionSpec::Respond(421));
    assert_eq!(route("/", "*").unwrap().fallback, Some(ActionSpec::Respond(421)));
    assert_eq!(route("/api", "b").unwrap_err().field, "match");
    assert_eq!(route("/", "*.shop").unwrap_err().field, "domains");
}

/// Timeout and retries are the route's; no timeout and one of 0 are no limit.
///
/// Mutation seen to fail: `.filter(|t| !t.is_zero())` left out; `num_retries` read as 1 always.
#[test]
fn a_route_says_how_long_and_how_often() {
    let duration = |seconds, nanos| Some(pb::Duration { seconds, nanos });
    let policy = |timeout, retry: Option<(&str, Option<u32>)>| -> Result<(Option<u128>, u32), Invalid> {
        let action = rds::RouteAction {
            cluster_specifier: Some(rds::route_action::ClusterSpecifier::Cluster("b".to_owned())),
            timeout,
            retry_policy: retry.map(|(on, n)| rds::RetryPolicy {
                retry_on: on.to_owned(),
                num_retries: n.map(|value| pb::UInt32Value { value }),
                ..Default::default()
            }),
            ..Default::default()
        };
        let everything = rds::route_match::PathSpecifier::Prefix("/".to_owned());
        let route = rds::Route {
            r#match: Some(rds::RouteMatch { path_specifier: Some(everything), ..Default::default() }),
            action: Some(rds::route::Action::Route(action)),
            ..Default::default()
        };
        let host = rds::VirtualHost { domains: vec!["b".to_owned()], routes: vec![route], ..Default::default() };
        let spec = super::route(&rds::RouteConfiguration { virtual_hosts: vec![host], ..Default::default() })?;
        match &spec.hosts["b"] {
            ActionSpec::Cluster(_, policy) => {
                assert!(!policy.heed_peers, "nothing was said about peers");
                Ok((policy.timeout.map(|t| t.as_millis()), policy.retries))
            }
            ActionSpec::Respond(status) => panic!("{status}"),
        }
    };
    assert_eq!(policy(None, None), Ok((None, 0)));
    assert_eq!(policy(duration(0, 0), Some(("connect-failure,refused-stream", Some(2)))), Ok((None, 2)));
    assert_eq!(policy(duration(1, 500_000_000), Some(("connect-failure", None))), Ok((Some(1500), 1)));
    assert_eq!(policy(duration(-1, 0), None).unwrap_err().field, "timeout");
    assert_eq!(policy(duration(1, -1), None).unwrap_err().field, "timeout");
    assert_eq!(policy(None, Some(("5xx", Some(2)))).unwrap_err().field, "retry_policy.retry_on");
    assert_eq!(policy(None, Some(("connect-failure", Some(11)))).unwrap_err().field, "retry_policy.num_retries");
}

/// Mutation seen to fail: `header.name == REASON_HEADER` left out of `heeds_peers`.
#[test]
fn only_our_own_header_makes_an_answer_one_to_try_again() {
    use rds::header_matcher::HeaderMatchSpecifier::{PresentMatch, StringMatch};
    let exact = |word: &str| {
        StringMatch(StringMatcher { match_pattern: Some(MatchPattern::Exact(word.to_owned())), ..Default::default() })
    };
    let heeds = |headers: &[(&str, rds::header_matcher::HeaderMatchSpecifier)]| {
        let matcher = |(name, specifier): &(&str, _)| rds::HeaderMatcher {
            name: (*name).to_owned(),
            header_match_specifier: Some(Clone::clone(specifier)),
            ..Default::default()
        };
        route::heeds_peers(&rds::RetryPolicy {
            retry_on: "connect-failure, retriable-headers".to_owned(),
            retriable_headers: headers.iter().map(matcher).collect(),
            ..Default::default()
        })
    };
    let ours = "x-meshfed-reason";
    assert_eq!(heeds(&[(ours, exact("upstream_connect")), (ours, exact("no_endpoints"))]), Ok(true));
    for bad in [
        vec![],
        vec![(ours, PresentMatch(true))],
        vec![(ours, exact("upstream_reset"))],
        vec![(ours, exact("no_endpoints")), ("x-other", exact("no_endpoints"))],
    ] {
        assert_eq!(heeds(&bad).unwrap_err().field, "retry_policy.retriable_headers");
    }
}

/// Mutation seen to fail: `Err(_) => None` … the message of a broken key holding the key.
#[test]
fn a_broken_secret_is_refused_without_its_content() {
    let inline = |text: &str| {
        Some(core::DataSource {
            specifier: Some(core::data_source::Specifier::InlineString(text.to_owned())),
            ..Default::default()
        })
    };
    let pair = rcgen::generate_simple_self_signed(vec!["b".to_owned()]).unwrap();
    let message = |chain: &str, key: &str| tls::Secret {
        name: "default".to_owned(),
        r#type: Some(tls::secret::Type::TlsCertificate(tls::TlsCertificate {
            certificate_chain: inline(chain),
            private_key: inline(key),
            ..Default::default()
        })),
    };
    let no_svid = super::secret(&message(&pair.cert.pem(), &pair.signing_key.serialize_pem())).unwrap_err();
    assert_eq!(no_svid.field, "certificate_chain");
    let no_key = super::secret(&message(&pair.cert.pem(), "-----BEGIN top secret")).unwrap_err();
    assert_eq!((no_key.field, no_key.why.contains("top")), ("private_key", false));
    assert_eq!(super::secret(&message("", "x")).unwrap_err().why, "holds no certificate");
}
