//! Edge. Relays between two parts of the product: one counts bytes, one decides piece by piece what may still pass.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::net::{Shutdown, shutdown};

/// How often a listener is asked for a connection.
const POLL: Duration = Duration::from_millis(5);
/// One piece.
const PIECE: usize = 64 * 1024;

/// Judges a piece that the server sent, by its length: false cuts the connection before the client gets it.
pub type Judge = Arc<dyn Fn(usize) -> bool + Send + Sync>;

/// A running relay; it ends, and cuts its connections, when it is dropped.
pub struct Relay {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

/// The agent's socket seen by one proxy: how many bytes the agent has sent it.
pub struct CountingSocket {
    received: Arc<AtomicU64>,
    _relay: Relay,
}

impl CountingSocket {
    /// Listens on `path` for `agent`, which may come and go.
    ///
    /// # Panics
    /// When the socket cannot be made.
    #[must_use]
    pub fn start(path: &Path, agent: PathBuf) -> Self {
        let received = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&received);
        let count: Judge = Arc::new(move |bytes| {
            counter.fetch_add(bytes as u64, Ordering::Relaxed);
            true
        });
        let listener = UnixListener::bind(path).expect("the relay's socket");
        listener.set_nonblocking(true).expect("a listener");
        let accept = move || {
            let (client, _) = listener.accept().ok()?;
            client.set_nonblocking(false).ok()?;
            Some((OwnedFd::from(client), UnixStream::connect(&agent).ok().map(OwnedFd::from)))
        };
        Self { received, _relay: relay(accept, count) }
    }
    /// All bytes so far that the agent sent, over all connections.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

/// Relays a free TCP port to `server` as long as the judge agrees; gives the port, too.
///
/// # Panics
/// When no port is free.
#[must_use]
pub fn judged(server: SocketAddr, judge: Judge) -> (SocketAddr, Relay) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.set_nonblocking(true).expect("a listener");
    let address = listener.local_addr().expect("an address");
    let accept = move || {
        let (client, _) = listener.accept().ok()?;
        client.set_nonblocking(false).ok()?;
        Some((OwnedFd::from(client), TcpStream::connect(server).ok().map(OwnedFd::from)))
    };
    (address, relay(accept, judge))
}

fn relay(accept: impl Fn() -> Option<(OwnedFd, Option<OwnedFd>)> + Send + 'static, judge: Judge) -> Relay {
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let thread = std::thread::spawn(move || {
        let mut pumps: Vec<(File, File, [JoinHandle<()>; 2])> = Vec::new();
        while !stopped.load(Ordering::Relaxed) {
            match accept() {
                // Without a server the client is dropped, as the server's own absence would.
                Some((client, Some(server))) => pumps.push(join(client, server, &judge)),
                Some((_client, None)) => {}
                None => std::thread::sleep(POLL),
            }
        }
        for (client, server, threads) in pumps {
            cut(&client, &server);
            for thread in threads {
                let _panicked = thread.join();
            }
        }
    });
    Relay { stop, thread: Some(thread) }
}

fn join(client: OwnedFd, server: OwnedFd, judge: &Judge) -> (File, File, [JoinHandle<()>; 2]) {
    let (client, server) = (File::from(client), File::from(server));
    let both = || (client.try_clone().expect("a descriptor"), server.try_clone().expect("a descriptor"));
    let (up, down) = (both(), both());
    let judge = Arc::clone(judge);
    let threads = [
        std::thread::spawn(move || pump(&up.0, &up.1, &|_| true)),
        std::thread::spawn(move || pump(&down.1, &down.0, &*judge)),
    ];
    (client, server, threads)
}

fn pump(mut from: &File, mut to: &File, judge: &dyn Fn(usize) -> bool) {
    let mut piece = vec![0; PIECE];
    while let Ok(count) = from.read(&mut piece)
        && count > 0
        && judge(count)
        && to.write_all(&piece[..count]).is_ok()
    {}
    cut(from, to);
}

fn cut(one: &File, other: &File) {
    for end in [one, other] {
        let _already = shutdown(end.as_fd(), Shutdown::Both);
    }
}
