//! Edge. The east-west gateway: routes by the server name of the ClientHello and never terminates the TLS.
//!
//! A known name is dialled and the bytes are copied; an unknown or absent one gets the alert `unrecognized_name` and is
//! never dialled or resolved. Who may speak is decided by the receiver, whose TLS this is.

mod dial;
pub mod hello;
mod metrics;
mod tunnel;

use std::cell::RefCell;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use meshfed_runtime::clock;
use meshfed_runtime::drain::Watch;
use rustix::net::SendFlags;
use tokio::io::{AsyncRead as _, AsyncReadExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Interval, MissedTickBehavior};

use crate::forward::Core;
use crate::state::{Listener, ListenerKind, SniRoute};
use hello::{BYTES_MAX, Hello, HelloReader};
pub use metrics::{GatewayMetrics, Outcome};
pub use tunnel::SweepLimits;
use tunnel::Tunnels;

/// From the accept to the end of the ClientHello (SN4).
pub const HELLO_DEADLINE: Duration = Duration::from_secs(5);
/// How long the rest of a refused client's bytes is read, so that its end does not become a reset that eats the alert.
const LINGER: Duration = Duration::from_secs(1);
/// Bytes that are read meanwhile at most.
const LINGER_BYTES: usize = 64 * 1024;
/// One read; also the copy buffer of a worker (of all its tunnels: idle ones hold no buffer).
const SCRATCH: usize = 64 * 1024;

/// TLS alerts of the gateway: fatal, as records of their own.
mod alert {
    pub(super) const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];
    pub(super) const DECODE_ERROR: [u8; 7] = [21, 3, 3, 0, 2, 2, 50];
    pub(super) const INTERNAL_ERROR: [u8; 7] = [21, 3, 3, 0, 2, 2, 80];
}

/// The gateway of one worker.
#[derive(Debug)]
pub struct Gateway {
    metrics: Arc<GatewayMetrics>,
    scratch: RefCell<Box<[u8]>>,
    tunnels: Rc<Tunnels>,
}

impl Gateway {
    /// A gateway without connections.
    #[must_use]
    pub fn new(metrics: Arc<GatewayMetrics>, limits: SweepLimits) -> Rc<Self> {
        Rc::new(Self {
            metrics,
            scratch: RefCell::new(vec![0; SCRATCH].into_boxed_slice()),
            tunnels: Rc::new(Tunnels::new(limits)),
        })
    }

    /// Watches idle and withdrawn tunnels; runs as long as the worker. Once the drain has begun, which ends after
    /// `drain_timeout`, quiet ones are ended before it does.
    pub async fn sweep(self: Rc<Self>, drain: Watch, drain_timeout: Duration) {
        let mut every = interval(tunnel::TICK);
        let mut signaled = pin!(drain.signaled());
        loop {
            tokio::select! {
                () = signaled.as_mut() => break,
                _tick = every.tick() => self.tunnels.sweep(),
            }
        }
        let begun = clock::instant();
        let mut often = interval(tunnel::DRAIN_TICK);
        loop {
            tokio::select! {
                _tick = every.tick() => self.tunnels.sweep(),
                _tick = often.tick() => {
                    self.tunnels.sweep_draining(drain_timeout.saturating_sub(clock::instant() - begun));
                }
            }
        }
    }

    /// Counts a connection that was closed because the process has too many.
    pub fn refused_by_limit(&self) {
        self.metrics.count(Outcome::Limit);
    }

    /// Serves one connection to its end.
    pub async fn serve(
        self: Rc<Self>,
        core: Rc<Core>,
        mut client: TcpStream,
        peer: SocketAddr,
        listener: Arc<Listener>,
    ) {
        let ListenerKind::Gateway { sni: table } = &listener.kind else { return };
        let (hello, bytes) = match self.read_hello(&mut client).await {
            Ok(found) => found,
            Err(refusal) => return self.refuse(client, peer, refusal).await,
        };
        let Hello::Named(name) = hello else {
            return self.refuse(client, peer, Refusal::NoName).await;
        };
        let Some(route) = table.find(&name).map(Arc::clone) else {
            return self.refuse(client, peer, Refusal::UnknownName(name)).await;
        };
        drop(listener);
        self.forward(&core, client, peer, &route, bytes).await;
    }

    /// Reads until the ClientHello is whole. What came with it is in the bytes, too.
    async fn read_hello(&self, client: &mut TcpStream) -> Result<(Hello, Vec<u8>), Refusal> {
        let mut reader = HelloReader::new();
        // Nearly always the hello is there when the connection is: read before the first turn of the event loop, into
        // the worker's buffer. (An accepted socket counts as readable until it is known not to be.)
        let first = poll_fn(|cx| {
            let mut scratch = self.scratch.borrow_mut();
            let mut buffer = ReadBuf::new(&mut scratch);
            Poll::Ready(match Pin::new(&mut *client).poll_read(cx, &mut buffer) {
                Poll::Pending => Ok(None),
                Poll::Ready(Err(_reset)) => Err(Refusal::Gone),
                Poll::Ready(Ok(())) if buffer.filled().is_empty() => Err(Refusal::Gone),
                Poll::Ready(Ok(())) => reader
                    .read(buffer.filled())
                    .map(|hello| Some((hello, buffer.filled().to_vec())))
                    .map_err(Refusal::Hello),
            })
        });
        let mut bytes = match first.await? {
            Some((Some(hello), bytes)) => return Ok((hello, bytes)),
            Some((None, bytes)) => bytes,
            None => Vec::new(),
        };
        let read = async {
            loop {
                // A reader that wants more than this has refused before.
                if bytes.len() > BYTES_MAX {
                    return Err(Refusal::Hello(hello::HelloError::Limit { limit: "bytes", max: hello::HELLO_MAX }));
                }
                bytes.reserve(2048);
                match client.read_buf(&mut bytes).await {
                    Ok(0) | Err(_) => return Err(Refusal::Gone),
                    Ok(_more) => {}
                }
                if let Some(hello) = reader.read(&bytes).map_err(Refusal::Hello)? {
                    return Ok(hello);
                }
            }
        };
        match tokio::time::timeout(HELLO_DEADLINE, read).await {
            Ok(hello) => Ok((hello?, bytes)),
            Err(_elapsed) => Err(Refusal::Timeout),
        }
    }

    async fn forward(&self, core: &Core, client: TcpStream, peer: SocketAddr, route: &Arc<SniRoute>, hello: Vec<u8>) {
        let upstream = match dial::dial(core, route, peer.ip(), &hello).await {
            Ok(connected) => connected,
            Err(error) => {
                self.metrics.upstream_failed(error.as_str());
                self.metrics.count(Outcome::Unreachable);
                tracing::info!(sni = %route.sni, %peer, error = %error, "gateway: no endpoint could be reached");
                return refuse_with(client, &alert::INTERNAL_ERROR).await;
            }
        };
        drop(hello);
        self.metrics.count(Outcome::Forwarded);
        self.metrics.active.inc();
        let _active = Decrement(&self.metrics);
        let ended = tunnel::run(&self.tunnels, &self.scratch, client, upstream, route).await;
        self.metrics.bytes(ended.sent, ended.received);
        tracing::debug!(sni = %route.sni, %peer, sent = ended.sent, received = ended.received, end = ended.why, "gateway: tunnel ended");
    }

    async fn refuse(&self, client: TcpStream, peer: SocketAddr, refusal: Refusal) {
        match refusal {
            // Nothing was sent, so nothing is refused: a port scan, a health check of a load balancer.
            Refusal::Gone => self.metrics.count(Outcome::BadHello),
            Refusal::Timeout => self.metrics.count(Outcome::Timeout),
            Refusal::NoName => {
                tracing::debug!(%peer, "gateway: ClientHello without server name");
                // Counted first: who has the alert finds it counted.
                self.metrics.count(Outcome::NoSni);
                refuse_with(client, &alert::UNRECOGNIZED_NAME).await;
            }
            Refusal::UnknownName(name) => {
                tracing::debug!(%peer, sni = %name, "gateway: unknown server name");
                self.metrics.count(Outcome::UnknownSni);
                refuse_with(client, &alert::UNRECOGNIZED_NAME).await;
            }
            Refusal::Hello(error) => {
                tracing::debug!(%peer, error = %error, "gateway: ClientHello refused");
                self.metrics.count(Outcome::BadHello);
                if error.is_tls() {
                    refuse_with(client, &alert::DECODE_ERROR).await;
                }
            }
        }
    }
}

fn interval(period: Duration) -> Interval {
    let mut every = tokio::time::interval(period);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    every
}

/// Why a connection is not forwarded.
#[derive(Debug)]
enum Refusal {
    /// It ended before its hello did.
    Gone,
    Timeout,
    Hello(hello::HelloError),
    NoName,
    UnknownName(String),
}

/// Counts down when a tunnel ends, however it ends.
struct Decrement<'a>(&'a GatewayMetrics);
impl Drop for Decrement<'_> {
    fn drop(&mut self) {
        self.0.active.dec();
    }
}

fn send(client: &TcpStream, bytes: &[u8]) {
    // Seven bytes fit into the empty send buffer of a new connection; a client that is gone misses nothing.
    let _gone = rustix::net::send(client.as_fd(), bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
}

async fn refuse_with(client: TcpStream, bytes: &[u8]) {
    send(&client, bytes);
    linger(client).await;
}

/// Ends our side and reads until the client ends its own: closing with unread bytes would send a reset, and the client
/// could lose the alert.
async fn linger(mut client: TcpStream) {
    let _ended = socket2::SockRef::from(&client).shutdown(std::net::Shutdown::Write);
    let drain = async {
        let mut left = LINGER_BYTES;
        let mut buffer = [0u8; 1024];
        while left > 0 {
            match client.read(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(count) => left = left.saturating_sub(count),
            }
        }
    };
    let _late = tokio::time::timeout(LINGER, drain).await;
}

#[cfg(test)]
mod tests;
