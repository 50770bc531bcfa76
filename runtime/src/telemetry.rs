//! Edge. Logs: on stderr only, as text or JSON; standard output belongs to the answer of a command.

use std::fmt;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// Characters of what somebody else said that are shown.
const WORDS_MAX: usize = 500;

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

/// A library's own log of each request that failed, which names neither address nor object, and its directive: whoever asked logs
/// the same error with both. Directives that name the library have the last word.
const REPEATED: (&str, &str) = ("kube_client", "kube_client::client::builder=off");

/// Our own crates, by the first letters of their targets.
const OURS: &str = "meshfed";

/// The filter of a level or of directives. A level above `info` is meant for us: what libraries say of every frame and
/// connection would bury it, so they stay at `info` unless a directive names them.
///
/// # Errors
/// [`TelemetryError::Level`].
fn filter(level: &str) -> Result<EnvFilter, TelemetryError> {
    let refuse = || TelemetryError::Level { level: level.to_owned() };
    if level.trim().is_empty() {
        return Err(refuse());
    }
    let mut directives = Vec::new();
    for directive in level.split(',').map(str::trim) {
        match directive.parse::<LevelFilter>() {
            Ok(wanted) if wanted > LevelFilter::INFO => {
                directives.extend([LevelFilter::INFO.to_string(), format!("{OURS}={wanted}")]);
            }
            // A word alone that is no level would be taken for a target, and everything else would fall silent.
            Err(_) if !directive.contains('=') => return Err(refuse()),
            Ok(_) | Err(_) => directives.push(directive.to_owned()),
        }
    }
    if !level.contains(REPEATED.0) {
        directives.push(REPEATED.1.to_owned());
    }
    EnvFilter::builder().parse(directives.join(",")).map_err(|_parse| refuse())
}

/// Starts logging on stderr. A second call in one process changes nothing.
///
/// # Errors
/// [`TelemetryError::Level`].
pub fn init(format: LogFormat, level: &str) -> Result<(), TelemetryError> {
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter(level)?).with_writer(std::io::stderr).with_ansi(false);
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
        // Foreign errors often print their source, at the end or in brackets: do not say it twice.
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

/// What somebody else said, as people may be shown it: without control characters, which end lines and steer terminals, and
/// cut after 500 characters.
#[must_use]
pub fn words(said: &str) -> String {
    let mut shown: String = said.chars().map(|c| if c.is_control() { ' ' } else { c }).take(WORDS_MAX).collect();
    if said.chars().nth(WORDS_MAX).is_some() {
        shown.push('…');
    }
    shown
}

/// [`chain`] of a concrete error.
#[must_use]
pub fn chain_of<E: std::error::Error + 'static>(error: &E) -> String {
    chain(error)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
            self.0.lock().map_err(|poisoned| std::io::Error::other(poisoned.to_string()))?.write(text)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// What is logged at this level, of one line each of ours and of two libraries, at three levels.
    fn logged(level: &str) -> Vec<String> {
        let lines = Lines::default();
        let writer = lines.clone();
        let log = tracing_subscriber::fmt().with_env_filter(filter(level).unwrap()).without_time().with_ansi(false);
        let log = log.with_target(false).with_level(false).with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(log, || {
            tracing::info!(target: "meshfed_proxy::tcp", "ours info");
            tracing::debug!(target: "meshfed_proxy::tcp", "ours debug");
            tracing::trace!(target: "meshfed_runtime", "ours trace");
            tracing::info!(target: "h2::codec", "h2 info");
            tracing::debug!(target: "h2::codec", "h2 debug");
            tracing::debug!(target: "tower::buffer", "tower debug");
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        text.lines().map(|line| line.trim().to_owned()).collect()
    }

    /// A level is for us; libraries speak below `info` where a directive names them. What is no level is refused.
    ///
    /// Mutations seen to fail: `wanted > LevelFilter::INFO` with `false`; `warn` in the place of `INFO` among the directives;
    /// `contains('=')` with `contains('o')`.
    #[test]
    fn a_level_is_ours_and_libraries_are_named() {
        let info = ["ours info", "h2 info"];
        assert_eq!(logged("info"), info);
        assert_eq!(logged("warn"), [""; 0]);
        assert_eq!(logged("debug"), ["ours info", "ours debug", "h2 info"]);
        assert_eq!(logged("TRACE"), ["ours info", "ours debug", "ours trace", "h2 info"]);
        assert_eq!(logged("meshfed=debug"), ["ours info", "ours debug"]);
        assert_eq!(logged("debug,h2=debug"), ["ours info", "ours debug", "h2 info", "h2 debug"]);
        assert_eq!(logged("debug, meshfed_proxy=info"), info);
        assert_eq!(logged("info,meshfed_proxy=debug"), ["ours info", "ours debug", "h2 info"]);
        for wrong in ["", " ", "h2=loud", "loud", "warning", "info,h2"] {
            assert!(filter(wrong).is_err(), "{wrong:?}");
        }
    }

    /// Mutations seen to fail: `is_control` is false; `take` left out.
    #[test]
    fn words_of_others_steer_no_terminal() {
        assert_eq!(words("\x1b[2J owned\r\n\u{9b}é"), " [2J owned   é");
        let long = words(&"a".repeat(WORDS_MAX + 1));
        assert!(long.ends_with("a…") && long.chars().count() == WORDS_MAX + 1, "{long}");
        assert!(!words(&"a".repeat(WORDS_MAX)).ends_with('…'));
    }

    /// Libraries print their cause within their own words, too, as that of a kubeconfig which is not there.
    ///
    /// Mutation seen to fail: `contains` with `ends_with`.
    #[test]
    fn no_cause_is_told_twice() {
        #[derive(Debug)]
        struct Says(&'static str, Option<Box<Self>>);
        impl fmt::Display for Says {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.0)
            }
        }
        impl std::error::Error for Says {
            fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
                self.1.as_deref().map(|cause| cause as _)
            }
        }
        let says = |text, cause| Some(Box::new(Says(text, cause)));
        let root = || says("no such file", None);
        let nested = says("cannot be read (a: no such file), give one", says("a: no such file", root())).unwrap();
        assert_eq!(chain(&*nested), "cannot be read (a: no such file), give one");
        let plain = says("cannot be read", root()).unwrap();
        assert_eq!(chain(&*plain), "cannot be read: no such file");
    }
}
