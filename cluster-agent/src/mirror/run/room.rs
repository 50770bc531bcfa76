//! Edge. Which imports have room here, and the telling of those that have none.

use std::sync::Arc;
use std::time::{Duration, Instant};

use meshfed_model::names::{ClusterName, ServiceName};
use meshfed_runtime::clock;
use prometheus_client::encoding::EncodeLabelSet;

use super::Mirror;
use crate::mirror::facts::{ExportState, Facts};
use crate::mirror::names::derived_service;
use crate::mirror::plan::is_ours;
use crate::mirror::quota::Known;

/// How long is gathered what has no room before it is told: a member that exports thousands changes it with each.
const TELL_PAUSE: Duration = Duration::from_secs(1);

/// The label of imports that wait: a member, of which the hub admits a limited number.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ClusterLabel {
    cluster: String,
}

impl Mirror {
    /// Begins to count once all is known, with what is imported already: it has its room before all that is new, whoever
    /// tells of it first. Until then nothing is written.
    pub(super) fn begin_counting(&mut self, leading: bool) {
        if !leading {
            self.counted = false;
            return;
        }
        if self.counted || !self.lists_are_whole() || !self.followed_on || !self.mailbox.is_whole() {
            return;
        }
        self.counted = true;
        self.quota.clear();
        let (held, new): (Vec<_>, Vec<_>) = self.mailbox.names().into_iter().partition(|name| self.is_held(name));
        for name in held.iter().chain(&new) {
            self.count(name, &self.mailbox.facts(name));
        }
        self.room_changed();
    }

    /// Takes into account what is known of a name; what gets in by it is looked at.
    pub(super) fn count(&mut self, name: &ServiceName, facts: &Facts) {
        if !self.counted {
            return;
        }
        let exporters: &[ClusterName] = facts.import.as_ref().map_or(&[], |import| &import.clusters);
        let own = facts.export.as_ref().is_some_and(|export| export.state == ExportState::Offered);
        let admitted = self.quota.admits(name);
        let known = Known { exporters, own, held: !exporters.is_empty() && self.is_held(name) };
        let let_in = self.quota.know(name, known);
        let now = clock::instant();
        if !let_in.is_empty() || admitted != self.quota.admits(name) {
            self.room_changed();
        }
        let_in.into_iter().for_each(|name| self.due(name, now));
    }

    /// What is known of a name, without an import that has no room.
    pub(super) fn facts_with_room(&mut self, name: &ServiceName) -> Arc<Facts> {
        let facts = self.mailbox.facts(name);
        self.count(name, &facts);
        if self.quota.admits(name) {
            return facts;
        }
        Arc::new(Facts { import: None, backends: Default::default(), export: facts.export.clone() })
    }

    /// Whether an object of ours is there that shows the import.
    fn is_held(&self, name: &ServiceName) -> bool {
        self.imports.one(name, name.name()).is_some_and(|import| is_ours(&import.metadata))
            || self.services.one(name, &derived_service(name)).is_some()
    }

    fn room_changed(&mut self) {
        self.room_due.get_or_insert_with(|| clock::instant() + TELL_PAUSE);
    }

    /// Tells what has no room, once it has been gathered.
    pub(super) fn tell_room(&mut self, now: Instant) {
        if self.room_due.is_none_or(|at| at > now) {
            return;
        }
        self.room_due = None;
        let waiting = &self.metrics.waiting;
        waiting.clear();
        for (cluster, waits) in self.quota.waiting() {
            let label = ClusterLabel { cluster: cluster.to_string() };
            waiting.get_or_create(&label).set(i64::try_from(waits).unwrap_or(i64::MAX));
        }
        let words = self.quota.words();
        self.over.send_if_modified(|before| {
            if before.is_none()
                && let Some(words) = &words
            {
                tracing::warn!("{words}");
            }
            let changed = *before != words;
            before.clone_from(&words);
            changed
        });
    }
}
