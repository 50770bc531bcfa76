//! Pure. Names of single endpoints (`contracts.md` 1.10): a headless service offers a group for each ready one.

use std::net::{IpAddr, Ipv6Addr};

use meshfed_model::names::{ServiceName, SubsetName};
use meshfed_model::service::ServiceType;
use meshfed_model::sni::{CLUSTERSET_DOMAIN, SNI_MAX, sni};

use super::{Endpoint, LocalService};

/// The name of an endpoint that has no hostname: its address with `-` for `.` and `:`. An IPv6 address whose short form
/// begins or ends with `:` is written out, because a name may not begin or end with `-`.
#[must_use]
pub fn endpoint_name(address: IpAddr) -> Option<SubsetName> {
    let name = |text: String| SubsetName::new(text.replace(['.', ':'], "-")).ok().filter(|n| !n.is_all());
    match address {
        IpAddr::V4(_) => name(address.to_string()),
        IpAddr::V6(v6) => name(address.to_string()).or_else(|| name(written_out(v6))),
    }
}

fn written_out(address: Ipv6Addr) -> String {
    address.segments().map(|s| format!("{s:x}")).join(":")
}

/// Whether a name is that of the endpoint with this address.
#[must_use]
pub fn names_endpoint(name: &SubsetName, address: IpAddr) -> bool {
    !name.is_all() && endpoint_name(address).as_ref() == Some(name)
}

impl LocalService {
    /// Whether it has no address of its own.
    #[must_use]
    pub fn is_headless(&self) -> bool {
        self.service_type == ServiceType::Headless
    }

    /// Its ready endpoints that can be offered, each under the name of its first address. A name that no server name has
    /// room for is left out.
    pub fn names(&self) -> impl Iterator<Item = (SubsetName, &Endpoint)> {
        let offered = self.endpoints.values().flatten().filter(|e| e.ready && e.offered);
        offered
            .filter_map(|e| Some((endpoint_name(*e.addresses.first()?)?, e)))
            .filter(|(name, e)| fits(&self.name, e.port, name))
    }
}

fn fits(service: &ServiceName, port: u16, name: &SubsetName) -> bool {
    sni(service, port, name, CLUSTERSET_DOMAIN).len() <= SNI_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mutation seen to fail: `written_out` not tried.
    #[test]
    fn every_address_has_a_name() {
        for (address, name) in [
            ("10.0.0.7", "10-0-0-7"),
            ("fd00::7", "fd00--7"),
            ("fd00::", "fd00-0-0-0-0-0-0-0"),
            ("::1", "0-0-0-0-0-0-0-1"),
        ] {
            let address: IpAddr = address.parse().unwrap();
            let named = endpoint_name(address).unwrap();
            assert_eq!(named.as_str(), name);
            assert!(names_endpoint(&named, address));
            assert!(!names_endpoint(&SubsetName::all(), address));
        }
    }
}
