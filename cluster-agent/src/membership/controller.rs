//! Edge. Watches this namespace's Memberships: joins by one, says in its status how it goes, and ends when it is deleted.

use std::path::PathBuf;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ListParams, Patch, PatchParams};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::events::{Event as Remark, EventType, Recorder, Reporter};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource as _, ResourceExt as _};
use meshfed_crds::api_server::{Standing, Steady, custom_watch_config};
use meshfed_crds::custom::{Membership, MembershipStatus};
use meshfed_runtime::backoff::{BASE, Backoff};
use meshfed_runtime::clock;
use meshfed_runtime::readiness::Guard;
use meshfed_runtime::telemetry::chain;
use tokio::sync::watch;

use super::judge::{Facts, Phase, chosen, differs, newly_stalled, second, status, wishes};
use super::keeper::{Followed, IdentityKept};
use super::token::{FoundToken, Tokens};
use super::views::{Views, ViewsError};
use super::why::{is_answered, is_away, phase_of, unkept, unrestored};
use super::{CONTROLLER, FIELD_MANAGER, IDENTITY_SECRET, Keeper};
use crate::enroll::{self, AgentFile};

/// The longest pause between two attempts to join.
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// How often in a row an agent that does not lead finds no member in the Secret before the cluster has left.
const MISSED_MAX: u32 = 3;
/// How often what changed in the data directory is brought into the Secret.
const KEEP_PERIOD: Duration = Duration::from_secs(30);
/// How often it is looked whether the view changed.
const VIEW_LOOK: Duration = Duration::from_secs(1);
/// The longest note of an event, in characters (Kubernetes: 1,024).
const NOTE_MAX: usize = 1000;
/// How often it is looked whether somebody has changed the Secret.
const LOOK_PERIOD: Duration = Duration::from_secs(5);

/// What the controller works with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The namespace of the release.
    pub namespace: String,
    /// The only Secret that a token is read from (`membership.tokenSecret`).
    pub token_secret: String,
    /// The data directory of the member.
    pub data_dir: PathBuf,
    /// Whether the last good view is kept in Secrets, too.
    pub keep_view: bool,
    /// Whether this agent is the one that joins and writes; the others take what it has got.
    pub writes: watch::Receiver<bool>,
    /// Which of the agents of the release it is, for events; empty: the only one.
    pub instance: String,
}

/// How attending to a member ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attended {
    /// Its Membership was deleted: the cluster is to leave.
    Deleted,
    /// Another agent has left for all of them.
    Left,
}

/// The Memberships of this namespace, and what to do by them.
pub struct Controller {
    settings: Settings,
    memberships: Api<Membership>,
    tokens: Tokens,
    keeper: Keeper,
    views: Option<Views>,
    recorder: Recorder,
    events: BoxStream<'static, watcher::Result<Event<Membership>>>,
    /// What is there.
    seen: Standing<Membership>,
    /// The uid of the Membership that is remembered to be there.
    remembered: Option<String>,
    /// Whether the kind was missing when this agent looked first: its objects went with it, which is nobody's wish to leave.
    kind_was_missing: bool,
    /// Pending while it is not known whether the cluster is a member.
    undecided: Option<Guard>,
    /// The generation and the Secret's version that were refused: asking again with them is of no use.
    refused: Option<((i64, String), Phase)>,
    /// Why Memberships cannot be watched, as the log was told; empty: they can.
    unseen: String,
}

impl Controller {
    /// Begins to watch.
    #[must_use]
    pub fn new(client: Client, settings: Settings) -> Self {
        let memberships: Api<Membership> = Api::namespaced(client.clone(), &settings.namespace);
        let instance = Some(settings.instance.clone()).filter(|name| !name.is_empty());
        let reporter = Reporter { controller: CONTROLLER.to_owned(), instance };
        let recorder = Recorder::new(client.clone(), reporter);
        let secrets: Api<Secret> = Api::namespaced(client, &settings.namespace);
        let keeper = Keeper::new(secrets.clone(), IDENTITY_SECRET.to_owned(), settings.data_dir.clone());
        let views = settings.keep_view.then(|| Views::new(secrets.clone(), &settings.data_dir));
        let tokens = Tokens { secrets, namespace: settings.namespace.clone(), allowed: settings.token_secret.clone() };
        let events = watcher(memberships.clone(), custom_watch_config()).backoff(Steady::default()).boxed();
        Self {
            settings,
            memberships,
            tokens,
            keeper,
            views,
            recorder,
            events,
            seen: Standing::default(),
            remembered: None,
            kind_was_missing: false,
            undecided: None,
            refused: None,
            unseen: String::new(),
        }
    }

    /// The Secret that the member's files are kept in.
    #[must_use]
    pub const fn keeper(&self) -> &Keeper {
        &self.keeper
    }

    /// While the cluster leaves: tells Memberships that are made meanwhile why they wait. It comes back, with why, when there
    /// is one and an attempt to tell the hub has failed (`why`).
    pub async fn overtaken(&mut self, mut why: watch::Receiver<Option<String>>) -> String {
        loop {
            let failed = why.borrow_and_update().clone();
            if chosen(self.seen.values()).is_some() {
                let message = match &failed {
                    None => {
                        "this cluster tells the hub of its last Membership that it leaves, and then joins".to_owned()
                    }
                    Some(why) => format!(
                        "the hub of the last Membership was not told that this cluster leaves ({why}): there it stays \
                         disconnected until it is evicted. It joins by this Membership now"
                    ),
                };
                self.say(&Phase::Waiting { reason: "Leaving", message }, &Facts::default()).await;
                if let Some(why) = failed {
                    return why;
                }
            }
            tokio::select! {
                () = self.turn() => {}
                Ok(()) = why.changed() => {}
            }
        }
    }

    /// Waits until the data directory is a member's: brought back from the Secret, or joined by a Membership. `undecided` is
    /// let go of once it is known that the cluster is none: an agent that is to wait for a Membership is ready, and one of a
    /// member is not before it serves.
    pub async fn join(&mut self, undecided: Guard) -> AgentFile {
        self.undecided = Some(undecided);
        let mut backoff = Backoff::with(BASE, PAUSE_MAX, fastrand::u64(..));
        let mut logged = None;
        loop {
            let leads = *self.settings.writes.borrow();
            match self.attempt().await {
                Ok(member) => {
                    self.say(&joined(&member), &Facts::default()).await;
                    self.restore_view().await;
                    return member;
                }
                Err(phase) => {
                    if let Some(phase) = &phase {
                        log_once(phase, &mut logged);
                        self.say(phase, &Facts::default()).await;
                    }
                    let pause = tokio::time::sleep(backoff.failed(clock::instant()));
                    let mut pause = std::pin::pin!(pause);
                    let before = wishes(self.seen.values());
                    // Its own writes come back as events, too: what is tried again at once for them is tried without end.
                    while wishes(self.seen.values()) == before && *self.settings.writes.borrow() == leads {
                        let writes = self.settings.writes.clone();
                        tokio::select! {
                            () = self.turn() => {}
                            () = changed(writes, leads) => {}
                            () = pause.as_mut() => break,
                        }
                    }
                    if wishes(self.seen.values()) != before || *self.settings.writes.borrow() != leads {
                        backoff.reset();
                    }
                }
            }
        }
    }

    /// Tells how the member is and keeps its files, until its Membership is deleted, or another agent has left. An agent
    /// that does not write takes what the one that does has kept; `renewed`: it was handed another identity.
    pub async fn attend(
        &mut self,
        member: &AgentFile,
        mut facts: watch::Receiver<Facts>,
        renewed: impl Fn(),
    ) -> Attended {
        let phase = joined(member);
        let mut keep = tokio::time::interval(KEEP_PERIOD);
        keep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut view_look = tokio::time::interval(VIEW_LOOK);
        view_look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut look = tokio::time::interval(LOOK_PERIOD);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let uid = |seen: &Standing<Membership>| chosen(seen.values()).and_then(|m| m.uid());
        let (mut of, mut deleted, mut missed) = (uid(&self.seen), false, 0);
        let (mut unkept, mut identity) = (None, IdentityKept::default());
        let mut looked_back = false;
        loop {
            let writes = *self.settings.writes.borrow();
            if writes && !looked_back && self.seen.is_whole() {
                match self.went_while_nobody_looked().await {
                    Ok(gone) => (deleted, looked_back) = (deleted || gone, true),
                    Err(why) => tracing::warn!(why, "whether the Membership was deleted meanwhile is not known yet"),
                }
            }
            if writes && (deleted || self.keeper.is_leaving()) {
                self.begin_leaving().await;
                return Attended::Deleted;
            }
            let (unkept_now, identity_now) = (unkept.clone(), identity.fault.clone());
            let now = Facts { unkept: unkept_now, identity: identity_now, ..facts.borrow_and_update().clone() };
            self.say(&phase, &now).await;
            if writes {
                self.remember(of.as_ref()).await;
            }
            let role = self.settings.writes.clone();
            tokio::select! {
                () = self.turn() => {
                    deleted |= of.as_ref().is_some_and(|uid| !self.seen.values().any(|m| m.uid().as_ref() == Some(uid)));
                    of = uid(&self.seen);
                }
                told = facts.changed() => {
                    if told.is_err() {
                        // The agent has ended; who runs it knows what to do.
                        std::future::pending::<()>().await;
                    }
                }
                // What the agent before this one has kept comes before what this one keeps.
                () = changed(role, writes) => missed = self.follow(missed, &renewed).await,
                _ = keep.tick() => {
                    if !writes {
                        missed = self.follow(missed, &renewed).await;
                    } else {
                        self.keep_identity(&mut identity).await;
                    }
                }
                _ = view_look.tick(), if writes => {
                    if let Some(kept) = self.keep_view().await {
                        unkept = kept.err();
                    }
                }
                _ = look.tick(), if writes => self.look_at_identity(&mut identity).await,
            }
            if missed >= MISSED_MAX && !*self.settings.writes.borrow() {
                return Attended::Left;
            }
        }
    }

    /// Whether the Membership that this is a member by was deleted while no agent ran, or none saw it. Only what this Secret
    /// remembers can have gone; that none is there is what a list says that the API server answers now.
    async fn went_while_nobody_looked(&self) -> Result<bool, String> {
        if self.seen.values().next().is_some() {
            return Ok(false);
        }
        let remembered = self.keeper.remembered().await.map_err(|error| chain(&error))?;
        let Some(uid) = remembered.filter(|_| !self.kind_was_missing) else {
            tracing::info!(
                "there is no Membership, and none is known to have been deleted: this cluster stays a member"
            );
            return Ok(false);
        };
        let listed = self.memberships.list(&ListParams::default()).await.map_err(|error| chain(&error))?;
        if listed.items.is_empty() {
            tracing::info!(uid, "the Membership was deleted while no agent ran");
        }
        Ok(listed.items.is_empty())
    }

    /// Remembers the Membership that counts: an agent that starts without it knows that it was there.
    async fn remember(&mut self, uid: Option<&String>) {
        let Some(uid) = uid.filter(|uid| self.remembered.as_ref() != Some(uid)) else { return };
        match self.keeper.remember(uid).await {
            Ok(()) => self.remembered = Some(uid.clone()),
            Err(error) => tracing::warn!(error = %chain(&error), "the Membership cannot be remembered"),
        }
    }

    /// Keeps the member's files where somebody has changed the Secret.
    async fn look_at_identity(&mut self, known: &mut IdentityKept) {
        if known.is_changed(self.keeper.version().await) {
            self.keep_identity(known).await;
            if known.fault.is_none() {
                // One that was made again remembers no Membership.
                self.remembered = None;
            }
        }
    }

    /// Keeps the member's files, and what is in the way.
    async fn keep_identity(&self, known: &mut IdentityKept) {
        let fault = match self.keeper.keep().await {
            Ok(()) => None,
            // One that is away for a moment has lost nothing.
            Err(error) if is_away(&error) => {
                tracing::warn!(error = %chain(&error), "the member's files cannot be kept now");
                return;
            }
            Err(error) => Some(unkept(&error, &self.settings.namespace)),
        };
        if let Some((reason, message)) = fault.as_ref().filter(|_| fault != known.fault) {
            tracing::warn!(reason, message, "the member's files cannot be kept");
        }
        known.fault = fault;
    }

    /// Keeps the last good view, where that is due; gives why it is not kept.
    async fn keep_view(&mut self) -> Option<Result<(), (&'static str, String)>> {
        let Err(error) = self.views.as_mut()?.keep(clock::instant()).await? else { return Some(Ok(())) };
        let reason = if matches!(error, ViewsError::TooLarge(_)) { "ViewTooLarge" } else { "ViewNotKept" };
        tracing::warn!(error = %chain(&error), "the last good view is not kept in the Secrets of the release");
        Some(Err((reason, format!("the last good view is not kept for the next pod: {}", chain(&error)))))
    }

    /// Brings the last good view back, for an agent that starts while the hub is away. Without it the hub tells all.
    async fn restore_view(&self) {
        let Some(views) = &self.views else { return };
        if let Err(error) = views.restore().await {
            tracing::warn!(error = %chain(&error), "no last good view is brought back; the hub tells it");
        }
    }

    /// Makes durable that the cluster leaves, before the hub hears of it: an agent that ends in the middle would be a member
    /// again.
    async fn begin_leaving(&self) {
        while let Err(error) = self.keeper.begin_leaving().await {
            tracing::warn!(error = %chain(&error), "that this cluster leaves cannot be kept yet; it is tried again");
            tokio::time::sleep(PAUSE_MAX).await;
        }
    }

    /// Takes what the agent that leads has kept; counts how often in a row it was no member's.
    async fn follow(&self, missed: u32, renewed: &impl Fn()) -> u32 {
        match self.keeper.follow().await {
            Ok(Followed::Member { renewed: false }) => 0,
            Ok(Followed::Member { renewed: true }) => {
                renewed();
                0
            }
            // Where a Membership is still there, somebody may have emptied the Secret, and the agent that leads fills it.
            Ok(Followed::NoMember) if self.seen.values().next().is_some() => missed + 1,
            Ok(Followed::NoMember) => MISSED_MAX,
            Ok(Followed::Anew) => {
                tracing::info!("the cluster has left and joined anew: this agent begins anew, too");
                MISSED_MAX
            }
            Err(error) => {
                tracing::warn!(error = %chain(&error), "what the agent that leads has kept cannot be taken");
                missed
            }
        }
    }

    /// Takes the next event of the watch; it comes back when something has changed.
    async fn turn(&mut self) {
        loop {
            match self.events.next().await {
                Some(Ok(event)) => {
                    // That a list begins is no answer yet.
                    if !matches!(event, Event::Init) {
                        self.unseen.clear();
                    }
                    if self.seen.take(event) {
                        return;
                    }
                }
                Some(Err(error)) => {
                    self.kind_was_missing |= !self.seen.is_whole() && is_of_a_missing_kind(&error);
                    let error = chain(&error);
                    if error != self.unseen {
                        tracing::warn!(error, "Memberships cannot be watched; it is tried again");
                        self.unseen = error;
                    }
                }
                None => std::future::pending().await,
            }
        }
    }

    /// One attempt. `Err(None)`: there is no Membership to tell anything.
    async fn attempt(&mut self) -> Result<AgentFile, Option<Phase>> {
        if !*self.settings.writes.borrow() {
            return self.attempt_to_follow().await;
        }
        let restored = match self.keeper.restore().await {
            Ok(restored) => restored,
            Err(error) => {
                tracing::warn!(error = %chain(&error), "this cluster's identity cannot be brought back");
                return Err(Some(unrestored(&error, &self.settings.namespace)));
            }
        };
        if restored.member {
            return AgentFile::read(&self.settings.data_dir)
                .map_err(|error| Some(Phase::Refused { reason: "IdentityDamaged", message: chain(&error) }));
        }
        self.undecided = None;
        let Some(membership) = chosen(self.seen.values()).cloned() else { return Err(None) };
        if membership.status.is_none() {
            self.say(&Phase::Starting, &Facts::default()).await;
        }
        let token = self.tokens.of(&membership).await.map_err(Some)?;
        let asked = (membership.metadata.generation.unwrap_or_default(), token.version.clone());
        if let Some((before, phase)) = &self.refused
            && *before == asked
        {
            return Err(Some(phase.clone()));
        }
        if self.refused.take().is_some() {
            // Something was mended: whoever waits is to see that it is tried again.
            self.say(&Phase::Starting, &Facts::default()).await;
        }
        let joined = self.enroll(&membership, &token, restored.ca).await;
        match joined {
            Ok(member) => {
                self.refused = None;
                tracing::info!(cluster = %member.cluster, fleet = %member.fleet, hub = membership.spec.hub, "joined");
                self.tokens.spend(&token).await;
                Ok(member)
            }
            Err(phase) => {
                if matches!(phase, Phase::Refused { .. }) {
                    self.refused = Some((asked, phase.clone()));
                }
                Err(Some(phase))
            }
        }
    }

    /// As [`Self::attempt`], for an agent that does not lead: it waits until the one that does has joined.
    async fn attempt_to_follow(&mut self) -> Result<AgentFile, Option<Phase>> {
        match self.keeper.follow().await {
            Ok(Followed::Member { .. }) => AgentFile::read(&self.settings.data_dir)
                .map_err(|error| Some(Phase::Refused { reason: "IdentityDamaged", message: chain(&error) })),
            Ok(Followed::Anew) => {
                if let Err(error) = self.keeper.forget_here() {
                    tracing::warn!(error = %chain(&error), "the membership of before cannot be forgotten");
                }
                Err(None)
            }
            Ok(Followed::NoMember) => {
                self.undecided = None;
                Err(None)
            }
            Err(error) => {
                tracing::warn!(error = %chain(&error), "what the agent that leads has kept cannot be taken");
                Err(None)
            }
        }
    }

    /// Asks the federator, with keys that are in the Secret before it answers.
    async fn enroll(
        &self,
        membership: &Membership,
        token: &FoundToken,
        ca_from: Option<PathBuf>,
    ) -> Result<AgentFile, Phase> {
        let federator = membership.spec.hub.trim_start_matches("https://").trim_end_matches('/').to_owned();
        let keeper = self.keeper.clone();
        let options = enroll::Options {
            federator,
            token: token.token.clone(),
            data_dir: self.settings.data_dir.clone(),
            replace: false,
            ca_from,
        };
        let keep = async move |pending: PathBuf| keeper.keep_pending(&pending).await.map_err(|error| chain(&error));
        let joined = enroll::join_keeping(options, keep).await;
        match joined {
            Ok(joined) => match self.keeper.keep().await {
                Ok(()) => Ok(joined.member),
                // The directory has it, and the next attempt keeps it.
                Err(error) => Err(Phase::Waiting { reason: "IdentityNotKept", message: chain(&error) }),
            },
            Err(error) => {
                if is_answered(&error)
                    && let Err(error) = self.keeper.forget_pending().await
                {
                    tracing::warn!(error = %chain(&error), "a refused join cannot be forgotten");
                }
                Err(phase_of(&error))
            }
        }
    }

    /// Writes what the Memberships' statuses are to say, where they do not say it yet.
    async fn say(&mut self, phase: &Phase, facts: &Facts) {
        if !*self.settings.writes.borrow() {
            return;
        }
        let now = clock::timestamp();
        let Some(first) = chosen(self.seen.values()).map(Membership::name_any) else { return };
        let names: Vec<String> = self.seen.names().cloned().collect();
        for name in names {
            let Some(membership) = self.seen.get(&name) else { continue };
            let wanted =
                if name == first { status(membership, phase, facts, now) } else { second(membership, &first, now) };
            if !differs(membership, &wanted) {
                continue;
            }
            let before = membership.status.as_ref().map(|s| s.conditions.clone()).unwrap_or_default();
            match self.patch_status(&name, &wanted).await {
                Ok(membership) => {
                    if let Some((reason, message)) = newly_stalled(&before, &wanted.conditions) {
                        self.warn(&membership, reason, message).await;
                    }
                    self.seen.put(membership);
                }
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => tracing::warn!(name, error = %chain(&error), "the status cannot be written"),
            }
        }
    }

    /// A warning event. The condition says the same, so one that is lost is not made again.
    async fn warn(&self, membership: &Membership, reason: &str, message: &str) {
        let remark = Remark {
            type_: EventType::Warning,
            reason: reason.to_owned(),
            note: Some(message.chars().take(NOTE_MAX).collect()),
            action: "Judge".to_owned(),
            secondary: None,
        };
        if let Err(error) = self.recorder.publish(&remark, &membership.object_ref(&())).await {
            tracing::warn!(reason, error = %chain(&error), "an event on the Membership was not written");
        }
    }

    async fn patch_status(&self, name: &str, status: &MembershipStatus) -> kube::Result<Membership> {
        let patch = serde_json::json!({
            "apiVersion": "federation.meshfed.io/v1alpha1",
            "kind": "Membership",
            "status": status,
        });
        self.memberships.patch_status(name, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(patch)).await
    }
}

/// Logs why the cluster has not joined, once for each reason in a row: who reads logs learns it, too, and a cause that stays
/// fills none.
fn log_once(phase: &Phase, logged: &mut Option<Phase>) {
    if logged.as_ref() == Some(phase) {
        return;
    }
    *logged = Some(phase.clone());
    match phase {
        Phase::Starting | Phase::Joined { .. } => {}
        Phase::Waiting { reason, message } => tracing::info!(reason, "not joined yet: {message}"),
        Phase::Refused { reason, message } => tracing::warn!(reason, "not joined: {message}"),
    }
}

/// Whether a list failed because there is no such kind.
fn is_of_a_missing_kind(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::InitialListFailed(kube::Error::Api(status)) if status.code == 404)
}

/// Waits until it is other than this; for ever where nobody changes it.
async fn changed(mut writes: watch::Receiver<bool>, from: bool) {
    if writes.wait_for(|now| *now != from).await.is_err() {
        std::future::pending().await
    }
}

fn joined(member: &AgentFile) -> Phase {
    let (cluster, trust_domain) = (member.cluster.to_string(), member.trust_domain.to_string());
    Phase::Joined { cluster, trust_domain, token_id: member.token_id.clone() }
}
