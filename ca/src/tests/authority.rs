//! Anchors, roots, lineage, bundles, keys.

use meshfed_model::bundle::Bundle;
use meshfed_runtime::tls::{SvidError, TrustStore};

use super::{Ca, YEAR, ca, domain, now, trust, verify};
use crate::anchor::{self, AnchorError};
use crate::bundle::{self, BundleError};
use crate::keys::{self, KeyError, SigningKey};
use crate::lineage::{self, LineageError};
use crate::{pem, root};

pub(super) struct Root {
    pub(super) key: SigningKey,
    pub(super) der: Vec<u8>,
}

pub(super) fn fleet_root() -> Root {
    let key = SigningKey::generate().unwrap();
    let der = root::create(&key, &domain("mesh.example"), now(), YEAR * 10).unwrap();
    Root { key, der }
}

/// Mutation seen to fail: `lineage::verify` without the check of the key; with the root's own certificate for `root`.
#[test]
fn lineage_binds_domain_and_key() {
    let root = fleet_root();
    let (east, west) = (ca("east.mesh.example"), ca("west.mesh.example"));
    let proof = lineage::issue(&root.key, &root.der, &east.anchor, now()).unwrap();
    let check = |anchor: &[u8], ca: &Ca| lineage::verify(anchor, &proof, &root.der, &ca.domain, now());
    check(&east.anchor, &east).unwrap();
    assert!(matches!(check(&west.anchor, &west), Err(LineageError::Key(_))));
    assert!(matches!(check(&east.anchor, &west), Err(LineageError::Anchor { .. })));
    assert!(matches!(check(&ca("east.mesh.example").anchor, &east), Err(LineageError::Key(_))));
    // East makes an anchor that says it is west: the root's word is for east, so the subject differs.
    let stolen = anchor::self_signed(&east.key, &west.domain, now(), YEAR).unwrap();
    assert!(matches!(check(&stolen, &west), Err(LineageError::Key(_))));
    let other = fleet_root();
    let result = lineage::verify(&east.anchor, &proof, &other.der, &east.domain, now());
    assert!(matches!(result, Err(LineageError::Root { .. })));
    let late = lineage::verify(&east.anchor, &proof, &root.der, &east.domain, now() + YEAR * 2);
    assert!(matches!(late, Err(LineageError::Anchor { source: AnchorError::Expired, .. })));
    assert!(matches!(
        lineage::verify(&east.anchor, &east.anchor, &root.der, &east.domain, now()),
        Err(LineageError::Ca(_))
    ));
    // Nothing verifies a handshake through a lineage certificate, and it is no SVID.
    assert!(TrustStore::with([(east.domain.clone(), vec![proof.clone().into()])].into()).is_err());
    assert!(matches!(verify(&trust(&[&east]), &proof, now()), Err(SvidError::NotSpiffeId(_))));
    // Only an anchor gets lineage: neither a root, nor a lineage certificate.
    assert!(lineage::issue(&root.key, &root.der, &proof, now()).is_err());
    assert!(lineage::issue(&root.key, &root.der, &root.der, now()).is_err());
    assert!(lineage::issue(&east.key, &root.der, &east.anchor, now()).is_err());
}

/// Mutation seen to fail: `anchor::verify` without `is_self_signed`.
#[test]
fn an_anchor_is_self_signed_and_names_its_domain() {
    let (east, west) = (ca("east.mesh.example"), ca("west.mesh.example"));
    anchor::verify(&east.anchor, &east.domain, now()).unwrap();
    let check = |der: &[u8], at| anchor::verify(der, &east.domain, at);
    assert!(matches!(check(&west.anchor, now()), Err(AnchorError::TrustDomain { .. })));
    assert_eq!(check(&east.anchor, now() + YEAR * 2), Err(AnchorError::Expired));
    assert_eq!(check(&east.anchor, now() - YEAR), Err(AnchorError::Expired));
    assert_eq!(check(b"", now()), Err(AnchorError::Malformed));
    assert_eq!(check(&[&east.anchor[..], &[0]].concat(), now()), Err(AnchorError::Malformed));
    let mut broken = east.anchor.clone();
    *broken.last_mut().unwrap() ^= 1;
    assert_eq!(check(&broken, now()), Err(AnchorError::NotSelfSigned));
    let root = fleet_root();
    assert!(root::verify(&root.der) && !root::verify(&broken));
    assert!(matches!(check(&root.der, now()), Err(AnchorError::TrustDomain { .. })), "a root is no anchor");
}

/// Mutation seen to fail: `offered.serial <= held.serial` without the comparison of content; no check of known keys.
#[test]
fn bundles_rise_and_keep_their_keys() {
    let root = fleet_root();
    let bundle = |ca: &Ca, serial| Bundle {
        trust_domain: ca.domain.clone(),
        serial,
        anchors: vec![ca.anchor.clone()],
        lineages: vec![lineage::issue(&root.key, &root.der, &ca.anchor, now()).unwrap()],
    };
    let take = |held: Option<&Bundle>, offered: &Bundle| bundle::accept(held, offered, &root.der, now());
    let east = ca("east.mesh.example");
    let first = take(None, &bundle(&east, 3)).unwrap();
    assert_eq!(take(Some(&first), &first).unwrap(), first);
    // The same anchor with a new proof, and the serial of the old one: another content.
    assert!(matches!(take(Some(&first), &bundle(&east, 3)), Err(BundleError::SameSerial { .. })));
    assert!(matches!(take(Some(&first), &bundle(&east, 2)), Err(BundleError::Rollback { held: 3, offered: 2, .. })));
    assert_eq!(take(Some(&first), &bundle(&east, 4)).unwrap().serial, 4);
    let changed = take(Some(&first), &bundle(&ca("east.mesh.example"), 4)).unwrap_err();
    assert!(matches!(changed, BundleError::AnchorChanged { .. }));
    assert!(changed.to_string().contains("meshfed trust approve east.mesh.example --sha256 "), "{changed}");
    let renewed = anchor::self_signed(&east.key, &east.domain, now(), YEAR * 2).unwrap();
    assert!(take(Some(&first), &bundle(&Ca { anchor: renewed, ..east }, 4)).is_ok(), "a renewal over the same key");

    let west = bundle(&ca("west.mesh.example"), 9);
    assert!(matches!(take(Some(&first), &west), Err(BundleError::OtherDomain { .. })));
    assert!(matches!(take(None, &Bundle { lineages: vec![], ..west.clone() }), Err(BundleError::Count { .. })));
    let empty = Bundle { anchors: vec![], lineages: vec![], ..west.clone() };
    assert!(matches!(take(None, &empty), Err(BundleError::Empty(_))));
    let many = Bundle { anchors: vec![vec![1]; 9], lineages: vec![vec![1]; 9], ..west.clone() };
    assert!(matches!(take(None, &many), Err(BundleError::Limit { .. })));
    let large = Bundle { anchors: vec![vec![0; 9000]], lineages: vec![vec![0; 1]], ..west.clone() };
    assert!(matches!(take(None, &large), Err(BundleError::Limit { .. })));
    // The hub cannot give west's domain to a key of its own: it has no root's word for it.
    let rogue = ca("west.mesh.example");
    let forged = Bundle { anchors: vec![rogue.anchor], ..west.clone() };
    assert!(matches!(take(None, &forged), Err(BundleError::Lineage { index: 0, .. })));
    assert!(bundle::accept(None, &west, &fleet_root().der, now()).is_err());
}

/// Mutation seen to fail: `encode` with lines of 60 characters (OpenSSL reads them, the text differs from RFC 7468).
#[test]
fn keys_survive_their_files() {
    let key = SigningKey::generate().unwrap();
    let text = key.to_pkcs8_pem();
    let again = SigningKey::from_pkcs8_pem(&text).unwrap();
    assert_eq!(again.public_key_der(), key.public_key_der());
    assert!(text.lines().all(|l| l.len() <= 64) && text.lines().nth(1).unwrap().len() == 64);
    let signature = key.sign(b"nonce").unwrap();
    assert!(keys::verify_signature(key.public_key_der(), b"nonce", &signature));
    assert!(!keys::verify_signature(key.public_key_der(), b"other", &signature));
    assert!(!keys::verify_signature(SigningKey::generate().unwrap().public_key_der(), b"nonce", &signature));
    assert!(!keys::verify_signature(b"", b"nonce", &signature));
    assert_eq!(SigningKey::from_pkcs8_pem("hello").err(), Some(KeyError::Pem));
    let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap().serialize_pem();
    assert_eq!(SigningKey::from_pkcs8_pem(&p384).err(), Some(KeyError::NotP256));
    assert!(!format!("{key:?}").contains("pkcs8"));
    let certificates = pem::encode_certificates([&[1u8, 2, 3][..], &[4; 100][..]]);
    assert_eq!(pem::certificates(&certificates).unwrap()[1].as_ref(), &[4; 100]);
    assert_eq!(pem::certificates("").err(), Some(pem::PemError::Empty));
    assert_eq!(pem::certificates(&certificates.repeat(33)).err(), Some(pem::PemError::TooLarge));
    assert!(pem::certificates("-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n").is_err());
}
