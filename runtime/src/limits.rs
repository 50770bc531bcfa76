//! Pure. The shared error of everything that a peer can grow.

/// A limit that was passed. `kind` is stable: it is also a metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{kind}: {actual} is over the limit of {limit}")]
pub struct LimitExceeded {
    /// What is limited, for example `chain_bytes`.
    pub kind: &'static str,
    /// The most that is allowed.
    pub limit: u64,
    /// What was found; where counting stopped at the limit, the limit plus one.
    pub actual: u64,
}

impl LimitExceeded {
    /// Refuses `actual` above `limit`.
    ///
    /// # Errors
    /// [`LimitExceeded`] with these figures.
    pub fn check(kind: &'static str, actual: usize, limit: usize) -> Result<(), Self> {
        if actual <= limit {
            return Ok(());
        }
        Err(Self { kind, limit: limit as u64, actual: actual as u64 })
    }
}
