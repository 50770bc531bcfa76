//! Pure. Reads the server name out of a ClientHello, as its bytes arrive, and refuses everything that is ambiguous.
//!
//! Each byte is looked at once however it is cut up: the hello is parsed when all of it is there, and until then only
//! lengths are followed (SN4). The outer server name counts, whatever ECH hides (SN6).

/// The longest ClientHello message, its four-byte head included (post-quantum hellos have about 2 KiB).
pub const HELLO_MAX: usize = 16 * 1024;
/// The most records that a ClientHello may be cut into, empty ones included.
pub const RECORDS_MAX: u32 = 32;
/// The most extensions (browsers send about 20).
pub const EXTENSIONS_MAX: usize = 128;
/// The most bytes that a reader may be given: the hello and the heads of its records.
pub const BYTES_MAX: usize = HELLO_MAX + RECORDS_MAX as usize * RECORD_HEAD;

const RECORD_HEAD: usize = 5;
/// The longest plaintext of one record (RFC 8446, 5.1).
const RECORD_MAX: usize = 1 << 14;
const CONTENT_HANDSHAKE: u8 = 22;
const HANDSHAKE_CLIENT_HELLO: u8 = 1;
const EXTENSION_SERVER_NAME: u16 = 0;
const NAME_TYPE_HOST: u8 = 0;
const NAME_MAX: usize = 253;
const LABEL_MAX: usize = 63;

/// What the first bytes of a connection turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hello {
    /// A ClientHello with this server name, in lower case and valid.
    Named(String),
    /// A ClientHello without server name.
    Nameless,
}

/// Why the first bytes of a connection are no ClientHello that can be routed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// Not TLS: HTTP, a PROXY header, anything.
    #[error("the connection does not begin with a TLS record")]
    NotTls,
    /// An SSL 2 hello.
    #[error("the connection begins with an SSL 2 hello")]
    Ssl2,
    /// A record that a ClientHello cannot be in.
    #[error("a TLS record of another kind, version or size than a ClientHello's")]
    Record,
    /// Too long, or too many records or extensions.
    #[error("the ClientHello passes {limit} = {max}")]
    Limit {
        /// What passes.
        limit: &'static str,
        /// The limit.
        max: usize,
    },
    /// The message is not well formed.
    #[error("the ClientHello is malformed in {at}")]
    Malformed {
        /// The part.
        at: &'static str,
    },
    /// A server name that names more or less than one host.
    #[error("the server name is refused: {why}")]
    Name {
        /// The rule.
        why: &'static str,
    },
}

impl HelloError {
    /// Whether the peer speaks TLS, so that an alert means something to it.
    #[must_use]
    pub const fn is_tls(&self) -> bool {
        match self {
            Self::NotTls | Self::Ssl2 => false,
            Self::Record | Self::Limit { .. } | Self::Malformed { .. } | Self::Name { .. } => true,
        }
    }
}

/// Follows a ClientHello through the bytes of a connection.
#[derive(Debug, Default)]
pub struct HelloReader {
    /// Bytes of the connection that were looked at.
    seen: usize,
    /// Bytes left of the record under way.
    record_left: usize,
    records: u32,
    /// The message so far, where it is not in one record.
    message: Vec<u8>,
}

impl HelloReader {
    /// A reader at the begin of a connection.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes all bytes that arrived so far (those of earlier calls first). `None`: more are needed.
    ///
    /// # Errors
    /// [`HelloError`]; the connection is to be closed.
    pub fn read(&mut self, bytes: &[u8]) -> Result<Option<Hello>, HelloError> {
        loop {
            let fresh = bytes.get(self.seen..).unwrap_or_default();
            if self.record_left == 0 {
                let Some(length) = record_head(fresh)? else { return Ok(None) };
                self.records += 1;
                if self.records > RECORDS_MAX {
                    return Err(HelloError::Limit { limit: "records", max: RECORDS_MAX as usize });
                }
                let body = fresh.get(RECORD_HEAD..).unwrap_or_default();
                // Nearly always all of it is here, in one record: no copy then.
                if self.message.is_empty()
                    && let Some(whole) = body.get(..length)
                    && let Some(total) = message_length(whole)?
                    && total == length
                {
                    return parse(whole.get(4..).unwrap_or_default()).map(Some);
                }
                self.seen += RECORD_HEAD;
                self.record_left = length;
                continue;
            }
            let taken = fresh.len().min(self.record_left);
            if taken == 0 {
                return Ok(None);
            }
            self.message.extend_from_slice(fresh.get(..taken).unwrap_or_default());
            self.seen += taken;
            self.record_left -= taken;
            let Some(total) = message_length(&self.message)? else { continue };
            if self.message.len() > total || (self.message.len() == total && self.record_left > 0) {
                return Err(HelloError::Malformed { at: "the bytes after it in its record" });
            }
            if self.message.len() == total {
                return parse(self.message.get(4..).unwrap_or_default()).map(Some);
            }
        }
    }
}

/// The length of the record that begins here; `None` while its head is not complete.
fn record_head(bytes: &[u8]) -> Result<Option<usize>, HelloError> {
    let Some(&kind) = bytes.first() else { return Ok(None) };
    if kind != CONTENT_HANDSHAKE {
        // SSL 2: a two-byte length with the high bit set, then the message type 1.
        return match bytes {
            [0x80..=0xff, _, 1, ..] => Err(HelloError::Ssl2),
            [0x80..=0xff] | [0x80..=0xff, _] => Ok(None),
            [20 | 21 | 23, ..] => Err(HelloError::Record),
            _ => Err(HelloError::NotTls),
        };
    }
    if bytes.get(1).is_some_and(|major| *major != 3) {
        return Err(HelloError::NotTls);
    }
    if bytes.get(2).is_some_and(|minor| *minor > 4) {
        return Err(HelloError::Record);
    }
    let &[_, _, _, high, low, ..] = bytes else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > RECORD_MAX {
        return Err(HelloError::Record);
    }
    Ok(Some(length))
}

/// The whole length of the handshake message that begins here; `None` while its head is not complete.
fn message_length(message: &[u8]) -> Result<Option<usize>, HelloError> {
    if message.first().is_some_and(|kind| *kind != HANDSHAKE_CLIENT_HELLO) {
        return Err(HelloError::Malformed { at: "the message type" });
    }
    let &[_, a, b, c, ..] = message else { return Ok(None) };
    let total = 4 + usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap_or(usize::MAX - 4);
    if total > HELLO_MAX {
        return Err(HelloError::Limit { limit: "bytes", max: HELLO_MAX });
    }
    Ok(Some(total))
}

/// What is left of a message, taken from the front.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, count: usize, at: &'static str) -> Result<&'a [u8], HelloError> {
        let (front, rest) = self.0.split_at_checked(count).ok_or(HelloError::Malformed { at })?;
        self.0 = rest;
        Ok(front)
    }
    fn u8(&mut self, at: &'static str) -> Result<u8, HelloError> {
        self.take(1, at)?.first().copied().ok_or(HelloError::Malformed { at })
    }
    fn u16(&mut self, at: &'static str) -> Result<u16, HelloError> {
        let bytes = self.take(2, at)?;
        bytes.first_chunk().map(|b| u16::from_be_bytes(*b)).ok_or(HelloError::Malformed { at })
    }
    fn vec8(&mut self, at: &'static str) -> Result<&'a [u8], HelloError> {
        let length = usize::from(self.u8(at)?);
        self.take(length, at)
    }
    fn vec16(&mut self, at: &'static str) -> Result<&'a [u8], HelloError> {
        let length = usize::from(self.u16(at)?);
        self.take(length, at)
    }
}

/// Parses the body of a ClientHello (RFC 8446, 4.1.2).
fn parse(body: &[u8]) -> Result<Hello, HelloError> {
    let mut rest = Rest(body);
    if rest.u8("the version")? != 3 {
        return Err(HelloError::Malformed { at: "the version" });
    }
    rest.take(1 + 32, "the random")?;
    if rest.vec8("the session id")?.len() > 32 {
        return Err(HelloError::Malformed { at: "the session id" });
    }
    let suites = rest.vec16("the cipher suites")?;
    if suites.is_empty() || suites.len() % 2 != 0 {
        return Err(HelloError::Malformed { at: "the cipher suites" });
    }
    if rest.vec8("the compression methods")?.is_empty() {
        return Err(HelloError::Malformed { at: "the compression methods" });
    }
    if rest.0.is_empty() {
        return Ok(Hello::Nameless);
    }
    let extensions = rest.vec16("the extensions")?;
    if !rest.0.is_empty() {
        return Err(HelloError::Malformed { at: "the end" });
    }
    server_name_of(extensions)
}

fn server_name_of(extensions: &[u8]) -> Result<Hello, HelloError> {
    let mut rest = Rest(extensions);
    let mut kinds = [0u16; EXTENSIONS_MAX];
    let mut count = 0usize;
    let mut found = Hello::Nameless;
    while !rest.0.is_empty() {
        let kind = rest.u16("an extension")?;
        let body = rest.vec16("an extension")?;
        if kinds.get(..count).unwrap_or_default().contains(&kind) {
            return Err(HelloError::Malformed { at: "an extension that occurs twice" });
        }
        *kinds.get_mut(count).ok_or(HelloError::Limit { limit: "extensions", max: EXTENSIONS_MAX })? = kind;
        count += 1;
        if kind == EXTENSION_SERVER_NAME {
            found = Hello::Named(server_name(body)?);
        }
    }
    Ok(found)
}

/// Parses the server name extension (RFC 6066, 3): exactly one name, a host name.
fn server_name(body: &[u8]) -> Result<String, HelloError> {
    let mut outer = Rest(body);
    let mut list = Rest(outer.vec16("the server name")?);
    if !outer.0.is_empty() {
        return Err(HelloError::Malformed { at: "the server name" });
    }
    if list.0.is_empty() {
        return Err(HelloError::Name { why: "there is none in the extension" });
    }
    if list.u8("the server name")? != NAME_TYPE_HOST {
        return Err(HelloError::Name { why: "it is not a host name" });
    }
    let name = list.vec16("the server name")?;
    if !list.0.is_empty() {
        return Err(HelloError::Name { why: "there are two" });
    }
    host_name(name)
}

/// Checks a host name and folds its case.
fn host_name(name: &[u8]) -> Result<String, HelloError> {
    let refuse = |why| Err(HelloError::Name { why });
    if name.is_empty() || name.len() > NAME_MAX {
        return refuse("its length");
    }
    if !name.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')) {
        return refuse("it has a character that is no letter, digit, hyphen, underscore or dot");
    }
    // An empty label is also what a trailing dot leaves.
    if name.split(|b| *b == b'.').any(|label| label.is_empty() || label.len() > LABEL_MAX) {
        return refuse("a label's length");
    }
    let text: String = name.iter().map(|b| char::from(b.to_ascii_lowercase())).collect();
    // Everything that an address parser would take ends with a label of digits; no host name of ours does.
    if text.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()) || last.starts_with("0x")) {
        return refuse("it is an address");
    }
    Ok(text)
}
