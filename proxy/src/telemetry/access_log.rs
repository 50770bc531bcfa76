//! Edge. The access log: one JSON object per request, rendered on the core that served it, written by one thread.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::metrics::counter::Counter;

use super::AccessLogTarget;
use super::labels::{Flag, Parties, Reason};

/// Batches that wait for the writer; with [`BATCH_BYTES`] at most 4 MiB for the process.
const QUEUE_BATCHES: usize = 64;
/// How long the end of the process waits for the writer.
const FLUSH_TIME: Duration = Duration::from_secs(1);
/// A batch is handed over when it is this long, or at the core's next tick.
const BATCH_BYTES: usize = 64 * 1024;

/// The way to the writer.
#[derive(Debug)]
pub struct AccessLog {
    batches: Option<SyncSender<String>>,
    dropped: Counter,
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
    pub fn open(target: &AccessLogTarget, dropped: Counter) -> io::Result<Option<Self>> {
        let mut out: Box<dyn Write + Send> = match target {
            AccessLogTarget::Off => return Ok(None),
            AccessLogTarget::Stderr => Box::new(io::stderr()),
            AccessLogTarget::File(path) => Box::new(OpenOptions::new().create(true).append(true).open(path)?),
        };
        let (batches, queue) = sync_channel::<String>(QUEUE_BATCHES);
        let lost = dropped.clone();
        let (done, written) = sync_channel::<()>(0);
        let _detached = std::thread::Builder::new().name("access-log".to_owned()).spawn(move || {
            for batch in queue {
                if out.write_all(batch.as_bytes()).and_then(|()| out.flush()).is_err() {
                    lost.inc_by(batch.lines().count() as u64);
                }
            }
            drop(done);
        })?;
        Ok(Some(Self { batches: Some(batches), dropped, written: Mutex::new(written) }))
    }
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
             \"service\":\"{}\",\"sourceCluster\":\"{}\",\"sourcePrincipal\":\"{}\",\"destinationCluster\":\"{}\",\
             \"destinationPrincipal\":\"{}\",\"mutualTls\":{}}}",
            record.status,
            record.flag.as_str(),
            record.received,
            record.sent,
            record.duration.as_secs_f64() * 1_000.0,
            p.reporter.as_str(),
            record.client,
            p.service,
            p.source.cluster,
            p.source.principal,
            p.destination.cluster,
            p.destination.principal,
            p.mutual_tls,
        );
        if self.lines.len() >= BATCH_BYTES {
            self.flush(log);
        }
    }

    fn time(&mut self, now: SystemTime) {
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        if since.as_secs() != self.second || self.prefix.is_empty() {
            self.second = since.as_secs();
            let stamp = meshfed_runtime::clock::to_timestamp(UNIX_EPOCH + Duration::from_secs(self.second));
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
