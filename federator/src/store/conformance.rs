//! Edge. The suite that every [`Store`] must pass. It calls only the trait, and a [`Subject`] to open the same data
//! again, with and without a crash in between.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Condition, Key, Store, StoreError, TRANSACTION_MAX, Table, Transaction, VALUE_MAX, Value, Write};

/// One registry under test, empty at first.
pub trait Subject: Send + Sync {
    /// Opens it; what was opened before has been dropped.
    fn open(&self) -> Arc<dyn Store>;
    /// Loses everything that is not durable, at once: the process dies and the machine loses power.
    fn crash(&self, store: Arc<dyn Store>);
}

/// Which demand does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{check}: {reason}")]
pub struct Failure {
    /// The name of the check.
    pub check: &'static str,
    /// What was seen.
    pub reason: String,
}

type Check = fn(&dyn Subject) -> Result<(), String>;

/// The checks, by name.
pub const CHECKS: [(&str, Check); 10] = [
    ("what was written is read", writes_are_read),
    ("conditions decide", conditions_decide),
    ("a refused transaction writes nothing", refused_writes_nothing),
    ("keys never run into each other", keys_are_apart),
    ("revisions only grow, also over restarts", revisions_grow),
    ("what was acknowledged survives a crash", acknowledged_survives),
    ("a crash never leaves half a transaction", never_half),
    ("one of many writers wins", one_winner),
    ("no update is lost", no_lost_update),
    ("limits hold", limits_hold),
];

/// Runs all checks, each on a registry of its own.
///
/// # Errors
/// The first [`Failure`].
pub fn run(make: impl Fn() -> Box<dyn Subject>) -> Result<(), Failure> {
    CHECKS.iter().try_for_each(|(check, f)| f(make().as_ref()).map_err(|reason| Failure { check, reason }))
}

fn key(name: &str) -> Key {
    Key::name(name)
}
fn put(name: &str, value: &str) -> Transaction {
    Transaction::new().put(Table::Tokens, key(name), value.as_bytes().to_vec())
}
fn text(error: &StoreError) -> String {
    format!("{error:?}")
}
fn commit(store: &dyn Store, transaction: &Transaction) -> Result<u64, String> {
    store.commit(transaction).map_err(|e| text(&e))
}
fn get(store: &dyn Store, table: Table, key: &Key) -> Result<Option<Value>, String> {
    store.get(table, key).map_err(|e| text(&e))
}
fn expect(holds: bool, otherwise: impl Into<String>) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise.into()) }
}
fn expect_value(store: &dyn Store, name: &str, want: Option<&str>) -> Result<(), String> {
    let found = get(store, Table::Tokens, &key(name))?.map(|v| v.bytes);
    expect(found.as_deref() == want.map(str::as_bytes), format!("'{name}' is {found:?}, not {want:?}"))
}
fn expect_conflict(store: &dyn Store, transaction: &Transaction) -> Result<(), String> {
    match store.commit(transaction) {
        Err(StoreError::Conflict { .. }) => Ok(()),
        other => Err(format!("not a conflict: {other:?}")),
    }
}

fn writes_are_read(subject: &dyn Subject) -> Result<(), String> {
    let store = subject.open();
    expect(store.revision().map_err(|e| text(&e))? == 0, "a new store is not at revision 0")?;
    let first = commit(&*store, &put("a", "1"))?;
    let second = commit(&*store, &put("b", "2").put(Table::Members, key("a"), b"other".to_vec()))?;
    let third = commit(&*store, &put("a", "3"))?;
    expect_value(&*store, "a", Some("3"))?;
    let found = get(&*store, Table::Members, &key("a"))?;
    expect(found == Some(Value { bytes: b"other".to_vec(), revision: second }), format!("tables mix: {found:?}"))?;
    let all = store.scan(Table::Tokens).map_err(|e| text(&e))?;
    let want = vec![
        (key("a"), Value { bytes: b"3".to_vec(), revision: third }),
        (key("b"), Value { bytes: b"2".to_vec(), revision: second }),
    ];
    expect(first < second && second < third && all == want, format!("scan gave {all:?}"))?;
    commit(&*store, &Transaction::new().delete(Table::Tokens, key("a")).delete(Table::Tokens, key("none")))?;
    expect_value(&*store, "a", None)
}

fn conditions_decide(subject: &dyn Subject) -> Result<(), String> {
    let store = subject.open();
    let create = |v: &str| Transaction::new().create(Table::Tokens, key("a"), v.as_bytes().to_vec());
    let first = commit(&*store, &create("1"))?;
    expect_conflict(&*store, &create("2"))?;
    let replace =
        |r: Option<u64>, v: &str| Transaction::new().replace(Table::Tokens, key("a"), r, v.as_bytes().to_vec());
    expect_conflict(&*store, &replace(Some(first + 1), "x"))?;
    expect_conflict(&*store, &replace(None, "x"))?;
    let second = commit(&*store, &replace(Some(first), "2"))?;
    expect_conflict(&*store, &replace(Some(first), "3"))?;
    expect_value(&*store, "a", Some("2"))?;
    let guarded = Transaction {
        conditions: vec![Condition::At(Table::Tokens, key("a"), second), Condition::Absent(Table::Members, key("a"))],
        writes: vec![Write::Put(Table::Members, key("a"), b"m".to_vec()), Write::Delete(Table::Tokens, key("a"))],
    };
    commit(&*store, &guarded)?;
    expect_value(&*store, "a", None)?;
    expect_conflict(&*store, &replace(Some(second), "4"))?;
    // A key that was removed and made again is not the one that was read before.
    commit(&*store, &create("5"))?;
    expect_conflict(&*store, &replace(Some(second), "6"))
}

fn refused_writes_nothing(subject: &dyn Subject) -> Result<(), String> {
    let store = subject.open();
    commit(&*store, &put("a", "1"))?;
    let before = store.revision().map_err(|e| text(&e))?;
    let mixed =
        put("b", "2").put(Table::Audit, key("row"), b"x".to_vec()).create(Table::Tokens, key("a"), b"3".to_vec());
    expect_conflict(&*store, &mixed)?;
    expect_value(&*store, "a", Some("1"))?;
    expect_value(&*store, "b", None)?;
    expect(get(&*store, Table::Audit, &key("row"))?.is_none(), "a row of a refused transaction is there")?;
    expect(store.revision().map_err(|e| text(&e))? == before, "a refused transaction took a revision")
}

fn keys_are_apart(subject: &dyn Subject) -> Result<(), String> {
    let store = subject.open();
    let keys: BTreeSet<Key> = [
        Key::new(&[b"a", b"b"]),
        Key::new(&[b"ab"]),
        Key::new(&[b"a/b"]),
        Key::new(&[b"a\0b"]),
        Key::new(&[b"", b"ab"]),
        Key::new(&[b"ab", b""]),
        Key::new(&[b"\0\x01a", b"b"]),
        Key::new(&["é".as_bytes()]),
        Key::new(&[&[0xff; 300]]),
    ]
    .into();
    for k in &keys {
        commit(&*store, &Transaction::new().create(Table::Claims, k.clone(), k.as_bytes().to_vec()))?;
    }
    let found: BTreeSet<Key> = store.scan(Table::Claims).map_err(|e| text(&e))?.into_iter().map(|(k, _)| k).collect();
    expect(found == keys, format!("{} keys became {}", keys.len(), found.len()))?;
    keys.iter().try_for_each(|k| {
        let value = get(&*store, Table::Claims, k)?.map(|v| v.bytes);
        expect(value.as_deref() == Some(k.as_bytes()), format!("{k:?} holds {value:?}"))
    })
}

fn revisions_grow(subject: &dyn Subject) -> Result<(), String> {
    let mut last = 0;
    for round in 0..3 {
        let store = subject.open();
        for step in 0..5 {
            let revision = commit(&*store, &put("a", &format!("{round}.{step}")))?;
            expect(revision > last, format!("revision {revision} after {last}"))?;
            last = revision;
        }
        expect(store.revision().map_err(|e| text(&e))? == last, "revision() is not that of the last transaction")?;
        if round == 1 {
            subject.crash(store);
        }
    }
    Ok(())
}

fn acknowledged_survives(subject: &dyn Subject) -> Result<(), String> {
    let mut want: BTreeMap<String, String> = BTreeMap::new();
    for round in 0..4 {
        let store = subject.open();
        for (name, value) in &want {
            expect_value(&*store, name, Some(value)).map_err(|e| format!("after crash {round}: {e}"))?;
        }
        for step in 0..8 {
            let (name, value) = (format!("{round}-{step}"), "x".repeat(1 + step * 997));
            commit(&*store, &put(&name, &value))?;
            want.insert(name, value);
        }
        let first = format!("{round}-0");
        commit(&*store, &Transaction::new().delete(Table::Tokens, key(&first)))?;
        want.remove(&first);
        subject.crash(store);
    }
    let store = subject.open();
    let names = store.scan(Table::Tokens).map_err(|e| text(&e))?.len();
    expect(names == want.len(), format!("{names} values after the crashes, not {}", want.len()))
}

fn never_half(subject: &dyn Subject) -> Result<(), String> {
    for round in 0..4_u32 {
        let store = subject.open();
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                (0..30_u32).try_for_each(|step| {
                    let value = format!("{round}.{step}").into_bytes();
                    let both = Transaction::new().put(Table::Tokens, key("twin"), value.clone()).put(
                        Table::Members,
                        key("twin"),
                        value,
                    );
                    commit(&*store, &both).map(|_revision| ())
                })
            });
            let mut seen = 0;
            while !writer.is_finished() {
                // Read in this order, the second can only be newer: an older one would be half a transaction.
                let token = get(&*store, Table::Tokens, &key("twin"))?.map_or(0, |v| v.revision);
                let member = get(&*store, Table::Members, &key("twin"))?.map_or(0, |v| v.revision);
                expect(
                    member >= token && token >= seen,
                    format!("member at {member}, token at {token}, before {seen}"),
                )?;
                seen = token;
            }
            writer.join().map_err(|_panic| "the writer panicked".to_owned())?
        })?;
        subject.crash(store);
        let store = subject.open();
        let values = (get(&*store, Table::Tokens, &key("twin"))?, get(&*store, Table::Members, &key("twin"))?);
        expect(values.0 == values.1 && values.0.is_some(), format!("after the crash: {values:?}"))?;
    }
    Ok(())
}

const WRITERS: u32 = 8;

fn one_winner(subject: &dyn Subject) -> Result<(), String> {
    let store = subject.open();
    for round in 0..5 {
        let name = format!("token-{round}");
        let results: Vec<Result<u64, StoreError>> = std::thread::scope(|scope| {
            let writers: Vec<_> = (0..WRITERS)
                .map(|w| {
                    let (store, name) = (Arc::clone(&store), name.clone());
                    scope.spawn(move || {
                        store.commit(&Transaction::new().create(Table::Tokens, key(&name), w.to_be_bytes().to_vec()))
                    })
                })
                .collect();
            writers.into_iter().filter_map(|w| w.join().ok()).collect()
        });
        let won = results.iter().filter(|r| r.is_ok()).count();
        let lost = results.iter().filter(|r| matches!(r, Err(StoreError::Conflict { .. }))).count();
        expect(won == 1 && lost == WRITERS as usize - 1, format!("{won} won, {lost} lost: {results:?}"))?;
    }
    Ok(())
}

fn no_lost_update(subject: &dyn Subject) -> Result<(), String> {
    const EACH: u64 = 5;
    let store = subject.open();
    commit(&*store, &Transaction::new().create(Table::Meta, key("n"), 0_u64.to_be_bytes().to_vec()))?;
    let add = |store: &dyn Store| -> Result<(), String> {
        loop {
            let value = get(store, Table::Meta, &key("n"))?.ok_or("the counter is gone")?;
            let n = value.bytes.try_into().map(u64::from_be_bytes).map_err(|_length| "the counter is no number")?;
            let next = (n + 1).to_be_bytes().to_vec();
            match store.commit(&Transaction::new().replace(Table::Meta, key("n"), Some(value.revision), next)) {
                Ok(_) => return Ok(()),
                Err(StoreError::Conflict { .. }) => {}
                Err(e) => return Err(text(&e)),
            }
        }
    };
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|_| {
                let store = Arc::clone(&store);
                scope.spawn(move || (0..EACH).try_for_each(|_| add(&*store)))
            })
            .collect();
        writers.into_iter().try_for_each(|w| w.join().map_err(|_panic| "a writer panicked".to_owned())?)
    })?;
    let found = get(&*store, Table::Meta, &key("n"))?.map(|v| v.bytes);
    let want = (EACH * u64::from(WRITERS)).to_be_bytes().to_vec();
    expect(found.as_ref() == Some(&want), format!("counted {found:?}, not {want:?}"))
}

fn limits_hold(subject: &dyn Subject) -> Result<(), String> {
    let store = subject.open();
    let large = |n: usize| Transaction::new().put(Table::Tokens, key("large"), vec![7; n]);
    commit(&*store, &large(VALUE_MAX))?;
    let refused = store.commit(&large(VALUE_MAX + 1));
    expect(matches!(refused, Err(StoreError::Limit { .. })), format!("a value over the limit gave {refused:?}"))?;
    let mut many = Transaction::new();
    for n in 0..=TRANSACTION_MAX {
        many = many.delete(Table::Tokens, key(&n.to_string()));
    }
    let refused = store.commit(&many);
    expect(matches!(refused, Err(StoreError::Limit { .. })), format!("too many writes gave {refused:?}"))?;
    let found = get(&*store, Table::Tokens, &key("large"))?.map(|v| v.bytes.len());
    expect(found == Some(VALUE_MAX), format!("the large value has {found:?} bytes"))
}
