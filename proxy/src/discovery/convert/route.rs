//! Pure. `RouteConfiguration` at the border.

use std::time::Duration;

use envoy_types::pb::envoy::config::route::v3 as xds;

use super::{ActionSpec, Invalid, RouteSpec, invalid};
use crate::state::RoutePolicy;

/// Most retries of one request.
const RETRIES_MAX: u32 = 10;
/// Envoy's conditions that mean "no application saw the request"; others are not known here.
const RETRY_ON: [&str; 3] = ["connect-failure", "refused-stream", "reset-before-request"];

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
    let retries = match &to.retry_policy {
        None => 0,
        Some(retry) => {
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
    Ok(RoutePolicy { timeout, retries })
}
