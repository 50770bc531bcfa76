//! Pure. From single probes to ready or not: two failures in a row end it, one success begins it.

/// Failures in a row that end readiness.
const FAILURES: u32 = 2;

/// The running verdict; not ready before the first success.
#[derive(Debug, Clone, Default)]
pub struct Verdict {
    ready: bool,
    failures: u32,
}

impl Verdict {
    /// Nothing is known yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
    /// Takes the result of a probe and says whether the application is ready now.
    pub fn take(&mut self, success: bool) -> bool {
        if success {
            (self.ready, self.failures) = (true, 0);
        } else {
            self.failures = self.failures.saturating_add(1);
            self.ready &= self.failures < FAILURES;
        }
        self.ready
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mutation seen to fail: `FAILURES` = 1.
    #[test]
    fn one_success_begins_and_two_failures_end() {
        let mut v = Verdict::new();
        let probes = [false, false, true, false, true, false, false, false, true];
        let seen: Vec<bool> = probes.into_iter().map(|p| v.take(p)).collect();
        assert_eq!(seen, [false, false, true, true, true, true, false, false, true]);
    }
}
