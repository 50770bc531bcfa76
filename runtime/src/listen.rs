//! Edge. Listeners: the `HOST:PORT` flags, binding that notices every other owner, and `run/addresses.json`.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs as _, UdpSocket};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use socket2::{Domain, Protocol, Socket, Type};

use crate::config::Problems;
use crate::files::{self, FileError};

/// Connections that may wait to be accepted; the kernel clips it at `net.core.somaxconn`.
pub const BACKLOG: i32 = 4096;

/// A `--*-listen` flag: `HOST:PORT` (port 0: any free one), or `off` where that is allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenFlag {
    /// Do not listen.
    Off,
    /// Listen at host and port.
    At {
        /// An IP address or a host name.
        host: String,
        /// The port; 0 is any free one.
        port: u16,
    },
}

/// A `--*-listen` flag that is not of the form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not HOST:PORT, for example 127.0.0.1:15600 or [::1]:0")]
pub struct InvalidListen(String);

impl FromStr for ListenFlag {
    type Err = InvalidListen;
    fn from_str(s: &str) -> Result<Self, InvalidListen> {
        if s == "off" {
            return Ok(Self::Off);
        }
        let refuse = || InvalidListen(s.to_owned());
        if let Ok(a) = s.parse::<SocketAddr>() {
            return Ok(Self::At { host: a.ip().to_string(), port: a.port() });
        }
        let (host, port) = s.rsplit_once(':').ok_or_else(refuse)?;
        let name_ok = !host.is_empty()
            && host.len() <= 253
            && host.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.');
        // All-digit and dotted hosts that are no IPv4 address are typing errors, not names.
        if !name_ok || host.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
            return Err(refuse());
        }
        Ok(Self::At { host: host.to_owned(), port: port.parse().map_err(|_number| refuse())? })
    }
}

impl fmt::Display for ListenFlag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::At { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::At { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

impl ListenFlag {
    /// The addresses it means; none for `off`. A name may have several.
    ///
    /// # Errors
    /// When the name does not resolve.
    pub fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        match self {
            Self::Off => Ok(Vec::new()),
            Self::At { host, port } => {
                let mut found: Vec<SocketAddr> = (host.as_str(), *port).to_socket_addrs()?.collect();
                found.sort();
                found.dedup();
                Ok(found)
            }
        }
    }
}

/// Why an address could not be bound; names address and flag.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another socket listens there, of this process or another one.
    #[error("{flag}: {addr} is in use; stop the other process or choose another address (port 0 takes a free one)")]
    InUse {
        /// The flag.
        flag: String,
        /// The address.
        addr: SocketAddr,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// The machine does not have that address, or the port needs privileges.
    #[error("{flag}: cannot listen on {addr}")]
    Refused {
        /// The flag.
        flag: String,
        /// The address.
        addr: SocketAddr,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// The name does not resolve.
    #[error("{flag}: '{host}' does not resolve")]
    Unresolved {
        /// The flag.
        flag: String,
        /// The host as given.
        host: String,
        /// What the resolver said.
        #[source]
        source: io::Error,
    },
}

impl BindError {
    fn new(flag: &str, addr: SocketAddr, source: io::Error) -> Self {
        let flag = flag.to_owned();
        if source.kind() == io::ErrorKind::AddrInUse {
            Self::InUse { flag, addr, source }
        } else {
            Self::Refused { flag, addr, source }
        }
    }
    /// The flag that named the address.
    #[must_use]
    pub fn flag(&self) -> &str {
        match self {
            Self::InUse { flag, .. } | Self::Refused { flag, .. } | Self::Unresolved { flag, .. } => flag,
        }
    }
    /// Notes it among the configuration problems of a start (exit 65).
    pub fn note(&self, problems: &mut Problems) {
        let text = crate::telemetry::chain(self);
        let text = text.strip_prefix(&format!("{}: ", self.flag())).unwrap_or(&text);
        problems.environment("MF0102", self.flag(), text);
    }
}

fn socket(addr: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    // A restart must not wait for connections in TIME_WAIT; a live listener still conflicts.
    socket.set_reuse_address(true)?;
    if addr.is_ipv6() {
        // Both wildcards can then be bound side by side, and an IPv4 peer is never seen as v4-mapped.
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Binds and listens, alone: any other listener there is an error, also one that uses `SO_REUSEPORT`.
///
/// # Errors
/// [`BindError`].
pub fn bind_tcp(flag: &str, addr: SocketAddr) -> Result<TcpListener, BindError> {
    let bind = || -> io::Result<TcpListener> {
        let socket = socket(addr)?;
        socket.bind(&addr.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    };
    bind().map_err(|e| BindError::new(flag, addr, e))
}

/// Whether an address could be bound now. Nobody can connect meanwhile: the socket is closed without having listened.
///
/// # Errors
/// [`BindError`].
pub fn check(flag: &str, addr: SocketAddr) -> Result<(), BindError> {
    let bind = || socket(addr)?.bind(&addr.into());
    bind().map_err(|e| BindError::new(flag, addr, e))
}

/// As [`check`], for every address of a flag.
#[must_use]
pub fn check_flag(flag: &str, at: &ListenFlag) -> Vec<BindError> {
    match at.resolve() {
        Ok(addresses) => addresses.into_iter().filter_map(|a| check(flag, a).err()).collect(),
        Err(source) => vec![BindError::Unresolved { flag: flag.to_owned(), host: at.to_string(), source }],
    }
}

/// Binds all addresses of a flag.
///
/// # Errors
/// [`BindError`] of the first that fails.
pub fn bind_flag(flag: &str, at: &ListenFlag) -> Result<Vec<TcpListener>, BindError> {
    let resolved =
        at.resolve().map_err(|source| BindError::Unresolved { flag: flag.to_owned(), host: at.to_string(), source })?;
    resolved.into_iter().map(|a| bind_tcp(flag, a)).collect()
}

/// Binds `count` listeners to one address with `SO_REUSEPORT`, for a proxy with a thread per core.
/// With port 0 the first gets a free port and the others share it.
///
/// The first is bound before it gets `SO_REUSEPORT`: so it conflicts with every listener that is already there,
/// also with those that have the option, and no other process can come in between.
///
/// # Errors
/// [`BindError`].
pub fn bind_reuseport(flag: &str, addr: SocketAddr, count: usize) -> Result<Vec<TcpListener>, BindError> {
    let mut bound: Vec<TcpListener> = Vec::with_capacity(count.max(1));
    let first = || -> io::Result<TcpListener> {
        let socket = socket(addr)?;
        socket.bind(&addr.into())?;
        socket.set_reuse_port(true)?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    };
    let first = first().map_err(|e| BindError::new(flag, addr, e))?;
    let shared = first.local_addr().map_err(|e| BindError::new(flag, addr, e))?;
    bound.push(first);
    let next = || -> io::Result<TcpListener> {
        let socket = socket(shared)?;
        socket.set_reuse_port(true)?;
        socket.bind(&shared.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    };
    for _ in 1..count {
        bound.push(next().map_err(|e| BindError::new(flag, shared, e))?);
    }
    Ok(bound)
}

/// Binds a UDP socket at the address of each TCP listener: a service that is asked over both has one address.
pub fn beside(flag: &str, listeners: &[TcpListener], problems: &mut Problems) -> Vec<UdpSocket> {
    let one = |listener: &TcpListener| {
        let address =
            listener.local_addr().map_err(|e| BindError::new(flag, SocketAddr::from(([0, 0, 0, 0], 0)), e))?;
        let bind = || -> io::Result<UdpSocket> {
            let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
            if address.is_ipv6() {
                socket.set_only_v6(true)?;
            }
            socket.bind(&address.into())?;
            Ok(socket.into())
        };
        bind().map_err(|e| BindError::new(flag, address, e))
    };
    let mut sockets = Vec::new();
    for listener in listeners {
        match one(listener) {
            Ok(socket) => sockets.push(socket),
            Err(error) => error.note(problems),
        }
    }
    sockets
}

/// The addresses that a process listens on, by key of `contracts.md` 1.2
/// (`grpc http admin xds dns outbound inbound gateway metrics ready`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Addresses(pub BTreeMap<&'static str, Vec<SocketAddr>>);

impl Addresses {
    /// No address yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
    /// Adds where a listener ended up.
    ///
    /// # Errors
    /// When the socket does not tell its address.
    pub fn add(&mut self, key: &'static str, listener: &TcpListener) -> io::Result<()> {
        let addr = listener.local_addr()?;
        self.add_addr(key, addr);
        Ok(())
    }
    /// Adds an address; one that is there already is kept once.
    pub fn add_addr(&mut self, key: &'static str, addr: SocketAddr) {
        let list = self.0.entry(key).or_default();
        if !list.contains(&addr) {
            list.push(addr);
        }
    }
    /// Writes `addresses.json` into `run_dir`, whole or not at all. To be held for as long as the addresses are served.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn write(&self, run_dir: &Path) -> Result<Published, FileError> {
        let map: BTreeMap<&str, Vec<String>> =
            self.0.iter().map(|(k, v)| (*k, v.iter().map(ToString::to_string).collect())).collect();
        let mut text = serde_json::json!(map).to_string();
        text.push('\n');
        let path = run_dir.join(ADDRESSES);
        files::write_atomic(&path, text.as_bytes(), files::MODE_PUBLIC)?;
        // Best effort: without the lock a later start takes the file for one of a process that is gone.
        let file = File::open(&path).ok().filter(|file| file.try_lock_shared().is_ok());
        Ok(Published { path, locked: file })
    }
}

/// The file's name.
pub const ADDRESSES: &str = "addresses.json";

/// A written `addresses.json`. While it is held (the kernel lets go of it with the process), [`forget`] leaves the file;
/// dropped, it takes the file along, but no other's that has taken its place.
#[derive(Debug)]
pub struct Published {
    path: PathBuf,
    locked: Option<File>,
}

impl Drop for Published {
    fn drop(&mut self) {
        let inode = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
        let ours = self.locked.as_ref().and_then(|file| file.metadata().ok()).map(inode);
        if ours.is_some() && ours == std::fs::metadata(&self.path).ok().map(inode) {
            // Best effort: the next start forgets what is left.
            let _left = files::remove(&self.path);
        }
    }
}

/// Removes the `addresses.json` of a process that is gone, so that nobody dials what an earlier run listened on; to be
/// called before anything is bound. That of a living process stays. Tells whether there was one.
///
/// # Errors
/// [`FileError`].
pub fn forget(run_dir: &Path) -> Result<bool, FileError> {
    let path = run_dir.join(ADDRESSES);
    match File::open(&path) {
        Ok(file) if file.try_lock().is_ok() => files::remove(&path),
        // Not there, or not ours to judge.
        Ok(_) | Err(_) => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    fn local() -> SocketAddr {
        "127.0.0.1:0".parse().unwrap()
    }

    /// Mutation seen to fail: the digit check of dotted hosts left out.
    #[test]
    fn listen_flags_parse() {
        for (text, shown) in [
            ("off", "off"),
            ("127.0.0.1:0", "127.0.0.1:0"),
            ("[::1]:15600", "[::1]:15600"),
            ("localhost:1", "localhost:1"),
        ] {
            assert_eq!(text.parse::<ListenFlag>().unwrap().to_string(), shown);
        }
        for bad in ["", "127.0.0.1", ":80", "127.0.0:80", "a:", "a:65536", "::1:80", "a b:1", "Off", "a:-1", "a:+1x"] {
            assert!(bad.parse::<ListenFlag>().is_err(), "{bad}");
        }
    }

    /// Mutation seen to fail: `set_reuse_port(true)` before the first bind of `bind_reuseport`.
    #[test]
    fn an_address_in_use_is_seen_even_with_reuseport() {
        let set = bind_reuseport("--outbound-listen", local(), 3).unwrap();
        let addr = set[0].local_addr().unwrap();
        assert!(set.iter().all(|l| l.local_addr().unwrap() == addr));
        for again in [bind_reuseport("--outbound-listen", addr, 1).map(|_| ()), bind_tcp("--x", addr).map(|_| ())] {
            let err = again.unwrap_err();
            assert!(matches!(err, BindError::InUse { .. }), "{err}");
            assert!(err.to_string().contains(&addr.to_string()));
            let mut problems = Problems::new();
            err.note(&mut problems);
            assert_eq!(problems.exit_code(), 65);
            assert!(problems.to_string().starts_with(&format!("{}:0:0: error[MF0102]: {addr} is in use", err.flag())));
        }
        assert!(matches!(check("--x", addr), Err(BindError::InUse { .. })), "also when it is only asked");
        let alone = bind_tcp("--x", local()).unwrap();
        let taken = alone.local_addr().unwrap();
        assert!(bind_reuseport("--x", taken, 2).is_err());
        assert_eq!(check_flag("--x", &taken.to_string().parse().unwrap()).len(), 1);
        drop(alone);
        check("--x", taken).unwrap();
        bind_reuseport("--x", taken, 2).unwrap();
        assert!(matches!(bind_tcp("--x", "192.0.2.1:0".parse().unwrap()), Err(BindError::Refused { .. })));
    }

    /// Mutation seen to fail: `set_reuse_port` of the first listener left out (the others then fail to bind).
    #[test]
    fn all_listeners_of_a_set_are_served() {
        let set = bind_reuseport("--x", local(), 4).unwrap();
        let addr = set[0].local_addr().unwrap();
        let clients: Vec<_> = (0..64).map(|_| std::net::TcpStream::connect(addr).unwrap()).collect();
        let mut counts = [0usize; 4];
        let deadline = crate::clock::instant() + std::time::Duration::from_secs(5);
        while counts.iter().sum::<usize>() < 64 && crate::clock::instant() < deadline {
            for (n, l) in counts.iter_mut().zip(&set) {
                while let Ok((mut c, _)) = l.accept() {
                    c.set_nonblocking(true).unwrap();
                    assert!(c.read(&mut [0]).is_err());
                    *n += 1;
                }
            }
            std::thread::yield_now();
        }
        assert_eq!(counts.iter().sum::<usize>(), clients.len());
        assert!(counts.iter().filter(|n| **n > 0).count() >= 2, "the kernel spreads them: {counts:?}");
    }

    #[test]
    fn addresses_are_written_as_the_contract_shows() {
        let dir = tempfile::tempdir().unwrap();
        let mut a = Addresses::new();
        a.add_addr("http", "127.0.0.1:40114".parse().unwrap());
        a.add_addr("grpc", "127.0.0.1:40113".parse().unwrap());
        a.add_addr("grpc", "127.0.0.1:40113".parse().unwrap());
        let published = a.write(dir.path()).unwrap();
        let text = std::fs::read_to_string(dir.path().join("addresses.json")).unwrap();
        assert_eq!(text, "{\"grpc\":[\"127.0.0.1:40113\"],\"http\":[\"127.0.0.1:40114\"]}\n");
        drop(published);
    }

    /// Mutations seen to fail: `forget` does not look at the lock; `write` does not take it; the inodes not compared.
    #[test]
    fn addresses_of_an_earlier_run_are_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!forget(dir.path()).unwrap());
        let path = dir.path().join("addresses.json");
        let first = Addresses::new().write(dir.path()).unwrap();
        assert!(!forget(dir.path()).unwrap() && path.exists(), "its process lives");
        // As a proxy does that listens at more addresses.
        let second = Addresses::new().write(dir.path()).unwrap();
        drop(first);
        assert!(!forget(dir.path()).unwrap() && path.exists(), "its process lives");
        drop(second);
        assert!(!path.exists(), "it goes with its process");
        // That of a killed one stays.
        std::fs::write(&path, "{}").unwrap();
        assert!(forget(dir.path()).unwrap() && !path.exists());
    }
}
