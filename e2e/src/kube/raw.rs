//! Edge. Requests to an API server without a process for each: `kubectl proxy` keeps the credentials and the TLS.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use super::{Client, programs};
use crate::process::Process;
use crate::{http, wait};

const STARTS: Duration = Duration::from_secs(30);

/// A running `kubectl proxy`; ends with its owner.
pub struct Raw {
    address: SocketAddr,
    _proxy: Process,
}

impl Raw {
    /// Starts one on a free port of loopback.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start(client: &Client, logs: &Path) -> Self {
        let mut command = client.command(&programs(&["kubectl"]).join("kubectl"));
        let proxy = Process::start("kubectl-proxy", logs, command.args(["proxy", "--port=0"]));
        let address = wait::until("kubectl proxy serves", STARTS, || {
            let log = proxy.log();
            let said = log.split_once("serve on ").and_then(|(_, address)| address.trim().parse().ok());
            said.ok_or(log)
        });
        Self { address, _proxy: proxy }
    }
    /// One request with a JSON body of this type; the answer's body.
    ///
    /// # Errors
    /// What the socket says, or an answer that is no success.
    pub fn send(&self, method: &str, path: &str, content_type: &str, body: &str) -> Result<String, String> {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n{body}",
            self.address,
            body.len()
        );
        let answer = http::raw(self.address, request.as_bytes()).map_err(|error| error.to_string())?;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let success = answer.split(' ').nth(1).is_some_and(|status| status.starts_with('2'));
        if success { Ok(answer) } else { Err(answer) }
    }
}
