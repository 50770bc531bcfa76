//! Edge. Captured connections to the application: the port that the peer dialled decides, and what it begins with.
//!
//! A ClientHello of a mesh client is terminated in every mode, however late it comes: it is never handed to the application,
//! neither as plaintext nor as TLS of its own. So is HTTP on a port that does not say what it speaks: it is served by request,
//! with nothing believed that only a proxy may say.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::detect::{Begins, Inbound};
use super::early::{Settled, certain, until_certain};
use super::first::{Peek, unread};
use super::guarded::{Forged, Guarded, refuse};
use super::original::destination;
use super::unsaid;
use crate::forward::{Core, Standing};
use crate::inbound::Way;
use crate::passthrough::HELLO_DEADLINE;
use crate::passthrough::hello::BYTES_MAX;
use crate::state::{CapturedPort, Listener, ListenerKind, Plain};
use crate::telemetry::{Parties, Party, Reporter, Security};
use crate::{inbound, tcp};

/// How long a client's first bytes are waited for on a port where the server may speak first.
const PATIENCE: Duration = Duration::from_millis(200);
/// How long a connection to an HTTP port may be without request, as on any other one (L7-7).
const IDLE: Duration = Duration::from_secs(60);

/// Serves a captured connection to its end. A direct dial of the listener is closed.
pub async fn serve(core: Rc<Core>, stream: TcpStream, peer: SocketAddr, listener: Arc<Listener>) {
    let ListenerKind::CapturedInbound(captured) = &listener.kind else { return };
    let Some(meant) = destination(&stream) else {
        core.telemetry.denied("inbound", "not_captured");
        return;
    };
    let Some(port) = captured.ports.get(&meant.port()).or(captured.others.as_ref()) else {
        core.telemetry.denied("inbound", "undeclared_port");
        return;
    };
    let Some(plain) = &port.plain else { return mesh(core, stream, peer, port, meant).await };
    let patience = match &port.unsaid {
        Some(unsaid) => unsaid.patience,
        None if plain.routes.is_some() => IDLE,
        None => PATIENCE,
    };
    match timeout(patience, begins(&stream, port.unsaid.is_some())).await {
        Ok(Some(Begins::Mesh)) => mesh(core, stream, peer, port, meant).await,
        Ok(Some(Begins::Http)) => unsaid::plain(core, stream, peer, port, meant).await,
        Ok(Some(Begins::Plain)) if let Some(routes) = &plain.routes => {
            inbound::serve_plain(core, stream, peer, Way { routes, services: &port.services, meant: None }).await;
        }
        // Who ends a request before it has begun wants nothing.
        Ok(Some(Begins::End)) if plain.routes.is_some() => {}
        Ok(Some(Begins::Plain | Begins::Tls | Begins::End)) => raw(core, stream, peer, port, plain, meant).await,
        // Nothing that could be told apart from a mesh client: it is not passed on.
        Ok(None) => {}
        Err(_silent) if plain.routes.is_some() => {}
        Err(_silent) => {
            let Ok(stream) = unread(stream) else { return };
            raw(core, stream, peer, port, plain, meant).await;
        }
    }
}

/// What the connection begins with; `None`: its hello ended in the middle, or did not come to an end in time.
async fn begins(stream: &TcpStream, http: bool) -> Option<Begins> {
    let mut peek = Peek::new(stream, BYTES_MAX);
    let mut inbound = Inbound::outside(http);
    if !matches!(peek.more().await, Ok(true)) {
        return Some(Begins::End);
    }
    if let Some(begins) = inbound.judge(peek.bytes()) {
        return Some(begins);
    }
    // From the first byte on it has the time of any handshake.
    timeout(HELLO_DEADLINE, certain(&mut peek, &mut inbound)).await.ok().flatten()
}

async fn mesh(core: Rc<Core>, stream: TcpStream, peer: SocketAddr, port: &CapturedPort, meant: SocketAddr) {
    let listener = Arc::clone(&port.mesh);
    if let Some(unsaid) = &port.unsaid {
        // Its state is large, and few ports need it.
        Box::pin(unsaid::mesh(core, stream, peer, &listener, unsaid, meant)).await;
    } else if matches!(listener.kind, ListenerKind::InboundHttp { .. }) {
        inbound::serve(core, stream, peer, listener).await;
    } else {
        tcp::serve_inbound(core, stream, peer, listener, Some(meant)).await;
    }
}

/// Bytes to the application. As long as the client has not spoken it may still turn out to be a mesh client, and where the
/// server has not spoken either, to speak HTTP.
async fn raw(
    core: Rc<Core>,
    mut client: TcpStream,
    peer: SocketAddr,
    port: &CapturedPort,
    plain: &Plain,
    meant: SocketAddr,
) {
    let parties = Parties {
        reporter: Reporter::Destination,
        source: Party::default(),
        destination: core.own_party(),
        service: inbound::service(&port.services, None),
        protocol: "tcp",
        security: Security::of(false),
    };
    let mut upstream = match tcp::reach(&core, &plain.cluster, peer.ip(), Some(meant)).await {
        Ok((_endpoint, _cluster, upstream)) => upstream,
        Err(flag) => {
            tracing::info!(port = meant.port(), flag = flag.as_str(), "the application could not be reached");
            return tcp::count(&core, parties, flag);
        }
    };
    let mut inbound = Inbound::outside(port.unsaid.is_some());
    let settled = until_certain(&mut Peek::new(&client, BYTES_MAX), &mut upstream, &mut inbound).await;
    match settled {
        Ok(Settled { begins: Some(Begins::Mesh), server_spoke: false, .. }) => {
            drop(upstream);
            mesh(core, client, peer, port, meant).await;
        }
        Ok(Settled { begins: Some(Begins::Mesh), server_spoke: true, .. }) => {
            core.telemetry.denied("inbound", "late_hello");
        }
        Ok(Settled { begins: Some(Begins::Http), server_spoke: false, .. }) => {
            drop(upstream);
            unsaid::plain(core, client, peer, port, meant).await;
        }
        // A client that has ended its direction hears what the server says all the same.
        Ok(Settled { begins: Some(_), passed, .. }) => {
            if passed > 0 {
                let Ok(again) = skipped(client, passed).await else { return };
                client = again;
            }
            let mut client = Guarded::new(client, inbound.into_fields());
            tcp::carry(&core, parties, &mut client, &mut upstream, || Standing::Trusted).await;
            client.tell(&core, peer, meant);
        }
        Err(error) if Forged::is(&error) => refuse(&core, peer, meant),
        Ok(Settled { begins: None, .. }) | Err(_) => {}
    }
}

/// The connection without its first bytes, which were told to the server already.
async fn skipped(client: TcpStream, count: usize) -> io::Result<TcpStream> {
    let mut client = unread(client)?;
    let mut told = vec![0u8; count];
    client.read_exact(&mut told).await?;
    Ok(client)
}
