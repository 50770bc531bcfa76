//! Pure. Which cluster has an endpoint at an address: for connections that are meant for one pod and no service.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::cluster::ClusterCell;
use super::endpoint::EndpointSet;

/// Parts of the map: an address that comes or goes costs a copy of one.
const PARTS: usize = 256;

type Part = HashMap<SocketAddr, Vec<Arc<ClusterCell>>>;

/// Addresses of endpoints that are dialled directly, with the clusters that have them. It is kept up by one writer, and only
/// where connections are captured.
#[derive(Debug)]
pub struct Pods(Box<[ArcSwap<Part>]>);

impl Default for Pods {
    fn default() -> Self {
        Self((0..PARTS).map(|_| ArcSwap::default()).collect())
    }
}

impl Pods {
    /// A cluster that has an endpoint at an address.
    #[must_use]
    pub fn find(&self, address: &SocketAddr) -> Option<Arc<ClusterCell>> {
        self.part(address)?.load().get(address).and_then(|cells| cells.first()).cloned()
    }
    /// The endpoints of a cluster changed.
    pub fn moved(&self, cell: &Arc<ClusterCell>, old: Option<&EndpointSet>, new: Option<&EndpointSet>) {
        let (old, new) = (addresses(old), addresses(new));
        for gone in old.difference(&new) {
            self.change(gone, |cells| cells.retain(|c| !Arc::ptr_eq(c, cell)));
        }
        for came in new.difference(&old) {
            self.change(came, |cells| {
                cells.push(Arc::clone(cell));
                // Which one is found does not hang on which came first: the cluster's own name comes before the set's.
                cells.sort_by(|a, b| key(a).cmp(&key(b)));
            });
        }
    }
    fn change(&self, address: &SocketAddr, change: impl FnOnce(&mut Vec<Arc<ClusterCell>>)) {
        let Some(place) = self.part(address) else { return };
        let mut part = Part::clone(&place.load());
        let cells = part.entry(*address).or_default();
        change(cells);
        if cells.is_empty() {
            part.remove(address);
        }
        place.store(Arc::new(part));
    }
    fn part(&self, address: &SocketAddr) -> Option<&ArcSwap<Part>> {
        // Addresses of pods differ at their end.
        let last = match address.ip() {
            IpAddr::V4(ip) => ip.octets().last().copied(),
            IpAddr::V6(ip) => ip.octets().last().copied(),
        };
        self.0.get(usize::from(last?) % PARTS)
    }
}

/// Names of the own cluster come first.
fn key(cell: &ClusterCell) -> (bool, &str) {
    (cell.name().ends_with(".clusterset.local"), cell.name())
}

fn addresses(set: Option<&EndpointSet>) -> HashSet<SocketAddr> {
    set.into_iter().flat_map(EndpointSet::iter).filter(|e| !e.via_gateway).map(|e| e.address).collect()
}
