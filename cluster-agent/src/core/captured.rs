//! Pure. What captured clients are shown: services at their virtual addresses, and their own two listeners.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use meshfed_crds::{MtlsMode, OutboundPolicy};
use meshfed_model::names::ServiceName;
use meshfed_model::service::ServicePort;
use meshfed_runtime::dns::Zone;

use crate::dns::{Named, zone};
use crate::index::Workload;
use crate::translate::captured::{self, CapturedPort};
use crate::translate::names::{INBOUND_PORT, OUTBOUND_PORT};
use crate::translate::{Domain, Kind, Node, OutboundName, Resource, ServiceFacts, clusters};

use super::Core;
use super::imports::Numbers;
use super::proxies::Admitted;
use super::store::{Scope, StreamId};

/// One port of a service at its virtual addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Virtual {
    name: OutboundName,
    port: ServicePort,
    addresses: Vec<IpAddr>,
}

impl Core {
    /// The addresses of all derived Services. Where nobody makes such, this is never called, and imports have addresses of
    /// our own.
    pub fn set_import_addresses(
        &mut self,
        addresses: BTreeMap<ServiceName, Vec<IpAddr>>,
        now: Instant,
        wall: SystemTime,
    ) {
        self.effects.names = true;
        for service in self.imports.give(addresses) {
            self.refresh_virtual(&service);
        }
        self.told_addresses();
        self.settle(now, wall);
    }

    /// The numbers of our own addresses when the agent ended.
    pub fn restore_imports(&mut self, numbers: Numbers) {
        self.imports.restore(numbers);
    }

    /// The virtual addresses of a service under a domain.
    #[must_use]
    pub fn virtual_addresses(&self, service: &ServiceName, domain: Domain) -> Vec<IpAddr> {
        match domain {
            Domain::Clusterset => self.imports.addresses(service),
            Domain::Cluster => self.index.service(service).map(|s| s.addresses.to_vec()).unwrap_or_default(),
        }
    }

    /// What imports are called, for the agent's own DNS and for captured clients. `None` before streams are answered.
    pub fn zone(&mut self, now: Instant, wall: SystemTime) -> Option<Arc<Zone>> {
        if !self.open {
            return None;
        }
        let imports = self.facts.iter().filter(|(_, facts)| !facts.clusterset.is_empty());
        let named = imports.map(|(service, facts)| Named {
            service,
            addresses: self.imports.addresses(service),
            ports: facts.clusterset.values().map(|p| &p.port).collect(),
        });
        let zone = Arc::new(zone(named, self.is_whole() && self.view_heard));
        // What is not whole tells captured clients nothing new: they go on with what they hold. What was kept is for those
        // that hold nothing.
        if self.captures && (zone.is_whole() || self.knows_kept()) {
            self.store.put(&Scope::Captured, captured::names(&zone));
            self.settle(now, wall);
        }
        Some(zone)
    }

    /// The first client captures: from now on imports have addresses, and listeners at them.
    pub(super) fn begin_capture(&mut self) {
        if std::mem::replace(&mut self.captures, true) {
            return;
        }
        self.effects.names = true;
        for cluster in clusters::passthrough() {
            self.store.put(&Scope::Captured, cluster);
        }
        for service in self.facts.keys().cloned().collect::<Vec<_>>() {
            self.refresh_virtual(&service);
        }
    }

    /// Looks again at a service's virtual addresses. An endpoint that changes leaves them equal, and nothing is encoded.
    pub(super) fn refresh_virtual(&mut self, service: &ServiceName) {
        if !self.captures {
            return;
        }
        let is_import = |facts: &BTreeMap<ServiceName, ServiceFacts>, service: &ServiceName| {
            facts.get(service).is_some_and(|f| !f.clusterset.is_empty())
        };
        if is_import(&self.facts, service) && self.imports.number(service, |other| is_import(&self.facts, other)) {
            self.effects.imports = Some(self.imports.numbers().clone());
        }
        let mut new = Vec::new();
        for domain in Domain::ALL {
            let addresses = self.virtual_addresses(service, domain);
            let ports = self.facts.get(service).map(|f| f.ports(domain)).filter(|_| !addresses.is_empty());
            new.extend(ports.into_iter().flatten().map(|(number, facts)| Virtual {
                name: OutboundName::new(service.clone(), *number, domain),
                port: facts.port.clone(),
                addresses: addresses.clone(),
            }));
        }
        let old = self.virtuals.remove(service).unwrap_or_default();
        if old != new {
            self.effects.names = true;
            let kept: BTreeSet<&OutboundName> = new.iter().map(|v| &v.name).collect();
            for gone in old.iter().filter(|v| !kept.contains(&v.name)) {
                self.store.remove(&Scope::Captured, Kind::Listener, &captured::service_name(&gone.name));
            }
            for v in new.iter().filter(|v| !old.contains(v)) {
                if let Some(resource) = captured::service(&v.name, &v.port, &v.addresses) {
                    self.store.put(&Scope::Captured, resource);
                }
            }
        }
        if !new.is_empty() {
            self.virtuals.insert(service.clone(), new);
        }
    }

    /// The listeners of a captured sidecar that are its own.
    pub(super) fn captured_listeners(&self, workload: &Workload, node: &Node, bind: &[IpAddr]) -> Vec<Arc<Resource>> {
        let at = |said: &Option<Vec<SocketAddr>>, port| {
            said.clone().unwrap_or_else(|| bind.iter().map(|a| SocketAddr::new(*a, port)).collect())
        };
        let outbound = captured::outbound(bind, &at(&node.listen_outbound, OUTBOUND_PORT), self.registry_only());
        let ports: Vec<CapturedPort> = self
            .index
            .inbound(&workload.key)
            .into_iter()
            .map(|(port, inbound)| CapturedPort {
                port,
                protocol: inbound.said(),
                services: self.hosts_of(&inbound.services),
            })
            .collect();
        let strict = self.is_strict(workload);
        let inbound = captured::inbound(bind, &at(&node.listen_inbound, INBOUND_PORT), &ports, strict);
        outbound.into_iter().chain(inbound).collect()
    }

    /// The application behind a port of a captured workload: where `--inbound` says, else where it would be dialled without
    /// capture, else on loopback.
    pub(super) fn captured_target(workload: &Workload, node: &Node, port: u16) -> Arc<Resource> {
        let targets = match node.inbound.get(&port) {
            Some(said) => vec![*said],
            None => {
                let own = workload.addresses.iter().copied();
                let all = own.chain([IpAddr::V4(Ipv4Addr::LOCALHOST)]);
                all.map(|address| SocketAddr::new(address, port)).collect()
            }
        };
        clusters::captured_inbound(port, &targets)
    }

    /// Whether a workload takes mTLS alone. Where nobody says, a pod takes plaintext, too, since those who call it may have
    /// no sidecar yet; without Kubernetes nobody is taken without.
    fn is_strict(&self, workload: &Workload) -> bool {
        match self.index.mtls_mode(&workload.key.namespace) {
            Some(MtlsMode::Strict) => true,
            Some(MtlsMode::Permissive | MtlsMode::Disable) => false,
            None => workload.pod.is_none(),
        }
    }

    /// What is said of what captured clients may reach, and by which object.
    #[must_use]
    pub fn outbound_said(&self) -> Option<(OutboundPolicy, &'static str)> {
        self.index.outbound_said()
    }

    /// Whether captured clients may reach the mesh alone.
    fn registry_only(&self) -> bool {
        self.index.outbound_policy() == OutboundPolicy::RegistryOnly
    }

    /// A PeerAuthentication or the mesh's settings changed: captured proxies have other listeners.
    pub(super) fn rebuild_captured(&mut self) {
        let captured =
            |(id, _): (StreamId, &Admitted)| self.streams.get(&id).is_some_and(|e| e.node.captured).then_some(id);
        let streams: Vec<StreamId> = self.admitted().filter_map(captured).collect();
        self.rebuild(&streams);
    }
}
