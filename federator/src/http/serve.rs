//! Edge. HTTPS: an accept loop that nothing a peer does can end, limits per connection, and the drain.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use meshfed_runtime::connection::{ConnectionLimits, Guarded, Stalling};
use meshfed_runtime::grpc::ConnectionMetrics;
use meshfed_runtime::{drain, grpc, tasks};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;

use super::rest::lend;
use super::seat::{Seat, Seats};

/// Time for a TLS handshake.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);
/// Time for the head of a request; also how long a connection may be idle.
const HEAD_DEADLINE: Duration = Duration::from_secs(30);
/// Time for requests under way once the drain has begun.
const DRAIN_DEADLINE: Duration = Duration::from_secs(10);
/// Pause after an accept that failed for want of descriptors: trying at once would only burn the core.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// The largest head over HTTP/1.1, and buffer for it, in bytes.
const HEAD_MAX: usize = 64 << 10;
/// The largest head over HTTP/2, in bytes.
const H2_HEAD_MAX: u32 = 16 << 10;
/// Requests of one HTTP/2 connection at the same time.
const H2_STREAMS_MAX: u32 = 64;
/// Bytes of the receive windows of one HTTP/2 stream and connection.
const H2_WINDOWS: (u32, u32) = (64 << 10, 1 << 20);
/// Streams that a peer opened and reset before we saw them (CVE-2023-44487).
const H2_RESETS_MAX: usize = 20;
/// Headers of one request.
pub(super) const HEADERS_MAX: usize = 100;

/// The HTTP API cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A listener cannot be used.
    #[error("a listener of the HTTP API cannot be used")]
    Listener(#[source] io::Error),
}

/// The address of the peer, an extension of its requests.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(pub(super) SocketAddr);

#[derive(Clone)]
struct Server {
    tls: watch::Receiver<Arc<ServerConfig>>,
    metrics: ConnectionMetrics,
    builder: Builder<TokioExecutor>,
    router: Router,
    seats: Seats,
    drain: drain::Watch,
}

/// Serves all listeners until the drain; a failed accept or handshake ends nothing. A new `tls` holds for connections
/// from then on.
///
/// # Errors
/// [`ServeError`], at once.
pub async fn serve(
    listeners: Vec<std::net::TcpListener>,
    tls: watch::Receiver<Arc<ServerConfig>>,
    router: Router,
    drain: drain::Watch,
    metrics: ConnectionMetrics,
) -> Result<(), ServeError> {
    let seats = Seats::new(metrics.clone());
    let server = Server { tls, metrics, builder: builder(), router, seats, drain };
    let mut loops = Vec::with_capacity(listeners.len());
    for listener in listeners {
        listener.set_nonblocking(true).map_err(ServeError::Listener)?;
        let listener = TcpListener::from_std(listener).map_err(ServeError::Listener)?;
        loops.push(server.clone().accept(listener));
    }
    futures::future::join_all(loops).await;
    Ok(())
}

fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .max_buf_size(HEAD_MAX)
        .max_headers(HEADERS_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(10))
        .max_concurrent_streams(H2_STREAMS_MAX)
        .max_header_list_size(H2_HEAD_MAX)
        .initial_stream_window_size(H2_WINDOWS.0)
        .initial_connection_window_size(H2_WINDOWS.1)
        .max_pending_accept_reset_streams(H2_RESETS_MAX);
    builder
}

/// Whether an accept error concerns one connection only.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind as K;
    [K::ConnectionAborted, K::ConnectionRefused, K::ConnectionReset, K::Interrupted, K::WouldBlock]
        .contains(&error.kind())
}

/// Counts a connection while it stands.
struct Open(ConnectionMetrics);

impl Open {
    fn new(metrics: &ConnectionMetrics) -> Self {
        metrics.open.inc();
        Self(metrics.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.dec();
    }
}

impl Server {
    async fn accept(self, listener: TcpListener) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.drain.signaled() => return,
            };
            let (stream, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) if is_of_one_connection(&error) => continue,
                Err(error) => {
                    self.metrics.refuse("accept");
                    tracing::warn!(%error, "accept failed on the HTTP API; trying again");
                    if self.seats.make_room() {
                        tokio::task::yield_now().await;
                    } else {
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                    continue;
                }
            };
            let (this, seat) = (self.clone(), self.seats.take(address));
            // Ends by itself, by the deadlines above; the drain waits for it, because it holds the watch.
            tasks::spawn("http-connection", async move {
                tokio::select! {
                    () = this.connection(stream, address, seat.clone()) => {}
                    () = seat.lost() => tracing::debug!(peer = %address, "connection cut: another one needed its place"),
                }
            });
        }
    }

    async fn connection(self, stream: TcpStream, address: SocketAddr, seat: Seat) {
        grpc::set_options(&stream);
        let limits = ConnectionLimits::default();
        let acceptor = TlsAcceptor::from(Arc::clone(&self.tls.borrow()));
        let handshake = acceptor.accept(Stalling::new(stream, limits.write_stall));
        let handshake = tokio::time::timeout(HANDSHAKE_DEADLINE, handshake);
        let stream = tokio::select! {
            done = handshake => match done {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => {
                    self.metrics.refuse("handshake");
                    tracing::debug!(peer = %address, %error, "no TLS handshake on the HTTP API");
                    return;
                }
                Err(_elapsed) => {
                    self.metrics.refuse("handshake_timeout");
                    tracing::debug!(peer = %address, "handshake not finished within {HANDSHAKE_DEADLINE:?}");
                    return;
                }
            },
            () = self.drain.signaled() => return,
        };
        let stream = Guarded::new(stream, &limits, self.metrics.on_cut(address.to_string()));
        let _open = Open::new(&self.metrics);
        let router = self.router;
        let service = service_fn(move |request: Request<Incoming>| {
            let (parts, body) = request.into_parts();
            let (body, rest) = lend(body);
            let mut request = Request::from_parts(parts, Body::new(body));
            request.extensions_mut().insert(Peer(address));
            request.extensions_mut().insert(seat.clone());
            let answer = router.clone().oneshot(request);
            async move {
                let answer = answer.await;
                rest.discard();
                answer
            }
        });
        let mut connection = pin!(self.builder.serve_connection(TokioIo::new(stream), service));
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.drain.signaled() => {
                connection.as_mut().graceful_shutdown();
                match tokio::time::timeout(DRAIN_DEADLINE, connection).await {
                    Ok(ended) => ended,
                    Err(_cut) => Ok(()),
                }
            }
        };
        if let Err(error) = ended {
            tracing::debug!(peer = %address, %error, "a connection of the HTTP API broke off");
        }
    }
}
