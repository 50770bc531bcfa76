//! Edge. Captured connections to a port that does not say what it speaks: HTTP/1 is served by request, however late it comes,
//! everything else as bytes.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

use super::detect::{Begins, Inbound};
use super::early::{Again, Settled, Taken, certain, until_certain};
use super::guarded::{Forged, Guarded, refuse};
use crate::forward::Core;
use crate::inbound::{Verified, Way, serve_plain, serve_verified};
use crate::state::{CapturedPort, Listener, ListenerKind, Unsaid};
use crate::tcp;

/// How long the first bytes of a mesh client are waited for before its application is dialled: what the client's proxy has
/// of them follows its handshake at once. What comes later is looked at all the same.
const EAGER: Duration = Duration::from_millis(50);

/// Requests of a client that is no mesh peer.
pub(super) async fn plain(core: Rc<Core>, stream: TcpStream, peer: SocketAddr, port: &CapturedPort, meant: SocketAddr) {
    let Some(unsaid) = &port.unsaid else { return };
    let way = Way { routes: &unsaid.routes, services: &port.services, meant: Some(meant) };
    serve_plain(core, stream, peer, way).await;
}

/// Serves a connection of a mesh client to its end: what it speaks is looked for within its TLS. What it says that it speaks
/// (ALPN) is not asked: a peer could say anything.
pub(super) async fn mesh(
    core: Rc<Core>,
    client: TcpStream,
    peer: SocketAddr,
    listener: &Listener,
    unsaid: &Unsaid,
    meant: SocketAddr,
) {
    let ListenerKind::InboundTcp { services, .. } = &listener.kind else { return };
    let Some((stream, admitted)) = tcp::admit(&core, client, peer, listener).await else { return };
    let way = Way { routes: &unsaid.routes, services, meant: Some(meant) };
    let (mut client, mut inbound, mut passed) = (Taken::new(stream), Inbound::within(), 0);
    let mut told = timeout(EAGER, certain(&mut client, &mut inbound)).await.ok().flatten();
    let mut upstream = None;
    if told != Some(Begins::Http) {
        let Some(reached) = admitted.reach(&core, listener, peer.ip(), Some(meant)).await else { return };
        let reached = upstream.insert(reached);
        if told.is_none() {
            let until = Box::pin(until_certain(&mut client, reached, &mut inbound));
            match admitted.while_trusted(&core, until).await {
                // A server that spoke first is none of HTTP.
                Some(Ok(Settled { begins: Some(Begins::Http), server_spoke: true, .. })) => told = Some(Begins::Plain),
                Some(Ok(settled)) => (told, passed) = (settled.begins, settled.passed),
                Some(Err(error)) if Forged::is(&error) => return refuse(&core, peer, meant),
                Some(Err(error)) => return tracing::debug!(%peer, %error, "raw TCP ended by an error"),
                None => return,
            }
        }
    }
    match (told, upstream) {
        (Some(Begins::Http), _) => {
            let Taken { stream, bytes } = client;
            serve_verified(core, peer, Verified { stream, guest: admitted.guest, begun: bytes }, way).await;
        }
        (Some(_), Some(mut upstream)) => {
            let mut client = Guarded::new(Again::new(client, passed), inbound.into_fields());
            admitted.carry(&core, &mut client, &mut upstream).await;
            client.tell(&core, peer, meant);
        }
        (Some(_) | None, _) => {}
    }
}
