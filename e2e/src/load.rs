//! Edge. A steady load from outside: clients that do one exchange after the other, and a ledger of what failed.
//!
//! What counts as an error. A client whose own proxy is never restarted ([`Patience::None`]) is owed everything: its
//! connects are taken, its kept connections stay, every request gets a 200 with the whole body, every byte of a raw
//! TCP exchange comes back. A client whose own proxy *is* restarted ([`Patience::OwnProxy`]) cannot be owed a listener
//! while there is none; it is owed that whatever was taken is finished. So to it a refused connect is a wait, and a
//! kept connection that ends between two exchanges, before a byte of an answer, is one more connect, as HTTP/1.1 has
//! every client do (RFC 9112 9.3.1, 9.5). All else is an error for it, too: a request on a new connection that gets no
//! answer, an answer that breaks off, any other status, a raw TCP exchange that is cut.

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs as _};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::wait::until;

/// Pause of a client between two exchanges: the load is steady, not as heavy as can be.
const PACE: Duration = Duration::from_millis(25);
/// How long one exchange may take before it counts as lost.
const DEADLINE: Duration = Duration::from_secs(30);
/// Errors of one client that are kept as text.
const ERRORS_KEPT: usize = 20;
/// Different short answers of one client that are counted apart.
const ANSWERS_KEPT: usize = 16;
/// An answer is short up to this many bytes: the name of a pod.
const ANSWER_BYTES: usize = 64;
/// Bytes of one raw TCP exchange: more than one TLS record of a segment's size.
const PAYLOAD: usize = 3000;

/// What a client does, over and over.
#[derive(Debug, Clone)]
pub enum Client {
    /// GET over a proxy, a connection each.
    HttpNew(SocketAddr, String),
    /// GET over a proxy on one kept connection.
    HttpKept(SocketAddr, String),
    /// GET from the server that the URL names, as an application knows it: the name is asked anew for each connection.
    DirectNew(String),
    /// The same on one kept connection.
    DirectKept(String),
    /// Raw TCP, a connection each: bytes out, end of stream, the same bytes back, end of stream.
    TcpNew(SocketAddr),
    /// Raw TCP on one connection that lasts as long as the load.
    TcpKept(SocketAddr),
}

/// What a client bears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// Nothing.
    None,
    /// That its own proxy is away for a while.
    OwnProxy,
}

/// What a client saw.
#[derive(Debug, Default)]
struct Tally {
    done: AtomicU64,
    waited: AtomicU64,
    repeated: AtomicU64,
    failed: AtomicU64,
    answers: Mutex<BTreeMap<String, u64>>,
    errors: Mutex<Vec<String>>,
}

/// Clients at work; they stop when it is dropped.
#[derive(Debug, Default)]
pub struct Load {
    stop: Arc<AtomicBool>,
    /// What is being done to the fleet, for the words of an error.
    step: Arc<Mutex<String>>,
    clients: Vec<(String, Arc<Tally>, JoinHandle<()>)>,
}

/// What one client did, at the end.
#[derive(Debug)]
pub struct Report {
    /// Its name.
    pub name: String,
    /// Exchanges that were complete and right.
    pub done: u64,
    /// Connects that its own proxy's absence refused.
    pub waited: u64,
    /// Exchanges begun again on a new connection, since the kept one had ended before a byte of an answer.
    pub repeated: u64,
    /// Exchanges that failed.
    pub failed: u64,
    /// How often each short answer came.
    pub answers: BTreeMap<String, u64>,
    /// The first of the errors.
    pub errors: Vec<String>,
}

/// Why an exchange did not take place.
enum Failure {
    /// The connect was refused, or the kept connection had ended.
    NotBegun(io::Error),
    /// Everything else.
    Lost(String),
}

impl Load {
    /// Starts a client.
    pub fn add(&mut self, name: &str, client: Client, patience: Patience) {
        let (tally, stop) = (Arc::new(Tally::default()), Arc::clone(&self.stop));
        let own = Worker { client, patience, tally: Arc::clone(&tally), step: Arc::clone(&self.step) };
        let thread = std::thread::spawn(move || own.work(&stop));
        self.clients.push((name.to_owned(), tally, thread));
    }

    /// Names what is done to the fleet from now on.
    pub fn step(&self, what: &str) {
        what.clone_into(&mut self.step.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Waits until every client has done so many exchanges more.
    pub fn all_do(&self, more: u64, deadline: Duration) {
        let begun: Vec<u64> = self.clients.iter().map(|(_, tally, _)| tally.done.load(Ordering::Relaxed)).collect();
        until("every client goes on", deadline, || {
            let behind = self
                .clients
                .iter()
                .zip(&begun)
                .find(|((_, tally, _), begun)| tally.done.load(Ordering::Relaxed) < **begun + more);
            behind.map_or(Ok(()), |((name, tally, _), _)| Err(format!("{name} does not: {tally:?}")))
        });
    }

    /// What every client saw so far.
    #[must_use]
    pub fn reports(&self) -> Vec<Report> {
        self.clients.iter().map(|(name, tally, _)| tally.report(name)).collect()
    }

    /// Stops all clients between two exchanges, and says what they saw.
    #[must_use]
    pub fn stop(mut self) -> Vec<Report> {
        self.stop.store(true, Ordering::Relaxed);
        let clients = std::mem::take(&mut self.clients);
        let ended = clients.into_iter().map(|(name, tally, thread)| {
            thread.join().expect("a client of the load");
            tally.report(&name)
        });
        ended.collect()
    }
}

impl Tally {
    fn report(&self, name: &str) -> Report {
        Report {
            name: name.to_owned(),
            done: self.done.load(Ordering::Relaxed),
            waited: self.waited.load(Ordering::Relaxed),
            repeated: self.repeated.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            answers: self.answers.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            errors: self.errors.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
    fn answered(&self, body: &[u8]) {
        let Ok(answer) = std::str::from_utf8(body) else { return };
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = answers.get_mut(answer) {
            *count += 1;
        } else if answer.len() <= ANSWER_BYTES && answers.len() < ANSWERS_KEPT {
            answers.insert(answer.to_owned(), 1);
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// One client's thread.
struct Worker {
    client: Client,
    patience: Patience,
    tally: Arc<Tally>,
    step: Arc<Mutex<String>>,
}

impl Worker {
    fn work(&self, stop: &AtomicBool) {
        let mut kept: Option<BufReader<TcpStream>> = None;
        let mut number = 0_u64;
        while !stop.load(Ordering::Relaxed) {
            let reused = kept.is_some();
            match exchange(&self.client, &mut kept, number) {
                Ok(body) => {
                    self.tally.done.fetch_add(1, Ordering::Relaxed);
                    self.tally.answered(&body);
                }
                Err(Failure::NotBegun(_)) if self.patience == Patience::OwnProxy => {
                    let seen = if reused { &self.tally.repeated } else { &self.tally.waited };
                    seen.fetch_add(1, Ordering::Relaxed);
                }
                Err(Failure::NotBegun(error)) => self.failed(number, reused, &error.to_string()),
                Err(Failure::Lost(error)) => self.failed(number, reused, &error),
            }
            number += 1;
            std::thread::sleep(PACE);
        }
    }

    fn failed(&self, number: u64, reused: bool, error: &str) {
        self.tally.failed.fetch_add(1, Ordering::Relaxed);
        let mut errors = self.tally.errors.lock().unwrap_or_else(PoisonError::into_inner);
        if errors.len() < ERRORS_KEPT {
            let connection = if reused { "kept" } else { "new" };
            let step = self.step.lock().unwrap_or_else(PoisonError::into_inner);
            errors.push(format!("exchange {number} on a {connection} connection, {step}: {error}"));
        }
    }
}

/// One exchange; the body of an answer by HTTP.
fn exchange(client: &Client, kept: &mut Option<BufReader<TcpStream>>, number: u64) -> Result<Vec<u8>, Failure> {
    match client {
        Client::HttpNew(proxy, url) => get(connect(*proxy)?, url, host(url), false).map(|(body, _closed)| body),
        Client::HttpKept(proxy, url) => get_kept(kept, url, host(url), || connect(*proxy)),
        Client::DirectNew(url) => {
            get(connect_by_name(host(url))?, path(url), host(url), false).map(|(body, _closed)| body)
        }
        Client::DirectKept(url) => get_kept(kept, path(url), host(url), || connect_by_name(host(url))),
        Client::TcpNew(address) => {
            let mut connection = connect(*address)?;
            let sent = payload(number);
            let mut back = Vec::new();
            let stream = connection.get_mut();
            let copied = stream
                .write_all(&sent)
                .and_then(|()| stream.shutdown(Shutdown::Write))
                .and_then(|()| stream.read_to_end(&mut back));
            check(copied.map(|_| back == sent)).map(|()| Vec::new())
        }
        Client::TcpKept(address) => {
            let mut connection = match kept.take() {
                Some(connection) => connection,
                None => connect(*address)?,
            };
            let sent = payload(number);
            let mut back = vec![0; sent.len()];
            let stream = connection.get_mut();
            check(stream.write_all(&sent).and_then(|()| stream.read_exact(&mut back)).map(|()| back == sent))?;
            *kept = Some(connection);
            Ok(Vec::new())
        }
    }
}

fn get_kept(
    kept: &mut Option<BufReader<TcpStream>>,
    target: &str,
    host: &str,
    connect: impl FnOnce() -> Result<BufReader<TcpStream>, Failure>,
) -> Result<Vec<u8>, Failure> {
    let (connection, reused) = match kept.take() {
        Some(connection) => (connection, true),
        None => (connect()?, false),
    };
    let (body, connection) = get(connection, target, host, reused)?;
    *kept = connection;
    Ok(body)
}

/// `HOST:PORT` of a URL.
fn host(url: &str) -> &str {
    url.trim_start_matches("http://").split('/').next().unwrap_or_default()
}

/// What follows the host in a URL.
fn path(url: &str) -> &str {
    let rest = url.trim_start_matches("http://");
    rest.find('/').and_then(|at| rest.get(at..)).unwrap_or("/")
}

fn connect_by_name(host: &str) -> Result<BufReader<TcpStream>, Failure> {
    let unknown = |error: &dyn std::fmt::Display| Failure::Lost(format!("{host} has no address: {error}"));
    let mut found = host.to_socket_addrs().map_err(|error| unknown(&error))?;
    connect(found.next().ok_or_else(|| unknown(&"none"))?)
}

fn check(same: io::Result<bool>) -> Result<(), Failure> {
    match same {
        Ok(true) => Ok(()),
        Ok(false) => Err(Failure::Lost("other bytes came back".to_owned())),
        Err(error) => Err(Failure::Lost(error.to_string())),
    }
}

/// Differs from exchange to exchange, so that an answer to another one is noticed.
fn payload(number: u64) -> Vec<u8> {
    number.to_be_bytes().into_iter().cycle().enumerate().map(|(i, b)| b ^ (i % 251) as u8).take(PAYLOAD).collect()
}

fn connect(address: SocketAddr) -> Result<BufReader<TcpStream>, Failure> {
    let stream = TcpStream::connect_timeout(&address, DEADLINE).map_err(Failure::NotBegun)?;
    let set = stream.set_read_timeout(Some(DEADLINE)).and_then(|()| stream.set_nodelay(true));
    set.map_err(|error| Failure::Lost(error.to_string()))?;
    Ok(BufReader::new(stream))
}

/// One GET: the body, and the connection again where the answer lets it be kept.
fn get(
    mut connection: BufReader<TcpStream>,
    target: &str,
    host: &str,
    reused: bool,
) -> Result<(Vec<u8>, Option<BufReader<TcpStream>>), Failure> {
    let request = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: meshfed-e2e-load\r\n\r\n");
    let mut line = String::new();
    let begun = connection.get_mut().write_all(request.as_bytes()).and_then(|()| connection.read_line(&mut line));
    match begun {
        Ok(count) if count > 0 => {}
        // Nothing of an answer came: only on a kept connection may that be the end of an earlier exchange.
        Ok(_) if reused => return Err(Failure::NotBegun(io::ErrorKind::UnexpectedEof.into())),
        Err(error) if reused && line.is_empty() && is_end(&error) => return Err(Failure::NotBegun(error)),
        Ok(_) => return Err(Failure::Lost("closed without an answer".to_owned())),
        Err(error) => return Err(Failure::Lost(error.to_string())),
    }
    let broken = |error: io::Error| Failure::Lost(format!("the answer broke off: {error}"));
    let status = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let (mut head, mut length, mut close) = (line, None, false);
    loop {
        let mut field = String::new();
        if connection.read_line(&mut field).map_err(broken)? == 0 {
            return Err(Failure::Lost(format!("the answer broke off in its head: {head:?}")));
        }
        if field == "\r\n" {
            break;
        }
        let lower = field.to_ascii_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse::<usize>().ok();
        }
        close |= lower.starts_with("connection:") && lower.contains("close");
        head.push_str(&field);
    }
    let length = length.ok_or_else(|| Failure::Lost(format!("an answer without length: {head:?}")))?;
    let mut body = vec![0; length];
    connection.read_exact(&mut body).map_err(broken)?;
    if status != "200" {
        return Err(Failure::Lost(format!("{head:?} {:?}", String::from_utf8_lossy(&body))));
    }
    Ok((body, (!close).then_some(connection)))
}

fn is_end(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionAborted
    )
}

/// An application behind a TCP port: sends back what it gets, until its client ends. It stops accepting when dropped.
pub struct Echo {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    /// Serves.
    ///
    /// # Panics
    /// When the address is in use.
    #[must_use]
    pub fn start(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).expect("a free address");
        listener.set_nonblocking(true).expect("a listener");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let Ok((stream, _peer)) = listener.accept() else {
                    std::thread::sleep(Duration::from_millis(2));
                    continue;
                };
                // It ends with its connection.
                let _detached = std::thread::spawn(move || echo(&stream));
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

fn echo(mut stream: &TcpStream) {
    let _blocking = stream.set_nonblocking(false);
    let mut piece = [0; 4096];
    while let Ok(count) = stream.read(&mut piece)
        && count > 0
        && stream.write_all(&piece[..count]).is_ok()
    {}
    let _already = stream.shutdown(Shutdown::Write);
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}
