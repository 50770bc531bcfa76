//! The conformance suite against the model, redb on a file, and redb on storage that forgets what was not synced.

use std::sync::{Arc, Mutex};

use ::redb::StorageBackend;

use super::conformance::{self, Subject};
use super::memory::MemoryStore;
use super::redb::RedbStore;
use super::*;

struct Model(Arc<MemoryStore>);
impl Subject for Model {
    fn open(&self) -> Arc<dyn Store> {
        Arc::clone(&self.0) as _
    }
    fn crash(&self, _store: Arc<dyn Store>) {}
}

#[test]
fn the_model_conforms() {
    conformance::run(|| Box::new(Model(Arc::default()))).unwrap();
}

struct OnFile(tempfile::TempDir);
impl Subject for OnFile {
    fn open(&self) -> Arc<dyn Store> {
        Arc::new(RedbStore::open(&self.0.path().join("registry.redb")).unwrap())
    }
    fn crash(&self, store: Arc<dyn Store>) {
        drop(store);
    }
}

#[test]
fn redb_on_a_file_conforms() {
    conformance::run(|| Box::new(OnFile(tempfile::tempdir().unwrap()))).unwrap();
}

/// A disk: what was written, what of it is durable, and what was written since the last sync.
#[derive(Debug, Default)]
struct Disk {
    now: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<(u64, Vec<u8>)>,
    generation: u64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Sync {
    /// Keeps its promise.
    Real,
    /// Says it did.
    Lie,
}

#[derive(Debug)]
struct Backend {
    disk: Arc<Mutex<Disk>>,
    generation: u64,
    sync: Sync,
}

impl Backend {
    /// A process that has died writes no more.
    #[expect(clippy::unwrap_in_result, reason = "a poisoned lock fails the test")]
    fn with<T>(&self, work: impl FnOnce(&mut Disk) -> T) -> std::io::Result<T> {
        let mut disk = self.disk.lock().unwrap();
        if disk.generation != self.generation {
            return Err(std::io::Error::other("the machine has lost power"));
        }
        Ok(work(&mut disk))
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> std::io::Result<u64> {
        self.with(|d| d.now.len() as u64)
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        self.with(|d| {
            let from = usize::try_from(offset).unwrap();
            out.copy_from_slice(&d.now[from..from + out.len()]);
        })
    }
    fn set_len(&self, len: u64) -> std::io::Result<()> {
        self.with(|d| {
            d.now.resize(usize::try_from(len).unwrap(), 0);
            // A file's length may reach the disk before its data: the harder case for whoever recovers.
            d.durable.resize(usize::try_from(len).unwrap(), 0);
        })
    }
    fn sync_data(&self) -> std::io::Result<()> {
        if self.sync == Sync::Lie {
            return Ok(());
        }
        self.with(|d| {
            d.durable = d.now.clone();
            d.unsynced.clear();
        })
    }
    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        self.with(|d| {
            let from = usize::try_from(offset).unwrap();
            d.now[from..from + data.len()].copy_from_slice(data);
            d.unsynced.push((offset, data.to_vec()));
        })
    }
}

/// Redb on a [`Disk`]. At a crash, of what was not synced nothing stays, or each write stays by the toss of a coin.
struct OnDisk {
    disk: Arc<Mutex<Disk>>,
    sync: Sync,
    fsync_per_commit: bool,
    coin: Option<Mutex<fastrand::Rng>>,
}

impl OnDisk {
    fn subject(sync: Sync, fsync_per_commit: bool, seed: Option<u64>) -> Box<dyn Subject> {
        let coin = seed.map(|s| Mutex::new(fastrand::Rng::with_seed(s)));
        Box::new(Self { disk: Arc::default(), sync, fsync_per_commit, coin })
    }
}

impl Subject for OnDisk {
    fn open(&self) -> Arc<dyn Store> {
        let generation = self.disk.lock().unwrap().generation;
        let backend = Backend { disk: Arc::clone(&self.disk), generation, sync: self.sync };
        let open = if self.fsync_per_commit { RedbStore::with_backend } else { RedbStore::without_fsync };
        Arc::new(open(backend).unwrap())
    }
    fn crash(&self, store: Arc<dyn Store>) {
        {
            let mut disk = self.disk.lock().unwrap();
            disk.generation += 1;
            let mut after = disk.durable.clone();
            for (offset, data) in std::mem::take(&mut disk.unsynced) {
                let from = usize::try_from(offset).unwrap();
                if self.coin.as_ref().is_some_and(|c| c.lock().unwrap().bool()) && from + data.len() <= after.len() {
                    after[from..from + data.len()].copy_from_slice(&data);
                }
            }
            disk.now = after.clone();
            disk.durable = after;
        }
        drop(store);
    }
}

/// Mutation seen to fail: `Durability::Immediate` replaced by `None` in `with_backend`.
#[test]
fn redb_survives_loss_of_power() {
    conformance::run(|| OnDisk::subject(Sync::Real, true, None)).unwrap();
}

#[test]
fn redb_survives_torn_writes() {
    for seed in 0..5 {
        conformance::run(|| OnDisk::subject(Sync::Real, true, Some(seed))).unwrap();
    }
}

/// The suite itself: taking the fsync out is noticed. Mutation seen to fail: the crash left out of the suite's check.
#[test]
fn the_suite_notices_a_missing_fsync() {
    let failure = conformance::run(|| OnDisk::subject(Sync::Real, false, None)).unwrap_err();
    assert!(failure.check.contains("revisions only grow") || failure.check.contains("survives"), "{failure}");
    // redb's own close syncs at a clean end, so only the crash may show it: the earlier checks have passed.
    let name = conformance::CHECKS.iter().position(|(n, _)| *n == failure.check).unwrap();
    assert!(name >= 4, "{failure}");
}

/// A disk whose sync does nothing: noticed, be it as lost data or as a registry that does not open.
#[test]
fn the_suite_notices_a_sync_that_lies() {
    let seen = std::panic::catch_unwind(|| conformance::run(|| OnDisk::subject(Sync::Lie, true, None)));
    assert!(!matches!(seen, Ok(Ok(()))), "a lying disk passed the suite");
}

/// Mutation seen to fail: `set_check_integrity_on_open(false)`.
#[test]
fn a_damaged_or_foreign_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("registry.redb");
    let store = RedbStore::open(&path).unwrap();
    for n in 0..200 {
        store.commit(&Transaction::new().put(Table::Tokens, Key::name(&format!("t{n}")), vec![n; 100])).unwrap();
    }
    assert!(matches!(RedbStore::open(&path), Err(redb::OpenError::InUse)));
    drop(store);
    let mut bytes = std::fs::read(&path).unwrap();
    // Every page but the header's.
    bytes.iter_mut().skip(4096).step_by(512).for_each(|b| *b ^= 0x5a);
    std::fs::write(&path, &bytes).unwrap();
    assert!(matches!(RedbStore::open(&path), Err(redb::OpenError::Damaged(_))));
    std::fs::write(&path, b"this is not a registry, but somebody's notes").unwrap();
    assert!(matches!(RedbStore::open(&path), Err(redb::OpenError::Damaged(_))));
}

/// Mutation seen to fail: `Key::new` without the length of a part.
#[test]
fn keys_give_their_parts_back() {
    let key = Key::new(&[b"shop", b"", b"b\0"]);
    assert_eq!(key.parts().unwrap(), [&b"shop"[..], b"", b"b\0"]);
    assert_eq!(Key::from_bytes(vec![0, 5, 1]).parts(), None);
}
