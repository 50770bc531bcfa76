//! Pure. Label values: who speaks with whom, and how it ended.

use std::fmt::Error;
use std::sync::Arc;

use meshfed_model::identity::{Principal, SpiffeId};
use prometheus_client::encoding::{EncodeLabel, EncodeLabelSet, LabelSetEncoder};

/// What stands where nothing is known, as in Istio.
const UNKNOWN: &str = "unknown";

/// Which end reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reporter {
    /// The client's proxy.
    Source,
    /// The server's proxy.
    Destination,
}

impl Reporter {
    /// The label's value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
        }
    }
}

/// How a request or connection ended, in Envoy's letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Flag {
    /// As it should.
    None,
    /// No route.
    NoRoute,
    /// No endpoint that could be tried.
    NoHealthyUpstream,
    /// Nobody could be connected to.
    UpstreamConnectionFailure,
    /// The upstream went away.
    UpstreamConnectionTermination,
    /// The upstream took too long.
    UpstreamRequestTimeout,
    /// A limit of the cluster.
    UpstreamOverflow,
    /// The upstream broke the protocol.
    UpstreamProtocolError,
    /// The client went away.
    DownstreamConnectionTermination,
    /// The client broke the protocol.
    DownstreamProtocolError,
    /// The client took too long.
    DownstreamTimeout,
}

impl Flag {
    /// Envoy's word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "-",
            Self::NoRoute => "NR",
            Self::NoHealthyUpstream => "UH",
            Self::UpstreamConnectionFailure => "UF",
            Self::UpstreamConnectionTermination => "UC",
            Self::UpstreamRequestTimeout => "UT",
            Self::UpstreamOverflow => "UO",
            Self::UpstreamProtocolError => "UPE",
            Self::DownstreamConnectionTermination => "DC",
            Self::DownstreamProtocolError => "DPE",
            Self::DownstreamTimeout => "DT",
        }
    }
}

/// Why the proxy answered itself: the value of `x-meshfed-reason` (`contracts.md` 1.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// No service of that name.
    NoRoute,
    /// The service has no endpoint.
    NoEndpoints,
    /// No endpoint could be connected to.
    UpstreamConnect,
    /// The connection to the endpoint broke.
    UpstreamReset,
    /// Nobody answered in time, or the request did not arrive in time.
    Timeout,
    /// A limit was reached.
    Overload,
    /// Refused: malformed, or not for this proxy.
    Denied,
}

impl Reason {
    /// The word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoRoute => "no_route",
            Self::NoEndpoints => "no_endpoints",
            Self::UpstreamConnect => "upstream_connect",
            Self::UpstreamReset => "upstream_reset",
            Self::Timeout => "timeout",
            Self::Overload => "overload",
            Self::Denied => "denied",
        }
    }
}

/// One end of an exchange.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Party {
    /// The workload (its service account); empty when unknown.
    pub workload: Arc<str>,
    /// Its namespace; empty when unknown.
    pub namespace: Arc<str>,
    /// Its verified SPIFFE ID; empty when unknown.
    pub principal: Arc<str>,
    /// Its cluster; empty when unknown.
    pub cluster: Arc<str>,
}

impl Party {
    /// What a verified identity says; the cluster is the first label of its trust domain (`<cluster>.F`, D1).
    #[must_use]
    pub fn of(id: &SpiffeId) -> Self {
        let cluster = id.trust_domain.as_str().split('.').next().unwrap_or_default().into();
        let (namespace, workload) = match &id.principal {
            Principal::Workload { namespace, service_account } => (namespace.as_str().into(), service_account.clone()),
            Principal::Agent { .. } | Principal::Federator { .. } => (Arc::from(""), Arc::from("")),
        };
        Self { workload, namespace, principal: id.to_string().into(), cluster }
    }
}

/// Who speaks with whom; everything that is known before the answer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Parties {
    /// Which end reports.
    pub reporter: Reporter,
    /// The client.
    pub source: Party,
    /// The server.
    pub destination: Party,
    /// The service's host; empty when there is none.
    pub service: Arc<str>,
    /// `http` or `tcp`.
    pub protocol: &'static str,
    /// Whether the connection between the two is mTLS.
    pub mutual_tls: bool,
}

fn or_unknown(value: &str) -> &str {
    if value.is_empty() { UNKNOWN } else { value }
}

impl Parties {
    /// `NAME.NAMESPACE.svc.…` cut into name and namespace.
    fn service_parts(&self) -> (&str, &str) {
        let mut parts = self.service.split('.');
        (parts.next().unwrap_or_default(), parts.next().unwrap_or_default())
    }
    fn encode_into(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), Error> {
        let (name, namespace) = self.service_parts();
        let policy = if self.mutual_tls { "mutual_tls" } else { "none" };
        for (key, value) in [
            ("reporter", self.reporter.as_str()),
            ("source_workload", &self.source.workload),
            ("source_workload_namespace", &self.source.namespace),
            ("source_principal", &self.source.principal),
            ("source_cluster", &self.source.cluster),
            ("destination_workload", &self.destination.workload),
            ("destination_workload_namespace", &self.destination.namespace),
            ("destination_principal", &self.destination.principal),
            ("destination_cluster", &self.destination.cluster),
            ("destination_service", &self.service),
            ("destination_service_name", name),
            ("destination_service_namespace", namespace),
            ("request_protocol", self.protocol),
            ("connection_security_policy", policy),
        ] {
            (key, or_unknown(value)).encode(encoder.encode_label())?;
        }
        Ok(())
    }
}

/// The labels of one counter.
#[derive(Debug)]
pub(super) struct Labels<'a> {
    pub(super) parties: &'a Parties,
    pub(super) code: Option<u16>,
    pub(super) flag: Flag,
}

impl EncodeLabelSet for Labels<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), Error> {
        self.parties.encode_into(encoder)?;
        if let Some(code) = self.code {
            ("response_code", u64::from(code)).encode(encoder.encode_label())?;
        }
        ("response_flags", self.flag.as_str()).encode(encoder.encode_label())
    }
}
