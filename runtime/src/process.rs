//! Edge. What every daemon's `run` begins and ends with: refused configuration, listeners by flag, a runtime until
//! SIGTERM or SIGINT.

use std::fmt::Display;
use std::future::Future;
use std::io::Write as _;
use std::net::TcpListener;
use std::pin::Pin;
use std::process::ExitCode;

use crate::config::Problems;
use crate::drain;
use crate::listen::{Addresses, ListenFlag, bind_flag};

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

/// Runs a daemon on a multi-threaded runtime; it gets the signal to stop. Exit code 1 when it ends with an error.
pub fn run_until_signal<E: Display, F: Future<Output = Result<(), E>>>(daemon: impl FnOnce(Stop) -> F) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "no runtime");
            return ExitCode::FAILURE;
        }
    };
    let ended = runtime.block_on(async {
        // Before the daemon says where it listens: who reads that may tell it to end at once.
        let signals = match drain::Signals::listen() {
            Ok(signals) => signals,
            Err(error) => return Err(format!("signals cannot be waited for: {error}")),
        };
        daemon(Box::pin(signals.received())).await.map_err(|error| error.to_string())
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    /// Mutation seen to fail: `NotDumpable` replaced by `Dumpable`.
    #[test]
    fn memory_is_private() {
        super::keep_memory_private();
        let now = rustix::process::dumpable_behavior().unwrap();
        assert_eq!(now, rustix::process::DumpableBehavior::NotDumpable);
    }
}
