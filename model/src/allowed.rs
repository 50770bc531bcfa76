//! Pure. What a cluster's token lets it offer: judged by the hub, and again by every importer.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::identity::SpiffeId;
use crate::locality::Locality;
use crate::member::Member;
use crate::names::NetworkName;
use crate::network::{Cidr, address_allowed};
use crate::offer::{OfferKey, OfferValue};
use crate::service::{PortClash, check_ports};

/// The largest weight of one endpoint that is taken (`security.md` INV-7).
pub const WEIGHT_MAX: u32 = 1_000_000;

/// Why a resource is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAllowed {
    /// The address lies outside the ranges.
    #[error(
        "address {address} is not in the ranges of network '{network}' that the cluster's token names; \
         name the range with 'token create --network' or '--gateway-cidr' and join again"
    )]
    Address {
        /// The address.
        address: IpAddr,
        /// Its network.
        network: NetworkName,
    },
    /// The network is not the cluster's.
    #[error("network '{0}' is not named by the cluster's token")]
    Network(NetworkName),
    /// The region is not the cluster's.
    #[error("region '{0}' is not named by the cluster's token")]
    Region(String),
    /// The zone is not the cluster's.
    #[error("zone '{0}' is not named by the cluster's token")]
    Zone(String),
    /// An identity of another trust domain, or none of a workload.
    #[error("identity '{0}' is no workload of the cluster's own trust domain")]
    Identity(SpiffeId),
    /// A weight that would drown all others.
    #[error("weight {0} is above 1000000")]
    Weight(u32),
    /// Ports that cannot be told apart.
    #[error(transparent)]
    Ports(#[from] PortClash),
}

impl NotAllowed {
    /// A stable word for answers and metrics.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Address { .. } => "AddressNotAllowed",
            Self::Network(_) => "NetworkNotAllowed",
            Self::Region(_) => "RegionNotAllowed",
            Self::Zone(_) => "ZoneNotAllowed",
            Self::Identity(_) => "IdentityNotAllowed",
            Self::Weight(_) => "WeightNotAllowed",
            Self::Ports(_) => "PortsNotAllowed",
        }
    }
}

/// The metadata service of clouds over IPv6.
const METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

/// Whether an address is nobody's unless a range names it: loopback, link-local (169.254.169.254 included),
/// multicast, broadcast, unspecified, mapped, or the metadata service (`contracts.md` 1.3).
#[must_use]
pub fn is_special(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => {
            a.is_loopback()
                || a.is_link_local()
                || a.is_multicast()
                || a == Ipv4Addr::BROADCAST
                || a.octets().first() == Some(&0)
        }
        IpAddr::V6(a) => {
            a.is_loopback()
                || a.is_unicast_link_local()
                || a.is_multicast()
                || a.is_unspecified()
                || a.to_ipv4_mapped().is_some()
                || a == METADATA_V6
        }
    }
}

fn in_ranges<'a>(address: IpAddr, ranges: impl Iterator<Item = &'a Cidr>) -> bool {
    let mut none = true;
    for range in ranges {
        none = false;
        if range.contains(address) {
            return address_allowed(address);
        }
    }
    none && !is_special(address)
}

/// Judges one resource of `member`'s offer. `zones` are those its token names; empty: any (an importer knows none).
///
/// # Errors
/// [`NotAllowed`] with the first thing found.
pub fn check<'a>(
    member: &Member,
    zones: impl IntoIterator<Item = &'a String>,
    key: &OfferKey,
    value: &OfferValue,
) -> Result<(), NotAllowed> {
    let network = |name: &NetworkName| member.network(name).ok_or_else(|| NotAllowed::Network(name.clone()));
    let identity = |id: &SpiffeId| {
        let own = id.trust_domain == member.trust_domain && id.is_workload();
        if own { Ok(()) } else { Err(NotAllowed::Identity(id.clone())) }
    };
    match key {
        OfferKey::Service(_) => {}
        OfferKey::Group(g) => {
            network(&g.network)?;
            locality(member, zones, &g.locality)?;
            return Ok(());
        }
        OfferKey::Endpoint(e) => {
            if !in_ranges(e.address, network(&e.network)?.cidrs.iter()) {
                return Err(NotAllowed::Address { address: e.address, network: e.network.clone() });
            }
        }
        OfferKey::Gateway(g) => {
            let own = network(&g.network)?;
            let ok = if member.gateway_cidrs.is_empty() {
                in_ranges(g.address, own.cidrs.iter())
            } else {
                in_ranges(g.address, member.gateway_cidrs.iter())
            };
            if !ok {
                return Err(NotAllowed::Address { address: g.address, network: g.network.clone() });
            }
        }
    }
    match value {
        OfferValue::Service(s) => {
            check_ports(&s.ports)?;
            s.identities.iter().try_for_each(identity)
        }
        OfferValue::Endpoint(e) if e.weight > WEIGHT_MAX => Err(NotAllowed::Weight(e.weight)),
        OfferValue::Endpoint(e) => {
            identity(&e.identity)?;
            locality(member, zones, &e.locality)
        }
        OfferValue::Gateway(g) => locality(member, zones, &g.locality),
        OfferValue::Group(_) => Ok(()),
    }
}

/// An unknown region or zone is nobody's and harms nobody; a known one must be the token's.
fn locality<'a>(
    member: &Member,
    zones: impl IntoIterator<Item = &'a String>,
    locality: &Locality,
) -> Result<(), NotAllowed> {
    if !locality.region.is_empty() && !member.regions.is_empty() && !member.regions.contains(&*locality.region) {
        return Err(NotAllowed::Region(locality.region.to_string()));
    }
    let mut zones = zones.into_iter().peekable();
    if !locality.zone.is_empty() && zones.peek().is_some() && !zones.any(|z| **z == *locality.zone) {
        return Err(NotAllowed::Zone(locality.zone.to_string()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::export::ExportTo;
    use crate::identity::TrustDomain;
    use crate::names::{ClusterName, ServiceName, SubsetName};
    use crate::network::Network;
    use crate::offer::{EndpointKey, EndpointOffer, GatewayKey, GatewayOffer, ServiceOffer};
    use crate::service::{ServicePort, ServiceType};

    fn member(cidrs: &[&str], gateways: &[&str]) -> Member {
        Member {
            cluster: ClusterName::new("east").unwrap(),
            trust_domain: TrustDomain::new("east.mesh.example").unwrap(),
            labels: BTreeMap::new(),
            drained: false,
            leaving: false,
            networks: vec![Network {
                name: NetworkName::new("net-east").unwrap(),
                cidrs: cidrs.iter().map(|c| c.parse().unwrap()).collect(),
            }],
            gateway_cidrs: gateways.iter().map(|c| c.parse().unwrap()).collect(),
            regions: BTreeSet::from(["eu".to_owned()]),
        }
    }

    fn endpoint(address: &str, identity: &str, place: &str) -> (OfferKey, OfferValue) {
        let key = OfferKey::Endpoint(EndpointKey {
            service: ServiceName::new("shop", "b").unwrap(),
            port: 8080,
            subset: SubsetName::all(),
            network: NetworkName::new("net-east").unwrap(),
            address: address.parse().unwrap(),
            target_port: 8080,
        });
        let value = OfferValue::Endpoint(EndpointOffer {
            locality: place.parse().unwrap(),
            weight: 1,
            ready: true,
            draining: false,
            identity: identity.parse().unwrap(),
            workload: "b-1".to_owned(),
        });
        (key, value)
    }

    fn gateway(address: &str) -> (OfferKey, OfferValue) {
        let key = OfferKey::Gateway(GatewayKey {
            network: NetworkName::new("net-east").unwrap(),
            address: address.parse().unwrap(),
            port: 15443,
        });
        (key, OfferValue::Gateway(GatewayOffer { locality: Locality::new("eu", "eu-1"), ready: true }))
    }

    /// Mutations seen to fail: `none && !is_special` replaced by `none`; the zone check left out; `is_workload` not
    /// asked.
    #[test]
    fn only_what_the_token_names_is_allowed() {
        let own = "spiffe://east.mesh.example/ns/shop/sa/b";
        let ranged = member(&["127.1.0.0/16"], &[]);
        let open = member(&[], &[]);
        let zones = vec!["eu-1".to_owned()];
        let judge = |m: &Member, r: (OfferKey, OfferValue)| check(m, &zones, &r.0, &r.1).map_err(|e| e.code());
        assert_eq!(judge(&ranged, endpoint("127.1.0.5", own, "eu/eu-1")), Ok(()));
        assert_eq!(judge(&ranged, endpoint("127.2.0.5", own, "eu/eu-1")), Err("AddressNotAllowed"));
        for special in ["127.0.0.1", "169.254.169.254", "224.0.0.1", "0.0.0.0", "::1", "fe80::1", "::ffff:10.0.0.1"] {
            assert_eq!(judge(&open, endpoint(special, own, "eu/eu-1")), Err("AddressNotAllowed"), "{special}");
        }
        assert_eq!(judge(&open, endpoint("10.0.0.1", own, "eu/eu-1")), Ok(()));
        assert_eq!(judge(&open, endpoint("10.0.0.1", own, "us/us-1")), Err("RegionNotAllowed"));
        assert_eq!(judge(&open, endpoint("10.0.0.1", own, "eu/eu-2")), Err("ZoneNotAllowed"));
        let foreign = "spiffe://west.mesh.example/ns/shop/sa/b";
        assert_eq!(judge(&open, endpoint("10.0.0.1", foreign, "eu/eu-1")), Err("IdentityNotAllowed"));
        for other in ["spiffe://east.mesh.example/cluster/east/agent/0", "spiffe://east.mesh.example/federator/1"] {
            assert_eq!(judge(&open, endpoint("10.0.0.1", other, "eu/eu-1")), Err("IdentityNotAllowed"), "{other}");
        }
        assert_eq!(judge(&ranged, gateway("127.1.0.1")), Ok(()));
        assert_eq!(judge(&member(&["127.1.0.0/16"], &["10.9.0.0/16"]), gateway("127.1.0.1")), Err("AddressNotAllowed"));
    }

    /// Mutations seen to fail: `check_ports` left out of `check`; `check_ports` by number alone.
    #[test]
    fn ports_that_cannot_be_told_apart_are_not_allowed() {
        let judge = |ports: &[(&str, u16)]| {
            let port = |(name, port): &(&str, u16)| ServicePort {
                name: (*name).to_owned(),
                port: *port,
                protocol: if name.starts_with("udp") { "UDP" } else { "TCP" }.to_owned(),
                app_protocol: None,
            };
            let offer = ServiceOffer {
                service_type: ServiceType::ClusterSetIP,
                ports: ports.iter().map(port).collect(),
                export_to: ExportTo::Everyone,
                ..ServiceOffer::default()
            };
            let key = OfferKey::Service(ServiceName::new("shop", "b").unwrap());
            check(&member(&[], &[]), [], &key, &OfferValue::Service(offer)).map_err(|e| e.code())
        };
        assert_eq!(judge(&[("", 80)]), Ok(()));
        assert_eq!(judge(&[("http", 80), ("tcp", 81)]), Ok(()));
        assert_eq!(judge(&[("http", 80), ("udp", 80)]), Ok(()), "one number of two protocols");
        assert_eq!(judge(&[("udp", 80), ("udp-2", 80)]), Err("PortsNotAllowed"));
        assert_eq!(judge(&[("http", 80), ("tcp", 80)]), Err("PortsNotAllowed"));
        assert_eq!(judge(&[("http", 80), ("http", 81)]), Err("PortsNotAllowed"));
    }
}
