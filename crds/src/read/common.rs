//! Pure. What the borders of all kinds share.

use std::borrow::Cow;
use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::error::Code;
use crate::object::{Kind, Labels, ObjectKey, Place, Scope};
use crate::schema::{FINDINGS_MAX, Finding};
use crate::tree::Node;

/// What all our annotations begin with.
pub(super) const OURS: &str = "federation.meshfed.io/";
/// Annotation of a Service that an agent has made: the import whose addresses it carries. Whether it is one is judged where
/// such Services are made.
pub(super) const SERVICE_IMPORT: &str = "federation.meshfed.io/service-import";
/// The addresses of a gateway service.
pub(super) const GATEWAY_ADDRESSES: &str = "federation.meshfed.io/gateway-addresses";
/// More addresses of a workload.
pub(super) const ADDRESSES: &str = "federation.meshfed.io/addresses";
/// `none`: no proxy stands before the workload.
pub(super) const SIDECAR: &str = "federation.meshfed.io/sidecar";
/// Who may speak for the workload.
pub(super) const UNIX_UID: &str = "federation.meshfed.io/unix-uid";
/// What the injection writes on a pod: it has a sidecar.
pub(super) const INJECTED: &str = "federation.meshfed.io/status";
/// The label that names a network.
pub(super) const NETWORK: &str = "topology.istio.io/network";

/// Reads one object, and collects what is wrong with its values.
pub(super) struct Reader<'a> {
    pub(super) object: &'a Node,
    pub(super) key: &'a ObjectKey,
    pub(super) scope: Scope,
    pub(super) findings: Vec<Finding>,
    pub(super) places: Vec<(Cow<'static, str>, Place)>,
}

impl<'a> Reader<'a> {
    pub(super) const fn new(object: &'a Node, key: &'a ObjectKey, scope: Scope) -> Self {
        Self { object, key, scope, findings: Vec::new(), places: Vec::new() }
    }

    pub(super) fn find(&mut self, code: Code, place: Place, field: &str, message: String, remedy: Option<String>) {
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(Finding { code, place, field: field.to_owned(), message, remedy });
        }
    }

    /// A value that the field may not have.
    pub(super) fn bad(&mut self, node: &Node, field: &str, message: impl Display, remedy: &str) {
        self.find(Code::InvalidValue, node.place, field, message.to_string(), Some(remedy.to_owned()));
    }

    /// A required field that is not there.
    pub(super) fn missing(&mut self, field: &str, remedy: &str) {
        let place = match field.split_once('.') {
            Some((parent, _)) => self.object.get(parent).unwrap_or(self.object).place,
            None => self.object.place,
        };
        self.find(Code::InvalidValue, place, field, "is required".to_owned(), Some(remedy.to_owned()));
    }

    pub(super) fn get(&self, path: &[&str]) -> Option<&'a Node> {
        path.iter().try_fold(self.object, |node, key| node.get(key))
    }

    /// The value, or a fault about the whole object.
    pub(super) fn checked<T, E: Display>(&mut self, field: &str, value: Result<T, E>) -> Option<T> {
        value.map_err(|e| self.find(Code::InvalidValue, self.object.place, field, e.to_string(), None)).ok()
    }

    /// The parsed text of a node, or a fault; `None` without fault where it is no text.
    pub(super) fn parsed<T, E: Display>(
        &mut self,
        node: &Node,
        field: &str,
        remedy: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        match parse(node.text()?) {
            Ok(value) => Some(value),
            Err(e) => {
                self.bad(node, field, e, remedy);
                None
            }
        }
    }

    /// Text to text, as it stands.
    pub(super) fn labels(&self, path: &[&str]) -> Labels {
        let Some(map) = self.get(path) else { return Labels::default() };
        map.entries().iter().filter_map(|e| Some((Arc::from(&*e.key), Arc::from(e.value.text()?)))).collect()
    }

    pub(super) fn annotation(&self, name: &str) -> Option<&'a Node> {
        self.get(&["metadata", "annotations", name])
    }

    /// Remembers where a field stands that is judged later, against something outside the object.
    pub(super) fn mark(&mut self, field: impl Into<Cow<'static, str>>, node: &Node) {
        self.places.push((field.into(), node.place));
    }

    /// An IP address without scope or dressing.
    pub(super) fn address(&mut self, node: &Node, field: &str) -> Option<IpAddr> {
        let text = node.text()?;
        if let Ok(address) = text.parse() {
            return Some(address);
        }
        let shown: String = text.chars().take(80).collect();
        if text.starts_with("unix:") {
            let message = format!("Unix sockets as addresses ({shown:?}) are not in this version");
            self.find(Code::NotInThisVersion, node.place, field, message, Some("write an IP address".to_owned()));
        } else {
            self.bad(
                node,
                field,
                format_args!("{shown:?} is no IP address"),
                "write an IPv4 or IPv6 address; host names are not taken",
            );
        }
        None
    }

    /// Remarks on annotations of ours that this kind does not have.
    pub(super) fn unknown_annotations(&mut self, kind: Kind) {
        let known: &[&str] = match kind {
            Kind::Service => &[GATEWAY_ADDRESSES],
            Kind::WorkloadEntry => &[ADDRESSES, SIDECAR, UNIX_UID],
            // The injection has annotations of its own on pods, and judges them itself.
            Kind::Pod => return,
            Kind::Namespace
            | Kind::ServiceExport
            | Kind::ExportPolicy
            | Kind::FailoverPolicy
            | Kind::EndpointSlice
            | Kind::Node
            | Kind::PeerAuthentication
            | Kind::Mesh => &[],
        };
        let Some(annotations) = self.get(&["metadata", "annotations"]) else { return };
        for entry in annotations.entries() {
            // An agent's own word, which nobody else is to be told of.
            let made = kind == Kind::Service && &*entry.key == SERVICE_IMPORT;
            if entry.key.starts_with(OURS) && !made && !known.contains(&entry.key.as_ref()) {
                let shown: String = entry.key.chars().take(80).collect();
                let field = format!("metadata.annotations.{shown}");
                let remedy = (!known.is_empty()).then(|| format!("a {kind} may have {}", known.join(", ")));
                self.find(
                    Code::UnknownAnnotation,
                    entry.place,
                    &field,
                    format!("a {kind} has no such annotation"),
                    remedy,
                );
            }
        }
    }
}

/// `IP:PORT` or `[IPv6]:PORT`.
pub(super) fn socket_address(text: &str) -> Result<SocketAddr, String> {
    let text = text.trim();
    let shown: String = text.chars().take(80).collect();
    let address: SocketAddr = text.parse().map_err(|_unparsed| format!("{shown:?} is not IP:PORT or [IPv6]:PORT"))?;
    if address.port() == 0 {
        return Err(format!("{shown:?} has port 0"));
    }
    if let SocketAddr::V6(a) = address
        && a.scope_id() != 0
    {
        return Err(format!("{shown:?} has a scope"));
    }
    Ok(address)
}
