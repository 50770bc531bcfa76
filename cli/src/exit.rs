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
    /// What the contracts name and this version does not have: wrong usage.
    pub fn later(what: &str) -> Self {
        Self::usage(format!("'{what}' is not in this version ({})", env!("CARGO_PKG_VERSION")))
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

/// The verbs that run until they are told to end.
const DAEMONS: &[&str] = &["federator", "agent", "proxy"];

/// The verbs that clean up when they are told to end, beside daemons.
const CLEANERS: &[&str] = &["demo", "reactor"];

/// The verb that the command line names.
fn verb(args: &[std::ffi::OsString]) -> Option<&str> {
    args.iter().skip(1).filter_map(|a| a.to_str()).find(|a| !a.starts_with('-'))
}

/// Whether this process is one that SIGTERM and SIGINT do not simply end.
pub fn drains() -> bool {
    let args: Vec<std::ffi::OsString> = std::env::args_os().collect();
    verb(&args).is_some_and(|verb| DAEMONS.contains(&verb) || CLEANERS.contains(&verb))
}

/// Prints what clap says; help and version exit 0, wrong usage exits 64.
///
/// A daemon tells all wrong flags at once, in the form of its other configuration errors.
#[expect(clippy::print_stderr, reason = "the one place where the command line reports wrong usage")]
pub fn usage<C: clap::Parser>(error: clap::Error, rest: impl FnOnce(C) -> Vec<String>) -> ExitCode {
    let args: Vec<std::ffi::OsString> = std::env::args_os().collect();
    if error.use_stderr() && verb(&args).is_some_and(|v| DAEMONS.contains(&v)) {
        let shown = error.render();
        match meshfed_cli::flags::all_errors(args, error, rest) {
            Some(lines) => lines.iter().for_each(|line| eprintln!("{line}")),
            None => eprint!("{shown}"),
        }
        return ExitCode::from(USAGE);
    }
    let _closed_pipe = error.print();
    if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS }
}
