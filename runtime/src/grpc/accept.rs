//! Edge. Accept loops that nothing a peer does can end (RUSTSEC-2024-0376), and the connection type of our servers.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use meshfed_model::identity::SpiffeId;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

use super::authority::Mender;
use super::{ConnectionMetrics, Limits, PeerInfo, TCP_USER_TIMEOUT, UCred};
use crate::connection::{ConnectionLimits, Guarded, Stalling, Streams};
use crate::drain::Watch;
use crate::places::{Bounds, Place, Places, source};
use crate::{tasks, tls};

/// Pause after an accept that failed for want of descriptors or memory: trying at once would only burn the core.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What one server's accept loops share.
#[derive(Clone)]
pub(super) struct Acceptor {
    pub(super) ready: mpsc::Sender<io::Result<PeerIo>>,
    pub(super) rooms: Rooms,
    pub(super) metrics: ConnectionMetrics,
    pub(super) limits: Limits,
    /// Cuts all connections.
    pub(super) cut: CancellationToken,
    pub(super) drain: Watch,
}

/// The places of one server. Those of members are not for strangers, whoever and how many they are.
#[derive(Clone)]
pub(super) struct Rooms {
    strangers: Places<IpAddr>,
    members: Places<SpiffeId>,
    own: Places<()>,
    users: Places<u32>,
}

impl Rooms {
    pub(super) fn new(limits: &Limits) -> Self {
        let known = Bounds { all: limits.connections, each: limits.connections };
        let others = Bounds { all: limits.strangers, each: limits.strangers_each };
        Self {
            strangers: Places::new(others),
            members: Places::new(known),
            own: Places::new(known),
            users: Places::new(others),
        }
    }
}

/// The place of a connection.
#[expect(dead_code, reason = "held, not read: a place is given up when it is dropped")]
enum Held {
    Stranger(Place<IpAddr>),
    Member(Place<SpiffeId>),
    Own(Place<()>),
    User(Place<u32>),
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
        // Strangers may hold the descriptors that are missing.
        if self.rooms.strangers.make_room() {
            self.metrics.displace("stranger");
            tokio::task::yield_now().await;
        } else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
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
            let cut = self.cut.child_token();
            let (place, displaced) = self.rooms.strangers.take(source(address.ip()), cut.clone());
            if displaced {
                self.metrics.displace("stranger");
            }
            let (this, acceptor) = (self.clone(), acceptor.clone());
            // The task ends by itself within the handshake deadline.
            tasks::spawn("handshake", async move {
                if let Some(io) = this.handshake(stream, address, &acceptor, place, cut).await {
                    // An error: the server has ended, and the connection goes with it.
                    let _server_gone = this.ready.send(Ok(io)).await;
                }
            });
        }
    }

    async fn handshake(
        &self,
        stream: TcpStream,
        address: SocketAddr,
        acceptor: &TlsAcceptor,
        place: Place<IpAddr>,
        mut cut: CancellationToken,
    ) -> Option<PeerIo> {
        set_options(&stream);
        let deadline = self.limits.handshake_deadline;
        let stream = Stalling::new(stream, self.limits.each.write_stall);
        let handshake = tokio::time::timeout(deadline, acceptor.accept(stream));
        let done = tokio::select! {
            done = handshake => done,
            () = cut.cancelled() => return None,
        };
        let stream = match done {
            Ok(Ok(stream)) => stream,
            Ok(Err(e)) => {
                let reason = tls::refusal(&e).map(tls::SvidError::as_str);
                self.metrics.refuse(reason.unwrap_or("handshake"));
                let why = tls::refusal(&e).map_or_else(|| e.to_string(), crate::telemetry::chain_of);
                if reason.is_none() && e.kind() == io::ErrorKind::UnexpectedEof {
                    // Nothing was refused: who dials too early, or only looks whether somebody listens, hangs up.
                    tracing::debug!(peer = %address, "the peer hung up before the handshake ended: {why}");
                } else {
                    tracing::info!(peer = %address, reason = reason.unwrap_or("handshake"), "handshake refused: {why}");
                }
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
        let peer = PeerInfo {
            id: tls::peer_verified(conn),
            metadata: tls::peer_described(conn),
            address: Some(address),
            uds_cred: None,
            leaf_sha256,
        };
        let mut limits = self.limits.each;
        let held = if let Some(id) = &peer.id {
            cut = self.cut.child_token();
            let (member, displaced) = self.rooms.members.take(id.clone(), cut.clone());
            if displaced {
                self.metrics.displace("member");
            }
            Held::Member(member)
        } else {
            limits.age = Some(self.limits.stranger_age);
            Held::Stranger(place)
        };
        let stream = Guarded::new(stream, &limits, self.metrics.on_cut(shown(&peer)));
        Some(PeerIo::new(Transport::Tls(Box::new(stream)), peer, (held, cut), self))
    }

    /// A place for a local user. Root and the server's own user have theirs; others cannot take them, and none of the
    /// others can take those of all. Nobody gives up a place: streams to local proxies are meant to stand.
    fn place_of(&self, uid: u32) -> Option<Held> {
        let is_ours = uid == 0 || uid == rustix::process::geteuid().as_raw();
        let held = if is_ours {
            self.rooms.own.take_free(()).map(Held::Own)
        } else {
            self.rooms.users.take_free(uid).map(Held::User)
        };
        if held.is_none() {
            self.metrics.refuse("limit");
            tracing::debug!(uid, "connection refused: this user has as many as it may have, or all are taken");
        }
        held
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
            // Without credentials nobody can be attested: such a peer is closed.
            let Ok(cred) = stream.peer_cred() else {
                self.metrics.refuse("accept");
                continue;
            };
            let Some(held) = self.place_of(cred.uid()) else { continue };
            let uds_cred = Some(UCred { uid: cred.uid(), gid: cred.gid(), pid: cred.pid() });
            let peer = PeerInfo { uds_cred, ..PeerInfo::default() };
            let limits: ConnectionLimits = self.limits.each;
            let stream = Stalling::new(stream, limits.write_stall);
            let stream = Guarded::new(stream, &limits, self.metrics.on_cut(shown(&peer)));
            let io = PeerIo::new(Transport::Unix(Box::new(stream)), peer, (held, self.cut.clone()), &self);
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
    _place: Held,
    /// The drain waits for open connections.
    _drain: Watch,
}

impl PeerIo {
    /// With its place, and what cuts it.
    fn new(transport: Transport, peer: PeerInfo, place: (Held, CancellationToken), acceptor: &Acceptor) -> Self {
        acceptor.metrics.open.inc();
        Self {
            transport,
            mender: Mender::default(),
            peer,
            cut: Box::pin(place.1.cancelled_owned()),
            metrics: acceptor.metrics.clone(),
            _place: place.0,
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
