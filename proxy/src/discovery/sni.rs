//! Pure. The server names that gateways forward, over versions of their listeners.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::convert::{ListenerSpec, ListenerSpecKind};
use crate::state::{ClusterCell, SniRoute, SniTable};

/// All routes in use. A name that stays keeps its route object, so that tunnels can follow it.
#[derive(Debug, Default)]
pub(super) struct SniRoutes(BTreeMap<Arc<str>, Arc<SniRoute>>);

impl SniRoutes {
    /// The table of one listener.
    pub(super) fn table(&mut self, names: Vec<(&str, Arc<ClusterCell>)>) -> SniTable {
        let mut table = SniTable::default();
        for (sni, cluster) in names {
            let known = self.0.get(sni).filter(|r| Arc::ptr_eq(&r.cluster, &cluster) && !r.is_withdrawn());
            let route = match known {
                Some(route) => Arc::clone(route),
                None => {
                    let route = Arc::new(SniRoute::new(sni.into(), cluster));
                    self.0.insert(Arc::clone(&route.sni), Arc::clone(&route));
                    route
                }
            };
            table.routes.insert(sni.into(), route);
        }
        table
    }
    /// Withdraws the names that nobody keeps.
    pub(super) fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.0.retain(|sni, route| {
            let kept = keep(sni);
            if !kept {
                route.withdraw();
            }
            kept
        });
    }
}

impl ListenerSpec {
    /// Whether it is a gateway's and forwards that name.
    pub(super) fn forwards(&self, sni: &str) -> bool {
        match &self.kind {
            ListenerSpecKind::Gateway { names } => names.contains_key(sni),
            ListenerSpecKind::OutboundHttp { .. }
            | ListenerSpecKind::OutboundTcp { .. }
            | ListenerSpecKind::OutboundAny { .. }
            | ListenerSpecKind::CapturedOutbound { .. }
            | ListenerSpecKind::CapturedInbound { .. }
            | ListenerSpecKind::InboundHttp { .. }
            | ListenerSpecKind::InboundTcp { .. } => false,
        }
    }
}
