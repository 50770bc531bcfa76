//! Pure. What a proxy says of itself in its ADS node: a claim until attestation has confirmed it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use meshfed_model::names::{Namespace, WorkloadRef};
use prost_types::value::Kind as ValueKind;
use prost_types::{Struct, Value};

use super::names::{OutboundName, parse_host};

/// Entries of one list or map that a node may carry.
const ENTRIES_MAX: usize = 256;

/// How the proxy runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// Beside one workload.
    #[default]
    Sidecar,
    /// As an east-west gateway.
    Gateway,
}

/// Who the proxy says it speaks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// `--workload`.
    Workload(WorkloadRef),
    /// From a node id alone: the object's namespace and name.
    Object(Namespace, String),
}

impl std::fmt::Display for Claim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Workload(w) => write!(f, "{w}"),
            Self::Object(ns, name) => write!(f, "{ns}/{name}"),
        }
    }
}

/// A node, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// The node id.
    pub id: String,
    /// Namespace and name of the id `sidecar~IP~NAME.NS~…`, where it has that form.
    pub id_object: Option<(Namespace, String)>,
    /// Who it says it is.
    pub claim: Claim,
    /// Sidecar or gateway.
    pub mode: Mode,
    /// Hosts of its listeners; empty: all addresses of the workload.
    pub bind: Vec<IpAddr>,
    /// Where the application of a port is, other than `127.0.0.1:<port>`.
    pub inbound: BTreeMap<u16, SocketAddr>,
    /// Plain TCP listeners for one service each.
    pub outbound: Vec<(SocketAddr, OutboundName)>,
    /// Whether connections are captured (`--capture redirect`): then where they were meant to go decides.
    pub captured: bool,
    /// Where captured inbound connections are taken; `None`: the bind addresses at 15006.
    pub listen_inbound: Option<Vec<SocketAddr>>,
    /// Outbound HTTP listeners; `None`: the bind addresses at 15001.
    pub listen_outbound: Option<Vec<SocketAddr>>,
    /// Gateway listeners; `None`: as `contracts.md` 1.8 says.
    pub listen_gateway: Option<Vec<SocketAddr>>,
    /// Addresses of the host, where the proxy says them.
    pub host_addresses: Vec<IpAddr>,
    /// A stock Envoy beside a client: no inbound listeners.
    pub client_only: bool,
    /// Whether it is an Envoy: it has no app probe.
    pub envoy: bool,
    /// The process at the other end of a Unix socket, by the kernel; `None` on TCP and across process namespaces.
    pub process: Option<i32>,
}

/// Why a node cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// It names no workload.
    #[error(
        "the node names no workload: metadata.meshfed.workload is NAMESPACE/SERVICE_ACCOUNT[/NAME], or the id is sidecar~IP~NAME.NAMESPACE~DOMAIN"
    )]
    NoWorkload,
    /// A field is not understood.
    #[error("metadata.meshfed.{field}: {message}")]
    Field {
        /// The field.
        field: &'static str,
        /// What is wrong.
        message: String,
    },
}

fn wrong(field: &'static str, message: impl ToString) -> NodeError {
    NodeError::Field { field, message: message.to_string() }
}

impl Node {
    /// A node of which only the claim matters.
    #[must_use]
    pub fn of_claim(id: &str, claim: Claim) -> Self {
        Self {
            id: id.chars().take(512).collect(),
            id_object: parse_id(id),
            claim,
            mode: Mode::Sidecar,
            bind: Vec::new(),
            inbound: BTreeMap::new(),
            outbound: Vec::new(),
            captured: false,
            listen_inbound: None,
            listen_outbound: None,
            listen_gateway: None,
            host_addresses: Vec::new(),
            client_only: false,
            envoy: false,
            process: None,
        }
    }
    /// The addresses that the proxy says are its workload's: where it binds, else where it listens, else that of its id.
    #[must_use]
    pub fn said_addresses(&self) -> BTreeSet<IpAddr> {
        let listens = [&self.listen_outbound, &self.listen_gateway].into_iter().flatten().flatten().map(SocketAddr::ip);
        let id = self.id.split('~').nth(1).and_then(|ip| ip.parse().ok());
        let said = [self.bind.clone(), listens.collect(), id.into_iter().collect()];
        let known = |all: Vec<IpAddr>| all.into_iter().filter(|a| !a.is_unspecified()).collect::<BTreeSet<IpAddr>>();
        said.into_iter().map(known).find(|all| !all.is_empty()).unwrap_or_default()
    }
    /// Reads id, metadata and user agent of a node.
    ///
    /// # Errors
    /// [`NodeError`] naming the field.
    pub fn parse(id: &str, user_agent: &str, metadata: Option<&Struct>) -> Result<Self, NodeError> {
        let empty = BTreeMap::new();
        let ours = metadata.and_then(|m| m.fields.get("meshfed")).and_then(as_struct).unwrap_or(&empty);
        let claim = match ours.get("workload").and_then(as_text) {
            Some(text) => Claim::Workload(text.parse().map_err(|e| wrong("workload", e))?),
            None => {
                let (ns, name) = parse_id(id).ok_or(NodeError::NoWorkload)?;
                Claim::Object(ns, name)
            }
        };
        let mode = match ours.get("mode").and_then(as_text) {
            Some("gateway") => Mode::Gateway,
            Some("sidecar") | None => Mode::Sidecar,
            Some(other) => return Err(wrong("mode", format!("'{other}' is neither sidecar nor gateway"))),
        };
        let captured = match ours.get("capture").and_then(as_text) {
            Some("redirect") => true,
            Some("none") | None => false,
            Some(other) => return Err(wrong("capture", format!("'{other}' is neither redirect nor none"))),
        };
        let listen = ours.get("listen").and_then(as_struct).unwrap_or(&empty);
        Ok(Self {
            mode,
            bind: list(ours.get("bind"), "bind")?,
            inbound: inbound(ours.get("inbound"))?,
            outbound: outbound(ours.get("outbound"))?,
            captured,
            listen_inbound: listen.get("inbound").map(|v| list(Some(v), "listen.inbound")).transpose()?,
            listen_outbound: listen.get("outbound").map(|v| list(Some(v), "listen.outbound")).transpose()?,
            listen_gateway: listen.get("gateway").map(|v| list(Some(v), "listen.gateway")).transpose()?,
            host_addresses: list(ours.get("hostAddresses"), "hostAddresses")?,
            client_only: matches!(
                ours.get("clientOnly").and_then(|v| v.kind.as_ref()),
                Some(ValueKind::BoolValue(true))
            ),
            envoy: user_agent == "envoy",
            ..Self::of_claim(id, claim)
        })
    }
}

/// `TYPE~IP~NAME.NAMESPACE~DOMAIN`.
fn parse_id(id: &str) -> Option<(Namespace, String)> {
    let object = id.split('~').nth(2)?;
    // A WorkloadEntry's name may hold dots, a namespace none.
    let (name, namespace) = object.rsplit_once('.')?;
    Some((Namespace::new(namespace).ok()?, name.to_owned()))
}

fn as_text(value: &Value) -> Option<&str> {
    match value.kind.as_ref()? {
        ValueKind::StringValue(s) => Some(s),
        ValueKind::NullValue(_)
        | ValueKind::NumberValue(_)
        | ValueKind::BoolValue(_)
        | ValueKind::StructValue(_)
        | ValueKind::ListValue(_) => None,
    }
}

fn as_struct(value: &Value) -> Option<&BTreeMap<String, Value>> {
    match value.kind.as_ref()? {
        ValueKind::StructValue(s) => Some(&s.fields),
        ValueKind::NullValue(_)
        | ValueKind::NumberValue(_)
        | ValueKind::BoolValue(_)
        | ValueKind::StringValue(_)
        | ValueKind::ListValue(_) => None,
    }
}

/// A list of texts, or one text.
fn list<T: std::str::FromStr>(value: Option<&Value>, field: &'static str) -> Result<Vec<T>, NodeError>
where
    T::Err: std::fmt::Display,
{
    let values: Vec<&Value> = match value.and_then(|v| v.kind.as_ref()) {
        None | Some(ValueKind::NullValue(_)) => Vec::new(),
        Some(ValueKind::ListValue(l)) => l.values.iter().collect(),
        Some(ValueKind::StringValue(_)) => value.into_iter().collect(),
        Some(ValueKind::NumberValue(_) | ValueKind::BoolValue(_) | ValueKind::StructValue(_)) => {
            return Err(wrong(field, "is no list"));
        }
    };
    if values.len() > ENTRIES_MAX {
        return Err(wrong(field, format!("{} entries, at most {ENTRIES_MAX} are allowed", values.len())));
    }
    let parse = |v: &Value| {
        let text = as_text(v).ok_or_else(|| wrong(field, "holds something that is no text"))?;
        text.parse().map_err(|e| wrong(field, format!("'{text}': {e}")))
    };
    values.into_iter().map(parse).collect()
}

fn entries<'a>(value: Option<&'a Value>, field: &'static str) -> Result<Vec<(&'a str, &'a str)>, NodeError> {
    let Some(fields) = value.and_then(as_struct) else { return Ok(Vec::new()) };
    if fields.len() > ENTRIES_MAX {
        return Err(wrong(field, format!("{} entries, at most {ENTRIES_MAX} are allowed", fields.len())));
    }
    let text = |(k, v): (&'a String, &'a Value)| {
        as_text(v).map(|v| (k.as_str(), v)).ok_or_else(|| wrong(field, format!("'{k}' is no text")))
    };
    fields.iter().map(text).collect()
}

fn inbound(value: Option<&Value>) -> Result<BTreeMap<u16, SocketAddr>, NodeError> {
    let mut targets = BTreeMap::new();
    for (port, target) in entries(value, "inbound")? {
        let port: u16 = port.parse().map_err(|e| wrong("inbound", format!("'{port}': {e}")))?;
        let target = target.parse().map_err(|e| wrong("inbound", format!("'{target}': {e}")))?;
        targets.insert(port, target);
    }
    Ok(targets)
}

fn outbound(value: Option<&Value>) -> Result<Vec<(SocketAddr, OutboundName)>, NodeError> {
    let mut listeners = Vec::new();
    for (listen, target) in entries(value, "outbound")? {
        let at = listen.parse().map_err(|e| wrong("outbound", format!("'{listen}': {e}")))?;
        let (host, port) = target.rsplit_once(':').unwrap_or((target, "80"));
        let port: u16 = port.parse().map_err(|e| wrong("outbound", format!("'{target}': {e}")))?;
        let full = match host.split('.').count() {
            2 => format!("{host}.svc.cluster.local"),
            3 => format!("{host}.cluster.local"),
            _ => host.to_owned(),
        };
        let (service, domain) = parse_host(&full).ok_or_else(|| {
            wrong("outbound", format!("'{target}' is no service: NAME.NAMESPACE.svc.clusterset.local:PORT"))
        })?;
        listeners.push((at, OutboundName::new(service, port, domain)));
    }
    Ok(listeners)
}
