//! Pure. Counts the HTTP/2 frames of one connection by their nine bytes of head, without looking into them.

use std::time::{Duration, Instant};

use super::ConnectionLimits;
use crate::rate::{Bucket, Rate};

/// What every HTTP/2 client begins with (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes of a frame's head.
const HEAD: usize = 9;
/// PINGs that answer to data of ours and are not counted: clients that estimate bandwidth send one per data frame.
const CREDIT_MAX: u32 = 100;
/// The period of the limits.
const PERIOD: Duration = Duration::from_secs(10);

// Frame types and the flag of RFC 9113, 6.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

/// A flood of frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flood {
    /// PING or SETTINGS: each needs an answer.
    Control,
    /// RST_STREAM: each throws away a request that was begun (CVE-2023-44487).
    Resets,
}

impl Flood {
    /// Their names.
    #[must_use]
    pub const fn frames(self) -> &'static str {
        match self {
            Self::Control => "PING and SETTINGS",
            Self::Resets => "RST_STREAM",
        }
    }
}

/// What a connection speaks, by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    /// This much of the preface has come.
    Unknown(usize),
    Http2,
    /// HTTP/1.1, or garbage: its own parser bounds it.
    Other,
}

/// A frame that has passed as a whole.
#[derive(Debug, Clone, Copy)]
struct Frame {
    kind: u8,
    flags: u8,
    length: usize,
    stream: u32,
}

/// Cuts a stream of bytes into frames.
#[derive(Debug, Default)]
struct Frames {
    head: [u8; HEAD],
    have: usize,
    /// Bytes left of the frame whose head is known.
    rest: usize,
}

impl Frames {
    /// The next frame that ends in `bytes`, which are cut accordingly; none: all of them are used up.
    fn next(&mut self, bytes: &mut &[u8]) -> Option<Frame> {
        loop {
            if self.have == HEAD {
                let passed = self.rest.min(bytes.len());
                *bytes = bytes.get(passed..).unwrap_or_default();
                self.rest -= passed;
                if self.rest > 0 {
                    return None;
                }
                self.have = 0;
                let [_, _, _, kind, flags, stream @ ..] = self.head;
                // The highest bit is reserved.
                let stream = u32::from_be_bytes(stream) & !(1 << 31);
                return Some(Frame { kind, flags, length: self.length(), stream });
            }
            let (byte, tail) = bytes.split_first()?;
            if let Some(place) = self.head.get_mut(self.have) {
                *place = *byte;
            }
            *bytes = tail;
            self.have += 1;
            if self.have == HEAD {
                self.rest = self.length();
            }
        }
    }
    /// Whether the last frame has passed as a whole.
    const fn is_between(&self) -> bool {
        self.have == 0
    }
    /// The length that the head names.
    fn length(&self) -> usize {
        self.head.iter().take(3).fold(0, |length, byte| length << 8 | usize::from(*byte))
    }
}

/// What one connection has done so far.
#[derive(Debug)]
pub struct Meter {
    protocol: Protocol,
    has_spoken: bool,
    received: Frames,
    sent: Frames,
    /// Whether we have sent a frame: the first one must be SETTINGS.
    has_answered: bool,
    /// The highest stream whose head has come.
    last_stream: u32,
    credit: u32,
    control: Bucket,
    resets: Bucket,
    control_rate: Rate,
    resets_rate: Rate,
}

impl Meter {
    /// Of a new connection.
    #[must_use]
    pub fn new(limits: &ConnectionLimits) -> Self {
        Self {
            protocol: Protocol::Unknown(0),
            has_spoken: false,
            received: Frames::default(),
            sent: Frames::default(),
            has_answered: false,
            last_stream: 0,
            credit: 0,
            control: Bucket::default(),
            resets: Bucket::default(),
            control_rate: Rate::at_most(limits.control_frames, PERIOD),
            resets_rate: Rate::at_most(limits.resets, PERIOD),
        }
    }

    /// Whether the head of a request has come, or something that is not HTTP/2.
    #[must_use]
    pub const fn has_spoken(&self) -> bool {
        self.has_spoken
    }

    /// Counts what the peer sent.
    ///
    /// # Errors
    /// [`Flood`]: the connection is to be cut.
    pub fn received(&mut self, mut bytes: &[u8], now: Instant) -> Result<(), Flood> {
        while let (Protocol::Unknown(seen), Some((byte, tail))) = (self.protocol, bytes.split_first()) {
            bytes = tail;
            self.protocol = match PREFACE.get(seen) {
                Some(expected) if expected == byte && seen + 1 == PREFACE.len() => Protocol::Http2,
                Some(expected) if expected == byte => Protocol::Unknown(seen + 1),
                Some(_) | None => Protocol::Other,
            };
        }
        match self.protocol {
            Protocol::Unknown(_) => Ok(()),
            Protocol::Other => {
                self.has_spoken = true;
                Ok(())
            }
            Protocol::Http2 => {
                while let Some(frame) = self.received.next(&mut bytes) {
                    self.count(frame, now)?;
                }
                Ok(())
            }
        }
    }

    fn count(&mut self, frame: Frame, now: Instant) -> Result<(), Flood> {
        match frame.kind {
            HEADERS | CONTINUATION => {
                self.has_spoken |= frame.flags & END_HEADERS != 0;
                self.last_stream = self.last_stream.max(frame.stream);
                Ok(())
            }
            PING if self.credit > 0 => {
                self.credit -= 1;
                Ok(())
            }
            PING | SETTINGS if !self.control.take(self.control_rate, now) => Err(Flood::Control),
            RST_STREAM if !self.resets.take(self.resets_rate, now) => Err(Flood::Resets),
            _ => Ok(()),
        }
    }

    /// A GOAWAY frame with that error code (RFC 9113, 6.8 and 7), where one may stand: between two frames of ours.
    #[must_use]
    pub fn goaway(&self, code: u32) -> Option<[u8; HEAD + 8]> {
        if self.protocol != Protocol::Http2 || !self.has_answered || !self.sent.is_between() {
            return None;
        }
        let mut frame = [0; HEAD + 8];
        frame[2] = 8;
        frame[3] = GOAWAY;
        frame[HEAD..HEAD + 4].copy_from_slice(&self.last_stream.to_be_bytes());
        frame[HEAD + 4..].copy_from_slice(&code.to_be_bytes());
        Some(frame)
    }

    /// Counts what we sent: data may be answered by a PING.
    pub fn sent(&mut self, mut bytes: &[u8]) {
        if self.protocol != Protocol::Http2 {
            return;
        }
        while let Some(frame) = self.sent.next(&mut bytes) {
            self.has_answered = true;
            if frame.kind == DATA && frame.length > 0 {
                self.credit = (self.credit + 1).min(CREDIT_MAX);
            }
        }
    }
}
