//! Edge. The mirror as a task: watches, and turns of names.

mod room;
mod turns;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, SelectAll, Stream, StreamExt, select_all};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource};
use meshfed_crds::api_server::{Steady, custom_watch_config, watch_config};
use meshfed_model::names::{ClusterName, ServiceName};
use meshfed_runtime::clock;
use meshfed_runtime::drain::Watch;
use meshfed_runtime::metrics::Metrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::watch;

use super::apply::{Unwritten, Writer};
use super::families::Families;
use super::mailbox::Mailbox;
use super::misnamed::Misnamed;
use super::names::{MANAGED_BY, MESHFED, SLICE_MANAGED_BY, SLICE_MANAGER};
use super::objects::{ServiceExport, ServiceImport};
use super::plan::{ImportAddresses, Obstacle, cluster_ips, misnamed};
use super::queue::{Party, Queue};
use super::quota::{Limits, Quota};
use super::silence::Silence;
use super::store::{Objects, Owned};
use crate::source::Unserved;
use room::ClusterLabel;
use turns::{Answer, Turn};

/// How long addresses of imports are gathered before they are told: each telling is of all.
const ADDRESSES_PAUSE: Duration = Duration::from_millis(10);

/// How the mirror works.
#[derive(Debug, Clone, Default)]
pub struct MirrorSettings {
    /// The pod that writes, for events.
    pub instance: Option<String>,
    /// Shows whether the API server has ServiceImport, the one kind that nobody else watches.
    pub unserved: Unserved,
    /// How many imports each other cluster may cause.
    pub limits: Limits,
    /// Told what is not imported for want of room, and what to do; none: all is.
    pub over: watch::Sender<Option<String>>,
}

/// The label of writes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct WriteLabel {
    /// `ok` or the kind of failure.
    pub result: &'static str,
}

/// What the mirror counts.
#[derive(Debug, Clone)]
pub struct MirrorMetrics {
    writes: Family<WriteLabel, Counter>,
    watches: Counter,
    waiting: Family<ClusterLabel, Gauge>,
}

impl MirrorMetrics {
    /// Registers the mirror's metrics.
    #[must_use]
    pub fn register(metrics: &Metrics) -> Self {
        Self {
            writes: metrics.counters("meshfed_mirror_writes", "Writes of imports and statuses, by result"),
            watches: metrics.counter("meshfed_mirror_watch_errors", "Watches of the API server that failed"),
            waiting: metrics.gauges(
                "meshfed_mirror_imports_over_limit",
                "Services of another cluster that are not imported because it exports more than the limit",
            ),
        }
    }
    fn count(&self, result: &'static str) {
        self.writes.get_or_create(&WriteLabel { result }).inc();
    }
}

enum News {
    Import(Box<Event<ServiceImport>>),
    Export(Box<Event<ServiceExport>>),
    Service(Box<Event<Service>>),
    Slice(Box<Event<EndpointSlice>>),
}

impl News {
    /// The kind that the API server has told of; none: a list is begun, and nobody has answered yet.
    fn heard(&self) -> Option<Cow<'static, str>> {
        fn of<K: Resource<DynamicType = ()>>(event: &Event<K>) -> Option<Cow<'static, str>> {
            (!matches!(event, Event::Init)).then(|| K::kind(&()))
        }
        match self {
            Self::Import(event) => of(event),
            Self::Export(event) => of(event),
            Self::Service(event) => of(event),
            Self::Slice(event) => of(event),
        }
    }
    /// Whether an object is gone.
    fn is_deletion(&self) -> bool {
        match self {
            Self::Import(event) => matches!(**event, Event::Delete(_)),
            Self::Export(event) => matches!(**event, Event::Delete(_)),
            Self::Service(event) => matches!(**event, Event::Delete(_)),
            Self::Slice(event) => matches!(**event, Event::Delete(_)),
        }
    }
}

/// An export whose name is none, when its write was begun, and how that ended.
type Told = (ServiceExport, Instant, Result<(), Unwritten>);
/// A watch that failed, by its kind.
type Unseen = (Cow<'static, str>, watcher::Error);
type Watches = SelectAll<Pin<Box<dyn Stream<Item = Result<News, Unseen>> + Send>>>;

/// The mirror of one replica.
pub struct Mirror {
    client: Client,
    mailbox: Mailbox,
    leads: watch::Receiver<bool>,
    /// Whether it knows, since it leads, what the one that led before has written by: what that one has made and this one
    /// has not heard of is not taken away.
    followed_on: bool,
    addresses: watch::Sender<Arc<ImportAddresses>>,
    metrics: MirrorMetrics,
    writer: Writer,
    queue: Queue,
    imports: Objects<ServiceImport>,
    exports: Objects<ServiceExport>,
    misnamed: Misnamed,
    /// The write of one of those.
    telling: FuturesUnordered<BoxFuture<'static, Told>>,
    services: Objects<Service>,
    slices: Objects<EndpointSlice>,
    /// What stands in the way of a derived Service.
    obstacles: BTreeMap<ServiceName, Obstacle>,
    /// What stands in the way of slices, by their names.
    in_the_way: BTreeMap<ServiceName, BTreeMap<String, Obstacle>>,
    /// Names whose old address is somebody else's.
    taken: BTreeSet<ServiceName>,
    /// Names that are being written.
    turns: BTreeMap<ServiceName, Turn>,
    /// One write of each of them.
    writes: FuturesUnordered<BoxFuture<'static, Answer>>,
    families: Families,
    /// What was warned of, by export.
    warned: BTreeMap<ServiceName, String>,
    silence: Silence,
    quota: Quota,
    /// Whether it counts: all that is imported already is known.
    counted: bool,
    /// When it is to be told what has no room.
    room_due: Option<Instant>,
    over: watch::Sender<Option<String>>,
    /// When addresses are to be told.
    addresses_due: Option<Instant>,
    /// Whether they were told once: that there are none is news, too.
    addresses_told: bool,
    /// What was said of watches that fail, by kind: each thing once.
    unseen: BTreeMap<Cow<'static, str>, String>,
    unserved: Unserved,
}

/// A watch of all objects of a kind as `config` says.
fn watched<K>(client: &Client, config: watcher::Config) -> impl Stream<Item = Result<Event<K>, Unseen>> + use<K>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + 'static,
{
    let events = watcher(Api::<K>::all(client.clone()), config).backoff(Steady::default());
    events.map(|event| event.map_err(|error| (K::kind(&()), error)))
}

/// Selects derived Services.
pub(super) fn our_services() -> String {
    format!("{MANAGED_BY}={MESHFED}")
}

/// Selects MCS slices that are ours: one of the two labels alone is anybody's.
pub(super) fn our_slices() -> String {
    format!("{SLICE_MANAGED_BY}={SLICE_MANAGER},{MANAGED_BY}={MESHFED}")
}

fn labelled(labels: &str) -> watcher::Config {
    watch_config().labels(labels)
}

fn watches(client: &Client) -> Watches {
    select_all([
        watched(client, custom_watch_config()).map(|e| e.map(|e| News::Import(Box::new(e)))).boxed(),
        watched(client, custom_watch_config())
            .map(|e| e.map(|e| News::Export(Box::new(e.modify(ServiceExport::slim)))))
            .boxed(),
        watched(client, labelled(&our_services())).map(|e| e.map(|e| News::Service(Box::new(e)))).boxed(),
        watched(client, labelled(&our_slices())).map(|e| e.map(|e| News::Slice(Box::new(e)))).boxed(),
    ])
}

/// Whether a list or a watch failed because there is no such kind.
fn is_missing(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status)) => status.code == 404,
        watcher::Error::InitialListFailed(_)
        | watcher::Error::WatchStartFailed(_)
        | watcher::Error::WatchError(_)
        | watcher::Error::WatchFailed(_)
        | watcher::Error::NoResourceVersion => false,
    }
}

fn take<K: Owned>(objects: &mut Objects<K>, event: Event<K>) -> BTreeSet<ServiceName> {
    match event {
        Event::Init => {
            objects.begin();
            BTreeSet::new()
        }
        Event::InitApply(object) | Event::Apply(object) => objects.put(object),
        Event::InitDone => objects.end(),
        Event::Delete(object) => objects.remove(&object).into_iter().collect(),
    }
}

impl Mirror {
    /// A mirror that writes while `leads`, and says in `addresses` what imports have which addresses.
    #[must_use]
    pub fn new(
        client: Client,
        settings: MirrorSettings,
        mailbox: Mailbox,
        leads: watch::Receiver<bool>,
        addresses: watch::Sender<Arc<ImportAddresses>>,
        metrics: MirrorMetrics,
    ) -> Self {
        Self {
            writer: Writer::new(client.clone(), settings.instance),
            client,
            mailbox,
            leads,
            followed_on: false,
            addresses,
            metrics,
            queue: Queue::default(),
            imports: Objects::default(),
            exports: Objects::default(),
            misnamed: Misnamed::default(),
            telling: FuturesUnordered::new(),
            services: Objects::default(),
            slices: Objects::default(),
            obstacles: BTreeMap::new(),
            in_the_way: BTreeMap::new(),
            taken: BTreeSet::new(),
            turns: BTreeMap::new(),
            writes: FuturesUnordered::new(),
            families: Families::default(),
            warned: BTreeMap::new(),
            silence: Silence::default(),
            quota: Quota::new(settings.limits),
            counted: false,
            room_due: None,
            over: settings.over,
            addresses_due: None,
            addresses_told: false,
            unseen: BTreeMap::new(),
            unserved: settings.unserved,
        }
    }

    /// Runs until the drain.
    ///
    /// # Errors
    /// None: the API server may be away for as long as it likes.
    pub async fn run(mut self, drain: Watch) -> Result<(), std::convert::Infallible> {
        let mut watches = watches(&self.client);
        let mailbox = self.mailbox.clone();
        let mut leads = self.leads.clone();
        let mut led = false;
        loop {
            let leading = *leads.borrow_and_update();
            if leading && !led {
                self.look_at_all();
                self.followed_on = false;
            }
            led = leading;
            self.followed_on |= leading && self.mailbox.is_current();
            self.begin_counting(leading);
            let turn = self.next(leading);
            let retry = if leading { self.tell_misnamed() } else { None };
            let families = self.families.due().filter(|_| leading);
            let due = [turn, self.addresses_due, self.room_due, retry, families].into_iter().flatten().min();
            let timer = async {
                match due {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = drain.signaled() => return Ok(()),
                Ok(()) = leads.changed() => {}
                () = mailbox.news() => self.hear(),
                Some(news) = watches.next() => self.see(news),
                Some(answer) = self.writes.next() => self.answered(answer),
                Some(told) = self.telling.next() => self.told(told),
                () = timer => {
                    let now = clock::instant();
                    if self.addresses_due.is_some_and(|at| at <= now) {
                        self.addresses_due = None;
                        self.tell_addresses();
                    }
                    self.tell_room(now);
                    if leading && let Some(name) = self.families.try_one(now) {
                        self.due(name, now);
                    }
                    if turn.is_some_and(|at| at <= now) {
                        self.begin(now);
                    }
                }
            }
        }
    }

    /// When something can be written next; `None`: not before something else happens.
    fn next(&self, leading: bool) -> Option<Instant> {
        if !leading || !self.counted || !self.mailbox.is_whole() || !self.lists_are_whole() || !self.has_place() {
            return None;
        }
        let due = self.queue.next(self.has_place_for_suspects())?;
        Some(self.silence.until().map_or(due, |until| due.max(until)))
    }

    /// Whether the API server has told once what is there.
    const fn lists_are_whole(&self) -> bool {
        self.imports.is_whole() && self.exports.is_whole() && self.services.is_whole() && self.slices.is_whole()
    }

    fn look_at_all(&mut self) {
        let now = clock::instant();
        let mut names = self.mailbox.names();
        names.extend(self.imports.owners().chain(self.exports.owners()).cloned());
        names.extend(self.services.owners().chain(self.slices.owners()).cloned());
        names.into_iter().for_each(|name| self.due(name, now));
    }

    fn hear(&mut self) {
        let now = clock::instant();
        for name in self.mailbox.take_changed() {
            self.count(&name, &self.mailbox.facts(&name));
            self.due(name, now);
        }
    }

    /// A name is to be written, in the turn of whose it is.
    fn due(&mut self, name: ServiceName, now: Instant) {
        self.queue.belongs(&name, self.party(&name));
        self.queue.said(name, now);
    }

    /// Whose a name is: the cluster's own where it exports it, else of the oldest that does; what nobody exports any more, of the
    /// first that is shown.
    fn party(&self, name: &ServiceName) -> Party {
        let facts = self.mailbox.facts(name);
        if facts.export.is_some() || self.exports.one(name, name.name()).is_some() {
            return None;
        }
        let shown = || {
            let status = self.imports.one(name, name.name())?.status.as_ref()?;
            ClusterName::new(&*status.clusters.first()?.cluster).ok()
        };
        facts.import.as_ref().and_then(|import| import.clusters.first().cloned()).or_else(shown)
    }

    fn see(&mut self, news: Result<News, Unseen>) {
        if let Some(kind) = news.as_ref().ok().and_then(News::heard) {
            self.unseen.remove(&kind);
            self.lacks(&kind, false);
        }
        let gone = news.as_ref().is_ok_and(News::is_deletion);
        let touched = match news {
            Ok(News::Import(event)) => take(&mut self.imports, *event),
            Ok(News::Export(event)) => {
                self.misnamed.see(&event);
                take(&mut self.exports, *event)
            }
            Ok(News::Service(event)) => {
                self.addresses_due.get_or_insert_with(|| clock::instant() + ADDRESSES_PAUSE);
                take(&mut self.services, *event)
            }
            Ok(News::Slice(event)) => take(&mut self.slices, *event),
            Err((kind, error)) => {
                self.metrics.watches.inc();
                self.lacks(&kind, is_missing(&error));
                let error = meshfed_runtime::telemetry::chain(&error);
                if self.unseen.get(&kind) != Some(&error) {
                    tracing::warn!(
                        %kind,
                        error,
                        "a watch of the API server failed; what was seen stands, and it is begun anew until it is well. \
                         Nothing is written meanwhile. Where the kind is missing, install the chart meshfed-crds"
                    );
                    self.unseen.insert(kind, error);
                }
                return;
            }
        };
        let now = clock::instant();
        for name in touched {
            self.queue.belongs(&name, self.party(&name));
            if gone {
                self.queue.gone(name, now);
            } else {
                self.queue.changed(name, now);
            }
        }
    }

    /// Says whether the API server has no ServiceImport; of the other kinds the source does.
    fn lacks(&self, kind: &str, lacks: bool) {
        if kind == ServiceImport::kind(&()) {
            self.unserved.set(kind, &ServiceImport::api_version(&()), lacks);
        }
    }

    /// Begins to say of an export that its name is none, one at a time; gives when that is to be asked for again.
    fn tell_misnamed(&mut self) -> Option<Instant> {
        let begun = clock::instant();
        if !self.telling.is_empty() || self.misnamed.is_empty() {
            return None;
        }
        if let Some(until) = self.silence.until().filter(|until| *until > begun) {
            return Some(until);
        }
        while let Some(export) = self.misnamed.take() {
            let Some(wanted) = misnamed(&export, &Time(clock::timestamp())) else { continue };
            let writer = self.writer.clone();
            self.telling.push(async move { (export, begun, writer.misnamed(&wanted).await) }.boxed());
            break;
        }
        None
    }

    fn told(&mut self, (export, begun, result): Told) {
        let name = export.metadata.name.clone().unwrap_or_default();
        match result {
            Ok(()) => self.metrics.count("ok"),
            Err(Unwritten::Away(_)) => {
                self.metrics.count("away");
                self.silence.away(begun, clock::instant());
                self.misnamed.again(export);
            }
            // It hangs by itself: nobody else waits.
            Err(Unwritten::NoAnswer) => {
                self.metrics.count("no_answer");
                self.misnamed.again(export);
            }
            // It is another by now, or gone: an event tells.
            Err(error) => {
                self.metrics.count("refused");
                tracing::warn!(name, %error, "the status of an export whose name no Service can have was not written");
            }
        }
    }

    /// Says which addresses imports have.
    fn tell_addresses(&mut self) {
        if !self.services.is_whole() {
            return;
        }
        let addresses: ImportAddresses = self
            .services
            .all()
            .map(|(owner, service)| (owner.clone(), cluster_ips(service)))
            .filter(|(_, ips)| !ips.is_empty())
            .collect();
        let first = !std::mem::replace(&mut self.addresses_told, true);
        self.addresses.send_if_modified(|before| {
            let changed = first || **before != addresses;
            if changed {
                *before = Arc::new(addresses);
            }
            changed
        });
    }
}
