//! Pure. Networks and the address ranges that a cluster's token allows.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::names::{InvalidName, NetworkName};

/// An address range in CIDR form. Host bits are cleared; ordered by address, then by prefix length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr {
    address: IpAddr,
    prefix: u8,
}

impl Cidr {
    /// The range of `prefix` bits around `address`; `None` when the prefix is longer than the address.
    #[must_use]
    pub fn new(address: IpAddr, prefix: u8) -> Option<Self> {
        match address {
            IpAddr::V4(a) if prefix <= 32 => {
                let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
                Some(Self { address: IpAddr::V4((u32::from(a) & mask).into()), prefix })
            }
            IpAddr::V6(a) if prefix <= 128 => {
                let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
                Some(Self { address: IpAddr::V6((u128::from(a) & mask).into()), prefix })
            }
            IpAddr::V4(_) | IpAddr::V6(_) => None,
        }
    }
    /// Whether the address lies in the range. Families never match each other.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        Self::new(address, self.prefix) == Some(*self)
    }
    /// Whether the ranges share an address.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.address) || other.contains(self.address)
    }
}
impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}
impl FromStr for Cidr {
    type Err = InvalidName;
    fn from_str(s: &str) -> Result<Self, InvalidName> {
        let refuse =
            || InvalidName::Form { kind: "address range", value: s.chars().take(100).collect(), form: "ADDRESS/BITS" };
        let (address, prefix) = s.split_once('/').ok_or_else(refuse)?;
        let address: IpAddr = address.parse().map_err(|_unparsed| refuse())?;
        if !prefix.bytes().all(|b| b.is_ascii_digit()) || !address_allowed(address) && !address.is_unspecified() {
            return Err(refuse());
        }
        Self::new(address, prefix.parse().map_err(|_unparsed| refuse())?).ok_or_else(refuse)
    }
}
impl TryFrom<String> for Cidr {
    type Error = InvalidName;
    fn try_from(s: String) -> Result<Self, InvalidName> {
        s.parse()
    }
}
impl From<Cidr> for String {
    fn from(c: Cidr) -> Self {
        c.to_string()
    }
}

/// Whether an address may be dialled at all: not unspecified, not multicast or broadcast, and not an IPv4 address
/// dressed as IPv6, which would pass a check of the wrong family.
#[must_use]
pub fn address_allowed(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => !a.is_unspecified() && !a.is_multicast() && !a.is_broadcast(),
        IpAddr::V6(a) => !a.is_unspecified() && !a.is_multicast() && a.to_ipv4_mapped().is_none(),
    }
}

/// A network of a cluster, with the ranges its endpoints may have; no ranges: any address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Network {
    /// The name.
    pub name: NetworkName,
    /// The ranges.
    #[serde(default)]
    pub cidrs: BTreeSet<Cidr>,
}

impl Network {
    /// Whether an endpoint of this network may have the address.
    #[must_use]
    pub fn allows(&self, address: IpAddr) -> bool {
        address_allowed(address) && (self.cidrs.is_empty() || self.cidrs.iter().any(|c| c.contains(address)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mutation seen to fail: `& mask` left out of the IPv4 arm.
    #[test]
    fn ranges_hold_their_addresses() {
        let c: Cidr = "127.1.2.3/16".parse().unwrap();
        assert_eq!(c.to_string(), "127.1.0.0/16");
        assert!(c.contains("127.1.255.1".parse().unwrap()) && !c.contains("127.2.0.1".parse().unwrap()));
        assert!(!c.contains("::ffff:127.1.0.1".parse().unwrap()));
        let all: Cidr = "0.0.0.0/0".parse().unwrap();
        assert!(all.contains("9.9.9.9".parse().unwrap()) && all.overlaps(&c) && c.overlaps(&all));
        assert!("fd00::/8".parse::<Cidr>().unwrap().contains("fd00::1".parse().unwrap()));
        for bad in ["127.1.0.0", "127.1.0.0/33", "fd00::/129", "x/8", "127.1.0.0/+8", "::ffff:1.2.3.4/100", "1.2.3.4/"]
        {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
    }
}
