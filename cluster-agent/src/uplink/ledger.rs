//! Pure. The numbering of this cluster's offer: what changed, at which revision.

use std::collections::BTreeMap;

use meshfed_api::border::{Class, OBJECT_MAX, Refusal, resource_bytes};
use meshfed_api::stream::{Delta, History, Scope, StreamError, size_limit};
use meshfed_model::names::ServiceName;
use meshfed_model::offer::OfferKey;
use meshfed_model::version::Version;

use super::mailbox::{Outgoing, Resources};

/// The offer of this cluster and its numbering.
#[derive(Debug)]
pub struct Ledger {
    history: History,
    /// What was named since the start, until the offer is complete.
    early: Option<Early>,
    /// Resources that are too large to be sent, by key (SY2).
    oversized: BTreeMap<OfferKey, Refusal>,
    /// Holds what an earlier life of the agent offered.
    continued: bool,
}

/// What was named before everything has been. An earlier life of the agent may have offered more of it: that is taken
/// away when the source has been seen whole, and not before (SY7).
#[derive(Debug, Default)]
struct Early {
    services: BTreeMap<ServiceName, Resources>,
    gateways: Option<Resources>,
}

/// Resources of one cluster that are too large, kept by name.
pub const OVERSIZED_MAX: usize = 256;

impl Ledger {
    /// A new numbering.
    #[must_use]
    pub fn new(epoch: u64) -> Self {
        Self::with(History::new(epoch), false)
    }

    fn with(history: History, continued: bool) -> Self {
        Self { history, early: Some(Early::default()), oversized: BTreeMap::new(), continued }
    }

    /// Continues a numbering from what a journal holds.
    ///
    /// # Errors
    /// When the deltas do not follow on each other.
    pub fn replay(deltas: impl IntoIterator<Item = Delta>) -> Result<Self, StreamError> {
        let mut history = History::default();
        for delta in deltas {
            history.apply(delta)?;
        }
        history.abandon();
        Ok(Self::with(history, true))
    }

    /// Takes over what the core actor offers. Gives what changed, for journal and hub.
    pub fn take(&mut self, outgoing: &mut Outgoing) -> Vec<Delta> {
        let mut changes = Vec::new();
        for (service, mut resources) in std::mem::take(&mut outgoing.services) {
            self.fit(Some(&service), &mut resources);
            if let Some(early) = &mut self.early {
                early.services.insert(service.clone(), resources.clone());
                keep_held(&self.history, Some(&service), &mut resources);
            }
            changes.extend(self.history.replace_service(&service, resources));
        }
        if let Some(mut gateways) = outgoing.gateways.take() {
            self.fit(None, &mut gateways);
            if let Some(early) = &mut self.early {
                early.gateways = Some(gateways.clone());
                keep_held(&self.history, None, &mut gateways);
            }
            changes.extend(self.history.replace_gateways(gateways));
        }
        if outgoing.complete {
            changes.extend(self.complete());
        }
        changes
    }

    /// Leaves out what is too large to be sent; its last good version stays.
    fn fit(&mut self, service: Option<&ServiceName>, resources: &mut Resources) {
        self.oversized.retain(|key, _| key.service() != service);
        let too_large = |(key, value): &(&OfferKey, &meshfed_model::offer::OfferValue)| {
            size_limit(key, value) > OBJECT_MAX && resource_bytes(key, u64::MAX, value) > OBJECT_MAX
        };
        let keys: Vec<OfferKey> = resources.iter().filter(too_large).map(|(key, _)| key.clone()).collect();
        for key in keys {
            let size = resources.remove(&key).map_or(0, |value| resource_bytes(&key, u64::MAX, &value));
            if let Some(last_good) = self.history.get(&key) {
                resources.insert(key.clone(), last_good.clone());
            }
            let message = format!(
                "it would take {size} bytes, at most {OBJECT_MAX} are allowed; give the service fewer ports, service \
                 accounts or targets"
            );
            if self.oversized.len() < OVERSIZED_MAX {
                let refusal = Refusal::of(key.clone(), Class::ResourceExhausted, "ResourceTooLarge", message);
                self.oversized.insert(key, refusal);
            }
        }
    }

    /// What is not sent because it is too large.
    pub fn oversized(&self) -> impl Iterator<Item = &Refusal> {
        self.oversized.values()
    }

    fn complete(&mut self) -> Vec<Delta> {
        let Some(early) = self.early.take() else { return Vec::new() };
        let forgotten: Vec<ServiceName> =
            self.history.services().filter(|s| !early.services.contains_key(*s)).cloned().collect();
        let forgotten = forgotten.into_iter().map(|service| (service, Resources::new()));
        let all = early.services.into_iter().chain(forgotten);
        let mut changes: Vec<Delta> =
            all.filter_map(|(service, resources)| self.history.replace_service(&service, resources)).collect();
        changes.extend(self.history.replace_gateways(early.gateways.unwrap_or_default()));
        changes
    }

    /// Whether everything has been named once: before this the offer may be sent only where it continues an old one.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.early.is_none()
    }

    /// Whether the hub may be told now. An offer under a new epoch that is not whole yet would take away all that the
    /// hub holds (SY7); one that continues an earlier life holds its last good state.
    #[must_use]
    pub const fn may_send(&self) -> bool {
        self.is_complete() || self.continued
    }

    /// Where the offer stands.
    #[must_use]
    pub const fn version(&self) -> Version {
        self.history.version()
    }
    /// The oldest revision that the hub can be resumed from.
    #[must_use]
    pub const fn floor(&self) -> u64 {
        self.history.floor()
    }
    /// What a hub that stands at `held` must be told, in parts.
    #[must_use]
    pub fn since(&self, held: Version) -> Vec<Delta> {
        self.history.since(held, Scope::Replica)
    }
    /// Everything, for the journal.
    #[must_use]
    pub fn snapshot(&self) -> Vec<Delta> {
        self.history.complete(Scope::Replica)
    }
    /// The number of resources.
    #[must_use]
    pub fn len(&self) -> usize {
        self.history.len()
    }
    /// Whether nothing is offered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.history.is_empty()
    }

    /// Numbers everything anew under a higher epoch: the hub holds something that this numbering cannot explain.
    pub fn renumber(&mut self, epoch: u64) {
        let services: Vec<ServiceName> = self.history.services().cloned().collect();
        let mut history = History::new(epoch);
        let copy = |service: Option<&ServiceName>| {
            self.history.of_service(service).map(|(k, v)| (k.clone(), v.clone())).collect()
        };
        for service in &services {
            history.replace_service(service, copy(Some(service)));
        }
        history.replace_gateways(copy(None));
        self.history = history;
    }
}

/// Adds what is held of a service, or of the gateways (`None`), and not named now.
fn keep_held(history: &History, service: Option<&ServiceName>, resources: &mut Resources) {
    for (key, value) in history.of_service(service) {
        if !resources.contains_key(key) {
            resources.insert(key.clone(), value.clone());
        }
    }
}
