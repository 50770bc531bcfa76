//! Pure. `Cluster` at the border.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3 as xds;
use envoy_types::pb::envoy::config::cluster::v3::circuit_breakers::Thresholds;
use envoy_types::pb::envoy::config::cluster::v3::cluster::LbPolicy;
use envoy_types::pb::envoy::config::core::v3::{TransportSocket, transport_socket};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3 as tls;
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use meshfed_model::identity::SpiffeId;
use rustls_pki_types::ServerName;

use super::{ClusterSpec, EndpointSource, Invalid, TransportSpec, assignment, decode, invalid, ip, strings};
use crate::state::{CircuitBreakers, RetryLimit};

const RAW_BUFFER: &str = "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer";
const UPSTREAM_TLS: &str = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";
/// Envoy's default.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Converts a cluster.
///
/// # Errors
/// [`Invalid`].
pub fn cluster(message: &xds::Cluster) -> Result<ClusterSpec, Invalid> {
    let endpoints = match &message.cluster_discovery_type {
        Some(xds::cluster::ClusterDiscoveryType::Type(t)) => match xds::cluster::DiscoveryType::try_from(*t) {
            Ok(xds::cluster::DiscoveryType::Eds) => {
                let name = message.eds_cluster_config.as_ref().map_or("", |c| c.service_name.as_str());
                EndpointSource::Discovered(if name.is_empty() { &message.name } else { name }.to_owned())
            }
            Ok(xds::cluster::DiscoveryType::Static) => {
                EndpointSource::Fixed(assignment(&message.load_assignment.clone().unwrap_or_default())?)
            }
            Ok(xds::cluster::DiscoveryType::OriginalDst) => EndpointSource::OriginalDestination,
            Ok(xds::cluster::DiscoveryType::StrictDns | xds::cluster::DiscoveryType::LogicalDns) | Err(_) => {
                return invalid("type", "only EDS, STATIC and ORIGINAL_DST clusters are known here");
            }
        },
        Some(xds::cluster::ClusterDiscoveryType::ClusterType(_)) => {
            return invalid("cluster_type", "only EDS, STATIC and ORIGINAL_DST clusters are known here");
        }
        // Type is an enum whose default, STATIC, may be left out.
        None => EndpointSource::Fixed(assignment(&message.load_assignment.clone().unwrap_or_default())?),
    };
    let mut matches = Vec::with_capacity(message.transport_socket_matches.len());
    for m in &message.transport_socket_matches {
        matches.push((m.name.clone(), strings(m.r#match.as_ref()), transport(m.transport_socket.as_ref())?));
    }
    let mut source: Vec<IpAddr> = Vec::new();
    if let Some(bind) = &message.upstream_bind_config {
        let more = bind.extra_source_addresses.iter().filter_map(|e| e.address.as_ref());
        for address in bind.source_address.iter().chain(more) {
            let address = ip(&address.address, "upstream_bind_config")?;
            // As in Envoy, the first of a family counts.
            if !address.is_unspecified() && !source.iter().any(|s| s.is_ipv4() == address.is_ipv4()) {
                source.push(address);
            }
        }
    }
    Ok(ClusterSpec {
        connect_timeout: timeout(message),
        // How the choice is made is ours to say; that it is by the client's address is theirs.
        sticky: [LbPolicy::Maglev, LbPolicy::RingHash].iter().any(|p| *p as i32 == message.lb_policy),
        circuit_breakers: breakers(message),
        source,
        matches,
        default_transport: transport(message.transport_socket.as_ref())?,
        endpoints,
    })
}

fn timeout(message: &xds::Cluster) -> Duration {
    message.connect_timeout.as_ref().map_or(CONNECT_TIMEOUT, |d| {
        let nanos = u32::try_from(d.nanos).unwrap_or(0);
        let timeout = Duration::new(u64::try_from(d.seconds).unwrap_or(0), nanos.min(999_999_999));
        if timeout.is_zero() { CONNECT_TIMEOUT } else { timeout }
    })
}

fn breakers(message: &xds::Cluster) -> CircuitBreakers {
    let mut breakers = CircuitBreakers::default();
    let threshold = message.circuit_breakers.as_ref().and_then(|c| c.thresholds.iter().find(|t| t.priority == 0));
    if let Some(t) = threshold {
        let set = |to: &mut u32, from: Option<u32>| *to = from.unwrap_or(*to);
        set(&mut breakers.max_connections, t.max_connections.as_ref().map(|v| v.value));
        set(&mut breakers.max_pending_requests, t.max_pending_requests.as_ref().map(|v| v.value));
        set(&mut breakers.max_requests, t.max_requests.as_ref().map(|v| v.value));
        if let Some(limit) = retry_limit(t) {
            breakers.retries = limit;
        }
    }
    breakers
}

/// A budget counts and not `max_retries`, where both are said; Envoy's values where it says none of its own.
fn retry_limit(t: &Thresholds) -> Option<RetryLimit> {
    let Some(budget) = &t.retry_budget else { return t.max_retries.as_ref().map(|v| RetryLimit::Fixed(v.value)) };
    let (default_share, default_least) = (20.0, 3);
    let percent = budget.budget_percent.as_ref().map_or(default_share, |p| p.value);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 10,000; no number is 0")]
    let share = (percent.clamp(0.0, 100.0) * 100.0).round() as u32;
    let least = budget.min_retry_concurrency.as_ref().map_or(default_least, |v| v.value);
    Some(RetryLimit::Budget { share, least })
}

fn transport(socket: Option<&TransportSocket>) -> Result<TransportSpec, Invalid> {
    let Some(socket) = socket else { return Ok(TransportSpec::Plaintext) };
    let any = socket.config_type.as_ref().map(|transport_socket::ConfigType::TypedConfig(any)| any);
    if any.is_some_and(|a| a.type_url.ends_with(RAW_BUFFER)) || (any.is_none() && socket.name.contains("raw_buffer")) {
        return Ok(TransportSpec::Plaintext);
    }
    let context: tls::UpstreamTlsContext = decode(any, "transport_socket", UPSTREAM_TLS)?;
    let Some(common) = context.common_tls_context else { return invalid("common_tls_context", "is missing") };
    let sni = ServerName::try_from(context.sni.clone())
        .map_err(|_form| Invalid { field: "sni", why: format!("'{}' is no server name", context.sni) })?;
    let (trust, identities) = validation(&common)?;
    Ok(TransportSpec::Tls {
        sni,
        alpn: common.alpn_protocols.iter().map(|p| p.clone().into_bytes()).collect(),
        identities,
        identity: identity_secret(&common)?,
        trust,
    })
}

pub(super) fn identity_secret(common: &tls::CommonTlsContext) -> Result<String, Invalid> {
    match common.tls_certificate_sds_secret_configs.as_slice() {
        [one] if !one.name.is_empty() => Ok(one.name.clone()),
        _ => invalid("tls_certificate_sds_secret_configs", "exactly one secret is needed"),
    }
}

/// The bundles' secret and the expected identities. A transport that expects nobody in particular is refused: it would
/// take everybody for the service.
fn validation(common: &tls::CommonTlsContext) -> Result<(String, BTreeSet<SpiffeId>), Invalid> {
    use tls::common_tls_context::ValidationContextType as Type;
    let Some(Type::CombinedValidationContext(combined)) = &common.validation_context_type else {
        return invalid("validation_context", "a combined validation context is needed");
    };
    let secret = combined.validation_context_sds_secret_config.as_ref().map_or("", |s| s.name.as_str());
    if secret.is_empty() {
        return invalid("validation_context_sds_secret_config", "names no secret");
    }
    let mut identities = BTreeSet::new();
    let matchers = combined.default_validation_context.as_ref().map_or(&[][..], |c| &c.match_typed_subject_alt_names);
    for matcher in matchers {
        if matcher.san_type != tls::subject_alt_name_matcher::SanType::Uri as i32 {
            return invalid("match_typed_subject_alt_names", "only URI names identify peers");
        }
        let Some(MatchPattern::Exact(uri)) = matcher.matcher.as_ref().and_then(|m| m.match_pattern.as_ref()) else {
            return invalid("match_typed_subject_alt_names", "only exact matches are known here");
        };
        let id: SpiffeId = uri.parse().map_err(|_form| Invalid {
            field: "match_typed_subject_alt_names",
            why: format!("'{uri}' is no SPIFFE ID"),
        })?;
        identities.insert(id);
    }
    if identities.is_empty() {
        return invalid("match_typed_subject_alt_names", "no identity is expected, so anybody would be taken");
    }
    Ok((secret.to_owned(), identities))
}
