//! Edge. Captured connections to the application: the port that the peer dialled decides, and what it begins with.
//!
//! A ClientHello of a mesh client is terminated in every mode, however late it comes: it is never handed to the application,
//! neither as plaintext nor as TLS of its own.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::detect::{Begins, Inbound};
use super::first::{Seen, look, unread};
use super::original::destination;
use crate::forward::{Core, Standing};
use crate::passthrough::HELLO_DEADLINE;
use crate::passthrough::hello::BYTES_MAX;
use crate::state::{CapturedPort, Listener, ListenerKind, Plain};
use crate::telemetry::{Parties, Party, Reporter, Security};
use crate::tls::Stream;
use crate::{inbound, tcp};

/// How long a client's first bytes are waited for on a port where the server may speak first.
const PATIENCE: Duration = Duration::from_millis(200);
/// How long a connection to an HTTP port may be without request, as on any other one (L7-7).
const IDLE: Duration = Duration::from_secs(60);
/// Bytes of the server that are moved at a time before the client has spoken.
const PIECE: usize = 4096;

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
    let patience = if plain.routes.is_some() { IDLE } else { PATIENCE };
    match timeout(patience, begins(&stream)).await {
        Ok(Some(Begins::Mesh)) => mesh(core, stream, peer, port, meant).await,
        Ok(Some(Begins::Plain)) if let Some(routes) = &plain.routes => {
            inbound::serve_plain(core, stream, peer, Arc::clone(routes), &port.services).await;
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
async fn begins(stream: &TcpStream) -> Option<Begins> {
    // From the first byte on it has the time of any handshake.
    if look(stream, 1, |_first| Some(())).await != Seen::Told(()) {
        return Some(Begins::End);
    }
    let mut inbound = Inbound::default();
    match timeout(HELLO_DEADLINE, look(stream, BYTES_MAX, |bytes| inbound.judge(bytes))).await {
        Ok(Seen::Told(begins)) => Some(begins),
        Ok(Seen::Undecided | Seen::Gone) | Err(_) => None,
    }
}

async fn mesh(core: Rc<Core>, stream: TcpStream, peer: SocketAddr, port: &CapturedPort, meant: SocketAddr) {
    let listener = Arc::clone(&port.mesh);
    if matches!(listener.kind, ListenerKind::InboundHttp { .. }) {
        inbound::serve(core, stream, peer, listener).await;
    } else {
        tcp::serve_inbound(core, stream, peer, listener, Some(meant)).await;
    }
}

/// Bytes to the application. As long as the client has not spoken it may still turn out to be a mesh client.
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
    match until_the_client_speaks(&client, &mut upstream).await {
        Ok(Spoken { begins: Some(Begins::Mesh), server_spoke: false }) => {
            drop(upstream);
            mesh(core, client, peer, port, meant).await;
        }
        Ok(Spoken { begins: Some(Begins::Mesh), server_spoke: true }) => {
            core.telemetry.denied("inbound", "late_hello");
        }
        // A client that has ended its direction hears what the server says all the same.
        Ok(Spoken { begins: Some(Begins::Plain | Begins::Tls | Begins::End), .. }) => {
            tcp::carry(&core, parties, &mut client, &mut upstream, || Standing::Trusted).await;
        }
        Ok(Spoken { begins: None, .. }) | Err(_) => {}
    }
}

struct Spoken {
    begins: Option<Begins>,
    server_spoke: bool,
}

/// Moves what the server says until the client begins to speak. A server that ends before is let end.
async fn until_the_client_speaks(client: &TcpStream, upstream: &mut Stream) -> io::Result<Spoken> {
    let mut server_spoke = false;
    let mut piece = [0u8; PIECE];
    let mut begins = std::pin::pin!(begins(client));
    loop {
        tokio::select! {
            biased;
            begins = begins.as_mut() => return Ok(Spoken { begins, server_spoke }),
            read = upstream.read(&mut piece) => {
                let count = read?;
                if count == 0 {
                    return Ok(Spoken { begins: None, server_spoke });
                }
                server_spoke = true;
                write_all(client, piece.get(..count).unwrap_or_default()).await?;
            }
        }
    }
}

async fn write_all(client: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        client.writable().await?;
        match client.try_write(bytes) {
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
