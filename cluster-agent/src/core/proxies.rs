//! Pure. Streams and the proxies behind them: admission, requests, what is sent, and what a proxy's state means for
//! its workload.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use crate::identity::{Peer, plausible};
use crate::index::{Workload, WorkloadKey, WorkloadState};
use crate::translate::{Kind, Mode, Node};
use crate::xds::stream::{Outcome, Protocol, Request, Stream};

use super::command::{End, Outbound};
use super::resolve::{Admission, Resolution};
use super::store::{Class, Scope, StreamId};
use super::{Core, LOST_PATIENCE};

/// Requests that a stream may bring before it is admitted: one per kind, and some changes of mind.
const QUEUE_MAX: usize = 64;

/// What is known of proxies and kept over a restart of the agent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kept {
    /// Workloads whose proxies are ready.
    pub ready: BTreeSet<WorkloadKey>,
    /// The process that was last admitted as each workload.
    pub admitted: BTreeMap<WorkloadKey, Admission>,
}

/// A stream.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) peer: Peer,
    pub(super) node: Node,
    pub(super) secrets_only: bool,
    pub(super) machine: Stream,
    pub(super) phase: Phase,
}

/// How far a stream has come.
#[derive(Debug)]
pub(super) enum Phase {
    /// No object names its workload yet.
    Waiting(Vec<(Kind, Request)>),
    /// It is served.
    Admitted(Box<Admitted>),
}

/// What an admitted stream is served.
#[derive(Debug)]
pub(super) struct Admitted {
    /// The workload as it was built for, without its state.
    pub(super) workload: Workload,
    pub(super) class: Arc<Class>,
    /// The class on its node.
    pub(super) on_node: Arc<Class>,
    pub(super) scopes: Vec<Scope>,
}

/// A proxy, over its streams.
#[derive(Debug, Default)]
pub(super) struct Proxy {
    pub(super) streams: BTreeSet<StreamId>,
    pub(super) reports: BTreeSet<StreamId>,
    lost_at: Option<Instant>,
    report_lost_at: Option<Instant>,
    app_ready: bool,
    pub(super) reason: String,
    /// Its listeners were bound once.
    bound: bool,
    /// No app probe: an Envoy or a gateway.
    probeless: bool,
    pub(super) settled: bool,
    state: WorkloadState,
}

/// A report stream.
#[derive(Debug)]
pub(super) struct Report {
    peer: Peer,
    node: Node,
    app_ready: bool,
    reason: String,
    workload: Option<WorkloadKey>,
}

impl Proxy {
    pub(super) fn deadline(&self) -> Option<Instant> {
        [self.lost_at, self.report_lost_at].into_iter().flatten().min().map(|t| t + LOST_PATIENCE)
    }
    pub(super) fn restart_patience(&mut self, now: Instant) {
        if self.streams.is_empty() {
            self.lost_at = Some(now);
        }
    }
    pub(super) fn is_connected(&self) -> bool {
        !self.streams.is_empty()
    }
    pub(super) const fn wanted(&self) -> WorkloadState {
        WorkloadState { connected: true, app_ready: self.bound && (self.probeless || self.app_ready) }
    }
}

impl Core {
    /// A stream with its node. It waits until an object names its workload.
    pub fn open(&mut self, id: StreamId, peer: Peer, node: Node, protocol: Protocol, secrets_only: bool) {
        if let Err(denied) = plausible(&peer, &node) {
            self.end(id, End::Denied(denied.to_string()));
            return;
        }
        let entry =
            Entry { peer, node, secrets_only, machine: Stream::new(protocol), phase: Phase::Waiting(Vec::new()) };
        self.streams.insert(id, entry);
        self.waiting.insert(id);
    }

    /// A request of a stream.
    pub fn request(&mut self, id: StreamId, kind: Kind, request: Request, now: Instant, wall: SystemTime) {
        let Some(entry) = self.streams.get_mut(&id) else { return };
        if let Phase::Waiting(queue) = &mut entry.phase {
            if queue.len() >= QUEUE_MAX {
                self.end(id, End::Limit(format!("{QUEUE_MAX} requests before the workload is known")));
                return;
            }
            queue.push((kind, request));
            self.admit(id, now, wall);
        } else {
            self.take_request(id, kind, &request, now);
        }
        self.settle(now, wall);
    }

    /// A stream is gone.
    pub fn closed(&mut self, id: StreamId, now: Instant, wall: SystemTime) {
        self.forget(id, now);
        self.settle(now, wall);
    }

    /// What a proxy says of its application.
    #[allow(clippy::too_many_arguments, reason = "one message, taken apart at the edge")]
    pub fn report(
        &mut self,
        id: StreamId,
        peer: Peer,
        node: Node,
        app_ready: bool,
        reason: String,
        now: Instant,
        wall: SystemTime,
    ) {
        let workload = self.reports.get(&id).and_then(|r| r.workload.clone());
        self.reports.insert(id, Report { peer, node, app_ready, reason, workload });
        self.take_report(id);
        self.settle(now, wall);
    }

    /// A report stream is gone.
    pub fn report_closed(&mut self, id: StreamId, now: Instant, wall: SystemTime) {
        if let Some(key) = self.reports.remove(&id).and_then(|r| r.workload)
            && let Some(proxy) = self.proxies.get_mut(&key)
        {
            if proxy.reports.remove(&id) && proxy.reports.is_empty() {
                proxy.report_lost_at = Some(now);
            }
            weigh_reports(proxy, &self.reports);
            self.changed_proxies.insert(key);
            self.effects.rows = true;
        }
        self.settle(now, wall);
    }

    /// What was kept of the proxies when the agent ended. Workloads that were ready stay so until the patience is over.
    pub fn restore_proxies(&mut self, kept: Kept, now: Instant) {
        self.admissions = kept.admitted;
        for key in kept.ready {
            let proxy = Proxy { lost_at: Some(now), app_ready: true, bound: true, settled: true, ..Proxy::default() };
            self.proxies.insert(key, proxy);
        }
    }

    /// What of the proxies is to be kept over a restart of the agent.
    #[must_use]
    pub fn kept(&self) -> Kept {
        let ready = self.proxies.iter().filter(|(_, p)| p.state.connected && p.state.app_ready);
        Kept { ready: ready.map(|(key, _)| key.clone()).collect(), admitted: self.admissions.clone() }
    }

    fn take_report(&mut self, id: StreamId) {
        let Some(report) = self.reports.get(&id) else { return };
        let key = match self.resolve(&report.peer, &report.node, report.workload.as_ref()) {
            Resolution::Known(workload) => workload.key.clone(),
            Resolution::Unknown(_) => return,
            Resolution::Refused(end) => {
                self.reports.remove(&id);
                self.effects.outbound.push((id, Outbound::End(end)));
                return;
            }
        };
        let Some(report) = self.reports.get_mut(&id) else { return };
        report.workload = Some(key.clone());
        let process = report.node.process;
        let proxy = self.proxies.entry(key.clone()).or_default();
        // What a process said on a stream that it has replaced is no second opinion.
        let replaced = |other: &StreamId| {
            process.is_some() && self.reports.get(other).is_some_and(|other| other.node.process == process)
        };
        proxy.reports.retain(|other| !replaced(other));
        proxy.reports.insert(id);
        proxy.report_lost_at = None;
        weigh_reports(proxy, &self.reports);
        self.changed_proxies.insert(key);
        self.effects.rows = true;
    }

    fn end(&mut self, id: StreamId, end: End) {
        self.effects.outbound.push((id, Outbound::End(end)));
        self.waiting.remove(&id);
        self.streams.remove(&id);
    }

    /// Ends an admitted or waiting stream from our side.
    fn end_served(&mut self, id: StreamId, end: End, now: Instant) {
        self.forget(id, now);
        self.effects.outbound.push((id, Outbound::End(end)));
    }

    fn forget(&mut self, id: StreamId, now: Instant) {
        self.waiting.remove(&id);
        self.touched.remove(&id);
        let Some(entry) = self.streams.remove(&id) else { return };
        let Phase::Admitted(admitted) = entry.phase else { return };
        let key = &admitted.workload.key;
        if let Some(streams) = self.by_workload.get_mut(key) {
            streams.remove(&id);
            if streams.is_empty() {
                self.by_workload.remove(key);
            }
        }
        self.leave_scopes(id, &admitted);
        if let Some(proxy) = self.proxies.get_mut(key)
            && proxy.streams.remove(&id)
        {
            // After a second proxy of the workload has gone, the one that stays speaks for it again.
            self.touched.extend(proxy.streams.last());
            if proxy.streams.is_empty() {
                proxy.lost_at = Some(now);
                self.effects.report = true;
                self.effects.rows = true;
            }
        }
    }

    fn leave_scopes(&mut self, id: StreamId, admitted: &Admitted) {
        for scope in &admitted.scopes {
            if !self.store.remove_reader(scope, id) {
                continue;
            }
            match scope {
                Scope::Class(class) => {
                    self.demanded.remove(class);
                    self.store.drop_scope(scope);
                }
                Scope::Namespace(_) | Scope::Stream(_) => self.store.drop_scope(scope),
                // A certificate outlives its streams until its renewal is due: who comes back is not sent another.
                Scope::Workload(_) | Scope::Sidecars | Scope::Captured | Scope::Gateways | Scope::Everybody => {}
            }
        }
    }

    /// Tries to admit a waiting stream.
    pub(super) fn admit(&mut self, id: StreamId, now: Instant, wall: SystemTime) {
        let Some(entry) = self.streams.get(&id) else { return };
        let workload = match self.resolve(&entry.peer, &entry.node, None) {
            Resolution::Known(workload) => workload.clone(),
            Resolution::Unknown(why) => {
                // Once per stream: later attempts come with more requests queued.
                if matches!(&entry.phase, Phase::Waiting(queue) if queue.len() <= 1) {
                    tracing::info!(stream = id, node = %entry.node.id, why, "a proxy waits for its workload");
                }
                return;
            }
            Resolution::Refused(end) => {
                tracing::warn!(stream = id, peer = %entry.peer, claim = %entry.node.claim, ?end, "stream refused");
                self.end(id, end);
                return;
            }
        };
        let (mode, secrets_only, captured) = (entry.node.mode, entry.secrets_only, entry.node.captured);
        if let Some(admission) = Admission::of(&entry.peer, &entry.node)
            && self.admissions.get(&workload.key) != Some(&admission)
        {
            self.admissions.insert(workload.key.clone(), admission);
            self.effects.kept_changed = true;
        }
        let Some(entry) = self.streams.get(&id) else { return };
        let probeless = entry.node.envoy || mode == Mode::Gateway;
        let key = workload.key.clone();
        // A private key never crosses TCP (XD2): who has an SVID already does not need it from here.
        let local = matches!(entry.peer, Peer::Unix { .. });
        if local && let Err(error) = self.ensure_certificate(&workload, now, wall) {
            self.end(id, End::Internal(error));
            return;
        }
        let class = Arc::new(self.class_of(&workload, mode));
        let on_node = Arc::new(self.class_on_node(&workload, mode));
        let mut scopes = scopes_of(id, &workload, [&class, &on_node], local);
        if captured && mode == Mode::Sidecar {
            scopes.push(Scope::Captured);
            self.begin_capture();
        }
        for scope in &scopes {
            self.store.add_reader(scope, id);
        }
        let workload = Workload { state: WorkloadState::default(), ..workload };
        let admitted = Box::new(Admitted { workload, class, on_node, scopes });
        let Some(entry) = self.streams.get_mut(&id) else { return };
        let Phase::Waiting(queue) = std::mem::replace(&mut entry.phase, Phase::Admitted(admitted)) else { return };
        self.waiting.remove(&id);
        self.by_workload.entry(key.clone()).or_default().insert(id);
        if mode == Mode::Sidecar {
            self.demand_routes(&key.namespace);
        }
        self.rebuild(&[id]);
        if !secrets_only {
            let proxy = self.proxies.entry(key).or_default();
            proxy.streams.insert(id);
            proxy.lost_at = None;
            proxy.probeless = probeless;
            proxy.settled = false;
            self.effects.rows = true;
        }
        for (kind, request) in queue {
            self.take_request(id, kind, &request, now);
        }
    }

    fn take_request(&mut self, id: StreamId, kind: Kind, request: &Request, now: Instant) {
        let Some(entry) = self.streams.get(&id) else { return };
        let Phase::Admitted(admitted) = &entry.phase else { return };
        if kind == Kind::Endpoint {
            let classes = [Arc::clone(&admitted.class), Arc::clone(&admitted.on_node)];
            for name in &request.subscribe {
                self.demand(&classes, &name.as_str().into());
            }
        }
        let view_unknown = !self.is_whole();
        let Some(entry) = self.streams.get_mut(&id) else { return };
        let Phase::Admitted(admitted) = &entry.phase else { return };
        let seen = admitted.seen(&self.store, entry.secrets_only, view_unknown);
        let workload = &admitted.workload.key;
        match entry.machine.request(kind, request, &seen, now) {
            Ok(outcome @ (Outcome::Noted | Outcome::Acked)) => {
                let (kind, more, fewer) = (kind.as_str(), request.subscribe.len(), request.unsubscribe.len());
                tracing::debug!(stream = id, %workload, kind, ?outcome, more, fewer, nonce = request.nonce, "xDS: request");
            }
            Ok(Outcome::Nacked { names, error }) => {
                tracing::warn!(%workload, kind = kind.as_str(), ?names, error, "a proxy refused resources; it keeps the last good ones");
                self.effects.nacks.push((kind, error));
                self.effects.rows = true;
            }
            Err(error) => {
                self.end_served(id, End::Limit(error.to_string()), now);
                return;
            }
        }
        self.touched.insert(id);
    }

    /// Workloads came, changed or went.
    pub(super) fn workloads_changed(&mut self, workloads: &BTreeSet<WorkloadKey>) {
        for key in workloads {
            if self.index.workload_by_key(key).is_none() && self.admissions.remove(key).is_some() {
                self.effects.kept_changed = true;
            }
            let Some(streams) = self.by_workload.get(key) else { continue };
            self.touched.extend(streams.iter().copied());
            self.moved.extend(streams.iter().copied());
        }
        if !workloads.is_empty() {
            self.retry_waiting = true;
        }
    }

    fn look_again(&mut self, id: StreamId, now: Instant, wall: SystemTime) {
        let Some(entry) = self.streams.get(&id) else { return };
        let Phase::Admitted(admitted) = &entry.phase else { return };
        let workload = match self.resolve(&entry.peer, &entry.node, Some(&admitted.workload.key)) {
            Resolution::Known(workload) => Workload { state: WorkloadState::default(), ..workload.clone() },
            Resolution::Unknown(why) => {
                self.end_served(id, End::Gone(why), now);
                return;
            }
            Resolution::Refused(end) => {
                self.end_served(id, end, now);
                return;
            }
        };
        if workload == admitted.workload {
            return;
        }
        if workload.key != admitted.workload.key || workload.identity != admitted.workload.identity {
            // Another identity: a new stream gets it from the beginning.
            self.renewals.remove(&admitted.workload.key);
            self.end_served(id, End::Gone("the workload's identity changed".to_owned()), now);
            return;
        }
        let class = Arc::new(self.class_of(&workload, entry.node.mode));
        let on_node = Arc::new(self.class_on_node(&workload, entry.node.mode));
        let moved = class != admitted.class || on_node != admitted.on_node;
        if moved {
            let names: Vec<Arc<str>> = entry.machine.subscribed(Kind::Endpoint).cloned().collect();
            let local = matches!(entry.peer, Peer::Unix { .. });
            let mut new = scopes_of(id, &workload, [&class, &on_node], local);
            new.extend(admitted.scopes.iter().filter(|s| **s == Scope::Captured).cloned());
            for scope in &new {
                self.store.add_reader(scope, id);
            }
            let old = [Arc::clone(&admitted.class), Arc::clone(&admitted.on_node)];
            for gone in old.into_iter().filter(|old| *old != class && *old != on_node) {
                let scope = Scope::Class(Arc::clone(&gone));
                if self.store.remove_reader(&scope, id) {
                    self.demanded.remove(&gone);
                    self.store.drop_scope(&scope);
                }
            }
            let classes = [Arc::clone(&class), Arc::clone(&on_node)];
            for name in &names {
                self.demand(&classes, name);
            }
            if let Some(entry) = self.streams.get_mut(&id)
                && let Phase::Admitted(admitted) = &mut entry.phase
            {
                admitted.scopes = new;
                admitted.class = class;
                admitted.on_node = on_node;
                for name in &names {
                    entry.machine.mark(Kind::Endpoint, name);
                }
            }
        }
        if let Some(entry) = self.streams.get_mut(&id)
            && let Phase::Admitted(admitted) = &mut entry.phase
        {
            admitted.workload = workload;
        }
        self.rebuild(&[id]);
        let _unused = wall;
    }

    // ---- settling ----

    /// Lost proxies whose patience is over.
    pub(super) fn expire_proxies(&mut self, now: Instant) {
        // Whose proxies were ready before a restart stays so until they can come back, however long the source takes.
        if !self.open {
            return;
        }
        let over = |t: Option<Instant>| t.is_some_and(|t| t + LOST_PATIENCE <= now);
        let lost: Vec<WorkloadKey> =
            self.proxies.iter().filter(|(_, p)| over(p.lost_at)).map(|(k, _)| k.clone()).collect();
        for key in lost {
            tracing::info!(workload = %key, "its proxy is lost; the workload is not ready");
            if let Some(proxy) = self.proxies.remove(&key) {
                for report in &proxy.reports {
                    if let Some(report) = self.reports.get_mut(report) {
                        report.workload = None;
                    }
                }
            }
            let dirty = self.index.set_workload_state(&key, WorkloadState::default());
            self.effects.kept_changed = true;
            self.effects.report = true;
            self.apply_dirty(dirty);
        }
        for (key, proxy) in &mut self.proxies {
            if over(proxy.report_lost_at) {
                self.changed_proxies.insert(key.clone());
                proxy.report_lost_at = None;
                proxy.app_ready = false;
                "the proxy reports no longer".clone_into(&mut proxy.reason);
            }
        }
    }

    /// Sends what changed until nothing changes any more. A workload that becomes ready changes assignments, which are
    /// sent, which may settle a proxy; every round needs an event of its own, so this ends.
    pub(super) fn settle_streams(&mut self, now: Instant, wall: SystemTime) {
        loop {
            if std::mem::take(&mut self.retry_waiting) {
                for id in self.waiting.clone() {
                    self.admit(id, now, wall);
                }
                for id in
                    self.reports.iter().filter(|(_, r)| r.workload.is_none()).map(|(id, _)| *id).collect::<Vec<_>>()
                {
                    self.take_report(id);
                }
            }
            for id in std::mem::take(&mut self.moved) {
                self.look_again(id, now, wall);
            }
            for (scope, kind, name) in self.store.take_changed() {
                for id in self.store.readers(&scope).collect::<Vec<_>>() {
                    if let Some(entry) = self.streams.get_mut(&id) {
                        entry.machine.mark(kind, &name);
                        self.touched.insert(id);
                    }
                }
            }
            for id in std::mem::take(&mut self.touched) {
                self.pump(id, now);
            }
            if !self.update_states() && !self.retry_waiting && self.moved.is_empty() {
                return;
            }
        }
    }

    fn pump(&mut self, id: StreamId, now: Instant) {
        let view_unknown = !self.is_whole();
        let Some(entry) = self.streams.get_mut(&id) else { return };
        let Phase::Admitted(admitted) = &entry.phase else { return };
        let seen = admitted.seen(&self.store, entry.secrets_only, view_unknown);
        for response in entry.machine.poll(&seen, now) {
            *self.effects.pushes.entry(response.kind).or_default() += 1;
            let (workload, kind) = (&admitted.workload.key, response.kind.as_str());
            let (resources, removed) = (response.resources.len(), response.removed.len());
            tracing::debug!(stream = id, %workload, kind, resources, removed, nonce = response.nonce, "xDS: push");
            self.effects.outbound.push((id, Outbound::Response(response)));
        }
        if entry.secrets_only {
            return;
        }
        let (settled, bound) = (entry.machine.is_settled(), entry.machine.has_listeners());
        let key = &admitted.workload.key;
        if let Some(proxy) = self.proxies.get_mut(key) {
            proxy.bound |= bound;
            // A proxy that reconnects has two streams for a moment; the newest speaks for it.
            if proxy.streams.last() == Some(&id) && proxy.settled != settled {
                proxy.settled = settled;
                self.effects.report = true;
            }
            self.changed_proxies.insert(key.clone());
        }
    }

    /// Tells the index what proxies say of their workloads. `true`: something changed.
    pub(super) fn update_states(&mut self) -> bool {
        let mut any = false;
        for key in std::mem::take(&mut self.changed_proxies) {
            let Some(proxy) = self.proxies.get_mut(&key) else { continue };
            let wanted = if proxy.streams.is_empty() && proxy.lost_at.is_none() {
                WorkloadState::default()
            } else {
                proxy.wanted()
            };
            if proxy.state == wanted {
                continue;
            }
            proxy.state = wanted;
            any = true;
            let dirty = self.index.set_workload_state(&key, wanted);
            self.effects.kept_changed = true;
            self.effects.report = true;
            self.apply_dirty(dirty);
        }
        any
    }
}

/// One proxy that reaches the application is enough; where none does, the newest says why. Without reports all stays
/// until the patience is over.
fn weigh_reports(proxy: &mut Proxy, reports: &BTreeMap<StreamId, Report>) {
    let said = || proxy.reports.iter().rev().filter_map(|id| reports.get(id));
    if let Some(report) = said().find(|r| r.app_ready).or_else(|| said().next()) {
        proxy.app_ready = report.app_ready;
        proxy.reason.clone_from(&report.reason);
    }
}

fn scopes_of(id: StreamId, workload: &Workload, classes: [&Arc<Class>; 2], local: bool) -> Vec<Scope> {
    let mut scopes = vec![Scope::Stream(id), Scope::Everybody];
    scopes.extend(classes.map(|class| Scope::Class(Arc::clone(class))));
    if local {
        scopes.push(Scope::Workload(workload.key.clone()));
    }
    match classes[0].mode {
        Mode::Sidecar => scopes.extend([Scope::Sidecars, Scope::Namespace(workload.key.namespace.clone())]),
        Mode::Gateway => scopes.push(Scope::Gateways),
    }
    scopes
}
