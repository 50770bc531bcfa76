//! Pure. The agent's one state: index, view, what is made of them, and who is shown it. One input at a time, effects
//! out; [`run`] is the edge that feeds it. Nothing here walks over all services because an endpoint changed.

mod assignments;
mod build;
mod captured;
mod certificates;
pub mod command;
mod dangling;
mod holders;
mod imports;
mod issuing;
pub mod kept;
mod mirrored;
mod nearby;
mod policies;
mod proxies;
mod resolve;
pub mod run;
pub mod store;
mod tell;
#[cfg(test)]
mod tests;
mod whole;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use meshfed_api::border::Seniority;
use meshfed_crds::ObjectError;
use meshfed_model::bundle::Bundle;
use meshfed_model::identity::TrustDomain;
use meshfed_model::member::Members;
use meshfed_model::names::{ClusterName, NetworkName, ServiceName};
use meshfed_model::network::Network;
use meshfed_model::policy::FleetPolicies;
use meshfed_model::version::Version;
use meshfed_runtime::steady::ClockJump;

use crate::identity::Authority;
use crate::index::{Dirty, Index, WorkloadKey};
use crate::source::SourceUpdate;
use crate::translate::routes::AllRoutes;
use crate::translate::secrets::{self, Bundles};
use crate::translate::{OutboundName, ServiceFacts};
use crate::view::{Part, View, ViewChange, ViewDirty};
use crate::workload::{BundleSet, Holders};

use command::Effects;
use imports::Imports;
pub use imports::Numbers;
pub use proxies::Kept;
use proxies::{Entry, Proxy, Report};
pub use resolve::Admission;
use store::{Class, Scope, Store, StreamId};
use whole::Missing;
#[cfg(test)]
use whole::UNHEARD_PATIENCE;

/// How long a workload stays ready after its proxy's stream was lost (`contracts.md` 1.8).
pub const LOST_PATIENCE: Duration = Duration::from_secs(3);

/// What the core is bound to.
#[derive(Debug, Clone)]
pub struct CoreSettings {
    /// This cluster.
    pub cluster: ClusterName,
    /// Its trust domain.
    pub trust_domain: TrustDomain,
    /// Its networks; the first is that of clients who are not named.
    pub networks: Vec<Network>,
    /// The locality of clients who are not named.
    pub locality: meshfed_model::locality::Locality,
    /// The agent's own user.
    pub agent_uid: u32,
}

/// What the source said last.
#[derive(Debug, Clone, Default)]
pub struct SourceState {
    /// Its version; revision 0: no scan yet.
    pub version: Version,
    /// Objects that stand.
    pub objects: usize,
    /// Its faults, without those of the index.
    pub errors: Arc<[ObjectError]>,
}

/// The assignments that a class of clients asked for.
#[derive(Debug, Default)]
struct Demand {
    by_service: BTreeMap<ServiceName, BTreeMap<Arc<str>, OutboundName>>,
    names: usize,
}

/// The agent's state.
#[derive(Debug)]
pub struct Core {
    settings: CoreSettings,
    index: Index,
    view: View,
    authority: Authority,
    facts: BTreeMap<ServiceName, ServiceFacts>,
    /// What each service is in everybody's routes.
    routes: AllRoutes,
    store: Store,
    imports: Imports,
    /// What is shown of each service at its virtual addresses.
    virtuals: BTreeMap<ServiceName, Vec<captured::Virtual>>,
    /// Whether a client ever captured.
    captures: bool,
    bundles: Bundles,
    serials: BTreeMap<TrustDomain, u64>,
    /// Which assignments of a class are asked for, by service.
    demanded: BTreeMap<Arc<Class>, Demand>,
    streams: BTreeMap<StreamId, Entry>,
    by_workload: BTreeMap<WorkloadKey, BTreeSet<StreamId>>,
    waiting: BTreeSet<StreamId>,
    proxies: BTreeMap<WorkloadKey, Proxy>,
    /// The process that was last admitted as each workload: no more than there are workloads.
    admissions: BTreeMap<WorkloadKey, Admission>,
    reports: BTreeMap<StreamId, Report>,
    /// When the certificate of a workload is to be renewed.
    renewals: BTreeMap<WorkloadKey, Instant>,
    /// Who asks over the Workload API.
    holders: Holders,
    touched: BTreeSet<StreamId>,
    /// Streams whose workload changed.
    moved: BTreeSet<StreamId>,
    changed_proxies: BTreeSet<WorkloadKey>,
    retry_waiting: bool,
    source: SourceState,
    /// What of exports and their Services is not taken.
    refused: mirrored::Refused,
    /// Why no gateway of this cluster can be reached, as the mirror was told.
    told_gateway_lack: Option<String>,
    view_loaded: bool,
    /// Whether there is a view, loaded or from the hub: without one nobody knows what is imported.
    view_heard: bool,
    missing: Missing,
    /// Names in policies that nobody has.
    dangling: Arc<[ObjectError]>,
    /// Faults between objects that the log was told of and that stand.
    told_faults: BTreeSet<ObjectError>,
    clock_jump: Option<ClockJump>,
    open: bool,
    /// Grows with every input that may change an answer.
    revision: u64,
    effects: Effects,
}

impl Core {
    /// A core with a view as it was loaded (`view_loaded`: there was one) and nothing scanned yet.
    #[must_use]
    pub fn new(settings: CoreSettings, index: Index, view: View, view_loaded: bool, authority: Authority) -> Self {
        let bundles = BundleSet::new(settings.trust_domain.clone(), authority.anchor(), &BTreeMap::new());
        let mut core = Self {
            settings,
            index,
            view,
            authority,
            facts: BTreeMap::new(),
            routes: AllRoutes::new(),
            store: Store::default(),
            imports: Imports::default(),
            virtuals: BTreeMap::new(),
            captures: false,
            bundles: Bundles::new(),
            serials: BTreeMap::new(),
            demanded: BTreeMap::new(),
            streams: BTreeMap::new(),
            by_workload: BTreeMap::new(),
            waiting: BTreeSet::new(),
            proxies: BTreeMap::new(),
            admissions: BTreeMap::new(),
            reports: BTreeMap::new(),
            renewals: BTreeMap::new(),
            holders: Holders::new(bundles),
            touched: BTreeSet::new(),
            moved: BTreeSet::new(),
            changed_proxies: BTreeSet::new(),
            retry_waiting: false,
            source: SourceState::default(),
            refused: mirrored::Refused::default(),
            told_gateway_lack: None,
            view_loaded,
            view_heard: view_loaded,
            missing: Missing::default(),
            dangling: Arc::from([]),
            told_faults: BTreeSet::new(),
            clock_jump: None,
            open: false,
            revision: 0,
            effects: Effects::default(),
        };
        let imported: BTreeSet<ServiceName> = core.view.services().cloned().collect();
        core.refresh(&imported, &imported);
        core
    }

    // ---- reading ----

    /// This cluster's own objects.
    #[must_use]
    pub const fn index(&self) -> &Index {
        &self.index
    }
    /// What other clusters show.
    #[must_use]
    pub const fn view(&self) -> &View {
        &self.view
    }
    /// What it is bound to.
    #[must_use]
    pub const fn settings(&self) -> &CoreSettings {
        &self.settings
    }
    /// What the source said last.
    #[must_use]
    pub const fn source(&self) -> &SourceState {
        &self.source
    }
    /// The facts of a service that anybody can call.
    #[must_use]
    pub fn facts(&self, service: &ServiceName) -> Option<&ServiceFacts> {
        self.facts.get(service)
    }
    /// Grows with every input.
    #[must_use]
    pub const fn revision(&self) -> u64 {
        self.revision
    }
    /// Serials of the bundles that proxies are handed.
    #[must_use]
    pub const fn bundle_serials(&self) -> &BTreeMap<TrustDomain, u64> {
        &self.serials
    }
    /// Streams that stand.
    #[must_use]
    pub fn stream_count(&self) -> usize {
        self.streams.len()
    }
    /// Whether streams are answered: the source was scanned, and there is a view or word from the hub.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        self.open
    }

    // ---- inputs ----

    /// The changes of a scan.
    pub fn apply_source(&mut self, update: SourceUpdate, now: Instant, wall: SystemTime) {
        let first = self.source.version.revision == 0;
        self.source = SourceState { version: update.version, objects: update.objects, errors: update.errors };
        let silent = self.index.is_silent();
        let dirty = self.index.apply(&update.changes);
        if silent != self.index.is_silent() {
            tell::tell_silence(!silent);
        }
        tracing::debug!(
            version = %self.source.version,
            changes = update.changes.len(),
            objects = self.source.objects,
            faults = self.source.errors.len(),
            services = dirty.services.len(),
            exports = dirty.exports.len(),
            workloads = dirty.workloads.len(),
            "source: changes applied"
        );
        self.note_refused();
        if first {
            self.effects.gateways = Some(self.index.gateway_offers());
            self.effects.interest = Some(self.index.namespaces());
            self.effects.complete = true;
        }
        self.apply_dirty(dirty);
        self.effects.rows = true;
        self.try_open(now);
        self.settle(now, wall);
    }

    /// A change of what one origin shows.
    pub fn apply_view(&mut self, change: ViewChange, now: Instant, wall: SystemTime) {
        let (origin, complete) = (change.origin.clone(), change.delta.complete);
        let (version, changed, gone) = (change.delta.version, change.delta.upserts.len(), change.delta.removals.len());
        tracing::debug!(%origin, %version, complete, changed, gone, "view: a change of what a cluster shows");
        let imported = self.view.service_count();
        match self.view.apply(change) {
            Ok(dirty) => {
                self.effects.report |= imported != self.view.service_count();
                self.apply_view_dirty(&dirty);
                self.effects.rows |= imported != self.view.service_count() || complete;
                if complete {
                    self.told(&Part::Origin(origin.clone()));
                }
                self.effects.acks.insert(origin);
            }
            Err(error) => {
                tracing::warn!(%error, "a view change was refused; asking for what follows on ours");
                self.effects.resync = true;
            }
        }
        self.settle(now, wall);
    }

    /// An origin is gone.
    pub fn origin_gone(&mut self, origin: &ClusterName, now: Instant, wall: SystemTime) {
        tracing::debug!(%origin, "view: a cluster shows nothing any more");
        let dirty = self.view.remove_origin(origin);
        self.effects.report = true;
        self.apply_view_dirty(&dirty);
        self.told(&Part::Origin(origin.clone()));
        self.settle(now, wall);
    }

    /// The members of the fleet.
    pub fn set_members(&mut self, members: Members, now: Instant, wall: SystemTime) {
        let own = self.settings.cluster.clone();
        let standing = |core: &Self| (core.view.is_drained(&own), core.view.is_leaving(&own));
        let before = standing(self);
        self.told_members(&members, now);
        let dirty = self.view.set_members(members);
        self.apply_view_dirty(&dirty);
        if before != standing(self) {
            let all: BTreeSet<ServiceName> = self.index.services().map(|s| s.name.clone()).collect();
            self.refresh_endpoints(&all);
        }
        self.rebuild_trust();
        (self.view_loaded, self.view_heard) = (true, true);
        self.effects.names = true;
        self.effects.rows = true;
        self.try_open(now);
        self.settle(now, wall);
    }

    /// The fleet's policies.
    pub fn set_policies(&mut self, policies: FleetPolicies, now: Instant, wall: SystemTime) {
        let dirty = self.index.set_fleet_policies(policies::of_fleet(policies));
        self.apply_dirty(dirty);
        self.told(&Part::Policies);
        self.settle(now, wall);
    }

    /// Networks that other clusters are on, too.
    pub fn set_shared_networks(&mut self, networks: BTreeSet<NetworkName>, now: Instant, wall: SystemTime) {
        let dirty = self.index.set_shared_networks(networks);
        self.apply_dirty(dirty);
        self.told(&Part::SharedNetworks);
        self.settle(now, wall);
    }

    /// In which order the federator first saw exports.
    pub fn set_order(&mut self, order: Seniority, now: Instant, wall: SystemTime) {
        let dirty = self.view.set_order(order);
        self.apply_view_dirty(&dirty);
        self.settle(now, wall);
    }

    /// Every bundle that is held.
    pub fn set_bundles(&mut self, bundles: &BTreeMap<TrustDomain, Bundle>, now: Instant, wall: SystemTime) {
        let pem = |b: &Bundle| meshfed_ca::pem::encode_certificates(b.anchors.iter().map(Vec::as_slice));
        self.bundles = bundles.iter().map(|(domain, bundle)| (domain.clone(), pem(bundle))).collect();
        // The own anchor is the cluster's own truth, whatever the hub says.
        let own = meshfed_ca::pem::encode_certificates([self.authority.anchor()]);
        self.bundles.entry(self.settings.trust_domain.clone()).or_insert(own);
        let domain = self.settings.trust_domain.clone();
        self.holders.set_bundles(BundleSet::new(domain, self.authority.anchor(), bundles));
        self.serials = bundles.iter().map(|(domain, bundle)| (domain.clone(), bundle.serial)).collect();
        self.store.put(&Scope::Everybody, secrets::trust(&self.bundles));
        self.rebuild_trust();
        self.settle(now, wall);
    }

    /// Answers although there was never a view: the hub does not speak, and the own cluster's services are known.
    pub fn give_up_on_view(&mut self, now: Instant, wall: SystemTime) {
        self.view_loaded = true;
        self.try_open(now);
        self.settle(now, wall);
    }

    /// What time alone brings: lost proxies, renewals, refused resources to be sent again.
    pub fn tick(&mut self, now: Instant, wall: SystemTime) {
        self.expire_proxies(now);
        self.give_up_unheard(now);
        self.give_up_news(now);
        self.renew(now, wall);
        self.holders.renew(now);
        let due: Vec<StreamId> = self
            .streams
            .iter()
            .filter(|(_, e)| e.machine.deadline().is_some_and(|t| t <= now))
            .map(|(id, _)| *id)
            .collect();
        self.touched.extend(due);
        self.settle(now, wall);
    }

    /// When to call [`Self::tick`].
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let streams = self.streams.values().filter_map(|e| e.machine.deadline());
        let proxies = self.proxies.values().filter(|_| self.open).filter_map(Proxy::deadline);
        streams
            .chain(proxies)
            .chain(self.renewals.values().copied())
            .chain(self.holders.deadline())
            .chain(self.missing.deadline())
            .min()
    }

    /// What is to be done.
    pub fn take_effects(&mut self) -> Effects {
        self.effects.encoded = self.store.take_encoded();
        std::mem::take(&mut self.effects)
    }

    /// What a host name of a gateway resolves to, or why it does not: then what it resolved to before stays.
    pub fn set_resolved(
        &mut self,
        host: &Arc<str>,
        found: Result<Vec<IpAddr>, String>,
        now: Instant,
        wall: SystemTime,
    ) {
        let dirty = self.index.set_resolved(host, found);
        if dirty.is_empty() {
            return;
        }
        self.apply_dirty(dirty);
        self.settle(now, wall);
    }

    /// What host names of gateways resolved to when the agent ended.
    pub fn restore_resolved(&mut self, hosts: BTreeMap<Arc<str>, Vec<IpAddr>>) {
        for (host, addresses) in hosts {
            // Nothing is scanned yet, so nothing uses it.
            let _nothing_yet = self.index.set_resolved(&host, Ok(addresses));
        }
    }

    // ---- consequences ----

    fn try_open(&mut self, now: Instant) {
        if self.open || !self.view_loaded || self.source.version.revision == 0 {
            return;
        }
        self.open = true;
        self.await_hub_until(now);
        self.effects.names = true;
        self.retry_waiting = true;
        self.changed_proxies.extend(self.proxies.keys().cloned());
        for proxy in self.proxies.values_mut() {
            proxy.restart_patience(now);
        }
        // Before anybody is answered: who comes back must not be sent an assignment without those that were ready.
        let _any = self.update_states();
        self.effects.rows = true;
    }

    fn apply_dirty(&mut self, dirty: Dirty) {
        for service in &dirty.services {
            self.effects.offers.insert(service.clone(), self.index.offer_of(service));
        }
        if dirty.gateways {
            self.effects.gateways = Some(self.index.gateway_offers());
            self.note_gateways();
        }
        if dirty.hosts {
            self.effects.hosts = Some(self.index.hosts());
        }
        if dirty.namespaces {
            self.effects.interest = Some(self.index.namespaces());
        }
        let mut endpoints = dirty.services.clone();
        if dirty.policies {
            endpoints.extend(self.facts.keys().cloned());
        } else if dirty.gateways && self.settings.networks.len() > 1 {
            // Own endpoints on another own network are reached over the own gateways.
            endpoints.extend(self.index.services().map(|s| s.name.clone()));
        }
        self.effects.mirrored.extend(dirty.exports);
        if dirty.namespaces {
            self.effects.mirrored.extend(self.view.services().cloned());
        }
        self.refresh(&dirty.services, &endpoints);
        if dirty.gateways {
            self.rebuild_gateways();
        }
        if dirty.mesh {
            self.rebuild_captured();
        }
        self.workloads_changed(&dirty.workloads);
        if dirty.owners {
            self.holders.owners_changed();
        }
        self.effects.rows = true;
    }

    fn apply_view_dirty(&mut self, dirty: &ViewDirty) {
        let mut endpoints = dirty.services.clone();
        for cluster in &dirty.gateways_of {
            endpoints.extend(self.view.services_of(cluster).cloned());
        }
        self.refresh(&dirty.services, &endpoints);
        self.effects.report = true;
    }
}
