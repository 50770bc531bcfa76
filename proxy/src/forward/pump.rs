//! Edge. One direction of one message: reads, unframes, frames anew, writes; never holds more than a buffer.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite as _;

use super::buffer::{Buffer, Buffers};
use crate::codec::{CHUNK_END, ChunkedDecoder, Reject, chunk_head};
use crate::tls::Stream;

/// Body bytes that are copied behind a head, so that head and body leave in one write; longer bodies are written from
/// the buffer that they were read into.
const COALESCE: usize = 16 * 1024;
/// Bytes of a request that are kept for another attempt, its head included; a longer one is sent once. With what is put
/// behind it at once a request holds 48 KiB at most.
pub(super) const REPLAY_MAX: usize = 32 * 1024;

/// How the end of the body is found.
#[derive(Debug, Default)]
pub(super) enum Decode {
    /// There is no body.
    #[default]
    None,
    /// So many bytes are left.
    Length(u64),
    /// Chunks.
    Chunked(ChunkedDecoder),
    /// Until the source ends.
    Close,
}

/// Why a direction stopped.
#[derive(Debug)]
pub(super) enum PumpError {
    /// Reading failed, or ended before the body did.
    Source,
    /// The body is malformed.
    Malformed(Reject),
    /// Writing failed.
    Sink,
}

/// One direction.
#[derive(Debug, Default)]
pub(super) struct Pump {
    /// How the source frames the body.
    pub(super) decode: Decode,
    /// Whether it goes on as chunks.
    pub(super) chunk: bool,
    /// Read, not decoded.
    pub(super) input: Buffer,
    /// To be written: the head, then pieces of the body.
    pub(super) out: Vec<u8>,
    /// Bytes of `out` that were written.
    pub(super) sent: usize,
    /// The body was decoded to its end.
    pub(super) finished: bool,
    /// The sink may hold bytes that it took and did not send (TLS).
    unflushed: bool,
    /// Payload bytes that went through.
    pub(super) moved: u64,
    /// Whether any byte was written.
    pub(super) wrote: bool,
    /// So many bytes stay in `out` after they were written.
    pub(super) replay: usize,
    /// A part of the message is no longer in `out`.
    lost: bool,
}

impl Pump {
    /// Whether all that was decoded has been written.
    pub(super) fn is_written(&self) -> bool {
        self.sent >= self.out.len()
    }
    /// Begins with the head that is in `out`: puts what has arrived of the body behind it.
    pub(super) fn prime(&mut self) -> Result<(), PumpError> {
        if matches!(self.decode, Decode::None | Decode::Length(0)) {
            self.finished = true;
        }
        self.fill(COALESCE)
    }
    /// Whether all of the message that has arrived is still here, so that another sink can get it.
    pub(super) const fn is_replayable(&self) -> bool {
        !self.lost
    }
    /// Everything again, for another sink. Only while [`Self::is_replayable`].
    pub(super) fn rewind(&mut self) {
        self.sent = 0;
        self.unflushed = false;
        self.wrote = false;
    }
    /// Ready for the next message; memory goes back.
    pub(super) fn reset(&mut self, buffers: &Buffers) {
        self.input.release(buffers);
        if self.out.capacity() > 0 {
            buffers.give(std::mem::take(&mut self.out));
        }
        (self.sent, self.moved) = (0, 0);
        (self.finished, self.unflushed, self.wrote, self.chunk) = (false, false, false, false);
        (self.replay, self.lost) = (0, false);
        self.decode = Decode::None;
    }

    fn fill(&mut self, limit: usize) -> Result<(), PumpError> {
        while !self.finished && !self.input.is_empty() && self.out.len() < limit {
            let data = self.input.data();
            let used = match &mut self.decode {
                Decode::None => 0,
                Decode::Length(left) => {
                    let n = usize::try_from(*left).unwrap_or(usize::MAX).min(data.len()).min(COALESCE);
                    self.out.extend_from_slice(data.get(..n).unwrap_or_default());
                    *left -= n as u64;
                    self.finished = *left == 0;
                    self.moved += n as u64;
                    n
                }
                Decode::Close => {
                    let n = data.len().min(COALESCE);
                    push(&mut self.out, data.get(..n).unwrap_or_default(), self.chunk);
                    self.moved += n as u64;
                    n
                }
                Decode::Chunked(decoder) => {
                    let found = decoder.decode(data).map_err(PumpError::Malformed)?;
                    let used = found.framing + found.data;
                    push(&mut self.out, data.get(found.framing..used).unwrap_or_default(), self.chunk);
                    self.finished = decoder.is_done();
                    self.moved += found.data as u64;
                    used
                }
            };
            self.input.consume(used);
            if self.finished && self.chunk {
                self.out.extend_from_slice(CHUNK_END);
            }
        }
        Ok(())
    }

    /// Moves what can be moved; ready when the message is complete at the sink.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut Stream,
        sink: &mut Stream,
        buffers: &Buffers,
    ) -> Poll<Result<(), PumpError>> {
        loop {
            if self.sent < self.out.len() {
                ready!(self.poll_out(cx, sink))?;
                continue;
            }
            if self.finished {
                if self.unflushed {
                    ready!(Pin::new(&mut *sink).poll_flush(cx)).map_err(|_gone| PumpError::Sink)?;
                    self.unflushed = false;
                }
                return Poll::Ready(Ok(()));
            }
            if !self.input.is_empty() {
                if !self.lost && self.out.len() < self.replay {
                    self.fill(self.out.len() + COALESCE)?;
                    continue;
                }
                self.lost = true;
                match &mut self.decode {
                    Decode::Length(_) | Decode::Close if !self.chunk => ready!(self.poll_direct(cx, sink))?,
                    Decode::None | Decode::Length(_) | Decode::Close | Decode::Chunked(_) => {
                        self.out.clear();
                        self.sent = 0;
                        self.fill(COALESCE)?;
                    }
                }
                continue;
            }
            if self.unflushed && Pin::new(&mut *sink).poll_flush(cx).map_err(|_gone| PumpError::Sink)?.is_ready() {
                self.unflushed = false;
            }
            match ready!(source.poll_read_into(cx, self.input.space(buffers))) {
                Ok(0) if matches!(self.decode, Decode::Close) => {
                    self.finished = true;
                    if self.chunk {
                        self.out.clear();
                        self.sent = 0;
                        self.out.extend_from_slice(CHUNK_END);
                    }
                }
                Ok(0) => return Poll::Ready(Err(PumpError::Source)),
                Ok(_) => {}
                Err(_gone) => return Poll::Ready(Err(PumpError::Source)),
            }
        }
    }

    /// Writes from `out`.
    pub(super) fn poll_out(&mut self, cx: &mut Context<'_>, sink: &mut Stream) -> Poll<Result<(), PumpError>> {
        while self.sent < self.out.len() {
            let n = ready!(write(cx, sink, self.out.get(self.sent..).unwrap_or_default()))?;
            self.sent += n;
            self.wrote = true;
            self.unflushed = sink.is_tls();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_direct(&mut self, cx: &mut Context<'_>, sink: &mut Stream) -> Poll<Result<(), PumpError>> {
        let data = self.input.data();
        let limit = match self.decode {
            Decode::Length(left) => usize::try_from(left).unwrap_or(usize::MAX).min(data.len()),
            Decode::None | Decode::Chunked(_) | Decode::Close => data.len(),
        };
        let n = ready!(write(cx, sink, data.get(..limit).unwrap_or_default()))?;
        self.wrote = true;
        self.unflushed = sink.is_tls();
        self.input.consume(n);
        self.moved += n as u64;
        if let Decode::Length(left) = &mut self.decode {
            *left -= n as u64;
            self.finished = *left == 0;
        }
        // The head that was in `out` is gone for good.
        self.out.clear();
        self.sent = 0;
        Poll::Ready(Ok(()))
    }
}

fn write(cx: &mut Context<'_>, sink: &mut Stream, bytes: &[u8]) -> Poll<Result<usize, PumpError>> {
    match ready!(Pin::new(sink).poll_write(cx, bytes)) {
        Ok(0) => Poll::Ready(Err(PumpError::Sink)),
        Ok(n) => Poll::Ready(Ok(n)),
        Err(_gone) => Poll::Ready(Err(PumpError::Sink)),
    }
}

fn push(out: &mut Vec<u8>, data: &[u8], chunk: bool) {
    if data.is_empty() {
        return;
    }
    if chunk {
        chunk_head(out, data.len());
    }
    out.extend_from_slice(data);
    if chunk {
        out.extend_from_slice(b"\r\n");
    }
}

/// Writes all of `bytes`.
pub(super) async fn write_all(stream: &mut Stream, bytes: &[u8]) -> io::Result<()> {
    use tokio::io::AsyncWriteExt as _;
    stream.write_all(bytes).await?;
    stream.flush().await
}
