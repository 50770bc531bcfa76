//! Edge. For benchmarks: asks without pause until an answer is another, and how long that took.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// How long one change may take before the benchmark gives up.
const DEADLINE: Duration = Duration::from_secs(5);

/// One request over a kept connection; the status, or none when the connection broke.
fn status(stream: &mut TcpStream, host: &str) -> Option<u16> {
    stream.write_all(format!("GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).ok()?;
    let (mut answer, mut buffer) = (Vec::new(), [0_u8; 4096]);
    loop {
        let read = stream.read(&mut buffer).ok().filter(|n| *n > 0)?;
        answer.extend_from_slice(buffer.get(..read)?);
        let text = String::from_utf8_lossy(&answer);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head
            .to_ascii_lowercase()
            .lines()
            .find_map(|l| l.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
        if length.is_some_and(|l| body.len() >= l) || body.ends_with("0\r\n\r\n") {
            return head.split(' ').nth(1)?.parse().ok();
        }
    }
}

/// Asks over a sidecar's outbound port, without pause, until the status is as wanted; gives the moment after.
///
/// # Panics
/// After five seconds.
#[expect(clippy::disallowed_methods, reason = "a benchmark measures time")]
pub fn until_status(outbound: SocketAddr, host: &str, wanted: impl Fn(u16) -> bool) -> Instant {
    let start = Instant::now();
    let mut stream = None;
    while start.elapsed() < DEADLINE {
        let connection = stream.get_or_insert_with(|| {
            let stream = TcpStream::connect(outbound).expect("the sidecar listens");
            stream.set_nodelay(true).expect("nodelay");
            stream
        });
        match status(connection, host) {
            Some(status) if wanted(status) => return Instant::now(),
            Some(_) => {}
            None => stream = None,
        }
    }
    panic!("the change was not seen within {DEADLINE:?}");
}

/// A Markdown table of what was measured, in milliseconds: how many, p50, p99 and maximum.
#[must_use]
pub fn quantiles(what: &str, millis: &mut [f64]) -> String {
    millis.sort_by(f64::total_cmp);
    let at = |q: f64| millis.get((millis.len().saturating_sub(1) as f64 * q) as usize).copied().unwrap_or(f64::NAN);
    let head = format!("| {what} | p50 ms | p99 ms | max ms |\n|---|---|---|---|\n");
    format!("{head}| {} | {:.2} | {:.2} | {:.2} |\n", millis.len(), at(0.5), at(0.99), at(1.0))
}
