//! Edge. What every daemon's `run` begins and ends with: refused configuration, listeners by flag, a runtime until
//! SIGTERM or SIGINT, its parts until one ends or all have drained.

use std::fmt::Display;
use std::future::Future;
use std::io::Write as _;
use std::net::TcpListener;
use std::pin::Pin;
use std::process::ExitCode;
use std::time::Duration;

use crate::config::Problems;
use crate::drain::{self, Signals, Watch};
use crate::listen::{Addresses, ListenFlag, bind_flag};
use crate::tasks::TaskGroup;

/// Ends when the process is told to.
pub type Stop = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Prints configuration problems on stderr, one per line, and gives the exit code (`contracts.md` 1.2).
#[must_use]
pub fn refuse(problems: &Problems) -> ExitCode {
    // The form is a contract, so it does not go through the log.
    let _closed = writeln!(std::io::stderr(), "{problems}");
    ExitCode::from(problems.exit_code())
}

/// Binds all addresses of a flag and notes them under `key`. What fails is added to `problems`; `code` is that of a
/// socket that does not tell its address.
pub fn listen(
    code: &'static str,
    flag: &'static str,
    key: &'static str,
    flags: &[ListenFlag],
    addresses: &mut Addresses,
    problems: &mut Problems,
) -> Vec<TcpListener> {
    let mut all = Vec::new();
    for at in flags {
        match bind_flag(flag, at) {
            Ok(listeners) => all.extend(listeners),
            Err(error) => error.note(problems),
        }
    }
    for listener in &all {
        if let Err(error) = addresses.add(key, listener) {
            problems.environment(code, flag, error.to_string());
        }
    }
    all
}

/// Keeps keys out of core dumps, and other processes of the same user out of our memory (`PR_SET_DUMPABLE` 0, CA10).
/// To be called before the first key is read.
pub fn keep_memory_private() {
    if let Err(error) = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable) {
        tracing::warn!(%error, "this process could be dumped with its keys");
    }
}

/// Takes as many file descriptors as the system allows this process: the common soft limit of 1,024 is for programs that
/// use `select`, and fewer than the connections that a daemon has places for.
fn take_descriptors() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of open files stays as it was");
    }
}

/// Runs a daemon on a multi-threaded runtime; it gets the signal to stop: that of `signals`, which `main` has listened
/// for from its first line on (none: from now on). Exit code 1 when it ends with an error.
pub fn run_until_signal<E: Display, F: Future<Output = Result<(), E>>>(
    signals: Option<Signals>,
    daemon: impl FnOnce(Stop) -> F,
) -> ExitCode {
    take_descriptors();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "no runtime");
            return ExitCode::FAILURE;
        }
    };
    let ended = runtime.block_on(async {
        // Before the daemon says where it listens: who reads that may tell it to end at once.
        let mut signals = match signals.map_or_else(Signals::listen, Ok) {
            Ok(signals) => signals,
            Err(error) => return Err(format!("signals cannot be waited for: {error}")),
        };
        let stop = async move { signals.received().await };
        daemon(Box::pin(stop)).await.map_err(|error| error.to_string())
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// A required part of a daemon has ended, or could not begin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name} has ended: {reason}")]
pub struct Ended {
    /// The part.
    pub name: &'static str,
    /// Why, with its causes.
    pub reason: String,
}

/// Starts the parts of a daemon, waits until it is told to stop, and drains them; what has not ended by
/// `drain_timeout` is cut. Each part holds a [`Watch`] for as long as it has something to finish.
/// What `start` gives (a lock, say) is held to the end.
///
/// # Errors
/// [`Ended`] when a part cannot begin, or ends before the daemon is told to.
pub async fn run_parts<T>(
    stop: impl Future<Output = ()>,
    drain_timeout: Duration,
    start: impl FnOnce(&mut TaskGroup, Watch) -> Result<T, Ended>,
) -> Result<(), Ended> {
    let (trigger, watch) = drain::channel();
    let mut parts = TaskGroup::new();
    let _held_to_the_end = start(&mut parts, watch)?;
    tokio::select! {
        () = stop => {}
        (name, reason) = parts.first_end() => return Err(Ended { name, reason: reason.to_string() }),
    }
    tracing::info!(timeout = ?drain_timeout, "draining");
    if !trigger.drained(drain_timeout).await {
        tracing::warn!(timeout = ?drain_timeout, "the drain timeout is over; what is left is cut");
    }
    parts.abort_all();
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use tokio::sync::oneshot;

    use super::*;

    /// Mutation seen to fail: `NotDumpable` replaced by `Dumpable`.
    #[test]
    fn memory_is_private() {
        keep_memory_private();
        let now = rustix::process::dumpable_behavior().unwrap();
        assert_eq!(now, rustix::process::DumpableBehavior::NotDumpable);
    }

    /// Longer than any test takes.
    const LONG: Duration = Duration::from_secs(60);

    /// Mutation seen to fail: `drained` is not waited for.
    #[tokio::test]
    async fn told_to_stop_it_waits_for_what_was_begun() {
        let (stop, told) = oneshot::channel();
        let finished = Arc::new(AtomicBool::new(false));
        let part = Arc::clone(&finished);
        let start = |parts: &mut TaskGroup, watch: Watch| {
            parts.spawn("part", async move {
                stop.send(()).expect("the daemon waits");
                watch.signaled().await;
                tokio::task::yield_now().await;
                part.store(true, Ordering::Relaxed);
                drop(watch);
                // A part that has drained may stay.
                std::future::pending::<Result<(), io::Error>>().await
            });
            Ok(())
        };
        let stop = async move { told.await.expect("told to stop") };
        assert_eq!(run_parts(stop, LONG, start).await, Ok(()));
        assert!(finished.load(Ordering::Relaxed));
    }

    /// Mutation seen to fail: `abort_all` is left out, with the group kept.
    #[tokio::test]
    async fn what_does_not_drain_is_cut() {
        let (alive, gone) = oneshot::channel::<()>();
        let start = |parts: &mut TaskGroup, watch: Watch| {
            parts.spawn("deaf", async move {
                let _held = (alive, watch);
                std::future::pending::<Result<(), io::Error>>().await
            });
            Ok(())
        };
        assert_eq!(run_parts(std::future::ready(()), Duration::from_millis(1), start).await, Ok(()));
        assert!(tokio::time::timeout(LONG, gone).await.expect("the part is dropped").is_err());
    }

    /// Mutation seen to fail: the end of a part is not looked at.
    #[tokio::test]
    async fn the_end_of_a_part_is_the_end_of_the_daemon() {
        let start = |parts: &mut TaskGroup, _watch: Watch| {
            parts.spawn("reader", async { Err(io::Error::other("no disk")) });
            Ok(())
        };
        let run = run_parts(std::future::pending(), LONG, start);
        let ended = tokio::time::timeout(LONG, run).await.expect("it ends").unwrap_err();
        assert_eq!(ended.to_string(), "reader has ended: failed: no disk");
        let never = |_: &mut TaskGroup, _watch: Watch| Err::<(), _>(Ended { name: "tls", reason: "no key".to_owned() });
        let ended = run_parts(std::future::pending(), LONG, never).await.unwrap_err();
        assert_eq!(ended.to_string(), "tls has ended: no key");
    }
}
