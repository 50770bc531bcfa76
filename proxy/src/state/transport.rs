//! Pure. How a peer is spoken to: plaintext, or mTLS with the identities that are expected.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use meshfed_model::identity::SpiffeId;
use meshfed_runtime::tls::{IdentityStore, TrustStore};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;

/// How an endpoint is spoken to.
#[derive(Debug)]
pub enum Transport {
    /// No TLS: the application itself, or a workload without sidecar.
    Plaintext,
    /// mTLS to the workload (perhaps through a gateway).
    Tls(TlsTransport),
}

/// mTLS towards one service in one cluster.
pub struct TlsTransport {
    /// The server name that is sent.
    pub sni: ServerName<'static>,
    /// Offered protocols; empty on TCP ports.
    pub alpn: Vec<Vec<u8>>,
    /// The identities of which the peer must have one.
    pub identities: Arc<BTreeSet<SpiffeId>>,
    /// Our identity.
    pub identity: Arc<IdentityStore>,
    /// The bundles.
    pub trust: Arc<TrustStore>,
    config: Arc<ClientConfig>,
}

impl TlsTransport {
    /// A transport towards peers that have one of `identities`.
    ///
    /// # Errors
    /// When the crypto provider has no TLS 1.3.
    pub fn new(
        sni: ServerName<'static>,
        alpn: Vec<Vec<u8>>,
        identities: Arc<BTreeSet<SpiffeId>>,
        identity: Arc<IdentityStore>,
        trust: Arc<TrustStore>,
    ) -> Result<Self, rustls::Error> {
        let expected = Arc::clone(&identities);
        let policy = Arc::new(move |id: &SpiffeId| expected.contains(id));
        let protocols: Vec<&[u8]> = alpn.iter().map(Vec::as_slice).collect();
        let config =
            meshfed_runtime::tls::client_config(Some(Arc::clone(&identity)), Arc::clone(&trust), policy, &protocols)?;
        Ok(Self { sni, alpn, identities, identity, trust, config })
    }
    /// The TLS configuration. Our certificate and the bundles are read from their stores at each handshake, so it stays
    /// good over renewals.
    #[must_use]
    pub const fn config(&self) -> &Arc<ClientConfig> {
        &self.config
    }
    /// Whether a connection of `other` may be used in the place of one of ours.
    #[must_use]
    pub fn same_as(&self, other: &Self) -> bool {
        self.sni == other.sni
            && self.alpn == other.alpn
            && self.identities == other.identities
            && Arc::ptr_eq(&self.identity, &other.identity)
            && Arc::ptr_eq(&self.trust, &other.trust)
    }
}

impl Transport {
    /// Whether a connection of `other` may be used in the place of one of ours.
    #[must_use]
    pub fn same_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Plaintext, Self::Plaintext) => true,
            (Self::Tls(a), Self::Tls(b)) => a.same_as(b),
            (Self::Plaintext, Self::Tls(_)) | (Self::Tls(_), Self::Plaintext) => false,
        }
    }
    /// Whether it is mTLS.
    #[must_use]
    pub const fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_))
    }
}

impl fmt::Debug for TlsTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsTransport")
            .field("sni", &self.sni)
            .field("identities", &self.identities)
            .finish_non_exhaustive()
    }
}

/// mTLS as a listener terminates it: a client certificate is required.
#[derive(Clone)]
pub struct ServerTls {
    /// The TLS configuration; certificate and bundles are read from their stores at each handshake.
    pub config: Arc<rustls::ServerConfig>,
    /// The bundles that this port accepts.
    pub trust: Arc<TrustStore>,
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls").finish_non_exhaustive()
    }
}
