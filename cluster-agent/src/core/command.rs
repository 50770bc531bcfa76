//! Pure. What the core is told by streams, and what it wants done.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use meshfed_model::names::{ClusterName, Namespace, ServiceName};
use meshfed_model::offer::{OfferKey, OfferValue};

use crate::translate::Kind;
use crate::workload::Word;
use crate::xds::stream::Response;

use super::store::StreamId;

/// Why a stream ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The peer may not speak for the workload.
    Denied(String),
    /// The claim cannot be resolved as it is.
    Unresolvable(String),
    /// The workload is gone; a new stream waits for it.
    Gone(String),
    /// A limit was passed.
    Limit(String),
    /// No identity could be issued.
    Internal(String),
}

/// What a stream is to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outbound {
    /// A response.
    Response(Response),
    /// The end.
    End(End),
}

/// Everything that an input led to, in the order in which it is to be done within each list.
#[derive(Debug, Default)]
pub struct Effects {
    /// To streams.
    pub outbound: Vec<(StreamId, Outbound)>,
    /// To streams of the Workload API, which are numbered by themselves.
    pub words: Vec<(StreamId, Word)>,
    /// All that is offered of these services now.
    pub offers: BTreeMap<ServiceName, BTreeMap<OfferKey, OfferValue>>,
    /// All gateways that are offered.
    pub gateways: Option<BTreeMap<OfferKey, OfferValue>>,
    /// Everything has been named once.
    pub complete: bool,
    /// The namespaces that this cluster wants to see services of.
    pub interest: Option<BTreeSet<Namespace>>,
    /// The host names that are to be resolved.
    pub hosts: Option<BTreeSet<Arc<str>>>,
    /// The status should be reported: proxies lag or have caught up, or what is waited for may have changed.
    pub report: bool,
    /// The rows of what is waited for may have changed, too.
    pub rows: bool,
    /// The view moved for these origins: acknowledge, after the report.
    pub acks: BTreeSet<ClusterName>,
    /// The view refused a change.
    pub resync: bool,
    /// Responses sent, per kind.
    pub pushes: BTreeMap<Kind, u64>,
    /// Refusals, per kind, with stream, names and reason for the log.
    pub nacks: Vec<(Kind, String)>,
    /// Bytes encoded, per kind.
    pub encoded: BTreeMap<Kind, u64>,
    /// Services whose part in everybody's routes was encoded.
    pub routes_encoded: u64,
    /// SVIDs issued.
    pub issued: u64,
    /// Names of which the mirror may have to show something else.
    pub mirrored: BTreeSet<ServiceName>,
    /// What imports are called may have changed.
    pub names: bool,
    /// The numbers of imports' own addresses changed: they are kept before anybody is told of them.
    pub imports: Option<super::Numbers>,
    /// What is kept of proxies over a restart changed: which are ready, or which process is which.
    pub kept_changed: bool,
}
