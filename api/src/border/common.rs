//! Pure. Checks that several messages share.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use meshfed_model::locality::Locality;
use meshfed_model::network::{Cidr, Network, address_allowed};
use meshfed_model::version::Version;

use super::error::InvalidMessage;
use crate::proto::federation as pb;

/// Networks, ranges, regions, zones, federators or gateways ranges of one cluster.
pub const PLACES_MAX: usize = 256;
/// The longest free text, in bytes.
pub const TEXT_MAX: usize = 1024;

pub(super) fn required<T>(value: Option<T>, field: &'static str) -> Result<T, InvalidMessage> {
    value.ok_or_else(|| InvalidMessage::new(field, "is missing"))
}

pub(super) fn at_most(actual: usize, limit: usize, field: &'static str) -> Result<(), InvalidMessage> {
    if actual <= limit {
        return Ok(());
    }
    Err(InvalidMessage::new(field, format!("has {actual} entries, at most {limit} are allowed")))
}

pub(super) fn parsed<T>(value: &str, field: &'static str) -> Result<T, InvalidMessage>
where
    T: FromStr<Err: Display>,
{
    // What is refused is shown, so its length has a limit before it is looked at.
    if value.len() > TEXT_MAX {
        return Err(InvalidMessage::new(field, format!("has {} bytes, at most {TEXT_MAX} are allowed", value.len())));
    }
    value.parse().map_err(|e| InvalidMessage::new(field, e))
}

pub(super) fn text(value: String, limit: usize, field: &'static str) -> Result<String, InvalidMessage> {
    if value.len() > limit {
        return Err(InvalidMessage::new(field, format!("has {} bytes, at most {limit} are allowed", value.len())));
    }
    if value.chars().any(char::is_control) {
        return Err(InvalidMessage::new(field, "holds a control character"));
    }
    Ok(value)
}

pub(super) fn port(value: u32, field: &'static str) -> Result<u16, InvalidMessage> {
    match u16::try_from(value) {
        Ok(port) if port != 0 => Ok(port),
        Ok(_) | Err(_) => Err(InvalidMessage::new(field, format!("{value} is no port (1 to 65535)"))),
    }
}

/// An address of 4 or 16 bytes that can be dialled without a scope and means the same to everybody.
pub(super) fn address(value: &[u8], field: &'static str) -> Result<IpAddr, InvalidMessage> {
    let address = if let Ok(v4) = <[u8; 4]>::try_from(value) {
        IpAddr::V4(Ipv4Addr::from(v4))
    } else if let Ok(v6) = <[u8; 16]>::try_from(value) {
        IpAddr::V6(Ipv6Addr::from(v6))
    } else {
        return Err(InvalidMessage::new(field, format!("has {} bytes, an address has 4 or 16", value.len())));
    };
    let scoped = match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    if scoped || !address_allowed(address) {
        let problem = "cannot be dialled from elsewhere (unspecified, multicast, scoped, or IPv4 in IPv6 form)";
        return Err(InvalidMessage::new(field, format!("{address} {problem}")));
    }
    Ok(address)
}

pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

/// A region or zone by name: one part of a locality.
pub(super) fn place(value: &str, field: &'static str) -> Result<String, InvalidMessage> {
    let locality: Locality = parsed(value, field)?;
    if locality.region.is_empty() || !locality.zone.is_empty() {
        return Err(InvalidMessage::new(field, format!("'{value}' is no region or zone name")));
    }
    Ok(locality.region.to_string())
}

pub(super) fn places(values: &[String], field: &'static str) -> Result<Vec<String>, InvalidMessage> {
    at_most(values.len(), PLACES_MAX, field)?;
    values.iter().map(|v| place(v, field)).collect()
}

pub(super) fn cidrs(values: &[String], field: &'static str) -> Result<BTreeSet<Cidr>, InvalidMessage> {
    at_most(values.len(), PLACES_MAX, field)?;
    values.iter().map(|v| parsed(v, field)).collect()
}

impl From<pb::Version> for Version {
    fn from(v: pb::Version) -> Self {
        Self::new(v.epoch, v.revision)
    }
}
impl From<Version> for pb::Version {
    fn from(v: Version) -> Self {
        Self { epoch: v.epoch, revision: v.revision }
    }
}

impl TryFrom<pb::Network> for Network {
    type Error = InvalidMessage;
    fn try_from(n: pb::Network) -> Result<Self, InvalidMessage> {
        Ok(Self { name: parsed(&n.name, "name")?, cidrs: cidrs(&n.cidrs, "cidrs")? })
    }
}
impl From<&Network> for pb::Network {
    fn from(n: &Network) -> Self {
        Self { name: n.name.to_string(), cidrs: n.cidrs.iter().map(Cidr::to_string).collect() }
    }
}
