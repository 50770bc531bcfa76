//! Pure. What one origin shows us.

use std::collections::{BTreeMap, BTreeSet};

use meshfed_model::names::ServiceName;
use meshfed_model::offer::{
    EndpointKey, EndpointOffer, GatewayKey, GatewayOffer, GroupKey, GroupOffer, OfferKey, OfferValue, ServiceOffer,
};
use meshfed_model::version::Version;

use super::Refusal;

/// One service as one origin shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OriginService {
    /// The service itself; a service without it is not served.
    pub offer: Option<ServiceOffer>,
    /// Its groups, on other networks than ours.
    pub groups: BTreeMap<GroupKey, GroupOffer>,
    /// Its single endpoints, on our networks.
    pub endpoints: BTreeMap<EndpointKey, EndpointOffer>,
}

impl OriginService {
    fn is_empty(&self) -> bool {
        self.offer.is_none() && self.groups.is_empty() && self.endpoints.is_empty()
    }
}

/// Everything that is held of one origin.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) version: Version,
    pub(super) filter: u64,
    pub(super) services: BTreeMap<ServiceName, OriginService>,
    pub(super) gateways: BTreeMap<GatewayKey, GatewayOffer>,
    /// Refused here, kept to be judged again when the members change.
    pub(super) refused: BTreeMap<OfferKey, (OfferValue, Refusal)>,
}

/// What a change touched.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Touched {
    pub(super) services: BTreeSet<ServiceName>,
    pub(super) gateways: bool,
}

impl Touched {
    fn key(&mut self, key: &OfferKey) {
        match key.service() {
            Some(service) => {
                self.services.insert(service.clone());
            }
            None => self.gateways = true,
        }
    }
}

impl Origin {
    /// Takes a resource; touches nothing when it is there already.
    pub(super) fn put(&mut self, key: OfferKey, value: OfferValue, touched: &mut Touched) {
        let same = match (&key, &value) {
            (OfferKey::Service(s), OfferValue::Service(v)) => {
                self.services.entry(s.clone()).or_default().offer.replace(v.clone()).as_ref() == Some(v)
            }
            (OfferKey::Group(k), OfferValue::Group(v)) => {
                self.services.entry(k.service.clone()).or_default().groups.insert(k.clone(), *v) == Some(*v)
            }
            (OfferKey::Endpoint(k), OfferValue::Endpoint(v)) => {
                let held = self.services.entry(k.service.clone()).or_default().endpoints.insert(k.clone(), v.clone());
                held.as_ref() == Some(v)
            }
            (OfferKey::Gateway(k), OfferValue::Gateway(v)) => {
                self.gateways.insert(k.clone(), v.clone()).as_ref() == Some(v)
            }
            // The border gives key and value of one kind only.
            (OfferKey::Service(_) | OfferKey::Group(_) | OfferKey::Endpoint(_) | OfferKey::Gateway(_), _) => true,
        };
        if !same {
            touched.key(&key);
        }
        self.refused.remove(&key);
    }

    /// Removes a resource.
    pub(super) fn remove(&mut self, key: &OfferKey, touched: &mut Touched) {
        self.refused.remove(key);
        let there = match key {
            OfferKey::Gateway(k) => self.gateways.remove(k).is_some(),
            OfferKey::Service(s) => self.services.get_mut(s).is_some_and(|held| held.offer.take().is_some()),
            OfferKey::Group(k) => self.services.get_mut(&k.service).is_some_and(|h| h.groups.remove(k).is_some()),
            OfferKey::Endpoint(k) => self.services.get_mut(&k.service).is_some_and(|h| h.endpoints.remove(k).is_some()),
        };
        if there {
            touched.key(key);
        }
        if let Some(service) = key.service()
            && self.services.get(service).is_some_and(OriginService::is_empty)
        {
            self.services.remove(service);
        }
    }

    /// All keys and values, refused ones included, in no particular order.
    pub(super) fn drain(&mut self) -> Vec<(OfferKey, OfferValue)> {
        let mut all: Vec<(OfferKey, OfferValue)> = Vec::new();
        for (name, service) in std::mem::take(&mut self.services) {
            all.extend(service.offer.map(|o| (OfferKey::Service(name), OfferValue::Service(o))));
            all.extend(service.groups.into_iter().map(|(k, v)| (OfferKey::Group(k), OfferValue::Group(v))));
            all.extend(service.endpoints.into_iter().map(|(k, v)| (OfferKey::Endpoint(k), OfferValue::Endpoint(v))));
        }
        let gateways = std::mem::take(&mut self.gateways);
        all.extend(gateways.into_iter().map(|(k, v)| (OfferKey::Gateway(k), OfferValue::Gateway(v))));
        all.extend(std::mem::take(&mut self.refused).into_iter().map(|(k, (v, _))| (k, v)));
        all
    }

    /// What differs between two states of the origin.
    pub(super) fn difference(&self, other: &Self) -> Touched {
        let names: BTreeSet<&ServiceName> = self.services.keys().chain(other.services.keys()).collect();
        let differs = |name: &&ServiceName| self.services.get(*name) != other.services.get(*name);
        Touched {
            services: names.into_iter().filter(differs).cloned().collect(),
            gateways: self.gateways != other.gateways,
        }
    }
}
