//! Pure. Label selectors as kubectl takes them: `a=b,c!=d,e in (f,g),h notin (i),j,!k`
//! (kubernetes.io, "Labels and Selectors").

use kube::core::{Expression, Selector};

/// Expressions of one selector.
const EXPRESSIONS_MAX: usize = 32;
/// The longest key: a prefix of 253 characters, `/`, and a name of 63.
const KEY_MAX: usize = 317;
/// The longest value.
const VALUE_MAX: usize = 63;

/// Reads a selector; an empty one selects everything.
///
/// # Errors
/// What cannot be read, in words.
pub(super) fn read(text: &str) -> Result<Selector, String> {
    let parts = split(text)?;
    if parts.len() > EXPRESSIONS_MAX {
        return Err(format!("a selector has {EXPRESSIONS_MAX} expressions at most"));
    }
    parts.into_iter().map(expression).collect()
}

/// The expressions: `,` parts them, except between parentheses.
fn split(text: &str) -> Result<Vec<&str>, String> {
    let (mut parts, mut begin, mut inside) = (Vec::new(), 0, false);
    for (at, c) in text.char_indices() {
        match c {
            '(' if !inside => inside = true,
            ')' if inside => inside = false,
            '(' | ')' => return Err(format!("'{text}' has parentheses that do not match")),
            ',' if !inside => {
                parts.push(text.get(begin..at).unwrap_or_default());
                begin = at + 1;
            }
            _ => {}
        }
    }
    if inside {
        return Err(format!("'{text}' has parentheses that do not match"));
    }
    parts.push(text.get(begin..).unwrap_or_default());
    if parts == [""] {
        parts.clear();
    }
    Ok(parts)
}

fn expression(text: &str) -> Result<Expression, String> {
    let text = text.trim();
    if let Some((head, values)) = text.split_once('(') {
        let words: Vec<&str> = head.split_whitespace().collect();
        let values = values.strip_suffix(')').ok_or_else(|| form(text))?;
        let values = values.split(',').map(value).collect::<Result<_, _>>()?;
        return match words[..] {
            [name, "in"] => Ok(Expression::In(key(name)?, values)),
            [name, "notin"] => Ok(Expression::NotIn(key(name)?, values)),
            _ => Err(form(text)),
        };
    }
    if let Some((name, wanted)) = text.split_once("!=") {
        return Ok(Expression::NotEqual(key(name)?, value(wanted)?));
    }
    if let Some((name, wanted)) = text.split_once("==").or_else(|| text.split_once('=')) {
        return Ok(Expression::Equal(key(name)?, value(wanted)?));
    }
    match text.strip_prefix('!') {
        Some(name) => Ok(Expression::DoesNotExist(key(name)?)),
        None => Ok(Expression::Exists(key(text)?)),
    }
}

fn form(text: &str) -> String {
    format!("'{text}' is no expression; write key=value, key!=value, key in (a,b), key notin (a,b), key or !key")
}

fn is_word(text: &str, also: &[u8]) -> bool {
    let ends = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    ends(bytes.first())
        && ends(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b) || also.contains(b))
}

fn key(text: &str) -> Result<String, String> {
    let text = text.trim();
    let ok = text.len() <= KEY_MAX && is_word(text, b"/");
    if ok { Ok(text.to_owned()) } else { Err(format!("'{text}' is no key of a label")) }
}

fn value(text: &str) -> Result<String, String> {
    let text = text.trim();
    let ok = text.is_empty() || (text.len() <= VALUE_MAX && is_word(text, b""));
    if ok { Ok(text.to_owned()) } else { Err(format!("'{text}' is no value of a label")) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use kube::core::SelectorExt as _;

    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    /// Each form selects what kubectl's does.
    ///
    /// Mutations seen to fail: `notin` read as `in`; `!=` looked for after `=`.
    #[test]
    fn a_selector_is_what_kubectl_takes() {
        let prod = labels(&[("env", "prod"), ("example.com/tier", "1")]);
        for (text, selects) in [
            ("", true),
            ("env", true),
            ("!env", false),
            ("env=prod", true),
            ("env==prod", true),
            ("env!=prod", false),
            ("zone!=a", true),
            ("env in (test, prod),example.com/tier=1", true),
            ("env notin (test,prod)", false),
            ("env notin (test)", true),
            ("zone", false),
            (" env = prod , !zone ", true),
            ("env=", false),
        ] {
            let read = read(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(read.matches(&prod), selects, "{text}");
        }
    }

    /// Mutation seen to fail: `is_word` always true.
    #[test]
    fn what_is_no_selector_is_said() {
        let many = vec!["a"; EXPRESSIONS_MAX + 1].join(",");
        let long = "a".repeat(KEY_MAX + 1);
        let long_value = format!("a={}", "b".repeat(VALUE_MAX + 1));
        for text in [
            "=",
            "!=b",
            ",",
            "a,,b",
            "a in b",
            "a in (b",
            "a)",
            "a on (b)",
            "-a",
            "a=b c",
            "ä",
            &many,
            &long,
            &long_value,
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
