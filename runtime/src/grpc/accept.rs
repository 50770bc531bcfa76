//! Edge. Accept loops that nothing a peer does can end (RUSTSEC-2024-0376), and the connection type of our servers.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

use super::authority::Mender;
use super::{ConnectionMetrics, Limits, PeerInfo, TCP_USER_TIMEOUT, UCred};
use crate::connection::{ConnectionLimits, Guarded, Stalling, Streams};
use crate::drain::Watch;
use crate::{tasks, tls};

/// Pause after an accept that failed for want of descriptors or memory: trying at once would only burn the core.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What one server's accept loops share.
#[derive(Clone)]
pub(super) struct Acceptor {
    pub(super) ready: mpsc::Sender<io::Result<PeerIo>>,
    pub(super) permits: Arc<Semaphore>,
    pub(super) strangers: Arc<Semaphore>,
    pub(super) metrics: ConnectionMetrics,
    pub(super) limits: Limits,
    /// Cuts all connections.
    pub(super) cut: CancellationToken,
    pub(super) drain: Watch,
}

/// Whether an accept error concerns one connection only.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind as K;
    [K::ConnectionAborted, K::ConnectionRefused, K::ConnectionReset, K::Interrupted, K::WouldBlock]
        .contains(&error.kind())
}

impl Acceptor {
    async fn failed(&self, error: &io::Error) {
        self.metrics.refuse("accept");
        if is_of_one_connection(error) {
            return;
        }
        tracing::warn!(error = %error, "accept failed; trying again");
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }

    fn permit(&self) -> Option<OwnedSemaphorePermit> {
        let permit = Arc::clone(&self.permits).try_acquire_owned().ok();
        if permit.is_none() {
            self.metrics.refuse("limit");
            tracing::debug!("connection refused: the connection limit is reached");
        }
        permit
    }

    pub(super) async fn accept_tls(self, listener: TcpListener, config: Arc<ServerConfig>) {
        let acceptor = TlsAcceptor::from(config);
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.drain.signaled() => return,
            };
            let (stream, address) = match accepted {
                Ok(accepted) => accepted,
                Err(e) => {
                    self.failed(&e).await;
                    continue;
                }
            };
            let Some(permit) = self.permit() else { continue };
            let (this, acceptor) = (self.clone(), acceptor.clone());
            // The task ends by itself within the handshake deadline.
            tasks::spawn("handshake", async move {
                if let Some(io) = this.handshake(stream, address, &acceptor, permit).await {
                    // An error: the server has ended, and the connection goes with it.
                    let _server_gone = this.ready.send(Ok(io)).await;
                }
            });
        }
    }

    async fn handshake(
        &self,
        stream: TcpStream,
        address: std::net::SocketAddr,
        acceptor: &TlsAcceptor,
        permit: OwnedSemaphorePermit,
    ) -> Option<PeerIo> {
        set_options(&stream);
        let deadline = self.limits.handshake_deadline;
        let stream = Stalling::new(stream, self.limits.each.write_stall);
        let stream = match tokio::time::timeout(deadline, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(e)) => {
                let reason = tls::refusal(&e).map(tls::SvidError::as_str);
                self.metrics.refuse(reason.unwrap_or("handshake"));
                let why = tls::refusal(&e).map_or_else(|| e.to_string(), crate::telemetry::chain_of);
                tracing::info!(peer = %address, reason = reason.unwrap_or("handshake"), "handshake refused: {why}");
                return None;
            }
            Err(_elapsed) => {
                self.metrics.refuse("handshake_timeout");
                tracing::info!(peer = %address, "handshake not finished within {deadline:?}");
                return None;
            }
        };
        let conn = stream.get_ref().1;
        let leaf = conn.peer_certificates().and_then(|c| c.first());
        let mut leaf_sha256 = None;
        if let Some(leaf) = leaf {
            leaf_sha256 = digest(&SHA256, leaf).as_ref().try_into().ok();
        }
        let peer = PeerInfo { id: tls::peer_verified(conn), address: Some(address), uds_cred: None, leaf_sha256 };
        let mut permits = vec![permit];
        let mut limits = self.limits.each;
        if peer.id.is_none() {
            let Ok(permit) = Arc::clone(&self.strangers).try_acquire_owned() else {
                self.metrics.refuse("strangers");
                tracing::debug!(peer = %address, "connection refused: too many without a certificate");
                return None;
            };
            permits.push(permit);
            limits.age = Some(self.limits.stranger_age);
        }
        let stream = Guarded::new(stream, &limits, self.metrics.on_cut(shown(&peer)));
        Some(PeerIo::new(Transport::Tls(Box::new(stream)), peer, permits, self))
    }

    pub(super) async fn accept_unix(self, listener: UnixListener) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.drain.signaled() => return,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(e) => {
                    self.failed(&e).await;
                    continue;
                }
            };
            let Some(permit) = self.permit() else { continue };
            // Without credentials nobody can be attested: such a peer is closed.
            let Ok(cred) = stream.peer_cred() else {
                self.metrics.refuse("accept");
                continue;
            };
            let uds_cred = Some(UCred { uid: cred.uid(), gid: cred.gid(), pid: cred.pid() });
            let peer = PeerInfo { uds_cred, ..PeerInfo::default() };
            let limits: ConnectionLimits = self.limits.each;
            let stream = Stalling::new(stream, limits.write_stall);
            let stream = Guarded::new(stream, &limits, self.metrics.on_cut(shown(&peer)));
            let io = PeerIo::new(Transport::Unix(Box::new(stream)), peer, vec![permit], &self);
            if self.ready.send(Ok(io)).await.is_err() {
                return;
            }
        }
    }
}

/// A peer in the log.
fn shown(peer: &PeerInfo) -> String {
    match (&peer.id, peer.address, peer.uds_cred) {
        (Some(id), Some(address), _) => format!("{id} at {address}"),
        (_, Some(address), _) => address.to_string(),
        (_, None, Some(cred)) => format!("uid {}", cred.uid),
        (_, None, None) => "unknown".to_owned(),
    }
}

/// No delay, and an end for connections whose peer acknowledges nothing ([`TCP_USER_TIMEOUT`], SY9). Best effort: a
/// socket without these options still works.
pub fn set_options(stream: &TcpStream) {
    let _nodelay = stream.set_nodelay(true);
    let _user_timeout = socket2::SockRef::from(stream).set_tcp_user_timeout(Some(TCP_USER_TIMEOUT));
}

enum Transport {
    Tls(Box<Guarded<TlsStream<Stalling<TcpStream>>>>),
    Unix(Box<Guarded<Stalling<UnixStream>>>),
}

/// A connection that knows its peer, counts itself, and can be cut.
pub(super) struct PeerIo {
    transport: Transport,
    mender: Mender,
    peer: PeerInfo,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    metrics: ConnectionMetrics,
    _permits: Vec<OwnedSemaphorePermit>,
    /// The drain waits for open connections.
    _drain: Watch,
}

impl PeerIo {
    fn new(transport: Transport, peer: PeerInfo, permits: Vec<OwnedSemaphorePermit>, acceptor: &Acceptor) -> Self {
        acceptor.metrics.open.inc();
        Self {
            transport,
            mender: Mender::default(),
            peer,
            cut: Box::pin(acceptor.cut.clone().cancelled_owned()),
            metrics: acceptor.metrics.clone(),
            _permits: permits,
            _drain: acceptor.drain.clone(),
        }
    }
}

impl Drop for PeerIo {
    fn drop(&mut self) {
        self.metrics.open.dec();
    }
}

/// What the requests of a connection carry on their way in.
#[derive(Debug, Clone)]
pub(super) struct Accepted {
    pub(super) peer: PeerInfo,
    pub(super) streams: Streams,
}

impl Connected for PeerIo {
    type ConnectInfo = Accepted;
    fn connect_info(&self) -> Accepted {
        let streams = match &self.transport {
            Transport::Tls(s) => s.streams(),
            Transport::Unix(s) => s.streams(),
        };
        Accepted { peer: self.peer.clone(), streams }
    }
}

impl AsyncRead for PeerIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.cut.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let Self { transport, mender, .. } = &mut *self;
        match transport {
            Transport::Tls(s) => Pin::new(s).poll_read(cx, buf),
            Transport::Unix(s) => {
                let before = buf.filled().len();
                let read = Pin::new(s).poll_read(cx, buf);
                mender.mend(buf.filled_mut().get_mut(before..).unwrap_or_default());
                read
            }
        }
    }
}

impl AsyncWrite for PeerIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.transport {
            Transport::Tls(s) => Pin::new(s).poll_write(cx, buf),
            Transport::Unix(s) => Pin::new(s).poll_write(cx, buf),
        }
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Tls(s) => Pin::new(s).poll_flush(cx),
            Transport::Unix(s) => Pin::new(s).poll_flush(cx),
        }
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Tls(s) => Pin::new(s).poll_shutdown(cx),
            Transport::Unix(s) => Pin::new(s).poll_shutdown(cx),
        }
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.transport {
            Transport::Tls(s) => Pin::new(s).poll_write_vectored(cx, bufs),
            Transport::Unix(s) => Pin::new(s).poll_write_vectored(cx, bufs),
        }
    }
    fn is_write_vectored(&self) -> bool {
        match &self.transport {
            Transport::Tls(s) => s.is_write_vectored(),
            Transport::Unix(s) => s.is_write_vectored(),
        }
    }
}
