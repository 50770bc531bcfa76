//! Pure. Label values: who speaks with whom, and how it ended.

use std::fmt::Error;
use std::sync::Arc;

use meshfed_model::identity::{Principal, SpiffeId};
use meshfed_model::metadata::WorkloadMetadata;
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
    /// Nobody could be connected to, and no further attempt was allowed.
    RetriesEndedInConnectionFailure,
    /// Nobody could be connected to, and the cluster's limit of retries under way was reached.
    RetriesOverflowedInConnectionFailure,
    /// The answer is that of the last attempt that was allowed, and a peer says that it reached no application.
    RetryLimitExceeded,
    /// We ended it: the peer's trust domain is no longer accepted.
    LocalReset,
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
            Self::RetriesEndedInConnectionFailure => "UF,URX",
            Self::RetriesOverflowedInConnectionFailure => "UF,UO",
            Self::RetryLimitExceeded => "URX",
            Self::LocalReset => "LR",
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

/// The header that says why a proxy answered itself (`contracts.md` 1.8).
pub const REASON_HEADER: &str = "x-meshfed-reason";

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
    /// What a peer's word means, where it means that the request reached no application.
    #[must_use]
    pub fn never_reached(word: &[u8]) -> Option<Self> {
        Self::of_peer(word).filter(|r| r.reached_nobody())
    }
    /// What a peer's word means, where it means that the request got no answer of an application: that it reached none,
    /// or that one ended it.
    #[must_use]
    pub fn of_peer(word: &[u8]) -> Option<Self> {
        let known = [Self::UpstreamConnect, Self::NoEndpoints, Self::UpstreamReset];
        known.into_iter().find(|r| r.as_str().as_bytes() == word)
    }
    /// Whether the request certainly reached no application.
    #[must_use]
    pub const fn reached_nobody(self) -> bool {
        matches!(self, Self::UpstreamConnect | Self::NoEndpoints)
    }
}

/// What is known about the connection between the two ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Security {
    /// Both ends showed their certificates. Both reporters say so, as in Istio's ambient mode: ours verifies its peer.
    MutualTls,
    /// Plaintext.
    None,
    /// There was no connection.
    Unknown,
}

impl Security {
    /// Of a connection.
    #[must_use]
    pub const fn of(is_tls: bool) -> Self {
        if is_tls { Self::MutualTls } else { Self::None }
    }
    /// The value of `connection_security_policy`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MutualTls => "mutual_tls",
            Self::None => "none",
            Self::Unknown => UNKNOWN,
        }
    }
}

/// One end of an exchange.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Party {
    /// What the workload is called, by its cluster; by its service account, where that says nothing.
    pub metadata: Arc<WorkloadMetadata>,
    /// Its namespace; empty when unknown.
    pub namespace: Arc<str>,
    /// Its verified SPIFFE ID; empty when unknown.
    pub principal: Arc<str>,
    /// Its cluster; empty when unknown.
    pub cluster: Arc<str>,
}

impl Party {
    /// What a verified identity says, and its issuer of its workload; the cluster is the first label of its trust domain
    /// (`<cluster>.F`, D1).
    #[must_use]
    pub fn of(id: &SpiffeId, metadata: Option<WorkloadMetadata>) -> Self {
        let cluster = id.trust_domain.as_str().split('.').next().unwrap_or_default().into();
        let (namespace, account) = match &id.principal {
            Principal::Workload { namespace, service_account } => (namespace.as_str().into(), service_account.clone()),
            Principal::Agent { .. } | Principal::Federator { .. } => (Arc::from(""), Arc::from("")),
        };
        let metadata = metadata.map_or_else(|| called(&account), Arc::new);
        Self { metadata, namespace, principal: id.to_string().into(), cluster }
    }
    /// A workload of which no certificate is known.
    #[must_use]
    pub fn unattested(namespace: &str, service_account: &str) -> Self {
        Self { metadata: called(&service_account.into()), namespace: namespace.into(), ..Self::default() }
    }
}

/// A workload that is called by its service account.
fn called(account: &Arc<str>) -> Arc<WorkloadMetadata> {
    let (workload, service) = (Arc::clone(account), Arc::clone(account));
    Arc::new(WorkloadMetadata { workload, service, ..WorkloadMetadata::default() })
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
    /// What is known about the connection between the two.
    pub security: Security,
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
        let (from, to) = (&*self.source.metadata, &*self.destination.metadata);
        for (key, value) in [
            ("reporter", self.reporter.as_str()),
            ("source_workload", &from.workload),
            ("source_workload_namespace", &self.source.namespace),
            ("source_canonical_service", &from.service),
            ("source_principal", &self.source.principal),
            ("source_cluster", &self.source.cluster),
            ("source_app", &from.app),
            ("source_version", &from.version),
            ("source_canonical_revision", &from.revision),
            ("destination_workload", &to.workload),
            ("destination_workload_namespace", &self.destination.namespace),
            ("destination_canonical_service", &to.service),
            ("destination_principal", &self.destination.principal),
            ("destination_cluster", &self.destination.cluster),
            ("destination_app", &to.app),
            ("destination_version", &to.version),
            ("destination_canonical_revision", &to.revision),
            ("destination_service", &self.service),
            ("destination_service_name", name),
            ("destination_service_namespace", namespace),
            ("request_protocol", self.protocol),
            ("connection_security_policy", self.security.as_str()),
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
