//! Edge. HTTPS for API servers: connections and times bounded, the certificate as [`super::rotate`] has it, the drain.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::{Extension, Router};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use meshfed_runtime::drain::Watch;
use meshfed_runtime::places::{Bounds, Places, source};
use meshfed_runtime::tasks;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// Connections at the same time; API servers keep a few each. Every pod reaches this port, and nobody shows who he is: who
/// takes more takes them from himself.
pub(super) const CONNECTIONS: Bounds = Bounds { all: 256, each: 16 };
/// Time for a handshake.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(4);
/// Time for the head of a request, and how long a connection may be idle.
const HEAD_DEADLINE: Duration = Duration::from_secs(60);
/// Pause after an accept that failed for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Requests of one HTTP/2 connection at the same time.
const STREAMS_MAX: u32 = 250;
/// Bytes of questions that one connection has here at the same time, in KiB: what comes beyond waits in its own window.
pub(super) const QUESTIONS_KIB: usize = 4 * 1024;

/// The room that is left for the questions of a connection, in KiB.
#[derive(Debug, Clone)]
pub(super) struct Room(pub(super) Arc<Semaphore>);

impl Default for Room {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(QUESTIONS_KIB)))
    }
}

#[derive(Clone)]
struct Server {
    acceptor: TlsAcceptor,
    builder: Builder<TokioExecutor>,
    router: Router,
    places: Places<IpAddr>,
    drain: Watch,
}

/// Until the drain.
pub(super) async fn serve(
    listeners: Vec<std::net::TcpListener>,
    tls: Arc<ServerConfig>,
    router: Router,
    bounds: Bounds,
    drain: Watch,
) -> io::Result<()> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_DEADLINE);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(10))
        .max_concurrent_streams(STREAMS_MAX);
    let places = Places::new(bounds);
    let server = Server { acceptor: TlsAcceptor::from(tls), builder, router, places, drain };
    let mut loops = Vec::with_capacity(listeners.len());
    for listener in listeners {
        listener.set_nonblocking(true)?;
        loops.push(server.clone().accept(TcpListener::from_std(listener)?));
    }
    futures::future::join_all(loops).await;
    Ok(())
}

impl Server {
    async fn accept(self, listener: TcpListener) {
        loop {
            let accepted = tokio::select! {
                () = self.drain.signaled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, address)) => {
                    let (this, cut) = (self.clone(), CancellationToken::new());
                    let (place, _displaced) = self.places.take(source(address.ip()), cut.clone());
                    // Ends with its connection, at the latest with the drain.
                    tasks::spawn("webhook-connection", async move {
                        tokio::select! {
                            () = this.converse(stream) => {}
                            () = cut.cancelled() => tracing::debug!(%address, "webhook: a connection gave up its place"),
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::debug!(%error, "webhook: accept");
                    // Most of what an accept fails for is want of descriptors.
                    if !self.places.make_room() {
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        }
    }

    async fn converse(self, stream: TcpStream) {
        let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE_DEADLINE, self.acceptor.accept(stream)).await else {
            return;
        };
        let service = TowerToHyperService::new(self.router.layer(Extension(Room::default())));
        let connection = self.builder.serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            _ended = connection.as_mut() => return,
            () = self.drain.signaled() => connection.as_mut().graceful_shutdown(),
        }
        let _ended = connection.await;
    }
}
