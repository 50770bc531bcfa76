//! Answers that the API gives before it has read the request's body reach a client that is still sending it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::process::Command;

use meshfed_e2e::fleet::Fleet;
use meshfed_e2e::process::run;

/// Calls of each kind.
const CALLS: usize = 40;

/// curl over HTTP/2 and HTTP/1.1, with bodies that are still on their way when the answer is made.
///
/// Mutation seen to fail: `rest.discard()` left out of `connection` (every call over HTTP/2 fails).
#[test]
fn curl_gets_every_answer() {
    let fleet = Fleet::start();
    let token = std::fs::read_to_string(fleet.path("federator/admin.token")).unwrap();
    let (body, ca) = (fleet.path("body.json"), fleet.path("federator/api-ca.pem"));
    std::fs::write(&body, format!("{{\"x\":\"{}\"}}", "x".repeat(900_000))).unwrap();
    let api = format!("https://{}/api/v1", fleet.address("federator", "http"));
    let bearer = format!("Authorization: Bearer {}", token.trim());
    for (method, path, content, authorization, code) in [
        ("PUT", "failover", "application/json", bearer.as_str(), "501"),
        ("POST", "tokens", "text/plain", bearer.as_str(), "415"),
        ("POST", "tokens", "application/json", "Authorization: Bearer wrong", "401"),
        ("POST", "nothing", "application/json", bearer.as_str(), "404"),
    ] {
        for version in ["--http2", "--http1.1"] {
            for call in 0..CALLS {
                let mut curl = Command::new("curl");
                curl.args(["-sS", version, "--max-time", "20", "-X", method, "-H", authorization, "--cacert"]).arg(&ca);
                curl.args(["-H", &format!("Content-Type: {content}"), "-o", "/dev/null", "-w", "%{http_code}"]);
                curl.arg("--data-binary").arg(format!("@{}", body.display())).arg(format!("{api}/{path}"));
                let output = run(&mut curl);
                let answered = (output.code, output.stdout.as_str());
                assert_eq!(answered, (0, code), "{version} {method} {path}, call {call}: {}", output.stderr);
            }
        }
    }
}
