//! Pure. EDS: what a class of clients is handed for one service port and subset, as `model::horizon` computes it.
//!
//! This is what is encoded at every endpoint change, so it is written field by field (`envoy.config.endpoint.v3`), and
//! what many endpoints have in common is made once. Maps are written in the order of their keys: same input, same bytes.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use meshfed_model::horizon::{Assignment, Candidates, GroupShare, Item, Via};
use meshfed_model::locality::Locality;
use meshfed_model::names::{ClusterName, ServiceName};

use super::clusters::{MATCH_CLUSTER, MATCH_MODE};
use super::resource::{Kind, Resource, hash_of};
use super::wire::Writer;

/// Health status HEALTHY of `envoy.config.core.v3`.
const HEALTHY: u32 = 1;
/// Bytes that one endpoint takes, most often: its address, its metadata, its weight.
const ENDPOINT_BYTES: usize = 224;

// Field numbers, by message.
mod assignment {
    pub(super) const CLUSTER_NAME: u32 = 1;
    pub(super) const ENDPOINTS: u32 = 2;
}
mod locality_endpoints {
    pub(super) const LOCALITY: u32 = 1;
    pub(super) const LB_ENDPOINTS: u32 = 2;
    pub(super) const LOAD_BALANCING_WEIGHT: u32 = 3;
    pub(super) const PRIORITY: u32 = 5;
}
mod locality {
    pub(super) const REGION: u32 = 1;
    pub(super) const ZONE: u32 = 2;
    pub(super) const SUB_ZONE: u32 = 3;
}
mod lb_endpoint {
    pub(super) const ENDPOINT: u32 = 1;
    pub(super) const HEALTH_STATUS: u32 = 2;
    pub(super) const METADATA: u32 = 3;
    pub(super) const LOAD_BALANCING_WEIGHT: u32 = 4;
}
/// `Endpoint.address`, `Address.socket_address`, `Metadata.filter_metadata`, `Struct.fields`, `ListValue.values`, and
/// the value of a wrapped number.
const ONLY: u32 = 1;
mod socket_address {
    pub(super) const ADDRESS: u32 = 2;
    pub(super) const PORT_VALUE: u32 = 3;
}
mod entry {
    pub(super) const KEY: u32 = 1;
    pub(super) const VALUE: u32 = 2;
}
mod value {
    pub(super) const NUMBER: u32 = 2;
    pub(super) const STRING: u32 = 3;
    pub(super) const STRUCT: u32 = 5;
    pub(super) const LIST: u32 = 6;
}

/// Leaves out what no client may be handed: mTLS candidates of clusters whose identities are not known.
pub fn keep_identified(candidates: &mut Candidates, identified: &BTreeSet<ClusterName>) {
    candidates.endpoints.retain(|e| !e.mtls || identified.contains(&e.cluster));
    candidates.groups.retain(|g| identified.contains(&g.cluster));
}

/// An assignment without its name: what is the same under both domains of a service.
#[derive(Debug, Clone)]
pub struct Encoded {
    body: Vec<u8>,
    hash: u64,
}

/// Encodes an assignment of a service port and subset, all but its name.
#[must_use]
pub fn encode(service: &ServiceName, of: &Assignment) -> Encoded {
    let mut items: Vec<&Item> = of.items.iter().collect();
    // Stable: inside a group the order of the assignment stays.
    items.sort_by(|a, b| (a.priority, &a.locality).cmp(&(b.priority, &b.locality)));
    let mut writer = Writer::with_capacity(items.len() * ENDPOINT_BYTES);
    let mut common = Common { service, of: None, metadata: Writer::default() };
    for group in items.chunk_by(|a, b| a.priority == b.priority && a.locality == b.locality) {
        let Some(first) = group.first() else { continue };
        writer.message(assignment::ENDPOINTS, |w| {
            w.message(locality_endpoints::LOCALITY, |w| write_locality(w, &first.locality));
            for item in group {
                w.message(locality_endpoints::LB_ENDPOINTS, |w| endpoint(w, item, &mut common));
            }
            let weight = group.iter().fold(0_u32, |sum, i| sum.saturating_add(i.weight));
            w.message(locality_endpoints::LOAD_BALANCING_WEIGHT, |w| w.number(ONLY, weight));
            w.number(locality_endpoints::PRIORITY, first.priority);
        });
    }
    let body = writer.into_bytes();
    let hash = hash_of(&body);
    Encoded { body, hash }
}

impl Encoded {
    /// The resource of that name.
    #[must_use]
    pub fn named(&self, xds_name: &str) -> Arc<Resource> {
        let mut writer = Writer::with_capacity(self.body.len() + xds_name.len() + 4);
        writer.text(assignment::CLUSTER_NAME, xds_name);
        let mut body = writer.into_bytes();
        body.extend_from_slice(&self.body);
        Resource::with_hash(Kind::Endpoint, xds_name, Bytes::from(body), self.hash)
    }
}

fn write_locality(w: &mut Writer, at: &Locality) {
    w.text(locality::REGION, &at.region);
    w.text(locality::ZONE, &at.zone);
    w.text(locality::SUB_ZONE, &at.subzone);
}

fn endpoint<'a>(w: &mut Writer, item: &'a Item, common: &mut Common<'a>) {
    w.message(lb_endpoint::ENDPOINT, |w| {
        w.message(ONLY, |w| {
            w.message(ONLY, |w| {
                w.shown(socket_address::ADDRESS, item.address);
                w.chosen_number(socket_address::PORT_VALUE, item.port.into());
            });
        });
    });
    w.number(lb_endpoint::HEALTH_STATUS, HEALTHY);
    w.bytes(lb_endpoint::METADATA, common.metadata_of(item));
    w.message(lb_endpoint::LOAD_BALANCING_WEIGHT, |w| w.number(ONLY, item.weight));
}

/// The metadata of the endpoint before: most often that of the next one, too.
struct Common<'a> {
    service: &'a ServiceName,
    of: Option<&'a Item>,
    metadata: Writer,
}

impl<'a> Common<'a> {
    fn metadata_of(&mut self, item: &'a Item) -> &[u8] {
        let same = self.of.is_some_and(|of| {
            (of.mtls, of.tier, of.via) == (item.mtls, item.tier, item.via)
                && of.cluster == item.cluster
                && of.network == item.network
                && of.groups == item.groups
        });
        if !same {
            self.metadata.clear();
            write_metadata(&mut self.metadata, self.service, item);
            self.of = Some(item);
        }
        self.metadata.written()
    }
}

/// `filter_metadata`: what chooses the transport, and what people and checks read.
fn write_metadata(w: &mut Writer, service: &ServiceName, item: &Item) {
    w.message(ONLY, |w| {
        w.text(entry::KEY, "envoy.transport_socket_match");
        w.message(entry::VALUE, |w| {
            if item.mtls {
                text(w, MATCH_CLUSTER, item.cluster.as_str());
            } else {
                text(w, MATCH_MODE, "plaintext");
            }
        });
    });
    w.message(ONLY, |w| {
        w.text(entry::KEY, "meshfed");
        w.message(entry::VALUE, |w| {
            text(w, "cluster", item.cluster.as_str());
            if !item.groups.is_empty() {
                field(w, "groups", |w| {
                    w.message(value::LIST, |w| item.groups.iter().for_each(|g| w.message(ONLY, |w| group(w, g))));
                });
            }
            text(w, "network", item.network.as_str());
            field(w, "service", |w| w.shown(value::STRING, service));
            number(w, "tier", item.tier.into());
            text(w, "via", via(item.via));
        });
    });
}

fn group(w: &mut Writer, of: &GroupShare) {
    w.message(value::STRUCT, |w| {
        field(w, "locality", |w| w.shown(value::STRING, &of.locality));
        number(w, "ready", of.ready.into());
        number(w, "share", of.share.to_f64());
        number(w, "tier", of.tier.into());
        number(w, "total", of.total.into());
    });
}

/// One field of a `Struct`; those of one struct are to be written in the order of their keys.
fn field(w: &mut Writer, key: &str, of: impl FnOnce(&mut Writer)) {
    w.message(ONLY, |w| {
        w.text(entry::KEY, key);
        w.message(entry::VALUE, of);
    });
}
fn text(w: &mut Writer, key: &str, of: &str) {
    field(w, key, |w| w.bytes(value::STRING, of.as_bytes()));
}
fn number(w: &mut Writer, key: &str, of: f64) {
    field(w, key, |w| w.chosen_double(value::NUMBER, of));
}

/// `direct` or `gateway`.
#[must_use]
pub const fn via(via: Via) -> &'static str {
    match via {
        Via::Direct => "direct",
        Via::Gateway => "gateway",
    }
}

#[cfg(test)]
mod tests;
