//! Pure. Read and write buffers, taken when bytes arrive and given back when a connection is idle.

use std::cell::{Cell, RefCell};

use crate::codec::HEAD_MAX;

/// Capacity of a buffer: the longest head and a little, so that a longer one is seen to be too long.
pub(super) const BUFFER_BYTES: usize = HEAD_MAX + 1024;
/// Free buffers kept per core; at most 8 MiB, of which only touched pages count.
const FREE_MAX: usize = 256;

/// Free buffers of one core.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    free: RefCell<Vec<Vec<u8>>>,
    /// The fewest that were free since the last trim: so many were not needed.
    fewest: Cell<usize>,
}

impl Buffers {
    pub(super) fn take(&self) -> Vec<u8> {
        let mut free = self.free.borrow_mut();
        let taken = free.pop().unwrap_or_else(|| Vec::with_capacity(BUFFER_BYTES));
        self.fewest.set(self.fewest.get().min(free.len()));
        taken
    }
    /// Gives buffers that were not needed for a while back to the system.
    pub(super) fn trim(&self) {
        let mut free = self.free.borrow_mut();
        let keep = free.len() - self.fewest.get().min(free.len());
        free.truncate(keep);
        self.fewest.set(keep);
    }
    pub(super) fn give(&self, mut bytes: Vec<u8>) {
        // Grown ones are let go: they were an exception.
        if bytes.capacity() >= BUFFER_BYTES && bytes.capacity() <= 2 * BUFFER_BYTES {
            bytes.clear();
            let mut free = self.free.borrow_mut();
            if free.len() < FREE_MAX {
                free.push(bytes);
            }
        }
    }
}

/// Bytes that were read and not consumed yet.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    bytes: Vec<u8>,
    start: usize,
}

impl Buffer {
    pub(super) fn data(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or_default()
    }
    pub(super) fn is_empty(&self) -> bool {
        self.start >= self.bytes.len()
    }
    pub(super) fn consume(&mut self, n: usize) {
        self.start += n;
        if self.start >= self.bytes.len() {
            self.bytes.clear();
            self.start = 0;
        }
    }
    /// Space to read into: at least one byte, as the last byte of a full buffer is refused by its reader.
    pub(super) fn space(&mut self, buffers: &Buffers) -> &mut Vec<u8> {
        if self.bytes.capacity() == 0 {
            self.bytes = buffers.take();
        } else if self.start > 0 && self.bytes.capacity() - self.bytes.len() < BUFFER_BYTES / 2 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        &mut self.bytes
    }
    /// Gives the memory back if nothing is in it.
    pub(super) fn release(&mut self, buffers: &Buffers) {
        if self.is_empty() && self.bytes.capacity() > 0 {
            self.start = 0;
            buffers.give(std::mem::take(&mut self.bytes));
        }
    }
    /// Drops whatever is in it.
    pub(super) fn discard(&mut self, buffers: &Buffers) {
        self.bytes.clear();
        self.release(buffers);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mutation seen to fail: `self.fewest.set(…)` left out of `take`.
    #[test]
    fn buffers_that_nobody_needs_go_back() {
        let buffers = Buffers::default();
        let taken: Vec<_> = (0..10).map(|_| buffers.take()).collect();
        taken.into_iter().for_each(|b| buffers.give(b));
        buffers.trim();
        assert_eq!(buffers.free.borrow().len(), 10);
        let two = [buffers.take(), buffers.take()];
        two.into_iter().for_each(|b| buffers.give(b));
        buffers.trim();
        assert_eq!(buffers.free.borrow().len(), 2);
        buffers.trim();
        assert_eq!(buffers.free.borrow().len(), 0);
    }

    #[test]
    fn a_buffer_never_forgets_what_was_not_consumed() {
        let buffers = Buffers::default();
        let mut buffer = Buffer::default();
        let mut expected = Vec::new();
        for i in 0..2000usize {
            let byte = u8::try_from(i % 251).unwrap();
            buffer.space(&buffers).extend_from_slice(&[byte; 37]);
            expected.extend_from_slice(&[byte; 37]);
            let n = (i * 13) % 75;
            let n = n.min(buffer.data().len());
            assert_eq!(buffer.data(), expected);
            buffer.consume(n);
            expected.drain(..n);
        }
    }
}
