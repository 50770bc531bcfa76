//! Edge. Where the core actor leaves what is to go to the hub. Latest wins, so it holds as much as there are services.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use meshfed_api::border::{Ack, REFUSALS_MAX};
use meshfed_api::proto::federation as wire;
use meshfed_model::names::{ClusterName, Namespace, ServiceName};
use meshfed_model::offer::{OfferKey, OfferValue};
use tokio::sync::Notify;

use crate::view::View;

/// The resources of one service, or the gateways.
pub type Resources = BTreeMap<OfferKey, OfferValue>;

/// What the session takes at once.
#[derive(Debug, Default)]
pub struct Outgoing {
    /// Per service all its resources; none: it is offered no more.
    pub services: BTreeMap<ServiceName, Resources>,
    /// All gateways, if they were named.
    pub gateways: Option<Resources>,
    /// The offer is whole from here on.
    pub complete: bool,
    /// The namespaces this cluster wants to see services of, if they changed.
    pub interest: Option<BTreeSet<Namespace>>,
    /// The latest status, if it changed.
    pub report: Option<wire::StatusReport>,
    /// Where the view stands, per origin, if it moved.
    pub acks: BTreeMap<ClusterName, Ack>,
    /// The view refused a change: where it stands instead.
    pub resync: Option<BTreeMap<ClusterName, (meshfed_model::version::Version, u64)>>,
}

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Outgoing>,
    signal: Notify,
}

/// The core actor's end of the uplink. Nothing here blocks.
#[derive(Debug, Clone, Default)]
pub struct UplinkHandle(Arc<Shared>);

impl UplinkHandle {
    /// A mailbox of its own.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn change(&self, change: impl FnOnce(&mut Outgoing)) {
        change(&mut self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        self.0.signal.notify_one();
    }

    /// Makes `resources` all that is offered of one service; none: it is offered no more.
    pub fn offer_service(&self, service: ServiceName, resources: Resources) {
        self.change(|o| {
            o.services.insert(service, resources);
        });
    }
    /// Makes `resources` all gateways that are offered.
    pub fn offer_gateways(&self, resources: Resources) {
        self.change(|o| o.gateways = Some(resources));
    }
    /// Everything has been named once, after the first complete scan of the source. What an earlier life of the agent
    /// offered and nobody named since is withdrawn; before this, nothing is.
    pub fn offer_complete(&self) {
        self.change(|o| o.complete = true);
    }
    /// The namespaces this cluster wants to see services of. Not before the first complete scan.
    pub fn interest(&self, namespaces: BTreeSet<Namespace>) {
        self.change(|o| o.interest = Some(namespaces));
    }
    /// The status of the cluster; `offer` is filled in here: the version that covers all that was offered before.
    pub fn report(&self, report: wire::StatusReport) {
        self.change(|o| o.report = Some(report));
    }
    /// Tells the hub where the view stands for an origin. After [`Self::report`], when the change made proxies lag.
    pub fn ack(&self, view: &View, origin: &ClusterName) {
        let Some(version) = view.version(origin) else { return };
        let refused = view.refused(origin).take(REFUSALS_MAX).cloned().collect();
        let ack = Ack { origin: origin.clone(), version, refused };
        self.change(|o| {
            o.acks.insert(origin.clone(), ack);
        });
    }
    /// The view refused a change: the session starts anew from where the view stands.
    pub fn resync(&self, view: &View) {
        let stands = view.origins().filter_map(|o| Some((o.clone(), (view.version(o)?, view.filter(o)?)))).collect();
        self.change(|o| o.resync = Some(stands));
    }

    /// Takes all that waits.
    pub(crate) fn take(&self) -> Outgoing {
        std::mem::take(&mut *self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }
    /// Waits until something may be there.
    pub(crate) async fn changed(&self) {
        self.0.signal.notified().await;
    }
}
