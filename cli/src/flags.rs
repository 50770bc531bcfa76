//! Pure. A daemon's flags that cannot be parsed: all of them at once, in the form of `contracts.md` 1.2.

use std::error::Error as _;
use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use meshfed_runtime::config::Problems;

/// A flag that cannot be parsed.
const CODE: &str = "MF0100";
/// More wrong flags than this are not looked for.
const MOST: usize = 64;

/// Every error of the arguments, a line each; nothing when the error is none of a single flag (clap then says it best).
///
/// `rest` judges what is left once the wrong flags are taken out, and adds its own lines.
pub fn all_errors<C: clap::Parser>(
    mut args: Vec<OsString>,
    first: clap::Error,
    rest: impl FnOnce(C) -> Vec<String>,
) -> Option<Vec<String>> {
    let mut lines = Vec::new();
    let mut told = Vec::new();
    let mut error = first;
    while lines.len() < MOST {
        let named = strings(error.get(ContextKind::InvalidArg));
        let flag = |arg: &str| arg.split_whitespace().next().unwrap_or_default().to_owned();
        #[expect(clippy::wildcard_enum_match_arm, reason = "the parser's enum is non-exhaustive")]
        let texts: Vec<(String, String)> = match error.kind() {
            ErrorKind::ValueValidation | ErrorKind::InvalidValue => {
                named.iter().map(|arg| (flag(arg), wrong_value(&error))).collect()
            }
            ErrorKind::MissingRequiredArgument => {
                let missing = named.iter().map(|arg| (flag(arg), format!("is required: {arg}")));
                missing.filter(|(flag, _)| !told.contains(flag)).collect()
            }
            ErrorKind::UnknownArgument => named.iter().map(|arg| (flag(arg), unknown(&error))).collect(),
            _ => break,
        };
        for (flag, text) in texts {
            let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            lines.push(format!("{flag}:0:0: error[{CODE}]: {text}"));
            told.push(flag);
        }
        // What is told is taken out, and the rest is parsed again.
        let taken = match (error.kind(), told.last()) {
            (ErrorKind::MissingRequiredArgument, _) | (_, None) => false,
            (_, Some(flag)) => take_out(&mut args, flag, strings(error.get(ContextKind::InvalidValue)).first()),
        };
        match C::try_parse_from(&args) {
            Err(next) if taken => error = next,
            Ok(left) => {
                lines.extend(rest(left));
                break;
            }
            Err(_missing) => break,
        }
    }
    (!lines.is_empty()).then_some(lines)
}

/// A line for each problem.
pub fn lines(problems: Option<Problems>) -> Vec<String> {
    problems.iter().flat_map(Problems::as_slice).map(ToString::to_string).collect()
}

fn strings(value: Option<&ContextValue>) -> Vec<String> {
    match value {
        Some(ContextValue::String(one)) => vec![one.clone()],
        Some(ContextValue::Strings(many)) => many.clone(),
        _ => Vec::new(),
    }
}

fn wrong_value(error: &clap::Error) -> String {
    if let Some(source) = error.source() {
        return source.to_string();
    }
    let value = strings(error.get(ContextKind::InvalidValue)).concat();
    let valid = strings(error.get(ContextKind::ValidValue)).join(", ");
    match (value.is_empty(), valid.is_empty()) {
        (true, _) => "needs a value".to_owned(),
        (false, true) => format!("'{value}' cannot be used"),
        (false, false) => format!("'{value}' is none of {valid}"),
    }
}

fn unknown(error: &clap::Error) -> String {
    let similar = strings(error.get(ContextKind::SuggestedArg)).concat();
    if similar.is_empty() {
        "there is no such flag; see --help".to_owned()
    } else {
        format!("there is no such flag; did you mean {similar}?")
    }
}

/// Takes a flag with its value out; false when it is not found.
fn take_out(args: &mut Vec<OsString>, flag: &str, value: Option<&String>) -> bool {
    let joined = value.map(|value| format!("{flag}={value}"));
    for at in 0..args.len() {
        let is = |at: usize, text: &str| args.get(at).and_then(|a| a.to_str()) == Some(text);
        let count = if joined.as_ref().is_some_and(|joined| is(at, joined)) {
            1
        } else if is(at, flag) && value.is_some_and(|value| is(at + 1, value)) {
            2
        } else if is(at, flag) && value.is_none() {
            // An unknown flag takes the word after it along, which would be unknown, too.
            let next = args.get(at + 1).and_then(|a| a.to_str());
            1 + usize::from(next.is_some_and(|next| !next.starts_with('-')))
        } else {
            continue;
        };
        args.drain(at..at + count);
        return true;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser, Debug)]
    struct Daemon {
        #[arg(long)]
        port: Vec<u16>,
        #[arg(long, value_parser = ["text", "json"])]
        format: Option<String>,
        #[arg(long)]
        dir: String,
    }

    fn errors(args: &[&str]) -> Option<Vec<String>> {
        let args: Vec<OsString> = ["daemon"].iter().chain(args).map(Into::into).collect();
        let first = <Daemon as clap::Parser>::try_parse_from(&args).unwrap_err();
        all_errors::<Daemon>(args, first, |left| left.dir.is_empty().then(|| "empty".to_owned()).into_iter().collect())
    }

    /// Mutation seen to fail: `rest` is not asked.
    #[test]
    fn what_is_left_is_judged_too() {
        let told = errors(&["--format", "xml", "--dir", ""]).unwrap();
        assert_eq!((told.len(), told[1].as_str()), (2, "empty"), "{told:?}");
        assert_eq!(errors(&["--format", "xml", "--dir", "d"]).unwrap().len(), 1);
    }

    /// Mutation seen to fail: the loop ends after one error.
    #[test]
    fn all_wrong_flags_are_told_at_once() {
        let told = errors(&["--port", "x", "--port=99999", "--format", "xml", "--prt", "1"]).unwrap();
        assert_eq!(told.len(), 5, "{told:?}");
        let flags: Vec<&str> = told.iter().filter_map(|l| l.split_once(":0:0: error[MF0100]: ")).map(|l| l.0).collect();
        let count = |flag: &str| flags.iter().filter(|f| **f == flag).count();
        let counts = ["--port", "--format", "--prt", "--dir"].map(count);
        assert_eq!(counts, [2, 1, 1, 1], "{told:?}");
        assert!(told.iter().any(|l| l.ends_with("'xml' is none of text, json")), "{told:?}");
    }

    /// Mutation seen to fail: help is told as an error.
    #[test]
    fn what_is_no_wrong_flag_is_left_to_clap() {
        assert_eq!(errors(&["--help"]), None);
    }
}
