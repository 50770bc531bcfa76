//! Pure. `RouteConfiguration` at the border.

use envoy_types::pb::envoy::config::route::v3 as xds;

use super::{ActionSpec, Invalid, RouteSpec, invalid};

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
                Ok(ActionSpec::Cluster(name.clone()))
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
