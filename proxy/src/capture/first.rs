//! Edge. The first bytes of a connection, looked at and left where they are: whoever serves it reads them again.

use std::io;

use rustix::net::RecvFlags;
use tokio::io::Interest;
use tokio::net::TcpStream;

/// Bytes that are looked at first.
const FIRST: usize = 512;

/// What became of a look at the first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen<T> {
    /// They were enough to tell.
    Told(T),
    /// No more will come, or more than `most` would be needed.
    Undecided,
    /// The connection ended before it brought any.
    Gone,
}

/// A look at the first bytes that goes on as they come.
#[derive(Debug)]
pub(super) struct Peek<'a> {
    stream: &'a TcpStream,
    bytes: Vec<u8>,
    known: usize,
    most: usize,
}

impl<'a> Peek<'a> {
    /// At `most` so many bytes.
    pub(super) fn new(stream: &'a TcpStream, most: usize) -> Self {
        Self { stream, bytes: vec![0u8; FIRST.min(most)], known: 0, most }
    }
    /// The connection.
    pub(super) const fn stream(&self) -> &'a TcpStream {
        self.stream
    }
    /// What was seen.
    pub(super) fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.known).unwrap_or_default()
    }
    /// Waits until there is more than was seen; `false`: no more will come, or all that is looked at was seen. It may be
    /// dropped and begun again at any time.
    pub(super) async fn more(&mut self) -> io::Result<bool> {
        if self.known == self.bytes.len() {
            if self.known >= self.most {
                return Ok(false);
            }
            self.bytes.resize((self.known * 4).min(self.most), 0);
        }
        let (stream, known) = (self.stream, self.known);
        loop {
            let ready = stream.ready(Interest::READABLE).await?;
            // Within `try_io`, so that readiness is taken back only for what was looked at.
            let looked = stream.try_io(Interest::READABLE, || {
                let (count, _) =
                    rustix::net::recv(stream, self.bytes.as_mut_slice(), RecvFlags::PEEK | RecvFlags::DONTWAIT)?;
                if count != 0 && count == known && !ready.is_read_closed() {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                Ok(count)
            });
            match looked {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
                Ok(count) => {
                    self.known = count;
                    return Ok(count > known);
                }
            }
        }
    }
}

/// Waits for bytes until `judge` can tell from all that came so far. It may be dropped and begun again at any time.
pub(super) async fn look<T>(stream: &TcpStream, most: usize, mut judge: impl FnMut(&[u8]) -> Option<T>) -> Seen<T> {
    let mut peek = Peek::new(stream, most);
    loop {
        match peek.more().await {
            Ok(true) => {
                if let Some(told) = judge(peek.bytes()) {
                    return Seen::Told(told);
                }
            }
            Ok(false) if !peek.bytes().is_empty() => return Seen::Undecided,
            Ok(false) | Err(_) => return Seen::Gone,
        }
    }
}

/// The connection after a look that was given up. What was looked at told nothing, and the runtime takes the connection for
/// one that has nothing to read until more comes; watched anew, it has.
pub(super) fn unread(stream: TcpStream) -> io::Result<TcpStream> {
    TcpStream::from_std(stream.into_std()?)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (client, listener.accept().await.unwrap().0)
    }

    /// A client that says a word and waits for the answer (`ruok` of ZooKeeper) says too little to tell HTTP by. What was
    /// looked at is passed on without another byte.
    ///
    /// Mutation seen to fail: `unread` gives back the stream as it is.
    #[tokio::test]
    async fn what_told_nothing_is_read_all_the_same() {
        let (mut client, stream) = pair().await;
        client.write_all(b"ruok").await.unwrap();
        let told = tokio::time::timeout(Duration::from_millis(50), look(&stream, 1024, |_bytes| None::<()>)).await;
        assert!(told.is_err(), "{told:?}");
        let mut stream = unread(stream).unwrap();
        let mut read = [0; 4];
        let whole = tokio::time::timeout(Duration::from_secs(20), stream.read_exact(&mut read)).await;
        assert!(matches!(whole, Ok(Ok(4))) && read == *b"ruok", "{whole:?}");
    }
}
