//! Edge. UDP and TCP: takes questions, and gives each to whoever answers it.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener, UdpSocket as StdUdpSocket};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;

use super::message::Over;
use crate::drain::Watch;
use crate::tasks;

/// The longest question that is taken over UDP: those with EDNS may be long.
const UDP_MOST: usize = 4096;
/// The longest that is taken over TCP.
const TCP_MOST: usize = 4096;
/// After an accept that failed for want of descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// How much is held at a time. What is more waits (TCP) or is passed over (UDP): the client asks again.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Questions over UDP whose answers take time.
    pub questions: usize,
    /// TCP connections.
    pub connections: usize,
    /// How long a TCP connection may be silent (RFC 7766, 6.2.3).
    pub idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { questions: 1024, connections: 256, idle: Duration::from_secs(10) }
    }
}

/// What becomes of a question.
pub enum Response<F> {
    /// This answer, at once; `None`: it is not answered.
    Now(Option<Vec<u8>>),
    /// An answer that takes time.
    Later(F),
}

/// Who answers.
pub trait Respond: Send + Sync + 'static {
    /// An answer that takes time.
    type Later: Future<Output = Option<Vec<u8>>> + Send;
    /// Answers one question.
    fn respond(&self, question: &[u8], over: Over) -> Response<Self::Later>;
}

/// Serves sockets until the drain.
///
/// # Errors
/// A socket that cannot be used.
pub async fn serve<R: Respond>(
    udp: Vec<StdUdpSocket>,
    tcp: Vec<StdTcpListener>,
    respond: Arc<R>,
    limits: Limits,
    drain: Watch,
) -> io::Result<()> {
    let (questions, connections) = (Semaphore::new(limits.questions), Semaphore::new(limits.connections));
    let (questions, connections) = (Arc::new(questions), Arc::new(connections));
    let mut running = Vec::new();
    for socket in udp {
        socket.set_nonblocking(true)?;
        let socket = Arc::new(UdpSocket::from_std(socket)?);
        let work = datagrams(socket, Arc::clone(&respond), Arc::clone(&questions));
        running.push(tasks::AbortOnDrop::new(&tasks::spawn("dns-udp", work)));
    }
    for listener in tcp {
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let work = accept(listener, Arc::clone(&respond), Arc::clone(&connections), limits.idle);
        running.push(tasks::AbortOnDrop::new(&tasks::spawn("dns-tcp", work)));
    }
    drain.signaled().await;
    drop(running);
    Ok(())
}

async fn datagrams<R: Respond>(socket: Arc<UdpSocket>, respond: Arc<R>, questions: Arc<Semaphore>) {
    let mut buffer = vec![0u8; UDP_MOST];
    loop {
        let (length, peer) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            // Of an earlier answer that did not arrive; anything else would be told by every one that follows.
            Err(error) => {
                tracing::debug!(%error, "dns: nothing received");
                tokio::task::yield_now().await;
                continue;
            }
        };
        let question = buffer.get(..length).unwrap_or_default();
        match respond.respond(question, Over::Udp) {
            Response::Now(answer) => send(&socket, answer, peer).await,
            Response::Later(later) => {
                let Ok(permit) = Arc::clone(&questions).try_acquire_owned() else { continue };
                let socket = Arc::clone(&socket);
                // It ends by itself: whoever answers has a deadline.
                let _detached = tasks::spawn("dns-question", async move {
                    send(&socket, later.await, peer).await;
                    drop(permit);
                });
            }
        }
    }
}

async fn send(socket: &UdpSocket, answer: Option<Vec<u8>>, peer: SocketAddr) {
    if let Some(answer) = answer
        && let Err(error) = socket.send_to(&answer, peer).await
    {
        tracing::debug!(%error, %peer, "dns: an answer could not be sent");
    }
}

async fn accept<R: Respond>(listener: TcpListener, respond: Arc<R>, connections: Arc<Semaphore>, idle: Duration) {
    loop {
        // Beyond the limit connections wait in the queue.
        let Ok(permit) = Arc::clone(&connections).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _peer)) => {
                let respond = Arc::clone(&respond);
                // It ends by itself: silence ends it.
                let _detached = tasks::spawn("dns-connection", async move {
                    if let Err(error) = connection(stream, &*respond, idle).await {
                        tracing::debug!(%error, "dns: a connection ended");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::debug!(%error, "dns: cannot accept");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// One question after the other, each behind its length (RFC 1035, 4.2.2).
async fn connection<R: Respond>(mut stream: TcpStream, respond: &R, idle: Duration) -> io::Result<()> {
    loop {
        let question = match tokio::time::timeout(idle, read(&mut stream)).await {
            Ok(read) => read?,
            Err(_silent) => return Ok(()),
        };
        let Some(question) = question else { return Ok(()) };
        let answer = match respond.respond(&question, Over::Tcp) {
            Response::Now(answer) => answer,
            Response::Later(later) => later.await,
        };
        let Some(answer) = answer else { return Ok(()) };
        let Ok(length) = u16::try_from(answer.len()) else { return Ok(()) };
        let framed = [&length.to_be_bytes()[..], &answer].concat();
        match tokio::time::timeout(idle, stream.write_all(&framed)).await {
            Ok(written) => written?,
            Err(_stuck) => return Ok(()),
        }
    }
}

async fn read(stream: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    let length = match stream.read_u16().await {
        Ok(length) => usize::from(length),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    if length > TCP_MOST {
        return Ok(None);
    }
    let mut question = vec![0u8; length];
    stream.read_exact(&mut question).await?;
    Ok(Some(question))
}
