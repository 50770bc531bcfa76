//! Pure. Answers that the proxy gives itself: what, why (`x-meshfed-reason`) and a sentence for humans.

use std::fmt::Write as _;

use crate::codec::{Reject, Version};
use crate::telemetry::{Flag, Reason};

/// How HTTP/2 begins where nobody asks first (RFC 9113 3.4), as far as it is a head.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\n";

/// An answer of our own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) flag: Flag,
    pub(super) reason: Reason,
    pub(super) text: String,
    /// Whether the connection must end: the peer and we may disagree about where the next message begins.
    pub(super) close: bool,
    /// Whether the peer speaks HTTP/2.
    http_2: bool,
}

impl Reply {
    pub(super) fn new(status: u16, flag: Flag, reason: Reason, text: impl Into<String>) -> Self {
        Self { status, flag, reason, text: text.into(), close: false, http_2: false }
    }
    /// A malformed request.
    pub(super) fn refused(reject: Reject) -> Self {
        let text = format!("meshfed refused the request: {reject}");
        Self { close: true, ..Self::new(reject.status(), Flag::DownstreamProtocolError, Reason::Denied, text) }
    }
    /// A malformed head. Who begins HTTP/2 is told in its words, for it can read no others.
    pub(super) fn refused_head(reject: Reject, head: &[u8]) -> Self {
        if !head.starts_with(PREFACE) {
            return Self::refused(reject);
        }
        let text =
            "meshfed: HTTP/2 is not served on a port that says http; name it grpc or http2, and it is carried as bytes";
        let flag = Flag::DownstreamProtocolError;
        Self { close: true, http_2: true, ..Self::new(505, flag, Reason::Denied, text) }
    }
    pub(super) fn closing(self) -> Self {
        Self { close: true, ..self }
    }
    /// Bytes of the body: the sentence and the end of its line.
    pub(super) const fn body_length(&self) -> u64 {
        self.text.len() as u64 + 1
    }
    /// The bytes of the answer.
    pub(super) fn render(&self, version: Version, keep: bool, head_only: bool) -> Vec<u8> {
        if self.http_2 {
            return self.go_away();
        }
        let mut out = String::with_capacity(256 + self.text.len());
        let _infallible = write!(
            out,
            "HTTP/1.1 {} {}\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {}\r\n{}: {}\r\n",
            self.status,
            phrase(self.status),
            self.body_length(),
            super::REASON_HEADER,
            self.reason.as_str(),
        );
        match (keep, version) {
            (false, _) => out.push_str("connection: close\r\n"),
            (true, Version::Http10) => out.push_str("connection: keep-alive\r\n"),
            (true, Version::Http11) => {}
        }
        out.push_str("\r\n");
        if !head_only {
            out.push_str(&self.text);
            out.push('\n');
        }
        out.into_bytes()
    }
    /// The server's preface, which is an empty SETTINGS, and GOAWAY with `HTTP_1_1_REQUIRED` and the sentence as its debug data
    /// (RFC 9113 3.4, 6.8 and 7).
    fn go_away(&self) -> Vec<u8> {
        const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
        const HTTP_1_1_REQUIRED: u32 = 0xd;
        const LAST_STREAM: u32 = 0;
        let length = u32::try_from(self.text.len()).unwrap_or_default() + 8;
        let mut out = SETTINGS.to_vec();
        out.extend_from_slice(length.to_be_bytes().get(1..).unwrap_or_default());
        out.extend_from_slice(&[7, 0, 0, 0, 0, 0]);
        out.extend_from_slice(&LAST_STREAM.to_be_bytes());
        out.extend_from_slice(&HTTP_1_1_REQUIRED.to_be_bytes());
        out.extend_from_slice(self.text.as_bytes());
        out
    }
}

const fn phrase(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        408 => "Request Timeout",
        414 => "URI Too Long",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "Answered by meshfed",
    }
}
