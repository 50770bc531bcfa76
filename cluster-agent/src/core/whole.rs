//! Pure. Whether the view is whole. While it is not, a sidecar keeps what an earlier stream has given it of all that may
//! be made of the view (XD3): an agent that does not know what others show must not tell that they show nothing.

use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime};

use meshfed_model::member::Members;
use meshfed_model::names::ClusterName;

use super::Core;
use super::proxies::Admitted;
use super::store::{Seen, Store};
use crate::translate::Mode;
use crate::view::Part;

/// How long members are waited for of whom nothing is known: one that never offered anything has nothing to say. An agent
/// is back at a hub that runs within its longest pause of 5 s; this is far from the 30 s that people wait for `ready`. As
/// long is waited for a hub, and for its word that all is told, which it does not give while a member has not come back.
pub(super) const UNHEARD_PATIENCE: Duration = Duration::from_secs(15);

/// What the view lacks.
#[derive(Debug, Default)]
pub(super) struct Missing {
    /// Parts that were there once, and the members where there is no view at all.
    parts: BTreeSet<Part>,
    /// Members that showed nothing since the hub named them, where it is not known what they showed before.
    unheard: BTreeSet<ClusterName>,
    /// When they are waited for no longer; none while there is no hub.
    until: Option<Instant>,
    /// The addresses that derived Services have, where there are such: not yet read.
    addresses: bool,
    news: News,
}

/// What came while this agent did not hear the hub, and other agents of the cluster did.
#[derive(Debug, Default)]
struct News {
    /// It is waited for since the start of the agent: sidecars may hold it already, from the agent that they had before.
    awaited: bool,
    /// When it is waited for no longer, as no hub speaks.
    until: Option<Instant>,
    /// Whether there is a view that was kept, as a whole.
    kept: bool,
    /// Whether several agents of the cluster take turns in writing objects.
    shared: bool,
    /// Whether a hub is there.
    hub: bool,
    /// Whether it has told all.
    told: bool,
    /// When its word is waited for no longer.
    word_until: Option<Instant>,
}

impl Missing {
    pub(super) fn deadline(&self) -> Option<Instant> {
        [self.until, self.news.until, self.news.word_until].into_iter().flatten().min()
    }
}

impl Admitted {
    /// What a stream sees; a gateway forwards to the own cluster alone.
    pub(super) fn seen<'a>(&'a self, store: &'a Store, secrets_only: bool, view_unknown: bool) -> Seen<'a> {
        let view_unknown = view_unknown && self.class.mode == Mode::Sidecar;
        Seen { store, scopes: &self.scopes, secrets_only, view_unknown }
    }
}

impl Core {
    /// What could not be read back of the view; without members there is none.
    pub fn miss(&mut self, parts: BTreeSet<Part>) {
        self.missing.parts = parts;
        if !self.view_loaded {
            self.missing.parts.insert(Part::Members);
        }
    }

    /// The parts that the hub has to tell again.
    pub fn missing(&self) -> impl Iterator<Item = &Part> {
        self.missing.parts.iter()
    }

    /// Whether all is known of which resources are made.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.has_all_parts() && !self.missing.news.awaited
    }

    fn has_all_parts(&self) -> bool {
        self.missing.parts.is_empty() && self.missing.unheard.is_empty() && !self.missing.addresses
    }

    /// Whether what was kept is all there, and may be shown to those who hold nothing.
    pub(super) fn knows_kept(&self) -> bool {
        self.missing.news.kept && self.has_all_parts()
    }

    /// Whether all is known that other agents of this cluster knew when they wrote objects.
    #[must_use]
    pub const fn is_current(&self) -> bool {
        self.missing.news.told || !self.missing.news.shared
    }

    /// What a sidecar's configuration waits for; `None`: the view is whole.
    pub(super) fn held_back(&self) -> Option<String> {
        if let Some(Part::Members) = self.missing.parts.first() {
            return Some(
                "its agent does not know the fleet's members yet: no session with the hub has told them".into(),
            );
        }
        let named = |names: &[String]| names.join(", ");
        if !self.missing.parts.is_empty() {
            let parts: Vec<String> = self.missing.parts.iter().map(ToString::to_string).collect();
            return Some(format!(
                "its agent lost {} of its view, and takes nothing away until the hub has told it again; see GET /readyz \
                 of the agent",
                named(&parts)
            ));
        }
        if self.missing.unheard.is_empty() && self.missing.addresses {
            return Some("its agent has not read the derived Services of imports yet".into());
        }
        let unheard: Vec<String> = self.missing.unheard.iter().map(ToString::to_string).collect();
        let patience = UNHEARD_PATIENCE.as_secs();
        if unheard.is_empty() {
            return self.missing.news.awaited.then(|| {
                format!("its agent waits at most {patience} s for what the hub has told other agents of the cluster")
            });
        }
        let unheard = named(&unheard);
        Some(format!(
            "its agent waits at most {patience} s for what {unheard} may offer, of whom the hub has told nothing yet"
        ))
    }

    /// What this agent starts with may be older than what sidecars hold and what objects show: another agent, or the one
    /// before it, has heard more. `kept`: there is a view, and all of it; `shared`: other agents write objects, too.
    pub const fn await_news(&mut self, kept: bool, shared: bool) {
        self.missing.news.awaited = true;
        self.missing.news.kept = kept;
        self.missing.news.shared = shared;
    }

    /// Streams are answered from now on: the hub is waited for so long, and it can know what this cluster asks for.
    pub(super) fn await_hub_until(&mut self, now: Instant) {
        let news = &mut self.missing.news;
        let until = Some(now + UNHEARD_PATIENCE);
        news.until = until.filter(|_| news.awaited);
        news.word_until = until.filter(|_| news.hub && !news.told);
    }

    /// There is a hub.
    pub fn hub_found(&mut self, now: Instant) {
        let open = self.open;
        let news = &mut self.missing.news;
        news.hub = true;
        news.word_until = (open && !news.told).then(|| now + UNHEARD_PATIENCE);
    }

    /// The hub has told all that there is.
    pub fn caught_up(&mut self, now: Instant, wall: SystemTime) {
        self.take_as_told();
        self.settle(now, wall);
    }

    fn take_as_told(&mut self) {
        let whole = self.is_whole();
        let news = &mut self.missing.news;
        (news.awaited, news.told) = (false, true);
        (news.until, news.word_until) = (None, None);
        self.made_whole(whole);
    }

    /// No hub has spoken in time, or none has said that it has told all.
    pub(super) fn give_up_news(&mut self, now: Instant) {
        let over = |until: Option<Instant>| until.is_some_and(|until| until <= now);
        if over(self.missing.news.word_until) {
            self.take_as_told();
        } else if over(self.missing.news.until) {
            let whole = self.is_whole();
            self.missing.news.until = None;
            self.missing.news.awaited = false;
            self.made_whole(whole);
        }
    }

    /// Imports have the addresses of derived Services, which are still to be read: with others, or with none, captured
    /// clients would be told that those which they hold are nobody's.
    pub fn await_import_addresses(&mut self) {
        self.missing.addresses = true;
    }

    /// They were read.
    pub(super) fn told_addresses(&mut self) {
        let whole = self.is_whole();
        self.missing.addresses = false;
        self.made_whole(whole);
    }

    /// The hub is away: nobody else will be heard for now, and other agents may hear more.
    pub const fn hub_lost(&mut self) {
        self.missing.until = None;
        let news = &mut self.missing.news;
        (news.hub, news.told, news.word_until) = (false, false, None);
    }

    /// A part was told.
    pub(super) fn told(&mut self, part: &Part) {
        let whole = self.is_whole();
        self.missing.parts.remove(part);
        if let Part::Origin(origin) = part {
            self.missing.unheard.remove(origin);
        }
        self.made_whole(whole);
    }

    /// The members were told; others than they are waited for no longer.
    pub(super) fn told_members(&mut self, members: &Members, now: Instant) {
        let whole = self.is_whole();
        let is_member = |origin: &ClusterName| members.members.contains_key(origin);
        if self.missing.parts.remove(&Part::Members) {
            let heard = self.view.vector();
            let others = members.members.keys().filter(|m| **m != self.settings.cluster && !heard.contains_key(*m));
            self.missing.unheard = others.cloned().collect();
        }
        self.missing.parts.retain(|part| !matches!(part, Part::Origin(origin) if !is_member(origin)));
        self.missing.unheard.retain(is_member);
        self.missing.until = (!self.missing.unheard.is_empty()).then(|| now + UNHEARD_PATIENCE);
        self.made_whole(whole);
    }

    /// Who was not heard in time has nothing to say.
    pub(super) fn give_up_unheard(&mut self, now: Instant) {
        if self.missing.until.is_none_or(|until| until > now) {
            return;
        }
        let whole = self.is_whole();
        self.missing.until = None;
        self.missing.unheard.clear();
        self.made_whole(whole);
    }

    /// Everybody is told what was held back.
    fn made_whole(&mut self, before: bool) {
        self.effects.names = true;
        if !before && self.is_whole() {
            self.missing.until = None;
            self.touched.extend(self.streams.keys());
            // Names that nobody has, and what waits for the view, can be told from now on.
            self.effects.rows = true;
        }
    }
}
