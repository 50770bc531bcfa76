//! Edge. The watching thread: inotify says what to read at once, a timer finds what inotify does not say.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use meshfed_crds::directory::{Stamp, Walk, Walker};
use meshfed_crds::{Change, FileChange, LastGood, ObjectError, Scope};
use meshfed_model::version::Version;
use meshfed_runtime::clock;
use notify::{Config, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;

use super::signals::{Look, Mailbox};
use super::state::{self, Keeper};
use super::{SourceConfig, SourceError, SourceUpdate, path_of, send, tell_faults};

/// How often everything is looked at, for file systems and moments that inotify misses. With [`SETTLED`] below the
/// second in which changes must be noticed.
pub(super) const PERIOD: Duration = Duration::from_millis(300);
/// A file that looks changed, but was not seen to be closed, is read once it has looked the same for so long.
const SETTLED: Duration = Duration::from_millis(450);
/// The same for an empty file that was not seen to be closed: most probably somebody is about to write it.
const SETTLED_EMPTY: Duration = Duration::from_secs(5);
/// A file that is gone is taken as removed after so long: tools that replace files remove them first.
const REMOVAL_GRACE: Duration = Duration::from_millis(100);

/// Runs until the mailbox says stop or nobody takes updates.
pub(super) fn run(
    root: PathBuf,
    config: &SourceConfig,
    updates: &mpsc::Sender<SourceUpdate>,
    mailbox: &Mailbox,
) -> Result<(), SourceError> {
    let mut last_good = LastGood::new(Scope::Cluster, Some(config.bounds.clone()));
    let epoch = state::load(&config.state, &mut last_good).map_err(SourceError::State)?;
    let known: Vec<Arc<str>> = last_good.files().map(Arc::clone).collect();
    let (keeper, writer) = Keeper::start(config.state.clone());
    let mut watch = Watching {
        walker: Walker::new(root, known),
        last_good,
        version: Version::new(epoch, 1),
        keeper,
        watcher: None,
        settling: BTreeMap::new(),
        writing: BTreeMap::new(),
        closed: BTreeSet::new(),
        removal: None,
        period: clock::instant(),
        errors: Arc::from([]),
    };
    watch.follow_root(mailbox);
    if watch.first(mailbox, updates) {
        watch.follow(mailbox, updates);
    }
    // The last state is written before the process ends.
    drop(watch);
    tokio::runtime::Handle::current().block_on(writer).map_err(|_panicked| SourceError::Panicked)
}

/// The watcher, and the directory that it watches.
struct Watched {
    root: PathBuf,
    _watcher: RecommendedWatcher,
}

struct Watching {
    walker: Walker,
    last_good: LastGood,
    version: Version,
    keeper: Keeper,
    watcher: Option<Watched>,
    settling: BTreeMap<Arc<str>, (Stamp, Instant)>,
    writing: BTreeMap<Arc<str>, Instant>,
    closed: BTreeSet<Arc<str>>,
    removal: Option<Instant>,
    period: Instant,
    errors: Arc<[ObjectError]>,
}

impl Watching {
    /// Reads everything, and sends it as revision 1.
    fn first(&mut self, mailbox: &Mailbox, updates: &mpsc::Sender<SourceUpdate>) -> bool {
        let walk = self.walker.walk(true, |_, _| false);
        let paths: Vec<Arc<str>> = walk.changes.iter().map(path_of).collect();
        self.last_good.apply(walk.changes);
        self.refresh_errors();
        let changes: Vec<Change> = self.last_good.objects().map(|o| Change::Put(Arc::clone(o))).collect();
        let heard = self.send(changes, mailbox, updates);
        self.keeper.keep(paths.into_iter(), &self.last_good);
        heard
    }

    /// Looks and sends until the mailbox says stop or nobody listens.
    fn follow(&mut self, mailbox: &Mailbox, updates: &mpsc::Sender<SourceUpdate>) {
        while let Some(events) = mailbox.receive(self.wait()) {
            let mut look = Look { walk: mailbox.lost(), ..Look::default() };
            let roots = self.roots();
            for event in &events {
                look.add(event, &roots);
            }
            if !self.look(&look, mailbox, updates) {
                return;
            }
        }
    }

    /// Watches the directory that PATH leads to now. PATH may be a link that is swapped, or not be there yet.
    fn follow_root(&mut self, mailbox: &Mailbox) {
        let Ok(root) = std::fs::canonicalize(self.walker.root()) else {
            self.watcher = None;
            return;
        };
        if self.watcher.as_ref().is_some_and(|w| w.root == root) {
            return;
        }
        match watch_directory(&root, mailbox) {
            Ok(watcher) => self.watcher = Some(Watched { root, _watcher: watcher }),
            Err(error) => {
                // The period still finds every change.
                tracing::warn!(path = %root.display(), %error, "cannot watch the source; it is looked at every {PERIOD:?}");
                self.watcher = None;
            }
        }
    }

    fn roots(&self) -> Vec<PathBuf> {
        self.watcher.iter().map(|w| w.root.clone()).chain([self.walker.root().to_path_buf()]).collect()
    }

    /// How long the thread may sleep.
    fn wait(&self) -> Duration {
        let next = self.removal.map_or(self.period, |removal| removal.min(self.period));
        next.saturating_duration_since(clock::instant())
    }

    /// Looks at what is asked for and what is due, and sends what changed. False: nobody listens.
    fn look(&mut self, look: &Look, mailbox: &Mailbox, updates: &mpsc::Sender<SourceUpdate>) -> bool {
        let now = clock::instant();
        for path in &look.files {
            self.writing.remove(path);
            self.closed.insert(Arc::clone(path));
        }
        for path in &look.writing {
            self.closed.remove(path);
        }
        self.writing.extend(look.writing.iter().map(|p| (Arc::clone(p), now)));
        let removing = self.removal.is_some_and(|at| at <= now);
        let due = self.period <= now;
        if due {
            self.follow_root(mailbox);
        }
        // A file that was not known may be a link's target under its own name: only a walk tells.
        let new = look.files.iter().any(|path| !self.walker.knows(path));
        let changes = if look.swapped || look.walk || removing || due || new {
            self.period = now + PERIOD;
            self.walk(look, removing || look.swapped, now)
        } else if look.is_empty() {
            return true;
        } else {
            self.read(look)
        };
        self.take_and_send(changes, mailbox, updates)
    }

    /// The written files alone.
    fn read(&mut self, look: &Look) -> Vec<FileChange> {
        let mut changes = Vec::new();
        for path in &look.files {
            self.settling.remove(path);
            changes.extend(self.walker.read_one(path));
        }
        changes
    }

    fn walk(&mut self, look: &Look, removals: bool, now: Instant) -> Vec<FileChange> {
        let (settling, writing, closed) = (&self.settling, &mut self.writing, &self.closed);
        writing.retain(|_, since| now.saturating_duration_since(*since) < SETTLED);
        let mut still = BTreeMap::new();
        let Walk { changes, unsettled } = self.walker.walk_knowing(removals, |path, stamp, before| {
            // What took another file's place came whole; what is the same file may be being written right now.
            let swapped_in = look.swapped && before.is_none_or(|b| !b.same_file(&stamp));
            let whole = swapped_in || (look.files.contains(path) && !stamp.is_empty());
            let since = settling.get(path).filter(|(before, _)| *before == stamp).map_or(now, |(_, since)| *since);
            let settled = if stamp.is_empty() && !closed.contains(path) { SETTLED_EMPTY } else { SETTLED };
            let wait = writing.contains_key(path) || (!whole && now.saturating_duration_since(since) < settled);
            if wait {
                still.insert(Arc::clone(path), (stamp, since));
            }
            wait
        });
        self.closed.retain(|path| still.contains_key(path));
        let gone = unsettled.iter().any(|path| !still.contains_key(path));
        self.settling = still;
        self.removal =
            if gone { Some(self.removal.filter(|_| !removals).unwrap_or(now + REMOVAL_GRACE)) } else { None };
        changes
    }

    fn take_and_send(
        &mut self,
        files: Vec<FileChange>,
        mailbox: &Mailbox,
        updates: &mpsc::Sender<SourceUpdate>,
    ) -> bool {
        if files.is_empty() && self.last_good.walk_errors() == self.walker.errors() {
            return true;
        }
        let paths: Vec<Arc<str>> = files.iter().map(path_of).collect();
        let changes = self.last_good.apply(files);
        let errors_changed = self.refresh_errors();
        if !changes.is_empty() {
            self.version.revision += 1;
        }
        let heard = (changes.is_empty() && !errors_changed) || self.send(changes, mailbox, updates);
        self.keeper.keep(paths.into_iter(), &self.last_good);
        heard
    }

    fn refresh_errors(&mut self) -> bool {
        self.last_good.set_walk_errors(self.walker.errors().to_vec());
        tell_faults(&self.last_good, &mut self.errors)
    }

    /// False: nobody listens, or the source is to stop while nobody takes it.
    fn send(&self, changes: Vec<Change>, mailbox: &Mailbox, updates: &mpsc::Sender<SourceUpdate>) -> bool {
        let update = SourceUpdate {
            version: self.version,
            changes,
            objects: self.last_good.len(),
            errors: Arc::clone(&self.errors),
        };
        tokio::runtime::Handle::current().block_on(send(update, updates, mailbox.stopped()))
    }
}

fn watch_directory(root: &Path, mailbox: &Mailbox) -> notify::Result<RecommendedWatcher> {
    let sender = mailbox.sender();
    // Links are not followed: what they lead to inside PATH is watched where it is.
    let config = Config::default().with_follow_symlinks(false);
    let mut watcher = RecommendedWatcher::new(move |event| sender.take(event), config)?;
    watcher.watch(root, RecursiveMode::Recursive)?;
    Ok(watcher)
}
