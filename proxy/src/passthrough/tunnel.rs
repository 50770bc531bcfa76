//! Edge. Copies both ways between client and endpoint, and ends tunnels that are idle or whose name was withdrawn.
//!
//! Ends are kept apart: an end of one side becomes an end on the other (half-close), a reset becomes a reset. All tunnels
//! of a worker share one buffer; a tunnel holds bytes only while its receiver is slower than its sender.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::os::fd::AsFd as _;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use rustix::net::SendFlags;
use tokio::io::{AsyncRead as _, AsyncWrite as _, Interest, ReadBuf};
use tokio::net::TcpStream;

use crate::state::SniRoute;

/// How often tunnels are looked at: ends by limit are this late at most.
pub(super) const TICK: Duration = Duration::from_secs(1);
/// How often while the gateway drains: the pauses between two requests are short.
pub(super) const DRAIN_TICK: Duration = Duration::from_millis(25);

/// Why a tunnel ended that was quiet while its gateway drained.
const DRAINED: &str = "drained";

/// When tunnels are ended, in ticks.
#[derive(Debug, Clone, Copy)]
pub struct SweepLimits {
    /// Without a byte in either direction.
    pub idle: u32,
    /// The same when one side has ended its half.
    pub half_closed_idle: u32,
    /// After the name was withdrawn: below the 30 s that SN12 allows.
    pub withdrawn: u32,
}

impl Default for SweepLimits {
    fn default() -> Self {
        Self { idle: 3600, half_closed_idle: 300, withdrawn: 25 }
    }
}

/// The tunnels of one worker.
#[derive(Debug)]
pub(super) struct Tunnels {
    limits: SweepLimits,
    tick: Cell<u32>,
    /// Counts [`DRAIN_TICK`]s; 0 before the drain.
    drain_tick: Cell<u32>,
    /// Slots with a free list: a tunnel comes and goes without a search.
    slots: RefCell<Vec<Option<Rc<Watched>>>>,
    free: RefCell<Vec<usize>>,
}

#[derive(Debug)]
struct Watched {
    route: Arc<SniRoute>,
    last: Cell<u32>,
    /// As `last`, in [`DRAIN_TICK`]s.
    drain_last: Cell<u32>,
    /// Whether the last bytes were the server's, and nothing is held: what was asked is answered, as far as can be seen.
    answered: Cell<bool>,
    half_closed: Cell<bool>,
    withdrawn_since: Cell<Option<u32>>,
    end: Cell<Option<&'static str>>,
    waker: RefCell<Option<Waker>>,
}

impl Tunnels {
    pub(super) const fn new(limits: SweepLimits) -> Self {
        Self {
            limits,
            tick: Cell::new(0),
            drain_tick: Cell::new(0),
            slots: RefCell::new(Vec::new()),
            free: RefCell::new(Vec::new()),
        }
    }

    fn enter(&self, route: &Arc<SniRoute>) -> (usize, Rc<Watched>) {
        let watched = Rc::new(Watched {
            route: Arc::clone(route),
            last: Cell::new(self.tick.get()),
            drain_last: Cell::new(self.drain_tick.get()),
            answered: Cell::new(false),
            half_closed: Cell::new(false),
            withdrawn_since: Cell::new(None),
            end: Cell::new(None),
            waker: RefCell::new(None),
        });
        let mut slots = self.slots.borrow_mut();
        let free = self.free.borrow_mut().pop();
        let at = match free {
            Some(at) => at,
            None => {
                slots.push(None);
                slots.len() - 1
            }
        };
        if let Some(slot) = slots.get_mut(at) {
            *slot = Some(Rc::clone(&watched));
        }
        (at, watched)
    }

    fn leave(&self, at: usize) {
        if let Some(slot) = self.slots.borrow_mut().get_mut(at) {
            *slot = None;
            self.free.borrow_mut().push(at);
        }
    }

    /// One tick: marks and wakes the tunnels that must end.
    pub(super) fn sweep(&self) {
        let now = self.tick.get().wrapping_add(1);
        self.tick.set(now);
        for watched in self.slots.borrow().iter().flatten() {
            let limit = if watched.half_closed.get() { self.limits.half_closed_idle } else { self.limits.idle };
            let since = watched.withdrawn_since.get();
            if watched.route.is_withdrawn() && since.is_none() {
                watched.withdrawn_since.set(Some(now));
            }
            let end = if now.wrapping_sub(watched.last.get()) >= limit {
                "idle"
            } else if since.is_some_and(|s| now.wrapping_sub(s) >= self.limits.withdrawn) {
                "withdrawn"
            } else {
                continue;
            };
            watched.finish(end);
        }
    }

    /// One tick of a drain that has this much time left: ends the tunnels on which an answer was the last thing that was
    /// said, and which have been quiet since for half of that time. So their clients see the end while they ask nothing,
    /// and what takes its time has nearly all that there is.
    pub(super) fn sweep_draining(&self, left: Duration) {
        let now = self.drain_tick.get().wrapping_add(1);
        self.drain_tick.set(now);
        let ticks = self.tick.get();
        for watched in self.slots.borrow().iter().flatten() {
            let fine = DRAIN_TICK * now.wrapping_sub(watched.drain_last.get());
            let coarse = TICK * ticks.wrapping_sub(watched.last.get()).saturating_sub(1);
            let idle = watched.answered.get() && !watched.half_closed.get();
            if idle && fine.max(coarse) >= left / 2 {
                watched.finish(DRAINED);
            }
        }
    }
}

impl Watched {
    fn finish(&self, why: &'static str) {
        self.end.set(Some(why));
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }
}

/// How a tunnel went.
#[derive(Debug)]
pub(super) struct Ended {
    /// Bytes from the client.
    pub(super) sent: u64,
    /// Bytes to the client.
    pub(super) received: u64,
    /// Why it ended.
    pub(super) why: &'static str,
}

#[derive(Debug, Default)]
struct Half {
    /// Read and not yet written.
    held: Vec<u8>,
    written: usize,
    ended: bool,
    closed: bool,
    /// Nothing is moved after this time: no end follows for which the kernel may wait.
    last: bool,
    moved: u64,
}

struct Leave<'a>(&'a Tunnels, usize);
impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.0.leave(self.1);
    }
}

/// Copies until both sides ended, one was reset, or a limit ends it.
pub(super) async fn run(
    tunnels: &Tunnels,
    scratch: &RefCell<Box<[u8]>>,
    mut client: TcpStream,
    mut upstream: TcpStream,
    route: &Arc<SniRoute>,
) -> Ended {
    let (at, watched) = tunnels.enter(route);
    let _leave = Leave(tunnels, at);
    let (mut up, mut down) = (Half::default(), Half::default());
    let result = poll_fn(|cx| {
        if watched.end.get().is_some() {
            return Poll::Ready(Ok(()));
        }
        if !watched.waker.borrow().as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
            *watched.waker.borrow_mut() = Some(cx.waker().clone());
        }
        let mut scratch = scratch.borrow_mut();
        let before = (up.moved, down.moved);
        let sent = up.transfer(cx, &mut client, &mut upstream, &mut scratch);
        // A server that takes no more may have answered before: that goes first.
        down.last = sent.is_err();
        down.transfer(cx, &mut upstream, &mut client, &mut scratch)?;
        sent?;
        if (up.moved, down.moved) != before {
            watched.last.set(tunnels.tick.get());
            watched.drain_last.set(tunnels.drain_tick.get());
        }
        if up.moved != before.0 {
            watched.answered.set(false);
        } else if down.moved != before.1 {
            watched.answered.set(true);
        }
        watched.half_closed.set(up.is_done() || down.is_done());
        if up.is_done() && down.is_done() {
            // Closing the sockets says the same as ending both halves, with fewer system calls.
            return Poll::Ready(Ok::<(), io::Error>(()));
        }
        up.finish(cx, &mut upstream)?;
        down.finish(cx, &mut client)?;
        Poll::Pending
    })
    .await;
    let why = match (watched.end.get(), &result) {
        (Some(why), _) => why,
        (None, Ok(())) => "end",
        (None, Err(_)) => "reset",
    };
    if !["end", DRAINED].contains(&why) {
        // Neither side may take the end for a complete one. (On a quiet connection it is none of anything, and a reset
        // could overtake what was answered last.)
        for side in [&client, &upstream] {
            let _gone = socket2::SockRef::from(side).set_linger(Some(Duration::ZERO));
        }
    }
    Ended { sent: up.moved, received: down.moved, why }
}

impl Half {
    /// Nothing comes any more, and nothing is held.
    const fn is_done(&self) -> bool {
        self.ended && self.held.is_empty()
    }

    /// Moves what can be moved without waiting.
    fn transfer(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut TcpStream,
        to: &mut TcpStream,
        scratch: &mut [u8],
    ) -> io::Result<()> {
        loop {
            while let Some(rest) = self.held.get(self.written..).filter(|r| !r.is_empty()) {
                let Poll::Ready(count) = Pin::new(&mut *to).poll_write(cx, rest)? else { return Ok(()) };
                self.written += count;
            }
            if self.written > 0 {
                (self.held, self.written) = (Vec::new(), 0);
            }
            if self.ended {
                return Ok(());
            }
            let mut buffer = ReadBuf::new(&mut *scratch);
            let open = fill(cx, from, &mut buffer);
            let filled = buffer.filled();
            if open.is_err() {
                // What came before a reset is passed on before it.
                self.moved += write(cx, to, filled).unwrap_or_default() as u64;
            }
            self.ended = !open?;
            if filled.is_empty() {
                if self.ended {
                    continue;
                }
                return Ok(());
            }
            self.moved += filled.len() as u64;
            let count = if self.ended && !self.last { write_last(to, filled)? } else { write(cx, to, filled)? };
            if let Some(rest) = filled.get(count..).filter(|r| !r.is_empty()) {
                self.held.extend_from_slice(rest);
            }
        }
    }

    /// Ends the other side's half once this one is done.
    fn finish(&mut self, cx: &mut Context<'_>, to: &mut TcpStream) -> io::Result<()> {
        if self.is_done() && !self.closed {
            self.closed = Pin::new(to).poll_shutdown(cx)?.is_ready();
        }
        Ok(())
    }
}

/// Reads until nothing is there, the buffer is full, or the end: `false`. An end that came with the bytes is known
/// before they are sent on.
fn fill(cx: &mut Context<'_>, from: &mut TcpStream, buffer: &mut ReadBuf<'_>) -> io::Result<bool> {
    while buffer.remaining() > 0 {
        let before = buffer.filled().len();
        match Pin::new(&mut *from).poll_read(cx, buffer)? {
            Poll::Pending => return Ok(true),
            Poll::Ready(()) if buffer.filled().len() == before => return Ok(false),
            Poll::Ready(()) => {}
        }
    }
    Ok(true)
}

fn write(cx: &mut Context<'_>, to: &mut TcpStream, bytes: &[u8]) -> io::Result<usize> {
    match Pin::new(to).poll_write(cx, bytes) {
        Poll::Ready(written) => written,
        Poll::Pending => Ok(0),
    }
}

/// Writes what is followed by the end: the kernel waits for that and sends both in one packet. What does not fit is
/// written by [`Half::transfer`], as ever.
fn write_last(to: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    let flags = SendFlags::MORE | SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    match to.try_io(Interest::WRITABLE, || Ok(rustix::net::send(to.as_fd(), bytes, flags)?)) {
        Ok(count) => Ok(count),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        Err(error) => Err(error),
    }
}
