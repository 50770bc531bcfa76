//! Pure. In which order the exports of services were first seen, as far as one agent has to be told.

use std::collections::BTreeSet;

use meshfed_api::border::{SENIORITY_SERVICES_MAX, Seniority};
use meshfed_model::names::{ClusterName, ServiceName};

use crate::catalog::Catalog;
use crate::plan::Filter;

/// What an agent was told of the order, and where that may be another one now. Of what is not exported to it, it is told
/// nothing, not even a place that is left free.
#[derive(Debug, Default)]
pub(super) struct Orders {
    whole: bool,
    dirty: BTreeSet<ServiceName>,
    told: Seniority,
}

impl Orders {
    /// Of an agent that was told nothing in this session: all there is to say is to be said.
    pub(super) fn begin() -> Self {
        Self { whole: true, ..Self::default() }
    }
    /// What the agent sees is another.
    pub(super) const fn all(&mut self) {
        self.whole = true;
    }
    /// Exports of these services came, went, or were made durable; whether there may be something to say.
    pub(super) fn touch<'a>(&mut self, catalog: &Catalog, services: impl IntoIterator<Item = &'a ServiceName>) -> bool {
        let told = &self.told;
        let concerned = services.into_iter().filter(|s| catalog.is_shared(s) || told.contains_key(*s));
        self.dirty.extend(concerned.cloned());
        self.whole || !self.dirty.is_empty()
    }

    /// The next part of what is to be said; `None`: nothing now.
    pub(super) fn next(&mut self, catalog: &Catalog, own: &ClusterName, filter: &Filter) -> Option<Seniority> {
        if std::mem::take(&mut self.whole) {
            self.dirty = catalog.shared_names().chain(self.told.keys()).cloned().collect();
        }
        let mut part = Seniority::new();
        while part.len() < SENIORITY_SERVICES_MAX
            && let Some(service) = self.dirty.pop_first()
        {
            let wanted = filter.namespaces().contains(&service.namespace);
            let sees = |cluster: &ClusterName, offer: &meshfed_model::offer::ServiceOffer| {
                cluster == own || (wanted && filter.is_exported(&service, &offer.export_to))
            };
            let Some(order) = catalog.order(&service, sees) else { continue };
            let changed = match self.told.get(&service) {
                Some(told) => *told != order,
                None => !order.is_empty(),
            };
            if !changed {
                continue;
            }
            if order.is_empty() {
                self.told.remove(&service);
            } else {
                self.told.insert(service.clone(), order.clone());
            }
            part.insert(service, order);
        }
        (!part.is_empty()).then_some(part)
    }
}
