//! What is issued is what the templates say, and what is forged is refused.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use meshfed_model::bundle::Bundle;
use meshfed_model::identity::{SpiffeId, TrustDomain};
use meshfed_runtime::tls::{Role, SvidError, TrustStore, verify_svid};
use rustls_pki_types::{CertificateDer, UnixTime};

use crate::bundle::{self, BundleError};
use crate::keys::SigningKey;
use crate::lineage::{self, LineageError};
use crate::token::Token;
use crate::{anchor, csr, root, svid};

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
const HOUR: Duration = Duration::from_secs(3600);

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn domain(name: &str) -> TrustDomain {
    TrustDomain::new(name).unwrap()
}

struct Ca {
    key: SigningKey,
    anchor: Vec<u8>,
    domain: TrustDomain,
}

fn ca(name: &str) -> Ca {
    let (key, domain) = (SigningKey::generate().unwrap(), domain(name));
    let anchor = anchor::self_signed(&key, &domain, now(), YEAR).unwrap();
    Ca { key, anchor, domain }
}

fn trust(cas: &[&Ca]) -> TrustStore {
    TrustStore::with(cas.iter().map(|c| (c.domain.clone(), vec![c.anchor.clone().into()])).collect()).unwrap()
}

fn verify(store: &TrustStore, leaf: &[u8], at: SystemTime) -> Result<SpiffeId, SvidError> {
    let at = UnixTime::since_unix_epoch(at.duration_since(UNIX_EPOCH).unwrap());
    verify_svid(&store.snapshot(), &CertificateDer::from(leaf), &[], Role::Client, at)
}

/// Mutation seen to fail: `params.extended_key_usages` left empty in `svid::issue`.
#[test]
fn an_svid_verifies_under_its_own_anchor_alone() {
    let (east, west) = (ca("east.mesh.example"), ca("west.mesh.example"));
    let id: SpiffeId = "spiffe://east.mesh.example/ns/shop/sa/b".parse().unwrap();
    let subject = SigningKey::generate().unwrap();
    let leaf = svid::issue(&east.key, &east.anchor, &id, subject.public_key_der(), HOUR, now()).unwrap();
    assert_eq!(verify(&trust(&[&east, &west]), &leaf, now()).unwrap(), id);
    assert!(matches!(verify(&trust(&[&west]), &leaf, now()), Err(SvidError::UnknownTrustDomain { .. })));
    assert!(matches!(verify(&trust(&[&east]), &leaf, now() + HOUR * 2), Err(SvidError::Expired { .. })));
    assert!(matches!(
        verify(&trust(&[&east]), &leaf, now() - HOUR),
        Err(SvidError::NotYetValid { .. } | SvidError::NoValidAnchor { .. })
    ));
    // East's key under the name of west's domain: an anchor that east made itself, held by nobody.
    let forged = anchor::self_signed(&east.key, &west.domain, now(), YEAR).unwrap();
    let stolen: SpiffeId = "spiffe://west.mesh.example/ns/shop/sa/a".parse().unwrap();
    let leaf = svid::issue(&east.key, &forged, &stolen, subject.public_key_der(), HOUR, now()).unwrap();
    assert!(matches!(verify(&trust(&[&east, &west]), &leaf, now()), Err(SvidError::BadChain { .. })));
    assert!(svid::issue(&east.key, &east.anchor, &stolen, subject.public_key_der(), HOUR, now()).is_err());
    assert!(svid::issue(&west.key, &east.anchor, &id, subject.public_key_der(), HOUR, now()).is_err());
    assert!(svid::issue(&east.key, &east.anchor, &id, subject.public_key_der(), HOUR * 25, now()).is_err());
}

/// Mutation seen to fail: `lineage::verify` without the check of the key.
#[test]
fn lineage_binds_domain_and_key() {
    let fleet = domain("mesh.example");
    let root_key = SigningKey::generate().unwrap();
    let root_der = root::create(&root_key, &fleet, now(), YEAR * 10).unwrap();
    let (east, west) = (ca("east.mesh.example"), ca("west.mesh.example"));
    let proof = lineage::issue(&root_key, &root_der, &east.anchor, now()).unwrap();
    lineage::verify(&east.anchor, &proof, &root_der, &east.domain, now()).unwrap();
    let check = |anchor: &[u8], domain: &TrustDomain| lineage::verify(anchor, &proof, &root_der, domain, now());
    assert!(matches!(check(&west.anchor, &west.domain), Err(LineageError::TrustDomain { .. })));
    assert!(matches!(check(&east.anchor, &west.domain), Err(LineageError::TrustDomain { .. })));
    let other_key = ca("east.mesh.example");
    assert_eq!(check(&other_key.anchor, &east.domain), Err(LineageError::OtherKey));
    let other_root = root::create(&SigningKey::generate().unwrap(), &fleet, now(), YEAR).unwrap();
    let result = lineage::verify(&east.anchor, &proof, &other_root, &east.domain, now());
    assert_eq!(result, Err(LineageError::NotByRoot));
    // Nothing verifies a handshake through a lineage certificate, and it signs nothing.
    assert!(TrustStore::with([(east.domain.clone(), vec![proof.clone().into()])].into()).is_err());
    let id: SpiffeId = "spiffe://east.mesh.example/ns/shop/sa/b".parse().unwrap();
    assert!(matches!(verify(&trust(&[&east]), &proof, now()), Err(SvidError::NotSpiffeId(_))), "{id}");
}

/// Mutation seen to fail: `offered.serial < held.serial`.
#[test]
fn bundles_grow_and_keep_their_anchor() {
    let root_key = SigningKey::generate().unwrap();
    let root_der = root::create(&root_key, &domain("mesh.example"), now(), YEAR * 10).unwrap();
    let bundle = |ca: &Ca, serial| Bundle {
        trust_domain: ca.domain.clone(),
        serial,
        anchors: vec![ca.anchor.clone()],
        lineages: vec![lineage::issue(&root_key, &root_der, &ca.anchor, now()).unwrap()],
    };
    let east = ca("east.mesh.example");
    let first = bundle::accept(None, &bundle(&east, 3), &root_der, now()).unwrap();
    assert_eq!(bundle::accept(Some(&first), &first, &root_der, now()).unwrap(), first);
    for serial in [2, 3] {
        let result = bundle::accept(Some(&first), &bundle(&east, serial), &root_der, now());
        assert!(matches!(result, Err(BundleError::Serial { .. })), "{serial}");
    }
    assert!(bundle::accept(Some(&first), &bundle(&east, 4), &root_der, now()).is_ok());
    let result = bundle::accept(Some(&first), &bundle(&ca("east.mesh.example"), 4), &root_der, now());
    assert!(matches!(result, Err(BundleError::AnchorChanged { .. })));
    let mut unproved = bundle(&east, 4);
    unproved.lineages.clear();
    assert!(matches!(bundle::accept(None, &unproved, &root_der, now()), Err(BundleError::Count { .. })));
}

/// Mutation seen to fail: the proof of possession is not checked.
#[test]
fn requests_bring_a_key_and_its_proof() {
    let key = SigningKey::generate().unwrap();
    let request = csr::create(&key).unwrap();
    assert_eq!(csr::verify(&request).unwrap().spki_der(), key.public_key_der());
    let mut broken = request.clone();
    *broken.last_mut().unwrap() ^= 1;
    assert!(csr::verify(&broken).is_err());
    assert_eq!(csr::verify(&request[1..]), Err(csr::CsrError::Form));
    assert!(matches!(csr::verify(&vec![0x30; 17_000]), Err(csr::CsrError::TooLarge { actual: 17_000 })));
}

/// Mutation seen to fail: `is_id` takes upper-case letters.
#[test]
fn tokens_have_one_form() {
    let token = Token::generate([7; 32]).unwrap();
    let text = token.reveal();
    let parsed: Token = text.parse().unwrap();
    assert_eq!((parsed.id(), parsed.pin(), parsed.secret_hash()), (token.id(), &[7; 32], token.secret_hash()));
    assert_eq!(crate::token::hash_of_secret_text(&token.secret_text()), Some(token.secret_hash()));
    assert!(!format!("{token:?}").contains(token.secret_text().as_str()));
    let parts: Vec<&str> = text.split('.').collect();
    let [prefix, id, secret, pin] = parts.as_slice() else { panic!("{text:?}") };
    assert_eq!((*prefix, id.len(), secret.len(), pin.len()), ("mf1", 10, 43, 43));
    for bad in [
        format!("mf2.{id}.{secret}.{pin}"),
        format!("mf1.{}.{secret}.{pin}", id.to_uppercase().replace(|c: char| c.is_ascii_digit(), "A")),
        format!("mf1.{id}.{secret}"),
        format!("mf1.{id}.{secret}.{pin}."),
        format!("mf1.{id}.{secret}=.{pin}"),
        format!("mf1.{id}x.{secret}.{pin}"),
        format!(" {}", *text),
    ] {
        assert!(bad.parse::<Token>().is_err(), "{bad}");
    }
}
