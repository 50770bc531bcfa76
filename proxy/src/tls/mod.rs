//! Edge. Streams of the data path: plain TCP, or mTLS whose peer is verified against the bundle of its own trust domain.

mod stream;

use std::time::Duration;

use meshfed_model::identity::SpiffeId;
use meshfed_runtime::tls::SvidError;
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use crate::state::{ServerTls, TlsTransport};

pub use stream::Stream;

/// How long a handshake may take (L7-7).
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Why there is no verified connection.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The peer's identity was refused: foreign, forged, expired, or not the one expected.
    #[error("the peer's identity was refused")]
    Refused(#[source] SvidError),
    /// The handshake failed otherwise: the peer refused us, no common protocol, or no TLS at all.
    #[error("TLS handshake failed")]
    Handshake(#[source] std::io::Error),
    /// The handshake took longer than [`HANDSHAKE_TIMEOUT`].
    #[error("TLS handshake took longer than 5 s")]
    Timeout,
    /// The peer showed no identity that was verified.
    #[error("the peer has no verified SPIFFE ID")]
    NoIdentity,
}

impl TlsError {
    /// The word for metrics.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Refused(why) => why.as_str(),
            Self::Handshake(_) => "handshake",
            Self::Timeout => "timeout",
            Self::NoIdentity => "no_identity",
        }
    }
}

fn failed(error: std::io::Error) -> TlsError {
    match meshfed_runtime::tls::refusal(&error) {
        Some(why) => TlsError::Refused(why.clone()),
        None => TlsError::Handshake(error),
    }
}

/// Makes a connection an mTLS client's: our SNI and ALPN, and one of the expected identities at the other end.
///
/// # Errors
/// [`TlsError`]; the connection is gone.
pub async fn connect(tcp: TcpStream, transport: &TlsTransport) -> Result<client::TlsStream<TcpStream>, TlsError> {
    let connector = TlsConnector::from(transport.config().clone());
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, connector.connect(transport.sni.clone(), tcp)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(e)) => Err(failed(e)),
        Err(_elapsed) => Err(TlsError::Timeout),
    }
}

/// Takes an mTLS connection and says who is at the other end.
///
/// # Errors
/// [`TlsError`]; the peer got the fitting alert and the connection is gone.
pub async fn accept(tcp: TcpStream, tls: &ServerTls) -> Result<(server::TlsStream<TcpStream>, SpiffeId), TlsError> {
    let acceptor = TlsAcceptor::from(tls.config.clone());
    let stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(tcp)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(e)) => return Err(failed(e)),
        Err(_elapsed) => return Err(TlsError::Timeout),
    };
    let peer = meshfed_runtime::tls::peer_verified(stream.get_ref().1).ok_or(TlsError::NoIdentity)?;
    Ok((stream, peer))
}
