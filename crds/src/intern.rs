//! Pure. Texts that many objects have in common are held once: a hundred workloads of one service have the same labels,
//! account, network and place.

use std::collections::BTreeSet;
use std::sync::Arc;

use meshfed_model::locality::Locality;
use meshfed_model::names::{Namespace, NetworkName};

use crate::object::{Body, Object};

/// Texts of each kind that are remembered; beyond, remembering begins anew, so that it never outgrows what stands.
const REMEMBERED_MAX: usize = 65_536;

/// What was seen before.
#[derive(Debug, Default)]
pub(crate) struct Interner {
    texts: BTreeSet<Arc<str>>,
    namespaces: BTreeSet<Namespace>,
    networks: BTreeSet<NetworkName>,
    localities: BTreeSet<Locality>,
}

fn share<T: Ord + Clone>(known: &mut BTreeSet<T>, value: &mut T) {
    if let Some(same) = known.get(value) {
        *value = same.clone();
        return;
    }
    if known.len() >= REMEMBERED_MAX {
        known.clear();
    }
    known.insert(value.clone());
}

impl Interner {
    /// Makes an object hold the texts of those before it where they are the same.
    pub(crate) fn object(&mut self, object: &mut Object) {
        let texts = &mut self.texts;
        match &mut object.body {
            Body::WorkloadEntry(workload) => {
                share(&mut self.namespaces, &mut workload.namespace);
                share(texts, &mut workload.service_account);
                workload.labels.each(|text| share(texts, text));
                workload.ports.each(|text| share(texts, text));
                if let Some(network) = &mut workload.network {
                    share(&mut self.networks, network);
                }
                if let Some(locality) = &mut workload.locality {
                    share(&mut self.localities, locality);
                }
            }
            Body::Service(service) => {
                share(&mut self.namespaces, &mut service.name.namespace);
                service.labels.each(|text| share(texts, text));
                service.selector.each(|text| share(texts, text));
            }
            Body::ServiceExport(export) => share(&mut self.namespaces, &mut export.service.namespace),
            Body::Pod(pod) => {
                share(&mut self.namespaces, &mut pod.namespace);
                share(texts, &mut pod.service_account);
                if let Some(node) = &mut pod.node {
                    share(texts, node);
                }
                pod.labels.each(|text| share(texts, text));
                pod.ports.each(|text| share(texts, text));
                if let Some(network) = &mut pod.network {
                    share(&mut self.networks, network);
                }
            }
            Body::EndpointSlice(slice) => {
                share(&mut self.namespaces, &mut slice.namespace);
                slice.ports.each(|text| share(texts, text));
                for pod in slice.endpoints.iter_mut().filter_map(|e| e.pod.as_mut()) {
                    share(texts, pod);
                }
            }
            Body::Namespace(_)
            | Body::ExportPolicy(_)
            | Body::FailoverPolicy(_)
            | Body::Node(_)
            | Body::PeerAuthentication(_)
            | Body::Mesh(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mutation seen to fail: `share` does not insert.
    #[test]
    fn the_same_text_is_held_once() {
        let mut interner = Interner::default();
        let (mut a, mut b): (Arc<str>, Arc<str>) = ("shop".into(), "shop".into());
        share(&mut interner.texts, &mut a);
        share(&mut interner.texts, &mut b);
        assert!(Arc::ptr_eq(&a, &b));
        for n in 0..=REMEMBERED_MAX {
            share(&mut interner.texts, &mut n.to_string().into());
        }
        assert!(interner.texts.len() <= REMEMBERED_MAX);
    }
}
