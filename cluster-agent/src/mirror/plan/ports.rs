//! Pure. The ports of an import as Kubernetes takes them. They are words of other clusters, whose API servers may take
//! more than this one, and which may say what no API server takes: one port of one cluster must not keep the Service and the
//! slices of all from being written.

use std::collections::BTreeSet;

use meshfed_crds::qualified::is_key;
use meshfed_model::service::ServicePort;

/// The protocols of Kubernetes.
const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];

/// Whether Kubernetes has such ports at all.
pub(super) fn is_known(port: &ServicePort) -> bool {
    PROTOCOLS.contains(&port.protocol.as_str())
}

/// Whether Kubernetes takes it as the name of a port (RFC 1123, a label).
fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= NAME_MAX
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-')
}

/// The longest name of a port of Kubernetes, in bytes.
pub(super) const NAME_MAX: usize = 63;

/// The names of ports that stand together, in their order: the ports' own where Kubernetes takes them and they are no longer
/// than `longest`, which a port without a name may keep where it is alone; else a name that no other has.
pub(super) fn names<'a>(ports: impl Iterator<Item = &'a ServicePort> + Clone, longest: usize) -> Vec<String> {
    let alone = ports.clone().nth(1).is_none();
    let keeps = |port: &ServicePort| is_name(&port.name) && port.name.len() <= longest || port.name.is_empty() && alone;
    let mut taken: BTreeSet<String> = ports.clone().filter(|p| keeps(p)).map(|p| p.name.clone()).collect();
    let named = |port: &ServicePort| {
        if keeps(port) {
            return port.name.clone();
        }
        let made = format!("{}-{}", port.protocol.to_ascii_lowercase(), port.port);
        let others = (2..).map(|n: u32| format!("{made}-{n}"));
        let free = std::iter::once(made.clone())
            .chain(others)
            .find(|name| !taken.contains(name))
            .unwrap_or_else(|| made.clone());
        taken.insert(free.clone());
        free
    };
    ports.map(named).collect()
}

/// Its `appProtocol`, where Kubernetes takes it.
pub(super) fn app_protocol(port: &ServicePort) -> Option<String> {
    port.app_protocol.clone().filter(|protocol| is_key(protocol))
}
