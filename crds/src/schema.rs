//! Pure. Judges a tree by the schema of its kind: unknown fields, repeated keys, wrong types, values out of range.

use crate::error::{Code, ObjectError};
use crate::object::Place;
use crate::tree::{Node, Value};

/// What a field may hold.
#[derive(Debug, Clone, Copy)]
pub enum Shape {
    /// Text.
    Text,
    /// One of these texts.
    OneOf(&'static [&'static str]),
    /// `true` or `false`.
    Bool,
    /// A whole number in a range, ends included.
    Integer(i64, i64),
    /// A whole number or text (`targetPort`).
    IntegerOrText,
    /// Text to text.
    TextMap,
    /// Text to port number.
    PortMap,
    /// Whatever it is, it is not looked into.
    Any,
    /// A list of these.
    List(&'static Self),
    /// A mapping with these fields.
    Fields(&'static [Field]),
    /// A mapping of which these fields are looked at, and no other.
    Open(&'static [Field]),
}

/// One field of a mapping.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// Whether this version does something with it; else it is remarked on.
    pub used: bool,
    /// What it may hold.
    pub shape: Shape,
}

/// A field that this version uses.
#[must_use]
pub const fn used(name: &'static str, shape: Shape) -> Field {
    Field { name, used: true, shape }
}
/// A valid field that this version does not use.
#[must_use]
pub const fn unused(name: &'static str, shape: Shape) -> Field {
    Field { name, used: false, shape }
}

/// A fault inside an object, before its file and name are added.
#[derive(Debug)]
pub struct Finding {
    /// The kind of fault.
    pub code: Code,
    /// Where.
    pub place: Place,
    /// The path of the field.
    pub field: String,
    /// What.
    pub message: String,
    /// How to put it right.
    pub remedy: Option<String>,
}

impl Finding {
    /// As a fault of a file.
    #[must_use]
    pub fn into_error(self, file: &str) -> ObjectError {
        let mut error = ObjectError::new(self.code, self.message).in_file(file).at(self.place).field(self.field);
        // A finding that says nothing better keeps what usually puts its kind right.
        error.remedy = self.remedy.or(error.remedy);
        error
    }
}

/// The most faults that are listed for one object.
pub const FINDINGS_MAX: usize = 50;

/// All faults of an object by the schema of its kind.
#[must_use]
pub fn judge(object: &Node, shape: Shape) -> Vec<Finding> {
    let mut judge = Judge { findings: Vec::new() };
    judge.shape(object, shape, &mut String::new());
    judge.findings
}

struct Judge {
    findings: Vec<Finding>,
}

impl Judge {
    fn find(&mut self, code: Code, place: Place, field: &str, message: String, remedy: Option<String>) {
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(Finding { code, place, field: field.to_owned(), message, remedy });
        }
    }

    fn wrong_type(&mut self, node: &Node, path: &str, wanted: &str) {
        let remedy = match (&node.value, wanted) {
            (Value::Bool(_) | Value::Integer(_) | Value::Float(_), "text") => Some("put it in quotes".to_owned()),
            (Value::Text(t), "a whole number") if t.parse::<i64>().is_ok() => Some("take the quotes away".to_owned()),
            (Value::Text(t), "true or false") if matches!(t.as_ref(), "true" | "false") => {
                Some("take the quotes away".to_owned())
            }
            _ => None,
        };
        self.find(Code::WrongType, node.place, path, format!("is {}, not {wanted}", node.what()), remedy);
    }

    fn repeated_keys(&mut self, node: &Node, path: &mut String) {
        let entries = node.entries();
        let mut seen = std::collections::BTreeMap::new();
        for entry in entries {
            if let Some(first) = seen.insert(entry.key.as_ref(), entry.place) {
                let message = format!("the key occurs twice, first in line {}", first.line);
                with(path, &entry.key, |path| {
                    self.find(Code::Duplicate, entry.place, path, message, Some("leave one of them".to_owned()));
                });
            }
        }
    }

    fn fields(&mut self, node: &Node, fields: &'static [Field], path: &mut String) {
        if !matches!(node.value, Value::Map(_)) {
            return self.wrong_type(node, path, "a mapping");
        }
        self.repeated_keys(node, path);
        for entry in node.entries() {
            let known = fields.iter().find(|f| f.name == entry.key.as_ref());
            with(path, &entry.key, |path| match known {
                None => {
                    let message = format!("unknown field {:?}", entry.key.chars().take(80).collect::<String>());
                    let remedy = Some(suggestion(&entry.key, fields));
                    self.find(Code::UnknownField, entry.place, path, message, remedy);
                }
                Some(_) if matches!(entry.value.value, Value::Null) => {}
                Some(field) => {
                    self.shape(&entry.value, field.shape, path);
                    if !field.used {
                        let message = "is valid, but not used by this version of meshfed".to_owned();
                        self.find(Code::UnusedField, entry.place, path, message, None);
                    }
                }
            });
        }
    }

    fn open(&mut self, node: &Node, fields: &'static [Field], path: &mut String) {
        for field in fields {
            if let Some(value) = node.get(field.name) {
                with(path, field.name, |path| self.shape(value, field.shape, path));
            }
        }
    }

    fn shape(&mut self, node: &Node, shape: Shape, path: &mut String) {
        match (shape, &node.value) {
            (Shape::Any, _)
            | (Shape::Text, Value::Text(_))
            | (Shape::Bool, Value::Bool(_))
            | (Shape::IntegerOrText, Value::Text(_) | Value::Integer(_)) => {}
            (Shape::Text, _) => self.wrong_type(node, path, "text"),
            (Shape::Bool, _) => self.wrong_type(node, path, "true or false"),
            (Shape::IntegerOrText, _) => self.wrong_type(node, path, "a whole number or text"),
            (Shape::OneOf(allowed), Value::Text(text)) => {
                if !allowed.contains(&text.as_ref()) {
                    let message = format!("{:?} is not allowed", text.chars().take(80).collect::<String>());
                    self.find(
                        Code::InvalidValue,
                        node.place,
                        path,
                        message,
                        Some(format!("one of {}", listed(allowed))),
                    );
                }
            }
            (Shape::OneOf(_), _) => self.wrong_type(node, path, "text"),
            (Shape::Integer(min, max), Value::Integer(n)) => {
                if !(min..=max).contains(n) {
                    let remedy = Some(format!("a number from {min} to {max}"));
                    self.find(Code::InvalidValue, node.place, path, format!("{n} is out of range"), remedy);
                }
            }
            (Shape::Integer(..), _) => self.wrong_type(node, path, "a whole number"),
            (Shape::TextMap, Value::Map(_)) => self.map(node, Shape::Text, path),
            (Shape::PortMap, Value::Map(_)) => self.map(node, Shape::Integer(1, 65535), path),
            (Shape::TextMap | Shape::PortMap, _) => self.wrong_type(node, path, "a mapping"),
            (Shape::List(item), Value::List(items)) => {
                let length = path.len();
                for (i, each) in items.iter().enumerate() {
                    path.push_str(&format!("[{i}]"));
                    self.shape(each, *item, path);
                    path.truncate(length);
                }
            }
            (Shape::List(_), _) => self.wrong_type(node, path, "a list"),
            (Shape::Fields(fields), _) => self.fields(node, fields, path),
            (Shape::Open(fields), Value::Map(_)) => self.open(node, fields, path),
            (Shape::Open(_), _) => self.wrong_type(node, path, "a mapping"),
        }
    }

    fn map(&mut self, node: &Node, of: Shape, path: &mut String) {
        self.repeated_keys(node, path);
        for entry in node.entries() {
            with(path, &entry.key, |path| self.shape(&entry.value, of, path));
        }
    }
}

fn with(path: &mut String, key: &str, f: impl FnOnce(&mut String)) {
    let length = path.len();
    if length > 0 {
        path.push('.');
    }
    path.extend(key.chars().take(80));
    f(path);
    path.truncate(length);
}

fn suggestion(key: &str, fields: &[Field]) -> String {
    let near = fields.iter().map(|f| (distance(key, f.name), f.name)).filter(|(d, _)| *d <= 2).min();
    match near {
        Some((_, name)) => format!("did you mean {name}?"),
        None => {
            let names: Vec<&str> = fields.iter().filter(|f| f.used).map(|f| f.name).collect();
            format!("fields that are used here: {}", names.join(", "))
        }
    }
}

/// Edit distance; texts that differ by more than two characters in length are not compared.
fn distance(a: &str, b: &str) -> usize {
    if a.len().abs_diff(b.len()) > 2 || a.len() > 80 {
        return usize::MAX;
    }
    let (a, b) = (a.to_ascii_lowercase().into_bytes(), b.to_ascii_lowercase().into_bytes());
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        if let Some(first) = row.first_mut() {
            *first = left;
        }
        for (y, cell) in b.iter().zip(row.iter_mut().skip(1)) {
            let up = *cell;
            let here = (diagonal + usize::from(x != y)).min(up + 1).min(left + 1);
            diagonal = up;
            left = here;
            *cell = here;
        }
    }
    row.last().copied().unwrap_or(usize::MAX)
}

/// Words as a remedy names them; the empty one shows.
fn listed(words: &[&str]) -> String {
    words.iter().map(|word| if word.is_empty() { "\"\"" } else { word }).collect::<Vec<_>>().join(", ")
}
