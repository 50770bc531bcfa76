//! Edge. The access log: one JSON object per request, rendered on the core that served it, written by one thread.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use meshfed_runtime::clock;
use prometheus_client::metrics::counter::Counter;

use super::AccessLogTarget;
use super::labels::{Flag, Parties, Reason, Security};

/// Batches that wait for the writer; with [`BATCH_BYTES`] at most 4 MiB for the process.
const QUEUE_BATCHES: usize = 64;
/// How long the end of the process waits for the writer.
const FLUSH_TIME: Duration = Duration::from_secs(1);
/// A batch is handed over when it is this long, or at the core's next tick.
const BATCH_BYTES: usize = 64 * 1024;
/// Bytes of a refused request line that are shown.
const REFUSED_MAX: usize = 512;

/// How often the writer looks whether its file is still the one of that name.
const LOOK: Duration = Duration::from_secs(1);

/// What the writer counts.
#[derive(Debug, Clone)]
pub struct LogCounters {
    /// Lines that were lost.
    pub dropped: Counter,
    /// Files opened anew.
    pub reopened: Counter,
    /// Files that could not be opened anew.
    pub failed: Counter,
}

/// The way to the writer.
#[derive(Debug)]
pub struct AccessLog {
    batches: Option<SyncSender<String>>,
    dropped: Counter,
    /// The writer is to open its file anew.
    reopen: Arc<AtomicBool>,
    /// Closed by the writer when it has written everything.
    written: Mutex<Receiver<()>>,
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        // The writer ends with its queue.
        self.batches = None;
        if let Ok(written) = self.written.lock() {
            let _ended_or_stuck = written.recv_timeout(FLUSH_TIME);
        }
    }
}

impl AccessLog {
    /// Opens the log and starts its writer, which ends when the log is dropped.
    ///
    /// # Errors
    /// When the file cannot be opened or no thread can be started.
    pub fn open(target: &AccessLogTarget, counters: LogCounters) -> io::Result<Option<Self>> {
        let mut sink = match target {
            AccessLogTarget::Off => return Ok(None),
            AccessLogTarget::Stderr => Sink::Stderr(io::stderr()),
            AccessLogTarget::File(path) => Sink::File(LogFile::open(path.clone())?),
        };
        let (batches, queue) = sync_channel::<String>(QUEUE_BATCHES);
        let dropped = counters.dropped.clone();
        let reopen = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&reopen);
        let (done, written) = sync_channel::<()>(0);
        let _detached = std::thread::Builder::new().name("access-log".to_owned()).spawn(move || {
            for batch in queue {
                sink.follow(asked.swap(false, Ordering::Relaxed), &counters);
                if sink.write(batch.as_bytes()).is_err() {
                    counters.dropped.inc_by(batch.lines().count() as u64);
                }
            }
            drop(done);
        })?;
        Ok(Some(Self { batches: Some(batches), dropped, reopen, written: Mutex::new(written) }))
    }

    /// Opens the file anew (SIGUSR1): the one held was moved away by the rotation of logs.
    pub fn reopen(&self) {
        self.reopen.store(true, Ordering::Relaxed);
        if let Some(queue) = &self.batches {
            // Wakes the writer; if the queue is full it is awake.
            let _awake = queue.try_send(String::new());
        }
    }
}

/// Where the writer writes.
#[derive(Debug)]
enum Sink {
    Stderr(io::Stderr),
    File(LogFile),
}

impl Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Stderr(out) => out.write_all(bytes).and_then(|()| out.flush()),
            Self::File(log) => log.file.write_all(bytes),
        }
    }
    fn follow(&mut self, asked: bool, counters: &LogCounters) {
        match self {
            Self::Stderr(_) => {}
            Self::File(log) => log.follow(asked, counters),
        }
    }
}

/// The file of that name, over rotations.
#[derive(Debug)]
struct LogFile {
    path: PathBuf,
    file: File,
    looked: Instant,
    /// Whether the last attempt to open it anew failed: told once.
    failing: bool,
}

impl LogFile {
    fn open(path: PathBuf) -> io::Result<Self> {
        let file = append(&path)?;
        Ok(Self { path, file, looked: clock::instant(), failing: false })
    }

    /// Opens the file anew when that was `asked` for, or when another file (or none) has its name now, which is looked at
    /// once a second. If that fails, the one held goes on.
    fn follow(&mut self, asked: bool, counters: &LogCounters) {
        let now = clock::instant();
        if !asked && (now.saturating_duration_since(self.looked) < LOOK || self.is_current()) {
            return;
        }
        self.looked = now;
        match append(&self.path) {
            Ok(file) => {
                self.file = file;
                self.failing = false;
                counters.reopened.inc();
                tracing::info!(path = %self.path.display(), "access log opened anew");
            }
            Err(error) => {
                counters.failed.inc();
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!(path = %self.path.display(), %error, "access log cannot be opened anew; lines go to the file held");
                }
            }
        }
    }

    fn is_current(&self) -> bool {
        let id = |m: std::fs::Metadata| (m.dev(), m.ino());
        match (self.file.metadata(), std::fs::metadata(&self.path)) {
            (Ok(held), Ok(named)) => id(held) == id(named),
            _ => false,
        }
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// What is told about one request.
#[derive(Debug)]
pub struct AccessRecord<'a> {
    /// The head's part, rendered by [`LogBuffer::head`].
    pub head: &'a str,
    /// Who spoke with whom.
    pub parties: &'a Parties,
    /// The status that the client got; 0 when it got none.
    pub status: u16,
    /// How it ended.
    pub flag: Flag,
    /// Why the proxy answered itself.
    pub reason: Option<Reason>,
    /// Body bytes from the client.
    pub received: u64,
    /// Body bytes to the client.
    pub sent: u64,
    /// From the end of the request's head to the end of the answer.
    pub duration: Duration,
    /// The client's address.
    pub client: SocketAddr,
    /// The endpoint that answered.
    pub upstream: Option<SocketAddr>,
    /// Attempts to have it served; 0 when it went nowhere.
    pub attempts: u32,
}

/// The lines of one core that were not handed over yet.
#[derive(Debug, Default)]
pub struct LogBuffer {
    lines: String,
    second: u64,
    prefix: String,
}

fn escape(out: &mut String, bytes: &[u8]) {
    for &b in bytes {
        match b {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            0x20..=0x7e => out.push(char::from(b)),
            // Bytes above ASCII are shown as the code points of the same number: never broken UTF-8, never lost.
            _ => {
                let _infallible = write!(out, "\\u{b:04x}");
            }
        }
    }
}

impl LogBuffer {
    /// Renders what is known from the head into `out`, which is cleared before.
    pub fn head(out: &mut String, method: &[u8], authority: &[u8], path: &[u8]) {
        out.clear();
        for (key, value) in [("\"method\":\"", method), ("\",\"authority\":\"", authority), ("\",\"path\":\"", path)] {
            out.push_str(key);
            escape(out, value);
        }
        out.push('"');
    }

    /// The same for bytes that are no request: the first two words of what should be its request line.
    pub fn refused_head(out: &mut String, bytes: &[u8]) {
        let line = bytes.split(|b| matches!(b, b'\r' | b'\n')).next().unwrap_or_default();
        let mut words = line.get(..line.len().min(REFUSED_MAX)).unwrap_or_default().split(|b| *b == b' ');
        let method = words.next().unwrap_or_default();
        Self::head(out, method, b"", words.next().unwrap_or_default());
    }

    /// Adds a line, and hands the batch over when it is long.
    pub fn push(&mut self, log: &AccessLog, now: SystemTime, record: &AccessRecord<'_>) {
        self.time(now);
        let p = record.parties;
        let out = &mut self.lines;
        out.push_str(record.head);
        let reason = record.reason.map_or_else(|| "null".to_owned(), |r| format!("\"{}\"", r.as_str()));
        let upstream = record.upstream.map_or_else(|| "null".to_owned(), |a| format!("\"{a}\""));
        let _infallible = writeln!(
            out,
            ",\"status\":{},\"flags\":\"{}\",\"reason\":{reason},\"bytesReceived\":{},\"bytesSent\":{},\
             \"durationMilliseconds\":{:.3},\"reporter\":\"{}\",\"client\":\"{}\",\"upstream\":{upstream},\
             \"attempts\":{},\
             \"service\":\"{}\",\"sourceCluster\":\"{}\",\"sourcePrincipal\":\"{}\",\"destinationCluster\":\"{}\",\
             \"destinationPrincipal\":\"{}\",\"mutualTls\":{}}}",
            record.status,
            record.flag.as_str(),
            record.received,
            record.sent,
            record.duration.as_secs_f64() * 1_000.0,
            p.reporter.as_str(),
            record.client,
            record.attempts,
            p.service,
            p.source.cluster,
            p.source.principal,
            p.destination.cluster,
            p.destination.principal,
            p.security == Security::MutualTls,
        );
        if self.lines.len() >= BATCH_BYTES {
            self.flush(log);
        }
    }

    fn time(&mut self, now: SystemTime) {
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        if since.as_secs() != self.second || self.prefix.is_empty() {
            self.second = since.as_secs();
            let stamp = clock::to_timestamp(UNIX_EPOCH + Duration::from_secs(self.second));
            self.prefix = stamp.to_string().trim_end_matches('Z').to_owned();
        }
        let _infallible = write!(self.lines, "{{\"time\":\"{}.{:03}Z\",", self.prefix, since.subsec_millis());
    }

    /// Hands the lines over to the writer; if it is too far behind, they are dropped and counted.
    pub fn flush(&mut self, log: &AccessLog) {
        if self.lines.is_empty() {
            return;
        }
        let batch = std::mem::take(&mut self.lines);
        let Some(queue) = &log.batches else { return };
        if let Err(TrySendError::Full(batch) | TrySendError::Disconnected(batch)) = queue.try_send(batch) {
            log.dropped.inc_by(batch.lines().count() as u64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters() -> LogCounters {
        LogCounters { dropped: Counter::default(), reopened: Counter::default(), failed: Counter::default() }
    }

    /// Mutations seen to fail: `REFUSED_MAX` not looked at; the quote not escaped.
    #[test]
    fn what_is_no_request_is_told_in_valid_lines() {
        let told = |bytes: &[u8]| {
            let mut out = String::new();
            LogBuffer::refused_head(&mut out, bytes);
            serde_json::from_str::<serde_json::Value>(&format!("{{{out}}}")).unwrap()
        };
        let of = |method: &str, path: &str| serde_json::json!({"method": method, "authority": "", "path": path});
        assert_eq!(told(b"GET /a%2fb HTTP/1.1\r\nHost: b\r\n"), of("GET", "/a%2fb"));
        assert_eq!(told(b""), of("", ""));
        assert_eq!(told(b"\"}\x01\xff x\ny"), of("\"}\u{1}\u{ff}", "x"));
        assert_eq!(told(&[b'A'; 5000]), of(&"A".repeat(REFUSED_MAX), ""));
    }

    /// Mutation seen to fail: the file held given up for /dev/null when the new one cannot be opened.
    #[test]
    fn a_file_that_cannot_be_opened_anew_is_written_on() {
        let dir = tempfile::tempdir().unwrap();
        let (logs, path) = (dir.path().join("logs"), dir.path().join("logs/access.log"));
        std::fs::create_dir(&logs).unwrap();
        let (mut log, counters) = (LogFile::open(path.clone()).unwrap(), counters());
        log.file.write_all(b"1\n").unwrap();
        log.follow(true, &counters);
        assert_eq!((counters.reopened.get(), counters.failed.get()), (1, 0));
        // The directory is moved away: the name is no file that could be made.
        let moved = dir.path().join("moved");
        std::fs::rename(&logs, &moved).unwrap();
        for _ in 0..2 {
            log.follow(true, &counters);
            log.file.write_all(b"2\n").unwrap();
        }
        assert_eq!((counters.reopened.get(), counters.failed.get()), (1, 2));
        assert_eq!(std::fs::read_to_string(moved.join("access.log")).unwrap(), "1\n2\n2\n");
        std::fs::create_dir(&logs).unwrap();
        log.follow(true, &counters);
        log.file.write_all(b"3\n").unwrap();
        assert_eq!((counters.reopened.get(), std::fs::read_to_string(&path).unwrap().as_str()), (2, "3\n"));
        assert!(log.is_current());
    }
}
