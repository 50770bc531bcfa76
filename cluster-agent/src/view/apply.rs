//! Pure. The view as a whole: what is applied to it, and what is read from it.

use std::collections::{BTreeMap, BTreeSet};

use meshfed_api::border::Seniority;
use meshfed_api::stream::Delta;
use meshfed_model::allowed;
use meshfed_model::import::{Import, sort_by_seniority};
use meshfed_model::member::Members;
use meshfed_model::names::{ClusterName, ServiceName};
use meshfed_model::offer::{GatewayKey, GatewayOffer, OfferKey, OfferValue, ServiceOffer};
use meshfed_model::version::Version;
use meshfed_model::view::VersionVector;

use meshfed_api::border::Class;
pub use meshfed_api::border::Refusal;

use super::origin::{Origin, OriginService, Touched};

/// Resources of one origin; the hub allows 10,000 services and 100,000 endpoints, and each service has a few groups.
pub const RESOURCES_MAX: usize = 500_000;

/// A whole change (all parts joined) of what one origin shows us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ViewChange {
    /// The origin.
    pub origin: ClusterName,
    /// The change; `more` is false.
    pub delta: Delta,
    /// What the hub chose it by; told to the hub again when the session is resumed.
    pub filter: u64,
}

/// What a change touched: that, and nothing else, is to be translated anew.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ViewDirty {
    /// Services whose offer, groups or endpoints changed.
    pub services: BTreeSet<ServiceName>,
    /// Clusters whose gateways changed: all that is reached through them.
    pub gateways_of: BTreeSet<ClusterName>,
}

impl ViewDirty {
    /// Whether nothing changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.services.is_empty() && self.gateways_of.is_empty()
    }
    fn add(&mut self, origin: &ClusterName, touched: Touched) {
        self.services.extend(touched.services);
        if touched.gateways {
            self.gateways_of.insert(origin.clone());
        }
    }
}

/// Why a change was refused whole. The view is as it was before.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ViewError {
    /// It is older than what is held.
    #[error("{origin}: version {offered} is older than {held}, which is held")]
    Older {
        /// The origin.
        origin: ClusterName,
        /// What is held.
        held: Version,
        /// What was offered.
        offered: Version,
    },
    /// It starts elsewhere.
    #[error("{origin}: the change starts at {base}, but {held} is held")]
    Base {
        /// The origin.
        origin: ClusterName,
        /// What is held.
        held: Version,
        /// Where it starts.
        base: Version,
    },
    /// It is only a part.
    #[error("{origin}: a part of a change cannot be applied")]
    Part {
        /// The origin.
        origin: ClusterName,
    },
    /// It is too large.
    #[error("{origin}: {actual} resources of one origin, at most {limit} are taken")]
    TooMany {
        /// The origin.
        origin: ClusterName,
        /// The limit.
        limit: usize,
        /// What came.
        actual: usize,
    },
}

/// Whether a change may follow on what is held of its origin (`None`: nothing).
///
/// # Errors
/// [`ViewError`].
pub fn follows(change: &ViewChange, held: Option<Version>) -> Result<(), ViewError> {
    let origin = || change.origin.clone();
    let delta = &change.delta;
    let held = held.unwrap_or_default();
    if delta.more {
        return Err(ViewError::Part { origin: origin() });
    }
    if delta.version < held {
        return Err(ViewError::Older { origin: origin(), held, offered: delta.version });
    }
    if !delta.complete && (delta.base != held || held == Version::default()) {
        return Err(ViewError::Base { origin: origin(), held, base: delta.base });
    }
    let actual = delta.upserts.len().max(delta.removals.len());
    if actual > RESOURCES_MAX {
        return Err(ViewError::TooMany { origin: origin(), limit: RESOURCES_MAX, actual });
    }
    Ok(())
}

/// What the other clusters show this one.
#[derive(Debug, Clone)]
pub struct View {
    own: ClusterName,
    members: Members,
    origins: BTreeMap<ClusterName, Origin>,
    exporters: BTreeMap<ServiceName, BTreeSet<ClusterName>>,
    /// In which order the federator first saw exports, the own one among them.
    order: Seniority,
}

impl View {
    /// An empty view of cluster `own`.
    #[must_use]
    pub fn new(own: ClusterName) -> Self {
        Self {
            own,
            members: Members::default(),
            origins: BTreeMap::new(),
            exporters: BTreeMap::new(),
            order: Seniority::new(),
        }
    }

    /// Takes over a change. Resources outside their origin's ranges are refused by name, the rest is taken.
    ///
    /// # Errors
    /// [`ViewError`].
    pub fn apply(&mut self, change: ViewChange) -> Result<ViewDirty, ViewError> {
        follows(&change, self.origins.get(&change.origin).map(|o| o.version))?;
        let ViewChange { origin, delta, filter } = change;
        let mut held = self.origins.remove(&origin).unwrap_or_default();
        let touched = if delta.complete {
            let mut new = Origin { version: delta.version, filter, ..Origin::default() };
            let mut ignored = Touched::default();
            for upsert in delta.upserts {
                self.judge(&origin, &mut new, upsert.key, upsert.value, &mut ignored);
            }
            let touched = held.difference(&new);
            held = new;
            touched
        } else {
            let mut touched = Touched::default();
            (held.version, held.filter) = (delta.version, filter);
            for removal in &delta.removals {
                held.remove(&removal.key, &mut touched);
            }
            for upsert in delta.upserts {
                self.judge(&origin, &mut held, upsert.key, upsert.value, &mut touched);
            }
            touched
        };
        let mut dirty = ViewDirty::default();
        self.settle(origin, held, touched, &mut dirty);
        Ok(dirty)
    }

    /// Forgets an origin: it has left, was evicted, or shows us nothing any more.
    pub fn remove_origin(&mut self, origin: &ClusterName) -> ViewDirty {
        let mut dirty = ViewDirty::default();
        if let Some(held) = self.origins.remove(origin) {
            let touched = held.difference(&Origin::default());
            self.index(origin, &Origin::default(), &touched);
            dirty.add(origin, touched);
        }
        dirty
    }

    /// Takes the members of the fleet. Origins whose ranges changed are judged anew.
    pub fn set_members(&mut self, members: Members) -> ViewDirty {
        let before = std::mem::replace(&mut self.members, members);
        let changed: Vec<ClusterName> = self
            .origins
            .keys()
            .filter(|name| before.members.get(*name) != self.members.members.get(*name))
            .cloned()
            .collect();
        let mut dirty = ViewDirty::default();
        for origin in changed {
            let Some(mut old) = self.origins.remove(&origin) else { continue };
            let mut new = Origin { version: old.version, filter: old.filter, ..Origin::default() };
            let unjudged = old.clone();
            let mut ignored = Touched::default();
            for (key, value) in old.drain() {
                self.judge(&origin, &mut new, key, value, &mut ignored);
            }
            let touched = unjudged.difference(&new);
            self.settle(origin.clone(), new, touched, &mut dirty);
            let drained = |m: &Members| m.members.get(&origin).is_some_and(|m| m.drained);
            if drained(&before) != drained(&self.members)
                && let Some(held) = self.origins.get(&origin)
            {
                dirty.services.extend(held.services.keys().cloned());
            }
        }
        dirty
    }

    /// Takes what the hub says of the order of exports; what it does not name stays. Gives the services whose import may
    /// be another.
    pub fn set_order(&mut self, told: Seniority) -> ViewDirty {
        let mut dirty = ViewDirty::default();
        for (service, clusters) in told {
            let before = if clusters.is_empty() {
                self.order.remove(&service)
            } else {
                self.order.insert(service.clone(), clusters)
            };
            if before.as_ref() != self.order.get(&service) {
                dirty.services.insert(service);
            }
        }
        dirty
    }

    fn judge(&self, origin: &ClusterName, held: &mut Origin, key: OfferKey, value: OfferValue, touched: &mut Touched) {
        let verdict = match self.members.members.get(origin) {
            Some(member) => allowed::check(member, [], &key, &value).map_err(|e| (e.code().to_owned(), e.to_string())),
            None => Err(("UnknownCluster".to_owned(), format!("cluster '{origin}' is no member of the fleet"))),
        };
        match verdict {
            Ok(()) => held.put(key, value, touched),
            // The last good value of the key stays.
            Err((code, message)) => {
                let refusal = Refusal::of(key.clone(), Class::PermissionDenied, &code, message);
                held.refused.insert(key, (value, refusal));
            }
        }
    }

    fn settle(&mut self, origin: ClusterName, held: Origin, touched: Touched, dirty: &mut ViewDirty) {
        self.index(&origin, &held, &touched);
        self.origins.insert(origin.clone(), held);
        dirty.add(&origin, touched);
    }

    fn index(&mut self, origin: &ClusterName, held: &Origin, touched: &Touched) {
        for name in &touched.services {
            if held.services.get(name).is_some_and(|s| s.offer.is_some()) {
                self.exporters.entry(name.clone()).or_default().insert(origin.clone());
            } else if let Some(origins) = self.exporters.get_mut(name) {
                origins.remove(origin);
                if origins.is_empty() {
                    self.exporters.remove(name);
                }
            }
        }
    }

    // ---- reading ----

    /// This cluster.
    #[must_use]
    pub const fn own(&self) -> &ClusterName {
        &self.own
    }
    /// The members as last told.
    #[must_use]
    pub const fn members(&self) -> &Members {
        &self.members
    }
    /// Whether an operator has drained a cluster.
    #[must_use]
    pub fn is_drained(&self, cluster: &ClusterName) -> bool {
        self.members.members.get(cluster).is_some_and(|m| m.drained)
    }
    /// Whether a cluster is about to leave.
    #[must_use]
    pub fn is_leaving(&self, cluster: &ClusterName) -> bool {
        self.members.members.get(cluster).is_some_and(|m| m.leaving)
    }
    /// One service as every origin shows it that exports it to us, in order of the origins. Costs what it has.
    pub fn service(&self, name: &ServiceName) -> impl Iterator<Item = (&ClusterName, &OriginService)> {
        self.exporters
            .get(name)
            .into_iter()
            .flatten()
            .filter_map(move |origin| Some((origin, self.origins.get(origin)?.services.get(name)?)))
    }
    /// All exports of a service that this cluster sees as one import, `exported` being its own; `None` of none.
    #[must_use]
    pub fn import(&self, name: &ServiceName, exported: Option<&ServiceOffer>) -> Option<Import> {
        let foreign = self.service(name).filter_map(|(origin, shown)| Some((origin, shown.offer.as_ref()?)));
        let mut exports: Vec<(&ClusterName, &ServiceOffer)> =
            exported.map(|offer| (&self.own, offer)).into_iter().chain(foreign).collect();
        sort_by_seniority(&mut exports, self.order.get(name).map_or(&[], Vec::as_slice));
        Import::merge(&exports)
    }
    /// The order of exports as last told.
    #[must_use]
    pub const fn order(&self) -> &Seniority {
        &self.order
    }
    /// Whether any origin exports the service to us.
    #[must_use]
    pub fn has_service(&self, name: &ServiceName) -> bool {
        self.exporters.contains_key(name)
    }
    /// All services that are exported to us, in order.
    pub fn services(&self) -> impl Iterator<Item = &ServiceName> {
        self.exporters.keys()
    }
    /// How many services anybody exports to us.
    pub fn service_count(&self) -> usize {
        self.exporters.len()
    }
    /// The services that one origin exports to us, in order.
    pub fn services_of(&self, origin: &ClusterName) -> impl Iterator<Item = &ServiceName> {
        let services = self.origins.get(origin).into_iter().flat_map(|o| &o.services);
        services.filter(|(_, s)| s.offer.is_some()).map(|(name, _)| name)
    }
    /// Whether anything that is exported to us lies in the zone. Costs the view where nothing does.
    #[must_use]
    pub fn has_zone(&self, zone: &str) -> bool {
        let mut services = self.origins.values().flat_map(|o| o.services.values());
        services.any(|s| {
            s.groups.keys().any(|g| *g.locality.zone == *zone)
                || s.endpoints.values().any(|e| *e.locality.zone == *zone)
        })
    }
    /// The gateways of one cluster, in order.
    pub fn gateways(&self, cluster: &ClusterName) -> impl Iterator<Item = (&GatewayKey, &GatewayOffer)> {
        self.origins.get(cluster).into_iter().flat_map(|o| &o.gateways)
    }
    /// The origins that are held, in order.
    pub fn origins(&self) -> impl Iterator<Item = &ClusterName> {
        self.origins.keys()
    }
    /// What was refused here of one origin: for the acknowledgement and for people.
    pub fn refused(&self, origin: &ClusterName) -> impl Iterator<Item = &Refusal> {
        self.origins.get(origin).into_iter().flat_map(|o| o.refused.values().map(|(_, refusal)| refusal))
    }
    /// The version held of one origin.
    #[must_use]
    pub fn version(&self, origin: &ClusterName) -> Option<Version> {
        self.origins.get(origin).map(|o| o.version)
    }
    /// The filter of the last change of one origin.
    #[must_use]
    pub fn filter(&self, origin: &ClusterName) -> Option<u64> {
        self.origins.get(origin).map(|o| o.filter)
    }
    /// The vector of versions that identifies this view.
    #[must_use]
    pub fn vector(&self) -> VersionVector {
        self.origins.iter().map(|(name, o)| (name.clone(), o.version)).collect()
    }
}
