//! Edge. Plain HTTP/1.1 from outside: one request, one connection, bytes as they come.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// How long one exchange may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// Header names in lower case, and values.
    pub headers: Vec<(String, String)>,
    /// The body, chunked framing removed.
    pub body: String,
}

impl Answer {
    /// The first value of a header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

/// Sends bytes and reads until the peer closes.
///
/// # Errors
/// What the socket says.
pub fn raw(address: SocketAddr, request: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&address, DEADLINE)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.write_all(request)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer)
}

/// GETs a path of a server.
///
/// # Errors
/// What the socket says, or that the answer is no HTTP.
pub fn get(address: SocketAddr, path: &str) -> Result<Answer, String> {
    request(address, path, &address.to_string())
}

/// GETs a URL over a proxy, in absolute form, as `curl -x` does.
///
/// # Errors
/// What the socket says, or that the answer is no HTTP.
pub fn via(proxy: SocketAddr, url: &str) -> Result<Answer, String> {
    let host = url.trim_start_matches("http://").split('/').next().unwrap_or_default();
    request(proxy, url, host)
}

fn request(address: SocketAddr, target: &str, host: &str) -> Result<Answer, String> {
    let text = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: meshfed-e2e\r\nConnection: close\r\n\r\n");
    let answer = raw(address, text.as_bytes()).map_err(|error| format!("{address}: {error}"))?;
    parse(&answer).ok_or_else(|| format!("{address} answered no HTTP: {:?}", String::from_utf8_lossy(&answer)))
}

/// Reads an answer that [`raw`] gave; `None` when it is no HTTP.
#[must_use]
pub fn parse(answer: &[u8]) -> Option<Answer> {
    let text = String::from_utf8_lossy(answer);
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers: Vec<(String, String)> =
        lines.filter_map(|l| l.split_once(':')).map(|(n, v)| (n.to_ascii_lowercase(), v.trim().to_owned())).collect();
    let chunked = headers.iter().any(|(n, v)| n == "transfer-encoding" && v.eq_ignore_ascii_case("chunked"));
    let body = if chunked { dechunk(body) } else { body.to_owned() };
    Some(Answer { status, headers, body })
}

fn dechunk(body: &str) -> String {
    let (mut out, mut rest) = (String::new(), body);
    while let Some((size, tail)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
        if size == 0 {
            break;
        }
        out.push_str(tail.get(..size).unwrap_or_default());
        rest = tail.get(size + 2..).unwrap_or_default();
    }
    out
}

/// The sum of a counter over all its series whose text holds every one of `labels`.
///
/// # Errors
/// When the metrics cannot be read.
pub fn metric(address: SocketAddr, name: &str, labels: &[&str]) -> Result<f64, String> {
    let answer = get(address, "/metrics")?;
    Ok(answer
        .body
        .lines()
        .filter(|l| l.strip_prefix(name).is_some_and(|r| r.starts_with('{') || r.starts_with(' ')))
        .filter(|l| labels.iter().all(|label| l.contains(label)))
        .filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok())
        .sum())
}
