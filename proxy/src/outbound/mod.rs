//! Edge. HTTP of the application on its way out (port 15001): by authority, from this host only.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::rc::Rc;
use std::sync::Arc;

use tokio::net::TcpStream;

use crate::forward::{Core, Side, serve as serve_http};
use crate::state::{Listener, ListenerKind};
use crate::telemetry::{Parties, Party, Reporter, Security};
use crate::tls::Stream;

/// Serves a connection of the application to its end. Others than this host are closed and counted: they would speak
/// with the workload's identity.
pub async fn serve(core: Rc<Core>, tcp: TcpStream, peer: SocketAddr, listener: Arc<Listener>) {
    let (ListenerKind::OutboundHttp { routes } | ListenerKind::OutboundAny { routes, .. }) = &listener.kind else {
        return;
    };
    if !is_this_host(peer.ip(), &tcp) {
        core.telemetry.denied("outbound", "foreign_host");
        return;
    }
    let parties = Parties {
        reporter: Reporter::Source,
        source: core.own_party(),
        destination: Party::default(),
        service: "".into(),
        protocol: "http",
        security: Security::Unknown,
    };
    let side = Side {
        reporter: Reporter::Source,
        routes: Arc::clone(routes),
        client: peer,
        meant: None,
        strip_forwarded: false,
        add: Vec::new(),
        series: core.series(parties),
        guest: None,
        begun: Vec::new(),
    };
    serve_http(core, Stream::Plain(tcp), side).await;
}

/// Whether a connection comes from this host: loopback, the address that it was accepted on, or any address that this
/// host owns (only an own address can be bound).
#[must_use]
pub fn is_this_host(peer: IpAddr, tcp: &TcpStream) -> bool {
    let peer = peer.to_canonical();
    tcp.local_addr().is_ok_and(|local| local.ip().to_canonical() == peer) || is_own_address(peer)
}

fn is_own_address(address: IpAddr) -> bool {
    address.is_loopback() || UdpSocket::bind((address, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mutation seen to fail: `is_own_address` always true.
    #[test]
    fn only_own_addresses_are_this_host() {
        assert!(is_own_address("127.3.4.5".parse().unwrap()));
        assert!(is_own_address("::1".parse().unwrap()));
        // Documentation ranges are nobody's.
        assert!(!is_own_address("192.0.2.1".parse().unwrap()));
        assert!(!is_own_address("2001:db8::1".parse().unwrap()));
    }
}
