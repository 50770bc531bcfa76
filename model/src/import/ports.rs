//! Pure. The union of ports.

use std::collections::{BTreeMap, BTreeSet};

use super::ImportPort;
use crate::names::ClusterName;
use crate::offer::ServiceOffer;
use crate::service::ServicePort;

/// Unites the ports of exports, the oldest first: a port is one that has the name of another, else its protocol and
/// number. An export that gives a name to another number than an older one does not expose that port; one that gives a
/// number another name does, because traffic goes by number.
pub(super) fn union(exports: &[(&ClusterName, &ServiceOffer)]) -> Vec<ImportPort> {
    let mut united: Vec<ImportPort> = Vec::new();
    let mut names: BTreeMap<String, usize> = BTreeMap::new();
    let mut numbers: BTreeMap<(u16, String), usize> = BTreeMap::new();
    for (cluster, offer) in exports {
        let said: BTreeSet<&str> = offer.ports.iter().map(|p| p.name.as_str()).filter(|n| !n.is_empty()).collect();
        for port in &offer.ports {
            let number = (port.port, port.protocol.clone());
            let named = names.get(&port.name).filter(|_| !port.name.is_empty()).copied();
            let known = named.or_else(|| numbers.get(&number).copied());
            let Some(at) = known else {
                if !port.name.is_empty() {
                    names.insert(port.name.clone(), united.len());
                }
                numbers.insert(number, united.len());
                united.push(ImportPort { port: port.clone(), clusters: BTreeSet::from([(*cluster).clone()]) });
                continue;
            };
            if let Some(older) = united.get_mut(at).filter(|older| exposes(&older.port, port, &said)) {
                older.clusters.insert((*cluster).clone());
            }
        }
    }
    united.sort_by(|a, b| (a.port.port, &a.port.protocol).cmp(&(b.port.port, &b.port.protocol)));
    united
}

/// Whether who has `port`, among ports that are named `said`, exposes `older`.
fn exposes(older: &ServicePort, port: &ServicePort, said: &BTreeSet<&str>) -> bool {
    let same_number = (older.port, &older.protocol) == (port.port, &port.protocol);
    // Who says which port is meant by the name does not mean another one by it.
    same_number && (older.name == port.name || !said.contains(older.name.as_str()))
}
