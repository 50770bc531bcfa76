//! Pure. What this cluster tells the hub of itself: counts, what is waited for, and the answer to "what is a client
//! of yours handed?".

mod endpoints;
mod rows;

pub use endpoints::endpoints;
pub use rows::{Rows, report, rows};
