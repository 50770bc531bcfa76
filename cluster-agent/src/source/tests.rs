use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use meshfed_crds::{Body, Code};
use meshfed_runtime::drain;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;

/// Far above what a change takes, so that a busy machine does not fail the test; what takes long fails by value.
const DEADLINE: Duration = Duration::from_secs(10);

struct Running {
    updates: mpsc::Receiver<SourceUpdate>,
    task: JoinHandle<Result<(), SourceError>>,
    drain: drain::Trigger,
    standing: std::collections::BTreeMap<String, u16>,
    version: Version,
}

impl Running {
    async fn start(root: &Path, state: &Path) -> Self {
        let (updates, received) = mpsc::channel(1);
        let (drain, watch) = drain::channel();
        let config = SourceConfig {
            place: Place::Directory(root.to_path_buf()),
            state: state.to_path_buf(),
            bounds: Bounds::default(),
        };
        let task = tasks::spawn("test", run(config, updates, watch));
        let standing = std::collections::BTreeMap::new();
        let mut running = Self { updates: received, task, drain, standing, version: Version::default() };
        running.next().await;
        running
    }
    async fn next(&mut self) -> SourceUpdate {
        let update = timeout(DEADLINE, self.updates.recv()).await.unwrap().unwrap();
        assert!(update.version >= self.version);
        // A revision is a scan with changes.
        assert!(self.version == Version::default() || update.changes.is_empty() == (update.version == self.version));
        self.version = update.version;
        for change in &update.changes {
            match change {
                Change::Put(object) => {
                    let Body::Service(service) = &object.body else { panic!() };
                    self.standing.insert(service.name.name().to_owned(), service.ports[0].port.port);
                }
                Change::Removed(key) => {
                    self.standing.remove(&*key.name);
                }
            }
        }
        update
    }
    fn all(&self) -> String {
        self.standing.iter().map(|(name, port)| format!("{name}={port}")).collect::<Vec<_>>().join(" ")
    }
    async fn until(&mut self, want: &str) -> SourceUpdate {
        loop {
            let update = self.next().await;
            if self.all() == want {
                return update;
            }
        }
    }
    async fn stop(self) {
        self.drain.start();
        timeout(DEADLINE, self.task).await.unwrap().unwrap().unwrap();
    }
}

fn service(name: &str, port: u16) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: {port}}}]}}\n---\n")
}

fn dirs() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let (root, state) = (dir.path().join("source"), dir.path().join("state"));
    fs::create_dir(&root).unwrap();
    (dir, root, state)
}

/// Whoever listens may be at its end before the source is, and take nothing more while it still holds the channel.
///
/// Mutation seen to fail: `() = stopped => false` left out of `send`.
#[tokio::test]
async fn a_source_that_is_to_stop_waits_for_nobody() {
    let (_dir, root, state) = dirs();
    fs::write(root.join("a.yaml"), service("a", 80)).unwrap();
    let (updates, received) = mpsc::channel(1);
    let full = SourceUpdate { version: Version::default(), changes: Vec::new(), objects: 0, errors: Arc::from([]) };
    updates.send(full).await.unwrap();
    let (drain, watch) = drain::channel();
    let config = SourceConfig { place: Place::Directory(root), state, bounds: Bounds::default() };
    let task = tasks::spawn("test", run(config, updates, watch));
    drain.start();
    timeout(DEADLINE, task).await.unwrap().unwrap().unwrap();
    assert_eq!(received.len(), 1, "nothing was sent beyond what fits");
}

/// Mutation seen to fail: `Err(error) => self.keep(path, error)` of `LastGood` replaced by a removal; `restore` left
/// out of `load`.
#[tokio::test(flavor = "multi_thread")]
async fn last_good_objects_survive_faults_and_a_restart() {
    let (_dir, root, state) = dirs();
    fs::write(root.join("a.yaml"), service("a", 1)).unwrap();
    fs::write(root.join("b.yaml"), service("b", 1)).unwrap();
    let mut source = Running::start(&root, &state).await;
    assert_eq!((source.all().as_str(), source.version), ("a=1 b=1", Version::new(1, 1)));
    fs::write(root.join("a.yaml"), "a: [").unwrap();
    let update = source.next().await;
    assert_eq!((update.version, update.errors.len(), update.errors[0].code), (Version::new(1, 1), 1, Code::Syntax));
    assert_eq!(update.errors[0].file.as_deref(), Some("a.yaml"));
    fs::write(root.join("b.yaml"), service("b", 2) + &service("c", 0)).unwrap();
    source.until("a=1 b=2").await;
    source.stop().await;

    fs::write(root.join("b.yaml"), service("b", 0)).unwrap();
    fs::write(root.join("d.yaml"), service("d", 4)).unwrap();
    let mut source = Running::start(&root, &state).await;
    assert_eq!((source.all().as_str(), source.version), ("a=1 b=2 d=4", Version::new(2, 1)));
    fs::write(root.join("a.yaml"), service("a", 3)).unwrap();
    let update = source.until("a=3 b=2 d=4").await;
    assert_eq!(update.errors.len(), 1);
    let body = debug_body(update.version, update.objects, None, update.errors.iter());
    assert_eq!((&body["epoch"], &body["revision"], &body["objects"]), (&"2".into(), &"2".into(), &3.into()));
    let error = body["errors"][0].as_object().unwrap();
    let keys: Vec<&str> = error.keys().map(String::as_str).collect();
    let wanted = ["code", "file", "line", "column", "kind", "namespace", "name", "field", "message", "remedy"];
    assert_eq!((keys.as_slice(), &error["code"], &error["line"]), (wanted.as_slice(), &"MF2004".into(), &4.into()));
    source.stop().await;

    // A file that went while the agent was away is gone.
    fs::remove_file(root.join("d.yaml")).unwrap();
    let source = Running::start(&root, &state).await;
    assert_eq!(source.all(), "a=3 b=2");
    source.stop().await;
}

/// Mutation seen to fail: `self.swapped` not set for links in `moved` (the period then finds the swap, late).
#[tokio::test(flavor = "multi_thread")]
async fn a_swap_of_data_is_one_change() {
    let (_dir, root, state) = dirs();
    for (version, port) in [("..v1", 1), ("..v2", 2)] {
        fs::create_dir(root.join(version)).unwrap();
        for name in ["a", "b", "c"] {
            fs::write(root.join(version).join(format!("{name}.yaml")), service(name, port)).unwrap();
        }
    }
    symlink("..v1", root.join("..data")).unwrap();
    for name in ["a.yaml", "b.yaml", "c.yaml"] {
        symlink(format!("..data/{name}"), root.join(name)).unwrap();
    }
    let mut source = Running::start(&root, &state).await;
    assert_eq!(source.all(), "a=1 b=1 c=1");
    let mut times = Vec::new();
    for round in 0..6_u64 {
        let (version, want) = if round % 2 == 0 { ("..v2", "a=2 b=2 c=2") } else { ("..v1", "a=1 b=1 c=1") };
        symlink(version, root.join("..data_tmp")).unwrap();
        // Heard of after the new link: what follows is the rename's own doing.
        fs::write(root.join("o.yaml"), service("o", u16::try_from(round).unwrap() + 1)).unwrap();
        let before = source.next().await.version.revision;
        let begin = meshfed_runtime::clock::instant();
        fs::rename(root.join("..data_tmp"), root.join("..data")).unwrap();
        let update = source.next().await;
        times.push(begin.elapsed());
        let want = format!("{want} o={}", round + 1);
        assert_eq!((source.all(), update.version.revision), (want, before + 1));
    }
    // The fastest: the others may wait for a busy machine. Without the event it is the settling time.
    times.sort();
    assert!(times[0] < Duration::from_millis(250), "{times:?}");
    source.stop().await;
}

/// Mutation seen to fail: `REMOVAL_GRACE` 0 with the walk of `Name(From)` removing at once (the rename then shows a gap).
#[tokio::test(flavor = "multi_thread")]
async fn files_come_move_and_go_in_new_directories() {
    let (_dir, root, state) = dirs();
    fs::write(root.join("a.yaml"), service("a", 1)).unwrap();
    let mut source = Running::start(&root, &state).await;
    fs::create_dir_all(root.join("x/y")).unwrap();
    fs::write(root.join("x/y/b.yml"), service("b", 1)).unwrap();
    source.until("a=1 b=1").await;
    fs::write(root.join("x/y/b.yml"), service("b", 2)).unwrap();
    source.until("a=1 b=2").await;
    // A rename moves the object: it is there all the time.
    fs::rename(root.join("a.yaml"), root.join("z.yaml")).unwrap();
    let moved = |u: &SourceUpdate| u.changes.iter().any(|c| matches!(c, Change::Put(o) if &*o.origin.file == "z.yaml"));
    loop {
        let update = source.next().await;
        assert_eq!(source.all(), "a=1 b=2");
        if moved(&update) {
            break;
        }
    }
    fs::remove_dir_all(root.join("x")).unwrap();
    source.until("a=1").await;
    fs::remove_file(root.join("z.yaml")).unwrap();
    source.until("").await;
    source.stop().await;
}

/// Mutation seen to fail: `is_reading` without its exception, so that closing is not heard, with `SETTLED` 0.
#[tokio::test(flavor = "multi_thread")]
async fn a_half_written_file_does_no_harm() {
    let (_dir, root, state) = dirs();
    fs::write(root.join("a.yaml"), service("a", 1) + &service("b", 1)).unwrap();
    let mut source = Running::start(&root, &state).await;
    for port in 2..20 {
        let mut file = fs::File::create(root.join("a.yaml")).unwrap();
        file.write_all(service("a", port).as_bytes()).unwrap();
        file.sync_all().unwrap();
        // The other file is heard of while the first one is half written.
        fs::write(root.join("o.yaml"), service("o", port)).unwrap();
        while source.standing.get("o") != Some(&port) {
            source.next().await;
            assert!(source.standing.contains_key("b"));
        }
        file.write_all(service("b", port).as_bytes()).unwrap();
        drop(file);
        source.until(&format!("a={port} b={port} o={port}")).await;
    }
    source.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_may_come_later_and_be_a_link_that_is_swapped() {
    let (dir, root, state) = dirs();
    let link = dir.path().join("current");
    let mut source = Running::start(&link, &state).await;
    assert_eq!(source.all(), "");
    let other = dir.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(root.join("a.yaml"), service("a", 1)).unwrap();
    fs::write(other.join("a.yaml"), service("a", 2)).unwrap();
    symlink(&root, &link).unwrap();
    let update = source.until("a=1").await;
    assert!(update.errors.is_empty(), "{:?}", update.errors);
    let next = dir.path().join("next");
    symlink(&other, &next).unwrap();
    fs::rename(&next, &link).unwrap();
    source.until("a=2").await;
    fs::remove_file(&link).unwrap();
    let update = source.next().await;
    assert_eq!((source.all().as_str(), update.errors[0].code), ("a=2", Code::Unreadable));
    source.stop().await;
}

/// Mutation seen to fail: `|now| !now.is_empty()` of `read_one` answered `true`.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_written_again_and_again_is_never_empty() {
    let (_dir, root, state) = dirs();
    fs::write(root.join("a.yaml"), service("a", 1)).unwrap();
    let mut source = Running::start(&root, &state).await;
    let path = root.join("a.yaml");
    let writer = tasks::spawn_blocking("writer", move || {
        for port in 2..5000 {
            fs::write(&path, service("a", port)).unwrap();
        }
    });
    while source.standing.get("a") != Some(&4999) {
        let update = source.next().await;
        assert!(source.standing.contains_key("a") && update.errors.is_empty(), "{update:?}");
    }
    writer.await.unwrap();
    // An empty file that stays so is taken at its word.
    fs::write(root.join("a.yaml"), "").unwrap();
    source.until("").await;
    source.stop().await;
}

/// From the write to the update: the quickest of fifty writes, so that a busy machine does not fail the test. Where the
/// period finds them, each takes about the period: the write before ended with a look. Mutation seen to fail:
/// `is_reading` without its exception.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_is_noticed_at_once() {
    let (_dir, root, state) = dirs();
    fs::write(root.join("a.yaml"), service("a", 1)).unwrap();
    let mut source = Running::start(&root, &state).await;
    let mut times = Vec::new();
    for port in 2..52 {
        let begin = meshfed_runtime::clock::instant();
        fs::write(root.join("a.yaml"), service("a", port)).unwrap();
        source.until(&format!("a={port}")).await;
        times.push(begin.elapsed());
    }
    times.sort();
    println!("quickest {:?}, median {:?}, worst {:?}", times[0], times[25], times[49]);
    assert!(times[0] < watch::PERIOD / 2, "{times:?}");
    source.stop().await;
}
