//! Edge. The turns of the mirror: a name each, whose writes follow one another, and several at a time, so that a write that
//! hangs holds up its own name alone.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use futures::FutureExt as _;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use meshfed_model::names::ServiceName;
use meshfed_model::service::ServiceType;
use meshfed_runtime::clock;

use super::{ADDRESSES_PAUSE, Mirror};
use crate::mirror::apply::{Unwritten, Written, family_of};
use crate::mirror::facts::Facts;
use crate::mirror::names::derived_service;
use crate::mirror::plan::{Context, Deleted, Seen, Write, lacks_family, plan};

/// Rounds of one turn: the Service, its addresses in the import, the statuses; one more where a family was refused.
const ROUNDS_MAX: usize = 6;
/// Names that are written at the same time. Fifty writes a second that take 20 ms each need one place; the others are for
/// writes that hang, each for at most 10 s.
const TURNS_MAX: usize = 64;
/// Those of them whose last write had no answer: a webhook that hangs for all objects of a namespace does not take the
/// places of everybody else.
const SUSPECTS_MAX: usize = 16;

/// What stands in the API server, as far as one write is about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    Service,
    Import,
    ImportStatus,
    Export,
    Slice,
    Event,
}

const fn target(write: &Write) -> Target {
    match write {
        Write::Service { .. } | Write::Delete { kind: Deleted::Service, .. } => Target::Service,
        Write::Import { .. } | Write::Delete { kind: Deleted::Import, .. } => Target::Import,
        Write::ImportStatus(_) => Target::ImportStatus,
        Write::ExportStatus(_) => Target::Export,
        Write::Slice { .. } | Write::Delete { kind: Deleted::Slice, .. } => Target::Slice,
        Write::Warn(_) => Target::Event,
    }
}

/// The name of the object that is written.
fn object(owner: &ServiceName, write: &Write) -> String {
    let name = match write {
        Write::Service { .. } => return derived_service(owner),
        Write::Slice { object, .. } => object.metadata.name.as_deref().unwrap_or_default(),
        Write::Delete { name, .. } => name,
        Write::Import { .. } | Write::ImportStatus(_) | Write::ExportStatus(_) | Write::Warn(_) => owner.name(),
    };
    name.to_owned()
}

/// What a name is taken for.
#[derive(Debug, Default)]
pub(super) struct Turn {
    /// Whether the core said something else.
    said: bool,
    /// Whether it holds one of the places for names that had no answer.
    suspect: bool,
    rounds: usize,
    pending: VecDeque<Write>,
    /// Whether this round made another round useful.
    progress: bool,
    /// Whether the derived Service is not tried again.
    blocked: bool,
    /// What had no answer, and is not tried again.
    unanswered: Vec<(Target, String)>,
    /// Slices whose names are somebody else's, which are not tried again.
    in_the_way: Vec<String>,
    failed: Option<Unwritten>,
}

impl Turn {
    /// Whether there is another round after this one.
    const fn goes_on(&self) -> bool {
        let over = matches!(self.failed, Some(Unwritten::Away(_) | Unwritten::Stale(_)));
        self.rounds < ROUNDS_MAX && (self.rounds == 0 || (self.progress && !over))
    }
}

/// How one write ended.
pub(super) struct Answer {
    name: ServiceName,
    write: Write,
    begun: Instant,
    result: Result<Written, Unwritten>,
}

impl Mirror {
    /// Whether one more name can be written.
    pub(super) fn has_place(&self) -> bool {
        self.turns.len() < TURNS_MAX
    }
    /// Whether one more name can be written whose last write had no answer.
    pub(super) fn has_place_for_suspects(&self) -> bool {
        self.turns.values().filter(|turn| turn.suspect).count() < SUSPECTS_MAX
    }

    /// Begins with the next name that is due.
    pub(super) fn begin(&mut self, now: Instant) {
        let Some(taken) = self.queue.take(now, self.has_place_for_suspects()) else { return };
        let turn = Turn { said: taken.said, suspect: taken.suspect, ..Turn::default() };
        self.go_on(taken.name, turn);
    }

    /// The next write of a turn, or its end.
    fn go_on(&mut self, name: ServiceName, mut turn: Turn) {
        if turn.pending.is_empty() && turn.goes_on() {
            self.plan_round(&name, &mut turn);
        }
        match turn.pending.pop_front() {
            Some(write) => {
                self.send(name.clone(), write);
                self.turns.insert(name, turn);
            }
            None => self.end(name, turn),
        }
    }

    fn plan_round(&mut self, name: &ServiceName, turn: &mut Turn) {
        let (facts, seen) = (self.facts_with_room(name), self.seen(name));
        let mut writes = self.planned(name, &facts, &seen);
        writes.retain(|write| {
            let (kind, of) = (target(write), object(name, write));
            let tried = turn.unanswered.iter().any(|(tried, name)| *tried == kind && *name == of)
                || (kind == Target::Slice && turn.in_the_way.contains(&of));
            !tried && !self.was_warned(name, write) && (!turn.blocked || !matches!(write, Write::Service { .. }))
        });
        if turn.rounds == 0 && !turn.said && !writes.is_empty() {
            self.queue.repaired(name, clock::instant());
        }
        turn.rounds += 1;
        turn.progress = false;
        turn.pending = writes.into();
    }

    fn planned(&mut self, name: &ServiceName, facts: &Facts, seen: &Seen) -> Vec<Write> {
        if facts.import.as_ref().is_some_and(|import| import.service_type == ServiceType::Headless) {
            self.obstacles.remove(name);
        }
        let context = self.context(name);
        let lacks = facts.import.as_ref().is_some_and(|import| lacks_family(import, seen, &context));
        self.families.lack(name, lacks);
        let writes = plan(name, facts, seen, &context);
        if self.way_became_free(name, seen, &writes) { plan(name, facts, seen, &self.context(name)) } else { writes }
    }

    /// Whether something that stood in the way does so no more, although nothing was written: a Service that is as it is to be,
    /// because somebody has given back what he had taken of it; a slice that nobody wants any more.
    fn way_became_free(&mut self, name: &ServiceName, seen: &Seen, writes: &[Write]) -> bool {
        let is_settled = seen.service.is_some() && !writes.iter().any(|write| target(write) == Target::Service);
        let freed = is_settled && self.obstacles.remove(name).is_some();
        let Some(slices) = self.in_the_way.get_mut(name) else { return freed };
        let before = slices.len();
        slices.retain(|slice, _| {
            writes.iter().any(|write| matches!(write, Write::Slice { .. }) && object(name, write) == *slice)
        });
        let fewer = slices.len() != before;
        if slices.is_empty() {
            self.in_the_way.remove(name);
        }
        freed || fewer
    }

    fn context(&self, name: &ServiceName) -> Context {
        let of_slices = || self.in_the_way.get(name)?.values().next();
        Context {
            now: Time(clock::timestamp()),
            obstacle: self.obstacles.get(name).or_else(of_slices).cloned(),
            unsupported: self.families.unsupported(clock::instant()),
            address_taken: self.taken.contains(name),
        }
    }

    fn seen(&self, name: &ServiceName) -> Seen {
        Seen {
            import: self.imports.one(name, name.name()).cloned(),
            service: self.services.one(name, &derived_service(name)).cloned(),
            slices: self.slices.of(name),
            export: self.exports.one(name, name.name()).cloned(),
        }
    }

    fn was_warned(&self, name: &ServiceName, write: &Write) -> bool {
        matches!(write, Write::Warn(note) if self.warned.get(name) == Some(note))
    }

    fn send(&mut self, name: ServiceName, write: Write) {
        let of = object(&name, &write);
        match target(&write) {
            Target::Service => self.services.writing(&name, &of),
            Target::Import | Target::ImportStatus => self.imports.writing(&name, &of),
            Target::Export => self.exports.writing(&name, &of),
            Target::Slice => self.slices.writing(&name, &of),
            Target::Event => {}
        }
        let (writer, export) = (self.writer.clone(), self.exports.one(&name, name.name()).cloned());
        let answer = async move {
            let begun = clock::instant();
            let result = writer.write(&name, &write, export.as_ref()).await;
            Answer { name, write, begun, result }
        };
        self.writes.push(answer.boxed());
    }

    /// A write has ended: what it left is held, and its turn goes on.
    pub(super) fn answered(&mut self, answer: Answer) {
        let Answer { name, write, begun, result } = answer;
        let Some(mut turn) = self.turns.remove(&name) else { return };
        let now = clock::instant();
        let service = matches!(write, Write::Service { .. });
        if !matches!(result, Err(Unwritten::Away(_) | Unwritten::NoAnswer)) {
            self.silence.answered(now).iter().for_each(|name| self.queue.hurry(name, now));
        }
        match result {
            Ok(written) => {
                tracing::debug!(%name, object = object(&name, &write), what = ?target(&write), "mirror: written");
                turn.progress = true;
                self.metrics.count("ok");
                if service {
                    self.obstacles.remove(&name);
                }
                if target(&write) == Target::Slice {
                    self.way_is_free(&name, &object(&name, &write));
                }
                if let Written::Service(service) = &written {
                    let given = service.spec.iter().flat_map(|spec| spec.ip_families.iter().flatten());
                    let given: Vec<_> = given.filter_map(|family| family_of(family)).collect();
                    self.families.given(given).into_iter().for_each(|name| self.due(name, now));
                }
                self.hold(&name, write, written);
            }
            Err(unwritten) => {
                self.give_up(&name, &write);
                turn.blocked |= service;
                // What was learned of families and addresses makes it another write.
                turn.progress |= matches!(unwritten, Unwritten::Families(_) | Unwritten::AddressTaken) || service;
                self.learn((&name, begun), &unwritten, service, &mut turn.blocked);
                if let (Unwritten::InTheWay(_), Target::Slice) = (&unwritten, target(&write)) {
                    turn.in_the_way.push(object(&name, &write));
                    turn.progress |= self.stands_in_the_way(&name, &object(&name, &write), &unwritten);
                }
                match unwritten {
                    Unwritten::Away(_) => {
                        turn.pending.clear();
                        self.silence.away(begun, now);
                    }
                    Unwritten::NoAnswer => {
                        turn.unanswered.push((target(&write), object(&name, &write)));
                        self.silence.no_answer(&name, begun);
                    }
                    Unwritten::Stale(_)
                    | Unwritten::InTheWay(_)
                    | Unwritten::Families(_)
                    | Unwritten::AddressTaken
                    | Unwritten::Refused(_)
                    | Unwritten::Failed(_) => {}
                }
                turn.failed = Some(unwritten);
            }
        }
        if *self.leads.borrow() {
            self.go_on(name, turn);
        } else {
            // Another writes now; who leads again looks at all.
            self.queue.release(&name, turn.suspect);
        }
    }

    fn hold(&mut self, name: &ServiceName, write: Write, written: Written) {
        let of = object(name, &write);
        match (written, target(&write)) {
            (Written::Service(object), _) => self.services.written(name, &of, Some(*object)),
            (Written::Import(object), _) => self.imports.written(name, &of, Some(*object)),
            (Written::Export(object), _) => self.exports.written(name, &of, Some(*object)),
            (Written::Slice(object), _) => self.slices.written(name, &of, Some(*object)),
            (Written::Gone, Target::Service) => self.services.written(name, &of, None),
            (Written::Gone, Target::Slice) => self.slices.written(name, &of, None),
            (Written::Gone, _) => self.imports.written(name, &of, None),
            (Written::Warned, _) => {
                if let Write::Warn(note) = write {
                    self.warned.insert(name.clone(), note);
                }
                return;
            }
        }
        if matches!(target(&write), Target::Service) {
            self.addresses_due.get_or_insert_with(|| clock::instant() + ADDRESSES_PAUSE);
        }
    }

    fn give_up(&mut self, name: &ServiceName, write: &Write) {
        let of = object(name, write);
        match target(write) {
            Target::Service => self.services.unwritten(name, &of),
            Target::Import | Target::ImportStatus => self.imports.unwritten(name, &of),
            Target::Export => self.exports.unwritten(name, &of),
            Target::Slice => self.slices.unwritten(name, &of),
            Target::Event => {}
        }
    }

    /// What a failure says for the next attempt.
    fn learn(
        &mut self,
        (name, begun): (&ServiceName, Instant),
        unwritten: &Unwritten,
        service: bool,
        blocked: &mut bool,
    ) {
        let result = match unwritten {
            Unwritten::Away(_) => "away",
            Unwritten::NoAnswer => "no_answer",
            Unwritten::Stale(_) => "stale",
            Unwritten::InTheWay(_) => "in_the_way",
            Unwritten::Families(_) | Unwritten::AddressTaken | Unwritten::Refused(_) => "refused",
            Unwritten::Failed(_) => "failed",
        };
        self.metrics.count(result);
        // What stays in the way is asked for every few seconds, and told once.
        if self.is_told(name, unwritten) {
            tracing::debug!(%name, error = %unwritten, "an object of an import or export was not written");
        } else {
            tracing::warn!(%name, error = %unwritten, "an object of an import or export was not written");
        }
        match unwritten {
            Unwritten::Families(families) => {
                let now = clock::instant();
                families.iter().for_each(|family| self.families.refuse(*family, begun, now));
                *blocked = false;
            }
            Unwritten::AddressTaken => {
                self.taken.insert(name.clone());
                *blocked = false;
            }
            Unwritten::Away(_)
            | Unwritten::NoAnswer
            | Unwritten::Stale(_)
            | Unwritten::InTheWay(_)
            | Unwritten::Refused(_)
            | Unwritten::Failed(_) => {
                if let Some(obstacle) = unwritten.obstacle().filter(|_| service) {
                    self.obstacles.insert(name.clone(), obstacle);
                }
            }
        }
    }

    /// Whether the conditions of a name tell already why a write failed.
    fn is_told(&self, name: &ServiceName, unwritten: &Unwritten) -> bool {
        let of_slices = self.in_the_way.get(name).into_iter().flat_map(BTreeMap::values);
        let mut told = self.obstacles.get(name).into_iter().chain(of_slices);
        unwritten.obstacle().is_some_and(|obstacle| told.any(|one| *one == obstacle))
    }

    /// Notes that somebody else's object has the name of a slice; whether that is news.
    fn stands_in_the_way(&mut self, name: &ServiceName, slice: &str, unwritten: &Unwritten) -> bool {
        let Some(obstacle) = unwritten.obstacle() else { return false };
        let before = self.in_the_way.entry(name.clone()).or_default().insert(slice.to_owned(), obstacle.clone());
        before != Some(obstacle)
    }

    fn way_is_free(&mut self, name: &ServiceName, slice: &str) {
        let Some(slices) = self.in_the_way.get_mut(name) else { return };
        slices.remove(slice);
        if slices.is_empty() {
            self.in_the_way.remove(name);
        }
    }

    fn end(&mut self, name: ServiceName, turn: Turn) {
        let now = clock::instant();
        self.queue.release(&name, !turn.unanswered.is_empty());
        if self.exports.one(&name, name.name()).is_none() {
            // One that comes again is told again.
            self.warned.remove(&name);
        }
        let failed = if turn.unanswered.is_empty() { turn.failed } else { Some(Unwritten::NoAnswer) };
        match failed {
            None | Some(Unwritten::Families(_) | Unwritten::AddressTaken) => {
                self.taken.remove(&name);
                self.queue.settled(&name);
                if self.mailbox.facts(&name).is_empty() {
                    self.obstacles.remove(&name);
                    self.in_the_way.remove(&name);
                    self.queue.forget(&name);
                }
            }
            Some(Unwritten::Failed(_) | Unwritten::NoAnswer) => self.queue.failed(name, now, fastrand::f64()),
            Some(Unwritten::Away(_)) => self.due(name, now),
            Some(Unwritten::InTheWay(_)) => {
                let others = self.in_the_way.len() + self.obstacles.len();
                self.queue.obstructed(name, now, fastrand::f64(), others);
            }
            Some(Unwritten::Stale(_) | Unwritten::Refused(_)) => self.queue.refused(name, now, fastrand::f64()),
        }
    }
}
