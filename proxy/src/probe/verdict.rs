//! Pure. From single probes to ready or not: two failures in a row end it, one success begins it.

/// Failures in a row that end readiness.
const FAILURES: u32 = 2;

/// The running verdict; not ready before the first success.
#[derive(Debug, Clone, Default)]
pub struct Verdict {
    ready: bool,
    failures: u32,
}

impl Verdict {
    /// Nothing is known yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
    /// Takes the result of a probe and says whether the application is ready now.
    pub fn take(&mut self, success: bool) -> bool {
        if success {
            (self.ready, self.failures) = (true, 0);
        } else {
            self.failures = self.failures.saturating_add(1);
            self.ready &= self.failures < FAILURES;
        }
        self.ready
    }
}

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

    /// Mutation seen to fail: `FAILURES` = 1.
    #[test]
    fn one_success_begins_and_two_failures_end() {
        let mut v = Verdict::new();
        let probes = [false, false, true, false, true, false, false, false, true];
        let seen: Vec<bool> = probes.into_iter().map(|p| v.take(p)).collect();
        assert_eq!(seen, [false, false, true, true, true, true, false, false, true]);
    }

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
