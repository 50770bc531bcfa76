//! Pure. Why a delta was refused.

use meshfed_model::version::Version;

/// Why a delta was refused. The history is as it was before.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// The sender is behind the receiver.
    #[error("version {offered} is older than {held}, which is held")]
    Older {
        /// What is held.
        held: Version,
        /// What was offered.
        offered: Version,
    },
    /// The change starts from a version that the receiver does not hold; only a complete one helps.
    #[error("the change starts at {base}, but {held} is held")]
    Base {
        /// What is held.
        held: Version,
        /// Where the change starts.
        base: Version,
    },
    /// A part does not belong to the parts before it.
    #[error("a part towards {offered} came between parts towards {expected}")]
    Part {
        /// The version of the earlier parts.
        expected: Version,
        /// The version of this part.
        offered: Version,
    },
    /// A resource is older than the one held, or newer than the change that carries it.
    #[error("resource revision {offered} lies outside {from} to {to}")]
    Revision {
        /// The lowest revision allowed.
        from: u64,
        /// The highest revision allowed.
        to: u64,
        /// What was offered.
        offered: u64,
    },
    /// Key and value are of different kinds.
    #[error("a resource's key and value are of different kinds")]
    Kind,
    /// Too many resources.
    #[error("{actual} resources of one origin, at most {limit} are allowed")]
    TooMany {
        /// The limit.
        limit: usize,
        /// What it would be.
        actual: usize,
    },
}
