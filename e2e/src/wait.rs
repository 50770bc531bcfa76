//! Edge. Waiting on a condition with a deadline; never on time alone.

use std::fmt::Display;
use std::time::{Duration, Instant};

/// How often a condition is looked at again.
const POLL: Duration = Duration::from_millis(20);

/// Looks at a condition until it holds, and fails the test with its last word when the deadline passes.
#[expect(clippy::disallowed_methods, reason = "the harness measures the product's clock from outside")]
pub fn until<T, E: Display>(what: &str, deadline: Duration, mut condition: impl FnMut() -> Result<T, E>) -> T {
    let start = Instant::now();
    loop {
        match condition() {
            Ok(value) => return value,
            Err(error) if start.elapsed() >= deadline => panic!("{what}: not within {deadline:?}: {error}"),
            Err(_not_yet) => std::thread::sleep(POLL),
        }
    }
}
