//! Pure. RDS: which cluster an authority means, for the clients of one namespace, and what an inbound port refuses.

use std::collections::BTreeMap;
use std::sync::Arc;

use envoy_types::pb::envoy::config::route::v3::{
    DirectResponseAction, HeaderMatcher, RetryPolicy, Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost,
    header_matcher::HeaderMatchSpecifier,
    retry_policy::{
        RetryHostPredicate, RetryPriority, retry_host_predicate::ConfigType,
        retry_priority::ConfigType as PriorityConfigType,
    },
    route,
    route_action::hash_policy::{ConnectionProperties, PolicySpecifier},
    route_action::{ClusterSpecifier, HashPolicy},
    route_match::PathSpecifier,
};
use envoy_types::pb::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
use envoy_types::pb::envoy::extensions::retry::priority::previous_priorities::v3::PreviousPrioritiesConfig;
use envoy_types::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};
use meshfed_model::names::{Namespace, ServiceName};
use meshfed_model::sorted::SortedSet;
use prost::Message as _;

use super::facts::ServiceFacts;
use super::messages::{any, seconds, uint32};
use super::names::{Domain, OUTBOUND_ROUTES, OutboundName, inbound as inbound_name, inbound_cluster};
use super::resource::{Kind, Resource};
use super::wire::Writer;

/// The port of an authority that names none.
const DEFAULT_PORT: u16 = 80;
/// What a proxy says about an answer of its own (`contracts.md` 1.8).
const REASON_HEADER: &str = "x-meshfed-reason";
/// Its words that mean that the request reached no application.
const NEVER_REACHED: [&str; 2] = ["upstream_connect", "no_endpoints"];
/// Misdirected Request (RFC 9110 15.5.20).
const MISDIRECTED: u32 = 421;

/// Numbers of fields of `envoy.config.route.v3.RouteConfiguration`.
const CONFIGURATION_NAME: u32 = 1;
const CONFIGURATION_VIRTUAL_HOSTS: u32 = 2;

/// The short names of an own-cluster service, as clients of `namespace` may use them (`None`: of another than its own).
fn short_names(service: &ServiceName, namespace: Option<&Namespace>) -> Vec<String> {
    let (name, ns) = (service.name(), &service.namespace);
    let mut all = vec![format!("{name}.{ns}"), format!("{name}.{ns}.svc")];
    if namespace == Some(ns) {
        all.push(name.to_owned());
    }
    all
}

/// What one service is in everybody's routes, encoded once: only the clients of its own namespace know it by its bare
/// name. No two services have a name in common, so the parts of all services together are a configuration.
#[derive(Debug, Clone, Default)]
pub struct ServiceRoutes {
    own: Part,
    others: Part,
}

#[derive(Debug, Clone, Default)]
struct Part {
    /// `RouteConfiguration` with its virtual hosts and nothing else.
    outbound: Vec<u8>,
    /// `VirtualHost` with its host names, without port, and nothing else.
    hosts: Vec<u8>,
}

/// The parts of all services. Messages of one type that follow each other are one message (protobuf): what is made of
/// them is put together, not encoded again.
pub type AllRoutes = BTreeMap<ServiceName, ServiceRoutes>;

impl ServiceRoutes {
    /// Encodes the parts of a service.
    #[must_use]
    pub fn new(service: &ServiceName, facts: &ServiceFacts) -> Self {
        let nowhere = None;
        Self { own: Part::new(service, facts, Some(&service.namespace)), others: Part::new(service, facts, nowhere) }
    }
    fn seen_from(&self, namespace: &Namespace, service: &ServiceName) -> &Part {
        if service.namespace == *namespace { &self.own } else { &self.others }
    }
}

impl Part {
    fn new(service: &ServiceName, facts: &ServiceFacts, namespace: Option<&Namespace>) -> Self {
        let virtual_hosts = facts.outbound(service).map(|(name, _)| virtual_host(&name, namespace)).collect::<Vec<_>>();
        let mut domains = Vec::new();
        for domain in facts.domains() {
            domains.push(service.host(domain.as_str()));
            if domain == Domain::Cluster {
                domains.extend(short_names(service, namespace));
            }
        }
        Self {
            outbound: RouteConfiguration { virtual_hosts, ..RouteConfiguration::default() }.encode_to_vec(),
            hosts: VirtualHost { domains, ..VirtualHost::default() }.encode_to_vec(),
        }
    }
}

fn virtual_host(name: &OutboundName, namespace: Option<&Namespace>) -> VirtualHost {
    let host = name.host();
    let mut hosts = vec![host.clone()];
    if name.domain == Domain::Cluster {
        hosts.extend(short_names(&name.service, namespace));
    }
    let mut domains = Vec::new();
    for host in hosts {
        domains.push(format!("{host}:{}", name.port));
        if name.port == DEFAULT_PORT {
            domains.push(host);
        }
    }
    VirtualHost {
        name: format!("{host}:{}", name.port),
        domains,
        routes: vec![to_cluster(name.to_string(), true, Some(retries()))],
        ..VirtualHost::default()
    }
}

/// Whether a namespace has services of its own: the others all have the same routes.
#[must_use]
pub fn has_own(namespace: &Namespace, services: &AllRoutes) -> bool {
    services.keys().any(|s| s.namespace == *namespace)
}

/// Routes of clients in `namespace`: one virtual host per host and port.
#[must_use]
pub fn outbound(namespace: &Namespace, services: &AllRoutes) -> Arc<Resource> {
    let named = RouteConfiguration { name: OUTBOUND_ROUTES.to_owned(), ..RouteConfiguration::default() };
    let mut body = named.encode_to_vec();
    for (service, routes) in services {
        body.extend_from_slice(&routes.seen_from(namespace, service).outbound);
    }
    Resource::of_bytes(Kind::Route, OUTBOUND_ROUTES, body.into())
}

/// Names of other services, encoded: what the inbound ports of a workload refuse.
#[derive(Debug, Clone, Default)]
pub struct OtherHosts(Vec<u8>);

impl OtherHosts {
    /// These names.
    #[must_use]
    pub fn named(hosts: &[String]) -> Self {
        Self(VirtualHost { domains: hosts.to_vec(), ..VirtualHost::default() }.encode_to_vec())
    }
}

/// The host names, without port, of all services but those that hold the workload.
#[must_use]
pub fn other_hosts(namespace: &Namespace, holding: &SortedSet<ServiceName>, services: &AllRoutes) -> OtherHosts {
    let mut all = Vec::new();
    for (service, routes) in services.iter().filter(|(s, _)| !holding.contains(*s)) {
        all.extend_from_slice(&routes.seen_from(namespace, service).hosts);
    }
    OtherHosts(all)
}

/// Routes of one inbound port: 421 for the names of other services, everything else goes to the application.
///
/// `again`: the application may be at several addresses, and the next one is tried where one takes no connection.
#[must_use]
pub fn inbound(port: u16, others: &OtherHosts, again: bool) -> Arc<Resource> {
    let name = inbound_name(port);
    let mut writer = Writer::with_capacity(others.0.len() + 256);
    writer.text(CONFIGURATION_NAME, &name);
    if !others.0.is_empty() {
        let refuse = route::Action::DirectResponse(DirectResponseAction {
            status: MISDIRECTED,
            ..DirectResponseAction::default()
        });
        let named = VirtualHost { name: "other-services".to_owned(), ..VirtualHost::default() };
        let routes = VirtualHost { routes: vec![everything(refuse)], ..VirtualHost::default() };
        let parts = [named.encode_to_vec(), others.0.clone(), routes.encode_to_vec()];
        writer.bytes(CONFIGURATION_VIRTUAL_HOSTS, &parts.concat());
    }
    let rest = VirtualHost {
        name: name.clone(),
        domains: vec!["*".to_owned()],
        routes: vec![to_cluster(inbound_cluster(port), false, again.then(next_address))],
        ..VirtualHost::default()
    };
    let rest = RouteConfiguration {
        virtual_hosts: vec![rest],
        ignore_port_in_host_matching: true,
        ..RouteConfiguration::default()
    };
    let mut body = writer.into_bytes();
    body.extend(rest.encode_to_vec());
    Resource::of_bytes(Kind::Route, &name, body.into())
}

fn everything(action: route::Action) -> Route {
    Route {
        r#match: Some(RouteMatch {
            path_specifier: Some(PathSpecifier::Prefix("/".to_owned())),
            ..RouteMatch::default()
        }),
        action: Some(action),
        ..Route::default()
    }
}

/// The response header `x-meshfed-reason` (`contracts.md` 1.8) with one word.
fn reason_is(word: &str) -> HeaderMatcher {
    let exact = StringMatcher { match_pattern: Some(MatchPattern::Exact(word.to_owned())), ..StringMatcher::default() };
    HeaderMatcher {
        name: REASON_HEADER.to_owned(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(exact)),
        ..HeaderMatcher::default()
    }
}

/// By the client's address. It is always there and counts where the cluster says so: a service whose affinity changes
/// changes a cluster, and no connection of another service ends.
const fn by_client() -> HashPolicy {
    let source = ConnectionProperties { source_ip: true };
    HashPolicy { policy_specifier: Some(PolicySpecifier::ConnectionProperties(source)), terminal: false }
}

fn to_cluster(cluster: String, outbound: bool, retry_policy: Option<RetryPolicy>) -> Route {
    everything(route::Action::Route(RouteAction {
        cluster_specifier: Some(ClusterSpecifier::Cluster(cluster)),
        // No limit by default: Envoy's own would end long answers after 15 s.
        timeout: seconds(0),
        hash_policy: if outbound { vec![by_client()] } else { Vec::new() },
        retry_policy,
        ..RouteAction::default()
    }))
}

/// Everything to one cluster: the routes of a service that was dialled by its address. The authority is not looked at.
pub(super) fn one_cluster(name: &OutboundName) -> RouteConfiguration {
    let host = VirtualHost {
        name: format!("{}:{}", name.host(), name.port),
        domains: vec!["*".to_owned()],
        routes: vec![to_cluster(name.to_string(), true, Some(retries()))],
        ..VirtualHost::default()
    };
    RouteConfiguration { name: name.to_string(), virtual_hosts: vec![host], ..RouteConfiguration::default() }
}

/// Everything to the application behind an inbound port that does not say what it speaks. The authority is not looked at:
/// a port that serves bytes may stand for anybody. `again`: as for [`inbound`].
pub(super) fn application(name: &str, cluster: String, again: bool) -> RouteConfiguration {
    let host = VirtualHost {
        name: name.to_owned(),
        domains: vec!["*".to_owned()],
        routes: vec![to_cluster(cluster, false, again.then(next_address))],
        ..VirtualHost::default()
    };
    RouteConfiguration { name: name.to_owned(), virtual_hosts: vec![host], ..RouteConfiguration::default() }
}

/// A failed connect tries the next address.
fn next_address() -> RetryPolicy {
    RetryPolicy {
        retry_on: "connect-failure".to_owned(),
        retriable_headers: Vec::new(),
        retry_priority: retries().retry_priority.map(|mut p| {
            p.config_type = Some(PriorityConfigType::TypedConfig(any(
                "envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig",
                &PreviousPrioritiesConfig { update_frequency: 1 },
            )));
            p
        }),
        ..retries()
    }
}

/// A failed connect tries another address, and so do a connection that ended before the request was sent and the word of a
/// peer's proxy that it reached no application. What may have reached one an Envoy does not repeat: its policies do not
/// know methods (decision 28). The second retry goes to the next priority: left to itself Envoy stays in the first as long
/// as its hosts count as healthy.
fn retries() -> RetryPolicy {
    let next_priority = RetryPriority {
        name: "envoy.retry_priorities.previous_priorities".to_owned(),
        config_type: Some(PriorityConfigType::TypedConfig(any(
            "envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig",
            &PreviousPrioritiesConfig { update_frequency: 2 },
        ))),
    };
    let previous = RetryHostPredicate {
        name: "envoy.retry_host_predicates.previous_hosts".to_owned(),
        config_type: Some(ConfigType::TypedConfig(any(
            "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate",
            &PreviousHostsPredicate {},
        ))),
    };
    RetryPolicy {
        retry_on: "connect-failure,refused-stream,reset-before-request,retriable-headers".to_owned(),
        retriable_headers: NEVER_REACHED.iter().map(|word| reason_is(word)).collect(),
        retry_priority: Some(next_priority),
        num_retries: uint32(2),
        retry_host_predicate: vec![previous],
        host_selection_retry_max_attempts: 3,
        ..RetryPolicy::default()
    }
}
