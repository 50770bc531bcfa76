//! Edge. One request and its answer between two connections, both directions at once.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::ReadBuf;

use super::Core;
use super::guest::{Guest, Standing, holds};
use super::pump::{Decode, Pump, PumpError};
use super::wheel::{SECOND, Timer};
use crate::codec::{
    self, ChunkedDecoder, HeadEdit, Method, Reject, ResponseBody, Version, find_head_end, parse_response, response_head,
};
use crate::telemetry::Reason;
use crate::tls::Stream;

/// Interim responses before the final one; more are an attack on our patience.
const INTERIM_MAX: u8 = 16;
/// How often a waiting exchange is looked at, in ticks.
const LOOK: u32 = 10 * SECOND;
/// Bytes per second that a client must send of a body, after the first [`LOOK`] (L7-7).
const BODY_RATE: u64 = 1024;
/// The longest time to receive a request, in ticks (L7-7).
const REQUEST_TICKS: u32 = 300 * SECOND;
/// The longest wait between pieces of an answer, in ticks (Envoy's stream idle timeout). How long the answer as a whole
/// may take is the route's to say.
const ANSWER_TICKS: u32 = 300 * SECOND;
/// How long a request goes on whose peer the port accepts no longer: with the look before it below the 30 s of SN12.
const WITHDRAWN_TICKS: u32 = 20 * SECOND;
/// The longest time for which a client may take nothing of an answer, in ticks (L7-7, L7-16).
const STALL_TICKS: u32 = 60 * SECOND;

/// How an exchange ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The whole answer is with the client.
    Complete,
    /// The upstream ended or broke before an answer.
    NoAnswer,
    /// The upstream took too long to answer.
    Timeout,
    /// The upstream's answer is malformed.
    Malformed(Reject),
    /// The upstream ended, broke or stalled in the middle of the answer.
    Broken,
    /// The client went away or stalled.
    ClientGone,
    /// The client's body is malformed.
    ClientMalformed(Reject),
    /// The client's body did not arrive in time.
    ClientTimeout,
    /// The client's trust domain is accepted no longer.
    ClientUntrusted,
    /// No bundle of the upstream's trust domain is held any more.
    UpstreamUntrusted,
    /// The upstream's proxy says that the request reached no application, or that one ended it without an answer and it may
    /// be done twice; and it can be sent again. Nothing was taken: polled again, the exchange goes on with that answer.
    NotServed,
}

/// One exchange.
#[derive(Debug)]
pub(super) struct Exchange<'a> {
    pub(super) core: &'a Core,
    pub(super) timer: &'a Timer,
    pub(super) client: &'a mut Stream,
    pub(super) upstream: &'a mut Stream,
    /// Client to upstream.
    pub(super) request: &'a mut Pump,
    /// Upstream to client.
    pub(super) response: &'a mut Pump,
    pub(super) method: Method,
    pub(super) version: Version,
    /// Whether the client's connection stays afterwards.
    pub(super) keep: bool,
    /// Leaves out `x-meshfed-*` of the answer: no mesh proxy wrote them.
    pub(super) strip_identity: bool,
    /// Whether the upstream is a mesh peer whose word about what it reached counts.
    pub(super) heed: bool,
    /// Whether the request may be done twice, if an application may have had it.
    pub(super) repeatable: bool,
    /// The client, where it is a mesh peer.
    pub(super) guest: Option<&'a Guest>,
    /// Ticks from the end of the request to the end of the answer, where the route limits them.
    pub(super) limit: Option<u32>,
    /// When that time is over; set once the request is complete, by this attempt or one before.
    pub(super) deadline: Option<u32>,
    pub(super) state: State,
}

/// How far an exchange is.
#[derive(Debug, Default)]
pub(super) struct State {
    request_done: bool,
    request_failed: bool,
    scanned: usize,
    interim: u8,
    /// The final status, once its head is on its way to the client.
    pub(super) status: Option<u16>,
    persistent: bool,
    /// What the upstream's proxy said about an answer of its own: why it is none of an application.
    pub(super) said: Option<Reason>,
    /// The number of the trust that both peers were last seen to have.
    pub(super) trust_seen: u64,
    /// When the port was seen to accept the client no longer.
    withdrawn_at: Option<u32>,
    begun: u32,
    /// When something last moved, as seen by [`Exchange::look`].
    moved_at: u32,
    moved: u64,
}

impl State {
    /// At the begin; `trust_seen` is the number of the trust that the client was last seen to have.
    pub(super) fn new(trust_seen: u64) -> Self {
        Self { trust_seen, ..Self::default() }
    }
}

impl Exchange<'_> {
    /// Whether the upstream connection can serve another request (L7-14).
    pub(super) fn is_reusable(&self) -> bool {
        self.state.persistent && self.state.request_done && !self.state.request_failed && self.response.input.is_empty()
    }
    /// Whether the request was received and forwarded to its end.
    pub(super) const fn is_request_done(&self) -> bool {
        self.state.request_done && self.request.finished
    }
    /// Whether a part of an answer went to the client, so that it can get no other one.
    pub(super) fn is_answer_begun(&self) -> bool {
        if self.state.status.is_some() { self.response.wrote } else { !self.response.is_written() }
    }
    /// Sets the first look at a waiting exchange.
    pub(super) fn begin(&mut self) {
        self.state.begun = self.timer.now();
        self.state.moved_at = self.state.begun;
        self.wait();
    }
    /// Sets the next look.
    fn wait(&self) {
        let left = self.deadline.map_or(LOOK, |deadline| deadline.saturating_sub(self.timer.now()));
        self.timer.set(LOOK.min(left));
    }

    /// Moves both directions on.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let trust = self.core.trust_changes();
        if trust != self.state.trust_seen {
            self.state.trust_seen = trust;
            if let Some(end) = self.look_at_peers() {
                return Poll::Ready(end);
            }
        }
        if self.timer.expired(cx) {
            if let Some(end) = self.look(cx) {
                return Poll::Ready(end);
            }
            // Not yet; wakes us at the next look.
            let _set_above = self.timer.expired(cx);
        }
        if !self.state.request_done
            && let Some(end) = self.poll_request(cx)
        {
            return Poll::Ready(end);
        }
        if self.state.status.is_none()
            && let Err(end) = ready!(self.poll_head(cx))
        {
            return Poll::Ready(end);
        }
        Poll::Ready(match ready!(self.response.poll(cx, self.upstream, self.client, &self.core.buffers)) {
            Ok(()) => End::Complete,
            Err(PumpError::Sink) => End::ClientGone,
            Err(PumpError::Malformed(reject)) if !self.response.wrote => End::Malformed(reject),
            Err(PumpError::Source | PumpError::Malformed(_)) => End::Broken,
        })
    }

    fn poll_request(&mut self, cx: &mut Context<'_>) -> Option<End> {
        match self.request.poll(cx, self.client, self.upstream, &self.core.buffers) {
            Poll::Pending => None,
            Poll::Ready(Ok(())) => {
                self.state.request_done = true;
                self.state.moved_at = self.timer.now();
                if let (Some(limit), None) = (self.limit, self.deadline) {
                    self.deadline = Some(self.state.moved_at.saturating_add(limit));
                    self.wait();
                    // Wakes us at the deadline.
                    let _set_above = self.timer.expired(cx);
                }
                None
            }
            // The upstream takes no more; perhaps it has answered already.
            Poll::Ready(Err(PumpError::Sink)) => {
                self.state.request_done = true;
                self.state.request_failed = true;
                None
            }
            Poll::Ready(Err(PumpError::Source)) => Some(End::ClientGone),
            Poll::Ready(Err(PumpError::Malformed(reject))) => Some(End::ClientMalformed(reject)),
        }
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        loop {
            let head = find_head_end(self.response.input.data(), &mut self.state.scanned);
            if let Some(length) = head.map_err(End::Malformed)? {
                if self.take_head(length)? {
                    return Poll::Ready(Ok(()));
                }
                continue;
            }
            // An interim response goes out while we wait for the final one.
            if !self.response.is_written()
                && self.response.poll_out(cx, self.client).map_err(|_gone| End::ClientGone)?.is_ready()
            {
                let _later = Pin::new(&mut *self.client).poll_flush_now(cx);
            }
            match ready!(self.upstream.poll_read_into(cx, self.response.input.space(&self.core.buffers))) {
                Ok(0) | Err(_) => return Poll::Ready(Err(End::NoAnswer)),
                Ok(_) => {}
            }
        }
    }

    /// Takes a complete head of `length` bytes; `true` when it is the final one.
    fn take_head(&mut self, length: usize) -> Result<bool, End> {
        let mut scratch = self.core.scratch.borrow_mut();
        let data = self.response.input.data();
        let head = parse_response(data, length, self.method, &mut scratch).map_err(End::Malformed)?;
        if head.status == 503 && self.heed && self.state.said.is_none() {
            self.state.said = scratch.value_of(data, super::REASON_HEADER).and_then(Reason::of_peer);
            let again = self.state.said.is_some_and(|said| said.reached_nobody() || self.repeatable);
            let untouched = self.response.out.is_empty() && !self.response.wrote;
            if again && untouched && self.request.is_replayable() {
                return Err(End::NotServed);
            }
        }
        if self.response.is_written() {
            self.response.out.clear();
            self.response.sent = 0;
        }
        if self.response.out.capacity() == 0 {
            self.response.out = self.core.buffers.take();
        }
        let edit = HeadEdit { strip_identity: self.strip_identity, ..HeadEdit::default() };
        if head.is_interim() {
            self.state.interim += 1;
            if self.state.interim > INTERIM_MAX {
                return Err(End::Malformed(Reject::Status));
            }
            if self.version == Version::Http11 {
                response_head(&mut self.response.out, data, &head, &scratch, self.version, true, edit);
            }
            self.response.input.consume(length);
            return Ok(false);
        }
        let unframed = matches!(head.body, ResponseBody::Chunked | ResponseBody::Close);
        // After an answer that comes before the body has, the connection ends (L7-4), and the client is told.
        if (unframed && self.version == Version::Http10) || !self.state.request_done || self.core.is_draining() {
            self.keep = false;
        }
        response_head(&mut self.response.out, data, &head, &scratch, self.version, self.keep, edit);
        self.response.chunk = unframed && self.version == Version::Http11;
        self.response.decode = match head.body {
            ResponseBody::None(_) => Decode::None,
            ResponseBody::Length(n) => Decode::Length(n),
            ResponseBody::Chunked => Decode::Chunked(ChunkedDecoder::default()),
            ResponseBody::Close => Decode::Close,
        };
        self.state.persistent = head.persistent;
        self.state.status = Some(head.status);
        self.response.input.consume(length);
        drop(scratch);
        if self.response.sent == 0 {
            // Interim responses were complete: they are no part of this answer.
            self.response.wrote = false;
        }
        self.response.prime().map_err(|error| match error {
            PumpError::Malformed(reject) if !self.response.wrote => End::Malformed(reject),
            PumpError::Malformed(_) | PumpError::Source | PumpError::Sink => End::Broken,
        })?;
        Ok(true)
    }

    /// Looks at an exchange that has been under way for a while.
    fn look(&mut self, cx: &mut Context<'_>) -> Option<End> {
        let now = self.timer.now();
        if self.deadline.is_some_and(|deadline| now >= deadline) {
            return Some(End::Timeout);
        }
        if self.state.withdrawn_at.is_some_and(|at| now.saturating_sub(at) >= WITHDRAWN_TICKS)
            && let Some(guest) = self.guest
            && guest.standing(self.core.state.trust()) != Standing::Trusted
        {
            return Some(End::ClientUntrusted);
        }
        self.wait();
        let moved = self.request.moved + self.response.moved + self.request.sent as u64 + self.response.sent as u64;
        if moved != self.state.moved {
            self.state.moved = moved;
            self.state.moved_at = now;
        }
        let still = now.saturating_sub(self.state.moved_at);
        if !self.state.request_done {
            let elapsed = now.saturating_sub(self.state.begun);
            let waits_for_client = self.request.is_written() && self.request.input.is_empty();
            let due = u64::from(elapsed.saturating_sub(LOOK) / SECOND) * BODY_RATE;
            if elapsed >= REQUEST_TICKS || (waits_for_client && self.request.moved < due) {
                return Some(End::ClientTimeout);
            }
        }
        if self.state.status.is_none() {
            return self.is_client_gone(cx).then_some(End::ClientGone);
        }
        let waits_for_client = !self.response.is_written() || !self.response.input.is_empty();
        match waits_for_client {
            true if still >= STALL_TICKS => Some(End::ClientGone),
            false if still >= ANSWER_TICKS => Some(End::Broken),
            true | false => None,
        }
    }

    /// Looks whether both ends are still trusted, after bundles changed (INV-12).
    fn look_at_peers(&mut self) -> Option<End> {
        let all = self.core.state.trust();
        match self.guest.map(|guest| guest.standing(all)) {
            Some(Standing::Evicted) => return Some(End::ClientUntrusted),
            Some(Standing::Withdrawn) if self.state.withdrawn_at.is_none() => {
                self.state.withdrawn_at = Some(self.timer.now());
            }
            Some(Standing::Withdrawn) => {}
            Some(Standing::Trusted) | None => self.state.withdrawn_at = None,
        }
        let upstream = self.upstream.peer()?;
        all.is_some_and(|all| !holds(all, &upstream.trust_domain)).then_some(End::UpstreamUntrusted)
    }

    /// Whether the client ended its side while it waits for the answer.
    fn is_client_gone(&self, cx: &mut Context<'_>) -> bool {
        let mut probe = [0u8; 1];
        let mut probe = ReadBuf::new(&mut probe);
        matches!(self.client.tcp().poll_peek(cx, &mut probe), Poll::Ready(Ok(0) | Err(_)))
    }
}

trait FlushNow {
    fn poll_flush_now(self, cx: &mut Context<'_>) -> bool;
}

impl FlushNow for Pin<&mut Stream> {
    fn poll_flush_now(self, cx: &mut Context<'_>) -> bool {
        use tokio::io::AsyncWrite as _;
        self.poll_flush(cx).is_ready()
    }
}

/// The decoder of a request's body.
pub(super) fn decode(body: codec::Body) -> Decode {
    match body {
        codec::Body::None => Decode::None,
        codec::Body::Length(n) => Decode::Length(n),
        codec::Body::Chunked => Decode::Chunked(ChunkedDecoder::default()),
    }
}
