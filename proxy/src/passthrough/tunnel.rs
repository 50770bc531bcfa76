//! Edge. Copies both ways between client and endpoint, and ends tunnels that are idle or whose name was withdrawn.
//!
//! Ends are kept apart: an end of one side becomes an end on the other (half-close), a reset becomes a reset. All tunnels
//! of a worker share one buffer; a tunnel holds bytes only while its receiver is slower than its sender.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::net::TcpStream;

use crate::state::SniRoute;

/// How often tunnels are looked at: ends by limit are this late at most.
pub(super) const TICK: Duration = Duration::from_secs(1);

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
    /// Slots with a free list: a tunnel comes and goes without a search.
    slots: RefCell<Vec<Option<Rc<Watched>>>>,
    free: RefCell<Vec<usize>>,
}

#[derive(Debug)]
struct Watched {
    route: Arc<SniRoute>,
    last: Cell<u32>,
    half_closed: Cell<bool>,
    withdrawn_since: Cell<Option<u32>>,
    end: Cell<Option<&'static str>>,
    waker: RefCell<Option<Waker>>,
}

impl Tunnels {
    pub(super) const fn new(limits: SweepLimits) -> Self {
        Self { limits, tick: Cell::new(0), slots: RefCell::new(Vec::new()), free: RefCell::new(Vec::new()) }
    }

    fn enter(&self, route: &Arc<SniRoute>) -> (usize, Rc<Watched>) {
        let watched = Rc::new(Watched {
            route: Arc::clone(route),
            last: Cell::new(self.tick.get()),
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
            watched.end.set(Some(end));
            if let Some(waker) = watched.waker.borrow().as_ref() {
                waker.wake_by_ref();
            }
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
        let before = up.moved + down.moved;
        let a = up.poll(cx, &mut client, &mut upstream, &mut scratch, down.ended)?;
        let b = down.poll(cx, &mut upstream, &mut client, &mut scratch, up.ended)?;
        if up.moved + down.moved != before {
            watched.last.set(tunnels.tick.get());
        }
        watched.half_closed.set(a.is_ready() || b.is_ready());
        if a.is_ready() && b.is_ready() { Poll::Ready(Ok::<(), io::Error>(())) } else { Poll::Pending }
    })
    .await;
    let why = match (watched.end.get(), &result) {
        (Some(why), _) => why,
        (None, Ok(())) => "end",
        (None, Err(_)) => "reset",
    };
    if why != "end" {
        // Neither side may take the end for a complete one.
        for side in [&client, &upstream] {
            let _gone = socket2::SockRef::from(side).set_linger(Some(Duration::ZERO));
        }
    }
    Ended { sent: up.moved, received: down.moved, why }
}

impl Half {
    /// Moves what can be moved; ready when `from` has ended and `to` knows, or will know by the close.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut TcpStream,
        to: &mut TcpStream,
        scratch: &mut [u8],
        other_ended: bool,
    ) -> Poll<io::Result<()>> {
        loop {
            while let Some(rest) = self.held.get(self.written..).filter(|r| !r.is_empty()) {
                let count = ready!(Pin::new(&mut *to).poll_write(cx, rest))?;
                self.written += count;
            }
            if self.written > 0 {
                (self.held, self.written) = (Vec::new(), 0);
            }
            if self.ended {
                // Where both sides have ended, closing the sockets says the same with a system call less.
                if !self.closed && !other_ended {
                    ready!(Pin::new(&mut *to).poll_shutdown(cx))?;
                    self.closed = true;
                }
                return Poll::Ready(Ok(()));
            }
            let mut buffer = ReadBuf::new(&mut *scratch);
            ready!(Pin::new(&mut *from).poll_read(cx, &mut buffer))?;
            let filled = buffer.filled();
            if filled.is_empty() {
                self.ended = true;
                continue;
            }
            self.moved += filled.len() as u64;
            let count = match Pin::new(&mut *to).poll_write(cx, filled) {
                Poll::Ready(written) => written?,
                Poll::Pending => 0,
            };
            if let Some(rest) = filled.get(count..).filter(|r| !r.is_empty()) {
                self.held.extend_from_slice(rest);
            }
        }
    }
}
