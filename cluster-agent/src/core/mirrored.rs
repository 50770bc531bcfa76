//! Pure. What is said of a name to the mirror, which shows it as Kubernetes objects.

use std::collections::BTreeMap;

use meshfed_crds::{Kind, ObjectError};
use meshfed_model::import::Import;
use meshfed_model::names::{ClusterName, ServiceName};

use crate::mirror::facts::{Backend, ExportFacts, ExportState, Facts};

use super::Core;

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

    /// Takes over which exports cannot be read; their names are to be told to the mirror where that has changed.
    pub(super) fn note_refused_exports(&mut self) {
        let of = |error: &ObjectError| {
            let is_one = error.kind.as_deref() == Some(Kind::ServiceExport.as_str()) && error.is_error();
            let name = ServiceName::new(error.namespace.as_deref()?, error.name.as_deref()?).ok().filter(|_| is_one)?;
            let remedy = error.remedy.as_deref().unwrap_or_else(|| error.code.usual_remedy());
            Some((name, format!("{}; {remedy}", error.message)))
        };
        let refused: BTreeMap<ServiceName, String> = self.source.errors.iter().filter_map(of).collect();
        let before = std::mem::replace(&mut self.refused_exports, refused);
        let now = &self.refused_exports;
        let changed = before.keys().chain(now.keys()).filter(|name| before.get(*name) != now.get(*name));
        self.effects.mirrored.extend(changed.cloned());
    }

    fn export_facts(&self, name: &ServiceName) -> Option<ExportFacts> {
        if let Some(why) = self.refused_exports.get(name) {
            let stands = if self.index.has_export(name) { "; what it said before stays in force" } else { "" };
            let state = ExportState::Invalid(format!("{why}{stands}"));
            return Some(ExportFacts { state, workloads: 0, plain: 0, unserved: Vec::new() });
        }
        if !self.index.has_export(name) {
            return None;
        }
        let Some(service) = self.index.service(name) else {
            let state = ExportState::NoService;
            return Some(ExportFacts { state, workloads: 0, plain: 0, unserved: Vec::new() });
        };
        let state = if service.external {
            ExportState::External
        } else {
            self.index.why_not_exported(name).map_or(ExportState::Offered, ExportState::Refused)
        };
        let plain = service.endpoints.values().filter(|e| e.first().is_some_and(|e| !e.mtls)).count();
        let unserved = service.ports.iter().filter(|p| !p.is_served());
        Some(ExportFacts {
            state,
            workloads: service.endpoints.len(),
            plain,
            unserved: unserved.map(|p| format!("{}/{}", p.port, p.protocol)).collect(),
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
