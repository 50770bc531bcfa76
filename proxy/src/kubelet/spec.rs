//! Pure. What injection has written down of a pod's probes.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

/// Most probes of a pod.
const PROBES_MAX: usize = 3000;
/// The longest time for an answer, whatever the probe says.
const TIMEOUT_MAX: u64 = 600;

/// Not the form that injection writes.
#[derive(Debug, thiserror::Error)]
pub enum InvalidProbes {
    /// Not JSON of the form.
    #[error("is not what injection writes: {0}")]
    Form(#[source] serde_json::Error),
    /// A probe with none or several questions, or too many probes.
    #[error("{0}")]
    Probe(String),
}

/// A header that is sent.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Header {
    pub(super) name: String,
    pub(super) value: String,
}

/// `httpGet`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct HttpGet {
    pub(super) path: String,
    pub(super) port: u16,
    /// TLS, with whatever certificate: the kubelet verifies none.
    #[serde(default)]
    pub(super) tls: bool,
    #[serde(default)]
    pub(super) http_headers: Vec<Header>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tcp {
    port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Grpc {
    port: u16,
    #[serde(default)]
    service: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Wire {
    http_get: Option<HttpGet>,
    tcp_socket: Option<Tcp>,
    grpc: Option<Grpc>,
    #[serde(default)]
    timeout_seconds: Option<u64>,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Question {
    /// A GET, answered 200 to 399.
    Http(HttpGet),
    /// A connect.
    Tcp(u16),
    /// `grpc.health.v1.Health/Check` of a service, answered SERVING.
    Grpc(u16, String),
}

/// One probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Probe {
    pub(super) question: Question,
    pub(super) timeout: Duration,
}

/// All probes, by `CONTAINER/KIND`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Probes(BTreeMap<String, Probe>);

impl Probes {
    /// Reads what injection has written.
    ///
    /// # Errors
    /// [`InvalidProbes`].
    pub fn read(text: &str) -> Result<Self, InvalidProbes> {
        let wire: BTreeMap<String, Wire> = serde_json::from_str(text).map_err(InvalidProbes::Form)?;
        if wire.len() > PROBES_MAX {
            return Err(InvalidProbes::Probe(format!("has more than {PROBES_MAX} probes")));
        }
        let mut probes = BTreeMap::new();
        for (name, wire) in wire {
            let question = match (wire.http_get, wire.tcp_socket, wire.grpc) {
                (Some(http), None, None) => Question::Http(http),
                (None, Some(tcp), None) => Question::Tcp(tcp.port),
                (None, None, Some(grpc)) => Question::Grpc(grpc.port, grpc.service),
                _ => return Err(InvalidProbes::Probe(format!("{name} is not one of httpGet, tcpSocket and grpc"))),
            };
            let timeout = Duration::from_secs(wire.timeout_seconds.unwrap_or(1).clamp(1, TIMEOUT_MAX));
            probes.insert(name, Probe { question, timeout });
        }
        Ok(Self(probes))
    }
    /// The probe of a container.
    pub(super) fn get(&self, container: &str, kind: &str) -> Option<&Probe> {
        self.0.get(&format!("{container}/{kind}"))
    }
}
