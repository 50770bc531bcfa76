//! Edge. HTTPS for API servers: connections and times bounded, the certificate as [`super::rotate`] has it, the drain.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use meshfed_runtime::drain::Watch;
use meshfed_runtime::tasks;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

/// Connections at the same time; API servers keep a few each.
const CONNECTIONS_MAX: usize = 256;
/// Time for a handshake.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(4);
/// Time for the head of a request, and how long a connection may be idle.
const HEAD_DEADLINE: Duration = Duration::from_secs(60);
/// Pause after an accept that failed for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Requests of one HTTP/2 connection at the same time.
const STREAMS_MAX: u32 = 64;

#[derive(Clone)]
struct Server {
    acceptor: TlsAcceptor,
    builder: Builder<TokioExecutor>,
    router: Router,
    places: Arc<Semaphore>,
    drain: Watch,
}

/// Until the drain.
pub(super) async fn serve(
    listeners: Vec<std::net::TcpListener>,
    tls: Arc<ServerConfig>,
    router: Router,
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
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
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
            // Taken before the accept: who finds no place waits in the kernel's queue.
            let place = Arc::clone(&self.places).acquire_owned();
            let accepted = tokio::select! {
                () = self.drain.signaled() => return,
                accepted = async { (place.await, listener.accept().await) } => accepted,
            };
            match accepted {
                (Ok(place), Ok((stream, _address))) => {
                    let this = self.clone();
                    // Ends with its connection, at the latest with the drain.
                    tasks::spawn("webhook-connection", async move {
                        this.converse(stream).await;
                        drop(place);
                    });
                }
                (Err(_closed), _) => return,
                (_, Err(error)) => {
                    tracing::debug!(%error, "webhook: accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn converse(self, stream: TcpStream) {
        let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE_DEADLINE, self.acceptor.accept(stream)).await else {
            return;
        };
        let service = TowerToHyperService::new(self.router);
        let connection = self.builder.serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            _ended = connection.as_mut() => return,
            () = self.drain.signaled() => connection.as_mut().graceful_shutdown(),
        }
        let _ended = connection.await;
    }
}
