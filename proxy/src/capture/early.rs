//! Edge. Both ends of a captured connection of which it is not certain yet what its client speaks.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};

use super::detect::{Begins, Inbound, LINE_MAX};
use super::first::Peek;
use super::guarded::Forged;
use crate::passthrough::HELLO_DEADLINE;
use crate::tls::Stream;

/// Bytes that are moved at a time.
const PIECE: usize = 4096;

/// A client whose first bytes are looked at before anybody takes them.
pub(super) trait Client {
    /// Waits for more; `false`: no more will come, or all that is looked at is here. It may be dropped and begun again.
    async fn more(&mut self) -> io::Result<bool>;
    /// What came so far.
    fn bytes(&self) -> &[u8];
    /// Tells the client what its server says.
    async fn say(&mut self, bytes: &[u8]) -> io::Result<()>;
}

impl Client for Peek<'_> {
    async fn more(&mut self) -> io::Result<bool> {
        Peek::more(self).await
    }
    fn bytes(&self) -> &[u8] {
        Peek::bytes(self)
    }
    async fn say(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            self.stream().writable().await?;
            match self.stream().try_write(bytes) {
                Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// A stream whose first bytes can be looked at in no other way than by taking them.
#[derive(Debug)]
pub(super) struct Taken<S> {
    /// The stream.
    pub(super) stream: S,
    /// What was taken of it.
    pub(super) bytes: Vec<u8>,
}

impl<S> Taken<S> {
    /// Nothing yet.
    pub(super) const fn new(stream: S) -> Self {
        Self { stream, bytes: Vec::new() }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client for Taken<S> {
    async fn more(&mut self) -> io::Result<bool> {
        let mut piece = [0u8; PIECE];
        let room = PIECE.min(LINE_MAX.saturating_sub(self.bytes.len()));
        let Some(space) = piece.get_mut(..room).filter(|space| !space.is_empty()) else { return Ok(false) };
        let count = self.stream.read(space).await?;
        self.bytes.extend_from_slice(space.get(..count).unwrap_or_default());
        Ok(count > 0)
    }
    fn bytes(&self) -> &[u8] {
        &self.bytes
    }
    async fn say(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }
}

/// A stream that is read from `at` of the bytes that were taken of it.
#[derive(Debug)]
pub(super) struct Again<S> {
    taken: Taken<S>,
    at: usize,
}

impl<S> Again<S> {
    pub(super) const fn new(taken: Taken<S>, at: usize) -> Self {
        Self { taken, at }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Again<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let left = this.taken.bytes.get(this.at..).unwrap_or_default();
        if left.is_empty() {
            return Pin::new(&mut this.taken.stream).poll_read(cx, buf);
        }
        let piece = left.get(..buf.remaining()).unwrap_or(left);
        buf.put_slice(piece);
        this.at += piece.len();
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Again<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().taken.stream).poll_write(cx, bytes)
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().taken.stream).poll_flush(cx)
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().taken.stream).poll_shutdown(cx)
    }
}

/// What became certain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Settled {
    /// What the client speaks; `None`: it is not served.
    pub(super) begins: Option<Begins>,
    /// Whether the server spoke first.
    pub(super) server_spoke: bool,
    /// So many of the client's bytes have been told to the server.
    pub(super) passed: usize,
}

/// Moves what both sides say until it is certain what the client speaks, however late it does.
///
/// The first bytes of what may still become HTTP are told to the server as they come, since a client may wait for an answer
/// to them (`ruok` of ZooKeeper). A server that speaks, with or without them, is none of HTTP. Those of a hello are told to
/// nobody: it has the time of any handshake.
///
/// # Errors
/// What both ends say; [`Forged`]: a field that only a proxy may write.
pub(super) async fn until_certain(
    client: &mut impl Client,
    upstream: &mut Stream,
    inbound: &mut Inbound,
) -> io::Result<Settled> {
    let (mut server_spoke, mut passed) = (false, 0);
    let mut piece = vec![0u8; PIECE];
    let mut hello = None;
    loop {
        let came = client.bytes();
        if inbound.is_hello(came) {
            hello.get_or_insert_with(|| Box::pin(tokio::time::sleep(HELLO_DEADLINE)));
        } else if came.len() > passed {
            let next = came.get(passed..).unwrap_or_default();
            if !inbound.may_tell(next) {
                return Err(Forged::error());
            }
            upstream.write_all(next).await?;
            upstream.flush().await?;
            passed = came.len();
        }
        if server_spoke && passed > 0 {
            return Ok(Settled { begins: Some(Begins::Plain), server_spoke, passed });
        }
        tokio::select! {
            biased;
            more = client.more() => {
                let is_whole = !more?;
                let bytes = client.bytes();
                let begins = if is_whole { inbound.judge_whole(bytes) } else { inbound.judge(bytes) };
                if is_whole || begins.is_some() {
                    return Ok(Settled { begins, server_spoke, passed });
                }
            }
            read = upstream.read(&mut piece) => {
                let count = read?;
                server_spoke = true;
                if count == 0 {
                    // A server that ends is let end, unless what comes later could be a mesh client's.
                    let begins = (!inbound.awaits_mesh()).then_some(Begins::Plain);
                    return Ok(Settled { begins, server_spoke, passed });
                }
                client.say(piece.get(..count).unwrap_or_default()).await?;
            }
            () = over(hello.as_mut()) => return Ok(Settled { begins: None, server_spoke, passed }),
        }
    }
}

/// The end of a wait, if there is one.
async fn over(wait: Option<&mut Pin<Box<tokio::time::Sleep>>>) {
    match wait {
        Some(wait) => wait.await,
        None => std::future::pending().await,
    }
}

/// Waits until it is certain what the client speaks; `None`: it ended in the middle of a hello, or its connection broke.
pub(super) async fn certain(client: &mut impl Client, inbound: &mut Inbound) -> Option<Begins> {
    loop {
        let is_whole = !client.more().await.ok()?;
        let bytes = client.bytes();
        let begins = if is_whole { inbound.judge_whole(bytes) } else { inbound.judge(bytes) };
        if is_whole || begins.is_some() {
            return begins;
        }
    }
}

#[cfg(test)]
mod tests;
