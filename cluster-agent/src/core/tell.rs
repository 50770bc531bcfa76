//! Pure. What the status tells of proxies.

use super::Core;
use crate::index::WorkloadKey;
use crate::translate::Mode;

impl Core {
    /// Proxies that are connected, and those of them that have acknowledged everything.
    #[must_use]
    pub fn proxy_counts(&self) -> (usize, usize) {
        let connected = self.proxies.values().filter(|p| p.is_connected());
        connected.fold((0, 0), |(all, acked), p| (all + 1, acked + usize::from(p.settled)))
    }

    /// Connected proxies that have not acknowledged everything, and why.
    pub fn proxies_behind(&self) -> impl Iterator<Item = (&WorkloadKey, String)> {
        self.proxies.iter().filter(|(_, p)| p.is_connected() && !p.settled).map(|(key, proxy)| {
            let newest = proxy.streams.last().and_then(|id| self.streams.get(id));
            let refused = newest.into_iter().flat_map(|e| e.machine.refused());
            let refused: Vec<String> = refused.map(|(kind, name)| format!("{} {name}", kind.as_str())).collect();
            let why = if refused.is_empty() {
                // What the agent holds back is no fault of the proxy.
                let held_back = newest.filter(|e| e.node.mode == Mode::Sidecar).and_then(|_| self.held_back());
                held_back.unwrap_or_else(|| "its proxy has not acknowledged the current configuration".to_owned())
            } else {
                format!("its proxy refused {}", refused.join(", "))
            };
            (key, why)
        })
    }

    /// What a workload's proxy lacks, other than an acknowledgement; `None`: nothing.
    #[must_use]
    pub fn proxy_lack(&self, key: &WorkloadKey) -> Option<String> {
        let Some(proxy) = self.proxies.get(key).filter(|p| p.is_connected()) else {
            return Some("its proxy is not connected".to_owned());
        };
        if proxy.wanted().app_ready {
            return None;
        }
        let why = if proxy.reason.is_empty() { "its application is not ready" } else { &proxy.reason };
        Some(why.to_owned())
    }
}

/// Logs that the last word of the kubelets counts, or does no longer.
pub(super) fn tell_silence(silent: bool) {
    if silent {
        tracing::warn!(
            "Kubernetes hears nothing of any node of this cluster, as when its API server was away: pods that it took for \
             unready meanwhile count as ready where their kubelets said so last"
        );
    } else {
        tracing::info!("Kubernetes hears of this cluster's nodes again: what it says of their pods counts");
    }
}
