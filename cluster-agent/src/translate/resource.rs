//! Pure. Encoded xDS resources: one body, encoded once, shared by every stream that is sent it.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use bytes::Bytes;
pub use meshfed_api::xds::Kind;

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
        let hash = hash_of(&body);
        Self::with_hash(kind, name, body, hash)
    }
    /// Takes an encoded message; `hash` is of everything in it but the name.
    #[must_use]
    pub fn with_hash(kind: Kind, name: &str, body: Bytes, hash: u64) -> Arc<Self> {
        let version = format!("{hash:016x}");
        Arc::new(Self { kind, name: name.into(), version: version.into(), body })
    }
}

/// SipHash with fixed keys: the same bytes give the same version in every process of this build.
#[must_use]
pub(super) fn hash_of(body: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    body.hash(&mut hasher);
    hasher.finish()
}
