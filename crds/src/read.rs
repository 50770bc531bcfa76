//! Pure. From a file's text to its objects: identity, schema, then the border of each kind.

mod common;
mod export;
mod failover;
mod kubernetes;
mod mesh;
mod service;
mod workload;

use std::collections::BTreeMap;
use std::sync::Arc;

use meshfed_model::names::{check_label, check_object_name};

use crate::bounds::Bounds;
use crate::error::{Code, ObjectError};
use crate::kinds::{self, Known};
use crate::object::{Body, Kind, NamespaceObject, Object, ObjectKey, Origin, Place, Scope};
use crate::schema;
use crate::tree::{DEPTH_MAX, Documents, Node, Value};
use common::Reader;

/// The largest file, in bytes.
pub const FILE_MAX: usize = 16 << 20;
/// The longest text of one object of Kubernetes itself, in characters: a slice names up to 1,000 endpoints.
pub const OBJECT_MAX: usize = 1 << 20;
/// Likewise of any other kind: who may make one of those in a namespace of his own must not fill the memory of the agent of
/// all. Nothing larger crosses between clusters anyway.
pub const CUSTOM_OBJECT_MAX: usize = 64 << 10;

/// How long the text of an object of a kind may be, in characters.
const fn object_max(kind: Kind) -> usize {
    if kind.is_custom() { CUSTOM_OBJECT_MAX } else { OBJECT_MAX }
}
/// The most objects of one file.
pub const OBJECTS_MAX: usize = 200_000;
/// The most faults that are listed for one file.
pub const ERRORS_MAX: usize = 500;

/// One object of a file: valid, or named but refused.
#[derive(Debug, Clone)]
pub struct Declared {
    /// Where it begins.
    pub place: Place,
    /// The object, unless it was refused.
    pub object: Option<Arc<Object>>,
}

/// What a file that parses holds.
#[derive(Debug, Clone, Default)]
pub struct FileObjects {
    /// Its objects.
    pub declared: BTreeMap<ObjectKey, Declared>,
    /// Its faults.
    pub errors: Vec<ObjectError>,
    /// Whether an object of it could not be told by name: what the file gave before and does not name now is kept.
    pub nameless: bool,
}

/// Reads a file.
///
/// # Errors
/// The one fault of a file that does not parse, or is too large.
pub fn read_file(
    path: &Arc<str>,
    bytes: &[u8],
    scope: Scope,
    bounds: Option<&Bounds>,
) -> Result<FileObjects, Box<ObjectError>> {
    if bytes.len() > FILE_MAX {
        let message = format!("the file has {} bytes, at most {FILE_MAX} are read", bytes.len());
        let error = ObjectError::new(Code::TooLarge, message).in_file(path);
        return Err(Box::new(error.remedy("split it into several files")));
    }
    let text = std::str::from_utf8(bytes).map_err(|e| Box::new(not_utf8(path, bytes, e.valid_up_to())))?;
    let mut file = FileReader { path, scope, bounds, found: FileObjects::default(), dropped: 0 };
    for document in Documents::new(text) {
        let document = document.map_err(|fault| {
            let error = ObjectError::new(Code::Syntax, format!("no YAML: {}", fault.message)).in_file(path);
            Box::new(error.at(fault.place).remedy("put the text right; until then the file's last good objects stay"))
        })?;
        file.document(&document)?;
    }
    if file.dropped > 0 {
        let message = format!("{} more faults are not listed", file.dropped);
        file.found.errors.push(ObjectError::new(Code::TooLarge, message).in_file(path));
    }
    Ok(file.found)
}

/// Reads one object that an API server gave. It has no lines: its faults name kind, namespace and name.
///
/// # Errors
/// The one fault of an object that is nested too deeply, or has too many values.
pub fn read_object(
    path: &Arc<str>,
    object: serde_json::Value,
    scope: Scope,
    bounds: Option<&Bounds>,
) -> Result<FileObjects, Box<ObjectError>> {
    let mut file = FileReader { path, scope, bounds, found: FileObjects::default(), dropped: 0 };
    let node = Node::from_json(object).ok_or_else(|| {
        let message = format!("the object is nested more than {DEPTH_MAX} deep");
        Box::new(ObjectError::new(Code::TooLarge, message).in_file(path))
    })?;
    file.document(&node)?;
    Ok(file.found)
}

fn not_utf8(path: &str, bytes: &[u8], at: usize) -> ObjectError {
    let before = bytes.get(..at).unwrap_or_default();
    let line = before.iter().filter(|b| **b == b'\n').count() + 1;
    let start = before.iter().rposition(|b| *b == b'\n').map_or(0, |n| n + 1);
    let column = String::from_utf8_lossy(before.get(start..).unwrap_or_default()).chars().count() + 1;
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    ObjectError::new(Code::Syntax, "the file is not UTF-8")
        .in_file(path)
        .at(Place { line: number(line), column: number(column) })
        .remedy("save it as UTF-8; until then the file's last good objects stay")
}

struct FileReader<'a> {
    path: &'a Arc<str>,
    scope: Scope,
    bounds: Option<&'a Bounds>,
    found: FileObjects,
    dropped: usize,
}

impl FileReader<'_> {
    fn fault(&mut self, error: ObjectError) {
        if self.found.errors.len() < ERRORS_MAX {
            self.found.errors.push(error);
        } else {
            self.dropped += 1;
        }
    }

    fn document(&mut self, node: &Node) -> Result<(), Box<ObjectError>> {
        if matches!(node.value, Value::Null) {
            return Ok(());
        }
        let text = |key| node.get(key).and_then(Node::text);
        let (Value::Map(_), Some(version), Some(kind)) = (&node.value, text("apiVersion"), text("kind")) else {
            let missing = match &node.value {
                Value::Map(_) => "apiVersion and kind are required, as text".to_owned(),
                Value::Null
                | Value::Bool(_)
                | Value::Integer(_)
                | Value::Float(_)
                | Value::Text(_)
                | Value::List(_) => {
                    format!("is {}, not an object", node.what())
                }
            };
            self.nameless(node, missing, "begin each document with apiVersion: and kind:");
            return Ok(());
        };
        match kinds::known(version, kind) {
            Known::List => self.list(node)?,
            Known::Derived => {}
            Known::Served { kind, current } => self.object(node, kind, current)?,
            Known::OtherVersion(served) => {
                if let Some(key) = self.identity(node, served) {
                    let message = format!("apiVersion {version} of {kind} is not in this version");
                    let place = node.get("apiVersion").map_or(node.place, |n| n.place);
                    let error = ObjectError::new(Code::NotInThisVersion, message).at(place).field("apiVersion");
                    self.fault(error.in_file(self.path).about(&key).remedy(format!("write {}", served.api_version())));
                    self.declare(node, key, None)?;
                }
            }
            Known::Later => {
                let message = format!("{kind} ({version}) is not in this version of meshfed");
                let error =
                    ObjectError::new(Code::NotInThisVersion, message).remedy("take it out of the source until then");
                self.fault(self.named(error, node, kind));
            }
            Known::Unknown => {
                let message = format!("{kind} ({version}) is no kind that meshfed knows; it is passed over");
                let mut error = ObjectError::new(Code::UnknownKind, message);
                if let Some(ours) = Kind::ALL.into_iter().find(|k| k.as_str().eq_ignore_ascii_case(kind)) {
                    error = error.remedy(format!("for ours write apiVersion: {}, kind: {ours}", ours.api_version()));
                }
                self.fault(self.named(error, node, kind));
            }
        }
        Ok(())
    }

    /// Adds place and name to a fault about an object that is not taken.
    fn named(&self, mut error: ObjectError, node: &Node, kind: &str) -> ObjectError {
        let clip = |text: &str| text.chars().take(253).collect::<String>();
        let meta = |key| node.get("metadata").and_then(|m| m.get(key)).and_then(Node::text).map(clip);
        error = error.in_file(self.path).at(node.get("kind").map_or(node.place, |n| n.place)).field("kind");
        error.kind = Some(clip(kind));
        error.namespace = meta("namespace");
        error.name = meta("name");
        error
    }

    fn nameless(&mut self, node: &Node, message: String, remedy: &str) {
        self.found.nameless = true;
        let error = ObjectError::new(Code::InvalidValue, message).in_file(self.path).at(node.place).remedy(remedy);
        self.fault(error);
    }

    fn list(&mut self, node: &Node) -> Result<(), Box<ObjectError>> {
        for finding in schema::judge(node, schema::Shape::Fields(kinds::LIST)) {
            let mut error = finding.into_error(self.path);
            error.kind = Some("List".to_owned());
            self.fault(error);
        }
        for item in node.get("items").map(Node::items).unwrap_or_default() {
            let kind = item.get("kind").and_then(Node::text);
            if kind == Some("List") {
                self.nameless(item, "a List inside a List".to_owned(), "put its items into the outer one");
            } else {
                self.document(item)?;
            }
        }
        Ok(())
    }

    /// Kind, namespace and name; a fault if they cannot be told.
    fn identity(&mut self, node: &Node, kind: Kind) -> Option<ObjectKey> {
        let metadata = node.get("metadata");
        let field = |key| metadata.and_then(|m| m.get(key));
        let name = field("name");
        let checked = match name.map(|n| (n, n.text())) {
            None => Err((node.place, "metadata.name is required".to_owned())),
            Some((n, None)) => Err((n.place, format!("is {}, not text", n.what()))),
            Some((n, Some(text))) => match kind {
                Kind::Namespace => check_label("namespace", text),
                Kind::Service | Kind::ServiceExport => check_label("service name", text),
                Kind::WorkloadEntry
                | Kind::ExportPolicy
                | Kind::FailoverPolicy
                | Kind::EndpointSlice
                | Kind::Pod
                | Kind::Node
                | Kind::PeerAuthentication
                | Kind::Mesh => check_object_name("name", text),
            }
            .map(|()| text)
            .map_err(|e| (n.place, e.to_string())),
        };
        let namespace = match field("namespace").map(|n| (n, n.text())) {
            _ if kind.is_cluster_scoped() => Ok(""),
            None if self.scope == Scope::Fleet && kind == Kind::FailoverPolicy => Ok(""),
            None => Ok("default"),
            Some((n, None)) => Err((n.place, format!("is {}, not text", n.what()))),
            Some((n, Some(text))) => {
                check_label("namespace", text).map(|()| text).map_err(|e| (n.place, e.to_string()))
            }
        };
        let mut refuse = |at: (Place, String), field: &str| {
            let mut error = ObjectError::new(Code::InvalidValue, at.1).in_file(self.path).at(at.0).field(field);
            error.kind = Some(kind.as_str().to_owned());
            let shown =
                |node: Option<&Node>| node.and_then(Node::text).map(|t| t.chars().take(253).collect::<String>());
            error.name = shown(name);
            error.namespace = shown(metadata.and_then(|m| m.get("namespace")));
            self.found.nameless = true;
            self.fault(error.remedy("lower-case letters, digits and '-', at most 63 characters per part"));
        };
        match (checked, namespace) {
            (Ok(name), Ok(namespace)) => Some(ObjectKey { kind, namespace: namespace.into(), name: name.into() }),
            (checked, namespace) => {
                if let Err(at) = checked {
                    refuse(at, "metadata.name");
                }
                if let Err(at) = namespace {
                    refuse(at, "metadata.namespace");
                }
                None
            }
        }
    }

    fn declare(&mut self, node: &Node, key: ObjectKey, object: Option<Arc<Object>>) -> Result<(), Box<ObjectError>> {
        if let Some(first) = self.found.declared.get(&key) {
            let message = format!("is also in line {} of this file, which wins", first.place.line);
            let error = ObjectError::new(Code::Duplicate, message).in_file(self.path).at(node.place).about(&key);
            self.fault(error.remedy("leave one of them"));
            return Ok(());
        }
        if self.found.declared.len() >= OBJECTS_MAX {
            let message = format!("the file has more than {OBJECTS_MAX} objects");
            let error = ObjectError::new(Code::TooLarge, message).in_file(self.path);
            return Err(Box::new(error.remedy("split it into several files")));
        }
        self.found.declared.insert(key, Declared { place: node.place, object });
        Ok(())
    }

    fn object(&mut self, node: &Node, kind: Kind, current: bool) -> Result<(), Box<ObjectError>> {
        let Some(key) = self.identity(node, kind) else { return Ok(()) };
        if is_anothers(&key, self.scope) {
            return Ok(());
        }
        let mut errors = Vec::new();
        let allowed = !self.scope.is_fleet() || matches!(kind, Kind::FailoverPolicy | Kind::ExportPolicy | Kind::Mesh);
        let mut object = None;
        let most = object_max(kind);
        if node.length > most {
            let message = format!("the object has {} characters, at most {most} are read", node.length);
            errors.push(ObjectError::new(Code::TooLarge, message).in_file(self.path).at(node.place));
        } else if !allowed {
            let error =
                ObjectError::new(Code::WrongSource, format!("a {kind} does not belong into the fleet's source"));
            errors.push(error.in_file(self.path).at(node.place));
        } else {
            let mut findings = schema::judge(node, kinds::shape_of(kind));
            let mut reader = Reader::new(node, &key, self.scope);
            let body = read_body(&mut reader, kind);
            reader.unknown_annotations(kind);
            if !current {
                let place = node.get("apiVersion").map_or(node.place, |n| n.place);
                let message = "is an older version of the kind".to_owned();
                reader.find(
                    Code::Deprecated,
                    place,
                    "apiVersion",
                    message,
                    Some(format!("write {}", kind.api_version())),
                );
            }
            // What an API server gives has no lines, for any field.
            let written = node.place != Place::default();
            let fields = if written { std::mem::take(&mut reader.places).into_boxed_slice() } else { Box::default() };
            if matches!(self.scope, Scope::Member | Scope::Hub) && matches!(kind, Kind::Namespace | Kind::Service) {
                // An API server fills in what nobody wrote.
                findings.retain(|f| f.code != Code::UnusedField);
            }
            findings.append(&mut reader.findings);
            errors.extend(findings.into_iter().map(|f| f.into_error(self.path)));
            if let (Some(body), false) = (body, errors.iter().any(ObjectError::is_error)) {
                let origin = Origin { file: Arc::clone(self.path), place: node.place, fields };
                let mut read = Object { origin, body };
                errors.extend(self.bounds.and_then(|b| b.disown(&mut read)));
                let refused = self.bounds.map(|b| b.check(&read)).unwrap_or_default();
                object = refused.is_empty().then(|| Arc::new(read));
                errors.extend(refused);
            }
        }
        errors.sort_by_key(|e| (e.line, e.column));
        for error in errors {
            self.fault(error.about(&key));
        }
        self.declare(node, key, object)
    }
}

/// On one API server are both the fleet's settings and a member's: each side passes over the other's.
fn is_anothers(key: &ObjectKey, scope: Scope) -> bool {
    let name = match scope {
        Scope::Cluster | Scope::Fleet => return false,
        Scope::Member => mesh::DEFAULT,
        Scope::Hub => mesh::LOCAL,
    };
    key.kind == Kind::Mesh && *key.name == *name
}

/// The border of a kind. `None` where a fault was found that leaves no value; type faults are the schema's to tell.
fn read_body(reader: &mut Reader<'_>, kind: Kind) -> Option<Body> {
    match kind {
        Kind::Namespace => {
            let name = reader.checked("metadata.name", meshfed_model::names::Namespace::new(&*reader.key.name))?;
            Some(Body::Namespace(NamespaceObject { name, labels: reader.labels(&["metadata", "labels"]) }))
        }
        Kind::Service => service::read(reader).map(Box::new).map(Body::Service),
        Kind::WorkloadEntry => workload::read(reader).map(Body::WorkloadEntry),
        Kind::ServiceExport => export::read_export(reader).map(Body::ServiceExport),
        Kind::ExportPolicy => export::read_policy(reader).map(Body::ExportPolicy),
        Kind::FailoverPolicy => failover::read(reader).map(Body::FailoverPolicy),
        Kind::EndpointSlice => kubernetes::read_slice(reader).map(Body::EndpointSlice),
        Kind::Pod => kubernetes::read_pod(reader).map(Body::Pod),
        Kind::Node => Some(Body::Node(kubernetes::read_node(reader))),
        Kind::PeerAuthentication => mesh::read_peer_authentication(reader).map(Body::PeerAuthentication),
        Kind::Mesh => mesh::read_mesh(reader).map(Body::Mesh),
    }
}

#[cfg(test)]
mod tests;
