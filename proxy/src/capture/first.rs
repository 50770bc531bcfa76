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

/// Waits for bytes until `judge` can tell from all that came so far. It may be dropped and begun again at any time.
pub(super) async fn look<T>(stream: &TcpStream, most: usize, mut judge: impl FnMut(&[u8]) -> Option<T>) -> Seen<T> {
    let mut bytes = vec![0u8; FIRST.min(most)];
    let mut known = 0;
    loop {
        let Ok(ready) = stream.ready(Interest::READABLE).await else { return Seen::Gone };
        // Within `try_io`, so that readiness is taken back only for what was looked at.
        let looked = stream.try_io(Interest::READABLE, || {
            let (count, _) = rustix::net::recv(stream, bytes.as_mut_slice(), RecvFlags::PEEK | RecvFlags::DONTWAIT)?;
            if count != 0 && count == known && !ready.is_read_closed() {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            Ok(count)
        });
        match looked {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(0) | Err(_) => return Seen::Gone,
            Ok(count) if count == known => return Seen::Undecided,
            Ok(count) => {
                if let Some(told) = judge(bytes.get(..count).unwrap_or_default()) {
                    return Seen::Told(told);
                }
                if count >= most {
                    return Seen::Undecided;
                }
                known = count;
                if count == bytes.len() {
                    bytes.resize((count * 4).min(most), 0);
                }
            }
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
