//! Pure. Whether an application can be connected to, as it was last seen.

use std::sync::atomic::{AtomicBool, Ordering};

/// What all cores know of an application. Raw TCP needs it: there nobody can be told after the handshake that the
/// application is gone, so the handshake is not answered while it is.
#[derive(Debug, Default)]
pub struct Reach {
    lost: AtomicBool,
    asked: AtomicBool,
}

/// Held while somebody finds out.
#[derive(Debug)]
pub struct Asking<'a>(&'a Reach);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.asked.store(false, Ordering::Relaxed);
    }
}

impl Reach {
    /// It could not be connected to.
    pub fn lose(&self) {
        self.lost.store(true, Ordering::Relaxed);
    }
    /// It could.
    pub fn find(&self) {
        self.lost.store(false, Ordering::Relaxed);
    }
    /// Whether the last connect failed.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }
    /// To find out whether it is back; `None` while another one does.
    #[must_use]
    pub fn ask(&self) -> Option<Asking<'_>> {
        (!self.asked.swap(true, Ordering::Relaxed)).then_some(Asking(self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mutation seen to fail: `Asking` dropped without `asked` being reset; `swap` replaced by `load`.
    #[test]
    fn one_at_a_time_finds_out() {
        let reach = Reach::default();
        assert!(!reach.is_lost());
        reach.lose();
        let asking = reach.ask();
        assert!(reach.is_lost() && asking.is_some() && reach.ask().is_none());
        drop(asking);
        assert!(reach.ask().is_some());
        reach.find();
        assert!(!reach.is_lost());
    }
}
