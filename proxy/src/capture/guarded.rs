//! Edge. A client whose bytes are carried as they are, until a header field is among them that only a proxy may write.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::fields::Fields;
use crate::forward::Core;

/// A stream of which nothing more is read once such a field has come; the bytes that it came with are not passed on.
#[derive(Debug)]
pub(super) struct Guarded<S> {
    stream: S,
    /// `None`: the port says that it is no HTTP.
    fields: Option<Fields>,
    refused: bool,
}

impl<S> Guarded<S> {
    pub(super) const fn new(stream: S, fields: Option<Fields>) -> Self {
        Self { stream, fields, refused: false }
    }
    /// Says why the connection was ended, where that was us.
    pub(super) fn tell(&self, core: &Core, peer: SocketAddr, meant: SocketAddr) {
        if self.refused {
            refuse(core, peer, meant);
        }
    }
}

/// Counts and says that a connection was ended for such a field.
pub(super) fn refuse(core: &Core, peer: SocketAddr, meant: SocketAddr) {
    core.telemetry.denied("inbound", "forged_field");
    tracing::info!(
        %peer,
        port = meant.port(),
        "a connection was ended: what it said is no HTTP/1 that we know, and holds a header field that only a proxy may write. \
         Name the port http-… where it is HTTP, and tcp-… where it is not"
    );
}

/// What ends a connection whose client wrote such a field.
#[derive(Debug, thiserror::Error)]
#[error("a header field that only a proxy may write")]
pub(super) struct Forged;

impl Forged {
    pub(super) fn error() -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, Self)
    }
    pub(super) fn is(error: &io::Error) -> bool {
        error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<Self>)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        let came = buf.filled().get(before..).unwrap_or_default();
        if this.fields.as_mut().is_some_and(|fields| fields.has_come(came)) {
            this.refused = true;
            buf.set_filled(before);
            return Poll::Ready(Err(Forged::error()));
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
