//! Pure. Answers that the proxy gives itself: what, why (`x-meshfed-reason`) and a sentence for humans.

use std::fmt::Write as _;

use crate::codec::{Reject, Version};
use crate::telemetry::{Flag, Reason};

/// An answer of our own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) flag: Flag,
    pub(super) reason: Reason,
    pub(super) text: String,
    /// Whether the connection must end: the peer and we may disagree about where the next message begins.
    pub(super) close: bool,
}

impl Reply {
    pub(super) fn new(status: u16, flag: Flag, reason: Reason, text: impl Into<String>) -> Self {
        Self { status, flag, reason, text: text.into(), close: false }
    }
    /// A malformed request.
    pub(super) fn refused(reject: Reject) -> Self {
        let text = format!("meshfed refused the request: {reject}");
        Self { close: true, ..Self::new(reject.status(), Flag::DownstreamProtocolError, Reason::Denied, text) }
    }
    pub(super) fn closing(self) -> Self {
        Self { close: true, ..self }
    }
    /// Bytes of the body: the sentence and the end of its line.
    pub(super) const fn body_length(&self) -> u64 {
        self.text.len() as u64 + 1
    }
    /// The bytes of the answer.
    pub(super) fn render(&self, version: Version, keep: bool, head_only: bool) -> String {
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
