//! Pure. A number that stands for some texts: the same on every hub, whatever it was built with.

/// FNV-1a, 64 bits.
pub(crate) struct Fnv(u64);

impl Fnv {
    pub(crate) const fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
    pub(crate) fn text(&mut self, text: &str) -> &mut Self {
        let length = (text.len() as u64).to_le_bytes();
        for byte in length.iter().chain(text.as_bytes()) {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        self
    }
    /// Never 0, which stands for "none" on the wire.
    pub(crate) const fn finish(&self) -> u64 {
        if self.0 == 0 { 1 } else { self.0 }
    }
}
