//! Edge. The run directory: its `addresses.json` is that of one process at a time.

use std::fs::File;
use std::path::{Path, PathBuf};

use meshfed_runtime::config::Problems;
use meshfed_runtime::files;
use meshfed_runtime::listen::{ADDRESSES, Addresses, Published, forget};
use meshfed_runtime::telemetry::chain;

/// Held by the proxy that the directory belongs to.
const LOCK: &str = "proxy.lock";
/// The directory cannot be used (MF0111 of the agent's and federator's directories, too).
const CODE: &str = "MF0111";
const FLAG: &str = "--run-dir";

/// The directory of `--run-dir`.
#[derive(Debug)]
pub(super) struct RunDir {
    path: PathBuf,
    /// While it is held, the directory is ours.
    lock: Option<File>,
    published: Option<Published>,
    broken: bool,
}

impl RunDir {
    /// Takes the directory where it is free. Until something is bound nobody listens anywhere, so what an earlier run
    /// wrote is forgotten at once.
    pub(super) fn new(path: &Path) -> Self {
        let mut this = Self { path: path.to_owned(), lock: None, published: None, broken: false };
        if let Err(text) = this.take() {
            // Told as an error, beside the addresses in use, when there is something to write.
            tracing::warn!(run_dir = %this.path.display(), "{text}");
        }
        this
    }

    /// Whether nobody can use the directory: to be told before anything is served.
    pub(super) const fn is_broken(&self) -> bool {
        self.broken
    }

    /// Notes why the directory is not ours, after it was tried again.
    pub(super) fn check(&mut self, problems: &mut Problems) {
        if let Err(text) = self.take() {
            problems.environment(CODE, FLAG, text);
        }
    }

    fn take(&mut self) -> Result<(), String> {
        if self.lock.is_some() {
            return Ok(());
        }
        let shown = self.path.display();
        let locked = files::create_dir(&self.path, files::MODE_RUN_DIR)
            .and_then(|()| files::lock(&self.path.join(LOCK)))
            .and_then(|lock| forget(&self.path).map(|_was_there| lock));
        self.broken = locked.is_err();
        match locked {
            // What is left is locked by a process that lives, such as the agent whose directory this is.
            Ok(Some(lock)) if !self.path.join(ADDRESSES).exists() => self.lock = Some(lock),
            Ok(_) => {
                return Err(format!("{shown} belongs to a process that runs; stop it or choose another directory"));
            }
            Err(error) => return Err(format!("{}; choose another directory", chain(&error))),
        }
        Ok(())
    }

    /// Writes `addresses.json`, unless the directory is another's.
    pub(super) fn write(&mut self, addresses: &Addresses) {
        if self.lock.is_none() {
            return;
        }
        match addresses.write(&self.path) {
            Ok(published) => self.published = Some(published),
            Err(error) => tracing::error!(error = %chain(&error), "addresses.json cannot be written"),
        }
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        // The addresses go before the lock: the next one to hold it must not find them.
        self.published = None;
    }
}
