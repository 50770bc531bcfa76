//! Pure. What an application answered.

/// The status of an HTTP/1.x answer.
#[must_use]
pub(crate) fn status(answer: &[u8]) -> Option<u16> {
    let rest = answer.strip_prefix(b"HTTP/1.1 ").or_else(|| answer.strip_prefix(b"HTTP/1.0 "))?;
    let digits: &[u8; 3] = rest.first_chunk()?;
    if rest.get(3).is_some_and(|b| !matches!(b, b' ' | b'\r')) {
        return None;
    }
    std::str::from_utf8(digits).ok().filter(|d| d.bytes().all(|b| b.is_ascii_digit()))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mutation seen to fail: the check of the byte after the status left out.
    #[test]
    fn only_a_status_line_has_a_status() {
        assert_eq!(status(b"HTTP/1.1 204 No Content\r\n"), Some(204));
        assert_eq!(status(b"HTTP/1.0 503\r\n"), Some(503));
        for bad in
            [&b""[..], b"HTTP/1.1 20", b"HTTP/1.1 2000 OK", b"HTTP/2 200 OK", b"SSH-2.0-OpenSSH", b"HTTP/1.1 +20 x"]
        {
            assert_eq!(status(bad), None);
        }
    }
}
