//! Edge. Named tasks with an owner: the one place that spawns.

use std::fmt;
use std::future::Future;

use tokio::task::{AbortHandle, JoinError, JoinHandle, JoinSet};
use tracing::Instrument as _;

/// Spawns a task. The owner keeps the handle and awaits or aborts it.
#[allow(clippy::disallowed_methods, reason = "the one place that spawns")]
pub fn spawn<F>(name: &'static str, future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    tokio::spawn(future.instrument(tracing::debug_span!("task", name)))
}

/// Spawns a task on the current `LocalSet` (thread per core).
pub fn spawn_local<F>(name: &'static str, future: F) -> JoinHandle<F::Output>
where
    F: Future + 'static,
    F::Output: 'static,
{
    tokio::task::spawn_local(future.instrument(tracing::debug_span!("task", name)))
}

/// Runs blocking work (fsync, key generation) off the runtime's threads.
pub fn spawn_blocking<F, T>(name: &'static str, work: F) -> JoinHandle<T>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    tokio::task::spawn_blocking(move || tracing::debug_span!("task", name).in_scope(work))
}

/// A handle that aborts its task when dropped: for tasks that belong to a connection or a stream.
#[derive(Debug)]
pub struct AbortOnDrop(AbortHandle);

impl AbortOnDrop {
    /// Takes over the task.
    #[must_use]
    pub fn new<T>(handle: &JoinHandle<T>) -> Self {
        Self(handle.abort_handle())
    }
}
impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Why a required task ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// It returned without error.
    Finished,
    /// It returned an error, with its causes.
    Failed(String),
    /// It panicked.
    Panicked(String),
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Finished => f.write_str("finished"),
            Self::Failed(why) => write!(f, "failed: {why}"),
            Self::Panicked(why) => write!(f, "panicked: {why}"),
        }
    }
}

/// The required tasks of a process: the end of one is the end of the process, with its reason.
#[derive(Debug, Default)]
pub struct TaskGroup {
    set: JoinSet<(&'static str, Ended)>,
}

impl TaskGroup {
    /// An empty group.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Spawns a required task.
    pub fn spawn<F, E>(&mut self, name: &'static str, future: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let inner = async move {
            match future.await {
                Ok(()) => Ended::Finished,
                Err(e) => {
                    let e: Box<dyn std::error::Error + Send + Sync> = e.into();
                    Ended::Failed(crate::telemetry::chain(e.as_ref()))
                }
            }
        };
        // The outer task catches the panic of the inner one, so that its name is not lost.
        self.set.spawn(async move {
            let handle = spawn(name, inner);
            let _abort = AbortOnDrop::new(&handle);
            (name, handle.await.unwrap_or_else(|e| panicked(&name, e)))
        });
    }

    /// Waits until the first task ends. An empty group never does.
    pub async fn first_end(&mut self) -> (&'static str, Ended) {
        match self.set.join_next().await {
            Some(Ok(end)) => end,
            Some(Err(e)) => ("task group", panicked(&"task group", e)),
            None => std::future::pending().await,
        }
    }

    /// Waits until all tasks have ended, and returns those that failed.
    pub async fn all_ended(&mut self) -> Vec<(&'static str, Ended)> {
        let mut failed = Vec::new();
        while let Some(end) = self.set.join_next().await {
            match end {
                Ok((_, Ended::Finished)) => {}
                Ok(end) => failed.push(end),
                Err(e) => failed.push(("task group", panicked(&"task group", e))),
            }
        }
        failed
    }

    /// Ends all tasks at once.
    pub fn abort_all(&mut self) {
        self.set.abort_all();
    }
}

fn panicked(name: &&'static str, error: JoinError) -> Ended {
    if error.is_cancelled() {
        return Ended::Failed(format!("{name} was aborted"));
    }
    let payload = error.into_panic();
    let text = payload
        .downcast_ref::<&str>()
        .map(|s| (*s).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned());
    Ended::Panicked(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mutation seen to fail: `panicked` returning `Finished`; the inner spawn left out (the name is lost).
    #[tokio::test]
    async fn the_first_end_names_task_and_reason() {
        let mut group = TaskGroup::new();
        group.spawn("sleeper", std::future::pending::<Result<(), std::io::Error>>());
        group.spawn("bomb", async {
            tokio::task::yield_now().await;
            if true {
                panic!("boom {}", 1);
            }
            Ok::<(), std::io::Error>(())
        });
        let (name, end) = group.first_end().await;
        assert_eq!((name, end), ("bomb", Ended::Panicked("boom 1".to_owned())));
        group.spawn("reader", async { Err(std::io::Error::other("no disk")) });
        assert_eq!(group.first_end().await, ("reader", Ended::Failed("no disk".to_owned())));
        group.abort_all();
        assert_eq!(group.all_ended().await.len(), 1);
    }
}
