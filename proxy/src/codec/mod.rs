//! Pure. A strict HTTP/1.1 codec (RFC 9112) that works in place on a read buffer.
//!
//! It parses heads into spans of the buffer, decides how a body is framed, and writes heads anew: framing and hop-by-hop
//! fields are never copied from one side to the other, so two readers can never disagree about where a message ends.
//! What is ambiguous is refused, never repaired (`security.md` L7-1, L7-2, L7-6, L7-9, L7-10, L7-14).

mod chars;
mod chunked;
mod encode;
mod head;
mod path;
mod reject;
mod request;
mod response;

pub use chunked::{ChunkedDecoder, Decoded};
pub use encode::{CHUNK_END, HeadEdit, chunk_head, request_head, response_head};
pub(crate) use head::MESH_IDENTITY;
pub use head::{Field, Kind, Scratch, Span, find_head_end};
pub use reject::Reject;
pub use request::{LogContext, Method, Request, parse_request};
pub use response::{Response, ResponseBody, parse_response};

/// The longest head, in bytes, its start line included (L7-6).
pub const HEAD_MAX: usize = 32 * 1024;
/// The most header fields of a head (L7-6).
pub const FIELDS_MAX: usize = 100;
/// The longest header field, name and value, in bytes (L7-6).
pub const FIELD_MAX: usize = 8 * 1024;
/// The longest request target, in bytes (L7-6).
pub const TARGET_MAX: usize = 8 * 1024;
/// The longest chunk extension, in bytes (L7-2).
pub const CHUNK_EXTENSION_MAX: usize = 256;
/// The longest trailer section, in bytes; it is dropped (L7-2).
pub const TRAILERS_MAX: usize = 8 * 1024;
/// The most names that `Connection` may nominate.
pub const NOMINATED_MAX: usize = 16;

/// The protocol version of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    Http11,
}

/// How the body of a request is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// There is none, and nothing says so.
    None,
    /// So many bytes.
    Length(u64),
    /// Chunks.
    Chunked,
}

#[cfg(test)]
mod tests;
