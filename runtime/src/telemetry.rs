//! Edge. Logs: on stderr only, as text or JSON; standard output belongs to the answer of a command.

use std::fmt;

use tracing_subscriber::EnvFilter;

/// `--log-format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum LogFormat {
    /// One readable line per event.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// Why logging could not start.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// `--log-level` is no filter.
    #[error(
        "'{level}' is no log level; use error, warn, info, debug or trace, or directives such as 'info,meshfed_proxy=debug'"
    )]
    Level {
        /// The refused text.
        level: String,
    },
}

/// Starts logging on stderr. A second call in one process changes nothing.
///
/// # Errors
/// [`TelemetryError::Level`].
pub fn init(format: LogFormat, level: &str) -> Result<(), TelemetryError> {
    let refuse = || TelemetryError::Level { level: level.to_owned() };
    if level.trim().is_empty() {
        return Err(refuse());
    }
    let filter = EnvFilter::builder().parse(level).map_err(|_parse| refuse())?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
    // A second subscriber is refused: roles hosted in one process share the first.
    let _second_start = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    Ok(())
}

/// An error with its whole chain of causes, as it is logged at the edge: `connect: refused: os error 111`.
#[must_use]
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    // rustls shows our refusal of a peer in its debug form: tell it as it was meant.
    if let Some(refused) = crate::tls::refusal(error) {
        let why = chain_of(refused);
        return if text.contains("OtherError(") || text == why { why } else { format!("{text}: {why}") };
    }
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        // Foreign errors often print their source: do not say it twice.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

/// [`chain`] of a concrete error.
#[must_use]
pub fn chain_of<E: std::error::Error + 'static>(error: &E) -> String {
    chain(error)
}
