//! Pure. What is to be done with a Lease that was read.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use meshfed_api::border::LeaseEpoch;

/// How long a Lease that is not renewed stays its holder's.
pub const LEASE: Duration = Duration::from_secs(15);
/// A holder that has not renewed it for so long writes nothing any more: before others may take it.
pub const RENEW_WITHIN: Duration = Duration::from_secs(10);
/// The longest that is believed of a Lease that somebody else wrote.
const LEASE_MAX: Duration = Duration::from_secs(60);

/// A Lease, as far as it counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    /// Its version: what is written over another one is refused.
    pub(super) version: String,
    /// Who holds it; empty: nobody.
    pub(super) holder: String,
    /// Which holding it is.
    pub(super) epoch: LeaseEpoch,
    /// How long it stays its holder's.
    pub(super) duration: Duration,
}

/// What to do with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    /// It is ours: say so again.
    Renew,
    /// It is nobody's, or its holder is gone: take it.
    Take,
    /// It is somebody else's.
    Wait,
}

impl Seen {
    /// What an object says.
    pub(super) fn of(lease: &Lease) -> Self {
        let spec = lease.spec.clone().unwrap_or_default();
        let number = |n: Option<i32>| u64::try_from(n.unwrap_or_default()).unwrap_or_default();
        let since = lease.metadata.creation_timestamp.as_ref().map_or(0, |t| t.0.as_second());
        let duration = Duration::from_secs(number(spec.lease_duration_seconds));
        Self {
            version: lease.metadata.resource_version.clone().unwrap_or_default(),
            holder: spec.holder_identity.unwrap_or_default(),
            epoch: LeaseEpoch {
                since: u64::try_from(since).unwrap_or_default(),
                transitions: number(spec.lease_transitions),
            },
            duration: if duration.is_zero() { LEASE } else { duration.min(LEASE_MAX) },
        }
    }
}

/// Leases as one agent has seen them.
#[derive(Debug, Default)]
pub(super) struct Watched {
    last: Option<(String, Instant)>,
}

impl Watched {
    /// What to do with what was read at `now`. Only a change counts as a sign of life of its holder: clocks differ.
    pub(super) fn judge(&mut self, seen: &Seen, me: &str, now: Instant) -> Act {
        let since = match &self.last {
            Some((version, at)) if *version == seen.version => *at,
            Some(_) | None => now,
        };
        self.last = Some((seen.version.clone(), since));
        if seen.holder == me {
            Act::Renew
        } else if seen.holder.is_empty() || now.saturating_duration_since(since) >= seen.duration {
            Act::Take
        } else {
            Act::Wait
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(version: &str, holder: &str) -> Seen {
        let (version, holder) = (version.to_owned(), holder.to_owned());
        Seen { version, holder, epoch: LeaseEpoch::default(), duration: LEASE }
    }

    /// One that does not change is taken when its time is over on our clock, one that changes never; ours is renewed, and
    /// nobody's is taken at once.
    ///
    /// Mutations not tried yet: `since` always `now`; `is_empty` left out.
    #[test]
    fn a_holder_that_shows_no_life_is_followed() {
        let start = meshfed_runtime::clock::instant();
        let mut watched = Watched::default();
        let mut at = |seconds, version, holder| {
            watched.judge(&seen(version, holder), "me", start + Duration::from_secs(seconds))
        };
        assert_eq!(at(0, "1", "other"), Act::Wait);
        assert_eq!(at(14, "1", "other"), Act::Wait);
        assert_eq!(at(14, "2", "other"), Act::Wait);
        assert_eq!(at(28, "2", "other"), Act::Wait);
        assert_eq!(at(29, "2", "other"), Act::Take);
        assert_eq!(at(29, "3", "me"), Act::Renew);
        assert_eq!(at(90, "3", "me"), Act::Renew);
        assert_eq!(at(90, "4", ""), Act::Take);
    }

    /// What others wrote into it is taken for what it can mean: no time, or one for ever, is no reason to wait for ever.
    ///
    /// Mutation not tried yet: `min` left out of `Seen::of`.
    #[test]
    fn a_strange_lease_ends_too() {
        let of = |spec: serde_json::Value| {
            Seen::of(&serde_json::from_value(serde_json::json!({ "metadata": {}, "spec": spec })).unwrap())
        };
        assert_eq!(of(serde_json::json!({ "leaseDurationSeconds": 1_000_000_000 })).duration, LEASE_MAX);
        assert_eq!(of(serde_json::json!({ "leaseDurationSeconds": -3, "leaseTransitions": -1 })).duration, LEASE);
        assert_eq!(of(serde_json::json!({ "leaseTransitions": -1 })).epoch.transitions, 0);
        assert_eq!(of(serde_json::json!({})).holder, "");
    }
}
