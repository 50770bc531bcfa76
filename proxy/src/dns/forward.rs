//! Edge. A question to the resolver that it was meant for, byte for byte, and its answer back.

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::time::Duration;

use meshfed_runtime::dns::Over;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};

/// How long a resolver has: the client's own patience is usually as long.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest answer over UDP.
const ANSWER_MAX: usize = u16::MAX as usize;
/// The identification of a question and its answer.
const ID: usize = 2;

/// An answer on its way.
pub(super) type Forwarded = Pin<Box<dyn Future<Output = Option<Vec<u8>>> + Send>>;

/// Asks; without an answer in time the client hears nothing, as if it had asked itself.
pub(super) fn forward(question: Vec<u8>, resolver: SocketAddr, over: Over) -> Forwarded {
    Box::pin(async move {
        let asked = async {
            match over {
                Over::Udp => by_udp(&question, resolver).await,
                Over::Tcp => by_tcp(&question, resolver).await,
            }
        };
        match tokio::time::timeout(PATIENCE, asked).await {
            Ok(Ok(answer)) => Some(answer),
            Ok(Err(error)) => {
                tracing::debug!(%resolver, %error, "dns: the resolver did not answer");
                None
            }
            Err(_late) => None,
        }
    })
}

async fn by_udp(question: &[u8], resolver: SocketAddr) -> io::Result<Vec<u8>> {
    let any = if resolver.is_ipv4() {
        SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))
    } else {
        SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))
    };
    // A port of its own for each question: an answer cannot be forged by who does not see it.
    let socket = UdpSocket::bind(any).await?;
    socket.connect(resolver).await?;
    socket.send(question).await?;
    let mut answer = vec![0u8; ANSWER_MAX];
    loop {
        let length = socket.recv(&mut answer).await?;
        if length >= ID && answer.get(..ID) == question.get(..ID) {
            answer.truncate(length);
            return Ok(answer);
        }
    }
}

async fn by_tcp(question: &[u8], resolver: SocketAddr) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(resolver).await?;
    let length = u16::try_from(question.len()).map_err(|_long| io::ErrorKind::InvalidInput)?;
    stream.write_all(&[&length.to_be_bytes()[..], question].concat()).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0u8; usize::from(length)];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}
