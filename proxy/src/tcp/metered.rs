//! Edge. The client's side of a raw TCP connection, whose bytes are counted as they move: a long connection shows, and one
//! that breaks loses nothing.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::telemetry::TcpCell;

/// A counted stream.
#[derive(Debug)]
pub(super) struct Metered<'a, S> {
    inner: &'a mut S,
    cell: &'a TcpCell,
}

impl<'a, S> Metered<'a, S> {
    pub(super) const fn new(inner: &'a mut S, cell: &'a TcpCell) -> Self {
        Self { inner, cell }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<'_, S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut *this.inner).poll_read(cx, buf))?;
        this.cell.bytes(0, (buf.filled().len() - before) as u64);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<'_, S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut *this.inner).poll_write(cx, bytes))?;
        this.cell.bytes(written as u64, 0);
        Poll::Ready(Ok(written))
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.get_mut().inner).poll_flush(cx)
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.get_mut().inner).poll_shutdown(cx)
    }
}
