//! Edge. New connections.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpSocket, TcpStream};

use crate::state::{Cluster, Endpoint, Transport};
use crate::tls::{self, Stream, TlsError};

/// Silence after which a host is asked whether it is still there.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
/// Between the questions; after three without answer the connection is broken.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// How long a host may acknowledge nothing of what it was sent, before a connection that carries requests is broken: the
/// questions above are not asked while something is on its way, and the system itself tries for a quarter of an hour. Then
/// a request that may be repeated goes elsewhere. Raw TCP is left alone: there a host that takes nothing for a while
/// (which looks the same here) may be one that waits.
const UNHEARD: Duration = Duration::from_secs(15);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No TCP connection.
    #[error("no connection to {address}")]
    Tcp {
        /// Where to.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// No TCP connection in time.
    #[error("no connection to {address} within {limit:?}")]
    Timeout {
        /// Where to.
        address: SocketAddr,
        /// The cluster's connect timeout, or what was left of the request's.
        limit: Duration,
    },
    /// A connection, but not to whom we expect.
    #[error("no mTLS with {address}")]
    Tls {
        /// Where to.
        address: SocketAddr,
        /// What went wrong.
        #[source]
        source: TlsError,
    },
}

/// Connects to an endpoint the way its transport says, within `limit` and the cluster's connect timeout.
///
/// # Errors
/// [`ConnectError`].
pub async fn connect(cluster: &Cluster, endpoint: &Endpoint, limit: Duration) -> Result<Stream, ConnectError> {
    let address = endpoint.address;
    let limit = limit.min(cluster.connect_timeout);
    let tcp = match tokio::time::timeout(limit, dial(address, &cluster.source)).await {
        Ok(Ok(tcp)) => tcp,
        Ok(Err(source)) => return Err(ConnectError::Tcp { address, source }),
        Err(_elapsed) => return Err(ConnectError::Timeout { address, limit }),
    };
    match endpoint.transport.as_ref() {
        Transport::Plaintext => Ok(Stream::Plain(tcp)),
        Transport::Tls(transport) => match tls::connect(tcp, transport).await {
            Ok(stream) => Ok(Stream::Client(Box::new(stream))),
            Err(source) => Err(ConnectError::Tls { address, source }),
        },
    }
}

/// Breaks a connection of requests whose other end is gone without a word.
pub fn end_when_unheard(stream: &Stream) {
    if let Err(error) = SockRef::from(stream.tcp()).set_tcp_user_timeout(Some(UNHEARD)) {
        tracing::debug!(%error, "a connection has no limit for a silent host");
    }
}

async fn dial(address: SocketAddr, sources: &[IpAddr]) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(&source) = sources.iter().find(|s| s.is_ipv4() == address.is_ipv4()) {
        // Ports of connections that just ended may be taken again: the remote end tells them apart.
        socket.set_reuseaddr(true)?;
        socket.bind(SocketAddr::new(source, 0))?;
    }
    let tcp = socket.connect(address).await?;
    tcp.set_nodelay(true)?;
    // An answer may take as long as the route allows, so a host that is gone must be noticed by itself.
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL).with_retries(3);
    SockRef::from(&tcp).set_tcp_keepalive(&keepalive)?;
    Ok(tcp)
}
