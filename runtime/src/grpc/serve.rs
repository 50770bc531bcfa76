//! Edge. Serving tonic routes until the drain: GOAWAY, a deadline, then the cut.

use std::io;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::future::join_all;
use rustls::ServerConfig;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Server;

use super::accept::{Accepted, Acceptor, Rooms};
use super::{KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT, Limits, ServeOptions};
use crate::drain::Watch;
use crate::files::{self, MODE_SOCKET};

/// Finished handshakes that wait for tonic, which takes them at once; more wait in their own tasks.
const READY_QUEUE: usize = 64;
/// The longest path of a Unix socket: `sun_path` holds 108 bytes with its NUL.
pub const UNIX_PATH_MAX: usize = 107;

/// Why a server ended, other than by the drain.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A listener cannot be used.
    #[error("a listener cannot be used")]
    Listener(#[source] io::Error),
    /// tonic gave up.
    #[error("the gRPC server ended")]
    Server(#[source] tonic::transport::Error),
}

/// Why a Unix socket could not be bound.
#[derive(Debug, thiserror::Error)]
pub enum UnixBindError {
    /// The path does not fit into a socket address.
    #[error("{flag}: the socket path {} has {} bytes, at most {UNIX_PATH_MAX} are possible; give a shorter {flag}", path.display(), path.as_os_str().len())]
    TooLong {
        /// The flag that shortens it.
        flag: String,
        /// The path.
        path: PathBuf,
    },
    /// A process serves it.
    #[error("{flag}: {} is in use by another process", path.display())]
    InUse {
        /// The flag.
        flag: String,
        /// The path.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("{flag}: cannot listen on {}", path.display())]
    Io {
        /// The flag.
        flag: String,
        /// The path.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
}

/// Binds a Unix socket with mode 0666. The socket file of a process that is gone is replaced; a live one is an error.
/// `flag` is what the operator changes to get another path (`--run-dir`).
///
/// # Errors
/// [`UnixBindError`].
pub fn bind_unix(flag: &str, path: &Path) -> Result<UnixListener, UnixBindError> {
    let flag = || flag.to_owned();
    if path.as_os_str().len() > UNIX_PATH_MAX {
        return Err(UnixBindError::TooLong { flag: flag(), path: path.to_owned() });
    }
    let failed = |source| UnixBindError::Io { flag: flag(), path: path.to_owned(), source };
    if path.exists() {
        match std::os::unix::net::UnixStream::connect(path) {
            Ok(_live) => return Err(UnixBindError::InUse { flag: flag(), path: path.to_owned() }),
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
                files::remove(path).map_err(|e| failed(io::Error::other(e)))?;
            }
            Err(e) => return Err(failed(e)),
        }
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(MODE_SOCKET)).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

/// Serves over TLS on all listeners until the drain. Streams of the services must end by themselves when they see the
/// drain; what does not is cut at the drain deadline.
///
/// # Errors
/// [`ServeError`].
pub async fn serve_tls(
    listeners: Vec<TcpListener>,
    tls: Arc<ServerConfig>,
    routes: Routes,
    drain: Watch,
    options: ServeOptions,
) -> Result<(), ServeError> {
    let (acceptor, ready, drain) = acceptor(drain, &options);
    let mut loops = Vec::new();
    for listener in listeners {
        listener.set_nonblocking(true).map_err(ServeError::Listener)?;
        let listener = tokio::net::TcpListener::from_std(listener).map_err(ServeError::Listener)?;
        loops.push(acceptor.clone().accept_tls(listener, Arc::clone(&tls)));
    }
    let cut = acceptor.cut.clone();
    drop(acceptor);
    serve(join_all(loops), ready, routes, drain, cut, options.limits).await
}

/// Serves over a Unix socket until the drain, as [`serve_tls`].
///
/// # Errors
/// [`ServeError`].
pub async fn serve_unix(
    listener: UnixListener,
    routes: Routes,
    drain: Watch,
    options: ServeOptions,
) -> Result<(), ServeError> {
    let (acceptor, ready, drain) = acceptor(drain, &options);
    listener.set_nonblocking(true).map_err(ServeError::Listener)?;
    let listener = tokio::net::UnixListener::from_std(listener).map_err(ServeError::Listener)?;
    let cut = acceptor.cut.clone();
    serve(acceptor.accept_unix(listener), ready, routes, drain, cut, options.limits).await
}

type Ready = ReceiverStream<io::Result<super::accept::PeerIo>>;

fn acceptor(drain: Watch, options: &ServeOptions) -> (Acceptor, Ready, Watch) {
    let (ready, taken) = mpsc::channel(READY_QUEUE);
    let acceptor = Acceptor {
        ready,
        rooms: Rooms::new(&options.limits),
        metrics: options.metrics.clone(),
        limits: options.limits.clone(),
        cut: CancellationToken::new(),
        drain: drain.clone(),
    };
    (acceptor, ReceiverStream::new(taken), drain)
}

async fn serve(
    accepting: impl Future,
    ready: Ready,
    routes: Routes,
    drain: Watch,
    cut: CancellationToken,
    limits: Limits,
) -> Result<(), ServeError> {
    let server = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .http2_max_header_list_size(limits.header_list)
        .http2_max_pending_accept_reset_streams(Some(RESETS_MAX))
        .http2_max_local_error_reset_streams(Some(RESETS_MAX))
        .initial_stream_window_size(limits.stream_window)
        .initial_connection_window_size(limits.connection_window)
        .max_concurrent_streams(limits.streams)
        .add_routes(guarded(routes))
        .serve_with_incoming_shutdown(ready, {
            let drain = drain.clone();
            async move { drain.signaled().await }
        });
    // The accept loops end with the drain; tonic ends when the last connection is gone.
    let all = async {
        let (served, _accepted) = tokio::join!(server, accepting);
        served.map_err(ServeError::Server)
    };
    let deadline = async {
        drain.signaled().await;
        tokio::time::sleep(limits.drain_deadline).await;
    };
    tokio::pin!(all);
    tokio::select! {
        served = &mut all => return served,
        () = deadline => {}
    }
    tracing::info!("drain deadline reached; connections are cut");
    cut.cancel();
    all.await
}

/// Streams reset by the peer before a service saw them, and streams that we reset for the peer's faults; more close the
/// connection (SY4: at most 200).
const RESETS_MAX: usize = 200;
/// Headers of one request (SY4).
const HEADERS_MAX: usize = 100;

/// What holds for every request: it carries its peer, it has few headers (`h2` bounds their bytes, not their number),
/// and its response is watched.
fn guarded(routes: Routes) -> Routes {
    async fn pass(mut request: axum::extract::Request, next: axum::middleware::Next) -> axum::response::Response {
        let headers = request.headers().len();
        if headers > HEADERS_MAX {
            let refused = format!("{headers} headers, at most {HEADERS_MAX} are allowed");
            return tonic::Status::resource_exhausted(refused).into_http();
        }
        let Some(Accepted { peer, streams }) = request.extensions_mut().remove::<Accepted>() else {
            return tonic::Status::internal("a request of no connection").into_http();
        };
        request.extensions_mut().insert(peer);
        next.run(request).await.map(|body| streams.watch(body))
    }
    routes.into_axum_router().layer(axum::middleware::from_fn(pass)).into()
}
