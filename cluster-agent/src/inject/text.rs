//! Pure. Injection of files: YAML or JSON of one or many documents in, YAML out; what is not injected stays byte for byte.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{InjectConfig, LABEL, NamespaceFacts, escape, inject_object};

/// The label of Pod Security admission.
const ENFORCE: &str = "pod-security.kubernetes.io/enforce";
/// The value of [`LABEL`] that a namespace has which the text does not describe: who runs the command wants it.
const WANTED: &str = "enabled";

/// What is wrong with a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextError {
    /// Its line, from 1.
    pub line: u64,
    /// What, and what to do.
    pub message: String,
}

/// The injected text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InjectedText {
    /// All documents.
    pub text: String,
    /// Pods and templates that were injected.
    pub changed: usize,
    /// What was left as it is, and what was asked for in vain, with its line and the reason.
    pub notes: Vec<TextError>,
}

/// A document with the marker before it.
struct Document<'a> {
    marker: &'a str,
    text: &'a str,
    /// The line of `text`.
    line: u64,
}

/// Whether a line begins a document: at its begin, `---` is nothing else in YAML (1.2.2, 9.1.2).
fn is_marker(line: &str) -> bool {
    line.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\n', '\r']))
}

fn split(text: &str) -> Vec<Document<'_>> {
    let mut documents = Vec::new();
    let (mut marker, mut begin, mut line, mut at) = (0..0, 0, 1, 0);
    for (number, found) in (1u64..).zip(text.split_inclusive('\n')) {
        let end = at + found.len();
        if is_marker(found) {
            documents.push(Document { marker: &text[marker], text: &text[begin..at], line });
            // What follows the marker on its line belongs to the document.
            let rest = found.trim_end();
            let length = if rest == "---" { found.len() } else { 3 };
            (marker, begin, line) = (at..at + length, at + length, if rest == "---" { number + 1 } else { number });
        }
        at = end;
    }
    documents.push(Document { marker: &text[marker], text: &text[begin..], line });
    documents
}

/// The first line of a document that says something.
fn first_line(document: &Document<'_>) -> u64 {
    let blank = |l: &&str| l.trim().is_empty() || l.trim_start().starts_with('#');
    document.line + document.text.lines().take_while(blank).count() as u64
}

fn parse(document: &Document<'_>) -> Result<Value, TextError> {
    // As kubectl reads it: the mode of a file is written in octal digits behind a zero.
    let options = serde_saphyr::options! { legacy_octal_numbers: true };
    let read = serde_saphyr::from_str_with_options::<Option<Value>>(document.text, options);
    read.map(Option::unwrap_or_default).map_err(|error| {
        let within = error.location().map_or(0, |l| l.line().saturating_sub(1));
        let message = error.without_snippet().to_string();
        // Its line counts from the begin of the document, and would contradict ours.
        let told = message.rsplit_once(" at line ").map_or(message.as_str(), |(told, _)| told).to_owned();
        TextError { line: document.line + within, message: told }
    })
}

/// Where the metadata of what is injected is.
const METADATA: [&str; 4] =
    ["/metadata", "/spec/template/metadata", "/spec/jobTemplate/spec/template/metadata", "/template/metadata"];

/// Names, labels and annotations that are no text, where an API server takes nothing else: without quotes YAML reads `yes` and
/// `on` as a boolean and `1` as a number.
fn not_text(object: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let items = object.get("items").and_then(Value::as_array).into_iter().flatten();
    for (object, at) in std::iter::once(object).chain(items).flat_map(|o| METADATA.iter().map(move |at| (o, *at))) {
        let Some(metadata) = object.pointer(at) else { continue };
        let field = at.trim_start_matches('/').replace('/', ".");
        let mut judge = |path: String, value: &Value| {
            if matches!(value, Value::Bool(_) | Value::Number(_)) {
                found.push(format!("{field}.{path} is {value} and no text: put it in quotes"));
            }
        };
        for part in ["name", "namespace", "generateName"] {
            judge(part.to_owned(), &metadata[part]);
        }
        for part in ["labels", "annotations"] {
            for (key, value) in metadata[part].as_object().into_iter().flatten() {
                judge(format!("{part}[{key}]"), value);
            }
        }
    }
    found
}

/// What the text itself says of its namespaces.
fn namespaces(objects: &[Value]) -> BTreeMap<String, NamespaceFacts> {
    let mut found = BTreeMap::new();
    let items = objects.iter().flat_map(|o| o.get("items").and_then(Value::as_array).into_iter().flatten());
    for object in objects.iter().chain(items) {
        let text = |at: &str| object.pointer(at).and_then(Value::as_str).map(str::to_owned);
        if text("/kind").as_deref() == Some("Namespace")
            && let Some(name) = text("/metadata/name")
        {
            let label = |l: &str| text(&format!("/metadata/labels/{}", escape(l)));
            let injection = label(LABEL).or_else(|| Some(WANTED.to_owned()));
            found.insert(name.clone(), NamespaceFacts { name, injection, enforce: label(ENFORCE) });
        }
    }
    found
}

/// Injects everything that has pods.
///
/// # Errors
/// All that is wrong, by line; nothing is injected then.
pub fn inject_text(text: &str, config: &InjectConfig) -> Result<InjectedText, Vec<TextError>> {
    let documents = split(text);
    let mut errors = Vec::new();
    let parsed: Vec<Value> = documents
        .iter()
        .map(|d| {
            parse(d).unwrap_or_else(|error| {
                errors.push(error);
                Value::Null
            })
        })
        .collect();
    let known = namespaces(&parsed);
    let facts = |name: &str| {
        let unknown = || NamespaceFacts { name: name.to_owned(), injection: Some(WANTED.to_owned()), enforce: None };
        known.get(name).cloned().unwrap_or_else(unknown)
    };
    let mut done = InjectedText::default();
    for (document, mut object) in documents.iter().zip(parsed) {
        let line = first_line(document);
        errors.extend(not_text(&object).into_iter().map(|message| TextError { line, message }));
        done.text.push_str(document.marker);
        let injected = match inject_object(&mut object, &facts, config) {
            Ok(injected) => injected,
            Err(error) => {
                errors.push(TextError { line, message: error.to_string() });
                continue;
            }
        };
        let skipped = injected.skipped.into_iter();
        done.notes
            .extend(skipped.map(|(what, why)| TextError { line, message: format!("{what} stays as it is: {why}") }));
        let warned = injected.warnings.into_iter();
        done.notes.extend(warned.map(|(what, why)| TextError { line, message: format!("{what}: {why}") }));
        done.changed += injected.changed;
        if injected.changed == 0 {
            done.text.push_str(document.text);
            continue;
        }
        match serde_saphyr::to_string(&object) {
            Ok(yaml) if document.marker.ends_with('\n') || document.marker.is_empty() => done.text.push_str(&yaml),
            Ok(yaml) => done.text.push_str(&format!("\n{yaml}")),
            Err(error) => errors.push(TextError { line, message: error.to_string() }),
        }
    }
    if errors.is_empty() { Ok(done) } else { Err(errors) }
}
