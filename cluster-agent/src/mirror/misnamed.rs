//! Pure. ServiceExports whose names no Service can have: the API server takes them, and nothing else knows of them.

use std::collections::BTreeMap;

use kube::Resource as _;
use kube::runtime::watcher::Event;

use super::objects::ServiceExport;
use super::store::Owned as _;

/// Those that are to be looked at, by namespace and name. One that says what it should is not kept.
#[derive(Debug, Default)]
pub(super) struct Misnamed(BTreeMap<(String, String), ServiceExport>);

impl Misnamed {
    /// Takes what the watch says.
    pub(super) fn see(&mut self, event: &Event<ServiceExport>) {
        match event {
            Event::Apply(export) | Event::InitApply(export) if export.owner().is_none() => {
                self.0.insert(key(export), export.clone());
            }
            Event::Delete(export) => {
                self.0.remove(&key(export));
            }
            Event::Apply(_) | Event::InitApply(_) | Event::Init | Event::InitDone => {}
        }
    }
    /// The next one, taken out.
    pub(super) fn take(&mut self) -> Option<ServiceExport> {
        self.0.pop_first().map(|(_, export)| export)
    }
    /// One that could not be written, unless a newer version of it came.
    pub(super) fn again(&mut self, export: ServiceExport) {
        self.0.entry(key(&export)).or_insert(export);
    }
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn key(export: &ServiceExport) -> (String, String) {
    let meta = export.meta();
    (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}
