//! Pure. The numbering of this cluster's offer: what changed, at which revision.

use std::collections::BTreeSet;

use meshfed_api::stream::{Delta, History, Scope, StreamError};
use meshfed_model::names::ServiceName;
use meshfed_model::version::Version;

use super::mailbox::{Outgoing, Resources};

/// The offer of this cluster and its numbering.
#[derive(Debug)]
pub struct Ledger {
    history: History,
    /// Services named since the start, until the offer is complete.
    named: Option<BTreeSet<ServiceName>>,
    gateways_named: bool,
    /// Holds what an earlier life of the agent offered.
    continued: bool,
}

impl Ledger {
    /// A new numbering.
    #[must_use]
    pub fn new(epoch: u64) -> Self {
        Self::with(History::new(epoch), false)
    }

    fn with(history: History, continued: bool) -> Self {
        Self { history, named: Some(BTreeSet::new()), gateways_named: false, continued }
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
        for (service, resources) in std::mem::take(&mut outgoing.services) {
            if let Some(named) = &mut self.named {
                named.insert(service.clone());
            }
            changes.extend(self.history.replace_service(&service, resources));
        }
        if let Some(gateways) = outgoing.gateways.take() {
            self.gateways_named = true;
            changes.extend(self.history.replace_gateways(gateways));
        }
        if outgoing.complete {
            changes.extend(self.complete());
        }
        changes
    }

    fn complete(&mut self) -> Vec<Delta> {
        let Some(named) = self.named.take() else { return Vec::new() };
        let forgotten: Vec<ServiceName> = self.history.services().filter(|s| !named.contains(*s)).cloned().collect();
        let mut changes: Vec<Delta> =
            forgotten.iter().filter_map(|s| self.history.replace_service(s, Resources::new())).collect();
        if !self.gateways_named {
            changes.extend(self.history.replace_gateways(Resources::new()));
        }
        changes
    }

    /// Whether everything has been named once: before this the offer may be sent only where it continues an old one.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.named.is_none()
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
