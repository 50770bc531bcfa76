//! An anchor follows another in the same trust domain.

use meshfed_model::bundle::Bundle;
use meshfed_runtime::tls::{SvidError, TrustStore};

use super::authority::{Root, fleet_root};
use super::{Ca, YEAR, ca, now, trust, verify};
use crate::anchor;
use crate::bundle::{self, ANCHORS_MAX, BundleError};
use crate::lineage;
use crate::rollover::{self, RolloverError};

fn bundle_of(root: &Root, cas: &[&Ca], serial: u64) -> Bundle {
    Bundle {
        trust_domain: cas[0].domain.clone(),
        serial,
        anchors: cas.iter().map(|c| c.anchor.clone()).collect(),
        lineages: cas.iter().map(|c| lineage::issue(&root.key, &root.der, &c.anchor, now()).unwrap()).collect(),
    }
}

/// The whole way: prepare (both anchors), retire (the new one alone), and the next change vouched for by the new one.
///
/// Mutation seen to fail: `proven` giving `Ok` for any rollover certificate; `rollovers` not handed on in `accept_with`.
#[test]
fn an_anchor_follows_by_the_word_of_one_that_is_held() {
    let root = fleet_root();
    let [old, new, third, rogue] = ["east.mesh.example"; 4].map(ca);
    let take = |held: &Bundle, offered: &Bundle, rollovers: &[Vec<u8>]| {
        bundle::accept_with(Some(held), offered, rollovers, &root.der, now())
    };
    let held = bundle::accept(None, &bundle_of(&root, &[&old], 1), &root.der, now()).unwrap();
    let both = bundle_of(&root, &[&old, &new], 2);
    assert!(matches!(take(&held, &both, &[]), Err(BundleError::AnchorChanged { .. })), "lineage alone is not enough");
    let word = rollover::issue(&old.key, &old.anchor, &new.anchor, now()).unwrap();
    let held = take(&held, &both, &[word]).unwrap();
    let held = take(&held, &bundle_of(&root, &[&new], 3), &[]).unwrap();
    assert_eq!(held.anchors, std::slice::from_ref(&new.anchor));
    // The old key has retired: its word counts no more.
    let next = bundle_of(&root, &[&new, &third], 4);
    let by_old = rollover::issue(&old.key, &old.anchor, &third.anchor, now()).unwrap();
    let refused = take(&held, &next, std::slice::from_ref(&by_old)).unwrap_err();
    assert!(matches!(refused, BundleError::Rollover { source: RolloverError::NotByHeld(_), .. }), "{refused:?}");
    assert_eq!(refused.as_str(), "rollover");
    let by_new = rollover::issue(&new.key, &new.anchor, &third.anchor, now()).unwrap();
    take(&held, &next, &[by_old, by_new.clone()]).unwrap();
    // One word does not bring in two keys, nor another one than it is for.
    let two = bundle_of(&root, &[&new, &third, &rogue], 4);
    assert!(matches!(take(&held, &two, std::slice::from_ref(&by_new)), Err(BundleError::AnchorChanged { .. })));
    let other = bundle_of(&root, &[&rogue], 4);
    assert!(matches!(take(&held, &other, std::slice::from_ref(&by_new)), Err(BundleError::AnchorChanged { .. })));
    // A rollover takes the place of neither lineage nor serial.
    let unproved = Bundle { lineages: vec![by_new.clone(); 2], ..next.clone() };
    assert!(matches!(take(&held, &unproved, std::slice::from_ref(&by_new)), Err(BundleError::Lineage { .. })));
    let replayed = Bundle { serial: 2, ..next.clone() };
    assert!(matches!(take(&held, &replayed, std::slice::from_ref(&by_new)), Err(BundleError::Rollback { .. })));
    assert!(matches!(take(&held, &next, &vec![by_new; ANCHORS_MAX + 1]), Err(BundleError::Limit { .. })));
    assert!(matches!(take(&held, &next, &[vec![0; 9000]]), Err(BundleError::Limit { .. })));
}

/// An approval takes the place of the word of a held anchor, for that key alone, and of nothing else.
///
/// Mutations seen to fail: `words.approved` not asked; `||` for `&&` before it.
#[test]
fn an_approved_key_is_taken_and_no_other() {
    let root = fleet_root();
    let [old, new, rogue] = ["east.mesh.example"; 3].map(ca);
    let held = bundle::accept(None, &bundle_of(&root, &[&old], 1), &root.der, now()).unwrap();
    let changed = bundle_of(&root, &[&new], 2);
    let keys = bundle::new_keys(&held, &changed);
    let key = *keys.first().unwrap();
    assert_eq!((keys.len(), bundle::unhex(&bundle::hex(&key))), (1, Some(key)));
    assert_eq!(["", "zz", &"0".repeat(63), &"g".repeat(64), &"+1".repeat(32)].map(bundle::unhex), [None; 5]);
    let take = |offered: &Bundle| bundle::accept_approved(Some(&held), offered, &keys, &root.der, now());
    assert_eq!(take(&changed).unwrap(), changed);
    assert!(matches!(take(&bundle_of(&root, &[&rogue], 2)), Err(BundleError::AnchorChanged { .. })));
    assert!(matches!(take(&bundle_of(&root, &[&new, &rogue], 2)), Err(BundleError::AnchorChanged { .. })));
    assert!(matches!(take(&bundle_of(&root, &[&new], 1)), Err(BundleError::SameSerial { .. })));
    assert!(matches!(take(&bundle_of(&fleet_root(), &[&new], 2)), Err(BundleError::Lineage { .. })));
}

/// Mutation seen to fail: `Unproved::Ca` taken for another issuer's. (That held anchors are valid is asked twice: a
/// rollover ends with its issuer.)
#[test]
fn a_rollover_proves_one_change_and_nothing_else() {
    let [old, new] = ["east.mesh.example"; 2].map(ca);
    let west = ca("west.mesh.example");
    let word = rollover::issue(&old.key, &old.anchor, &new.anchor, now()).unwrap();
    let check = |word: &[u8], held: &Ca, at| rollover::verify(&new.anchor, word, [&held.anchor[..]], &new.domain, at);
    check(&word, &old, now()).unwrap();
    assert!(matches!(check(&word, &new, now()), Err(RolloverError::NotByHeld(_))), "nobody vouches for itself");
    assert!(matches!(check(&word, &west, now()), Err(RolloverError::NotByHeld(_))));
    assert!(matches!(check(&word, &old, now() + YEAR * 2), Err(RolloverError::Anchor { .. })));
    assert!(matches!(check(b"", &old, now()), Err(RolloverError::Malformed(_))));
    assert!(
        matches!(check(&new.anchor, &old, now()), Err(RolloverError::Ca(_))),
        "the new anchor is no word for itself"
    );
    let of_old = rollover::issue(&new.key, &new.anchor, &old.anchor, now()).unwrap();
    assert!(matches!(check(&of_old, &old, now()), Err(RolloverError::Key(_))));
    // An anchor that ended between the word and now: the new one lives on, and cannot be brought in any more.
    let short = anchor::self_signed(&old.key, &old.domain, now(), YEAR / 2).unwrap();
    let word_of_short = rollover::issue(&old.key, &short, &new.anchor, now()).unwrap();
    let late = rollover::verify(&new.anchor, &word_of_short, [&short[..]], &new.domain, now() + YEAR * 3 / 4);
    assert!(matches!(late, Err(RolloverError::NotByHeld(_))), "{late:?}");
    // Only for an anchor of its own trust domain, only by its own key.
    assert!(rollover::issue(&old.key, &old.anchor, &west.anchor, now()).is_err());
    assert!(rollover::issue(&new.key, &old.anchor, &new.anchor, now()).is_err());
    // It is no identity, and no anchor.
    assert!(matches!(verify(&trust(&[&old]), &word, now()), Err(SvidError::NotSpiffeId(_))));
    assert!(TrustStore::with([(old.domain, vec![word.into()])].into()).is_err());
}
