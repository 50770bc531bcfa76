//! Edge. A connection that is cut when it floods, is silent after its handshake, or is too old.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::stall::is_stall;
use super::{ConnectionLimits, Cut, Meter, OnCut, Streams};
use crate::clock;

/// How often streams are looked at within the time that one may wait.
const LOOKS: u32 = 4;

/// A connection under [`ConnectionLimits`]; made when the handshake is over. HTTP/2 is known by its preface, so that
/// other protocols pass uncounted.
pub struct Guarded<T> {
    io: T,
    meter: Meter,
    first_request: Option<Pin<Box<Sleep>>>,
    age: Option<Pin<Box<Sleep>>>,
    streams: Streams,
    write_stall: Duration,
    /// When to look at the streams again.
    look: Pin<Box<Sleep>>,
    cut: Option<Cut>,
    on_cut: OnCut,
}

impl<T> Guarded<T> {
    /// Guards `io` from now on.
    #[must_use]
    pub fn new(io: T, limits: &ConnectionLimits, on_cut: OnCut) -> Self {
        Self {
            io,
            meter: Meter::new(limits),
            first_request: Some(Box::pin(sleep(limits.first_request))),
            age: limits.age.map(|age| Box::pin(sleep(age))),
            streams: Streams::default(),
            write_stall: limits.write_stall,
            look: Box::pin(sleep(limits.write_stall / LOOKS)),
            cut: None,
            on_cut,
        }
    }

    /// The streams of this connection, for the bodies of its responses.
    #[must_use]
    pub fn streams(&self) -> Streams {
        self.streams.clone()
    }

    fn cut(&mut self, cut: Cut) -> io::Error {
        if self.cut.is_none() {
            self.cut = Some(cut);
            (self.on_cut)(cut);
        }
        io::Error::new(io::ErrorKind::ConnectionAborted, cut)
    }

    /// Tells of a stall that the socket below has found.
    fn told<R>(&mut self, polled: Poll<io::Result<R>>) -> Poll<io::Result<R>> {
        match polled {
            Poll::Ready(Err(error)) if is_stall(&error) => Poll::Ready(Err(self.cut(Cut::WriteStall))),
            other @ (Poll::Ready(_) | Poll::Pending) => other,
        }
    }
}

impl<T: AsyncWrite + Unpin> Guarded<T> {
    /// Cuts, and tells the peer why. Best effort: where the library is in the middle of a frame, or the socket takes
    /// nothing now, nothing is said.
    fn say_and_cut(&mut self, cut: Cut, cx: &mut Context<'_>) -> io::Error {
        if self.cut.is_none()
            && let Some(frame) = self.meter.goaway(cut.code())
            && let Poll::Ready(Ok(_)) = Pin::new(&mut self.io).poll_write(cx, &frame)
        {
            let _as_far_as_it_goes = Pin::new(&mut self.io).poll_flush(cx);
        }
        self.cut(cut)
    }

    /// Fails when a deadline is over; else the task is woken at the next one.
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if let Some(cut) = self.cut {
            return Err(self.cut(cut));
        }
        if self.meter.has_spoken() {
            self.first_request = None;
        }
        let over = |timer: &mut Option<Pin<Box<Sleep>>>, cx: &mut Context<'_>| {
            timer.as_mut().is_some_and(|timer| timer.as_mut().poll(cx).is_ready())
        };
        if over(&mut self.first_request, cx) {
            return Err(self.say_and_cut(Cut::FirstRequest, cx));
        }
        if over(&mut self.age, cx) {
            return Err(self.say_and_cut(Cut::Age, cx));
        }
        while self.look.as_mut().poll(cx).is_ready() {
            if self.streams.has_waited(self.write_stall, clock::instant()) {
                return Err(self.cut(Cut::WriteStall));
            }
            let next = tokio::time::Instant::now() + self.write_stall / LOOKS;
            self.look.as_mut().reset(next);
        }
        Ok(())
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Guarded<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        let before = buf.filled().len();
        match Pin::new(&mut self.io).poll_read(cx, buf) {
            Poll::Ready(Ok(())) => {
                let new = buf.filled().get(before..).unwrap_or_default();
                let counted = self.meter.received(new, clock::instant());
                Poll::Ready(counted.map_err(|flood| self.say_and_cut(Cut::Flood(flood), cx)))
            }
            other @ (Poll::Ready(Err(_)) | Poll::Pending) => other,
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Guarded<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        let written = Pin::new(&mut self.io).poll_write(cx, buf);
        if let Poll::Ready(Ok(count)) = &written {
            self.meter.sent(buf.get(..*count).unwrap_or(buf));
        }
        self.told(written)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.io).poll_flush(cx);
        self.told(flushed)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        if let Poll::Ready(Ok(count)) = &written {
            let mut left = *count;
            for buf in bufs {
                let part = left.min(buf.len());
                self.meter.sent(buf.get(..part).unwrap_or_default());
                left -= part;
            }
        }
        self.told(written)
    }
    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
