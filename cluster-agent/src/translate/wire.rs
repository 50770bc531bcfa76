//! Pure. Protobuf, field by field into one buffer: for messages that are large, change often, and consist of parts that
//! stay the same. What prost would make of the same message has the same bytes; the tests of its users compare them.

use std::fmt::{self, Display, Write as _};

/// Varint.
const VARINT: u32 = 0;
/// Eight bytes.
const FIXED64: u32 = 1;
/// A length, then so many bytes.
const LENGTH: u32 = 2;

/// A message that is being written.
#[derive(Debug, Default)]
pub(super) struct Writer(Vec<u8>);

/// Texts are formatted straight into the buffer.
impl fmt::Write for Writer {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

impl Writer {
    pub(super) fn with_capacity(bytes: usize) -> Self {
        Self(Vec::with_capacity(bytes))
    }
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
    pub(super) fn written(&self) -> &[u8] {
        &self.0
    }
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
    fn tag(&mut self, field: u32, wire_type: u32) {
        self.varint(u64::from(field << 3 | wire_type));
    }

    /// A number; 0 is left out, as proto3 has it.
    pub(super) fn number(&mut self, field: u32, value: u32) {
        if value != 0 {
            self.tag(field, VARINT);
            self.varint(value.into());
        }
    }
    /// A member of a `oneof`, which is there also when it is 0.
    pub(super) fn chosen_number(&mut self, field: u32, value: u32) {
        self.tag(field, VARINT);
        self.varint(value.into());
    }
    /// The same for a floating-point number.
    pub(super) fn chosen_double(&mut self, field: u32, value: f64) {
        self.tag(field, FIXED64);
        self.0.extend_from_slice(&value.to_le_bytes());
    }
    /// Bytes, or the bytes of a message that is made already.
    pub(super) fn bytes(&mut self, field: u32, bytes: &[u8]) {
        self.tag(field, LENGTH);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }
    /// Text; the empty one is left out.
    pub(super) fn text(&mut self, field: u32, text: &str) {
        if !text.is_empty() {
            self.bytes(field, text.as_bytes());
        }
    }
    /// What something displays as.
    pub(super) fn shown(&mut self, field: u32, value: impl Display) {
        self.message(field, |w| {
            // The buffer takes everything.
            let _infallible = write!(w, "{value}");
        });
    }
    /// A message inside this one. Its length is known at its end, and is turned before it.
    pub(super) fn message(&mut self, field: u32, body: impl FnOnce(&mut Self)) {
        self.tag(field, LENGTH);
        let at = self.0.len();
        body(self);
        let end = self.0.len();
        self.varint((end - at) as u64);
        let prefix = self.0.len() - end;
        if let Some(written) = self.0.get_mut(at..) {
            written.rotate_right(prefix);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mutation seen to fail: `rotate_right(1)`.
    #[test]
    fn lengths_of_every_size_are_right() {
        for length in [1, 0x7d, 0x7e, 0x7f, 0x80, 0x3ffc, 0x3ffd, 0x4000, 70_000] {
            let text = "x".repeat(length);
            let mut writer = Writer::default();
            writer.message(1, |w| w.message(2, |w| w.text(3, &text)));
            let bytes = writer.into_bytes();
            let mut rest = bytes.as_slice();
            for field in [1, 2, 3] {
                assert_eq!(prost::encoding::decode_key(&mut rest).unwrap().0, field);
                assert_eq!(prost::encoding::decode_varint(&mut rest).unwrap() as usize, rest.len(), "{length}");
            }
            assert_eq!(rest, text.as_bytes());
        }
    }
}
