//! Pure. `:authority` on Unix sockets, where it means nothing: made harmless before the HTTP/2 library sees it.
//!
//! gRPC's C core (Python, C++, Ruby, proxyless gRPC) and others send the percent-encoded path of the socket as
//! `:authority`. That is no authority by RFC 3986, so h2 resets every such stream with PROTOCOL_ERROR
//! (grpc/grpc#38142, hyperium/h2#487), and none of these clients could speak to the agent. This walks over the client's
//! frames and, in header blocks, over the fields (RFC 7541), and replaces the bytes of an uncompressed `:authority`
//! that no host name has, one for one, so that no length changes. Everything else passes as it is; what is no HTTP/2
//! is left for h2 to refuse.

/// The bytes that precede the first frame.
const PREFACE: u32 = 24;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// The name that is looked for, where it is not said by its index in the static table.
const NAME: &[u8] = b":authority";
/// Its index in the static table.
const NAME_INDEX: u8 = 1;
/// Bytes of a priority before a block.
const PRIORITY_BYTES: u32 = 5;
/// No length of a header field needs more bits.
const SHIFT_MAX: u32 = 28;

/// Where in the frames the next byte is.
#[derive(Debug, Clone, Copy)]
enum Frame {
    /// In something that is passed on: the preface, another frame, padding.
    Skip(u32),
    /// In a frame's head, of which so many bytes are known.
    Head { bytes: [u8; 9], have: usize },
    /// At the length of the padding, before a priority of so many bytes.
    PadLength { priority: u32, rest: u32 },
    /// In the priority before a block.
    Priority { left: u32, block: u32, padding: u32 },
    /// In a header block, before so much padding.
    Block { left: u32, padding: u32 },
}

/// The two strings of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Name,
    Value,
}

/// Where in a field the next byte is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    /// At its beginning.
    Begin,
    /// In the rest of an integer that ends the field.
    Index,
    /// In the rest of a name's index, which is then not ours.
    NameIndex,
    /// At the length of a string.
    Length(Part),
    /// In the rest of a length.
    LengthRest { part: Part, plain: bool, value: u32, shift: u32 },
    /// In a string, compressed or plain, at this byte of it.
    Text { part: Part, plain: bool, left: u32, at: usize },
    /// This is no header block.
    Lost,
}

/// The state over all bytes of one connection.
#[derive(Debug, Clone)]
pub(super) struct Mender {
    frame: Frame,
    field: Field,
    /// Whether the field may be `:authority`: it is, once its name is over.
    authority: bool,
}

impl Default for Mender {
    fn default() -> Self {
        Self { frame: Frame::Skip(PREFACE), field: Field::Begin, authority: false }
    }
}

impl Mender {
    /// Mends the next bytes that were read.
    pub(super) fn mend(&mut self, mut bytes: &mut [u8]) {
        while !bytes.is_empty() {
            let taken = self.step(bytes);
            bytes = bytes.get_mut(taken..).unwrap_or_default();
        }
    }

    /// How many bytes the next step takes; one that takes none only says what comes next.
    fn step(&mut self, bytes: &mut [u8]) -> usize {
        let Some(first) = bytes.first_mut() else { return 0 };
        let (next, taken) = match self.frame {
            Frame::Skip(0) => (Frame::Head { bytes: [0; 9], have: 0 }, 0),
            Frame::Skip(left) => {
                let taken = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                (Frame::Skip(left.saturating_sub(u32::try_from(taken).unwrap_or(u32::MAX))), taken)
            }
            Frame::Head { bytes: mut head, have } => {
                if let Some(place) = head.get_mut(have) {
                    *place = *first;
                }
                let next = if have + 1 < head.len() {
                    Frame::Head { bytes: head, have: have + 1 }
                } else {
                    self.payload(head)
                };
                (next, 1)
            }
            Frame::PadLength { priority, rest } => {
                let padding = u32::from(*first).min(rest);
                let block = rest.saturating_sub(priority + padding);
                (Frame::Priority { left: priority, block, padding }, 1)
            }
            Frame::Priority { left: 0, block, padding } => (Frame::Block { left: block, padding }, 0),
            Frame::Priority { left, block, padding } => (Frame::Priority { left: left - 1, block, padding }, 1),
            Frame::Block { left: 0, padding } => (Frame::Skip(padding), 0),
            Frame::Block { left, padding } => {
                self.field = self.field(first);
                (Frame::Block { left: left - 1, padding }, 1)
            }
        };
        self.frame = next;
        taken
    }

    /// What follows a frame's head.
    fn payload(&mut self, [a, b, c, kind, flags, ..]: [u8; 9]) -> Frame {
        let length = u32::from_be_bytes([0, a, b, c]);
        let priority = if flags & PRIORITY == 0 { 0 } else { PRIORITY_BYTES };
        match kind {
            HEADERS => {
                self.field = Field::Begin;
                if flags & PADDED == 0 {
                    return Frame::Priority { left: priority, block: length.saturating_sub(priority), padding: 0 };
                }
                Frame::PadLength { priority, rest: length.saturating_sub(1) }
            }
            CONTINUATION => Frame::Block { left: length, padding: 0 },
            _ => Frame::Skip(length),
        }
    }

    /// Takes one byte of a header block.
    fn field(&mut self, byte: &mut u8) -> Field {
        match self.field {
            Field::Lost => Field::Lost,
            Field::Begin => self.begin(*byte),
            Field::Index if *byte & 0x80 != 0 => Field::Index,
            Field::Index => Field::Begin,
            Field::NameIndex if *byte & 0x80 != 0 => Field::NameIndex,
            Field::NameIndex => Field::Length(Part::Value),
            Field::Length(part) => {
                let plain = *byte & 0x80 == 0;
                match *byte & 0x7f {
                    0x7f => Field::LengthRest { part, plain, value: 0x7f, shift: 0 },
                    length => self.text(part, plain, u32::from(length)),
                }
            }
            Field::LengthRest { shift, .. } if shift >= SHIFT_MAX => Field::Lost,
            Field::LengthRest { part, plain, value, shift } => {
                let value = value.saturating_add(u32::from(*byte & 0x7f) << shift);
                if *byte & 0x80 == 0 {
                    return self.text(part, plain, value);
                }
                Field::LengthRest { part, plain, value, shift: shift + 7 }
            }
            Field::Text { part, plain, left, at } => {
                match part {
                    Part::Name => self.authority &= NAME.get(at) == Some(byte),
                    Part::Value if self.authority && plain => *byte = harmless(*byte),
                    Part::Value => {}
                }
                if left > 1 { Field::Text { part, plain, left: left - 1, at: at + 1 } } else { after(part) }
            }
        }
    }

    fn begin(&mut self, byte: u8) -> Field {
        // Indexed, or the new size of the table: one integer, of 7 or 5 bits here.
        if byte & 0x80 != 0 {
            return if byte & 0x7f == 0x7f { Field::Index } else { Field::Begin };
        }
        if byte & 0xe0 == 0x20 {
            return if byte & 0x1f == 0x1f { Field::Index } else { Field::Begin };
        }
        // A literal: the index of its name has 6 bits where it is to be remembered, else 4.
        let mask = if byte & 0x40 == 0 { 0x0f } else { 0x3f };
        let index = byte & mask;
        self.authority = index == NAME_INDEX;
        match index {
            0 => Field::Length(Part::Name),
            index if index == mask => Field::NameIndex,
            _ => Field::Length(Part::Value),
        }
    }

    /// The beginning of a string; a name of another length or a compressed one is not the one that is looked for.
    fn text(&mut self, part: Part, plain: bool, length: u32) -> Field {
        if part == Part::Name {
            self.authority = plain && usize::try_from(length) == Ok(NAME.len());
        }
        if length == 0 { after(part) } else { Field::Text { part, plain, left: length, at: 0 } }
    }
}

/// What follows a string.
const fn after(part: Part) -> Field {
    match part {
        Part::Name => Field::Length(Part::Value),
        Part::Value => Field::Begin,
    }
}

/// A byte that a host name may have.
const fn harmless(byte: u8) -> u8 {
    if byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'_' { byte } else { b'-' }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    /// What gRPC's C core sends first, byte for byte, but for settings that do not matter here.
    fn grpc_core(authority: &[u8]) -> Vec<u8> {
        let path = b"@\x05:path\x1f/SpiffeWorkloadAPI/FetchJWTSVID";
        let rest = b"\x83\x86@\x0ccontent-type\x10application/grpc@\x02te\x08trailers";
        let length = u8::try_from(authority.len()).unwrap();
        let block = [path, &b"@\x0a:authority"[..], &[length], authority, rest].concat();
        let mut all = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        all.extend(frame(4, 0, &[0, 2, 0, 0, 0, 0]));
        all.extend(frame(HEADERS, 0x4, &block));
        all
    }

    fn mended(bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        Mender::default().mend(&mut bytes);
        bytes
    }

    /// Mutation seen to fail: `harmless` lets `%` pass; `at` does not grow (no name is then the one that is looked for).
    #[test]
    fn the_path_of_a_socket_becomes_a_host_name() {
        assert_eq!(mended(&grpc_core(b"tmp%2Fwl%2Fx.sock")), grpc_core(b"tmp-2Fwl-2Fx.sock"));
        assert_eq!(mended(&grpc_core(b"/run/x_1.sock")), grpc_core(b"-run-x_1.sock"));
        assert_eq!(mended(&grpc_core(b"localhost")), grpc_core(b"localhost"));
    }

    /// Mutation seen to fail: `Frame::Head` forgets what it has at the end of a read.
    #[test]
    fn reads_may_end_anywhere() {
        let (sent, wanted) = (grpc_core(b"a%2Fb"), grpc_core(b"a-2Fb"));
        for cut in 0..sent.len() {
            let (mut mender, mut bytes) = (Mender::default(), sent.clone());
            let (head, tail) = bytes.split_at_mut(cut);
            mender.mend(head);
            mender.mend(tail);
            assert_eq!(bytes, wanted, "cut at {cut}");
        }
    }

    /// Mutation seen to fail: the priority is not skipped; `authority` stays true for the next field.
    #[test]
    fn only_the_authority_is_touched() {
        let preface = &grpc_core(b"x")[..PREFACE as usize];
        let with = |frames: &[Vec<u8>]| [preface, &frames.concat()].concat();
        // By its index in the static table; a longer index; a name of the same length; a compressed value.
        let block = |authority: &[u8]| {
            [b"\x41\x05", authority, b"\x7f\x03\x03%2F", b"\x00\x0a:authoritx\x03%2F", b"\x01\x83%2F"].concat()
        };
        let data = frame(0, 0, &block(b"a%2Fb"));
        let padded = |authority: &[u8]| [&[3, 1, 2, 3, 4, 5], &block(authority)[..], b"%%%"].concat();
        let sent = with(&[
            data.clone(),
            frame(HEADERS, PADDED | PRIORITY, &padded(b"a%2Fb")),
            frame(HEADERS, 0, &block(b"a%2Fb")[..4]),
            frame(CONTINUATION, 0, &block(b"a%2Fb")[4..]),
            data.clone(),
        ]);
        let wanted = with(&[
            data.clone(),
            frame(HEADERS, PADDED | PRIORITY, &padded(b"a-2Fb")),
            frame(HEADERS, 0, &block(b"a-2Fb")[..4]),
            frame(CONTINUATION, 0, &block(b"a-2Fb")[4..]),
            data,
        ]);
        assert_eq!(mended(&sent), wanted);
    }

    /// Mutation seen to fail: `SHIFT_MAX` is 63 (a shift overflows).
    #[test]
    fn garbage_passes_and_is_survived() {
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        for kind in [HEADERS, CONTINUATION, 7] {
            for _ in 0..2_000 {
                let mut next = || {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    state.to_le_bytes()[0]
                };
                let flags = next();
                let payload: Vec<u8> = (0..next()).map(|_| next() | 0x80).collect();
                let mut all = [&[0; PREFACE as usize], &frame(kind, flags, &payload)[..], &[0xff; 64]].concat();
                Mender::default().mend(&mut all);
                assert_eq!(all.len(), PREFACE as usize + 9 + payload.len() + 64);
            }
        }
        let endless = frame(HEADERS, 0, &[&[0x40, 0x7f][..], &[0xff; 200]].concat());
        let all = [&[0; PREFACE as usize], &endless[..]].concat();
        assert_eq!(mended(&all), all);
    }
}
