//! Pure. Names in this cluster's policies that nobody has, judged by what this agent knows: the members' names, labels and
//! regions are told to everybody, zones only where something is in them (INV-8).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use meshfed_crds::dangling::{Known, unknown_names};
use meshfed_crds::{Kind, ObjectError};
use meshfed_model::export::has_all;
use meshfed_model::names::{ClusterName, ServiceName};

use super::Core;
use crate::mirror::facts::PolicyFacts;

impl Known for Core {
    fn cluster(&self, name: &ClusterName) -> bool {
        self.view.members().members.contains_key(name) || *name == self.settings.cluster || !self.knows_fleet()
    }
    fn labelled(&self, labels: &BTreeMap<String, String>) -> bool {
        self.view.members().members.values().any(|member| has_all(&member.labels, labels)) || !self.knows_fleet()
    }
    fn region(&self, name: &str) -> bool {
        let mut members = self.view.members().members.values();
        self.index.settings().regions.iter().any(|region| region == name)
            || members.any(|m| m.regions.contains(name))
            || !self.knows_fleet()
    }
    fn zone(&self, name: &str) -> bool {
        let own = &self.index.settings().zones;
        // A token without zones allows any.
        own.is_empty()
            || own.iter().any(|zone| zone == name)
            || self.index.workloads().any(|w| *w.locality.zone == *name)
            || self.view.has_zone(name)
            || !self.knows_fleet()
    }
    fn service(&self, name: &ServiceName) -> bool {
        self.index.service(name).is_some() || self.view.has_service(name) || !self.knows_fleet()
    }
    fn exportable(&self, name: &ServiceName) -> bool {
        self.index.service(name).is_some()
    }
    fn refused(&self, name: &ServiceName) -> Option<&ObjectError> {
        self.refused_service(name)
    }
}

impl Core {
    /// Whether the hub has told all; before, nothing is said to be unknown.
    fn knows_fleet(&self) -> bool {
        self.is_whole() && !self.view.members().members.is_empty()
    }

    /// Looks again at the names in this cluster's policies. Costs the policies; a name that nobody has, the view.
    pub fn check_names(&mut self) {
        let found: Vec<ObjectError> =
            self.index.policy_objects().flat_map(|object| unknown_names(object, &*self)).collect();
        self.dangling = Arc::from(found);
    }

    /// The faults between objects that are new since the last call, for the log: one that was mended meanwhile is new
    /// again. Those of single objects are logged where they are read.
    pub fn new_faults(&mut self) -> Vec<ObjectError> {
        let now: BTreeSet<ObjectError> = self.faults_between().cloned().collect();
        let new = now.difference(&self.told_faults).cloned().collect();
        self.told_faults = now;
        new
    }

    /// Faults that no single object has: those between objects, and names that nobody has.
    pub fn faults_between(&self) -> impl Iterator<Item = &ObjectError> {
        self.index.errors().chain(self.dangling.iter())
    }

    /// What statuses of this cluster's policies and settings are made of.
    #[must_use]
    pub fn policy_facts(&self) -> PolicyFacts {
        PolicyFacts {
            standing: self.index.settings_objects().map(|object| (object.key(), Arc::clone(object))).collect(),
            faults: self.faults_between().cloned().collect(),
            knows_names: self.knows_fleet(),
        }
    }

    /// The faults of objects that have no conditions of ours: their owners hear of them by events.
    pub fn remarks(&self) -> impl Iterator<Item = &ObjectError> {
        let told = [Kind::Service, Kind::PeerAuthentication].map(Kind::as_str);
        self.faults().filter(move |fault| fault.kind.as_deref().is_some_and(|kind| told.contains(&kind)))
    }

    /// All faults of the source: its own, those between objects, and names that nobody has.
    pub fn faults(&self) -> impl Iterator<Item = &ObjectError> {
        self.source.errors.iter().chain(self.faults_between())
    }
}
