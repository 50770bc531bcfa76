//! Edge. Reaches an endpoint of a route and hands it the ClientHello.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd as _;
use std::sync::Arc;

use rustix::io::Errno;
use rustix::net::SendFlags;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::forward::Core;
use crate::state::{Cluster, Endpoint, SniRoute};

/// Endpoints that are tried for one connection.
const ATTEMPTS_MAX: usize = 3;

/// Why no endpoint could be reached.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    #[error("the service has no usable endpoint here")]
    NoEndpoints,
    #[error("{attempts} endpoints were tried, the last was {last}: {cause}")]
    Connect { attempts: usize, last: SocketAddr, cause: io::Error },
}

impl DialError {
    pub(super) const fn as_str(&self) -> &'static str {
        match self {
            Self::NoEndpoints => "no_endpoints",
            Self::Connect { .. } => "connect",
        }
    }
}

/// Connects to an endpoint, to another one where that fails, and sends the ClientHello.
pub(super) async fn dial(core: &Core, route: &SniRoute, client: IpAddr, hello: &[u8]) -> Result<TcpStream, DialError> {
    let mut tried: Vec<SocketAddr> = Vec::new();
    let mut failed: Option<(SocketAddr, io::Error)> = None;
    while tried.len() < ATTEMPTS_MAX {
        // Looked up anew for each attempt: the endpoints may have changed meanwhile.
        let Some(cluster) = route.cluster.get() else { break };
        let Some(endpoint) = core.pick(&cluster, client, &tried) else { break };
        match connect(&cluster, &endpoint, hello).await {
            Ok(stream) => return Ok(stream),
            Err(error) => {
                tracing::debug!(sni = %route.sni, endpoint = %endpoint.address, %error, "gateway: connect failed");
                core.mark_failing(&endpoint);
                failed = Some((endpoint.address, error));
                tried.push(endpoint.address);
            }
        }
    }
    Err(failed.map_or(DialError::NoEndpoints, |(last, cause)| DialError::Connect {
        attempts: tried.len(),
        last,
        cause,
    }))
}

async fn connect(cluster: &Cluster, endpoint: &Arc<Endpoint>, hello: &[u8]) -> io::Result<TcpStream> {
    let mut stream = begin(endpoint.address, &cluster.source)?;
    // On a short way the connection stands already, and one turn of the event loop is saved.
    let mut sent = match rustix::net::send(stream.as_fd(), hello, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
        Ok(count) => count,
        Err(Errno::AGAIN | Errno::INTR | Errno::INPROGRESS) => 0,
        Err(error) => return Err(error.into()),
    };
    if sent == 0 {
        tokio::time::timeout(cluster.connect_timeout, stream.writable()).await??;
        if let Some(error) = stream.take_error()? {
            return Err(error);
        }
        sent = match rustix::net::send(stream.as_fd(), hello, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(count) => count,
            Err(Errno::AGAIN | Errno::INTR) => 0,
            Err(error) => return Err(error.into()),
        };
    }
    if let Some(rest) = hello.get(sent..).filter(|r| !r.is_empty()) {
        tokio::time::timeout(cluster.connect_timeout, stream.write_all(rest)).await??;
    }
    Ok(stream)
}

/// Begins a connect without waiting for it.
fn begin(address: SocketAddr, sources: &[IpAddr]) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    if let Some(&source) = sources.iter().find(|s| s.is_ipv4() == address.is_ipv4()) {
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    // The hello follows at once and carries the acknowledgement that ends the handshake: one packet less. Best effort.
    let _as_before = socket.set_tcp_quickack(false);
    match socket.connect(&address.into()) {
        Ok(()) => {}
        Err(e) if e.raw_os_error() == Some(Errno::INPROGRESS.raw_os_error()) => {}
        Err(e) => return Err(e),
    }
    TcpStream::from_std(socket.into())
}
