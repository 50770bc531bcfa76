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
