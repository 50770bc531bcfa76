//! Edge. One worker thread: accepts on its sockets and serves what it accepted.

use std::cell::Cell;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use meshfed_runtime::drain::Watch;
use meshfed_runtime::tasks;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::LocalSet;

use super::{Command, Limits, Shared};
use crate::forward::Core;
use crate::passthrough::{Gateway, SweepLimits};
use crate::state::{ListenerCell, ListenerKind};
use crate::{capture, inbound, outbound, tcp};

/// Pause after an accept that failed for want of descriptors or memory: the connection waits in the queue meanwhile.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the connections of one worker share.
struct Worker {
    core: Rc<Core>,
    gateway: Rc<Gateway>,
    limits: Arc<Limits>,
    active: Cell<usize>,
    idle: Notify,
}

/// Counts a connection in and, however it ends, out.
struct Open(Rc<Worker>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.limits.leave();
        self.0.active.set(self.0.active.get() - 1);
        if self.0.active.get() == 0 {
            self.0.idle.notify_one();
        }
    }
}

/// Runs a worker until the drain has begun and its connections have ended.
pub(super) fn run(commands: mpsc::Receiver<Command>, shared: Shared, drain: Watch) {
    meshfed_runtime::tls::warm_up();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "a worker has no runtime");
            return;
        }
    };
    LocalSet::new().block_on(&runtime, serve(commands, shared, drain));
}

async fn serve(mut commands: mpsc::Receiver<Command>, shared: Shared, drain: Watch) {
    let core = Core::new(shared.state, shared.telemetry, drain.clone());
    let gateway = Gateway::new(shared.gateway, SweepLimits::default());
    let sweep = tasks::spawn_local("gateway sweep", Rc::clone(&gateway).sweep(drain.clone(), shared.drain_timeout));
    let _sweep = tasks::AbortOnDrop::new(&sweep);
    let worker = Rc::new(Worker { core, gateway, limits: shared.limits, active: Cell::new(0), idle: Notify::new() });
    let mut accepting: HashMap<(Arc<str>, SocketAddr), oneshot::Sender<()>> = HashMap::new();
    loop {
        let command = tokio::select! {
            biased;
            () = drain.signaled() => break,
            command = commands.recv() => command,
        };
        match command {
            None => break,
            Some(Command::Stop { name, requested }) => drop(accepting.remove(&(name, requested))),
            Some(Command::Accept { socket, requested, cell }) => match listener(socket) {
                Ok(socket) => {
                    let (stop, stopped) = oneshot::channel();
                    accepting.insert((Arc::clone(cell.name()), requested), stop);
                    // It ends when its sender is dropped, which this map owns.
                    let _owned = tasks::spawn_local("accept", accept(socket, cell, Rc::clone(&worker), stopped));
                }
                Err(error) => tracing::error!(listener = %cell.name(), %error, "a socket cannot be listened on"),
            },
        }
    }
    accepting.clear();
    // The accept tasks take what waits before their sockets close.
    tokio::task::yield_now().await;
    while worker.active.get() > 0 {
        worker.idle.notified().await;
    }
}

fn listener(socket: std::net::TcpListener) -> io::Result<TcpListener> {
    // Accepted connections inherit it: one system call less for each.
    socket2::SockRef::from(&socket).set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket)
}

async fn accept(socket: TcpListener, cell: Arc<ListenerCell>, worker: Rc<Worker>, mut stopped: oneshot::Receiver<()>) {
    loop {
        let accepted = tokio::select! {
            biased;
            _ended = &mut stopped => break,
            accepted = socket.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => take(&worker, &cell, stream, peer),
            Err(error) if is_of_the_connection(&error) => {}
            Err(error) => {
                tracing::warn!(listener = %cell.name(), %error, "cannot accept; trying again");
                tokio::select! {
                    _ended = &mut stopped => break,
                    () = tokio::time::sleep(ACCEPT_PAUSE) => {}
                }
            }
        }
    }
    // Whoever connected before the end is served. The system is asked itself: the runtime knows only of connections
    // that had come when it looked last, and the others would be reset with the socket.
    let Ok(socket) = socket.into_std() else { return };
    while let Ok((stream, peer)) = socket.accept() {
        if let Ok(stream) = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream)) {
            take(&worker, &cell, stream, peer);
        }
    }
}

/// Errors of one connection, which was gone before it was accepted; others mean that nothing can be accepted now.
fn is_of_the_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
            | io::ErrorKind::WouldBlock
    )
}

fn take(worker: &Rc<Worker>, cell: &ListenerCell, stream: TcpStream, peer: SocketAddr) {
    let Some(listener) = cell.get() else { return };
    if !worker.limits.enter() {
        match &listener.kind {
            ListenerKind::Gateway { .. } => worker.gateway.refused_by_limit(),
            ListenerKind::OutboundHttp { .. }
            | ListenerKind::OutboundTcp { .. }
            | ListenerKind::OutboundAny { .. }
            | ListenerKind::CapturedOutbound { .. } => worker.core.telemetry.denied("outbound", "limit"),
            ListenerKind::InboundHttp { .. } | ListenerKind::InboundTcp { .. } | ListenerKind::CapturedInbound(_) => {
                worker.core.telemetry.denied("inbound", "limit")
            }
        }
        return;
    }
    worker.active.set(worker.active.get() + 1);
    let open = Open(Rc::clone(worker));
    let core = Rc::clone(&worker.core);
    // Each connection's task holds its `Open`, which the worker waits for: nobody needs the handle.
    match &listener.kind {
        ListenerKind::OutboundHttp { .. } => spawn(open, outbound::serve(core, stream, peer, listener)),
        ListenerKind::InboundHttp { .. } => spawn(open, inbound::serve(core, stream, peer, listener)),
        ListenerKind::OutboundTcp { .. } | ListenerKind::OutboundAny { .. } => {
            spawn(open, tcp::serve_outbound(core, stream, peer, listener))
        }
        ListenerKind::InboundTcp { .. } => spawn(open, tcp::serve_inbound(core, stream, peer, listener, None)),
        ListenerKind::CapturedOutbound { .. } => spawn(open, capture::outbound::serve(core, stream, peer, listener)),
        ListenerKind::CapturedInbound(_) => spawn(open, capture::inbound::serve(core, stream, peer, listener)),
        ListenerKind::Gateway { .. } => spawn(open, Rc::clone(&worker.gateway).serve(core, stream, peer, listener)),
    }
}

fn spawn(open: Open, connection: impl Future<Output = ()> + 'static) {
    let _owned_by_open = tasks::spawn_local("connection", async move {
        connection.await;
        drop(open);
    });
}
