//! What users write: Kubernetes objects in YAML or JSON, judged by the schema of their kind.
//!
//! ```text
//! directory (Edge: walks PATH) ⇒ files → tree (YAML with positions) → schema (names, types) → read (border to objects)
//!                                          → last_good (which object stands, which revision) ⇒ changes
//! api_server (Edge: watches an API server) ⇒ objects → tree (without positions) → the same
//! ```
//! A field that nobody knows, a wrong type, a value out of range and a duplicate are found in the parsed tree and
//! reported with file, line, column and remedy; what stood before stays. This crate starts no task
//! and keeps no clock; only `directory` reads files, only `api_server` talks to one.

pub mod api_server;
pub mod bounds;
pub mod custom;
pub mod dangling;
pub mod directory;
pub mod error;
mod intern;
pub mod kinds;
pub mod last_good;
pub mod object;
pub mod qualified;
pub mod read;
pub mod schema;
pub mod tree;

pub use bounds::Bounds;
pub use error::{Code, ObjectError, Severity, in_one_line};
pub use last_good::{Change, Changes, FileChange, LastGood};
pub use object::{
    Body, EndpointSliceObject, ExportObject, ExportPolicyObject, FailoverPolicyObject, Kind, Labels, MeshObject,
    MtlsMode, NamespaceObject, NodeHealth, NodeObject, Object, ObjectKey, Origin, OutboundPolicy,
    PeerAuthenticationObject, Place, PodObject, PolicyTarget, Scope, ServiceObject, ServicePattern, ServicePortObject,
    SliceEndpoint, TargetPort, WorkloadObject, WorkloadPorts,
};
