//! Edge. Mutual TLS by SPIFFE ID: a peer is verified only against the anchors of its own trust domain, and then
//! asked about by a [`PeerPolicy`]. Names, addresses and common names never count. TLS 1.3 only, no resumption.

use std::sync::Arc;

use meshfed_model::identity::SpiffeId;
use meshfed_model::metadata::WorkloadMetadata;
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::server::NoServerSessionStorage;
use rustls::{ClientConfig, CommonState, ServerConfig};

mod described;
mod signature;
mod store;
mod svid;
mod verifier;

#[cfg(test)]
pub(crate) mod tests;

pub use described::{EXTENSION as DESCRIPTION_EXTENSION, described, description};
pub use signature::{is_self_signed, is_signed_by};
pub use store::{Identity, IdentityError, IdentityStore, InvalidAnchor, TrustSnapshot, TrustStore};
pub use svid::{CHAIN_BYTES_MAX, CHAIN_CERTS_MAX, Role, SvidError, anchor_trust_domain, peer_spiffe_id, verify_svid};
pub use verifier::{ClientAuth, SpiffeVerifier, refusal};
pub(crate) use verifier::{tls12_refused, to_rustls};

/// Decides whether a verified identity may speak here.
pub trait PeerPolicy: Send + Sync {
    /// Whether `id` is accepted.
    fn accepts(&self, id: &SpiffeId) -> bool;
}

impl<F: Fn(&SpiffeId) -> bool + Send + Sync> PeerPolicy for F {
    fn accepts(&self, id: &SpiffeId) -> bool {
        self(id)
    }
}

/// The one crypto provider.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    CryptoProvider::get_default().map_or_else(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()), Arc::clone)
}

/// Makes this thread's random generator ready: seeding one takes some 40 ms, which the first handshake of a thread would
/// wait for otherwise.
pub fn warm_up() {
    let mut drawn = [0u8; 1];
    // Without random numbers handshakes fail, and say why.
    let _failed_later = provider().secure_random.fill(&mut drawn);
}

/// Installs aws-lc-rs as the provider of the process; first thing in `main` and in tests. Repeating it is harmless.
pub fn install_provider() {
    // An Err only says that it is installed already.
    let _installed_already = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

/// A server configuration for meshfed peers: TLS 1.3, no tickets, the peer's SVID verified as `client_auth` says.
/// The chain that is sent is that of `identity`.
///
/// # Errors
/// When the provider does not support TLS 1.3.
pub fn server_config(
    identity: Arc<IdentityStore>,
    trust: Arc<TrustStore>,
    policy: Arc<dyn PeerPolicy>,
    client_auth: ClientAuth,
    alpn: &[&[u8]],
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let verifier = Arc::new(SpiffeVerifier::new(trust, policy).with_client_auth(client_auth));
    let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[&rustls::version::TLS13])?;
    let mut config = match client_auth {
        ClientAuth::None => builder.with_no_client_auth(),
        ClientAuth::Optional | ClientAuth::Required => builder.with_client_cert_verifier(verifier),
    }
    .with_cert_resolver(identity);
    // A resumed session would outlive the trust that it was verified under (CA7).
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    Ok(Arc::new(config))
}

/// A client configuration for meshfed peers: TLS 1.3, no resumption, the server's SVID verified against `policy`.
///
/// # Errors
/// When the provider does not support TLS 1.3.
pub fn client_config(
    identity: Option<Arc<IdentityStore>>,
    trust: Arc<TrustStore>,
    policy: Arc<dyn PeerPolicy>,
    alpn: &[&[u8]],
) -> Result<Arc<ClientConfig>, rustls::Error> {
    client_config_with(identity, Arc::new(SpiffeVerifier::new(trust, policy)), alpn)
}

/// As [`client_config`], with another verifier (join: [`crate::pin::PinnedFleetVerifier`]).
///
/// # Errors
/// When the provider does not support TLS 1.3.
pub fn client_config_with(
    identity: Option<Arc<IdentityStore>>,
    verifier: Arc<dyn rustls::client::danger::ServerCertVerifier>,
    alpn: &[&[u8]],
) -> Result<Arc<ClientConfig>, rustls::Error> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match identity {
        Some(identity) => builder.with_client_cert_resolver(identity),
        None => builder.with_no_client_auth(),
    };
    config.resumption = Resumption::disabled();
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    Ok(Arc::new(config))
}

/// The identity of the peer of a finished handshake made with this module's configurations.
#[must_use]
pub fn peer_verified(conn: &CommonState) -> Option<SpiffeId> {
    if conn.is_handshaking() {
        return None;
    }
    peer_spiffe_id(conn.peer_certificates()?.first()?).ok()
}

/// What the issuer of that peer's certificate says of its workload; nothing is known of a peer that is not verified.
#[must_use]
pub fn peer_described(conn: &CommonState) -> Option<WorkloadMetadata> {
    if conn.is_handshaking() {
        return None;
    }
    described(conn.peer_certificates()?.first()?)
}
