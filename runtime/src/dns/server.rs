//! Edge. UDP and TCP: takes questions, and gives each to whoever answers it.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener as StdTcpListener, UdpSocket as StdUdpSocket};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::message::Over;
use crate::drain::Watch;
use crate::places::{Bounds, Places, source};
use crate::tasks;

/// The longest question that is taken over UDP: those with EDNS may be long.
const UDP_MOST: usize = 4096;
/// The longest that is taken over TCP.
const TCP_MOST: usize = 4096;
/// After an accept that failed for want of descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// How much is held at a time. What is more is closed (TCP) or passed over (UDP): the client asks again.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Questions over UDP whose answers take time.
    pub questions: usize,
    /// TCP connections, in all and from one address: who takes more takes them from himself.
    pub connections: Bounds,
    /// How long a TCP connection may be silent (RFC 7766, 6.2.3).
    pub idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { questions: 1024, connections: Bounds { all: 256, each: 64 }, idle: Duration::from_secs(10) }
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
    let (questions, connections) = (Arc::new(Semaphore::new(limits.questions)), Places::new(limits.connections));
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
        let work = accept(listener, Arc::clone(&respond), connections.clone(), limits.idle);
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

async fn accept<R: Respond>(listener: TcpListener, respond: Arc<R>, connections: Places<IpAddr>, idle: Duration) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let (respond, cut) = (Arc::clone(&respond), CancellationToken::new());
                let (place, _displaced) = connections.take(source(peer.ip()), cut.clone());
                // It ends by itself: silence ends it.
                let _detached = tasks::spawn("dns-connection", async move {
                    tokio::select! {
                        ended = connection(stream, &*respond, idle) => if let Err(error) = ended {
                            tracing::debug!(%error, "dns: a connection ended");
                        },
                        () = cut.cancelled() => tracing::debug!(%peer, "dns: a connection gave up its place"),
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::debug!(%error, "dns: cannot accept");
                if !connections.make_room() {
                    tokio::time::sleep(PAUSE).await;
                }
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

#[cfg(test)]
mod tests {
    use tokio::net::TcpSocket;

    use super::*;

    struct Echo;

    impl Respond for Echo {
        type Later = std::future::Pending<Option<Vec<u8>>>;
        fn respond(&self, question: &[u8], _over: Over) -> Response<Self::Later> {
            Response::Now(Some(question.to_vec()))
        }
    }

    /// One client that holds all the connections that it can keeps nobody else from asking over TCP.
    ///
    /// Mutation seen to fail: `cut.cancelled()` replaced by a future that never ends.
    #[tokio::test]
    async fn who_holds_many_connections_keeps_nobody_out() {
        let listener = StdTcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let limits =
            Limits { connections: Bounds { all: 4, each: 2 }, idle: Duration::from_secs(600), ..Limits::default() };
        let (_trigger, drain) = crate::drain::channel();
        let server = tasks::spawn("dns", serve(Vec::new(), vec![listener], Arc::new(Echo), limits, drain));
        let _server = tasks::AbortOnDrop::new(&server);
        let mut held = Vec::new();
        for _ in 0..6 {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind("127.0.0.9:0".parse().unwrap()).unwrap();
            held.push(socket.connect(address).await.unwrap());
        }
        let asked = async {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(b"\0\x01?").await.unwrap();
            let mut answer = [0; 3];
            stream.read_exact(&mut answer).await.unwrap();
            answer
        };
        assert_eq!(&tokio::time::timeout(Duration::from_secs(20), asked).await.expect("an answer"), b"\0\x01?");
        let closed = async {
            for stream in &mut held[..4] {
                let _closed = stream.read_u8().await.expect_err("it gave up its place");
            }
        };
        tokio::time::timeout(Duration::from_secs(20), closed).await.expect("the oldest ones are closed");
    }
}
