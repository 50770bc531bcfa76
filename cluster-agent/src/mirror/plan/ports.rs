//! Pure. The ports of an import as Kubernetes takes them. They are words of other clusters, whose API servers may take
//! more than this one, and which may say what no API server takes: one port of one cluster must not keep the Service and the
//! slices of all from being written.

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
        && name.len() <= 63
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-')
}

/// Its name among `several` ports: a name of its own for one that has none, which Kubernetes takes only where it is alone,
/// and for one whose name Kubernetes does not take.
pub(super) fn name(port: &ServicePort, several: bool) -> String {
    if is_name(&port.name) || port.name.is_empty() && !several {
        return port.name.clone();
    }
    format!("port-{}-{}", port.port, port.protocol.to_ascii_lowercase())
}

/// Its `appProtocol`, where Kubernetes takes it.
pub(super) fn app_protocol(port: &ServicePort) -> Option<String> {
    port.app_protocol.clone().filter(|protocol| is_key(protocol))
}
