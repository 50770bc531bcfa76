//! Edge. Thread per core: each worker has its own sockets, its own runtime, and everything that its connections need.
//!
//! The control thread binds, all or nothing, one `SO_REUSEPORT` socket per worker and address; so an address in use is
//! known at once, and a listener is acknowledged only when it listens.

mod limits;
mod worker;

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use meshfed_runtime::drain::Watch;
use meshfed_runtime::listen::{Addresses, BindError, bind_reuseport};
use tokio::sync::{mpsc, oneshot};

use crate::passthrough::GatewayMetrics;
use crate::state::{Listener, ListenerCell, StateHandle};
use crate::telemetry::Telemetry;

pub use limits::Limits;

/// Commands on their way to one worker: a start of a workload with many ports and addresses fits several times.
const COMMANDS: usize = 4096;

/// What all workers share.
#[derive(Debug, Clone)]
pub struct Shared {
    /// What discovery knows.
    pub state: Arc<StateHandle>,
    /// Metrics and the access log.
    pub telemetry: Arc<Telemetry>,
    /// The gateway's counters.
    pub gateway: Arc<GatewayMetrics>,
    /// Limits of the process.
    pub limits: Arc<Limits>,
    /// How long the drain takes at most.
    pub drain_timeout: Duration,
}

/// What a worker is told.
#[derive(Debug)]
enum Command {
    /// Accept on this socket, by whatever the cell holds at the time.
    Accept { socket: TcpListener, requested: SocketAddr, cell: Arc<ListenerCell> },
    /// Accept what waits, then close the socket.
    Stop { name: Arc<str>, requested: SocketAddr },
}

#[derive(Debug)]
struct Bound {
    cell: Arc<ListenerCell>,
    group: (&'static str, &'static str),
    /// Requested address to the one bound.
    addresses: BTreeMap<SocketAddr, SocketAddr>,
}

/// The listeners of the process and the workers that serve them.
#[derive(Debug)]
pub struct Listeners {
    workers: Vec<mpsc::Sender<Command>>,
    bound: BTreeMap<Arc<str>, Bound>,
}

/// Why a worker could not be started.
#[derive(Debug, thiserror::Error)]
#[error("worker thread {index} could not be started")]
pub struct WorkerError {
    index: usize,
    #[source]
    source: std::io::Error,
}

impl Listeners {
    /// Starts the workers. The receivers end when a worker does: with the drain, or because it broke.
    ///
    /// # Errors
    /// [`WorkerError`].
    pub fn start(
        count: usize,
        shared: &Shared,
        drain: &Watch,
    ) -> Result<(Self, Vec<oneshot::Receiver<()>>), WorkerError> {
        let mut workers = Vec::with_capacity(count);
        let mut ends = Vec::with_capacity(count);
        for index in 0..count {
            let (commands, queue) = mpsc::channel(COMMANDS);
            let (end, ended) = oneshot::channel();
            let (shared, drain) = (shared.clone(), drain.clone());
            // The thread ends by itself after the drain, and its end is watched through the channel.
            let _detached = std::thread::Builder::new()
                .name(format!("worker-{index}"))
                .spawn(move || {
                    worker::run(queue, shared, drain);
                    let _nobody_waits = end.send(());
                })
                .map_err(|source| WorkerError { index, source })?;
            workers.push(commands);
            ends.push(ended);
        }
        Ok((Self { workers, bound: BTreeMap::new() }, ends))
    }

    /// Listens with this version of a listener. Addresses that it had already go on without a gap; new ones are bound
    /// first, all or nothing, and only then those that it no longer has are given up.
    ///
    /// # Errors
    /// Every address that cannot be bound; then the version before stays in use.
    pub fn install(&mut self, cell: &Arc<ListenerCell>, listener: &Arc<Listener>) -> Result<(), Vec<BindError>> {
        if !listener.bound {
            cell.set(Some(Arc::clone(listener)));
            return Ok(());
        }
        let held = self.bound.get(&listener.name).map(|b| b.addresses.clone()).unwrap_or_default();
        let group = listener.kind.group();
        let mut fresh: Vec<(SocketAddr, SocketAddr, Vec<TcpListener>)> = Vec::new();
        let mut errors = Vec::new();
        for &address in listener.addresses.iter().filter(|a| !held.contains_key(a)) {
            if fresh.iter().any(|(requested, _, _)| *requested == address) {
                continue;
            }
            match bind_reuseport(group.1, address, self.workers.len()) {
                Ok(sockets) => {
                    let actual = sockets.first().and_then(|s| s.local_addr().ok()).unwrap_or(address);
                    fresh.push((address, actual, sockets));
                }
                Err(error) => errors.push(error),
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        cell.set(Some(Arc::clone(listener)));
        let mut addresses = BTreeMap::new();
        for (&requested, &actual) in &held {
            if listener.addresses.contains(&requested) {
                addresses.insert(requested, actual);
            } else {
                self.tell_all(|| Command::Stop { name: Arc::clone(&listener.name), requested });
            }
        }
        for (requested, actual, sockets) in fresh {
            addresses.insert(requested, actual);
            tracing::info!(listener = %listener.name, address = %actual, "listening");
            let mut sockets = sockets.into_iter();
            for worker in &self.workers {
                let Some(socket) = sockets.next() else { break };
                tell(worker, Command::Accept { socket, requested, cell: Arc::clone(cell) });
            }
        }
        self.bound.insert(Arc::clone(&listener.name), Bound { cell: Arc::clone(cell), group, addresses });
        Ok(())
    }

    /// Stops listening. Connections that stand go on.
    pub fn remove(&mut self, name: &str) {
        let Some(bound) = self.bound.remove(name) else { return };
        for &requested in bound.addresses.keys() {
            self.tell_all(|| Command::Stop { name: Arc::clone(bound.cell.name()), requested });
        }
        tracing::info!(listener = name, "no longer listening");
    }

    /// Where is listened, by key of `addresses.json`.
    pub fn addresses(&self, into: &mut Addresses) {
        for bound in self.bound.values() {
            for &actual in bound.addresses.values() {
                into.add_addr(bound.group.0, actual);
            }
        }
    }

    fn tell_all(&self, command: impl Fn() -> Command) {
        for worker in &self.workers {
            tell(worker, command());
        }
    }
}

fn tell(worker: &mpsc::Sender<Command>, command: Command) {
    if let Err(error) = worker.try_send(command) {
        // Only a worker that is gone, or stuck since thousands of commands, does not take it.
        tracing::error!(%error, "a worker does not take commands");
    }
}

#[cfg(test)]
pub(crate) mod tests;
