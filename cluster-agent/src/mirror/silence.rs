//! Pure. Whether the API server answers nobody, or one write alone has no answer.

use std::collections::BTreeSet;
use std::time::Instant;

use meshfed_model::names::ServiceName;
use meshfed_runtime::backoff::Backoff;

/// A time in which nothing new is begun.
#[derive(Debug, Clone, Copy)]
struct Pause {
    since: Instant,
    until: Instant,
}

/// What is known of answers.
#[derive(Debug, Default)]
pub(super) struct Silence {
    backoff: Backoff,
    pause: Option<Pause>,
    answered: Option<Instant>,
    /// Names whose writes had no answer while no other write had one either.
    unanswered: BTreeSet<ServiceName>,
}

impl Silence {
    /// Until when nothing is begun.
    pub(super) fn until(&self) -> Option<Instant> {
        self.pause.map(|pause| pause.until)
    }

    /// The API server has answered; gives the names that were not answered when nobody was.
    pub(super) fn answered(&mut self, now: Instant) -> BTreeSet<ServiceName> {
        self.answered = Some(now);
        self.backoff.connected(now);
        std::mem::take(&mut self.unanswered)
    }

    /// The API server is away for a write that was begun then: everybody waits. Many writes that fail together are one
    /// failure.
    pub(super) fn away(&mut self, begun: Instant, now: Instant) {
        if self.pause.is_none_or(|pause| begun >= pause.since) {
            self.pause = Some(Pause { since: now, until: now + self.backoff.failed(now) });
        }
    }

    /// A write of a name that was begun then had no answer: if others had one meanwhile, that is about this name alone.
    pub(super) fn no_answer(&mut self, name: &ServiceName, begun: Instant) {
        if self.answered.is_none_or(|answered| answered < begun) {
            self.unanswered.insert(name.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A write that hangs among others that are answered waits by itself; one that hung with all others is hurried when
    /// they are answered.
    ///
    /// Mutations seen to fail: `answered < begun` answered `true`, and answered `false`.
    #[test]
    fn what_hangs_alone_is_not_hurried() {
        let name = ServiceName::new("shop", "a").unwrap();
        let start = meshfed_runtime::clock::instant();
        let mut silence = Silence::default();
        silence.no_answer(&name, start);
        assert_eq!(silence.answered(start + SECOND), [name.clone()].into());
        silence.no_answer(&name, start);
        assert_eq!(silence.answered(start + SECOND), BTreeSet::new());
        silence.no_answer(&name, start + 2 * SECOND);
        assert_eq!(silence.answered(start + 3 * SECOND), [name].into());
    }

    /// Sixty writes that were under way when the API server went make one pause, not the longest one.
    ///
    /// Mutation seen to fail: `begun >= pause.since` answered `true`.
    #[test]
    fn writes_that_fail_together_are_one_failure() {
        let start = meshfed_runtime::clock::instant();
        let mut silence = Silence::default();
        silence.away(start, start + SECOND);
        let until = silence.until();
        for n in 1..60 {
            silence.away(start, start + SECOND * n);
        }
        assert_eq!(silence.until(), until);
        silence.away(start + 5 * SECOND, start + 6 * SECOND);
        assert!(silence.until() > until);
    }
}
