//! Pure. An answer of the HTTP API: its body, or the problem that it tells.

use bytes::Bytes;

use crate::exit::Failure;

/// An answer of the API.
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body, unchanged.
    pub body: Bytes,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> Result<serde_json::Value, Failure> {
        serde_json::from_slice(&self.body)
            .map_err(|error| Failure::failed(format!("the federator answered with something that is no JSON: {error}")))
    }
    /// The answer, or the problem it tells as a failure.
    pub fn ok(self) -> Result<Self, Failure> {
        if (200..300).contains(&self.status) {
            return Ok(self);
        }
        let problem: serde_json::Value = serde_json::from_slice(&self.body).unwrap_or_default();
        let text = |key: &str| problem.get(key).and_then(serde_json::Value::as_str).unwrap_or_default().to_owned();
        let (title, detail, code) = (text("title"), text("detail"), text("code"));
        let mut message = match (title.is_empty(), detail.is_empty()) {
            (true, true) => "the federator gave no reason".to_owned(),
            (true, false) => detail.clone(),
            (false, true) => title,
            (false, false) => format!("{title}: {detail}"),
        };
        let code = if code.is_empty() { String::new() } else { format!(", {code}") };
        message.push_str(&format!(" (HTTP {}{code})", self.status));
        for error in problem.get("errors").and_then(serde_json::Value::as_array).into_iter().flatten() {
            let of = |key: &str| error.get(key).and_then(serde_json::Value::as_str).unwrap_or_default();
            // One error that repeats the detail adds its remedy alone.
            let (said, remedy) = (of("message"), of("remedy"));
            if said != detail {
                message.push_str(&format!("\n  {}: {said}", of("field")));
            }
            if !remedy.is_empty() {
                message.push_str(&format!("\n  → {remedy}"));
            }
        }
        Err(if self.status == 400 || self.status == 422 {
            Failure::bad_input(message)
        } else {
            Failure::failed(message)
        })
    }
}
