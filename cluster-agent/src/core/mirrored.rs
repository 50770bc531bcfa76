//! Pure. What is said of a name to the mirror, which shows it as Kubernetes objects.

use std::collections::{BTreeMap, BTreeSet};

use meshfed_crds::{Code, Kind, ObjectError};
use meshfed_model::import::Import;
use meshfed_model::names::{ClusterName, ServiceName};

use crate::mirror::facts::{Backend, ExportFacts, ExportState, Facts};

use super::Core;

/// What the source says of exports and their Services that is not as its user wants it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Refused {
    /// ServiceExports that cannot be read, and why.
    exports: BTreeMap<ServiceName, String>,
    /// What is left out of ServiceExports that are taken.
    remarks: BTreeMap<ServiceName, Vec<String>>,
    /// Services that are there and not taken.
    services: BTreeMap<ServiceName, ObjectError>,
    /// Those of them that are gateways with addresses or networks that the token does not allow.
    gateways: BTreeMap<ServiceName, String>,
}

impl Refused {
    fn of(errors: &[ObjectError]) -> Self {
        let mut found = Self::default();
        for error in errors {
            let (Some(namespace), Some(name)) = (&error.namespace, &error.name) else { continue };
            let Ok(name) = ServiceName::new(namespace, name) else { continue };
            let is = |kind: Kind| error.kind.as_deref() == Some(kind.as_str());
            if is(Kind::ServiceExport) && error.is_error() {
                found.exports.insert(name, without_field(error));
            } else if is(Kind::ServiceExport) {
                let all = found.remarks.entry(name).or_default();
                if all.len() < REMARKS_MAX {
                    all.push(in_words(error));
                }
            } else if is(Kind::Service) && error.is_error() {
                if error.code == Code::NotAllowed {
                    // Nothing else of a Service is judged by the token.
                    found.gateways.entry(name.clone()).or_insert_with(|| in_words(error));
                }
                found.services.entry(name).or_insert_with(|| error.clone());
            }
        }
        found
    }

    /// The names of which the other says something else.
    fn changed(&self, other: &Self) -> BTreeSet<ServiceName> {
        fn differ<'a, V: PartialEq>(
            a: &'a BTreeMap<ServiceName, V>,
            b: &'a BTreeMap<ServiceName, V>,
        ) -> impl Iterator<Item = ServiceName> + 'a {
            a.keys().chain(b.keys()).filter(|name| a.get(*name) != b.get(*name)).cloned()
        }
        let exports = differ(&self.exports, &other.exports).chain(differ(&self.remarks, &other.remarks));
        exports.chain(differ(&self.services, &other.services)).collect()
    }
}

/// What is left out of one export that its condition names.
const REMARKS_MAX: usize = 16;

fn without_field(error: &ObjectError) -> String {
    let remedy = error.remedy.as_deref().unwrap_or_else(|| error.code.usual_remedy());
    format!("{}; {remedy}", error.message)
}

fn in_words(error: &ObjectError) -> String {
    let field = error.field.as_ref().map(|field| format!("{field}: ")).unwrap_or_default();
    format!("{field}{}", without_field(error))
}

impl Core {
    /// What is known of a name now. An import is shown only where its namespace exists.
    #[must_use]
    pub fn mirrored(&self, name: &ServiceName) -> Facts {
        let import = self.import(name).filter(|_| self.index.has_namespace(&name.namespace));
        let clusters = import.iter().flat_map(|import| &import.clusters);
        let backends: BTreeMap<ClusterName, Vec<Backend>> =
            clusters.map(|cluster| (cluster.clone(), self.backends(name, cluster, import.as_ref()))).collect();
        Facts { export: self.export_facts(name), backends, import }
    }

    /// Takes over what the source says of exports, their Services and gateways; the names of which something else is said
    /// are to be told to the mirror.
    pub(super) fn note_refused(&mut self) {
        let new = Refused::of(&self.source.errors);
        let before = std::mem::replace(&mut self.refused, new);
        self.effects.mirrored.extend(before.changed(&self.refused));
        self.note_gateways();
    }

    /// Looks again at why no other network reaches this cluster: it is said of every export.
    pub(super) fn note_gateways(&mut self) {
        let lack = self.unreachable();
        if lack != self.told_gateway_lack {
            self.told_gateway_lack = lack;
            self.effects.mirrored.extend(self.index.exports().cloned());
        }
    }

    /// Why this cluster offers no gateway address although one is declared, with what to do; none: it offers some, or
    /// declares none.
    #[must_use]
    pub fn gateway_lack(&self) -> Option<String> {
        let mut refused = self.refused.gateways.iter();
        let (gateway, why) = refused.next().filter(|_| self.index.gateway_offers().is_empty())?;
        Some(format!("gateway {gateway} is not offered to other clusters: {why}"))
    }

    /// Why no other network reaches what this cluster exports: of its gateways none is offered, or it has none.
    fn unreachable(&self) -> Option<String> {
        let none = || {
            "this cluster declares no gateway; turn on gateway.enabled of helm/meshfed-cluster, or label the Service of one with \
             topology.istio.io/network"
        };
        self.gateway_lack().or_else(|| (!self.index.declares_gateways()).then(none).map(str::to_owned))
    }

    /// Gateways whose Services are refused, and why: each is declared, and not ready.
    pub fn refused_gateways(&self) -> impl Iterator<Item = (&ServiceName, &String)> {
        self.refused.gateways.iter()
    }

    /// Why a Service that is there is not taken; none: it is taken, or not there.
    pub(super) fn refused_service(&self, name: &ServiceName) -> Option<&ObjectError> {
        self.refused.services.get(name)
    }

    fn export_facts(&self, name: &ServiceName) -> Option<ExportFacts> {
        if let Some(why) = self.refused.exports.get(name) {
            let stands = if self.index.has_export(name) { "; what it said before stays in force" } else { "" };
            return Some(ExportFacts::only(ExportState::Invalid(format!("{why}{stands}"))));
        }
        if !self.index.has_export(name) {
            return None;
        }
        let refused = self.refused_service(name).map(in_words);
        let Some(service) = self.index.service(name) else {
            return Some(ExportFacts::only(refused.map_or(ExportState::NoService, ExportState::InvalidService)));
        };
        let state = if service.external {
            ExportState::External
        } else {
            self.index.why_not_exported(name).map_or(ExportState::Offered, ExportState::Refused)
        };
        let plain = service.endpoints.values().filter(|e| e.first().is_some_and(|e| !e.mtls)).count();
        let unserved = service.ports.iter().filter(|p| !p.is_served());
        let mut remarks: Vec<String> = self.refused.remarks.get(name).cloned().unwrap_or_default();
        remarks.extend(
            refused.map(|why| {
                format!("the Service as it is now is not taken, and what it said before is in force: {why}")
            }),
        );
        Some(ExportFacts {
            state,
            workloads: service.endpoints.len(),
            plain,
            unserved: unserved.map(|p| format!("{}/{}", p.port, p.protocol)).collect(),
            remarks,
            unreachable: self.told_gateway_lack.clone(),
        })
    }

    /// What is dialled for the endpoints of one exporting cluster: workloads on an own network, gateways for the others.
    fn backends(&self, name: &ServiceName, cluster: &ClusterName, import: Option<&Import>) -> Vec<Backend> {
        let exposes = |port: u16| {
            let served = import.into_iter().flat_map(|i| &i.ports).filter(|p| p.port.is_served());
            served.filter(|p| p.clusters.contains(cluster)).any(|p| p.port.port == port)
        };
        let mut backends = Vec::new();
        if *cluster == self.settings.cluster {
            let own = self.index.service(name).into_iter().flat_map(|s| s.endpoints.values().flatten());
            for endpoint in own.filter(|e| e.mtls && exposes(e.port)) {
                backends.extend(endpoint.addresses.iter().map(|address| Backend {
                    address: *address,
                    port: endpoint.port,
                    target: endpoint.target_port,
                    ready: endpoint.ready,
                }));
            }
        }
        for (_, shown) in self.view.service(name).filter(|(origin, _)| *origin == cluster) {
            let direct = shown.endpoints.iter().filter(|(key, e)| exposes(key.port) && !e.draining);
            backends.extend(direct.map(|(key, e)| Backend {
                address: key.address,
                port: key.port,
                target: key.target_port,
                ready: e.ready,
            }));
            for (key, group) in shown.groups.iter().filter(|(key, _)| key.subset.is_all() && exposes(key.port)) {
                let gateways = self.view.gateways(cluster).filter(|(g, _)| g.network == key.network);
                backends.extend(gateways.map(|(gateway, offer)| Backend {
                    address: gateway.address,
                    port: key.port,
                    target: gateway.port,
                    ready: offer.ready && group.ready > 0,
                }));
            }
        }
        backends.sort();
        backends.dedup();
        backends
    }
}
