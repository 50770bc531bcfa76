//! Pure. What of one kind differs from what the client holds, as a response of either protocol.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Difference, Held, Outstanding, RESPONSE_BYTES, Resources, Response, TypeState};
use crate::translate::{Kind, Resource};

impl TypeState {
    /// Compares what is pending with what the client holds; forgets what is the same.
    pub(super) fn difference(&mut self, resources: &dyn Resources, kind: Kind) -> Difference {
        let mut out = Difference::default();
        let mut same = Vec::new();
        for name in &self.pending {
            if self.is_held_back(kind, name, resources) {
                continue;
            }
            let held = self.held.get(name);
            let named = self.names.contains(name);
            match (resources.get(kind, name), held) {
                (Some(r), Some(Held::Version(v, _))) if *v == r.version => same.push(Arc::clone(name)),
                (Some(r), Some(Held::Version(..))) => out.changed.push(r),
                (Some(r), _) if named => out.fresh.push(r),
                (Some(r), _) => out.changed.push(r),
                (None, Some(Held::Version(..))) => out.removed.push(Arc::clone(name)),
                (None, Some(Held::Stale)) if named => out.unknown.push(Arc::clone(name)),
                (None, _) => same.push(Arc::clone(name)),
            }
        }
        for name in same {
            self.pending.remove(&name);
        }
        let due = self.due && !self.all_held_back(kind, resources);
        self.upserts = due || !out.changed.is_empty() || !out.fresh.is_empty();
        out
    }

    pub(super) fn delta_response(
        &mut self,
        kind: Kind,
        difference: Difference,
        wait: bool,
        removals_wait: bool,
        nonce: String,
    ) -> Option<Response> {
        let first = std::mem::take(&mut self.due);
        let mut resources = Vec::new();
        let mut bytes = 0_usize;
        let changed = if wait { Vec::new() } else { difference.changed };
        for resource in difference.fresh.into_iter().chain(changed) {
            if !resources.is_empty() && bytes + resource.body.len() > RESPONSE_BYTES {
                break;
            }
            bytes += resource.body.len();
            self.pending.remove(&resource.name);
            self.held.insert(Arc::clone(&resource.name), Held::Version(Arc::clone(&resource.version), None));
            resources.push(resource);
        }
        let mut removed = difference.unknown;
        removed.extend(if removals_wait { Vec::new() } else { difference.removed });
        for name in &removed {
            self.pending.remove(name);
            self.refused.remove(name);
            if self.names.contains(name) {
                self.held.insert(Arc::clone(name), Held::Absent);
            } else {
                self.held.remove(name);
            }
        }
        if resources.is_empty() && removed.is_empty() && !first {
            return None;
        }
        let names = resources.iter().map(|r| Arc::clone(&r.name)).chain(removed.iter().cloned()).collect();
        self.outstanding = Some(Outstanding { nonce: nonce.clone(), names, upserts: !resources.is_empty() });
        Some(Response { kind, version: nonce.clone(), resources, removed, nonce })
    }

    pub(super) fn sotw_response(
        &mut self,
        kind: Kind,
        difference: Difference,
        wait: bool,
        removals_wait: bool,
        nonce: String,
        all: &dyn Resources,
    ) -> Option<Response> {
        let resources = if kind.has_wildcard() {
            let removals = !removals_wait && !difference.removed.is_empty();
            let something = self.due || !difference.changed.is_empty() || !difference.fresh.is_empty() || removals;
            if wait || !something {
                return None;
            }
            self.everything(kind, removals_wait, all)
        } else {
            let changed = if wait { Vec::new() } else { difference.changed };
            difference.fresh.into_iter().chain(changed).collect()
        };
        self.due = false;
        for name in difference.removed.iter().chain(&difference.unknown) {
            // What is gone is not told but left out; of a named kind the client asks no more by itself.
            if !(kind.has_wildcard() && removals_wait) {
                self.pending.remove(name);
                self.refused.remove(name);
                self.held.insert(Arc::clone(name), Held::Absent);
            }
        }
        for resource in &resources {
            let body = kind.has_wildcard().then(|| Arc::clone(resource));
            self.held.insert(Arc::clone(&resource.name), Held::Version(Arc::clone(&resource.version), body));
            if all.get(kind, &resource.name).is_some() {
                self.pending.remove(&resource.name);
            }
        }
        if resources.is_empty() && !kind.has_wildcard() {
            return None;
        }
        let names = resources.iter().map(|r| Arc::clone(&r.name)).collect();
        self.outstanding = Some(Outstanding { nonce: nonce.clone(), names, upserts: true });
        Some(Response { kind, version: nonce.clone(), resources, removed: Vec::new(), nonce })
    }

    /// All resources of a wildcard kind that the client is to see, those that must not go away yet included.
    fn everything(&self, kind: Kind, keep_removed: bool, all: &dyn Resources) -> Vec<Arc<Resource>> {
        let mut names: BTreeSet<Arc<str>> = self.names.clone();
        if self.wildcard {
            names.extend(all.names(kind));
        }
        names.extend(self.held.keys().filter(|n| self.wants(n)).cloned());
        let body = |name: &Arc<str>| match (all.get(kind, name), self.held.get(name)) {
            (Some(r), _) => Some(r),
            (None, Some(Held::Version(_, Some(r)))) if keep_removed => Some(Arc::clone(r)),
            (None, _) => None,
        };
        names.iter().filter_map(body).collect()
    }
}
