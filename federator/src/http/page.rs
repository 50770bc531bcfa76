//! Pure. Pages of lists: all pages of one list show one revision, for as long as a copy of it is kept.

use std::collections::VecDeque;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use meshfed_api::http::{PAGE_MAX, Page, ProblemKind};
use serde_json::Value;

use super::problem::refuse;
use super::query::Query;
use crate::operations::Refused;

/// Lists whose later pages can be asked for. The oldest goes first; a caller that comes too late begins anew (410).
const KEPT_MAX: usize = 16;

/// A list at one revision.
#[derive(Debug, Clone)]
pub(super) struct Listed {
    /// Which list, and what was asked of it.
    pub(super) name: String,
    /// The revision shown.
    pub(super) revision: u64,
    /// In the order of their names.
    pub(super) items: Arc<Vec<Value>>,
}

/// Lists of which not all pages were given yet.
#[derive(Debug, Default)]
pub(super) struct Kept(VecDeque<Listed>);

/// Where a page begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cursor {
    revision: u64,
    offset: usize,
}

/// What `limit` and `continue` ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wanted {
    limit: usize,
    /// None: the first page of a new list.
    pub(super) cursor: Option<Cursor>,
}

fn cursor(name: &str, text: &str) -> Option<Cursor> {
    let text = String::from_utf8(URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
    // From the end: what was asked of a list may hold anything.
    let mut parts = text.rsplitn(3, '/');
    let (offset, revision, of) = (parts.next()?, parts.next()?, parts.next()?);
    if of != name {
        return None;
    }
    Some(Cursor { revision: revision.parse().ok()?, offset: offset.parse().ok()? })
}

/// Reads `limit` and `continue`.
pub(super) fn wanted(name: &str, query: &Query) -> Result<Wanted, Refused> {
    let limit = match query.get("limit") {
        None => PAGE_MAX,
        Some(text) => text.parse().ok().filter(|n| (1..=PAGE_MAX).contains(n)).ok_or_else(|| {
            let message = format!("the limit is a number from 1 to {PAGE_MAX}");
            refuse(ProblemKind::InvalidParameter, "limit", "Invalid", message, None)
        })?,
    };
    let cursor = match query.get("continue") {
        None => None,
        Some(text) => Some(cursor(name, text).ok_or_else(|| {
            let message = "not a 'continue' of this list".to_owned();
            let remedy = Some("send it as the page before gave it, or leave it out to begin anew");
            refuse(ProblemKind::InvalidParameter, "continue", "Invalid", message, remedy)
        })?),
    };
    Ok(Wanted { limit, cursor })
}

impl Kept {
    /// The list that a later page belongs to.
    pub(super) fn find(&self, name: &str, cursor: Cursor) -> Result<Listed, Refused> {
        let found = self.0.iter().find(|l| l.name == name && l.revision == cursor.revision);
        found.filter(|l| cursor.offset <= l.items.len()).cloned().ok_or_else(|| {
            let detail =
                format!("revision {} of this list is not kept any more; begin without 'continue'", cursor.revision);
            Refused::new(ProblemKind::Gone, detail)
        })
    }

    /// The page of that list; where more follow, the list is kept for them.
    pub(super) fn page(&mut self, listed: &Listed, wanted: Wanted) -> Page<Value> {
        let begin = wanted.cursor.map_or(0, |c| c.offset).min(listed.items.len());
        let end = begin.saturating_add(wanted.limit).min(listed.items.len());
        let more = end < listed.items.len();
        if more && wanted.cursor.is_none() {
            // Two lists of one revision may differ where a time passed between them: later pages follow the last.
            self.0.retain(|l| l.name != listed.name || l.revision != listed.revision);
            if self.0.len() >= KEPT_MAX {
                self.0.pop_front();
            }
            self.0.push_back(listed.clone());
        }
        Page {
            revision: listed.revision.to_string(),
            items: listed.items.get(begin..end).unwrap_or_default().to_vec(),
            next: more.then(|| URL_SAFE_NO_PAD.encode(format!("{}/{}/{end}", listed.name, listed.revision))),
        }
    }
}
