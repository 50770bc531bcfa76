//! Pure. `ClusterLoadAssignment` at the border.

use envoy_types::pb::envoy::config::core::v3::HealthStatus;
use envoy_types::pb::envoy::config::endpoint::v3::{ClusterLoadAssignment, LbEndpoint, lb_endpoint::HostIdentifier};

use super::{Assignment, EndpointSpec, Invalid, invalid, socket_address, strings};

/// Most endpoints of one cluster.
const ENDPOINTS_MAX: usize = 100_000;

/// Converts an assignment. An endpoint that cannot be used refuses the whole of it: shares would be wrong without it.
///
/// # Errors
/// [`Invalid`].
pub fn assignment(message: &ClusterLoadAssignment) -> Result<Assignment, Invalid> {
    let count: usize = message.endpoints.iter().map(|l| l.lb_endpoints.len()).sum();
    if count > ENDPOINTS_MAX {
        return invalid("endpoints", format!("{count}, at most {ENDPOINTS_MAX} are taken"));
    }
    let mut endpoints = Vec::with_capacity(count);
    for group in &message.endpoints {
        let locality = group.locality.as_ref().map_or_else(String::new, |l| {
            [&l.region, &l.zone, &l.sub_zone].map(String::as_str).join("/").trim_end_matches('/').to_owned()
        });
        for endpoint in &group.lb_endpoints {
            endpoints.push(one(endpoint, group.priority, &locality)?);
        }
    }
    Ok(Assignment { endpoints })
}

fn one(message: &LbEndpoint, priority: u32, locality: &str) -> Result<EndpointSpec, Invalid> {
    let address = match &message.host_identifier {
        Some(HostIdentifier::Endpoint(e)) => socket_address(e.address.as_ref(), "endpoint.address")?,
        Some(HostIdentifier::EndpointName(_)) | None => return invalid("endpoint", "has no address of its own"),
    };
    let usable = match HealthStatus::try_from(message.health_status) {
        Ok(HealthStatus::Unknown | HealthStatus::Healthy | HealthStatus::Degraded) => true,
        Ok(HealthStatus::Unhealthy | HealthStatus::Draining | HealthStatus::Timeout) | Err(_) => false,
    };
    let metadata = message.metadata.as_ref().map(|m| &m.filter_metadata);
    let ours = strings(metadata.and_then(|m| m.get("meshfed")));
    let get = |key: &str| ours.iter().find(|(k, _)| k == key).map_or_else(String::new, |(_, v)| v.clone());
    Ok(EndpointSpec {
        address,
        priority,
        weight: message.load_balancing_weight.as_ref().map_or(1, |w| w.value.max(1)),
        usable,
        locality: locality.to_owned(),
        matches: strings(metadata.and_then(|m| m.get("envoy.transport_socket_match"))),
        cluster: get("cluster"),
        network: get("network"),
        service: get("service"),
        via_gateway: get("via") == "gateway",
    })
}
