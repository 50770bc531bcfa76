//! Edge. Dialling: a tonic channel over our own rustls connector, or over a Unix socket.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint, Uri};

use super::{HANDSHAKE_DEADLINE, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT, accept::set_options};

/// Time for one TCP connect.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// Bytes of a stream's receive window: a first view is large, and one stream carries it.
const STREAM_WINDOW: u32 = 1024 * 1024;
/// Bytes of a connection's receive window.
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// Decoded bytes of a header list.
const HEADER_LIST: u32 = 16 * 1024;

/// Why a peer could not be reached.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The target is not `HOST:PORT`.
    #[error("'{target}' is not HOST:PORT")]
    Target {
        /// The target as given.
        target: String,
    },
    /// TCP, TLS or HTTP/2 did not come about; `cause` says all of it.
    #[error("cannot connect to {target}: {cause}")]
    Failed {
        /// The target.
        target: String,
        /// The whole chain of causes.
        cause: String,
        /// Set when our own verifier refused the server.
        refused: Option<crate::tls::SvidError>,
    },
}

impl ConnectError {
    /// Why our verifier refused the server, if it did.
    #[must_use]
    pub fn refusal(&self) -> Option<&crate::tls::SvidError> {
        match self {
            Self::Target { .. } => None,
            Self::Failed { refused, .. } => refused.as_ref(),
        }
    }
}

/// `HOST:PORT`, with an optional `https://` before it, split.
fn split(target: &str) -> Option<(String, u16)> {
    let authority = target.strip_prefix("https://").unwrap_or(target).trim_end_matches('/');
    let (host, port) = authority.rsplit_once(':')?;
    let host = host.strip_prefix('[').map_or(Some(host), |h| h.strip_suffix(']'))?;
    Some((host.to_owned(), port.parse().ok()?)).filter(|(h, p)| !h.is_empty() && *p != 0)
}

async fn dial(host: String, port: u16, tls: Arc<ClientConfig>) -> io::Result<TokioIo<TlsStream<TcpStream>>> {
    // The name is only sent as SNI, where it is a name at all; the certificate is judged by its SPIFFE ID.
    let name = ServerName::try_from(host.clone()).map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
    let timed_out = |what: &str| io::Error::new(io::ErrorKind::TimedOut, format!("{what} timed out"));
    let stream = tokio::time::timeout(CONNECT_DEADLINE, TcpStream::connect((host.as_str(), port)))
        .await
        .map_err(|_elapsed| timed_out("TCP connect"))??;
    set_options(&stream);
    let stream = tokio::time::timeout(HANDSHAKE_DEADLINE, TlsConnector::from(tls).connect(name, stream))
        .await
        .map_err(|_elapsed| timed_out("TLS handshake"))??;
    Ok(TokioIo::new(stream))
}

fn endpoint(uri: &str) -> Result<Endpoint, tonic::transport::Error> {
    Ok(Endpoint::from_shared(uri.to_owned())?
        .connect_timeout(CONNECT_DEADLINE + HANDSHAKE_DEADLINE)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .http2_max_header_list_size(HEADER_LIST)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW))
}

fn failed(target: &str, error: &tonic::transport::Error) -> ConnectError {
    ConnectError::Failed {
        target: target.to_owned(),
        cause: crate::telemetry::chain(error),
        refused: crate::tls::refusal(error).cloned(),
    }
}

/// Connects to `HOST:PORT` (or `https://HOST:PORT`) over TLS. Fails at once when the peer refuses; later losses show
/// as errors of the calls, and the channel dials again with the next call.
///
/// # Errors
/// [`ConnectError`].
pub async fn connect(target: &str, tls: Arc<ClientConfig>) -> Result<Channel, ConnectError> {
    let (host, port) = split(target).ok_or_else(|| ConnectError::Target { target: target.to_owned() })?;
    let authority = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    // The scheme only keeps tonic from putting its own TLS on top of ours.
    let endpoint = endpoint(&format!("http://{authority}")).map_err(|e| failed(target, &e))?;
    let connector = tower::service_fn(move |_uri: Uri| dial(host.clone(), port, Arc::clone(&tls)));
    endpoint.connect_with_connector(connector).await.map_err(|e| failed(target, &e))
}

/// Connects to a Unix socket.
///
/// # Errors
/// [`ConnectError`].
pub async fn connect_unix(path: &Path) -> Result<Channel, ConnectError> {
    let target = path.display().to_string();
    let path: PathBuf = path.to_owned();
    let endpoint = endpoint("http://localhost").map_err(|e| failed(&target, &e))?;
    let connector = tower::service_fn(move |_uri: Uri| {
        let path = path.clone();
        async move { Ok::<_, io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
    });
    endpoint.connect_with_connector(connector).await.map_err(|e| failed(&target, &e))
}
