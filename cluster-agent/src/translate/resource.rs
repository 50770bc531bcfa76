//! Pure. Encoded xDS resources: one body, encoded once, shared by every stream that is sent it.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use bytes::Bytes;

/// The resource types that the agent serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// SDS: certificates and validation contexts.
    Secret,
    /// CDS.
    Cluster,
    /// EDS.
    Endpoint,
    /// LDS.
    Listener,
    /// RDS.
    Route,
}

impl Kind {
    /// All kinds, in the order in which additions are sent (make before break).
    pub const ALL: [Self; 5] = [Self::Secret, Self::Cluster, Self::Endpoint, Self::Listener, Self::Route];

    /// Envoy's type URL.
    #[must_use]
    pub const fn type_url(self) -> &'static str {
        match self {
            Self::Secret => "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
            Self::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::Endpoint => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::Route => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        }
    }
    /// The kind of a type URL; unknown ones are ignored by the server.
    #[must_use]
    pub fn of_type_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|k| k.type_url() == url)
    }
    /// A stable word for metrics and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Secret => "sds",
            Self::Cluster => "cds",
            Self::Endpoint => "eds",
            Self::Listener => "lds",
            Self::Route => "rds",
        }
    }
    /// Whether a client may subscribe to all resources of this kind; in state-of-the-world, responses of such a kind
    /// hold everything.
    #[must_use]
    pub const fn has_wildcard(self) -> bool {
        matches!(self, Self::Cluster | Self::Listener)
    }
}

/// One encoded resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: Arc<str>,
    /// A hash of the body: equal bodies have equal versions, also after a restart of the agent.
    pub version: Arc<str>,
    /// The encoded message, without the `Any` around it.
    pub body: Bytes,
}

impl Resource {
    /// Encodes a message.
    #[must_use]
    pub fn encode(kind: Kind, name: &str, message: &impl prost::Message) -> Arc<Self> {
        Self::of_bytes(kind, name, Bytes::from(message.encode_to_vec()))
    }
    /// Takes an encoded message.
    #[must_use]
    pub fn of_bytes(kind: Kind, name: &str, body: Bytes) -> Arc<Self> {
        // SipHash with fixed keys: the same bytes give the same version in every process of this build.
        let mut hasher = DefaultHasher::new();
        body.hash(&mut hasher);
        let version = format!("{:016x}", hasher.finish());
        Arc::new(Self { kind, name: name.into(), version: version.into(), body })
    }
}
