//! Pure. What the store keeps of tokens, members, bundles, certificates and deeds.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use meshfed_model::bundle::Bundle;
use meshfed_model::identity::TrustDomain;
use meshfed_model::member as model;
use meshfed_model::names::ClusterName;
use meshfed_model::network::{Cidr, Network};
use serde::{Deserialize, Serialize};

use crate::fleet::{Member, MemberState};
use crate::store::record::{base64, base64_list};
use crate::store::{Key, Table};

/// What a token binds a cluster to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// The cluster that may join.
    pub cluster: ClusterName,
    /// Its networks; the first is the default.
    pub networks: Vec<Network>,
    /// Where its gateways lie; empty: the CIDRs of its networks.
    pub gateway_cidrs: BTreeSet<Cidr>,
    /// Its regions.
    pub regions: BTreeSet<String>,
    /// Its zones; empty: any.
    pub zones: BTreeSet<String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Whether it may take the place of a live cluster of that name.
    pub replace: bool,
}

/// A token. Its secret is not in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRecord {
    /// Its id.
    pub id: String,
    /// SHA-256 of its secret.
    #[serde(with = "base64")]
    pub secret_sha256: Vec<u8>,
    /// What it binds to.
    pub grant: Grant,
    /// When it was made.
    pub created_at: Timestamp,
    /// From when on it is refused.
    pub expires_at: Timestamp,
    /// The revision shown of its last change.
    pub shown_revision: u64,
    /// Whether it was used or revoked.
    pub fate: Fate,
}

/// Whether a token was used or revoked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fate {
    /// Neither.
    Unused,
    /// By an operator.
    Revoked {
        /// When.
        at: Timestamp,
    },
    /// By a join, and what it gave: the same keys get it again for a while (JT3).
    Used(Box<Use>),
}

/// The use of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Use {
    /// When.
    pub at: Timestamp,
    /// SHA-256 of the agent key's SPKI.
    #[serde(with = "base64")]
    pub agent_key_sha256: Vec<u8>,
    /// SHA-256 of the cluster's anchor.
    #[serde(with = "base64")]
    pub anchor_sha256: Vec<u8>,
    /// What was issued.
    #[serde(with = "base64")]
    pub lineage: Vec<u8>,
    /// What was issued.
    #[serde(with = "base64")]
    pub agent_certificate: Vec<u8>,
}

/// A member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRecord {
    /// What its token bound it to.
    pub grant: Grant,
    /// Where it stands.
    pub state: StoredState,
    /// It is about to leave: nothing is sent to it any more.
    #[serde(default)]
    pub drained: bool,
    /// When its token was used.
    pub joined_at: Timestamp,
    /// Grows with every binding of this name.
    pub binding: u64,
    /// SPKI of its CA key: what a challenge is verified with.
    #[serde(with = "base64")]
    pub ca_spki: Vec<u8>,
    /// The token that bound it.
    pub token: String,
}

/// Where a member stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum StoredState {
    /// A member.
    Active,
    /// Gone by its own wish.
    Left,
    /// Thrown out.
    Evicted,
}

impl MemberRecord {
    /// The member, as the other rooms see it.
    #[must_use]
    pub fn member(&self, trust_domain: TrustDomain) -> Member {
        Member {
            member: model::Member {
                cluster: self.grant.cluster.clone(),
                trust_domain,
                labels: self.grant.labels.clone(),
                drained: self.drained,
                leaving: self.drained,
                networks: self.grant.networks.clone(),
                gateway_cidrs: self.grant.gateway_cidrs.clone(),
                regions: self.grant.regions.clone(),
            },
            zones: self.grant.zones.clone(),
            state: match self.state {
                StoredState::Active => MemberState::Active,
                StoredState::Left => MemberState::Left,
                StoredState::Evicted => MemberState::Evicted,
            },
            joined_at: self.joined_at,
            binding: self.binding,
        }
    }
}

/// A trust bundle. It stays when its owner has gone, so that serials never go back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleRecord {
    /// Grows with every change.
    pub serial: u64,
    /// DER.
    #[serde(with = "base64_list")]
    pub anchors: Vec<Vec<u8>>,
    /// DER, one per anchor.
    #[serde(with = "base64_list")]
    pub lineages: Vec<Vec<u8>>,
}

impl BundleRecord {
    /// The bundle of that trust domain.
    #[must_use]
    pub fn bundle(&self, trust_domain: TrustDomain) -> Bundle {
        Bundle { trust_domain, serial: self.serial, anchors: self.anchors.clone(), lineages: self.lineages.clone() }
    }
}

/// An issued certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuedRecord {
    /// To whom.
    pub cluster: ClusterName,
    /// Under which binding of its name.
    pub binding: u64,
    /// Its end: the record may go then.
    pub not_after: Timestamp,
}

/// A deed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRecord {
    /// When.
    pub at: Timestamp,
    /// Who: `admin`, or `token:<id>`.
    pub actor: String,
    /// One word: `TokenCreated`, `TokenUsed`, `TokenRevoked`.
    pub kind: String,
    /// The cluster concerned.
    pub cluster: ClusterName,
    /// In words.
    pub detail: String,
}

/// The key of a token.
#[must_use]
pub fn token_key(id: &str) -> Key {
    Key::name(id)
}
/// The key of a member.
#[must_use]
pub fn member_key(cluster: &ClusterName) -> Key {
    Key::name(cluster.as_str())
}
/// The key of a bundle.
#[must_use]
pub fn bundle_key(trust_domain: &TrustDomain) -> Key {
    Key::name(trust_domain.as_str())
}
/// The key of a certificate by its serial number.
#[must_use]
pub fn serial_key(serial: &[u8]) -> Key {
    Key::new(&[b"serial", serial])
}
/// The key of an agent certificate by its hash.
#[must_use]
pub fn leaf_key(sha256: &[u8]) -> Key {
    Key::new(&[b"leaf", sha256])
}
/// The key of a deed: by time, apart from others of the same instant by `unique`.
#[must_use]
pub fn audit_key(at: Timestamp, unique: &str) -> Key {
    Key::new(&[&at.as_nanosecond().to_be_bytes(), unique.as_bytes()])
}

/// The only name of a key of one part.
#[must_use]
pub fn name_of(key: &Key) -> Option<&str> {
    match key.parts()?.as_slice() {
        [name] => std::str::from_utf8(name).ok(),
        _ => None,
    }
}

/// The table of tokens, for the many who read it.
pub const TOKENS: Table = Table::Tokens;
