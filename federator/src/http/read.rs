//! Pure. What operators read, put together from members, bundles and the facts of sessions.

use std::collections::BTreeMap;

use jiff::Timestamp;
use meshfed_api::http;
use meshfed_ca::keys::sha256;
use meshfed_model::bundle::Bundle;
use meshfed_model::identity::TrustDomain;
use meshfed_model::names::ClusterName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::fleet::{Bundles, ClusterFacts, Member, MemberState, Members};

/// Facts by cluster; a cluster that had no session since this hub started is not there.
pub(super) type Facts = BTreeMap<ClusterName, ClusterFacts>;

/// Everything that is shown, at one moment.
pub(super) struct Sight<'a> {
    /// F.
    pub(super) fleet: &'a TrustDomain,
    /// All members that ever were.
    pub(super) members: &'a Members,
    /// All bundles.
    pub(super) bundles: &'a Bundles,
    /// What sessions know.
    pub(super) facts: &'a Facts,
    /// The revision shown: read before all else, so that it is never newer than what it names.
    pub(super) revision: u64,
    /// Now.
    pub(super) now: Timestamp,
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, b| {
        for nibble in [b >> 4, b & 15] {
            out.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
        }
        out
    })
}

fn networks(member: &Member) -> Vec<http::Network> {
    let of = |n: &meshfed_model::network::Network| http::Network {
        name: n.name.to_string(),
        cidrs: n.cidrs.iter().map(ToString::to_string).collect(),
    };
    member.member.networks.iter().map(of).collect()
}

fn state(member: &Member, facts: Option<&ClusterFacts>) -> http::ClusterState {
    match member.state {
        MemberState::Left => http::ClusterState::Left,
        MemberState::Evicted => http::ClusterState::Evicted,
        MemberState::Active if member.member.drained => http::ClusterState::Drained,
        MemberState::Active if facts.is_none() => http::ClusterState::Joining,
        MemberState::Active => http::ClusterState::Active,
    }
}

/// Without facts nothing of it is known or sent on; of one that is gone all is withdrawn.
fn freshness(member: &Member, facts: Option<&ClusterFacts>) -> http::Freshness {
    match facts {
        _ if !member.is_live() => http::Freshness::Withdrawn,
        Some(facts) => facts.freshness,
        None => http::Freshness::Stale,
    }
}

impl Sight<'_> {
    fn live(&self) -> impl Iterator<Item = (&ClusterName, &Member)> {
        self.members.members.iter().filter(|(_, m)| m.is_live())
    }

    fn held(&self, cluster: &ClusterName, of: &TrustDomain) -> u64 {
        self.facts.get(cluster).and_then(|f| f.bundle_serials.get(of)).copied().unwrap_or(0)
    }

    fn bundle(&self, cluster: &ClusterName, member: &Member) -> http::BundleState {
        let of = &member.member.trust_domain;
        let serial = self.bundles.bundles.get(of).map_or(0, |b| b.serial);
        let others = self.live().filter(|(name, _)| *name != cluster);
        http::BundleState { serial, acked_serial: others.map(|(name, _)| self.held(name, of)).min().unwrap_or(serial) }
    }

    /// One member.
    pub(super) fn cluster(&self, name: &ClusterName) -> Option<http::Cluster> {
        let member = self.members.members.get(name)?;
        let facts = self.facts.get(name);
        let known = facts.filter(|_| member.is_live());
        Some(http::Cluster {
            name: name.to_string(),
            trust_domain: member.member.trust_domain.to_string(),
            state: state(member, facts),
            connection: known.map_or(http::Connection::Disconnected, |f| f.connection),
            freshness: freshness(member, facts),
            regions: member.member.regions.iter().cloned().collect(),
            zones: member.zones.iter().cloned().collect(),
            networks: networks(member),
            gateways: known.map(|f| f.gateways.clone()).unwrap_or_default(),
            services: known.map(|f| f.services).unwrap_or_default(),
            endpoints: known.map(|f| f.endpoints).unwrap_or_default(),
            agents: known.map(|f| f.agents.clone()).unwrap_or_default(),
            source: known.map(|f| f.source.clone()).unwrap_or_default(),
            bundle: self.bundle(name, member),
            overrides: Vec::new(),
            joined_at: member.joined_at.to_string(),
            last_seen_at: facts.and_then(|f| f.last_seen_at).map(|t| t.to_string()),
            revision: self.revision.to_string(),
        })
    }

    /// All members that ever were, by name.
    pub(super) fn clusters(&self) -> Vec<http::Cluster> {
        self.members.members.keys().filter_map(|name| self.cluster(name)).collect()
    }

    /// Whether everything is there, and what is waited for.
    pub(super) fn status(&self) -> http::Status {
        let mut waiting_for = Vec::new();
        let mut clusters = Vec::new();
        for (name, member) in self.live() {
            let facts = self.facts.get(name);
            clusters.push(http::ClusterStatus {
                name: name.to_string(),
                connection: facts.map_or(http::Connection::Disconnected, |f| f.connection),
                freshness: freshness(member, facts),
                proxies: facts.map(|f| f.proxies).unwrap_or_default(),
            });
            match facts {
                Some(facts) => waiting_for.extend(facts.waiting_for.iter().cloned()),
                None => waiting_for.push(http::Waiting {
                    cluster: name.to_string(),
                    kind: "session".to_owned(),
                    name: name.to_string(),
                    reason: format!(
                        "no agent has connected since it joined ({}), or since this federator started if that was later; \
                         start its agent, or look at the agent's log",
                        member.joined_at.strftime("%Y-%m-%dT%H:%M:%SZ")
                    ),
                }),
            }
        }
        let ready = waiting_for.is_empty() && !clusters.is_empty();
        http::Status { revision: self.revision.to_string(), ready, waiting_for, clusters }
    }

    fn acks(&self, bundle: &Bundle, owner: Option<&ClusterName>) -> Vec<http::BundleAck> {
        let holders = self.live().filter(|(name, _)| Some(*name) != owner);
        let ack = |name: &ClusterName| http::BundleAck {
            cluster: name.to_string(),
            serial: self.held(name, &bundle.trust_domain),
            proxies: self
                .facts
                .get(name)
                .and_then(|f| f.bundle_proxies.get(&bundle.trust_domain))
                .copied()
                .unwrap_or_default(),
        };
        holders.map(|(name, _)| ack(name)).collect()
    }

    /// The root and all bundles. `root` is DER.
    pub(super) fn trust(&self, root: &[u8], root_online: bool) -> http::Trust {
        let shown_root = anchor(root, self.now);
        let bundle = |bundle: &Bundle| {
            let owner = bundle.trust_domain.cluster_in(self.fleet);
            http::TrustBundle {
                trust_domain: bundle.trust_domain.to_string(),
                serial: bundle.serial,
                anchors: bundle.anchors.iter().filter_map(|der| anchor(der, self.now)).collect(),
                acks: self.acks(bundle, owner.as_ref()),
                owner: owner.map(|o| o.to_string()),
            }
        };
        http::Trust {
            fleet: self.fleet.to_string(),
            root: http::Root {
                spki_sha256: shown_root.as_ref().map(|r| r.spki_sha256.clone()).unwrap_or_default(),
                not_after: shown_root.map(|r| r.not_after).unwrap_or_default(),
                online: root_online,
            },
            bundles: self.bundles.bundles.values().map(bundle).collect(),
            rotations: Vec::new(),
            revision: self.revision.to_string(),
        }
    }
}

/// A CA certificate as shown. Rotation is not in this version, so none retires.
fn anchor(der: &[u8], now: Timestamp) -> Option<http::Anchor> {
    let (_, parsed) = X509Certificate::from_der(der).ok()?;
    let time = |t: x509_parser::time::ASN1Time| Timestamp::from_second(t.timestamp()).ok();
    let (begin, end) = (time(parsed.validity().not_before)?, time(parsed.validity().not_after)?);
    Some(http::Anchor {
        spki_sha256: hex(&sha256(parsed.public_key().raw)),
        state: if begin > now { "next" } else { "active" }.to_owned(),
        not_before: begin.to_string(),
        not_after: end.to_string(),
    })
}
