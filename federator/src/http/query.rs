//! Pure. Query parameters and bodies, read strictly.

use std::collections::BTreeMap;

use axum::http::{HeaderMap, header};
use meshfed_api::http::ProblemKind;
use serde::de::DeserializeOwned;

use super::problem::{refuse, repeated};
use crate::operations::Refused;

/// The deepest nesting of a body (AP3).
const DEPTH_MAX: usize = 64;
/// The longest query, in bytes.
const QUERY_MAX: usize = 4096;

/// The parameters of one request; every one is known and given once.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Query(BTreeMap<String, String>);

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|d| u8::try_from(d).ok())
}

fn decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => hex(bytes.next()?)? * 16 + hex(bytes.next()?)?,
            b'+' => b' ',
            other => other,
        });
    }
    String::from_utf8(out).ok()
}

impl Query {
    /// Reads `raw`, of which only `allowed` may be there.
    pub(super) fn parse(raw: Option<&str>, allowed: &[&str]) -> Result<Self, Refused> {
        let raw = raw.unwrap_or_default();
        if raw.len() > QUERY_MAX {
            let message = format!("the query has {} bytes, at most {QUERY_MAX} are allowed", raw.len());
            return Err(refuse(ProblemKind::InvalidParameter, "", "TooMany", message, None));
        }
        let mut all = BTreeMap::new();
        for pair in raw.split('&').filter(|p| !p.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (Some(name), Some(value)) = (decode(name), decode(value)) else {
                let message = format!("'{}' is not percent-encoded UTF-8", repeated(pair));
                return Err(refuse(ProblemKind::InvalidParameter, &repeated(name), "Invalid", message, None));
            };
            if !allowed.contains(&name.as_str()) {
                let known = if allowed.is_empty() { "none".to_owned() } else { allowed.join(", ") };
                let message = format!("there is no parameter '{}' here", repeated(&name));
                let remedy = format!("parameters of this path: {known}");
                return Err(refuse(ProblemKind::UnknownParameter, &repeated(&name), "Unknown", message, Some(&remedy)));
            }
            if all.insert(name.clone(), value).is_some() {
                let message = format!("'{name}' is given twice");
                return Err(refuse(ProblemKind::InvalidParameter, &name, "TooMany", message, Some("give it once")));
            }
        }
        Ok(Self(all))
    }

    /// The value, if given.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
    /// The value, which must be given and readable.
    pub(super) fn required<T, E: std::fmt::Display>(
        &self,
        name: &str,
        read: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<T, Refused> {
        let Some(value) = self.get(name) else {
            let message = format!("'{name}' is missing");
            let remedy = format!("add {name}=… to the query");
            return Err(refuse(ProblemKind::InvalidParameter, name, "Required", message, Some(&remedy)));
        };
        read(value).map_err(|e| {
            let message = format!("'{}': {e}", repeated(value));
            refuse(ProblemKind::InvalidParameter, name, "Invalid", message, None)
        })
    }
    /// Whether `dryRun=true`.
    pub(super) fn dry_run(&self) -> Result<bool, Refused> {
        match self.get("dryRun") {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(other) => {
                let message = format!("'{}' is neither true nor false", repeated(other));
                Err(refuse(ProblemKind::InvalidParameter, "dryRun", "Invalid", message, None))
            }
        }
    }
}

/// How deep a JSON text is nested, without parsing it.
fn depth(text: &[u8]) -> usize {
    let (mut now, mut most, mut in_string, mut escaped) = (0usize, 0usize, false, false);
    for byte in text {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                now += 1;
                most = most.max(now);
            }
            b'}' | b']' if !in_string => now = now.saturating_sub(1),
            _ => {}
        }
    }
    most
}

/// Whether the body says that it is JSON. Nothing else is taken: a browser's form cannot say so.
pub(super) fn check_type(headers: &HeaderMap) -> Result<(), Refused> {
    let media = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let media = media.split(';').next().unwrap_or_default().trim();
    if media.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    let detail = "the body must be JSON; send the header 'content-type: application/json'";
    Err(Refused::new(ProblemKind::UnsupportedMediaType, detail))
}

/// Reads a body. Unknown and repeated fields are refused by the types themselves.
pub(super) fn body<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Refused> {
    let deep = depth(bytes);
    if deep > DEPTH_MAX {
        let detail = format!("the body is nested {deep} levels deep, at most {DEPTH_MAX} are allowed");
        return Err(Refused::new(ProblemKind::InvalidBody, detail));
    }
    serde_json::from_slice(bytes).map_err(|e| {
        let detail = format!("the body cannot be read: {}", e.to_string().chars().take(300).collect::<String>());
        Refused::new(ProblemKind::InvalidBody, detail)
    })
}
