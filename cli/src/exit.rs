//! Pure but for printing. Exit codes: 0 fine, 1 degraded or failed, 64 usage, 65 bad input, 79 findings.

use std::process::ExitCode;

/// Degraded or failed.
pub const FAILED: u8 = 1;
/// Wrong usage (sysexits `EX_USAGE`).
pub const USAGE: u8 = 64;
/// Bad input (sysexits `EX_DATAERR`).
pub const BAD_INPUT: u8 = 65;
/// Findings.
pub const FINDINGS: u8 = 79;

/// What a verb ends with when it does not end well.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub code: u8,
    /// One sentence for stderr: what, where, how to fix.
    pub message: String,
}

impl Failure {
    /// Degraded or failed.
    pub fn failed(message: impl Into<String>) -> Self {
        Self { code: FAILED, message: message.into() }
    }
    /// Wrong usage.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { code: USAGE, message: message.into() }
    }
    /// Bad input.
    pub fn bad_input(message: impl Into<String>) -> Self {
        Self { code: BAD_INPUT, message: message.into() }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::failed(format!("{error:#}"))
    }
}

/// What a verb returns: its exit code, or a failure.
pub type Outcome = Result<u8, Failure>;

/// Prints a failure and gives the process's exit code.
#[expect(clippy::print_stderr, reason = "the one place where the command line reports failure")]
pub fn finish(outcome: Outcome) -> ExitCode {
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            eprintln!("error: {}", failure.message);
            ExitCode::from(failure.code)
        }
    }
}

/// Prints what clap says; help and version exit 0, wrong usage exits 64.
pub fn usage(error: &clap::Error) -> ExitCode {
    let _closed_pipe = error.print();
    if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS }
}
