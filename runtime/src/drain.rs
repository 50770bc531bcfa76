//! Edge. One drain: a signal that everybody sees, and the wait for everybody who holds a [`Watch`].

use std::time::Duration;

use tokio::sync::{mpsc, watch};

/// Starts the drain and waits for its end.
#[derive(Debug)]
pub struct Trigger {
    signal: watch::Sender<bool>,
    /// Closed when the last [`Watch`] is gone.
    holders: mpsc::Receiver<()>,
    holder: Option<mpsc::Sender<()>>,
}

/// Sees the drain; holding one blocks shutdown until the deadline.
#[derive(Debug, Clone)]
pub struct Watch {
    signal: watch::Receiver<bool>,
    _holder: mpsc::Sender<()>,
}

/// A trigger and its first watch.
#[must_use]
pub fn channel() -> (Trigger, Watch) {
    let (signal, seen) = watch::channel(false);
    let (holder, holders) = mpsc::channel(1);
    (Trigger { signal, holders, holder: Some(holder.clone()) }, Watch { signal: seen, _holder: holder })
}

impl Trigger {
    /// Tells every watch to finish what it has begun and to take nothing new.
    pub fn start(&self) {
        self.signal.send_replace(true);
    }
    /// Another watch.
    #[must_use]
    pub fn watch(&self) -> Option<Watch> {
        let holder = self.holder.clone()?;
        Some(Watch { signal: self.signal.subscribe(), _holder: holder })
    }
    /// Starts, and waits until no watch is held any more. `false`: the deadline came first.
    pub async fn drained(mut self, deadline: Duration) -> bool {
        self.start();
        self.holder = None;
        // Nobody ever sends: the channel ends when the last holder is dropped.
        tokio::time::timeout(deadline, self.holders.recv()).await.is_ok()
    }
}

impl Watch {
    /// Waits for the drain. A trigger that was dropped drains, too.
    pub async fn signaled(&self) {
        let mut signal = self.signal.clone();
        let _dropped_trigger = signal.wait_for(|draining| *draining).await;
    }
    /// Whether the drain has begun.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        *self.signal.borrow() || self.signal.has_changed().is_err()
    }
}

/// SIGTERM and SIGINT, heard from the moment this exists.
#[derive(Debug)]
pub struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    /// Installs the handlers.
    ///
    /// # Errors
    /// When they cannot be installed.
    pub fn listen() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }
    /// As [`Self::listen`], before there is a runtime: for the first line of `main`. What comes between then and the
    /// moment at which it is waited for is not lost.
    ///
    /// # Errors
    /// When they cannot be installed.
    pub fn early() -> std::io::Result<Self> {
        // The handlers, and the pipe that they write to, are the process's; any runtime reads it later.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let _inside = runtime.enter();
        Self::listen()
    }
    /// Waits for either.
    pub async fn received(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mutation seen to fail: `self.holder = None` left out of `drained` (it then never ends before its deadline).
    #[tokio::test]
    async fn a_held_watch_blocks_until_dropped_or_deadline() {
        let (trigger, watch) = channel();
        assert!(!watch.is_draining());
        let second = trigger.watch().unwrap();
        drop(watch);
        let holder = async move {
            second.signaled().await;
            assert!(second.is_draining());
        };
        let (drained, ()) = tokio::join!(trigger.drained(Duration::from_secs(5)), holder);
        assert!(drained);

        let (trigger, watch) = channel();
        assert!(!trigger.drained(Duration::from_millis(50)).await);
        assert!(watch.is_draining());
        watch.signaled().await;
    }
}
