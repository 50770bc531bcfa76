//! Pure. YAML and JSON as a tree in which every node and key knows its place.
//!
//! Documents are handed out one at a time, so that a large file never stands in memory as one tree.
//! Aliases are copied and counted: what they unfold to is limited, as are depth and number of nodes.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_saphyr::granit_parser::{Event, Options, Parser, ScalarStyle, ScanError, Span, StrInput};

use crate::object::Place;

/// The deepest nesting of a document. Kubernetes objects are at most about ten deep.
pub const DEPTH_MAX: usize = 64;
/// The most nodes of one document; a `List` of 16 MiB has about a million.
pub const NODES_MAX: usize = 2_000_000;
/// The most nodes that the aliases of one document unfold to.
pub const ALIAS_NODES_MAX: usize = 100_000;

/// Why a text is no YAML, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SyntaxFault {
    /// Where.
    pub place: Place,
    /// What.
    pub message: String,
}

/// One value with its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Where it begins.
    pub place: Place,
    /// How long its text is, in characters.
    pub length: usize,
    /// What it is.
    pub value: Value,
}

/// What a node is.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Nothing, `~`, `null`.
    Null,
    /// `true`, `false`.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// Another number.
    Float(f64),
    /// Text.
    Text(Box<str>),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping, in its order, with repeated keys.
    Map(Vec<Entry>),
}

/// One key of a mapping.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The key.
    pub key: Box<str>,
    /// Where the key stands.
    pub place: Place,
    /// Its value.
    pub value: Node,
}

impl Node {
    /// The value of a key, the first where it is repeated; null counts as absent.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Self> {
        let Value::Map(entries) = &self.value else { return None };
        let found = entries.iter().find(|e| e.key.as_ref() == key)?;
        (!matches!(found.value.value, Value::Null)).then_some(&found.value)
    }
    /// Its text, if it is one.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        if let Value::Text(text) = &self.value { Some(text) } else { None }
    }
    /// Its number, if it is a whole one.
    #[must_use]
    pub fn integer(&self) -> Option<i64> {
        if let Value::Integer(n) = &self.value { Some(*n) } else { None }
    }
    /// Its items; none if it is no sequence.
    #[must_use]
    pub fn items(&self) -> &[Self] {
        if let Value::List(items) = &self.value { items } else { &[] }
    }
    /// Whether it is a sequence without items.
    #[must_use]
    pub const fn is_empty_list(&self) -> bool {
        matches!(&self.value, Value::List(items) if items.is_empty())
    }
    /// Its entries; none if it is no mapping.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        if let Value::Map(entries) = &self.value { entries } else { &[] }
    }
    /// What it is, in words.
    #[must_use]
    pub fn what(&self) -> Cow<'static, str> {
        match &self.value {
            Value::Null => "nothing".into(),
            Value::Bool(b) => format!("the boolean {b}").into(),
            Value::Integer(n) => format!("the number {n}").into(),
            Value::Float(n) => format!("the number {n}").into(),
            Value::Text(t) => format!("the text {:?}", t.chars().take(40).collect::<String>()).into(),
            Value::List(_) => "a list".into(),
            Value::Map(_) => "a mapping".into(),
        }
    }
    /// A tree without places; `None` if it is nested more than [`DEPTH_MAX`] deep.
    #[must_use]
    pub fn from_json(value: serde_json::Value) -> Option<Self> {
        Self::nested(value, 0)
    }
    fn nested(value: serde_json::Value, depth: usize) -> Option<Self> {
        use serde_json::Value as Json;
        if depth > DEPTH_MAX {
            return None;
        }
        let mut length = 0;
        let value = match value {
            Json::Null => Value::Null,
            Json::Bool(b) => Value::Bool(b),
            Json::Number(n) => match (n.as_i64(), n.as_f64()) {
                (Some(n), _) => Value::Integer(n),
                (None, n) => Value::Float(n.unwrap_or(f64::INFINITY)),
            },
            Json::String(text) => {
                length = text.chars().count();
                Value::Text(text.into())
            }
            Json::Array(items) => {
                let items = items.into_iter().map(|v| Self::nested(v, depth + 1)).collect::<Option<Vec<_>>>()?;
                length = items.iter().map(|n| n.length + 1).sum();
                Value::List(items)
            }
            Json::Object(fields) => {
                let entry = |(key, value): (String, Json)| {
                    let value = Self::nested(value, depth + 1)?;
                    Some(Entry { key: key.into(), place: Place::default(), value })
                };
                let entries = fields.into_iter().map(entry).collect::<Option<Vec<_>>>()?;
                length = entries.iter().map(|e| e.key.chars().count() + e.value.length + 2).sum();
                Value::Map(entries)
            }
        };
        Some(Self { place: Place::default(), length, value })
    }
    fn count(&self) -> usize {
        1 + match &self.value {
            Value::Null | Value::Bool(_) | Value::Integer(_) | Value::Float(_) | Value::Text(_) => 0,
            Value::List(items) => items.iter().map(Self::count).sum(),
            Value::Map(entries) => entries.iter().map(|e| e.value.count()).sum(),
        }
    }
}

/// What is open while a document is read.
enum Open {
    List { node: Node, items: Vec<Node>, anchor: usize },
    Map { node: Node, entries: Vec<Entry>, key: Option<(Box<str>, Place)>, anchor: usize },
}

/// The documents of a text, one after the other.
pub struct Documents<'a> {
    parser: Parser<'a, StrInput<'a>>,
    ended: bool,
}

impl std::fmt::Debug for Documents<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Documents").field("ended", &self.ended).finish_non_exhaustive()
    }
}

impl<'a> Documents<'a> {
    /// Begins to read.
    #[must_use]
    pub fn new(text: &'a str) -> Self {
        let mut options = Options::default();
        options.set_emit_comments(false);
        options.flow_nesting_limit = DEPTH_MAX;
        options.block_nesting_limit = DEPTH_MAX;
        Self { parser: Parser::new_from_str_with_options(text, options), ended: false }
    }

    fn document(&mut self) -> Result<Option<Node>, SyntaxFault> {
        let mut builder = Builder::default();
        while let Some(next) = self.parser.next_event() {
            let (event, span) = next.map_err(|e| scan_fault(&e))?;
            #[allow(clippy::wildcard_enum_match_arm, reason = "the parser's enum is non-exhaustive")]
            match event {
                Event::StreamStart | Event::DocumentStart(..) | Event::Anchor(..) | Event::Comment(..) => {}
                Event::DocumentEnd => return Ok(Some(builder.root.take().unwrap_or_else(|| null_at(span)))),
                Event::StreamEnd => return Ok(None),
                other => builder.take(other, span)?,
            }
        }
        Ok(None)
    }
}

impl Iterator for Documents<'_> {
    type Item = Result<Node, SyntaxFault>;
    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let document = self.document().transpose();
        self.ended = !matches!(document, Some(Ok(_)));
        document
    }
}

fn null_at(span: Span) -> Node {
    Node { place: place(span), length: 0, value: Value::Null }
}

fn place(span: Span) -> Place {
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Place { line: number(span.start.line()), column: number(span.start.col().saturating_add(1)) }
}

fn scan_fault(error: &ScanError) -> SyntaxFault {
    let mark = error.marker();
    SyntaxFault { place: place(Span::empty(*mark)), message: error.info() }
}

#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    root: Option<Node>,
    anchors: BTreeMap<usize, Node>,
    nodes: usize,
    alias_nodes: usize,
}

impl Builder {
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), SyntaxFault> {
        let at = place(span);
        let fault = |message: &str| SyntaxFault { place: at, message: message.to_owned() };
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            return Err(fault(&format!("the document has more than {NODES_MAX} values")));
        }
        let node = Node { place: at, length: 0, value: Value::Null };
        let list = matches!(event, Event::SequenceStart(..));
        #[allow(clippy::wildcard_enum_match_arm, reason = "the parser's enum is non-exhaustive")]
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let length = span.end.index().saturating_sub(span.start.index());
                let forced_text = tag.is_some_and(|t| t.is_yaml_core_schema_tag("str"));
                if self.wants_key() {
                    return self.key(text.as_ref().into(), at);
                }
                let plain = matches!(style, ScalarStyle::Plain) && !forced_text;
                let value = if plain { resolve(&text) } else { Value::Text(text.as_ref().into()) };
                self.done(Node { length, value, ..node }, anchor)
            }
            Event::SequenceStart(_, anchor, _) | Event::MappingStart(_, anchor, _) => {
                if self.wants_key() {
                    return Err(fault("a key must be text"));
                }
                if self.open.len() >= DEPTH_MAX {
                    return Err(fault(&format!("nested deeper than {DEPTH_MAX}")));
                }
                let node = Node { length: span.start.index(), ..node };
                self.open.push(if list {
                    Open::List { node, items: Vec::new(), anchor }
                } else {
                    Open::Map { node, entries: Vec::new(), key: None, anchor }
                });
                Ok(())
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let (node, value, anchor) = match self.open.pop() {
                    Some(Open::List { node, items, anchor }) => (node, Value::List(items), anchor),
                    Some(Open::Map { node, entries, anchor, .. }) => (node, Value::Map(entries), anchor),
                    None => return Err(fault("an end without a beginning")),
                };
                let length = span.end.index().saturating_sub(node.length);
                self.done(Node { length, value, ..node }, anchor)
            }
            Event::Alias(id) => {
                let Some(anchored) = self.anchors.get(&id) else {
                    return Err(fault("an alias inside the value that it stands for"));
                };
                self.alias_nodes = self.alias_nodes.saturating_add(anchored.count());
                if self.alias_nodes > ALIAS_NODES_MAX {
                    return Err(fault(&format!("the aliases unfold to more than {ALIAS_NODES_MAX} values")));
                }
                if self.wants_key() {
                    let Some(text) = anchored.text().map(Into::into) else { return Err(fault("a key must be text")) };
                    return self.key(text, at);
                }
                let copy = Node { place: at, ..anchored.clone() };
                self.done(copy, 0)
            }
            Event::UnresolvedAlias(name) => Err(fault(&format!("the alias '{name}' has no anchor"))),
            Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(..)
            | Event::DocumentEnd
            | Event::Anchor(..)
            | Event::Comment(..) => Ok(()),
            _ => Err(fault("a construct that is not read here")),
        }
    }

    fn wants_key(&self) -> bool {
        matches!(self.open.last(), Some(Open::Map { key: None, .. }))
    }

    fn key(&mut self, text: Box<str>, at: Place) -> Result<(), SyntaxFault> {
        if let Some(Open::Map { key, .. }) = self.open.last_mut() {
            *key = Some((text, at));
        }
        Ok(())
    }

    fn done(&mut self, node: Node, anchor: usize) -> Result<(), SyntaxFault> {
        if anchor != 0 {
            // The copies that wait for their aliases are unfolded values, too.
            self.alias_nodes = self.alias_nodes.saturating_add(node.count());
            if self.alias_nodes > ALIAS_NODES_MAX {
                let message = format!("the anchors hold more than {ALIAS_NODES_MAX} values");
                return Err(SyntaxFault { place: node.place, message });
            }
            self.anchors.insert(anchor, node.clone());
        }
        match self.open.last_mut() {
            Some(Open::List { items, .. }) => items.push(node),
            Some(Open::Map { entries, key, .. }) => {
                if let Some((text, place)) = key.take() {
                    entries.push(Entry { key: text, place, value: node });
                }
            }
            None => self.root = Some(node),
        }
        Ok(())
    }
}

/// A plain scalar by the core schema of YAML 1.2, as JSON has it.
fn resolve(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    let first = text.bytes().next().unwrap_or_default();
    if !(first.is_ascii_digit() || matches!(first, b'-' | b'+' | b'.')) {
        return Value::Text(text.into());
    }
    let based = |digits: &str, base| i64::from_str_radix(digits, base).ok().filter(|_| !digits.starts_with(['-', '+']));
    let whole = if let Some(hex) = text.strip_prefix("0x") {
        based(hex, 16)
    } else if let Some(octal) = text.strip_prefix("0o") {
        based(octal, 8)
    } else {
        text.parse::<i64>().ok()
    };
    if let Some(n) = whole {
        return Value::Integer(n);
    }
    let numeric = text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'-' | b'+' | b'.' | b'e' | b'E'));
    match text.parse::<f64>() {
        Ok(n) if numeric => Value::Float(n),
        Ok(_) | Err(_) => Value::Text(text.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &str) -> Result<Vec<Node>, SyntaxFault> {
        Documents::new(text).collect()
    }

    /// Mutation seen to fail: `col()` without the added 1 in `place`.
    #[test]
    fn keys_and_values_know_their_place() {
        let docs = all("a: 1\nb:\n  - {c: \"x\"}\n---\nd: ~\n").unwrap();
        assert_eq!(docs.len(), 2);
        let b = docs[0].get("b").unwrap();
        let c = &b.items()[0].entries()[0];
        assert_eq!((c.place, c.value.place), (Place { line: 3, column: 6 }, Place { line: 3, column: 9 }));
        assert_eq!(docs[1].get("d"), None);
    }

    #[test]
    fn json_is_read() {
        let docs = all("{\n\t\"a\": [1, 2.5, true, null, \"8\\u00e9\\/\"],\n\t\"b\": {}\n}\n").unwrap();
        let a = docs[0].get("a").unwrap().items().iter().map(|n| n.value.clone()).collect::<Vec<_>>();
        let text = Value::Text("8é/".into());
        assert_eq!(a, [Value::Integer(1), Value::Float(2.5), Value::Bool(true), Value::Null, text]);
    }

    #[test]
    fn scalars_follow_the_core_schema() {
        for (text, want) in [
            ("yes", Value::Text("yes".into())),
            ("0x1F", Value::Integer(31)),
            ("-7", Value::Integer(-7)),
            ("1.5", Value::Float(1.5)),
            ("127.1.0.1", Value::Text("127.1.0.1".into())),
            ("30s", Value::Text("30s".into())),
            ("+", Value::Text("+".into())),
            ("1e3", Value::Float(1000.0)),
            ("99999999999999999999", Value::Float(1e20)),
        ] {
            assert_eq!(resolve(text), want, "{text}");
        }
    }

    /// Mutation seen to fail: the `+=` of `anchored.count()` left out (the flat bomb then passes).
    #[test]
    fn a_bomb_of_aliases_is_refused() {
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for i in 1..12 {
            let refs = vec![format!("*a{}", i - 1); 10].join(", ");
            text.push_str(&format!("a{i}: &a{i} [{refs}]\n"));
        }
        let fault = all(&text).unwrap_err();
        assert!(fault.message.contains("100000"), "{fault}");
        assert!(fault.place.line > 1);
        let flat = format!("a: &a [{}]\nb: [{}]\n", "x, ".repeat(200), "*a, ".repeat(600));
        assert!(all(&flat).unwrap_err().message.contains("100000"));
        assert!(all(&format!("a: &a [x]\nb: [{}]\n", "*a, ".repeat(600))).is_ok());
    }

    #[test]
    fn depth_and_garbage_are_refused() {
        assert!(all(&"[".repeat(500)).is_err());
        assert!(all(&format!("{}x", "- ".repeat(500))).is_err());
        assert!(all("a: &a [*a]\n").is_err());
        assert!(all("? [a]\n: b\n").is_err());
        let fault = all("a: 1\nb: [1\nc: 2\n").unwrap_err();
        assert!(fault.place.line >= 2, "{fault:?}");
        for garbage in ["\u{0}\u{1}", "a: b: c", "\t- x", "%", "&", "*x", "'", "{", "a:\n\t b"] {
            drop(all(garbage));
        }
    }
}
