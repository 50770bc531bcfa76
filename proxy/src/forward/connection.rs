//! Edge. One client connection: its requests one after the other, in order.

use std::cell::OnceCell;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use meshfed_runtime::clock;
use tokio::io::AsyncWriteExt as _;

use super::exchange::{self, End};
use super::guest::{Guest, Standing};
use super::pump::{Pump, REPLAY_MAX, write_all};
use super::reply::Reply;
use super::wheel::{SECOND, Timer};
use super::{Core, attempt};
use crate::codec::{HeadEdit, LogContext, Method, Reject, Version, find_head_end, parse_request, request_head};
use crate::pool::ClusterPool;
use crate::route;
use crate::state::{ClusterCell, RouteAction, RouteCell, RoutePolicy};
use crate::telemetry::{AccessRecord, Flag, LogBuffer, Reason, Reporter, Series};
use crate::tls::Stream;

/// Ticks for a request's head, from its first byte (L7-7).
const HEAD_TICKS: u32 = 5 * SECOND;
/// Ticks without a request after which a connection is closed (L7-7).
const IDLE_TICKS: u32 = 60 * SECOND;
/// The longest wait for the end of a connection to be written, and for the noise of a client that was refused.
const CLOSE_TIME: Duration = Duration::from_secs(2);
/// Bytes of such noise that are read and dropped, so that the answer arrives (L7-4).
const NOISE_BYTES: usize = 64 * 1024;
/// How long the rest of a body is read and dropped whose request is answered already: many clients read the answer only once
/// they have sent all, and a socket that is closed meanwhile is reset, which takes the answer along (L7-4). nginx's figures.
const LINGER_TIME: Duration = Duration::from_secs(30);
/// How long that may bring nothing.
const LINGER_IDLE: Duration = Duration::from_secs(5);
/// The longest wait for a client to take an answer of ours.
const REPLY_TIME: Duration = Duration::from_secs(10);

/// What differs between the two sides of a sidecar.
pub struct Side {
    /// Which end we are.
    pub reporter: Reporter,
    /// The route configuration.
    pub routes: Arc<RouteCell>,
    /// The client's address.
    pub client: SocketAddr,
    /// The address that the client dialled, where that decides: a cluster may say that its requests go there.
    pub meant: Option<SocketAddr>,
    /// Whether the client's `x-forwarded-*` are dropped: only mesh peers and the own application are believed.
    pub strip_forwarded: bool,
    /// Complete header lines added to each request.
    pub add: Vec<u8>,
    /// Counters of requests that no endpoint answered; on the inbound side of all requests.
    pub series: Rc<Series>,
    /// The client, where it is a mesh peer: when its trust domain is accepted no longer, its connection ends.
    pub guest: Option<Guest>,
    /// What was read of the connection already, at most 16 KiB.
    pub begun: Vec<u8>,
}

impl std::fmt::Debug for Side {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Side").field("reporter", &self.reporter).field("client", &self.client).finish_non_exhaustive()
    }
}

/// A client connection.
pub(super) struct Connection {
    pub(super) core: Rc<Core>,
    pub(super) client: Stream,
    pub(super) side: Side,
    pub(super) timer: Timer,
    pub(super) request: Pump,
    pub(super) response: Pump,
    /// The pool of the address that the client dialled. It is this connection's own: it ends with it.
    original: OnceCell<Rc<ClusterPool>>,
    scanned: usize,
    /// Whether an empty line before this request was dropped.
    blank_seen: bool,
    /// What the client may have sent that nobody will read.
    unread: Unread,
    /// Whether the deadline of this request's head runs.
    head_begun: bool,
    /// The head's part of the log line, while there is a log.
    log_head: String,
}

/// A request that has somewhere to go; its head is in the request pump.
pub(super) struct Planned {
    pub(super) pool: Rc<ClusterPool>,
    pub(super) method: Method,
    pub(super) version: Version,
    pub(super) persistent: bool,
    pub(super) policy: RoutePolicy,
}

/// How a request was answered.
pub(super) struct Answered {
    pub(super) status: u16,
    pub(super) flag: Flag,
    pub(super) reason: Option<Reason>,
    pub(super) series: Option<Rc<Series>>,
    pub(super) upstream: Option<SocketAddr>,
    pub(super) attempts: u32,
    pub(super) keep: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unread {
    Nothing,
    /// What was no request.
    Noise,
    /// The rest of a request that is answered.
    Body,
}

enum Head {
    /// A complete head of so many bytes.
    Complete(usize),
    /// The client is done, idle for too long, or we drain.
    End,
    /// The head did not arrive in time.
    Slow,
    Refused(Reject),
}

/// Serves a client connection to its end.
pub async fn serve(core: Rc<Core>, client: Stream, side: Side) {
    let _holds_the_drain = core.watch();
    let timer = core.wheel.timer();
    let mut connection = Connection {
        core,
        client,
        side,
        timer,
        request: Pump::default(),
        response: Pump::default(),
        original: OnceCell::new(),
        scanned: 0,
        blank_seen: false,
        unread: Unread::Nothing,
        head_begun: false,
        log_head: String::new(),
    };
    let begun = std::mem::take(&mut connection.side.begun);
    if !begun.is_empty() {
        connection.request.input.space(&connection.core.buffers).extend_from_slice(&begun);
    }
    connection.timer.set(IDLE_TICKS);
    connection.run().await;
}

impl Connection {
    async fn run(&mut self) {
        loop {
            let keep = match poll_fn(|cx| self.poll_request_head(cx)).await {
                Head::Complete(length) => self.is_trusted() && self.serve_one(length).await,
                Head::End => false,
                Head::Slow => {
                    let text = "meshfed closed the connection: the request's head did not arrive within 5 s";
                    self.refuse(Reply::new(408, Flag::DownstreamTimeout, Reason::Timeout, text)).await;
                    false
                }
                Head::Refused(reject) => {
                    self.core.telemetry.refused("downstream", reject.status());
                    self.refuse(Reply::refused(reject)).await;
                    false
                }
            };
            if self.unread == Unread::Nothing && !self.request.input.is_empty() {
                self.unread = Unread::Noise;
            }
            self.request.reset(&self.core.buffers);
            self.response.input.discard(&self.core.buffers);
            self.response.reset(&self.core.buffers);
            if !keep {
                break;
            }
        }
        self.close().await;
    }

    /// Waits for a complete head. While nothing has arrived no buffer is held.
    fn poll_request_head(&mut self, cx: &mut Context<'_>) -> Poll<Head> {
        loop {
            if !self.blank_seen && self.request.input.data().starts_with(b"\r\n") {
                // One empty line before a request is tolerated (RFC 9112 2.2), a second one is no request line.
                self.request.input.consume(2);
                (self.blank_seen, self.scanned) = (true, 0);
            }
            let data = self.request.input.data();
            if data.first().is_some_and(|&b| !b.is_ascii_graphic() && b != b'\r') {
                return Poll::Ready(Head::Refused(Reject::RequestLine));
            }
            match find_head_end(data, &mut self.scanned) {
                Ok(Some(length)) => {
                    (self.scanned, self.blank_seen, self.head_begun) = (0, false, false);
                    return Poll::Ready(Head::Complete(length));
                }
                Ok(None) => {}
                Err(reject) => return Poll::Ready(Head::Refused(reject)),
            }
            let idle = data.is_empty();
            if idle && (self.core.is_draining() || !self.is_trusted()) {
                return Poll::Ready(Head::End);
            }
            if !idle && !self.head_begun {
                self.head_begun = true;
                self.timer.set(HEAD_TICKS);
            }
            match self.client.poll_read_into(cx, self.request.input.space(&self.core.buffers)) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Head::End),
                Poll::Ready(Ok(_)) => {}
                Poll::Pending => {
                    self.request.input.release(&self.core.buffers);
                    return match self.timer.expired(cx) {
                        true if idle => Poll::Ready(Head::End),
                        true => Poll::Ready(Head::Slow),
                        false => Poll::Pending,
                    };
                }
            }
        }
    }

    fn is_trusted(&self) -> bool {
        let all = self.core.state.trust();
        self.side.guest.as_ref().is_none_or(|guest| guest.standing(all) == Standing::Trusted)
    }

    /// Serves the request whose head is complete; `false` closes the connection.
    async fn serve_one(&mut self, length: usize) -> bool {
        let begun = clock::instant();
        let answered = match self.plan(length) {
            Ok(planned) => self.answer(&planned, begun).await,
            Err((reply, version, head_only)) => {
                let keep = !reply.close && !self.core.is_draining();
                self.reply(&reply, version, keep, head_only).await
            }
        };
        self.account(&answered, begun);
        self.unread = if self.request.finished { Unread::Nothing } else { Unread::Body };
        if answered.keep {
            self.timer.set(IDLE_TICKS);
        }
        answered.keep
    }

    /// Parses the head, finds where it goes and writes the head for there. Nothing waits in between.
    fn plan(&mut self, length: usize) -> Result<Planned, (Reply, Version, bool)> {
        let core = Rc::clone(&self.core);
        let mut scratch = core.scratch.borrow_mut();
        let data = self.request.input.data();
        let request = parse_request(data, length, &mut scratch).map_err(|reject| {
            self.core.telemetry.refused("downstream", reject.status());
            LogBuffer::refused_head(&mut self.log_head, data);
            (Reply::refused_head(reject, data), Version::Http11, false)
        })?;
        if self.core.telemetry.access_log().is_some() {
            let context = LogContext::of(data, &request);
            LogBuffer::head(&mut self.log_head, context.method, context.authority, context.path);
        }
        let head_only = request.method == Method::Head;
        let has_body = !matches!(request.body, crate::codec::Body::None | crate::codec::Body::Length(0));
        let planned = self.route(request.authority.of(data)).map(|(pool, policy)| Planned {
            pool,
            method: request.method,
            version: request.version,
            persistent: request.persistent,
            policy,
        });
        let planned = match planned {
            Ok(planned) => planned,
            Err(mut reply) => {
                // A body that nobody reads ends the connection (L7-4).
                reply.close = has_body || !request.persistent;
                let version = request.version;
                self.request.input.consume(length);
                return Err((reply, version, head_only));
            }
        };
        let mut out = core.buffers.take();
        let edit = HeadEdit { strip_identity: true, strip_forwarded: self.side.strip_forwarded, add: &self.side.add };
        request_head(&mut out, data, &request, &scratch, edit);
        self.request.out = out;
        self.request.replay = REPLAY_MAX;
        self.request.decode = exchange::decode(request.body);
        self.request.chunk = request.body == crate::codec::Body::Chunked;
        let version = request.version;
        self.request.input.consume(length);
        self.request.prime().map_err(|error| match error {
            super::pump::PumpError::Malformed(reject) => {
                self.core.telemetry.refused("downstream", reject.status());
                (Reply::refused(reject), version, head_only)
            }
            super::pump::PumpError::Source | super::pump::PumpError::Sink => {
                (Reply::refused(Reject::ChunkEnd), version, head_only)
            }
        })?;
        Ok(planned)
    }

    /// The pool of the cluster that an authority goes to, and how it is tried.
    fn route(&self, authority: &[u8]) -> Result<(Rc<ClusterPool>, RoutePolicy), Reply> {
        let shown = || String::from_utf8_lossy(authority).into_owned();
        let table = self.side.routes.load();
        let mut key = self.core.key.borrow_mut();
        match table.as_ref().and_then(|t| route::find(t, authority, &mut key)) {
            None => {
                let ports = table.as_ref().map(|t| route::ports_of(t, authority)).unwrap_or_default();
                let text = route::unknown(&shown(), &ports);
                Err(Reply::new(404, Flag::NoRoute, Reason::NoRoute, text))
            }
            Some(RouteAction::Respond(status)) => {
                let text = format!("meshfed: '{}' is not served by this workload", shown());
                Err(Reply::new(*status, Flag::NoRoute, Reason::NoRoute, text))
            }
            Some(RouteAction::Cluster(cell, policy)) => match self.pool(cell) {
                Some(pool) => Ok((pool, *policy)),
                None => {
                    let text = format!("meshfed knows the service '{}' and none of its endpoints", shown());
                    Err(Reply::new(503, Flag::NoHealthyUpstream, Reason::NoEndpoints, text))
                }
            },
        }
    }

    fn pool(&self, cell: &Arc<ClusterCell>) -> Option<Rc<ClusterPool>> {
        if let Some(meant) = self.side.meant
            && let Some(cluster) = cell.get().filter(|cluster| cluster.original_destination)
        {
            return Some(Rc::clone(self.original.get_or_init(|| Rc::new(ClusterPool::of_one(&cluster, meant)))));
        }
        self.core.clusters.pool(cell)
    }

    /// Sends an answer of our own.
    pub(super) async fn reply(&mut self, reply: &Reply, version: Version, keep: bool, head_only: bool) -> Answered {
        let bytes = reply.render(version, keep, head_only);
        let written = tokio::time::timeout(REPLY_TIME, write_all(&mut self.client, &bytes)).await;
        let written = matches!(written, Ok(Ok(())));
        if written && !head_only {
            self.response.moved += reply.body_length();
        }
        Answered {
            status: reply.status,
            flag: reply.flag,
            reason: Some(reply.reason),
            series: None,
            upstream: None,
            attempts: 0,
            keep: keep && written,
        }
    }

    /// Answers what was no request.
    async fn refuse(&mut self, reply: Reply) {
        self.unread = Unread::Noise;
        let begun = clock::instant();
        LogBuffer::head(&mut self.log_head, b"", b"", b"");
        let answered = self.reply(&reply.closing(), Version::Http11, false, false).await;
        self.account(&answered, begun);
    }

    async fn answer(&mut self, planned: &Planned, begun: Instant) -> Answered {
        match attempt::run(self, planned, begun).await {
            Ok(answered) => answered,
            Err(unanswered) => {
                let attempt::Unanswered { reply, attempts } = *unanswered;
                // The request may have been read in part only.
                let keep = planned.persistent && !reply.close && self.request.finished && !self.core.is_draining();
                let series = attempt::unanswered(self, planned);
                let head_only = planned.method == Method::Head;
                Answered {
                    series: Some(series),
                    attempts,
                    ..self.reply(&reply, planned.version, keep, head_only).await
                }
            }
        }
    }

    fn account(&self, answered: &Answered, begun: Instant) {
        let duration = clock::instant().saturating_duration_since(begun);
        let series = answered.series.as_ref().unwrap_or(&self.side.series);
        series.record(answered.status, answered.flag, duration, self.request.moved, self.response.moved);
        if let Some(log) = self.core.telemetry.access_log() {
            let record = AccessRecord {
                head: &self.log_head,
                parties: &series.parties,
                status: answered.status,
                flag: answered.flag,
                reason: answered.reason,
                received: self.request.moved,
                sent: self.response.moved,
                duration,
                client: self.side.client,
                upstream: answered.upstream,
                attempts: answered.attempts,
            };
            self.core.log.borrow_mut().push(log, clock::wall(), &record);
        }
    }

    /// Ends the connection so that what was written arrives: a socket closed with unread input is reset.
    async fn close(&mut self) {
        let (mut left, limit) = match self.unread {
            Unread::Nothing => (0, CLOSE_TIME),
            Unread::Noise => (NOISE_BYTES, CLOSE_TIME),
            Unread::Body => (usize::MAX, LINGER_TIME),
        };
        let _gone_already = tokio::time::timeout(limit, async {
            self.client.shutdown().await?;
            while left > 0 {
                match tokio::time::timeout(LINGER_IDLE, poll_fn(|cx| self.poll_discard(cx))).await {
                    Ok(Ok(n)) if n > 0 => left = left.saturating_sub(n),
                    Ok(_) | Err(_) => break,
                }
            }
            Ok::<(), std::io::Error>(())
        })
        .await;
        self.request.input.discard(&self.core.buffers);
    }

    fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<usize>> {
        self.request.input.discard(&self.core.buffers);
        let n = ready!(self.client.poll_read_into(cx, self.request.input.space(&self.core.buffers)));
        Poll::Ready(n)
    }
}

/// The flag and reason of an exchange that did not complete.
pub(super) fn failure(end: End) -> (Flag, Option<Reason>) {
    match end {
        End::Complete => (Flag::None, None),
        End::NoAnswer | End::Broken => (Flag::UpstreamConnectionTermination, Some(Reason::UpstreamReset)),
        End::Timeout => (Flag::UpstreamRequestTimeout, Some(Reason::Timeout)),
        End::Malformed(_) => (Flag::UpstreamProtocolError, Some(Reason::UpstreamReset)),
        End::ClientGone => (Flag::DownstreamConnectionTermination, None),
        End::ClientMalformed(_) => (Flag::DownstreamProtocolError, Some(Reason::Denied)),
        End::ClientTimeout => (Flag::DownstreamTimeout, Some(Reason::Timeout)),
        End::ClientUntrusted | End::UpstreamUntrusted => (Flag::LocalReset, Some(Reason::Denied)),
        End::NotServed => (Flag::None, Some(Reason::UpstreamConnect)),
    }
}
