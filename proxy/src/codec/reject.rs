//! Pure. Why a message was refused.

/// A violation of the protocol or of a limit. After any of them the connection is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Reject {
    /// A line ended with LF alone.
    #[error("a line ends with a bare LF")]
    BareLineFeed,
    /// CR, NUL or another control character inside a line.
    #[error("a control character (bare CR, NUL, …) inside the head")]
    ControlByte,
    /// Not `METHOD SP target SP HTTP/1.x`.
    #[error("the request line is not 'METHOD TARGET HTTP/1.1'")]
    RequestLine,
    /// Not `HTTP/1.x SP code SP reason`.
    #[error("the status line is not 'HTTP/1.1 CODE REASON'")]
    StatusLine,
    /// Neither HTTP/1.0 nor HTTP/1.1.
    #[error("the protocol version is neither HTTP/1.0 nor HTTP/1.1")]
    Version,
    /// A target that fits neither its method nor a form that we take.
    #[error("the request target is not valid for its method")]
    Target,
    /// A path that different readers would understand differently.
    #[error("the path holds a fragment, a backslash, %2F, %5C, %00 or a broken escape")]
    Path,
    /// An absolute target of another scheme than http.
    #[error("absolute targets are taken with the scheme http only")]
    Scheme,
    /// A field name with other characters than a token's, or space before the colon.
    #[error("a header field name is not a token followed by ':'")]
    FieldName,
    /// A folded line.
    #[error("a header field is folded over lines")]
    Folded,
    /// No Host in HTTP/1.1.
    #[error("Host is missing")]
    HostMissing,
    /// More than one Host.
    #[error("Host occurs more than once")]
    HostRepeated,
    /// A host that is no name or address with an optional port, or one with userinfo.
    #[error("Host is not NAME[:PORT]")]
    Host,
    /// A length that is no plain decimal number, or a list.
    #[error("Content-Length is not one decimal number")]
    ContentLength,
    /// More than one length.
    #[error("Content-Length occurs more than once")]
    ContentLengthRepeated,
    /// A length and chunks.
    #[error("both Content-Length and Transfer-Encoding")]
    LengthAndChunked,
    /// Another coding than chunked, or chunked twice, or in HTTP/1.0.
    #[error("Transfer-Encoding is not exactly 'chunked', once, in HTTP/1.1")]
    TransferEncoding,
    /// A field that frames the message for whoever reads `_` as `-`.
    #[error("a field is named like Content-Length or Transfer-Encoding with '_' for '-'")]
    FramingTwin,
    /// A Connection field that is no list of tokens, or a long one.
    #[error("Connection is not a short list of tokens")]
    Connection,
    /// Another expectation than 100-continue.
    #[error("Expect is not '100-continue'")]
    Expect,
    /// More than [`super::FIELDS_MAX`] fields.
    #[error("more than 100 header fields")]
    TooManyFields,
    /// A head above [`super::HEAD_MAX`].
    #[error("the head is longer than 32 KiB")]
    HeadTooLong,
    /// A field above [`super::FIELD_MAX`].
    #[error("a header field is longer than 8 KiB")]
    FieldTooLong,
    /// A target above [`super::TARGET_MAX`].
    #[error("the request target is longer than 8 KiB")]
    TargetTooLong,
    /// A chunk size that is not 1 to 16 hexadecimal digits.
    #[error("a chunk size is not 1 to 16 hexadecimal digits")]
    ChunkSize,
    /// A chunk extension above [`super::CHUNK_EXTENSION_MAX`].
    #[error("a chunk extension is longer than 256 bytes")]
    ChunkExtension,
    /// A chunk that does not end where its size says, or a line that does not end with CRLF.
    #[error("a chunk is not followed by CRLF")]
    ChunkEnd,
    /// A trailer section that is malformed or above [`super::TRAILERS_MAX`].
    #[error("the trailer section is malformed or longer than 8 KiB")]
    Trailers,
    /// CONNECT.
    #[error("CONNECT is not in this version")]
    Connect,
    /// A `101` that nobody asked for, or a status outside 100 to 999.
    #[error("the status code is not one that answers this request")]
    Status,
}

impl Reject {
    /// The status of the response that says so.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::TargetTooLong => 414,
            Self::Expect => 417,
            Self::TooManyFields | Self::HeadTooLong | Self::FieldTooLong => 431,
            Self::Connect => 501,
            Self::Version => 505,
            Self::BareLineFeed
            | Self::ControlByte
            | Self::RequestLine
            | Self::StatusLine
            | Self::Target
            | Self::Path
            | Self::Scheme
            | Self::FieldName
            | Self::Folded
            | Self::HostMissing
            | Self::HostRepeated
            | Self::Host
            | Self::ContentLength
            | Self::ContentLengthRepeated
            | Self::LengthAndChunked
            | Self::TransferEncoding
            | Self::FramingTwin
            | Self::Connection
            | Self::ChunkSize
            | Self::ChunkExtension
            | Self::ChunkEnd
            | Self::Trailers
            | Self::Status => 400,
        }
    }
}
