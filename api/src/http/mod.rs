//! Pure. The JSON of the HTTP API (`contracts.md` part 3).
//!
//! Field names are camelCase, numbers that may pass 2^53 are text, times RFC 3339 UTC, what is absent is `null` and
//! never missing. Fields are declared in the order in which they are written, so the same value gives the same bytes.

mod absent;
mod fleet;
mod problem;
mod tokens;

pub use fleet::*;
pub use problem::*;
pub use tokens::*;

use serde::{Deserialize, Serialize};

/// The most items of one page.
pub const PAGE_MAX: usize = 500;

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Page<T> {
    /// The revision that all pages of this list show.
    pub revision: String,
    /// The items, in the order of their names.
    pub items: Vec<T>,
    /// What to send as `continue` for the next page; opaque.
    #[serde(rename = "continue")]
    pub next: Option<String>,
}

/// Ready and listed endpoints; terminating ones are left out of both.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Ready.
    pub ready: u64,
    /// Listed.
    pub total: u64,
}

#[cfg(test)]
mod tests;
