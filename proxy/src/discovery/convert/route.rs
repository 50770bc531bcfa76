//! Pure. `RouteConfiguration` at the border.

use std::time::Duration;

use envoy_types::pb::envoy::config::route::v3 as xds;
use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use envoy_types::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern::Exact};

use super::{ActionSpec, Invalid, RouteSpec, invalid};
use crate::state::RoutePolicy;
use crate::telemetry::{REASON_HEADER, Reason};

/// Most retries of one request.
const RETRIES_MAX: u32 = 10;
/// Envoy's conditions that mean "no application saw the request"; others are not known here.
const RETRY_ON: [&str; 4] = ["connect-failure", "refused-stream", "reset-before-request", RETRIABLE_HEADERS];
/// The condition that is a response header; the one known here is ours.
const RETRIABLE_HEADERS: &str = "retriable-headers";

/// Converts a route configuration: exact authorities, one route `/` each.
///
/// # Errors
/// [`Invalid`].
pub fn route(message: &xds::RouteConfiguration) -> Result<RouteSpec, Invalid> {
    let mut spec = RouteSpec { ignore_port: message.ignore_port_in_host_matching, ..RouteSpec::default() };
    for host in &message.virtual_hosts {
        let action = action(host)?;
        for domain in &host.domains {
            if domain == "*" {
                spec.fallback = Some(action.clone());
                continue;
            }
            if domain.is_empty() || domain.contains('*') {
                return invalid("domains", format!("'{domain}': only exact names and * are known here"));
            }
            if spec.hosts.insert(domain.to_ascii_lowercase(), action.clone()).is_some() {
                return invalid("domains", format!("'{domain}' occurs twice"));
            }
        }
    }
    Ok(spec)
}

fn action(host: &xds::VirtualHost) -> Result<ActionSpec, Invalid> {
    let [route] = host.routes.as_slice() else {
        return invalid(
            "routes",
            format!("virtual host '{}' has {} routes; exactly one is known here", host.name, host.routes.len()),
        );
    };
    let everything = route.r#match.as_ref().is_some_and(|m| {
        m.headers.is_empty()
            && m.query_parameters.is_empty()
            && m.cookies.is_empty()
            && m.grpc.is_none()
            && m.path_specifier == Some(xds::route_match::PathSpecifier::Prefix("/".to_owned()))
    });
    if !everything {
        return invalid("match", format!("virtual host '{}': only the prefix / is known here", host.name));
    }
    match &route.action {
        Some(xds::route::Action::Route(to)) => match &to.cluster_specifier {
            Some(xds::route_action::ClusterSpecifier::Cluster(name)) if !name.is_empty() => {
                Ok(ActionSpec::Cluster(name.clone(), policy(to)?))
            }
            Some(
                xds::route_action::ClusterSpecifier::Cluster(_)
                | xds::route_action::ClusterSpecifier::ClusterHeader(_)
                | xds::route_action::ClusterSpecifier::WeightedClusters(_)
                | xds::route_action::ClusterSpecifier::ClusterSpecifierPlugin(_)
                | xds::route_action::ClusterSpecifier::InlineClusterSpecifierPlugin(_),
            )
            | None => invalid("cluster", format!("virtual host '{}': only one named cluster is known here", host.name)),
        },
        Some(xds::route::Action::DirectResponse(r)) => match u16::try_from(r.status) {
            Ok(status @ 200..=599) => Ok(ActionSpec::Respond(status)),
            Ok(_) | Err(_) => invalid("status", format!("{} is no status that can be answered", r.status)),
        },
        Some(
            xds::route::Action::Redirect(_)
            | xds::route::Action::FilterAction(_)
            | xds::route::Action::NonForwardingAction(_),
        )
        | None => {
            invalid("action", format!("virtual host '{}': only route and direct_response are known here", host.name))
        }
    }
}

/// Timeout and retries of a route. No timeout is no limit, as in Istio; a plain Envoy would take 15 s.
fn policy(to: &xds::RouteAction) -> Result<RoutePolicy, Invalid> {
    let timeout = match &to.timeout {
        None => None,
        Some(d) => {
            let (Ok(seconds), Ok(nanos @ 0..=999_999_999)) = (u64::try_from(d.seconds), u32::try_from(d.nanos)) else {
                return invalid("timeout", format!("{} s and {} ns are no duration", d.seconds, d.nanos));
            };
            Some(Duration::new(seconds, nanos)).filter(|t| !t.is_zero())
        }
    };
    let by_client = |policy: &xds::route_action::HashPolicy| {
        use xds::route_action::hash_policy::PolicySpecifier::ConnectionProperties;
        matches!(&policy.policy_specifier, Some(ConnectionProperties(by)) if by.source_ip)
    };
    if !to.hash_policy.iter().all(by_client) {
        return invalid("hash_policy", "only the client's address is known here");
    }
    let mut heed_peers = false;
    let retries = match &to.retry_policy {
        None => 0,
        Some(retry) => {
            heed_peers = heeds_peers(retry)?;
            if let Some(unknown) = retry.retry_on.split(',').map(str::trim).find(|on| !RETRY_ON.contains(on)) {
                let why = format!("'{unknown}' is not known here; known are {}", RETRY_ON.join(", "));
                return invalid("retry_policy.retry_on", why);
            }
            retry.num_retries.as_ref().map_or(1, |n| n.value)
        }
    };
    if retries > RETRIES_MAX {
        return invalid("retry_policy.num_retries", format!("{retries}, at most {RETRIES_MAX} are taken"));
    }
    Ok(RoutePolicy { timeout, retries, heed_peers })
}

/// Whether the word of a peer's proxy counts: exactly its words, no other header.
pub(super) fn heeds_peers(retry: &xds::RetryPolicy) -> Result<bool, Invalid> {
    if !retry.retry_on.split(',').any(|on| on.trim() == RETRIABLE_HEADERS) {
        return Ok(false);
    }
    let known = |header: &xds::HeaderMatcher| match &header.header_match_specifier {
        Some(HeaderMatchSpecifier::StringMatch(StringMatcher { match_pattern: Some(Exact(word)), .. })) => {
            header.name == REASON_HEADER && !header.invert_match && Reason::never_reached(word.as_bytes()).is_some()
        }
        _ => false,
    };
    if retry.retriable_headers.is_empty() || !retry.retriable_headers.iter().all(known) {
        let why = format!("only {REASON_HEADER} with the words upstream_connect and no_endpoints is known here");
        return invalid("retry_policy.retriable_headers", why);
    }
    Ok(true)
}
