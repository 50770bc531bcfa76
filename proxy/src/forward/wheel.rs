//! Edge. Deadlines of connections, seen to within a tick: setting one costs a store, and no request makes a timer.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Waker};

/// Milliseconds of a tick.
pub(super) const TICK_MILLISECONDS: u64 = 250;
/// Ticks of a second.
pub(super) const SECOND: u32 = 4;
/// Ticks that the wheel spans (64 s); later deadlines are looked at again when it has turned.
const BUCKETS: u32 = 256;
const NEVER: u32 = u32::MAX;

#[derive(Debug)]
struct Entry {
    at: u32,
    /// The bucket in which it is looked at next; `NEVER`: in none.
    queued: u32,
    waker: Option<Waker>,
}

#[derive(Debug)]
struct Inner {
    now: u32,
    entries: Vec<Entry>,
    free: Vec<u32>,
    buckets: Vec<Vec<u32>>,
}

/// The deadlines of one core.
#[derive(Debug)]
pub(super) struct Wheel(RefCell<Inner>);

/// The deadline of one connection.
#[derive(Debug)]
pub(super) struct Timer {
    wheel: Rc<Wheel>,
    index: u32,
}

impl Inner {
    fn queue(&mut self, index: u32) {
        let now = self.now;
        if let Some(entry) = self.entries.get_mut(index as usize) {
            let look = entry.at.min(now + BUCKETS - 1).max(now + 1);
            if look < entry.queued {
                entry.queued = look;
                if let Some(bucket) = self.buckets.get_mut((look % BUCKETS) as usize) {
                    bucket.push(index);
                }
            }
        }
    }
}

impl Wheel {
    pub(super) fn new(now: u32) -> Rc<Self> {
        let buckets = (0..BUCKETS).map(|_| Vec::new()).collect();
        Rc::new(Self(RefCell::new(Inner { now, entries: Vec::new(), free: Vec::new(), buckets })))
    }
    /// The present tick.
    pub(super) fn now(&self) -> u32 {
        self.0.borrow().now
    }
    pub(super) fn timer(self: &Rc<Self>) -> Timer {
        let mut inner = self.0.borrow_mut();
        let fresh = Entry { at: NEVER, queued: NEVER, waker: None };
        let index = match inner.free.pop() {
            Some(index) => {
                if let Some(entry) = inner.entries.get_mut(index as usize) {
                    *entry = fresh;
                }
                index
            }
            None => {
                inner.entries.push(fresh);
                u32::try_from(inner.entries.len() - 1).unwrap_or(0)
            }
        };
        Timer { wheel: Rc::clone(self), index }
    }
    /// Turns to tick `now` and wakes whose deadline has come.
    pub(super) fn advance(&self, now: u32) {
        let mut wakers = Vec::new();
        {
            let mut inner = self.0.borrow_mut();
            let from = inner.now.max(now.saturating_sub(BUCKETS)) + 1;
            inner.now = now.max(inner.now);
            for tick in from..=now {
                let bucket = match inner.buckets.get_mut((tick % BUCKETS) as usize) {
                    Some(bucket) => std::mem::take(bucket),
                    None => continue,
                };
                for index in bucket {
                    let Some(entry) = inner.entries.get_mut(index as usize) else { continue };
                    // Queued again for another tick, or freed.
                    if entry.queued > now {
                        continue;
                    }
                    entry.queued = NEVER;
                    if entry.at <= now {
                        wakers.extend(entry.waker.take());
                    } else if entry.at != NEVER {
                        inner.queue(index);
                    }
                }
            }
        }
        wakers.into_iter().for_each(Waker::wake);
    }
    /// Wakes everybody: something else than time changed.
    pub(super) fn wake_all(&self) {
        let wakers: Vec<Waker> = self.0.borrow_mut().entries.iter_mut().filter_map(|e| e.waker.take()).collect();
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl Timer {
    /// Sets the deadline to `ticks` from now.
    pub(super) fn set(&self, ticks: u32) {
        let mut inner = self.wheel.0.borrow_mut();
        let at = inner.now.saturating_add(ticks.max(1)).min(NEVER - 1);
        if let Some(entry) = inner.entries.get_mut(self.index as usize) {
            entry.at = at;
            if at < entry.queued {
                inner.queue(self.index);
            }
        }
    }
    /// Whether the deadline has come; if not, the task is woken when it comes.
    pub(super) fn expired(&self, cx: &Context<'_>) -> bool {
        let mut inner = self.wheel.0.borrow_mut();
        let now = inner.now;
        let Some(entry) = inner.entries.get_mut(self.index as usize) else { return false };
        if entry.at <= now {
            return true;
        }
        if entry.waker.as_ref().is_none_or(|w| !w.will_wake(cx.waker())) {
            entry.waker = Some(cx.waker().clone());
        }
        false
    }
    /// The present tick.
    pub(super) fn now(&self) -> u32 {
        self.wheel.now()
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        let mut inner = self.wheel.0.borrow_mut();
        if let Some(entry) = inner.entries.get_mut(self.index as usize) {
            *entry = Entry { at: NEVER, queued: NEVER, waker: None };
            inner.free.push(self.index);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl std::task::Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Mutation seen to fail: `inner.queue(index)` left out of `advance` (a deadline moved later is lost).
    #[test]
    fn deadlines_come_once_moved_or_not() {
        let wheel = Wheel::new(10);
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let cx = Context::from_waker(&waker);
        let (a, b) = (wheel.timer(), wheel.timer());
        a.set(4);
        b.set(1000);
        wheel.advance(13);
        assert!(!a.expired(&cx) && !b.expired(&cx));
        a.set(4);
        assert_eq!(woken.0.load(Ordering::Relaxed), 0);
        wheel.advance(14);
        assert!(!a.expired(&cx));
        wheel.advance(17);
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        assert!(a.expired(&cx) && !b.expired(&cx));
        for now in 18..1010 {
            wheel.advance(now);
            assert!(!b.expired(&cx), "{now}");
            assert!(wheel.0.borrow().buckets.iter().map(Vec::len).sum::<usize>() <= 2);
        }
        wheel.advance(1010);
        assert_eq!(woken.0.load(Ordering::Relaxed), 2);
        assert!(b.expired(&cx));
        b.set(3);
        assert!(!b.expired(&cx));
        wheel.advance(5000);
        assert!(b.expired(&cx));
    }
}
