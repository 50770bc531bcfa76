//! Pure. What the core says of one name that is exported here or imported, and of policies: all that objects and statuses
//! are made of.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use meshfed_crds::{Object, ObjectError, ObjectKey};
use meshfed_model::import::Import;
use meshfed_model::names::ClusterName;

/// What is known of one name. The default: nothing is exported, nothing imported.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// All exports that this cluster sees, as one service.
    pub import: Option<Import>,
    /// This cluster's own ServiceExport.
    pub export: Option<ExportFacts>,
    /// What is dialled for the endpoints of each exporting cluster.
    pub backends: BTreeMap<ClusterName, Vec<Backend>>,
}

impl Facts {
    /// Whether there is nothing to be shown.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.import.is_none() && self.export.is_none()
    }
}

/// What became of a ServiceExport.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportFacts {
    /// Whether it is offered.
    pub state: ExportState,
    /// Workloads behind the service.
    pub workloads: usize,
    /// Those of them without a sidecar: they are not offered.
    pub plain: usize,
    /// Ports that nobody serves yet, as `PORT/PROTOCOL`.
    pub unserved: Vec<String>,
    /// What of it, or of its Service, is not taken although it is offered, each with what to do.
    pub remarks: Vec<String>,
    /// Why no other network reaches it, with what to do; none: nothing is known to be in the way.
    pub unreachable: Option<String>,
}

impl ExportFacts {
    /// Of an export of which no more is known than why it is not offered.
    #[must_use]
    pub const fn only(state: ExportState) -> Self {
        Self { state, workloads: 0, plain: 0, unserved: Vec::new(), remarks: Vec::new(), unreachable: None }
    }
}

/// Whether an export is offered to other clusters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExportState {
    /// It is.
    Offered,
    /// There is no Service of its name.
    NoService,
    /// Its Service is there and not taken, for this reason, with what to do.
    InvalidService(String),
    /// Its Service stands for a name elsewhere.
    External,
    /// It cannot be, for this reason, with what to do.
    Refused(String),
    /// The ServiceExport itself cannot be read, for this reason, with what to do.
    Invalid(String),
}

/// One address that is dialled for endpoints of a port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Backend {
    /// The address: of a workload on an own network, else of a gateway.
    pub address: IpAddr,
    /// The service's port.
    pub port: u16,
    /// What is dialled.
    pub target: u16,
    /// Whether it takes requests.
    pub ready: bool,
}

/// What the core knows of this cluster's policies and settings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PolicyFacts {
    /// What is in force.
    pub standing: BTreeMap<ObjectKey, Arc<Object>>,
    /// Faults between objects, and names that nobody has.
    pub faults: Vec<ObjectError>,
    /// Whether it is known which names there are.
    pub knows_names: bool,
}
