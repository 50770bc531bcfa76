//! Pure. What the two binaries share.

pub mod flags;
