//! Pure. From configured to usable: listeners.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use meshfed_runtime::tls::ClientAuth;

use super::Held;
use super::convert::{CapturedPortSpec, ListenerSpec, ListenerSpecKind, RouteSpec, ServerTlsSpec};
use crate::state::{
    CapturedInbound, CapturedPort, ClusterCell, Listener, ListenerKind, Plain, RouteCell, ServerTls, SniTable, Unsaid,
};

/// What a listener refers to: TLS with its secrets, and route configurations.
pub(super) fn references(kind: &ListenerSpecKind) -> (Vec<&ServerTlsSpec>, Vec<&str>) {
    match kind {
        ListenerSpecKind::OutboundHttp { routes } => (Vec::new(), vec![routes]),
        ListenerSpecKind::InboundHttp { tls, routes, .. } => (vec![tls], vec![routes]),
        ListenerSpecKind::InboundTcp { tls, .. } => (vec![tls], Vec::new()),
        ListenerSpecKind::CapturedInbound { ports, others } => {
            let all = || ports.values().chain(others);
            (all().map(|p| &p.tls).collect(), all().filter_map(|p| p.routes.as_deref()).collect())
        }
        ListenerSpecKind::OutboundTcp { .. }
        | ListenerSpecKind::OutboundAny { .. }
        | ListenerSpecKind::CapturedOutbound { .. }
        | ListenerSpecKind::Gateway { .. } => (Vec::new(), Vec::new()),
    }
}

impl Held {
    /// What a listener still waits for; `None` when it can be used.
    #[must_use]
    pub fn missing(&self, name: &str) -> Option<String> {
        let (tls, routes) = references(&self.listeners.get(name)?.kind);
        if let Some(secret) =
            tls.into_iter().flat_map(|t| [&t.identity, &t.trust]).find(|s| !self.secrets.contains(s.as_str()))
        {
            return Some(format!("secret '{secret}' has not arrived"));
        }
        let route = routes.into_iter().find(|r| !self.routes.contains(*r))?;
        Some(format!("route configuration '{route}' has not arrived"))
    }

    pub(super) fn build_listener(&mut self, name: &Arc<str>, spec: &ListenerSpec) -> Result<Listener, rustls::Error> {
        let kind = match &spec.kind {
            ListenerSpecKind::OutboundHttp { routes } => ListenerKind::OutboundHttp { routes: self.route_cell(routes) },
            ListenerSpecKind::OutboundTcp { cluster } => {
                ListenerKind::OutboundTcp { cluster: self.cluster_cell(cluster) }
            }
            ListenerSpecKind::OutboundAny { routes, otherwise } => {
                let cell = self.own_routes(name, routes);
                match otherwise {
                    None => ListenerKind::OutboundHttp { routes: cell },
                    Some((cluster, patience)) => ListenerKind::OutboundAny {
                        routes: cell,
                        cluster: self.cluster_cell(cluster),
                        patience: *patience,
                    },
                }
            }
            ListenerSpecKind::CapturedOutbound { unknown } => {
                ListenerKind::CapturedOutbound { unknown: self.cluster_cell(unknown) }
            }
            ListenerSpecKind::CapturedInbound { ports, others } => {
                let mut built = BTreeMap::new();
                for (port, spec) in ports {
                    built.insert(*port, self.captured_port(name, *port, spec)?);
                }
                let others = others.as_ref().map(|spec| self.captured_port(name, 0, spec)).transpose()?;
                ListenerKind::CapturedInbound(Arc::new(CapturedInbound { ports: built, others }))
            }
            ListenerSpecKind::InboundHttp { port, tls, routes, services } => ListenerKind::InboundHttp {
                port: *port,
                tls: self.server_tls(tls)?,
                routes: self.route_cell(routes),
                services: shared(services),
            },
            ListenerSpecKind::InboundTcp { port, tls, cluster, services } => ListenerKind::InboundTcp {
                port: *port,
                tls: self.server_tls(tls)?,
                cluster: self.cluster_cell(cluster),
                services: shared(services),
            },
            ListenerSpecKind::Gateway { names } => ListenerKind::Gateway { sni: Arc::new(self.sni_table(name, names)) },
        };
        Ok(Listener { name: Arc::clone(name), addresses: spec.addresses.clone(), bound: spec.bound, kind })
    }

    fn server_tls(&mut self, spec: &ServerTlsSpec) -> Result<ServerTls, rustls::Error> {
        let trust = self.trust(&spec.trust.as_str().into());
        let alpn: Vec<&[u8]> = spec.alpn.iter().map(Vec::as_slice).collect();
        // Who is trusted is what the secret says; every workload of those trust domains may speak, until policies come.
        let workloads = Arc::new(meshfed_model::identity::SpiffeId::is_workload);
        let config = meshfed_runtime::tls::server_config(
            Arc::clone(&self.identity),
            Arc::clone(&trust),
            workloads,
            ClientAuth::Required,
            &alpn,
        )?;
        Ok(ServerTls { config, trust })
    }

    fn sni_table(&mut self, listener: &str, names: &BTreeMap<String, String>) -> SniTable {
        let keep: BTreeSet<&str> = names.keys().map(String::as_str).collect();
        self.withdraw_names(listener, &keep);
        let wanted: Vec<(&str, Arc<ClusterCell>)> =
            names.iter().map(|(sni, cluster)| (sni.as_str(), self.cluster_cell(cluster))).collect();
        self.sni_routes.table(wanted)
    }

    /// Tells the tunnels of names that no gateway listener has any more. `keep`: the names of `listener`'s new version.
    pub(super) fn withdraw_names(&mut self, listener: &str, keep: &BTreeSet<&str>) {
        let others: Vec<&ListenerSpec> =
            self.listeners.iter().filter(|(n, _)| n.as_ref() != listener).map(|(_, spec)| spec).collect();
        self.sni_routes.retain(|sni| keep.contains(sni) || others.iter().any(|spec| spec.forwards(sni)));
    }

    /// The place of the routes that a listener carries itself: it stays over versions of the listener.
    fn own_routes(&mut self, listener: &Arc<str>, spec: &RouteSpec) -> Arc<RouteCell> {
        let table = self.route_table(spec);
        let cell = self.route_cell(listener);
        cell.set(Some(Arc::new(table)));
        cell
    }

    fn captured_port(
        &mut self,
        listener: &Arc<str>,
        port: u16,
        spec: &CapturedPortSpec,
    ) -> Result<CapturedPort, rustls::Error> {
        let services = shared(&spec.services);
        let tls = self.server_tls(&spec.tls)?;
        let cluster = self.cluster_cell(&spec.cluster);
        let routes = spec.routes.as_ref().map(|name| self.route_cell(name));
        let kind = match &routes {
            Some(routes) => {
                ListenerKind::InboundHttp { port, tls, routes: Arc::clone(routes), services: Arc::clone(&services) }
            }
            None => {
                ListenerKind::InboundTcp { port, tls, cluster: Arc::clone(&cluster), services: Arc::clone(&services) }
            }
        };
        let mesh = Arc::new(Listener { name: Arc::clone(listener), addresses: Vec::new(), bound: false, kind });
        let unsaid = spec.unsaid.as_ref().map(|(own, patience)| {
            let place: Arc<str> = format!("{listener}|{port}").into();
            Unsaid { routes: self.own_routes(&place, own), patience: *patience }
        });
        Ok(CapturedPort { mesh, plain: spec.plain.then_some(Plain { routes, cluster }), unsaid, services })
    }

    /// Publishes the virtual addresses. Where two listeners have one, the first by name counts: the agent gives none twice.
    pub(super) fn publish_addresses(&self) {
        let mut addresses = HashMap::new();
        for cell in self.listener_cells.values() {
            let listener = cell.load();
            for address in listener.iter().filter(|l| !l.bound).flat_map(|l| &l.addresses) {
                addresses.entry(*address).or_insert_with(|| Arc::clone(cell));
            }
        }
        self.state.publish_addresses(addresses);
    }
}

fn shared(names: &[String]) -> Arc<[Arc<str>]> {
    names.iter().map(|name| Arc::from(name.as_str())).collect()
}
