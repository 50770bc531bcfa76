//! Pure. Who sees which resource of an origin.

use std::collections::{BTreeMap, BTreeSet};

use meshfed_model::export::ExportTo;
use meshfed_model::names::{ClusterName, Namespace, NetworkName};
use meshfed_model::offer::{OfferKey, OfferValue};

/// Decides what one receiver may see.
pub trait Audience {
    /// Whether the receiver sees the resource when its service is exported to `export_to` (everyone for gateways).
    fn sees(&self, key: &OfferKey, export_to: &ExportTo) -> bool;
    /// Whether the receiver may have seen a resource that was removed, and must be told. `audience` may be the union of
    /// several: a receiver that narrows "everyone" in [`Self::sees`] must not do so here, or it would keep what is gone.
    fn saw(&self, key: &OfferKey, audience: &ExportTo) -> bool {
        self.sees(key, audience)
    }
}

/// For whom a delta is made.
#[derive(Clone, Copy)]
pub enum Scope<'a> {
    /// The hub, or the own disk: everything, with audiences and the record of lost visibility.
    Replica,
    /// An importing cluster: only what it sees, without audiences.
    Importer(&'a dyn Audience),
}

/// An importing cluster as the hub knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Importer {
    /// Its name.
    pub cluster: ClusterName,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The networks it is on.
    pub networks: BTreeSet<NetworkName>,
    /// The namespaces it announced.
    pub namespaces: BTreeSet<Namespace>,
}

impl Audience for Importer {
    /// Services of announced namespaces that are exported to the cluster; of those, single endpoints on the cluster's
    /// own networks and groups on others; gateways that lead where the cluster cannot dial itself from all its
    /// networks.
    fn sees(&self, key: &OfferKey, export_to: &ExportTo) -> bool {
        let fits = match key {
            OfferKey::Service(_) => true,
            OfferKey::Group(g) => !self.networks.contains(&g.network),
            OfferKey::Endpoint(e) => self.networks.contains(&e.network),
            OfferKey::Gateway(g) => self.networks.iter().any(|n| *n != g.network),
        };
        let wanted = key.service().is_none_or(|s| self.namespaces.contains(&s.namespace));
        fits && wanted && export_to.includes(&self.cluster, &self.labels)
    }
}

pub(super) const fn nobody() -> ExportTo {
    ExportTo::Selected(BTreeSet::new())
}

pub(super) fn is_nobody(audience: &ExportTo) -> bool {
    match audience {
        ExportTo::Everyone => false,
        ExportTo::Selected(selectors) => selectors.is_empty(),
    }
}

pub(super) fn union(a: ExportTo, b: ExportTo) -> ExportTo {
    match (a, b) {
        (ExportTo::Selected(mut a), ExportTo::Selected(b)) => {
            a.extend(b);
            ExportTo::Selected(a)
        }
        (ExportTo::Everyone, _) | (_, ExportTo::Everyone) => ExportTo::Everyone,
    }
}

/// Importers never learn to whom else something is exported.
pub(super) fn hide_audience(value: &mut OfferValue) {
    match value {
        OfferValue::Service(s) => s.export_to = nobody(),
        OfferValue::Group(_) | OfferValue::Endpoint(_) | OfferValue::Gateway(_) => {}
    }
}

pub(super) fn audience_in(value: Option<&OfferValue>) -> ExportTo {
    match value {
        Some(OfferValue::Service(s)) => s.export_to.clone(),
        Some(OfferValue::Group(_) | OfferValue::Endpoint(_) | OfferValue::Gateway(_)) | None => nobody(),
    }
}
