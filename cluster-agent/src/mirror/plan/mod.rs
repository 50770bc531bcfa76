//! Pure. From what the core knows and what is there to what has to be written.
//!
//! Nothing is written that is there already, and nothing is written over what is not ours: an object that stands under a
//! name that we need, and is another's, is an [`Obstacle`] that the status names.

mod export;
mod import;
mod meta;
mod ports;
mod service;
mod slices;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use meshfed_crds::in_one_line;
use meshfed_model::import::Import;
use meshfed_model::names::ServiceName;
use meshfed_model::service::{IpFamily, ServiceType};

use super::facts::Facts;
use super::objects::{ServiceExport, ServiceImport};
pub use meta::is_ours;
pub use service::{cluster_ips, is_as_wanted};

/// What is there of one name.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Its ServiceImport, whoever wrote it.
    pub import: Option<ServiceImport>,
    /// Its derived Service, if it is ours.
    pub service: Option<Service>,
    /// Its MCS slices that are ours, by name.
    pub slices: BTreeMap<String, EndpointSlice>,
    /// Its ServiceExport.
    pub export: Option<ServiceExport>,
}

/// Why something cannot be written until somebody else does something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obstacle {
    /// The reason of the condition, one word.
    pub reason: &'static str,
    /// What stands in the way, and what to do.
    pub message: String,
}

/// What is known beside.
#[derive(Debug, Clone)]
pub struct Context {
    /// Now.
    pub now: Time,
    /// Why the derived Service, or else a slice, could not be written the last time.
    pub obstacle: Option<Obstacle>,
    /// Families that the API server has refused, and that are not to be asked for now.
    pub unsupported: BTreeSet<IpFamily>,
    /// Whether the address that a derived Service had before is somebody else's by now.
    pub address_taken: bool,
}

/// One thing to write.
#[derive(Debug, Clone, PartialEq)]
pub enum Write {
    /// The derived Service; `new`: none is there yet.
    Service {
        /// What is applied.
        object: Box<Service>,
        /// Whether it must not be there yet.
        new: bool,
    },
    /// The ServiceImport.
    Import {
        /// What is applied.
        object: Box<ServiceImport>,
        /// Whether it must not be there yet.
        new: bool,
    },
    /// One slice.
    Slice {
        /// What is applied.
        object: Box<EndpointSlice>,
        /// Whether it must not be there yet.
        new: bool,
    },
    /// The status of the ServiceImport.
    ImportStatus(Box<ServiceImport>),
    /// The status of the ServiceExport.
    ExportStatus(Box<ServiceExport>),
    /// Takes an object of ours away, if it still is that one.
    Delete {
        /// What it is.
        kind: Deleted,
        /// Its name.
        name: String,
        /// Its uid.
        uid: Option<String>,
    },
    /// A warning event on the ServiceExport.
    Warn(String),
}

/// Kinds that are deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deleted {
    /// A derived Service.
    Service,
    /// A ServiceImport.
    Import,
    /// An MCS slice.
    Slice,
}

/// What has to be written for one name, in order.
#[must_use]
pub fn plan(name: &ServiceName, facts: &Facts, seen: &Seen, context: &Context) -> Vec<Write> {
    let mut writes = Vec::new();
    let foreign = seen.import.as_ref().is_some_and(|i| !is_ours(&i.metadata));
    match facts.import.as_ref().filter(|_| !foreign) {
        Some(merged) => {
            writes.extend(service::plan(name, merged, seen, context));
            writes.extend(import::plan(name, merged, seen, context));
        }
        None => {
            writes.extend(import::remove(seen));
            writes.extend(service::remove(seen));
        }
    }
    writes.extend(slices::plan(name, facts, seen));
    match (&facts.export, &seen.export) {
        (Some(export), _) => writes.extend(export::plan(export, facts.import.as_ref(), seen, context, foreign)),
        // One that is being deleted is no export any more, and says so for as long as a finalizer holds it.
        (None, Some(there)) if there.metadata.deletion_timestamp.is_some() => {
            writes.extend(export::ending(there, &context.now).map(|export| Write::ExportStatus(Box::new(export))));
        }
        (None, _) => {}
    }
    writes
}

/// Whether a ServiceImport is written, and its Service is not, because this cluster has no addresses of its families.
#[must_use]
pub fn lacks_family(import: &Import, seen: &Seen, context: &Context) -> bool {
    import.service_type != ServiceType::Headless
        && seen.service.is_none()
        && !import.traits.ip_families.is_empty()
        && service::families(import, context).is_empty()
}

/// The status of a ServiceExport whose name no Service can have, if it has another one.
#[must_use]
pub fn misnamed(export: &ServiceExport, now: &Time) -> Option<ServiceExport> {
    export::misnamed(export, now)
}

/// The addresses of the imports that are there, for those that answer for them: of derived Services that are ours.
pub type ImportAddresses = BTreeMap<ServiceName, Vec<IpAddr>>;

/// What a condition says: type, status, reason, message.
type Said = (&'static str, bool, Cow<'static, str>, String);

/// A condition; one that says the same keeps the time of its last transition.
fn condition(
    before: &[Condition],
    now: &Time,
    generation: Option<i64>,
    (r#type, status, reason, message): Said,
) -> Condition {
    let status = if status { "True" } else { "False" };
    let since = before.iter().find(|c| c.type_ == r#type && c.status == status);
    Condition {
        last_transition_time: since.map_or_else(|| now.clone(), |c| c.last_transition_time.clone()),
        message: cut(message),
        observed_generation: generation,
        reason: reason.into_owned(),
        status: status.to_owned(),
        type_: r#type.to_owned(),
    }
}

/// The longest message of a condition, in bytes (Kubernetes: 32,768).
const MESSAGE_MAX: usize = 4096;

fn cut(message: String) -> String {
    let message = in_one_line(&message);
    if message.len() <= MESSAGE_MAX {
        return message;
    }
    message.chars().take(MESSAGE_MAX / 4).chain("…".chars()).collect()
}
