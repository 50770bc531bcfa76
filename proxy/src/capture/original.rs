//! Edge. Where a captured connection was meant to go.

use std::net::SocketAddr;

use tokio::net::TcpStream;

/// The destination before nftables' REDIRECT (`SO_ORIGINAL_DST`, and its like for IPv6). `None`: the connection was not
/// captured but made to the proxy itself, and to pass it on to its destination would be to dial ourselves.
#[must_use]
pub(super) fn destination(stream: &TcpStream) -> Option<SocketAddr> {
    let local = stream.local_addr().ok()?;
    let found = if local.is_ipv4() {
        rustix::net::sockopt::ip_original_dst(stream).ok().map(SocketAddr::V4)
    } else {
        rustix::net::sockopt::ipv6_original_dst(stream).ok().map(SocketAddr::V6)
    };
    // A connection that is tracked and not redirected has its own address.
    found.filter(|to| (to.ip(), to.port()) != (local.ip(), local.port())).map(|to| SocketAddr::new(to.ip(), to.port()))
}
