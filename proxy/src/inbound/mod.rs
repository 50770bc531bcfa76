//! Edge. HTTP of peers on its way in (port P of the workload): mTLS always, identity headers from the handshake only.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use meshfed_model::identity::SpiffeId;
use meshfed_runtime::tls::peer_described;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use crate::forward::{Core, Guest, Side, serve as serve_http};
use crate::state::{Listener, ListenerKind, RouteCell, name_parts};
use crate::telemetry::{Parties, Party, Reporter, Security};
use crate::tls::{self, Stream};

/// Serves a connection of a peer to its end.
pub async fn serve(core: Rc<Core>, tcp: TcpStream, peer: SocketAddr, listener: Arc<Listener>) {
    let ListenerKind::InboundHttp { tls: terminated, routes, services, .. } = &listener.kind else { return };
    let (stream, id) = match tls::accept(tcp, terminated).await {
        Ok(accepted) => accepted,
        Err(error) => {
            tracing::debug!(%peer, listener = %listener.name, error = %meshfed_runtime::telemetry::chain_of(&error), "peer refused");
            core.telemetry.handshake_failed("inbound", error.as_str());
            return;
        }
    };
    let guest = Guest::new(id, Arc::clone(&terminated.trust));
    let way = Way { routes, services, meant: None };
    serve_verified(core, peer, Verified { stream, guest, begun: Vec::new() }, way).await;
}

/// Where the requests of a connection go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Way<'a> {
    /// The route configuration.
    pub(crate) routes: &'a Arc<RouteCell>,
    /// The hosts of the services that hold the workload and port.
    pub(crate) services: &'a [Arc<str>],
    /// The address that the client dialled, where that decides.
    pub(crate) meant: Option<SocketAddr>,
}

/// A connection of a peer whose identity is known.
#[derive(Debug)]
pub(crate) struct Verified {
    /// The connection.
    pub(crate) stream: TlsStream<TcpStream>,
    /// Who it is.
    pub(crate) guest: Guest,
    /// What was read of it already.
    pub(crate) begun: Vec<u8>,
}

/// Serves the requests of a peer to the end of its connection.
pub(crate) async fn serve_verified(core: Rc<Core>, peer: SocketAddr, verified: Verified, way: Way<'_>) {
    let Verified { stream, guest, begun } = verified;
    core.watch_port(guest.port());
    let own = core.own_party();
    let add = forwarded_client_cert(&own.principal, guest.id(), &stream);
    let parties = Parties {
        reporter: Reporter::Destination,
        source: Party::of(guest.id(), peer_described(stream.get_ref().1)),
        destination: own,
        service: service(way.services, stream.get_ref().1.server_name()),
        protocol: "http",
        security: Security::MutualTls,
    };
    let side = Side {
        reporter: Reporter::Destination,
        routes: Arc::clone(way.routes),
        client: peer,
        meant: way.meant,
        strip_forwarded: false,
        add,
        series: core.series(parties),
        guest: Some(guest),
        begun,
    };
    serve_http(core, Stream::Server(Box::new(stream)), side).await;
}

/// Serves a connection that is no mTLS to its end, where the port takes such: nobody's identity, and nothing believed that a
/// header says of one.
pub(crate) async fn serve_plain(core: Rc<Core>, tcp: TcpStream, peer: SocketAddr, way: Way<'_>) {
    let parties = Parties {
        reporter: Reporter::Destination,
        source: Party::default(),
        destination: core.own_party(),
        service: service(way.services, None),
        protocol: "http",
        security: Security::of(false),
    };
    let side = Side {
        reporter: Reporter::Destination,
        routes: Arc::clone(way.routes),
        client: peer,
        meant: way.meant,
        strip_forwarded: true,
        add: Vec::new(),
        series: core.series(parties),
        guest: None,
        begun: Vec::new(),
    };
    serve_http(core, Stream::Plain(tcp), side).await;
}

/// The service that a peer means: the one in its server name, where that is one of the port's own; else the port's first.
/// A label is never what only a peer says (L7-17).
pub(crate) fn service(services: &[Arc<str>], server_name: Option<&str>) -> Arc<str> {
    let named = server_name.map(|sni| name_parts(sni).1);
    let found = services.iter().find(|s| named == Some(s.as_ref())).or_else(|| services.first());
    found.cloned().unwrap_or_default()
}

/// `x-forwarded-client-cert` in Envoy's form, as a complete header line. SPIFFE IDs hold no character to escape.
fn forwarded_client_cert(own: &str, id: &SpiffeId, stream: &TlsStream<TcpStream>) -> Vec<u8> {
    let leaf = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let hash: String =
        leaf.map(|der| digest(&SHA256, der).as_ref().iter().map(|b| format!("{b:02x}")).collect()).unwrap_or_default();
    format!("x-forwarded-client-cert: By={own};Hash={hash};URI={id}\r\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mutation seen to fail: `or_else(|| services.first())` replaced by the peer's own word.
    #[test]
    fn a_service_is_one_of_the_ports_own() {
        let own: Vec<Arc<str>> =
            ["b.shop.svc.cluster.local", "b.shop.svc.clusterset.local", "c.shop.svc.cluster.local"]
                .map(Arc::from)
                .into();
        for (sni, expected) in [
            (Some("outbound_.8080_._.b.shop.svc.clusterset.local"), 1),
            (Some("outbound_.8080_._.c.shop.svc.cluster.local"), 2),
            (Some("outbound_.8080_._.evil.shop.svc.cluster.local"), 0),
            (Some("c.shop.svc.cluster.local"), 0),
            (None, 0),
        ] {
            assert_eq!(service(&own, sni), own[expected], "{sni:?}");
        }
        assert_eq!(service(&[], Some("outbound_.80_._.b.shop.svc.cluster.local")).as_ref(), "");
    }
}
