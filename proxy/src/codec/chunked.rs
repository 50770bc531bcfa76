//! Pure. The chunked coding, as a state machine that is fed whatever arrives.

use super::chars::{is_token, is_value};
use super::{CHUNK_EXTENSION_MAX, Reject, TRAILERS_MAX};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before the first digit of a size.
    Size,
    /// After a digit.
    SizeMore,
    Extension,
    SizeLineFeed,
    Data,
    DataCarriageReturn,
    DataLineFeed,
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLineFeed,
    LastLineFeed,
    Done,
}

/// A decoder of one chunked body. Extensions and trailers are checked and dropped.
#[derive(Debug, Clone)]
pub struct ChunkedDecoder {
    state: State,
    remaining: u64,
    digits: usize,
    extension: usize,
    trailers: usize,
}

/// What [`ChunkedDecoder::decode`] found: skip `framing` bytes, then `data` bytes are payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decoded {
    /// Bytes of framing before the payload.
    pub framing: usize,
    /// Bytes of payload after them; 0 at the end of the body, or when more input is needed.
    pub data: usize,
}

impl Default for ChunkedDecoder {
    fn default() -> Self {
        Self { state: State::Size, remaining: 0, digits: 0, extension: 0, trailers: 0 }
    }
}

impl ChunkedDecoder {
    /// Whether the body is complete.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Decodes the next stretch of `input`. All `framing + data` bytes count as consumed.
    ///
    /// # Errors
    /// [`Reject`] when the grammar or a limit is violated.
    pub fn decode(&mut self, input: &[u8]) -> Result<Decoded, Reject> {
        let mut framing = 0;
        while let Some(rest) = input.get(framing..).filter(|r| !r.is_empty()) {
            match self.state {
                State::Done => break,
                State::Data => {
                    let data = usize::try_from(self.remaining).unwrap_or(usize::MAX).min(rest.len());
                    self.remaining -= data as u64;
                    if self.remaining == 0 {
                        self.state = State::DataCarriageReturn;
                    }
                    return Ok(Decoded { framing, data });
                }
                State::Size
                | State::SizeMore
                | State::Extension
                | State::SizeLineFeed
                | State::DataCarriageReturn
                | State::DataLineFeed
                | State::TrailerStart
                | State::TrailerName
                | State::TrailerValue
                | State::TrailerLineFeed
                | State::LastLineFeed => {
                    let Some(&b) = rest.first() else { break };
                    self.state = self.step(b)?;
                    framing += 1;
                }
            }
        }
        Ok(Decoded { framing, data: 0 })
    }

    fn step(&mut self, b: u8) -> Result<State, Reject> {
        match self.state {
            State::Size | State::SizeMore => self.size(b),
            State::Extension => match b {
                b'\r' => Ok(State::SizeLineFeed),
                _ if !is_value(b) => Err(Reject::ChunkEnd),
                _ => {
                    self.extension += 1;
                    if self.extension > CHUNK_EXTENSION_MAX {
                        Err(Reject::ChunkExtension)
                    } else {
                        Ok(State::Extension)
                    }
                }
            },
            State::SizeLineFeed => match b {
                b'\n' if self.remaining == 0 => Ok(State::TrailerStart),
                b'\n' => Ok(State::Data),
                _ => Err(Reject::ChunkEnd),
            },
            State::DataCarriageReturn => {
                if b == b'\r' {
                    Ok(State::DataLineFeed)
                } else {
                    Err(Reject::ChunkEnd)
                }
            }
            State::DataLineFeed => {
                (self.digits, self.extension) = (0, 0);
                if b == b'\n' { Ok(State::Size) } else { Err(Reject::ChunkEnd) }
            }
            State::TrailerStart | State::TrailerName | State::TrailerValue | State::TrailerLineFeed => self.trailer(b),
            State::LastLineFeed => {
                if b == b'\n' {
                    Ok(State::Done)
                } else {
                    Err(Reject::ChunkEnd)
                }
            }
            State::Data | State::Done => Ok(self.state),
        }
    }

    fn size(&mut self, b: u8) -> Result<State, Reject> {
        if let Some(digit) = char::from(b).to_digit(16) {
            self.digits += 1;
            if self.digits > 16 {
                return Err(Reject::ChunkSize);
            }
            // Sixteen digits fit: earlier ones are shifted, never out.
            self.remaining = (self.remaining << 4) | u64::from(digit);
            return Ok(State::SizeMore);
        }
        match b {
            b'\r' if self.state == State::SizeMore => Ok(State::SizeLineFeed),
            b';' if self.state == State::SizeMore => Ok(State::Extension),
            _ => Err(Reject::ChunkSize),
        }
    }

    fn trailer(&mut self, b: u8) -> Result<State, Reject> {
        self.trailers += 1;
        if self.trailers > TRAILERS_MAX {
            return Err(Reject::Trailers);
        }
        match (self.state, b) {
            (State::TrailerStart, b'\r') => Ok(State::LastLineFeed),
            (State::TrailerName, b':') => Ok(State::TrailerValue),
            (State::TrailerStart | State::TrailerName, _) if is_token(b) => Ok(State::TrailerName),
            (State::TrailerValue, b'\r') => Ok(State::TrailerLineFeed),
            (State::TrailerValue, _) if is_value(b) => Ok(State::TrailerValue),
            (State::TrailerLineFeed, b'\n') => Ok(State::TrailerStart),
            _ => Err(Reject::Trailers),
        }
    }
}
