//! Pure. What is wrong with a file or an object: where, what, and how to put it right (`contracts.md` 1.6).

use std::fmt::{self, Write as _};

use serde::{Deserialize, Serialize};

/// Whether the object is refused or only remarked on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The object (or file) is not taken; what stood before stays.
    Error,
    /// The object is taken.
    Warning,
}

impl Code {
    /// What usually puts it right, where the fault itself says nothing better.
    #[must_use]
    pub const fn usual_remedy(self) -> &'static str {
        match self {
            Self::Syntax => "mend the YAML at this place; what the file gave before stays until then",
            Self::UnknownField => "remove the field, or mend its spelling",
            Self::WrongType => "write a value of the type that the field has",
            Self::InvalidValue => "write a value that the field allows",
            Self::Duplicate => "keep one of the two and remove the other",
            Self::NotInThisVersion => "remove it until a version that has it",
            Self::DanglingReference => "create what is named, or mend the name",
            Self::NotAllowed => {
                "use what the cluster's token names; for more, join again with another token (meshfed token create --replace, meshfed join --replace --ca-from E)"
            }
            Self::TooLarge => "make it smaller, or split it",
            Self::Unreadable => "make the file readable for the agent",
            Self::Conflict => "change one of the two objects",
            Self::WrongSource => "put it into the source of its cluster",
            Self::NamespaceNotAllowed => "put it into the namespace that it is about",
            Self::Unwatched => "make the kind readable; until then its last good objects stay",
            Self::AddressNotAllowed => "nothing to do; the pod is no endpoint, its Service stays",
            Self::NoGateway => "make the Service in the namespace of the release, or take the label away",
            Self::NotCopied => "give it another name or value, or take it away",
            Self::LocalityNotAllowed => "correct the node's labels, or join again with a token that names both",
            Self::UnknownKind => "mend apiVersion and kind, or move the file out of the source",
            Self::UnusedField => "nothing to do; the field has no effect in this version",
            Self::NoEffectYet => "nothing to do; the value is kept and takes effect in a later version",
            Self::Deprecated => "write the newer spelling",
            Self::UnknownAnnotation => "mend the annotation's spelling, or remove it",
            Self::UnknownName => "mend the name; if what it names is to come later, nothing is to be done",
            Self::Skipped => "nothing to do, or give the file a name that is read",
        }
    }
}

impl Severity {
    /// `error` or `warning`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// What kind of fault it is. The numbers are stable: `MF20xx` are errors, `MF21xx` warnings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Code {
    /// The text is no YAML or JSON.
    #[serde(rename = "MF2001")]
    Syntax,
    /// The schema of the kind has no such field.
    #[serde(rename = "MF2002")]
    UnknownField,
    /// A value of another type than the field's.
    #[serde(rename = "MF2003")]
    WrongType,
    /// A value that the field may not have, or a required field that is missing.
    #[serde(rename = "MF2004")]
    InvalidValue,
    /// The same object, or the same key of a mapping, twice.
    #[serde(rename = "MF2005")]
    Duplicate,
    /// A kind, API version, field or value that meshfed knows but this version does not serve.
    #[serde(rename = "MF2006")]
    NotInThisVersion,
    /// A name of something that is not there.
    #[serde(rename = "MF2007")]
    DanglingReference,
    /// An address, network, region or zone that the cluster's token does not allow.
    #[serde(rename = "MF2008")]
    NotAllowed,
    /// A file, object or count over its limit.
    #[serde(rename = "MF2009")]
    TooLarge,
    /// A file or directory that cannot be read.
    #[serde(rename = "MF2010")]
    Unreadable,
    /// Two objects that cannot both hold.
    #[serde(rename = "MF2011")]
    Conflict,
    /// A kind that this source does not hold: the fleet's, a Service, say.
    #[serde(rename = "MF2012")]
    WrongSource,
    /// A kind that an API server does not have, or that cannot be listed or watched there.
    #[serde(rename = "MF2014")]
    Unwatched,
    /// A policy about another namespace than its own.
    #[serde(rename = "MF2013")]
    NamespaceNotAllowed,
    /// A kind that nobody here knows.
    #[serde(rename = "MF2101")]
    UnknownKind,
    /// A valid field that this version does not use.
    #[serde(rename = "MF2102")]
    UnusedField,
    /// A value that is kept and shown, but without effect in this version.
    #[serde(rename = "MF2103")]
    NoEffectYet,
    /// An older spelling that is accepted.
    #[serde(rename = "MF2104")]
    Deprecated,
    /// An annotation of ours that nobody reads.
    #[serde(rename = "MF2105")]
    UnknownAnnotation,
    /// A file that is passed over.
    #[serde(rename = "MF2106")]
    Skipped,
    /// A name in a policy that nobody has.
    #[serde(rename = "MF2107")]
    UnknownName,
    /// A pod with an address outside the ranges of the cluster's token: it is no endpoint.
    #[serde(rename = "MF2108")]
    AddressNotAllowed,
    /// A node in a region or zone that the cluster's token does not name: its pods count as of the first region.
    #[serde(rename = "MF2109")]
    LocalityNotAllowed,
    /// A Service with the label of a gateway in a namespace whose Services are none.
    #[serde(rename = "MF2110")]
    NoGateway,
    /// A label or an annotation that an export adds and an import cannot carry.
    #[serde(rename = "MF2111")]
    NotCopied,
}

impl Code {
    /// The stable text, say `MF2002`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Syntax => "MF2001",
            Self::UnknownField => "MF2002",
            Self::WrongType => "MF2003",
            Self::InvalidValue => "MF2004",
            Self::Duplicate => "MF2005",
            Self::NotInThisVersion => "MF2006",
            Self::DanglingReference => "MF2007",
            Self::NotAllowed => "MF2008",
            Self::TooLarge => "MF2009",
            Self::Unreadable => "MF2010",
            Self::Conflict => "MF2011",
            Self::WrongSource => "MF2012",
            Self::NamespaceNotAllowed => "MF2013",
            Self::Unwatched => "MF2014",
            Self::AddressNotAllowed => "MF2108",
            Self::LocalityNotAllowed => "MF2109",
            Self::NoGateway => "MF2110",
            Self::NotCopied => "MF2111",
            Self::UnknownKind => "MF2101",
            Self::UnusedField => "MF2102",
            Self::NoEffectYet => "MF2103",
            Self::Deprecated => "MF2104",
            Self::UnknownAnnotation => "MF2105",
            Self::Skipped => "MF2106",
            Self::UnknownName => "MF2107",
        }
    }
    /// Whether objects with this fault are refused.
    #[must_use]
    pub const fn severity(self) -> Severity {
        match self {
            Self::Syntax
            | Self::UnknownField
            | Self::WrongType
            | Self::InvalidValue
            | Self::Duplicate
            | Self::NotInThisVersion
            | Self::DanglingReference
            | Self::NotAllowed
            | Self::TooLarge
            | Self::Unreadable
            | Self::Conflict
            | Self::WrongSource
            | Self::NamespaceNotAllowed
            | Self::Unwatched => Severity::Error,
            Self::UnknownKind
            | Self::UnusedField
            | Self::NoEffectYet
            | Self::Deprecated
            | Self::UnknownAnnotation
            | Self::Skipped
            | Self::UnknownName
            | Self::AddressNotAllowed
            | Self::LocalityNotAllowed
            | Self::NoGateway
            | Self::NotCopied => Severity::Warning,
        }
    }
}
impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One fault. Absent parts are null in JSON, never missing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectError {
    /// What kind of fault.
    pub code: Code,
    /// The file, relative to the source's PATH.
    pub file: Option<String>,
    /// The line, from 1.
    pub line: Option<u32>,
    /// The column, from 1, in characters.
    pub column: Option<u32>,
    /// The object's kind.
    pub kind: Option<String>,
    /// Its namespace.
    pub namespace: Option<String>,
    /// Its name.
    pub name: Option<String>,
    /// The path of the field, say `spec.ports[0].port`.
    pub field: Option<String>,
    /// What is wrong.
    pub message: String,
    /// How to put it right, where we know.
    pub remedy: Option<String>,
}

impl ObjectError {
    /// A fault without a place.
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            file: None,
            line: None,
            column: None,
            kind: None,
            namespace: None,
            name: None,
            field: None,
            message: message.into(),
            remedy: Some(code.usual_remedy().to_owned()),
        }
    }
    /// With a file.
    #[must_use]
    pub fn in_file(mut self, file: &str) -> Self {
        self.file = Some(file.to_owned());
        self
    }
    /// With a place in the file; none for [`crate::Place::default`].
    #[must_use]
    pub const fn at(mut self, place: crate::object::Place) -> Self {
        // An object that was not read from text has no lines.
        if place.line > 0 {
            self.line = Some(place.line);
            self.column = Some(place.column);
        }
        self
    }
    /// With the object it is about.
    #[must_use]
    pub fn about(mut self, key: &crate::object::ObjectKey) -> Self {
        self.kind = Some(key.kind.as_str().to_owned());
        self.namespace = (!key.namespace.is_empty()).then(|| key.namespace.to_string());
        self.name = Some(key.name.to_string());
        self
    }
    /// With the field it is about.
    #[must_use]
    pub fn field(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }
    /// With a remedy.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
    /// Whether the object is refused.
    #[must_use]
    pub const fn severity(&self) -> Severity {
        self.code.severity()
    }
    /// Whether the object is refused.
    #[must_use]
    pub const fn is_error(&self) -> bool {
        matches!(self.severity(), Severity::Error)
    }
}

/// Control characters as escapes: what somebody else wrote steers no terminal that a message is shown on, and makes no line of
/// its own.
#[must_use]
pub fn in_one_line(text: &str) -> String {
    use fmt::Write as _;
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        // A String takes everything.
        let _infallible = if c.is_control() { write!(shown, "{}", c.escape_default()) } else { shown.write_char(c) };
    }
    shown
}

/// Writes control characters as escapes, so that a file's name or a parser's message makes no line of its own.
struct OneLine<'a, 'b>(&'a mut fmt::Formatter<'b>);

impl fmt::Write for OneLine<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write_str(&in_one_line(text))
    }
}

impl fmt::Display for ObjectError {
    /// `file:line:column: error[CODE]: text (field …; remedy)`, on one line whatever names and messages hold.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut f = OneLine(f);
        if let Some(file) = &self.file {
            write!(f, "{file}:")?;
            if let (Some(line), Some(column)) = (self.line, self.column) {
                write!(f, "{line}:{column}:")?;
            }
            f.write_str(" ")?;
        }
        write!(f, "{}[{}]: ", self.severity().as_str(), self.code)?;
        if let (Some(kind), Some(name)) = (&self.kind, &self.name) {
            match &self.namespace {
                Some(namespace) => write!(f, "{kind} {namespace}/{name}: ")?,
                None => write!(f, "{kind} {name}: ")?,
            }
        }
        if let Some(field) = &self.field {
            write!(f, "{field}: ")?;
        }
        f.write_str(&self.message)?;
        if let Some(remedy) = &self.remedy {
            write!(f, "; {remedy}")?;
        }
        Ok(())
    }
}

/// How many faults there are of each code, for the metric `meshfed_source_errors{code,severity}`.
#[must_use]
pub fn errors_by_code<'a>(
    errors: impl Iterator<Item = &'a ObjectError>,
) -> std::collections::BTreeMap<(&'static str, &'static str), usize> {
    let mut counts = std::collections::BTreeMap::new();
    for error in errors {
        *counts.entry((error.code.as_str(), error.severity().as_str())).or_default() += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mutation seen to fail: `escape_default` left out.
    #[test]
    fn an_error_is_one_line() {
        let error = ObjectError::new(Code::Unreadable, "a\tb\u{1b}[31m").in_file(&std::sync::Arc::from("x\ny.yaml"));
        let text = error.to_string();
        assert!(text.starts_with("x\\ny.yaml: error["), "{text}");
        assert!(text.contains("a\\tb\\u{1b}[31m") && text.lines().count() == 1, "{text}");
    }
}
