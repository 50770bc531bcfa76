//! Pure. Why a message was refused.

use std::fmt::Display;

/// Why a message was refused: the field, from the outside in (`upserts[3].key.group.network`), and what is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct InvalidMessage {
    /// The field.
    pub field: String,
    /// What is wrong with it.
    pub problem: String,
}

impl InvalidMessage {
    pub(super) fn new(field: impl Into<String>, problem: impl Display) -> Self {
        Self { field: field.into(), problem: problem.to_string() }
    }
    /// The same, seen from the message that holds the field.
    pub(super) fn within(mut self, outer: impl Display) -> Self {
        self.field = format!("{outer}.{}", self.field);
        self
    }
}

pub(super) trait Within<T> {
    fn within(self, outer: impl Display) -> Result<T, InvalidMessage>;
}
impl<T> Within<T> for Result<T, InvalidMessage> {
    fn within(self, outer: impl Display) -> Self {
        self.map_err(|e| e.within(outer))
    }
}
