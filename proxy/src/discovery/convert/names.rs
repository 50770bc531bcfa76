//! Pure. The listener of Envoy's DNS filter at the border: a table of names.

use std::net::IpAddr;

use envoy_types::pb::envoy::config::listener::v3 as xds;
use envoy_types::pb::envoy::data::dns::v3::dns_table::DnsVirtualDomain;
use envoy_types::pb::envoy::data::dns::v3::dns_table::dns_endpoint::EndpointConfig;
use envoy_types::pb::envoy::data::dns::v3::dns_table::dns_service_target::EndpointType;
use envoy_types::pb::envoy::extensions::filters::udp::dns_filter::v3::DnsFilterConfig;
use envoy_types::pb::envoy::extensions::filters::udp::dns_filter::v3::dns_filter_config::server_context_config::ConfigSource;
use meshfed_model::sni::CLUSTERSET_DOMAIN;
use meshfed_runtime::dns::{Record, Zone};

use super::listener::texts;
use super::{Invalid, decode, invalid};

/// The listener's name.
pub const NAMES: &str = "dns";
const DNS_FILTER: &str = "envoy.extensions.filters.udp.dns_filter.v3.DnsFilterConfig";
/// The version of the schema of the names, which is ours to say.
const SCHEMA: &str = "1.0.0";

/// Reads the names of the clusterset.
///
/// # Errors
/// [`Invalid`].
pub fn names(message: &xds::Listener) -> Result<Zone, Invalid> {
    let [filter] = message.listener_filters.as_slice() else {
        return invalid("listener_filters", "exactly one, the DNS filter, is known here");
    };
    let any = filter.config_type.as_ref().and_then(|config| match config {
        xds::listener_filter::ConfigType::TypedConfig(any) => Some(any),
        xds::listener_filter::ConfigType::ConfigDiscovery(_) => None,
    });
    let config: DnsFilterConfig = decode(any, "listener_filters", DNS_FILTER)?;
    let Some(ConfigSource::InlineDnsTable(table)) = config.server_config.and_then(|s| s.config_source) else {
        return invalid("server_config", "only an inline table is known here");
    };
    let mut zone = Zone::new(CLUSTERSET_DOMAIN, true);
    zone.add(&format!("dns-version.{CLUSTERSET_DOMAIN}"), Record::Text(SCHEMA.to_owned()));
    for domain in &table.virtual_domains {
        if !zone.holds(&domain.name) {
            return invalid("virtual_domains", format!("'{}' is no name of {CLUSTERSET_DOMAIN}", domain.name));
        }
        add(&mut zone, domain)?;
    }
    let ours = message.metadata.as_ref().and_then(|m| m.filter_metadata.get("meshfed"));
    texts(ours, "names").for_each(|name| zone.name(name));
    Ok(zone)
}

fn add(zone: &mut Zone, domain: &DnsVirtualDomain) -> Result<(), Invalid> {
    let name = &domain.name;
    match domain.endpoint.as_ref().and_then(|e| e.endpoint_config.as_ref()) {
        Some(EndpointConfig::AddressList(list)) => {
            for text in &list.address {
                let address: IpAddr = text.parse().map_err(|_form| Invalid {
                    field: "address_list",
                    why: format!("{name}: '{text}' is no address"),
                })?;
                zone.add(name, Record::Address(address));
            }
        }
        Some(EndpointConfig::ServiceList(list)) => {
            for target in list.services.iter().flat_map(|s| &s.targets) {
                let (Ok(port), Some(EndpointType::HostName(host))) =
                    (u16::try_from(target.port), &target.endpoint_type)
                else {
                    return invalid("service_list", format!("{name}: a target needs a port and a host name"));
                };
                let record = Record::Service(port, host.clone());
                zone.add(name, record.clone());
                // All named ports of a service, at its own name.
                zone.add(host, record);
            }
        }
        Some(EndpointConfig::ClusterName(_)) | None => {
            return invalid("endpoint", format!("{name}: only addresses and services are known here"));
        }
    }
    Ok(())
}
