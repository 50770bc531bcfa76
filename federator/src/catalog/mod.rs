//! Pure. All offers of the fleet, one history per origin, as far as each origin's token allows.
//!
//! An offer is taken resource by resource: what the token does not allow, what is over the quota, and a gateway
//! address that another cluster has already, is refused by name, while the rest is taken. Nothing goes back: an older
//! version is refused whole. A full sync that would take away most of what is there is held back ([`hold`]).

mod facts;
mod gateways;
mod hash;
mod hold;
mod judge;
mod origin;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use meshfed_api::border::{Part, Refusal};
use meshfed_api::stream::{Delta, History, StreamError};
use meshfed_model::member::Member;
use meshfed_model::names::{ClusterName, ServiceName};
use meshfed_model::offer::OfferKey;
use meshfed_model::version::Version;

use crate::fleet::GatewayAddress;

pub use facts::PortFacts;
use gateways::Gateways;
pub(crate) use hash::Fnv;
pub use hold::Loss;
use origin::Origin;

/// Services of one cluster (SY2).
pub const SERVICES_MAX: usize = 10_000;
/// Single endpoints of one cluster (SY2).
pub const ENDPOINTS_MAX: usize = 100_000;
/// Groups of one cluster: each service has some ports, and each of them some localities.
pub const GROUPS_MAX: usize = 200_000;
/// Gateway addresses that one cluster has, those included that it offers no more and that are kept for it: an agent offers
/// at most 64, and each is in what every other cluster's clients are told of every service.
pub const GATEWAYS_MAX: usize = 256;
/// All resources of one cluster together, in bytes of their messages as [`meshfed_api::stream::size_limit`] has them, and once
/// more of a change that is under way: numbers alone would let a member fill the memory of the hub and of every importer. Each
/// of [`SERVICES_MAX`] services may have 5 KB.
pub const BYTES_MAX: usize = 48 << 20;
/// Refused resources that are remembered by name, per cluster and per change.
pub const REFUSED_MAX: usize = 1_000;

/// What one part of an offer did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Taken {
    /// Where the catalog stands for this origin.
    pub version: Version,
    /// Where it stood before.
    pub base: Version,
    /// Whether the last part of a change was taken; the rest is empty when not.
    pub reached: bool,
    /// Whether it replaced everything.
    pub complete: bool,
    /// Services of which a resource appeared, changed or vanished.
    pub services: BTreeSet<ServiceName>,
    /// Those of them that came, changed or went themselves, not only their endpoints.
    pub heads: BTreeSet<ServiceName>,
    /// Whether a gateway did.
    pub gateways: bool,
    /// What was refused, at most [`REFUSED_MAX`] by name.
    pub refused: Vec<Refusal>,
    /// How many were refused, by code.
    pub refused_by_code: BTreeMap<&'static str, u64>,
    /// What a full sync would have taken away, if that is held back.
    pub held: Option<Loss>,
    /// Services that are exported since.
    pub added: Vec<ServiceName>,
    /// Services that are exported no more.
    pub removed: Vec<ServiceName>,
    /// Whether it has a gateway address that it did not have.
    pub claimed: bool,
    /// Gateway addresses that it has and does not offer any more.
    pub idle: Vec<GatewayAddress>,
}

/// All offers of the fleet.
#[derive(Debug, Default)]
pub struct Catalog {
    origins: BTreeMap<ClusterName, Origin>,
    exporters: BTreeMap<ServiceName, BTreeSet<ClusterName>>,
    gateways: Gateways,
    claims: BTreeMap<ServiceName, BTreeMap<ClusterName, u64>>,
}

impl Catalog {
    /// An empty catalog with the durable first-seen claims of services and gateway addresses.
    #[must_use]
    pub fn new(
        claims: BTreeMap<(ServiceName, ClusterName), u64>,
        gateways: BTreeMap<GatewayAddress, ClusterName>,
    ) -> Self {
        let mut catalog = Self { gateways: Gateways::new(gateways), ..Self::default() };
        for ((service, cluster), revision) in claims {
            catalog.claims.entry(service).or_default().insert(cluster, revision);
        }
        catalog
    }

    /// Whether a cluster that offers already does so within other ranges than these.
    #[must_use]
    pub fn has_other_ranges(&self, member: &Member, zones: &BTreeSet<String>) -> bool {
        self.origins.get(&member.cluster).is_some_and(|o| {
            o.member.networks != member.networks
                || o.member.gateway_cidrs != member.gateway_cidrs
                || o.member.regions != member.regions
                || o.member.trust_domain != member.trust_domain
                || o.zones != *zones
        })
    }

    /// Lets a cluster offer, within these ranges. One whose ranges change has to be removed first.
    pub fn admit(&mut self, member: Member, zones: BTreeSet<String>) {
        match self.origins.get_mut(&member.cluster) {
            Some(origin) => origin.member = member,
            None => {
                self.origins.insert(member.cluster.clone(), Origin::new(member, zones));
            }
        }
    }

    /// Forgets a cluster and all it offered; the gateway addresses that it has stay its own.
    pub fn remove(&mut self, cluster: &ClusterName) -> Taken {
        let Some(origin) = self.origins.remove(cluster) else { return Taken::default() };
        let mut taken = Taken { base: origin.history.version(), reached: true, complete: true, ..Taken::default() };
        for service in origin.history.services() {
            taken.services.insert(service.clone());
            taken.heads.insert(service.clone());
            self.unexport(service, cluster);
        }
        taken.gateways = origin.history.of_service(None).next().is_some();
        taken
    }

    /// Takes one part of an offer.
    ///
    /// # Errors
    /// [`StreamError`]: the part is refused whole, and what was staged of its change is dropped.
    pub fn take(&mut self, cluster: &ClusterName, part: impl Into<Part>) -> Result<Taken, StreamError> {
        let part = part.into();
        let Some(origin) = self.origins.get_mut(cluster) else {
            // The session checks membership first; a member that was just removed offers to nobody.
            return Err(StreamError::Base { held: Version::default(), base: part.delta.base });
        };
        let Some(whole) = origin.stage(part)? else { return Ok(Taken::default()) };
        let mut judged = judge::judge(origin, &self.gateways, whole);
        let complete = judged.delta.complete;
        let (held, hold) = if complete { origin.hold_back(&mut judged.delta) } else { (None, None) };
        // A change that does not follow is refused whole, and what was held back before stays so.
        let (mut taken, keys) = self.apply(cluster, judged.delta)?;
        if let Some(origin) = self.origins.get_mut(cluster) {
            if complete {
                origin.hold = hold;
            }
            origin.first_complete |= complete;
            origin.remember(complete, &keys, &judged.refused, &judged.forgotten, judged.waiting);
        }
        (taken.refused, taken.refused_by_code, taken.held) = (judged.refused, judged.refused_by_code, held);
        Ok(taken)
    }

    /// Carries out what was held back of a full sync; `None`: nothing is held back any more.
    pub fn carry_out(&mut self, cluster: &ClusterName) -> Option<Taken> {
        let origin = self.origins.get_mut(cluster)?;
        let delta = origin.hold.take()?.delta(&origin.history);
        let (taken, keys) = self.apply(cluster, delta).ok()?;
        self.origins.get_mut(cluster)?.remember(false, &keys, &[], &[], Vec::new());
        Some(taken)
    }

    /// Applies a judged change; gives what it did, and the keys that it names.
    fn apply(&mut self, cluster: &ClusterName, delta: Delta) -> Result<(Taken, BTreeSet<OfferKey>), StreamError> {
        let Some(origin) = self.origins.get_mut(cluster) else { return Ok(<(Taken, BTreeSet<OfferKey>)>::default()) };
        let (base, complete) = (origin.history.version(), delta.complete);
        let keys: BTreeSet<OfferKey> =
            delta.upserts.iter().map(|u| &u.key).chain(delta.removals.iter().map(|r| &r.key)).cloned().collect();
        let before: BTreeSet<ServiceName> = if complete {
            origin.history.services().filter(|s| origin.exports(s)).cloned().collect()
        } else {
            keys.iter().filter_map(OfferKey::service).filter(|s| origin.exports(s)).cloned().collect()
        };
        let there: Vec<&OfferKey> = keys.iter().filter(|k| origin.history.get(k).is_some()).collect();
        let bytes = there.iter().map(|key| origin.bytes(key)).sum();
        let applied = origin.history.apply(delta)?;
        origin.recount(complete, &keys, (&there, bytes));
        let mut taken = Taken { version: origin.history.version(), base, reached: true, complete, ..Taken::default() };
        let mut gateways = Vec::new();
        for key in &applied.changed {
            match key.service() {
                Some(service) => {
                    taken.services.insert(service.clone());
                    if matches!(key.as_ref(), OfferKey::Service(_)) {
                        taken.heads.insert(service.clone());
                    }
                }
                None => gateways.extend(gateway_at(key)),
            }
        }
        taken.gateways = !gateways.is_empty();
        let exported: BTreeSet<ServiceName> = taken.services.iter().filter(|s| origin.exports(s)).cloned().collect();
        taken.added = exported.difference(&before).cloned().collect();
        taken.removed =
            taken.services.iter().filter(|s| before.contains(*s) && !exported.contains(*s)).cloned().collect();
        self.reindex(cluster, &mut taken, gateways);
        Ok((taken, keys))
    }

    fn reindex(&mut self, cluster: &ClusterName, taken: &mut Taken, gateways: Vec<GatewayAddress>) {
        for service in &taken.added {
            self.exporters.entry(service.clone()).or_default().insert(cluster.clone());
        }
        for service in &taken.removed.clone() {
            self.unexport(service, cluster);
        }
        for at in gateways {
            let offered = self.origins.get(cluster).is_some_and(|o| o.has_gateway(at));
            if offered {
                taken.claimed |= self.gateways.claim(at, cluster);
            } else if !taken.complete && self.gateways.owner(&at) == Some(cluster) {
                taken.idle.push(at);
            }
        }
        if taken.complete {
            // Also what it has from before this hub started.
            taken.idle = self.idle_gateways(cluster);
        }
    }

    fn unexport(&mut self, service: &ServiceName, cluster: &ClusterName) {
        if let Some(clusters) = self.exporters.get_mut(service) {
            clusters.remove(cluster);
            if clusters.is_empty() {
                self.exporters.remove(service);
            }
        }
    }

    /// Records durable claims.
    pub fn claimed(&mut self, cluster: &ClusterName, revisions: BTreeMap<ServiceName, u64>, dropped: &[ServiceName]) {
        for service in dropped {
            if let Some(claims) = self.claims.get_mut(service) {
                claims.remove(cluster);
                if claims.is_empty() {
                    self.claims.remove(service);
                }
            }
        }
        for (service, revision) in revisions {
            self.claims.entry(service).or_default().insert(cluster.clone(), revision);
        }
    }

    /// Claims of a cluster for services that it does not export now.
    #[must_use]
    pub fn idle_claims(&self, cluster: &ClusterName) -> Vec<ServiceName> {
        let idle = |service: &ServiceName| !self.exporters.get(service).is_some_and(|c| c.contains(cluster));
        self.claims
            .iter()
            .filter(|(s, claims)| claims.contains_key(cluster) && idle(s))
            .map(|(s, _)| s.clone())
            .collect()
    }

    /// Services that a cluster exports without a claim.
    #[must_use]
    pub fn unclaimed(&self, cluster: &ClusterName) -> Vec<ServiceName> {
        self.exports_of(cluster).filter(|service| self.first_seen(service, cluster).is_none()).cloned().collect()
    }

    /// Drops the parts of an unfinished change: the session that carried them is gone.
    pub fn abandon(&mut self, cluster: &ClusterName) {
        if let Some(origin) = self.origins.get_mut(cluster) {
            origin.abandon();
        }
    }

    // ---- reading ----

    /// The history of an origin that may offer.
    #[must_use]
    pub fn history(&self, cluster: &ClusterName) -> Option<&History> {
        self.origins.get(cluster).map(|o| &o.history)
    }
    /// Distinguishes states of an origin that have the same version: which of its gateways wait for their address
    /// depends on who came first to the hub. 0: none.
    #[must_use]
    pub fn salt(&self, cluster: &ClusterName) -> u64 {
        self.origins.get(cluster).map_or(0, |o| o.salt)
    }
    /// Clusters that may offer, in order.
    pub fn clusters(&self) -> impl Iterator<Item = &ClusterName> {
        self.origins.keys()
    }
    /// Whether a whole offer has been taken of an origin since this hub started.
    #[must_use]
    pub fn is_complete(&self, cluster: &ClusterName) -> bool {
        self.origins.get(cluster).is_some_and(|o| o.first_complete)
    }
    /// What is refused of an origin now, as far as it is remembered by name.
    pub fn refused(&self, cluster: &ClusterName) -> impl Iterator<Item = &Refusal> {
        self.origins.get(cluster).into_iter().flat_map(|o| o.refused.values())
    }
    /// What a full sync of an origin would have taken away, while that is held back.
    #[must_use]
    pub fn held_back(&self, cluster: &ClusterName) -> Option<Loss> {
        Some(self.origins.get(cluster)?.hold.as_ref()?.loss)
    }
    /// How many resources of a change that is under way have come.
    #[must_use]
    pub fn staged(&self, cluster: &ClusterName) -> usize {
        self.origins.get(cluster).map_or(0, Origin::staged)
    }
    /// How many resources are held of an origin.
    #[must_use]
    pub fn held(&self, cluster: &ClusterName) -> usize {
        self.origins.get(cluster).map_or(0, Origin::held)
    }
    /// All exported services with their exporters, in order.
    pub fn exporters(&self) -> impl Iterator<Item = (&ServiceName, &BTreeSet<ClusterName>)> {
        self.exporters.iter()
    }
    /// The services that one cluster exports, in order. Costs what the cluster has.
    pub fn exports_of(&self, cluster: &ClusterName) -> impl Iterator<Item = &ServiceName> {
        self.origins.get(cluster).into_iter().flat_map(|o| o.history.services().filter(|s| o.exports(s)))
    }
    /// The revision at which a cluster first exported a service; none while that is not durable.
    #[must_use]
    pub fn first_seen(&self, service: &ServiceName, cluster: &ClusterName) -> Option<u64> {
        self.claims.get(service)?.get(cluster).copied()
    }
}

fn gateway_at(key: &OfferKey) -> Option<GatewayAddress> {
    match key {
        OfferKey::Gateway(g) => Some((g.address, g.port)),
        OfferKey::Service(_) | OfferKey::Group(_) | OfferKey::Endpoint(_) => None,
    }
}
