//! Pure. RDS: which cluster an authority means, for the clients of one namespace, and what an inbound port refuses.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use envoy_types::pb::envoy::config::route::v3::{
    DirectResponseAction, HeaderMatcher, RetryPolicy, Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost,
    header_matcher::HeaderMatchSpecifier,
    retry_policy::{
        RetryHostPredicate, RetryPriority, retry_host_predicate::ConfigType,
        retry_priority::ConfigType as PriorityConfigType,
    },
    route,
    route_action::ClusterSpecifier,
    route_match::PathSpecifier,
};
use envoy_types::pb::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
use envoy_types::pb::envoy::extensions::retry::priority::previous_priorities::v3::PreviousPrioritiesConfig;
use envoy_types::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};
use meshfed_model::names::{Namespace, ServiceName};

use super::facts::ServiceFacts;
use super::messages::{any, seconds, uint32};
use super::names::{Domain, OUTBOUND_ROUTES, inbound as inbound_name, inbound_cluster};
use super::resource::{Kind, Resource};

/// The port of an authority that names none.
const DEFAULT_PORT: u16 = 80;
/// What a proxy says about an answer of its own (`contracts.md` 1.8).
const REASON_HEADER: &str = "x-meshfed-reason";
/// Its words that mean that the request reached no application.
const NEVER_REACHED: [&str; 2] = ["upstream_connect", "no_endpoints"];
/// Misdirected Request (RFC 9110 15.5.20).
const MISDIRECTED: u32 = 421;

/// The short names of an own-cluster service, as clients of `namespace` may use them.
fn short_names(service: &ServiceName, namespace: &Namespace) -> Vec<String> {
    let (name, ns) = (service.name(), &service.namespace);
    let mut all = vec![format!("{name}.{ns}"), format!("{name}.{ns}.svc")];
    if ns == namespace {
        all.push(name.to_owned());
    }
    all
}

/// Routes of clients in `namespace`: one virtual host per host and port.
#[must_use]
pub fn outbound(namespace: &Namespace, services: &BTreeMap<ServiceName, ServiceFacts>) -> Arc<Resource> {
    let mut taken = BTreeSet::new();
    let mut virtual_hosts = Vec::new();
    for (service, facts) in services {
        for (name, _) in facts.outbound(service) {
            let host = name.host();
            let mut hosts = vec![host.clone()];
            if name.domain == Domain::Cluster {
                hosts.extend(short_names(service, namespace));
            }
            let mut domains = Vec::new();
            for host in hosts {
                domains.push(format!("{host}:{}", name.port));
                if name.port == DEFAULT_PORT {
                    domains.push(host);
                }
            }
            // A domain may occur once in a configuration.
            domains.retain(|d| taken.insert(d.clone()));
            if !domains.is_empty() {
                virtual_hosts.push(VirtualHost {
                    name: format!("{host}:{}", name.port),
                    domains,
                    routes: vec![to_cluster(name.to_string(), Some(retries()))],
                    ..VirtualHost::default()
                });
            }
        }
    }
    let routes =
        RouteConfiguration { name: OUTBOUND_ROUTES.to_owned(), virtual_hosts, ..RouteConfiguration::default() };
    Resource::encode(Kind::Route, OUTBOUND_ROUTES, &routes)
}

/// Routes of one inbound port: 421 for the names of other services, everything else goes to the application.
#[must_use]
pub fn inbound(port: u16, others: &[String]) -> Arc<Resource> {
    let mut virtual_hosts = Vec::new();
    if !others.is_empty() {
        let refuse = route::Action::DirectResponse(DirectResponseAction {
            status: MISDIRECTED,
            ..DirectResponseAction::default()
        });
        virtual_hosts.push(VirtualHost {
            name: "other-services".to_owned(),
            domains: others.to_vec(),
            routes: vec![everything(refuse)],
            ..VirtualHost::default()
        });
    }
    virtual_hosts.push(VirtualHost {
        name: inbound_name(port),
        domains: vec!["*".to_owned()],
        routes: vec![to_cluster(inbound_cluster(port), None)],
        ..VirtualHost::default()
    });
    let name = inbound_name(port);
    let routes = RouteConfiguration {
        name: name.clone(),
        virtual_hosts,
        ignore_port_in_host_matching: true,
        ..RouteConfiguration::default()
    };
    Resource::encode(Kind::Route, &name, &routes)
}

/// The host names, without port, of all services but those that hold the workload.
#[must_use]
pub fn other_hosts(
    namespace: &Namespace,
    holding: &BTreeSet<ServiceName>,
    services: &BTreeMap<ServiceName, ServiceFacts>,
) -> Vec<String> {
    let mut names = BTreeSet::new();
    for (service, facts) in services.iter().filter(|(s, _)| !holding.contains(*s)) {
        for domain in facts.domains() {
            names.insert(service.host(domain.as_str()));
            if domain == Domain::Cluster {
                names.extend(short_names(service, namespace));
            }
        }
    }
    for service in holding {
        for own in short_names(service, namespace) {
            names.remove(&own);
        }
    }
    names.into_iter().collect()
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

fn to_cluster(cluster: String, retry_policy: Option<RetryPolicy>) -> Route {
    everything(route::Action::Route(RouteAction {
        cluster_specifier: Some(ClusterSpecifier::Cluster(cluster)),
        // No limit by default: Envoy's own would end long answers after 15 s.
        timeout: seconds(0),
        retry_policy,
        ..RouteAction::default()
    }))
}

/// A failed connect tries another address, and so does the word of a peer's proxy that it reached no application; nothing
/// that may have reached one is repeated. The second retry goes to the next priority: left to itself Envoy stays in the
/// first as long as its hosts count as healthy.
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
        retry_on: "connect-failure,refused-stream,retriable-headers".to_owned(),
        retriable_headers: NEVER_REACHED.iter().map(|word| reason_is(word)).collect(),
        retry_priority: Some(next_priority),
        num_retries: uint32(2),
        retry_host_predicate: vec![previous],
        host_selection_retry_max_attempts: 3,
        ..RetryPolicy::default()
    }
}
