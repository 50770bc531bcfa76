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

/// Since when a Lease counts, in Unix seconds, where that is later than its creation.
pub(super) const SINCE: &str = "federation.meshfed.io/lease-since";

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
        let created = lease.metadata.creation_timestamp.as_ref().map_or(0, |t| t.0.as_second());
        let raised = lease.metadata.annotations.as_ref().and_then(|a| a.get(SINCE)?.parse().ok()).unwrap_or_default();
        let duration = Duration::from_secs(number(spec.lease_duration_seconds));
        Self {
            version: lease.metadata.resource_version.clone().unwrap_or_default(),
            holder: spec.holder_identity.unwrap_or_default(),
            epoch: LeaseEpoch {
                since: u64::try_from(created).unwrap_or_default().max(raised),
                transitions: number(spec.lease_transitions),
            },
            duration: if duration.is_zero() { LEASE } else { duration.min(LEASE_MAX) },
        }
    }
}

/// The epoch of a holding that goes on, or is `taken` anew, over a Lease of epoch `seen`. It is above the `latest` that the hub
/// has seen, which takes no offer of an earlier one: the Lease of an API server that was restored from a backup counts from
/// an earlier number.
pub(super) fn holding(seen: LeaseEpoch, latest: LeaseEpoch, taken: bool) -> LeaseEpoch {
    let next = |epoch: LeaseEpoch| match epoch.transitions.saturating_add(1) {
        transitions if i32::try_from(transitions).is_ok() => LeaseEpoch { transitions, ..epoch },
        // What `spec.leaseTransitions` cannot hold.
        _ => LeaseEpoch { since: epoch.since.saturating_add(1), transitions: 0 },
    };
    let own = if taken { next(seen) } else { seen };
    if own < latest { next(latest) } else { own }
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
    /// Mutations seen to fail: `since` always `now`; `is_empty` left out.
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

    /// A holding follows on the one before, and on what the hub has seen.
    ///
    /// Mutations seen to fail: `own < latest` answered `false`; `next(latest)` replaced by `latest`; the arm of what cannot
    /// be held left out; `max(raised)` left out.
    #[test]
    fn a_holding_is_above_what_the_hub_has_seen() {
        let epoch = |since, transitions| LeaseEpoch { since, transitions };
        assert_eq!(holding(epoch(5, 3), epoch(5, 3), false), epoch(5, 3));
        assert_eq!(holding(epoch(5, 3), epoch(5, 3), true), epoch(5, 4));
        assert_eq!(holding(epoch(5, 0), epoch(5, 3), false), epoch(5, 4));
        assert_eq!(holding(epoch(5, 1), epoch(7, 0), true), epoch(7, 1));
        let most = u64::try_from(i32::MAX).unwrap();
        assert_eq!(holding(epoch(5, 0), epoch(5, most), false), epoch(6, 0));
        let raised = serde_json::json!({ "metadata": {
            "creationTimestamp": "1970-01-01T00:00:05Z", "annotations": { SINCE: "7" } } });
        assert_eq!(Seen::of(&serde_json::from_value(raised).unwrap()).epoch, epoch(7, 0));
    }

    /// What others wrote into it is taken for what it can mean: no time, or one for ever, is no reason to wait for ever.
    ///
    /// Mutation seen to fail: `min` left out of `Seen::of`.
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
