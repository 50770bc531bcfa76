//! Pure. Trust domains and SPIFFE IDs (SPIFFE-ID 1.0), parsed once and then trusted as types.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::names::{ClusterName, Namespace, check_label, check_object_name};

/// Why an identity was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidIdentity {
    /// Not a trust domain name.
    #[error("'{0}' is no trust domain (lower-case letters, digits, '-', '_' and '.', at most 255 characters)")]
    TrustDomain(String),
    /// Not a SPIFFE ID.
    #[error("'{0}' is no SPIFFE ID of meshfed")]
    SpiffeId(String),
}

/// A SPIFFE trust domain: the fleet's `F`, or a cluster's `<cluster>.F`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TrustDomain(std::sync::Arc<str>);

impl TrustDomain {
    /// Checks a trust domain name (SPIFFE-ID 2.1), which must also be a DNS name.
    ///
    /// # Errors
    /// [`InvalidIdentity::TrustDomain`].
    pub fn new(value: impl AsRef<str>) -> Result<Self, InvalidIdentity> {
        let v = value.as_ref();
        let ok = !v.is_empty() && v.len() <= 255 && v.split('.').all(|l| check_label("trust domain", l).is_ok());
        if ok { Ok(Self(v.into())) } else { Err(InvalidIdentity::TrustDomain(v.to_owned())) }
    }
    /// The trust domain of a cluster of this fleet: `<cluster>.<fleet>` (D1).
    ///
    /// # Errors
    /// [`InvalidIdentity::TrustDomain`] when the name would be too long.
    pub fn of_cluster(&self, cluster: &ClusterName) -> Result<Self, InvalidIdentity> {
        Self::new(format!("{cluster}.{}", self.0))
    }
    /// The cluster that owns trust domain `self` in fleet `fleet`, if it is one.
    #[must_use]
    pub fn cluster_in(&self, fleet: &Self) -> Option<ClusterName> {
        let label = self.0.strip_suffix(fleet.as_str())?.strip_suffix('.')?;
        ClusterName::new(label).ok()
    }
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
    /// `spiffe://<trust domain>`, the URI SAN of an anchor.
    #[must_use]
    pub fn uri(&self) -> String {
        format!("spiffe://{}", self.0)
    }
}
impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl FromStr for TrustDomain {
    type Err = InvalidIdentity;
    fn from_str(s: &str) -> Result<Self, InvalidIdentity> {
        Self::new(s)
    }
}
impl TryFrom<String> for TrustDomain {
    type Error = InvalidIdentity;
    fn try_from(s: String) -> Result<Self, InvalidIdentity> {
        Self::new(s)
    }
}
impl From<TrustDomain> for String {
    fn from(t: TrustDomain) -> Self {
        t.0.as_ref().to_owned()
    }
}

/// The path of an identity: what its owner is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Principal {
    /// `/ns/<namespace>/sa/<service account>`: a workload, a gateway included.
    Workload {
        /// The namespace.
        namespace: Namespace,
        /// The service account.
        service_account: std::sync::Arc<str>,
    },
    /// `/cluster/<name>/agent/<replica>` in the fleet's domain.
    Agent {
        /// The cluster.
        cluster: ClusterName,
        /// The replica, from `0`.
        replica: u32,
    },
    /// `/federator/<id>` in the fleet's domain.
    Federator {
        /// The federator's id.
        id: u32,
    },
}

/// A SPIFFE ID as meshfed forms them: exact, without query, port, empty or dot segments, escapes or upper-case.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SpiffeId {
    /// The trust domain.
    pub trust_domain: TrustDomain,
    /// What the identity names inside it.
    pub principal: Principal,
}

impl SpiffeId {
    /// `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
    ///
    /// # Errors
    /// [`InvalidIdentity::SpiffeId`] when the service account is no object name.
    pub fn workload(
        trust_domain: TrustDomain,
        namespace: Namespace,
        service_account: &str,
    ) -> Result<Self, InvalidIdentity> {
        check_object_name("service account", service_account)
            .map_err(|_invalid| InvalidIdentity::SpiffeId(service_account.to_owned()))?;
        Ok(Self { trust_domain, principal: Principal::Workload { namespace, service_account: service_account.into() } })
    }
    /// Whether it names a workload. A cluster's key can sign any path of its own trust domain: only this form counts
    /// as a workload's identity, wherever one is accepted.
    #[must_use]
    pub const fn is_workload(&self) -> bool {
        match self.principal {
            Principal::Workload { .. } => true,
            Principal::Agent { .. } | Principal::Federator { .. } => false,
        }
    }
    /// `spiffe://F/cluster/<name>/agent/<replica>`.
    #[must_use]
    pub fn agent(fleet: TrustDomain, cluster: ClusterName, replica: u32) -> Self {
        Self { trust_domain: fleet, principal: Principal::Agent { cluster, replica } }
    }
    /// `spiffe://F/federator/<id>`.
    #[must_use]
    pub fn federator(fleet: TrustDomain, id: u32) -> Self {
        Self { trust_domain: fleet, principal: Principal::Federator { id } }
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}", self.trust_domain)?;
        match &self.principal {
            Principal::Workload { namespace, service_account } => write!(f, "/ns/{namespace}/sa/{service_account}"),
            Principal::Agent { cluster, replica } => write!(f, "/cluster/{cluster}/agent/{replica}"),
            Principal::Federator { id } => write!(f, "/federator/{id}"),
        }
    }
}

/// A decimal number as an identity carries it: no sign, no leading zero.
fn number(s: &str) -> Option<u32> {
    let n: u32 = s.parse().ok()?;
    (n.to_string() == s).then_some(n)
}

impl FromStr for SpiffeId {
    type Err = InvalidIdentity;
    fn from_str(s: &str) -> Result<Self, InvalidIdentity> {
        let refuse = || InvalidIdentity::SpiffeId(s.chars().take(300).collect());
        let rest = s.strip_prefix("spiffe://").ok_or_else(refuse)?;
        let (domain, path) = rest.split_once('/').ok_or_else(refuse)?;
        let trust_domain = TrustDomain::new(domain).map_err(|_invalid| refuse())?;
        let parts: Vec<&str> = path.split('/').collect();
        match parts.as_slice() {
            ["ns", ns, "sa", sa] => {
                let ns = Namespace::new(ns).map_err(|_invalid| refuse())?;
                Self::workload(trust_domain, ns, sa)
            }
            ["cluster", c, "agent", r] => {
                let cluster = ClusterName::new(c).map_err(|_invalid| refuse())?;
                Ok(Self::agent(trust_domain, cluster, number(r).ok_or_else(refuse)?))
            }
            ["federator", id] => Ok(Self::federator(trust_domain, number(id).ok_or_else(refuse)?)),
            _ => Err(refuse()),
        }
    }
}
impl TryFrom<String> for SpiffeId {
    type Error = InvalidIdentity;
    fn try_from(s: String) -> Result<Self, InvalidIdentity> {
        s.parse()
    }
}
impl From<SpiffeId> for String {
    fn from(t: SpiffeId) -> Self {
        t.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mutation seen to fail: `number` without its leading-zero check.
    #[test]
    fn only_the_exact_forms_parse() {
        for good in [
            "spiffe://east.mesh.example/ns/shop/sa/b",
            "spiffe://mesh.example/cluster/east/agent/0",
            "spiffe://mesh.example/federator/1",
        ] {
            assert_eq!(good.parse::<SpiffeId>().unwrap().to_string(), good);
        }
        for bad in [
            "spiffe://east.mesh.example",
            "spiffe://east.mesh.example/",
            "spiffe://east.mesh.example/ns/shop/sa/b/",
            "spiffe://east.mesh.example/ns/shop/sa/../b",
            "spiffe://east.mesh.example/ns/shop/sa/%2f",
            "spiffe://East.mesh.example/ns/shop/sa/b",
            "SPIFFE://east.mesh.example/ns/shop/sa/b",
            "spiffe://east.mesh.example:80/ns/shop/sa/b",
            "spiffe://east.mesh.example/ns/shop/sa/b?x",
            "spiffe://east.mesh.example/ns/shop/sa/B",
            "spiffe://east.mesh.example/ns/shop/sa/b\u{ff0f}c",
            "spiffe://east.mesh.example//ns/shop/sa/b",
            "spiffe://mesh.example/federator/01",
            "spiffe://mesh.example/cluster/east/agent/-1",
        ] {
            assert!(bad.parse::<SpiffeId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_cluster_domain_is_one_label_below_the_fleet() {
        let f = TrustDomain::new("mesh.example").unwrap();
        let east = f.of_cluster(&ClusterName::new("east").unwrap()).unwrap();
        assert_eq!(east.cluster_in(&f).unwrap().as_str(), "east");
        assert_eq!(TrustDomain::new("a.east.mesh.example").unwrap().cluster_in(&f), None);
        assert_eq!(TrustDomain::new("xmesh.example").unwrap().cluster_in(&f), None);
        assert_eq!(f.cluster_in(&f), None);
    }
}
