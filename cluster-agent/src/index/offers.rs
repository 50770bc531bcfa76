//! Pure. What is offered of a service to other clusters (D5): the service, its groups, and single endpoints on
//! networks that other clusters share.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use meshfed_model::export::ExportTo;
use meshfed_model::locality::Locality;
use meshfed_model::names::{NetworkName, ServiceName, SubsetName};
use meshfed_model::offer::{
    EndpointKey, EndpointOffer, GatewayKey, GatewayOffer, GroupKey, GroupOffer, OfferKey, OfferValue, ServiceOffer,
};
use meshfed_model::quantise::quantise_group;

use super::{Index, LocalService, services};

#[derive(Default)]
struct Count {
    ready: u32,
    total: u32,
    weight: u64,
}

pub(super) fn offer_of(index: &Index, name: &ServiceName) -> BTreeMap<OfferKey, OfferValue> {
    let mut offer = BTreeMap::new();
    let Some(service) = index.services.get(name) else { return offer };
    let Some(export_to) = service.export_to.clone() else { return offer };
    if services::unofferable(service).is_some() {
        return offer;
    }
    offer.insert(OfferKey::Service(name.clone()), OfferValue::Service(head_of(service, export_to)));
    add_groups(index, service, &mut offer);
    if service.is_headless() {
        add_names(service, &mut offer);
    }
    add_endpoints(index, service, &mut offer);
    offer
}

/// A service of this cluster as it is exported; `None`: it is not, or cannot be.
pub(super) fn export_of(index: &Index, name: &ServiceName) -> Option<ServiceOffer> {
    let service = index.services.get(name).filter(|s| !s.gateway)?;
    let export_to = service.export_to.clone()?;
    services::unofferable(service).is_none().then(|| head_of(service, export_to))
}

fn head_of(service: &LocalService, export_to: ExportTo) -> ServiceOffer {
    let mut ports = service.ports.clone();
    ports.sort_by(|a, b| (a.port, &a.protocol).cmp(&(b.port, &b.protocol)));
    ServiceOffer {
        service_type: service.service_type,
        ports,
        export_to,
        identities: service.identities().cloned().collect(),
        traits: service.traits.clone(),
        exported: service.exported.clone(),
    }
}

/// One group per ready endpoint name of a headless service. What has one address has one name: the first by workload.
fn add_names(service: &LocalService, offer: &mut BTreeMap<OfferKey, OfferValue>) {
    for (name, endpoint) in service.names() {
        let key = GroupKey {
            service: service.name.clone(),
            port: endpoint.port,
            subset: name,
            network: endpoint.network.clone(),
            locality: endpoint.locality.clone(),
        };
        let group = GroupOffer { ready: 1, total: 1, weight: endpoint.weight.into() };
        offer.entry(OfferKey::Group(key)).or_insert(OfferValue::Group(group));
    }
}

/// Endpoints without mTLS are never offered: nothing of them leaves the cluster, not even their number.
fn add_groups(index: &Index, service: &LocalService, offer: &mut BTreeMap<OfferKey, OfferValue>) {
    let mut groups: BTreeMap<(u16, &NetworkName, &Locality), Count> = BTreeMap::new();
    for endpoint in service.endpoints.values().flatten().filter(|e| e.offered) {
        let count = groups.entry((endpoint.port, &endpoint.network, &endpoint.locality)).or_default();
        count.total = count.total.saturating_add(1);
        if endpoint.ready {
            count.ready = count.ready.saturating_add(1);
            count.weight = count.weight.saturating_add(u64::from(endpoint.weight));
        }
    }
    for ((port, network, locality), count) in groups {
        let key = GroupKey {
            service: service.name.clone(),
            port,
            subset: SubsetName::all(),
            network: network.clone(),
            locality: locality.clone(),
        };
        let group = quantise_group(count.ready, count.total, count.weight, index.policies.thresholds());
        offer.insert(OfferKey::Group(key), OfferValue::Group(group));
    }
}

fn add_endpoints(index: &Index, service: &LocalService, offer: &mut BTreeMap<OfferKey, OfferValue>) {
    for (workload, endpoints) in &service.endpoints {
        for endpoint in endpoints.iter().filter(|e| e.offered && index.shared.contains(&e.network)) {
            let Some(identity) = &endpoint.identity else { continue };
            for address in &endpoint.addresses {
                let key = OfferKey::Endpoint(EndpointKey {
                    service: service.name.clone(),
                    port: endpoint.port,
                    subset: SubsetName::all(),
                    network: endpoint.network.clone(),
                    address: *address,
                    target_port: endpoint.target_port,
                });
                // Two workloads at one address and port are one endpoint: the first by name.
                offer.entry(key).or_insert_with(|| {
                    OfferValue::Endpoint(EndpointOffer {
                        locality: endpoint.locality.clone(),
                        weight: endpoint.weight,
                        ready: endpoint.ready,
                        draining: false,
                        identity: identity.clone(),
                        workload: workload.name.to_string(),
                    })
                });
            }
        }
    }
}

/// All that is declared: an importer dials none that is not ready, and the fleet's operators see that it is not.
pub(super) fn gateway_offers(index: &Index) -> BTreeMap<OfferKey, OfferValue> {
    let mut offer = BTreeMap::new();
    for gateway in index.gateways.values() {
        for declared in gateway.addresses.iter().take(index.gateway_room(&gateway.service)) {
            let key = GatewayKey {
                network: gateway.network.clone(),
                address: declared.address.ip(),
                port: declared.address.port(),
            };
            let value = GatewayOffer { locality: declared.locality.clone(), ready: declared.ready };
            // Declared twice, it is ready where any of them is: one without workloads takes nothing away from the other.
            match offer.entry(OfferKey::Gateway(key)) {
                Entry::Occupied(mut there) => {
                    if value.ready && !matches!(there.get(), OfferValue::Gateway(before) if before.ready) {
                        there.insert(OfferValue::Gateway(value));
                    }
                }
                Entry::Vacant(free) => {
                    free.insert(OfferValue::Gateway(value));
                }
            }
        }
    }
    offer
}
