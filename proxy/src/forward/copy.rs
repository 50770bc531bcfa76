//! Edge. Raw bytes both ways, for TCP.

use std::io;

use tokio::io::{AsyncRead, AsyncWrite};

/// Bytes read at once per direction.
const COPY_BYTES: usize = 16 * 1024;

/// Copies both ways, byte-exact, until both sides have ended; the end of one side is passed on as the end of writing to
/// the other (half-close). Returns the bytes from `a` to `b` and from `b` to `a`.
///
/// # Errors
/// When reading or writing fails; then both connections should be dropped.
pub async fn copy_bidirectional<A, B>(a: &mut A, b: &mut B) -> io::Result<(u64, u64)>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    tokio::io::copy_bidirectional_with_sizes(a, b, COPY_BYTES, COPY_BYTES).await
}
