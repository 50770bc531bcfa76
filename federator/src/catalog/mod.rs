//! Pure. All offers of the fleet, one history per origin, as far as each origin's token allows.
//!
//! An offer is taken resource by resource: what the token does not allow, what is over the quota, and a gateway
//! address that another cluster has already, is refused by name, while the rest is taken. Nothing goes back: an older
//! version is refused whole.

mod facts;
mod hash;
mod origin;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use meshfed_api::border::Refusal;
use meshfed_api::stream::{Delta, History, StreamError, Upsert};
use meshfed_model::allowed;
use meshfed_model::member::Member;
use meshfed_model::names::{ClusterName, ServiceName};
use meshfed_model::offer::OfferKey;
use meshfed_model::version::Version;

pub(crate) use facts::merge;
pub use facts::{Merged, MergedPort, PortFacts};
pub(crate) use hash::Fnv;
use origin::Origin;

/// Services of one cluster (SY2).
pub const SERVICES_MAX: usize = 10_000;
/// Single endpoints of one cluster (SY2).
pub const ENDPOINTS_MAX: usize = 100_000;
/// Groups of one cluster: each service has some ports, and each of them some localities.
pub const GROUPS_MAX: usize = 200_000;
/// Gateway addresses of one cluster.
pub const GATEWAYS_MAX: usize = 1_000;
/// Refused resources that are remembered by name, per cluster.
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
    /// Whether a gateway did.
    pub gateways: bool,
    /// What was refused.
    pub refused: Vec<Refusal>,
    /// Services that are exported since.
    pub added: Vec<ServiceName>,
    /// Services that are exported no more.
    pub removed: Vec<ServiceName>,
    /// Other origins that now have a gateway address which this one has given up.
    pub released: BTreeSet<ClusterName>,
}

/// All offers of the fleet.
#[derive(Debug, Default)]
pub struct Catalog {
    origins: BTreeMap<ClusterName, Origin>,
    exporters: BTreeMap<ServiceName, BTreeSet<ClusterName>>,
    gateways: BTreeMap<(IpAddr, u16), ClusterName>,
    claims: BTreeMap<ServiceName, BTreeMap<ClusterName, u64>>,
}

impl Catalog {
    /// An empty catalog with the durable first-seen claims.
    #[must_use]
    pub fn new(claims: BTreeMap<(ServiceName, ClusterName), u64>) -> Self {
        let mut catalog = Self::default();
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

    /// Forgets a cluster and all it offered.
    pub fn remove(&mut self, cluster: &ClusterName) -> Taken {
        let Some(origin) = self.origins.remove(cluster) else { return Taken::default() };
        let mut taken = Taken { base: origin.history.version(), reached: true, complete: true, ..Taken::default() };
        for service in origin.history.services() {
            taken.services.insert(service.clone());
            self.unexport(service, cluster);
        }
        let freed: Vec<(IpAddr, u16)> =
            self.gateways.iter().filter(|(_, owner)| *owner == cluster).map(|(at, _)| *at).collect();
        for at in freed {
            taken.gateways = true;
            self.gateways.remove(&at);
            taken.released.extend(self.release(at));
        }
        taken
    }

    /// Takes one part of an offer.
    ///
    /// # Errors
    /// [`StreamError`]: the part is refused whole, and what was staged of its change is dropped.
    pub fn take(&mut self, cluster: &ClusterName, part: Delta) -> Result<Taken, StreamError> {
        let Some(origin) = self.origins.get_mut(cluster) else {
            // The session checks membership first; a member that was just removed offers to nobody.
            return Err(StreamError::Base { held: Version::default(), base: part.base });
        };
        let Some(whole) = origin.stage(part)? else { return Ok(Taken::default()) };
        let base = origin.history.version();
        let complete = whole.complete;
        let (allowed, refused, waiting) = judge(origin, &self.gateways, whole);
        let keys: BTreeSet<OfferKey> =
            allowed.upserts.iter().map(|u| &u.key).chain(allowed.removals.iter().map(|r| &r.key)).cloned().collect();
        let before: BTreeSet<ServiceName> = if complete {
            origin.history.services().filter(|s| origin.exports(s)).cloned().collect()
        } else {
            keys.iter().filter_map(OfferKey::service).filter(|s| origin.exports(s)).cloned().collect()
        };
        let held: Vec<&OfferKey> = keys.iter().filter(|k| origin.history.get(k).is_some()).collect();
        let applied = origin.history.apply(allowed)?;
        origin.recount(complete, &keys, &held);
        origin.first_complete |= complete;
        origin.remember(complete, &keys, &refused, waiting);
        let mut taken =
            Taken { version: origin.history.version(), base, reached: true, complete, refused, ..Taken::default() };
        let mut gateways = Vec::new();
        for key in &applied.changed {
            match key.service() {
                Some(service) => {
                    taken.services.insert(service.clone());
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
        Ok(taken)
    }

    fn reindex(&mut self, cluster: &ClusterName, taken: &mut Taken, gateways: Vec<(IpAddr, u16)>) {
        for service in &taken.added {
            self.exporters.entry(service.clone()).or_default().insert(cluster.clone());
        }
        for service in &taken.removed.clone() {
            self.unexport(service, cluster);
        }
        for at in gateways {
            let offered = self.origins.get(cluster).is_some_and(|o| o.has_gateway(at));
            if offered {
                self.gateways.insert(at, cluster.clone());
            } else if self.gateways.get(&at) == Some(cluster) {
                self.gateways.remove(&at);
                taken.released.extend(self.release(at));
            }
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

    /// Gives a free gateway address to the first cluster that waits for it.
    fn release(&mut self, at: (IpAddr, u16)) -> Option<ClusterName> {
        let (cluster, origin) = self.origins.iter_mut().find(|(_, o)| o.waits_for(at))?;
        let cluster = cluster.clone();
        origin.retake(at);
        self.gateways.insert(at, cluster.clone());
        Some(cluster)
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
    /// depends on who came first to this hub. 0: none.
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

fn gateway_at(key: &OfferKey) -> Option<(IpAddr, u16)> {
    match key {
        OfferKey::Gateway(g) => Some((g.address, g.port)),
        OfferKey::Service(_) | OfferKey::Group(_) | OfferKey::Endpoint(_) => None,
    }
}

/// Splits a change into what may be taken, what is refused, and gateways that wait for their address.
fn judge(
    origin: &Origin,
    gateways: &BTreeMap<(IpAddr, u16), ClusterName>,
    mut change: Delta,
) -> (Delta, Vec<Refusal>, Vec<Upsert>) {
    let mut counts = origin.counts(&change);
    let mut refused = Vec::new();
    let mut waiting = Vec::new();
    let mut allowed = Vec::with_capacity(change.upserts.len());
    for upsert in std::mem::take(&mut change.upserts) {
        let verdict = allowed::check(&origin.member, &origin.zones, &upsert.key, &upsert.value)
            .map_err(|e| (e.code(), e.to_string()))
            .and_then(|()| counts.admit(&upsert.key, origin.history.get(&upsert.key).is_some() && !change.complete));
        let taken = gateway_at(&upsert.key).and_then(|at| gateways.get(&at)).filter(|o| **o != origin.member.cluster);
        match (verdict, taken) {
            (Ok(()), None) => allowed.push(upsert),
            (Ok(()), Some(owner)) => {
                let message =
                    format!("cluster '{owner}' offers this gateway address already; use another address or port");
                let key = upsert.key.clone();
                refused.push(Refusal { key, code: "GatewayAddressTaken".to_owned(), message });
                waiting.push(upsert);
            }
            (Err((code, message)), _) => {
                refused.push(Refusal { key: upsert.key, code: code.to_owned(), message });
            }
        }
    }
    change.upserts = allowed;
    (change, refused, waiting)
}
