//! Edge. One type for the three kinds of connection, so that nothing on the request path is boxed or dispatched.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use meshfed_model::identity::SpiffeId;
use meshfed_model::metadata::WorkloadMetadata;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::{client, server};
use tokio_util::io::poll_read_buf;

/// A connection. TLS state is kept behind a pointer: an idle plain connection stays small.
#[derive(Debug)]
pub enum Stream {
    /// Plain TCP.
    Plain(TcpStream),
    /// mTLS that we began.
    Client(Box<client::TlsStream<TcpStream>>),
    /// mTLS that we accepted.
    Server(Box<server::TlsStream<TcpStream>>),
}

impl Stream {
    /// The TCP connection below.
    #[must_use]
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Client(tls) => tls.get_ref().0,
            Self::Server(tls) => tls.get_ref().0,
        }
    }
    /// Whether it is mTLS.
    #[must_use]
    pub const fn is_tls(&self) -> bool {
        !matches!(self, Self::Plain(_))
    }
    /// The verified identity at the other end.
    #[must_use]
    pub fn peer(&self) -> Option<SpiffeId> {
        match self {
            Self::Plain(_) => None,
            Self::Client(tls) => meshfed_runtime::tls::peer_verified(tls.get_ref().1),
            Self::Server(tls) => meshfed_runtime::tls::peer_verified(tls.get_ref().1),
        }
    }

    /// What the issuer of its certificate says of the workload at the other end.
    #[must_use]
    pub fn described(&self) -> Option<WorkloadMetadata> {
        match self {
            Self::Plain(_) => None,
            Self::Client(tls) => meshfed_runtime::tls::peer_described(tls.get_ref().1),
            Self::Server(tls) => meshfed_runtime::tls::peer_described(tls.get_ref().1),
        }
    }

    /// Reads into the spare capacity of `buf`; 0 is the end. `buf` must have spare capacity.
    ///
    /// # Errors
    /// As the connection says. A TLS peer that leaves without close_notify is an error, not an end.
    pub fn poll_read_into(&mut self, cx: &mut Context<'_>, buf: &mut Vec<u8>) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(tcp) => poll_read_buf(Pin::new(tcp), cx, buf),
            Self::Client(tls) => poll_read_buf(Pin::new(tls.as_mut()), cx, buf),
            Self::Server(tls) => poll_read_buf(Pin::new(tls.as_mut()), cx, buf),
        }
    }

    /// Whether an idle connection can still be used: nothing arrived on it and nobody closed it. It costs no system call
    /// while nothing arrived.
    pub fn is_quiet(&mut self, cx: &mut Context<'_>) -> bool {
        match self.tcp().poll_read_ready(cx) {
            Poll::Pending => true,
            Poll::Ready(Err(_)) => false,
            Poll::Ready(Ok(())) => {
                // A TLS peer may have sent what is no data (a key update); everything else is unexpected.
                let mut probe = [0u8; 1];
                let mut probe = ReadBuf::new(&mut probe);
                Pin::new(self).poll_read(cx, &mut probe).is_pending()
            }
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Self::Client(tls) => Pin::new(tls.as_mut()).poll_read(cx, buf),
            Self::Server(tls) => Pin::new(tls.as_mut()).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Self::Client(tls) => Pin::new(tls.as_mut()).poll_write(cx, buf),
            Self::Server(tls) => Pin::new(tls.as_mut()).poll_write(cx, buf),
        }
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            // TCP has no buffer of ours.
            Self::Plain(_) => Poll::Ready(Ok(())),
            Self::Client(tls) => Pin::new(tls.as_mut()).poll_flush(cx),
            Self::Server(tls) => Pin::new(tls.as_mut()).poll_flush(cx),
        }
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Client(tls) => Pin::new(tls.as_mut()).poll_shutdown(cx),
            Self::Server(tls) => Pin::new(tls.as_mut()).poll_shutdown(cx),
        })?;
        Poll::Ready(Ok(()))
    }
}
